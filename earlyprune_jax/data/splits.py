"""Seeded stratified splits: exact totals, every class within one image of its share."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def class_shares(class_counts: ArrayLike, fraction: float) -> np.ndarray:
    """How many images of each class make up `fraction` of all, by largest remainder.

    With N = sum(class_counts) and m = round(fraction * N), class c's quota is
    m * class_counts[c] / N. Every class gets its quota rounded down; the images still
    missing from m go one each to the classes with the largest remainders, ties to the
    lower class. Integer arithmetic throughout. `round` is Python's: halves go to the
    even number.

    Args:
        class_counts: images of each class, [C].
        fraction: in [0, 1].

    Returns:
        int64 [C], summing to round(fraction * N), each within 1 of its quota.

    Example:
        >>> class_shares([10, 10, 5], 0.3).tolist()
        [3, 3, 2]
    """
    counts = np.asarray(class_counts, np.int64)
    num_all = int(counts.sum())
    if num_all == 0:
        return np.zeros_like(counts)
    num_chosen = round(fraction * num_all)
    shares, remainders = np.divmod(num_chosen * counts, num_all)
    order = np.argsort(-remainders, kind="stable")
    shares[order[: num_chosen - shares.sum()]] += 1
    return shares


def stratified_split(
    labels: np.ndarray, fraction: float, seed: int | Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draws round(fraction * N) of N examples, each class by its share; the rest stay behind.

    Every example draws a 64-bit number from PCG64(seed); class c gives the examples with
    its `class_shares(...)[c]` smallest. NumPy promises the raw stream of a bit generator
    for good (not so the methods of `Generator`), so a split outlives NumPy's versions.

    A function of (labels, fraction, seed) only. The two parts are disjoint and cover
    everything.

    Args:
        labels: int [N], >= 0.
        fraction: of the examples to draw, in [0, 1].
        seed: one number >= 0, or several.

    Returns:
        (drawn, rest): ascending int64 index arrays of lengths round(fraction * N) and
        N - round(fraction * N).

    Example:
        >>> drawn, rest = stratified_split(np.array([0, 0, 1, 1, 0, 0, 1, 1]), 0.5, seed=0)
        >>> len(drawn), len(rest), np.intersect1d(drawn, rest).size
        (4, 4, 0)
    """
    labels = np.asarray(labels)
    shares = class_shares(np.bincount(labels), fraction)
    numbers = np.random.PCG64(seed).random_raw(len(labels))
    # Sorted by class, then by number: a class's rows are consecutive, best first.
    order = np.lexsort((numbers, labels))
    starts = np.searchsorted(labels[order], np.arange(len(shares)))
    rank_in_class = np.arange(len(labels)) - starts[labels[order]]
    is_drawn = np.zeros(len(labels), bool)
    is_drawn[order] = rank_in_class < shares[labels[order]]
    return np.flatnonzero(is_drawn), np.flatnonzero(~is_drawn)
