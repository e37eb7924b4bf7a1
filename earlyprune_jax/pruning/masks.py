"""Boolean masks over parameter trees: True = kept, all True where nothing is prunable.

Also: how alike two masks are, and the three ways to say how much is pruned.
"""

import collections
import dataclasses
import functools
import numbers
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from earlyprune_jax.array_types import Mask, Params
from earlyprune_jax.pruning import trees
from earlyprune_jax.validate import Check, expected, fraction, shortened, unexpected, within


def full(params: Params) -> Mask:
    """Makes the mask of an unpruned network: True everywhere.

    Example:
        >>> full({"kernel": jnp.zeros(2)})["kernel"].tolist()
        [True, True]
    """

    def all_true(leaf: Any) -> Any:
        # ones_like keeps the sharding of an array; shapes and other leaves have none.
        is_array = isinstance(leaf, jax.Array)
        return jnp.ones_like(leaf, bool) if is_array else jnp.ones(np.shape(leaf), bool)

    return jax.tree.map(all_true, params)


def apply(mask: Mask, tree: Any) -> Any:
    """Sets the entries of `tree` that the mask removes to exactly +0.0; kept entries are untouched.

    Args:
        mask: bool leaves, the structure and shapes of `tree`.
        tree: parameters, gradients or moments; leaves that are no floating-point arrays stay as
            they are.

    Raises:
        InvalidInput: the mask does not fit; every leaf that does not is named.

    Example:
        >>> apply({"w": jnp.array([True, False])}, {"w": jnp.array([2.0, jnp.inf])})["w"].tolist()
        [2.0, 0.0]
    """
    check(mask, tree)
    return jax.tree.map(apply_leaf, mask, tree)


def apply_leaf(keep: Any, leaf: Any) -> Any:
    """Applies a mask to one leaf: it belongs to the trailing axes, axes before them are extra."""
    if not trees.is_weight(leaf):
        return leaf
    if isinstance(leaf, np.ndarray) and not isinstance(keep, Tracer):
        # On the host, because JAX would round float64 unless told otherwise.
        return np.where(np.broadcast_to(keep, leaf.shape), leaf, np.zeros_like(leaf))
    # A product would turn a removed inf into nan and a removed -1 into -0.0.
    return jnp.where(jnp.broadcast_to(keep, leaf.shape), leaf, jnp.zeros_like(leaf))


def check(mask: Mask, tree: Any) -> None:
    """Makes sure that a mask fits a tree: the same containers, paths and shapes, bool throughout.

    Raises:
        InvalidInput: every leaf that differs, by its path.

    Example:
        >>> check({"w": jnp.ones(2)}, {"w": jnp.ones(3)})
        Traceback (most recent call last):
        ...
        earlyprune_jax.validate.InvalidInput: Expected shape of mask at w=(2,) to be (3,), ...
    """
    remedy = "Turn it into booleans, True = kept, e.g. by `!= 0`; the mask comes first."
    leaves = trees.named_leaves(mask)
    kinds = [(n, k.dtype if hasattr(k, "dtype") else np.asarray(k).dtype) for n, k in leaves]
    wrong = [
        expected(f"dtype of mask at {name}", str(dtype), "to be bool", remedy)
        for name, dtype in kinds
        if dtype != np.bool_
    ]
    problems = trees.tree_problems("params", tree) + trees.likeness_problems("mask", mask, tree)
    trees.refuse(problems + shortened(wrong))


def count_removed(mask: Mask) -> int:
    """Counts the entries that the whole mask removes."""
    return sum(int(np.size(leaf) - np.count_nonzero(leaf)) for leaf in jax.tree.leaves(mask))


def sparsity(mask: Mask, prunable: Any) -> float:
    """Measures the fraction of the prunable weights that the mask removes, in [0, 1).

    Args:
        mask: bool leaves.
        prunable: the structure of `mask` with Python bools, from `select`.

    Raises:
        InvalidInput: nothing is prunable.

    Example:
        >>> mask = {"w": jnp.array([True, False]), "b": jnp.array([True])}
        >>> sparsity(mask, {"w": True, "b": False})
        0.5
    """
    chosen = [leaf for _, leaf in trees.marked_leaves(mask, prunable)]
    num_weights = sum(int(np.size(leaf)) for leaf in chosen)
    if not num_weights:
        raise unexpected("prunable", "no weight", "to mark at least one")
    return count_removed(chosen) / num_weights


def moments(mask: Mask, opt_state: Any) -> Any:
    """Sets the removed weights' entries of every moment inside an Optax state to 0.

    A moment is a leaf whose path ends with a parameter's path and whose last axes are that
    parameter's: momentum, second moments, averages, accumulated gradients, L-BFGS histories, also
    inside `chain`, `masked`, `partition`, `MultiSteps` and `inject_hyperparams`. Statistics that
    several weights share, Adafactor's rows and columns, belong to no weight and are left alone; so
    is what `optax.flatten` or `split_real_and_imaginary` moved elsewhere.

    Args:
        mask: the structure of the params that the state was made for.
        opt_state: any Optax state.

    Example:
        >>> import optax
        >>> state = optax.sgd(0.1, momentum=0.9).init({"w": jnp.ones(2)})
        >>> state = jax.tree.map(jnp.ones_like, state)
        >>> moments({"w": jnp.array([True, False])}, state)[0].trace["w"].tolist()
        [1.0, 0.0]
    """
    check(mask, mask)
    kept = dict(jax.tree.leaves_with_path(mask))
    # Every beginning of a path -> what is below it: (rest of the path, leaf).
    below = collections.defaultdict(list)
    for path, leaf in jax.tree.leaves_with_path(opt_state):
        for start in range(len(path) + 1):
            below[path[:start]].append((path[start:], leaf))

    def belongs(path: tuple[Any, ...], start: int) -> bool:
        ending = path[start:]
        if ending not in kept:
            return False
        # Numbers alone, of lists or of one bare array, say too little: there the whole subtree must
        # fit.
        return any(not isinstance(key, jax.tree_util.SequenceKey) for key in ending) or all(
            rest in kept and _ends_like(leaf, kept[rest]) for rest, leaf in below[path[:start]]
        )

    def masked(path: tuple[Any, ...], leaf: Any) -> Any:
        # The longest ending first: {"kernel": ..., "head": {"kernel": ...}} has two that fit.
        starts = (start for start in range(len(path) + 1) if belongs(path, start))
        keep = next((kept[path[start:]] for start in starts), None)
        return leaf if keep is None or not _ends_like(leaf, keep) else apply_leaf(keep, leaf)

    return jax.tree.map_with_path(masked, opt_state)


def _ends_like(leaf: Any, keep: Any) -> bool:
    extra_axes = np.ndim(leaf) - np.ndim(keep)
    return extra_axes >= 0 and np.shape(leaf)[extra_axes:] == np.shape(keep)


def intersection(*masks: Mask) -> Mask:
    """Keeps what every mask keeps: for patterns or layers that were pruned one after another.

    Raises:
        InvalidInput: masks that do not fit the first.

    Example:
        >>> intersection(jnp.array([True, False]), jnp.array([True, True])).tolist()
        [True, False]
    """
    for other in masks:
        check(other, masks[0])
    return jax.tree.map(lambda *leaves: functools.reduce(jnp.logical_and, leaves), *masks)


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

    Returns:
        `kept` and `removed`, fractions.

    Raises:
        InvalidInput: the masks or `prunable` differ in structure, shape or type, by path.

    Example:
        >>> a = {"w": np.array([True, True, False, False])}
        >>> b = {"w": np.array([True, False, True, False])}
        >>> round(overlap(a, b).kept, 3), round(overlap(a, b).removed, 3)
        (0.333, 0.333)
    """
    counts = _counts(first, second, prunable)
    both, either, size = sum(counts.values(), start=np.zeros(3, np.int64))
    return Overlap(
        kept=_ratio(both, either),
        removed=_ratio(size - either, size - both),
        kept_per_leaf={name: _ratio(b, e) for name, (b, e, _) in counts.items()},
        removed_per_leaf={name: _ratio(n - e, n - b) for name, (b, e, n) in counts.items()},
    )


def hamming(first: Mask, second: Mask, prunable: Any = None) -> float:
    """Measures the fraction of entries in which two masks differ: |A xor B| / n, in [0, 1].

    Masks of any criterion, scope or pattern will do. At equal sparsity s it is at most
    2 min(s, 1 - s), at 95 % sparsity 0.1; two independent random masks have 2 s (1 - s) on average.
    One pass over the masks, on the host; making a mask costs more.

    Args:
        first: bool leaves.
        second: bool leaves of the same structure and shapes.
        prunable: None to divide by all entries, or the structure of the masks with Python bools,
            from `select`, to count and divide by those of the marked leaves only.

    Returns:
        The fraction.

    Raises:
        InvalidInput: as `overlap`; no entries to compare.

    Source: You et al. 2020, "Drawing Early-Bird Tickets", section 3.2 (mask distance).

    Example:
        >>> a = {"w": np.array([True, True, False, True])}
        >>> hamming(a, {"w": np.array([True, False, True, True])})
        0.5
    """
    counts = _counts(first, second, prunable).values()
    both, either, size = sum(counts, start=np.zeros(3, np.int64)).tolist()
    if not size:
        raise unexpected("masks", "no entries", "to have at least one to compare")
    return (either - both) / size


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
    return 1 - _checked("sparsity", sparsity, fraction())


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
    return 1 - _checked("density", density, fraction())


def compression(sparsity: float) -> float:
    """Returns how many times fewer weights are left: 1 / (1 - sparsity).

    Counts weights, not bytes: a file also stores where they are.

    Args:
        sparsity: fraction removed, in [0, 1).

    Raises:
        InvalidInput: outside that range.

    Example:
        >>> compression(0.75)
        4.0
    """
    return 1 / (1 - _checked("sparsity", sparsity, fraction(open_high=True)))


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
    return 1 - 1 / _checked("compression", compression, within(1))


def _counts(first: Mask, second: Mask, prunable: Any) -> dict[str, np.ndarray]:
    """Counts, by path of the marked leaves: kept by both, kept by either, all entries."""
    check(first, first)
    check(second, first)
    prunable = jax.tree.map(lambda _: True, first) if prunable is None else prunable
    counts = {}
    others = dict(trees.marked_leaves(second, prunable))
    for name, leaf in trees.marked_leaves(first, prunable):
        a, b = np.asarray(leaf), np.asarray(others[name])
        counts[name] = np.array([np.count_nonzero(a & b), np.count_nonzero(a | b), a.size])
    return counts


def _ratio(part: Any, whole: Any) -> float:
    return int(part) / int(whole) if whole else 1.0


def _checked(thing: str, value: Any, check: Check) -> Any:
    """Returns a number that lies in its range; refuses others, and what is no number."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if allowed := check(value) if number else "to be a number":
        raise unexpected(thing, value, allowed)
    return value
