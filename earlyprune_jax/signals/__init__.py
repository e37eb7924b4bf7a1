"""Signals measured along a trunk or between networks: arrays in, numbers out."""

from typing import Any

from earlyprune_jax.signals import fisher, gradient_norm, performance, spectral
from earlyprune_jax.signals import kl_uniform as kl
from earlyprune_jax.signals.connectivity import linear_mode_connectivity
from earlyprune_jax.signals.fisher import fisher_diagonal, fisher_trace
from earlyprune_jax.signals.kl_uniform import kl_uniform
from earlyprune_jax.signals.mask_distance import early_bird_distance, mask_distance
from earlyprune_jax.signals.signal import Network, ProbeSignal, WeightSignal
from earlyprune_jax.signals.similarity import disagreement, linear_cka, model_similarity
from earlyprune_jax.signals.spectral import random_distance
from earlyprune_jax.signals.weight_change import weight_change
from earlyprune_jax.spec import SignalSpec

__all__ = [
    "NAMES",
    "Network",
    "ProbeSignal",
    "WeightSignal",
    "build",
    "disagreement",
    "early_bird_distance",
    "fisher_diagonal",
    "fisher_trace",
    "kl_uniform",
    "linear_cka",
    "linear_mode_connectivity",
    "mask_distance",
    "model_similarity",
    "random_distance",
    "weight_change",
]

NAMES = ("fisher_trace", "kl_uniform", "random_distance", "gradient_norm", "performance")
"""Signals of one state, by the names configs use; those that compare epochs: `training.measurement`."""


def build(
    name: str, spec: SignalSpec, *, counted: Any, num_classes: int, num_examples: int
) -> ProbeSignal | WeightSignal:
    """A configured signal.

    Args:
        name: one of `NAMES`.
        spec: how tr(F) and random_distance are estimated.
        counted: params structure with Python bools: the leaves summed into `fisher_trace`.
        num_classes: C.
        num_examples: the most probe images there can be.
    """
    makers = {
        "fisher_trace": lambda: fisher.signal(
            estimator=spec.fisher_estimator,
            method=spec.fisher_method,
            counted=counted,
            num_classes=num_classes,
            num_examples=num_examples,
        ),
        "kl_uniform": kl.signal,
        "random_distance": lambda: spectral.signal(
            num_permutations=spec.num_permutations, min_eigenvalues=spec.min_eigenvalues
        ),
        "gradient_norm": gradient_norm.signal,
        "performance": performance.signal,
    }
    return makers[name]()
