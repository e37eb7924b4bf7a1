"""Scores that rank weights, higher = keep; pure functions, each with its source."""

# As in JAX: `x as x` says that x is for others.
from earlyprune_jax.pruning.scores.fisher import (
    empirical_fisher_diagonal as empirical_fisher_diagonal,
)
from earlyprune_jax.pruning.scores.fisher import fisher_diagonal as fisher_diagonal
from earlyprune_jax.pruning.scores.gradients import grasp as grasp
from earlyprune_jax.pruning.scores.gradients import mean_gradient as mean_gradient
from earlyprune_jax.pruning.scores.gradients import snip as snip
from earlyprune_jax.pruning.scores.gradients import taylor as taylor
from earlyprune_jax.pruning.scores.synaptic_flow import synflow as synflow
from earlyprune_jax.pruning.scores.synaptic_flow import synflow_mask as synflow_mask
from earlyprune_jax.pruning.scores.weights import magnitude as magnitude
from earlyprune_jax.pruning.scores.weights import magnitude_increase as magnitude_increase
from earlyprune_jax.pruning.scores.weights import movement as movement
from earlyprune_jax.pruning.scores.weights import obd as obd
from earlyprune_jax.pruning.scores.weights import random as random
from earlyprune_jax.pruning.scores.weights import wanda as wanda
from earlyprune_jax.pruning.scores.weights import zeros as zeros
