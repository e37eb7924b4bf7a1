"""Signals measured along a trunk or between networks: arrays in, numbers out."""

from collections.abc import Callable
from typing import Any

from earlyprune_jax.signals import fisher_squares, spectral
from earlyprune_jax.signals.connectivity import (
    LinearModeConnectivity,
    linear_mode_connectivity,
    reestimated_statistics,
)
from earlyprune_jax.signals.fisher import FisherTrace, fisher_diagonal, fisher_trace
from earlyprune_jax.signals.probe_signals import (
    gradient_norm,
    gradient_norm_signal,
    kl_uniform,
    kl_uniform_signal,
)
from earlyprune_jax.signals.signal import Network, ProbeSignal, WeightSignal
from earlyprune_jax.signals.similarity import (
    ModelSimilarity,
    PairwiseSimilarity,
    disagreement,
    linear_cka,
    model_similarity,
)
from earlyprune_jax.signals.spectral import RandomDistance, random_distance
from earlyprune_jax.signals.trajectories import (
    early_bird_distance,
    mask_distance,
    weight_change,
    weight_change_per_leaf,
)
from earlyprune_jax.spec import SignalSpec

__all__ = [
    "NAMES",
    "FisherTrace",
    "LinearModeConnectivity",
    "ModelSimilarity",
    "Network",
    "PairwiseSimilarity",
    "ProbeSignal",
    "RandomDistance",
    "WeightSignal",
    "build",
    "disagreement",
    "early_bird_distance",
    "fisher_diagonal",
    "fisher_trace",
    "gradient_norm",
    "kl_uniform",
    "linear_cka",
    "linear_mode_connectivity",
    "mask_distance",
    "model_similarity",
    "random_distance",
    "reestimated_statistics",
    "weight_change",
    "weight_change_per_leaf",
]

_MAKERS: dict[str, Callable[..., ProbeSignal | WeightSignal]] = {
    "fisher_trace": lambda spec, **sizes: fisher_squares.signal(
        estimator=spec.fisher_estimator, method=spec.fisher_method, **sizes
    ),
    "kl_uniform": lambda spec, **sizes: kl_uniform_signal(),
    "random_distance": lambda spec, **sizes: spectral.signal(
        num_permutations=spec.num_permutations, min_eigenvalues=spec.min_eigenvalues
    ),
    "gradient_norm": lambda spec, **sizes: gradient_norm_signal(),
}

NAMES = tuple(_MAKERS)
"""Signals of one state, by the names configs use; `training.measurement` adds those that compare
epochs, and the task's own metrics."""


def build(
    name: str, spec: SignalSpec, *, counted: Any, num_outputs: int, num_examples: int
) -> ProbeSignal | WeightSignal:
    """Makes a configured signal.

    Args:
        name: one of `NAMES`.
        spec: how tr(F) and random_distance are estimated.
        counted: params structure with Python bools: the leaves summed into `fisher_trace`.
        num_outputs: C, the number of log-probabilities.
        num_examples: the most probe examples there can be.

    Returns:
        The signal.
    """
    return _MAKERS[name](spec, counted=counted, num_classes=num_outputs, num_examples=num_examples)
