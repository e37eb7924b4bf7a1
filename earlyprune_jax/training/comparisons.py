"""How alike the replicates of a pruned cell are: one network, fine-tuned with several seeds.

Predictions come batch by batch from networks held side by side, so that [examples, classes] never
stands in memory at once.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from earlyprune_jax.signals import PairwiseSimilarity

COLUMNS: dict[str, tuple[str, ...]] = {
    "model_similarity": ("model_similarity", "model_similarity_standard_error"),
    "disagreement": ("disagreement",),
}
"""Measure -> its columns."""

NAMES = tuple(COLUMNS)
"""What `fork.comparisons` may hold; all of them need log-probabilities."""


def measure(names: Sequence[str], batches: Iterable[Sequence[np.ndarray]]) -> dict[str, Any]:
    """Measures networks on the same examples.

    Args:
        names: of `NAMES`.
        batches: for each batch of examples the networks' log-probabilities, [B, C] each, natural
            log.

    Returns:
        Column -> number, means over all pairs; and `num_examples`.

    Raises:
        InvalidInput: what is given are no log-probabilities: a network is not finite.

    Example:
        >>> same = np.log([[0.5, 0.5]])
        >>> measure(("model_similarity", "disagreement"), [[same, same]])["disagreement"]
        0.0
    """
    pairs = PairwiseSimilarity(given="log_probabilities")
    for batch in batches:
        pairs.add(*batch)
    measured = pairs.result()
    numbers = {
        "model_similarity": measured.divergence,
        "model_similarity_standard_error": measured.standard_error,
        "disagreement": pairs.disagreement,
    }
    chosen = {column: numbers[column] for name in names for column in COLUMNS[name]}
    return {"num_examples": pairs.num_examples, **chosen}
