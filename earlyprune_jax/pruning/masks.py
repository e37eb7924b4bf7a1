"""Boolean masks over parameter trees: True = kept, all True where nothing is prunable."""

import collections
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from earlyprune_jax.array_types import Mask, Params
from earlyprune_jax.pruning.trees import (
    is_weight,
    marked_leaves,
    named_leaves,
    refuse,
    structure_problems,
)
from earlyprune_jax.validate import expected, shortened, unexpected


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
    """`apply` on one leaf, to whose trailing axes the mask belongs; axes before them are extra."""
    if not is_weight(leaf):
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
        earlyprune_jax.validate.InvalidInput: Expected dtype of mask at w='float32' to be bool. ...
        Expected shape of mask at w=(2,) to be (3,), that of the leaf.
    """
    leaves = dict(named_leaves(tree))
    problems = []
    for name, keep in named_leaves(mask):
        if name in leaves:
            problems += _leaf_problems(name, keep, leaves[name])
    refuse([*structure_problems("mask", mask, tree), *shortened(problems)])


def _leaf_problems(name: str, keep: Any, leaf: Any) -> list[str]:
    problems = []
    dtype = keep.dtype if hasattr(keep, "dtype") else np.asarray(keep).dtype
    if dtype != np.bool_:
        remedy = (
            "Turn it into booleans, True = kept, e.g. by `!= 0`; the mask comes first, then the "
            "tree."
        )
        problems.append(expected(f"dtype of mask at {name}", str(dtype), "to be bool", remedy))
    if np.shape(keep) != np.shape(leaf):
        allowed = f"to be {np.shape(leaf)}, that of the leaf"
        problems.append(expected(f"shape of mask at {name}", np.shape(keep), allowed))
    return problems


def count_removed(mask: Mask) -> int:
    """Counts the entries that the whole mask removes."""
    return sum(int(np.size(leaf) - np.count_nonzero(leaf)) for leaf in jax.tree.leaves(mask))


def sparsity(mask: Mask, prunable: Any) -> float:
    """Measures the fraction of the prunable weights that the mask removes, in [0, 1).

    Args:
        mask: bool leaves.
        prunable: the structure of `mask` with Python bools, from `selection.select`.

    Raises:
        InvalidInput: nothing is prunable.

    Example:
        >>> mask = {"w": jnp.array([True, False]), "b": jnp.array([True])}
        >>> sparsity(mask, {"w": True, "b": False})
        0.5
    """
    chosen = [leaf for _, leaf in marked_leaves(mask, prunable)]
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
    under = _by_beginning(opt_state)

    def belongs(path: tuple[Any, ...], start: int) -> bool:
        ending = path[start:]
        if ending not in kept:
            return False
        # Numbers alone, of lists or of one bare array, say too little: there the whole subtree must
        # fit.
        return any(not isinstance(key, jax.tree_util.SequenceKey) for key in ending) or all(
            rest in kept and _ends_like(leaf, kept[rest]) for rest, leaf in under[path[:start]]
        )

    def masked(path: tuple[Any, ...], leaf: Any) -> Any:
        # The longest ending first: {"kernel": ..., "head": {"kernel": ...}} has two that fit.
        starts = (start for start in range(len(path) + 1) if belongs(path, start))
        keep = next((kept[path[start:]] for start in starts), None)
        return leaf if keep is None or not _ends_like(leaf, keep) else apply_leaf(keep, leaf)

    return jax.tree.map_with_path(masked, opt_state)


def _by_beginning(tree: Any) -> dict[tuple[Any, ...], list[tuple[tuple[Any, ...], Any]]]:
    """Maps every beginning of a path to what is below it: (rest of the path, leaf)."""
    below = collections.defaultdict(list)
    for path, leaf in jax.tree.leaves_with_path(tree):
        for start in range(len(path) + 1):
            below[path[:start]].append((path[start:], leaf))
    return below


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
