"""Signals measured along a trunk: state in, numbers out."""

from typing import Any

from earlyprune_jax.signals import fisher
from earlyprune_jax.signals import kl_uniform as kl
from earlyprune_jax.signals.kl_uniform import kl_uniform
from earlyprune_jax.signals.signal import Signal
from earlyprune_jax.spec import SignalSpec

__all__ = ["NAMES", "Signal", "build", "kl_uniform"]

NAMES = ("fisher_trace", "kl_uniform")


def build(spec: SignalSpec, *, counted: Any, num_classes: int) -> tuple[Signal, ...]:
    """The configured signals, in the order of `spec.names`.

    Args:
        spec: which signals, and how tr(F) is estimated.
        counted: params structure with Python bools: the leaves summed into `fisher_trace`.
        num_classes: C.
    """
    makers = {
        "fisher_trace": lambda: fisher.signal(
            estimator=spec.fisher_estimator,
            labels=spec.fisher_labels,
            counted=counted,
            num_classes=num_classes,
        ),
        "kl_uniform": kl.signal,
    }
    return tuple(makers[name]() for name in spec.names)
