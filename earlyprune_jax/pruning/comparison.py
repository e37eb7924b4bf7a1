"""How alike two masks are, and the three ways to say how much is pruned."""

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from earlyprune_jax import validate
from earlyprune_jax.array_types import Mask
from earlyprune_jax.pruning import masks
from earlyprune_jax.pruning.trees import marked_leaves, refuse
from earlyprune_jax.validate import expected, unexpected


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Intersection over union (Jaccard index) of what two masks A and B keep, and of what they
    remove.

    Attributes:
        kept: |A and B| / |A or B|.
        removed: |not A and not B| / |not A or not B|.
        kept_per_leaf: path -> `kept` of that leaf alone.
        removed_per_leaf: path -> `removed` of that leaf alone.
    """

    kept: float
    removed: float
    kept_per_leaf: Mapping[str, float]
    removed_per_leaf: Mapping[str, float]


def overlap(first: Mask, second: Mask, prunable: Any = None) -> Overlap:
    """Measures the intersection over union of the weights two masks keep, and of those they remove.

    Both are in [0, 1]; 1 means the same set, two empty sets included. Two independent random
    masks of sparsity s have an expected `kept` of about (1 - s) / (1 + s) and `removed` of
    s / (2 - s): compare with that, not with 0. Leaves that cannot be pruned are kept by both and
    raise `kept`; `prunable` leaves them out.

    Args:
        first: bool leaves.
        second: bool leaves of the same structure and shapes.
        prunable: None for all leaves, or the structure of the masks with Python bools, from
            `select`.

    Raises:
        InvalidInput: the masks or `prunable` differ in structure, shape or type, by path.

    Example:
        >>> a = {"w": np.array([True, True, False, False])}
        >>> b = {"w": np.array([True, False, True, False])}
        >>> round(overlap(a, b).kept, 3), round(overlap(a, b).removed, 3)
        (0.333, 0.333)
    """
    counts = {
        name: np.array([np.sum(a & b), np.sum(a | b), np.sum(~a & ~b), np.sum(~a | ~b)])
        for name, a, b in _pairs(first, second, prunable)
    }
    total = sum(counts.values(), start=np.zeros(4, np.int64))
    return Overlap(
        kept=_ratio(total[0], total[1]),
        removed=_ratio(total[2], total[3]),
        kept_per_leaf={name: _ratio(count[0], count[1]) for name, count in counts.items()},
        removed_per_leaf={name: _ratio(count[2], count[3]) for name, count in counts.items()},
    )


def hamming(first: Mask, second: Mask, prunable: Any = None) -> float:
    """Measures the fraction of entries in which two masks differ: |A xor B| / n, in [0, 1].

    At equal sparsity s it is at most 2 min(s, 1 - s); two independent random masks have 2 s (1 -
    s).

    Args:
        first: bool leaves.
        second: bool leaves of the same structure and shapes.
        prunable: None to divide by all entries, or the structure of the masks with Python bools,
            from `select`, to count and divide by those of the marked leaves only.

    Raises:
        InvalidInput: as `overlap`; no entries to compare.

    Source: You et al. 2020, "Drawing Early-Bird Tickets", section 3.2 (mask distance).

    Example:
        >>> a = {"w": np.array([True, True, False, True])}
        >>> hamming(a, {"w": np.array([True, False, True, True])})
        0.5
    """
    pairs = _pairs(first, second, prunable)
    size = sum(a.size for _, a, _ in pairs)
    if not size:
        raise unexpected("masks", "no entries", "to have at least one to compare")
    return sum(int(np.sum(a ^ b)) for _, a, b in pairs) / size


def density(sparsity: float) -> float:
    """Returns the fraction kept: 1 - sparsity.

    Args:
        sparsity: fraction removed, in [0, 1].

    Raises:
        InvalidInput: outside that range.

    Example:
        >>> density(0.75)
        0.25
    """
    refuse(rate_problems("sparsity", sparsity, validate.within(0, 1)))
    return 1 - sparsity


def from_density(density: float) -> float:
    """Returns the sparsity at which a fraction of the weights is kept: 1 - density.

    Args:
        density: fraction kept, in [0, 1].

    Raises:
        InvalidInput: outside that range.

    Example:
        >>> from_density(0.25)
        0.75
    """
    refuse(rate_problems("density", density, validate.within(0, 1)))
    return 1 - density


def compression(sparsity: float) -> float:
    """Returns how many times fewer weights are left: 1 / (1 - sparsity).

    Counts weights, not bytes: a file also stores where they are (`encoded_bytes`).

    Args:
        sparsity: fraction removed, in [0, 1).

    Raises:
        InvalidInput: outside that range.

    Example:
        >>> compression(0.75)
        4.0
    """
    refuse(rate_problems("sparsity", sparsity, validate.within(0, 1, open_high=True)))
    return 1 / (1 - sparsity)


def from_compression(compression: float) -> float:
    """Returns the sparsity that leaves a given number of times fewer weights: 1 - 1 / compression.

    Args:
        compression: weights before over weights left, at least 1.

    Raises:
        InvalidInput: below 1, or not finite.

    Example:
        >>> from_compression(4)
        0.75
    """
    refuse(rate_problems("compression", compression, validate.within(1)))
    return 1 - 1 / compression


def _pairs(first: Mask, second: Mask, prunable: Any) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Lists (path, first's leaf, second's leaf) of the marked leaves, once all fit together."""
    masks.check(first, first)
    masks.check(second, first)
    prunable = jax.tree.map(lambda _: True, first) if prunable is None else prunable
    pairs = zip(marked_leaves(first, prunable), marked_leaves(second, prunable), strict=True)
    return [(name, np.asarray(a), np.asarray(b)) for (name, a), (_, b) in pairs]


def _ratio(part: int, whole: int) -> float:
    return int(part) / int(whole) if whole else 1.0


def rate_problems(thing: str, value: Any, check: validate.Check) -> list[str]:
    """Finds the problem of a number outside its range, or of what is no number.

    Args:
        thing: what the number is called.
        value: the number.
        check: its range.

    Returns:
        The problem, or nothing.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    allowed = check(value) if number else "to be a number"
    return [expected(thing, value, allowed)] if allowed else []
