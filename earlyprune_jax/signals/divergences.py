"""The Jensen-Shannon divergence, on the host in float64: what two other signals are made of."""

from typing import Any

import numpy as np


def jensen_shannon(first: Any, second: Any, *, smallest_mean: float = 0.0) -> np.ndarray:
    """JSD(p, q) = KL(p || m) / 2 + KL(q || m) / 2 along the last axis, m = (p + q) / 2, in nats.

    0 if p = q, ln 2 if they share no outcome; 0 ln 0 = 0. Never negative, never above ln 2.

    Args:
        first: p [..., C], non-negative, summing to 1 along the last axis.
        second: q, of a shape that broadcasts with p's.
        smallest_mean: m is raised to this where it is smaller. Published code takes 1e-7, which
            changes the result by less than C times 4e-8.

    Returns:
        [...] float64.

    Source: Lin 1991, "Divergence measures based on the Shannon entropy".

    Example:
        >>> float(jensen_shannon([0.5, 0.5], [0.5, 0.5]))
        0.0
        >>> round(float(jensen_shannon([1.0, 0.0], [0.0, 1.0])), 6)
        0.693147
    """
    p, q = np.broadcast_arrays(np.asarray(first, np.float64), np.asarray(second, np.float64))
    mean = np.maximum((p + q) / 2, smallest_mean)
    divergence = (_relative_entropy_terms(p, mean) + _relative_entropy_terms(q, mean)).sum(-1) / 2
    # The terms are of both signs: rounding, and a raised mean, can push the sum past either end.
    return np.clip(divergence, 0, np.log(2))


def _relative_entropy_terms(p: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """p ln(p / mean), 0 where p is 0."""
    ratio = np.divide(p, mean, out=np.ones_like(p), where=p > 0)
    return p * np.log(ratio)
