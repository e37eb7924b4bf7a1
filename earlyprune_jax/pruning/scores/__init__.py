"""Scores that rank weights, higher = keep; pure functions, each with its source."""

from earlyprune_jax.pruning.scores.fisher import empirical_fisher_diagonal, fisher_diagonal
from earlyprune_jax.pruning.scores.gradients import grasp, mean_gradient, snip, taylor
from earlyprune_jax.pruning.scores.synaptic_flow import synflow, synflow_mask
from earlyprune_jax.pruning.scores.weights import (
    magnitude,
    magnitude_increase,
    movement,
    obd,
    random,
    wanda,
    zeros,
)

__all__ = [
    "empirical_fisher_diagonal",
    "fisher_diagonal",
    "grasp",
    "magnitude",
    "magnitude_increase",
    "mean_gradient",
    "movement",
    "obd",
    "random",
    "snip",
    "synflow",
    "synflow_mask",
    "taylor",
    "wanda",
    "zeros",
]
