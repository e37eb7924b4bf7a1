"""Signals measured along a trunk or between networks: arrays in, numbers out."""

from typing import Any

from earlyprune_jax.pruning.layouts import Layouts
from earlyprune_jax.signals import fisher_squares, spectral
from earlyprune_jax.signals.connectivity import LinearModeConnectivity as LinearModeConnectivity
from earlyprune_jax.signals.connectivity import linear_mode_connectivity as linear_mode_connectivity
from earlyprune_jax.signals.connectivity import reestimated_statistics as reestimated_statistics
from earlyprune_jax.signals.fisher import FisherTrace as FisherTrace
from earlyprune_jax.signals.fisher import fisher_trace as fisher_trace
from earlyprune_jax.signals.signal import Network as Network
from earlyprune_jax.signals.signal import ProbeSignal as ProbeSignal
from earlyprune_jax.signals.signal import WeightSignal as WeightSignal
from earlyprune_jax.signals.signal import gradient_norm as gradient_norm
from earlyprune_jax.signals.signal import gradient_norm_signal, kl_uniform_signal
from earlyprune_jax.signals.signal import kl_uniform as kl_uniform
from earlyprune_jax.signals.similarity import ModelSimilarity as ModelSimilarity
from earlyprune_jax.signals.similarity import PairwiseSimilarity as PairwiseSimilarity
from earlyprune_jax.signals.similarity import disagreement as disagreement
from earlyprune_jax.signals.similarity import linear_cka as linear_cka
from earlyprune_jax.signals.similarity import model_similarity as model_similarity
from earlyprune_jax.signals.spectral import RandomDistance as RandomDistance
from earlyprune_jax.signals.spectral import random_distance as random_distance
from earlyprune_jax.signals.trajectories import early_bird_distance as early_bird_distance
from earlyprune_jax.signals.trajectories import mask_distance as mask_distance
from earlyprune_jax.signals.trajectories import weight_change as weight_change
from earlyprune_jax.spec_sections import SignalSpec

NAMES = ("fisher_trace", "kl_uniform", "random_distance", "gradient_norm")
"""Signals of one state, by the names configs use; `training.measurement` adds those that compare
epochs, and the task's own metrics."""


def build(
    name: str,
    spec: SignalSpec,
    *,
    counted: Any,
    num_outputs: int,
    num_examples: int,
    layouts: Layouts | None = None,
) -> ProbeSignal | WeightSignal:
    """Makes a configured signal.

    Args:
        name: one of `NAMES`.
        spec: how tr(F) and random_distance are estimated.
        counted: params structure with Python bools: the leaves summed into `fisher_trace`.
        num_outputs: C, the number of log-probabilities.
        num_examples: the most probe examples there can be.
        layouts: as in `pruning.select`.

    Returns:
        The signal.
    """
    fisher_options = spec.fisher_estimator, spec.fisher_method
    makers = {
        "fisher_trace": lambda: fisher_squares.signal(
            *fisher_options, counted, num_outputs, num_examples
        ),
        "kl_uniform": kl_uniform_signal,
        "random_distance": lambda: spectral.signal(
            spec.num_permutations, spec.min_eigenvalues, layouts
        ),
        "gradient_norm": gradient_norm_signal,
    }
    return makers[name]()
