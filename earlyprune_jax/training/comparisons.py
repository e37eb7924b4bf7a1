"""How alike the replicates of a pruned cell are: one network, fine-tuned with several seeds."""

import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from earlyprune_jax import signals


def _model_similarity(log_probs: Sequence[np.ndarray]) -> dict[str, float | None]:
    """Paper B, Eq. (1): mean Jensen-Shannon divergence over examples and pairs, nats."""
    measured = signals.model_similarity(*log_probs, given="log_probabilities")
    return {
        "model_similarity": measured.divergence,
        "model_similarity_standard_error": measured.standard_error,
    }


def _disagreement(log_probs: Sequence[np.ndarray]) -> dict[str, float | None]:
    """The fraction of examples that two networks put in different classes, mean over pairs."""
    pairs = itertools.combinations(log_probs, 2)
    return {"disagreement": statistics.fmean(signals.disagreement(*pair) for pair in pairs)}


MEASURES: dict[str, Callable[[Sequence[np.ndarray]], dict[str, float | None]]] = {
    "model_similarity": _model_similarity,
    "disagreement": _disagreement,
}
NAMES = tuple(MEASURES)
"""What `fork.comparisons` may hold."""


def measure(names: Sequence[str], log_probs: Sequence[np.ndarray]) -> dict[str, Any]:
    """The named measures of networks that have seen the same examples.

    Args:
        names: of `NAMES`.
        log_probs: two or more [N, C], natural log.

    Returns:
        Column -> number; means over all pairs.

    Raises:
        InvalidInput: what is given are no log-probabilities: a network is not finite.

    Example:
        >>> same = np.log([[0.5, 0.5]])
        >>> measure(("model_similarity", "disagreement"), [same, same])["disagreement"]
        0.0
    """
    numbers: dict[str, Any] = {}
    for name in names:
        numbers |= MEASURES[name](log_probs)
    return numbers
