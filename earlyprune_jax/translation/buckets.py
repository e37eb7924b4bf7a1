"""A small set of batch shapes for pairs of different lengths, so that a step compiles few times.

A batch of b pairs costs b max(S, T) tokens, with S and T the padded lengths of source and target;
that is what a budget of tokens counts. So the bucket of a pair follows from m = max(s, t) alone,
and buckets are intervals of m: a pair in the interval that ends at u costs u tokens, of which u - m
are padding. For a number of buckets, the ends that waste least are found exactly, by dynamic
programming over the different values of m; then the fewest buckets are taken that waste no more
than asked. A bucket has at least one full batch: else its pairs would never be trained on.

Source: the partition of sorted values into k intervals of least cost, e.g. Fisher, "On grouping for
maximum homogeneity" (1958).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from earlyprune_jax.validate import unexpected


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The shape of a bucket's training batches.

    Attributes:
        source: padded length S, in tokens.
        target: padded length T.
        batch_size: pairs.
    """

    source: int
    target: int
    batch_size: int


def choose(
    lengths: np.ndarray,
    num_tokens: int,
    *,
    max_waste: float = 0.15,
    longest: tuple[int, int] = (0, 0),
) -> tuple[Bucket, ...]:
    """Chooses the fewest buckets whose padding wastes at most a part of the tokens.

    Where no number of buckets does, those that waste least are taken.

    Args:
        lengths: of source and target of the training pairs, int [N, 2], above 0.
        num_tokens: budget of a batch, counted as b max(S, T). A pair that is longer is a batch of
            its own; and where all pairs together are less than a batch, they are one.
        max_waste: part of the tokens that may be padding, in [0, 1).
        longest: lengths that the last bucket holds too, for pairs that are only evaluated.

    Returns:
        Buckets with ascending lengths; each holds all that the one before it holds.

    Raises:
        InvalidInput: there are no pairs.

    Example:
        >>> lengths = np.array([[3, 4]] * 50 + [[4, 4]] * 50 + [[9, 7]] * 20)
        >>> choose(lengths, 40)
        (Bucket(source=4, target=4, batch_size=10), Bucket(source=9, target=7, batch_size=4))
        >>> choose(lengths, 40, max_waste=0.5)
        (Bucket(source=9, target=7, batch_size=4),)
    """
    if not len(lengths):
        raise unexpected("lengths", lengths.shape, "to be of at least one pair")
    sizes = lengths.max(axis=1)
    values, counts = np.unique(sizes, return_counts=True)
    values[-1] = max(values[-1], *longest)
    ends = _ends(values, counts, num_tokens, sizes.sum() / (1 - max_waste))
    places = np.searchsorted(ends, sizes)
    shapes = np.array([lengths[places == place].max(axis=0) for place in range(len(ends))])
    shapes = np.maximum.accumulate(shapes)
    shapes[-1] = np.maximum(shapes[-1], longest)
    sizes_of = zip(shapes.tolist(), ends, np.bincount(places).tolist(), strict=True)
    return tuple(
        Bucket(source, target, min(max(num_tokens // end, 1), num))
        for (source, target), end, num in sizes_of
    )


def _ends(
    values: np.ndarray, counts: np.ndarray, num_tokens: int, enough: float
) -> tuple[int, ...]:
    """Finds the fewest intervals of values that cost little enough, or those that cost least.

    Args:
        values: of m, ascending, int [n].
        counts: pairs of each, int [n].
        num_tokens: budget of a batch.
        enough: tokens that may be spent in all.

    Returns:
        The last value of every interval, ascending.
    """
    below = np.concatenate([[0], np.cumsum(counts)])
    held = below[1:] - below[:-1, None]  # [first, last]: pairs of an interval
    is_full = held >= np.maximum(num_tokens // values, 1)
    costs = np.where(is_full, held * values, np.inf)
    costs[0, -1] = held[0, -1] * values[-1]  # one bucket is always possible
    # [last]: the least cost of all values up to that one, and the ends that give it.
    least, ends = costs[0], [(value,) for value in values.tolist()]
    found = (least[-1], ends[-1])
    for _ in values[1:]:
        if found[0] <= enough:
            break
        totals = least[:-1, None] + costs[1:]  # one interval more: up to `first - 1`, and the rest
        cuts = totals.argmin(axis=0).tolist()
        least = totals.min(axis=0)
        ends = [(*ends[cut], value) for cut, value in zip(cuts, values.tolist(), strict=True)]
        found = min(found, (least[-1], ends[-1]), key=lambda one: one[0])
    return found[1]


def assign(lengths: np.ndarray, buckets: Sequence[Bucket]) -> np.ndarray:
    """Finds the first bucket that holds each pair.

    Args:
        lengths: of source and target, int [N, 2].
        buckets: of `choose`.

    Returns:
        int64 [N], numbers of buckets.

    Raises:
        InvalidInput: a pair is longer than every bucket.

    Example:
        >>> assign(np.array([[2, 4], [5, 1]]), (Bucket(4, 4, 9), Bucket(9, 7, 4))).tolist()
        [0, 1]
    """
    shapes = _shapes(buckets)
    fits = np.all(lengths[:, None] <= shapes, axis=2)
    if len(too_long := lengths[~np.any(fits, axis=1)]):
        allowed = f"to be at most those of the last bucket, {shapes[-1].tolist()}"
        raise unexpected("lengths of a pair", too_long[0].tolist(), allowed)
    return fits.argmax(axis=1)


def waste(lengths: np.ndarray, buckets: Sequence[Bucket]) -> tuple[float, float]:
    """Computes which part of the tokens is padding.

    Args:
        lengths: of source and target, int [N, 2].
        buckets: of `choose`.

    Returns:
        Of tokens counted as max(source, target), which the budget is of; and as source + target.

    Example:
        >>> waste(np.array([[2, 4], [4, 3]]), [Bucket(4, 4, 2)])
        (0.0, 0.1875)
    """
    padded = _shapes(buckets)[assign(lengths, buckets)]
    of_max = 1 - lengths.max(axis=1).sum() / padded.max(axis=1).sum()
    return float(of_max), float(1 - lengths.sum() / padded.sum())


def _shapes(buckets: Sequence[Bucket]) -> np.ndarray:
    return np.array([(bucket.source, bucket.target) for bucket in buckets])
