"""Lines of text through a trained network, in a small fixed set of batch shapes."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from earlyprune_jax.array_types import Variables
from earlyprune_jax.data.vocabulary import END, UNKNOWN, Vocabulary
from earlyprune_jax.translation.task import Decode, decoded

SHORTEST = 16
"""Tokens of the narrowest batches; each further width is twice the one before."""
SIZES = (1, 10, 100)
"""Lines of a batch."""


class Translator:
    """Translates lines, and remembers which of them it could not take as they are.

    Args:
        decode: of `task.decoder`.
        variables: of the network.
        vocabularies: side, source and target, -> vocabulary.
        max_tokens: of a line, without its end; what is longer is cut.

    Attributes:
        num_lines: lines given so far; their numbers count from 1.
        cut: numbers of lines that were too long.
        unknown: numbers of lines with characters that the vocabulary has not seen.
    """

    def __init__(
        self,
        decode: Decode,
        variables: Variables,
        vocabularies: Mapping[str, Vocabulary],
        max_tokens: int,
    ):
        self._decode, self._variables, self._vocabularies = decode, variables, vocabularies
        self.max_tokens, self.num_lines = max_tokens, 0
        self.cut: list[int] = []
        self.unknown: list[int] = []

    def prepare(self) -> None:
        """Compiles the smallest batch, so that a first short line need not wait for it."""
        width = min(SHORTEST, self.max_tokens + 1)
        decoded(self._decode, self._variables, np.full((SIZES[0], width), END, np.int32), SIZES[0])

    def __call__(self, lines: Sequence[str]) -> list[str]:
        """Translates some lines; of those without a token the translation is empty."""
        ids, lengths = self._vocabularies["source"].encode(lines, self.max_tokens + 1)
        numbers = self.num_lines + 1 + np.arange(len(lines))
        self.num_lines += len(lines)
        self.cut += numbers[lengths > self.max_tokens].tolist()
        self.unknown += numbers[(ids == UNKNOWN).any(axis=1)].tolist()
        texts = [""] * len(lines)
        for rows, size, width in batches(lengths, self.max_tokens + 1):
            # Filled up with the same lines again.
            source = ids[np.resize(rows, size), :width].astype(np.int32)
            found = decoded(self._decode, self._variables, source, size)[: len(rows)]
            for row, text in zip(rows, self._vocabularies["target"].decode(found), strict=True):
                texts[row] = text
        return texts


def batches(lengths: np.ndarray, longest: int) -> Iterator[tuple[list[int], int, int]]:
    """Cuts lines into batches of few shapes, each of about equally long ones.

    Args:
        lengths: tokens of each line without its end, int [N]; what has none is in no batch.
        longest: columns of the widest batches, the end included.

    Yields:
        Numbers of lines, the lines that a batch has room for, and its columns.

    Example:
        >>> list(batches(np.array([40, 0, 3, 15]), 60))
        [([2, 3, 0], 10, 60)]
    """
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    # The shortest lines make the batch that is not full.
    bounds = [0, *range(len(order) % SIZES[-1] or SIZES[-1], len(order) + 1, SIZES[-1])]
    for start, stop in zip(bounds, bounds[1:], strict=False):
        rows, width = order[start:stop], SHORTEST
        while width < min(lengths[rows[-1]] + 1, longest):
            width *= 2
        size = next(size for size in SIZES if size >= len(rows))
        yield rows.tolist(), size, min(width, longest)
