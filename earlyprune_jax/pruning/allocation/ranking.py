"""Which weights are the lowest: exact counts, equal scores removed in the order of their index.

`keep_highest` works on the host with NumPy, `keep_highest_traced` inside jit, where the count may
be traced and the scores sharded. Both mark exactly the first `count` entries of a stable ascending
sort over all leaves together; a test holds them equal.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Array, accurate
from earlyprune_jax.validate import unexpected

_WORTH_SAMPLING = 2**18
# A prime: steps that divide the number of channels would sample few of them.
_SAMPLE_EVERY = 127


def keep_highest(scores: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """Marks all entries but the `count` lowest over several arrays, in O(n).

    Memory beyond the scores: the masks, and at most one copy of the scores, where they are few or
    many of them are equal.

    Args:
        scores: float arrays without NaN.
        count: how many to remove, in [0, n].

    Returns:
        Bool arrays of the same shapes, True = kept.

    Example:
        >>> scores = [np.array([3.0, 1.0]), np.array([1.0, 2.0])]
        >>> [kept.tolist() for kept in keep_highest(scores, 1)]
        [[True, False], [True, True]]
    """
    # In the order of the index, whatever the order in memory: a transposed array becomes a copy.
    flat = [leaf.reshape(-1) for leaf in scores]
    kept = _keep_by_sample(flat, count) or _keep_by_selection(flat, count)
    return [keep.reshape(leaf.shape) for keep, leaf in zip(kept, scores, strict=True)]


def _keep_by_selection(flat: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """Selects the threshold among all scores."""
    if count == 0:
        return [np.ones(leaf.size, bool) for leaf in flat]
    every = np.concatenate(flat)
    every.partition(count - 1)
    return _cut(flat, every[count - 1], count) or []


def _cut(flat: Sequence[np.ndarray], threshold: Any, count: int) -> list[np.ndarray] | None:
    """Removes what lies below the threshold and the first of what equals it; None if it is another
    one."""
    kept = [leaf >= threshold for leaf in flat]
    num_ties = count - sum(keep.size - int(np.count_nonzero(keep)) for keep in kept)
    if num_ties < 0:
        return None
    for keep, leaf in zip(kept, flat, strict=True):
        ties = leaf == threshold
        here = int(np.count_nonzero(ties)) if num_ties else 0
        if here <= num_ties:
            keep &= ~ties if here else True
        else:
            keep[np.flatnonzero(ties)[:num_ties]] = False
        num_ties -= min(here, num_ties)
    return kept if num_ties == 0 else None


def _keep_by_sample(flat: Sequence[np.ndarray], count: int) -> list[np.ndarray] | None:
    """Brackets the threshold by a sample, and selects it inside the bracket.

    None where there are few scores, or the bracket missed, or too many lie inside.
    """
    num_scores = sum(leaf.size for leaf in flat)
    if num_scores < _WORTH_SAMPLING:
        return None
    low, high = _bracket(flat, count / num_scores)
    if low == high:
        return _cut(flat, low, count)
    kept, places, between, room = [], [], [], num_scores // 8
    for leaf in flat:
        keep = leaf >= low
        inside = leaf <= high
        inside &= keep
        room -= int(np.count_nonzero(inside))
        if room < 0:
            return None
        kept.append(keep)
        places.append(np.flatnonzero(inside))
        between.append(leaf[places[-1]])
    count -= sum(keep.size - int(np.count_nonzero(keep)) for keep in kept)
    if not 0 <= count <= sum(place.size for place in places):
        return None
    for keep, place, fate in zip(kept, places, _keep_by_selection(between, count), strict=True):
        keep[place] = fate
    return kept


def _bracket(flat: Sequence[np.ndarray], share: float) -> tuple[Any, Any]:
    """Returns two scores around the quantile `share`; one chance in a million that they are not."""
    sample = np.concatenate([leaf[::_SAMPLE_EVERY] for leaf in flat])
    sample.sort()
    margin = 5 * math.sqrt(share * (1 - share) / sample.size)
    first = math.floor((share - margin) * sample.size) - 1
    last = math.ceil((share + margin) * sample.size) + 1
    return (
        sample[first] if first >= 0 else -np.inf,
        sample[last] if last < sample.size else np.inf,
    )


def keep_highest_traced(scores: Sequence[Array], count: Array) -> list[Array]:
    """Marks as `keep_highest` does, inside jit: bisects the bits of the scores for the threshold.

    Needs reductions only, no sort and no concatenation, so sharded leaves stay where they are.
    NaN cannot be refused here; it ranks above everything and is kept.

    Args:
        scores: float arrays.
        count: scalar integer, may be traced; how many to remove, in [0, n].

    Returns:
        Bool arrays of the same shapes, True = kept.

    Raises:
        InvalidInput: n of 2^31 or more while JAX has no 64-bit types to count them.

    Example:
        >>> scores = [jnp.array([3.0, 1.0]), jnp.array([1.0, 2.0])]
        >>> [kept.tolist() for kept in jax.jit(keep_highest_traced)(scores, 1)]
        [[True, False], [True, True]]
    """
    # Keys of one width, or their order would mean nothing between leaves.
    wide = jnp.result_type(jnp.float32, *scores)
    keys = [order_key(leaf.astype(wide)) for leaf in scores]
    num_bits = 8 * keys[0].dtype.itemsize
    whole = _count_type(sum(key.size for key in keys))
    count = jnp.asarray(count, whole)

    def decide(index, lower):
        one = jnp.ones((), keys[0].dtype)
        candidate = lower | (one << (num_bits - 1 - index).astype(one.dtype))
        num_below = sum(jnp.sum(key < candidate, dtype=whole) for key in keys)
        return jnp.where(num_below < count, candidate, lower)

    # The largest key that fewer than `count` keys lie below, bit by bit from the highest.
    threshold = jax.lax.fori_loop(0, num_bits, decide, jnp.zeros((), keys[0].dtype))
    num_ties = count - sum(jnp.sum(key < threshold, dtype=whole) for key in keys)
    kept = []
    for key in keys:
        tie = key == threshold
        number = jnp.cumsum(tie.reshape(-1), dtype=whole).reshape(key.shape)
        removed = (key < threshold) | (tie & (number <= num_ties))
        kept.append(~removed | (count == 0))
        num_ties = num_ties - jnp.sum(tie, dtype=whole)
    return kept


def _count_type(total: int) -> np.dtype:
    """Chooses the integers that count up to `total` inside jit; refuses what none can count.

    Example:
        >>> _count_type(2**31 - 1)
        dtype('int32')
        >>> _count_type(2**31)
        Traceback (most recent call last):
        ...
        earlyprune_jax.validate.InvalidInput: Expected scores in one ranking=2147483648 ...
    """
    most = np.iinfo(np.int32).max
    if total <= most:
        return np.dtype(np.int32)
    if jax.dtypes.canonicalize_dtype(np.int64) != np.int64:
        remedy = (
            "Rank fewer (scope local, uniform or erk; blocks), prune on the host "
            "(pruning.prune, then replace_mask), or set jax_enable_x64."
        )
        thing = "scores in one ranking"
        raise unexpected(thing, total, f"to be at most {most} inside jit", remedy)
    return np.dtype(np.int64)


def order_key(scores: Array) -> Array:
    """Makes unsigned integers in the order of the scores: -0 equals 0, NaN comes last."""
    # Integers, because XLA may flush subnormal numbers to 0 when it compares floats.
    wide = scores if scores.dtype == jnp.float64 else scores.astype(jnp.float32)
    unsigned = jnp.uint64 if wide.dtype == jnp.float64 else jnp.uint32
    bits = jax.lax.bitcast_convert_type(wide, unsigned)
    sign = jnp.asarray(1 << (8 * wide.dtype.itemsize - 1), unsigned)
    bits = jnp.where(bits == sign, jnp.zeros_like(bits), bits)
    key = jnp.where(bits & sign, ~bits, bits | sign)
    return jnp.where(jnp.isnan(wide), jnp.asarray(jnp.iinfo(unsigned).max, unsigned), key)


def lamp(scores: Array | np.ndarray, xp: Any = np) -> Any:
    """Rescales to layer-adaptive magnitudes: s_u^2 / (sum of s_v^2 over the layer's v >= u).

    A layer's highest weight has the value 1, so ranking these over all layers leaves every
    layer at least one. Accumulated in float64 on the host, float32 in jit. A score of -inf, a
    weight already removed, stays -inf.

    Args:
        scores: magnitudes of one layer, not negative.
        xp: `numpy`, or `jax.numpy` inside jit.

    Returns:
        The shape of `scores`, in (0, 1], or 0 where the score is 0.

    Source: Lee et al. 2021, "Layer-adaptive sparsity for the magnitude-based pruning", Eq. 5.

    Example:
        >>> lamp(np.array([1.0, 2.0, 0.0])).tolist()
        [0.2, 1.0, 0.0]
    """
    flat = scores.reshape(-1)
    if xp is not np:
        _count_type(flat.size)  # the order below holds counts too
    order = xp.argsort(flat, stable=True)
    ascending = flat[order].astype(np.float64 if xp is np else accurate(flat.dtype))
    # The formula is free of scale: relative to the highest no square overflows, and its own is 1.
    highest = xp.max(ascending, initial=0)
    below = ascending < highest
    relative = xp.where(below, xp.maximum(ascending, 0), highest > 0) / xp.where(
        below & (highest > 0), highest, 1
    )
    squares = relative**2
    at_or_above = xp.flip(xp.cumsum(xp.flip(squares)))
    values = xp.where(ascending < 0, -np.inf, squares / xp.where(at_or_above > 0, at_or_above, 1))
    # The order of the order puts them back where they came from.
    return values[xp.argsort(order)].reshape(scores.shape)
