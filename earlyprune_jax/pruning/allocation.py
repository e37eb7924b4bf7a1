"""How many weights each layer loses, and which: from scores and a sparsity to a mask.

Requested and removed counts are equal, exactly: `round(sparsity * n)` (Python's `round`,
as PyTorch's pruning counts), with equal scores broken by index.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Mask, Scores
from earlyprune_jax.pruning.trees import path_name
from earlyprune_jax.validate import InvalidInput, expected

SCOPES = ("global", "local")


def num_removed(sparsity: float, num_weights: int) -> int:
    """The exact number of weights removed from `num_weights`: round half to even.

    Example:
        >>> num_removed(0.8, 432)
        346
    """
    return round(sparsity * num_weights)


def keep_highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Marks all entries of a vector but the `count` lowest.

    Equal to removing the first `count` entries of a stable ascending sort, in O(n): among
    equal scores the lower index goes first.

    Args:
        scores: [n] float, without NaN.
        count: how many to remove, in [0, n].

    Returns:
        [n] bool, True = kept.

    Example:
        >>> keep_highest(np.array([3.0, 1.0, 1.0, 2.0]), 1).tolist()
        [True, False, True, True]
    """
    if count == 0:
        return np.ones(scores.shape, bool)
    threshold = np.partition(scores, count - 1)[count - 1]
    kept = scores >= threshold
    ties = np.flatnonzero(scores == threshold)
    kept[ties[: count - np.count_nonzero(~kept)]] = False
    return kept


def check_sparsity(sizes: dict[str, int], sparsity: float, scope: str) -> list[str]:
    """The problems of pruning layers of the given sizes (path -> weights) to a sparsity."""
    if not 0 <= sparsity < 1:
        return [expected("sparsity", sparsity, "in [0, 1)", "It is the fraction of the weights removed.")]
    groups = {"the whole network": sum(sizes.values())} if scope == "global" else sizes
    emptied = [
        f"{name} ({size} weights)" for name, size in groups.items() if num_removed(sparsity, size) == size
    ]
    if not emptied:
        return []
    remedy = f"It would remove all of {', '.join(emptied)}. Lower it, or prune with scope global."
    return [expected("sparsity", sparsity, f"to leave a weight in every group of scope {scope}", remedy)]


def prunable_sizes(params: Any, prunable: Any) -> dict[str, int]:
    """Path -> number of weights of every prunable leaf; shapes are enough."""
    flags = jax.tree.leaves(prunable)
    leaves = jax.tree.leaves_with_path(params)
    return {
        path_name(path): int(np.prod(leaf.shape))
        for (path, leaf), take in zip(leaves, flags, strict=True)
        if take
    }


def allocate(scores: Scores, prunable: Any, *, sparsity: float, scope: str) -> Mask:
    """Turns scores into a mask that removes the lowest-scored prunable weights.

    `global` ranks all prunable weights together and removes round(sparsity * total);
    `local` removes round(sparsity * n) in each leaf by its own ranking. With `global` a
    single layer may lose all its weights, as in paper A.

    Args:
        scores: float leaves, higher = keep.
        prunable: the structure of `scores` with Python bools, from `selection.select`.
        sparsity: fraction of the prunable weights removed, in [0, 1).
        scope: `global` or `local`.

    Returns:
        The structure of `scores`, bool: True = kept; all True where not prunable.

    Raises:
        InvalidInput: sparsity outside [0, 1) or emptying a group, unknown scope, NaN scores.

    Example:
        >>> scores = {"a": jnp.array([1.0, 4.0]), "b": jnp.array([2.0, 3.0])}
        >>> mask = allocate(scores, {"a": True, "b": True}, sparsity=0.5, scope="global")
        >>> mask["a"].tolist(), mask["b"].tolist()
        ([False, True], [False, True])
    """
    _check_inputs(scores, prunable, sparsity, scope)
    leaves, treedef = jax.tree.flatten(scores)
    flags = jax.tree.leaves(prunable)
    chosen = [np.asarray(leaf) for leaf, take in zip(leaves, flags, strict=True) if take]
    if scope == "global":
        flat = np.concatenate([leaf.ravel() for leaf in chosen])
        kept = np.split(
            keep_highest(flat, num_removed(sparsity, flat.size)),
            np.cumsum([leaf.size for leaf in chosen])[:-1],
        )
    else:
        kept = [keep_highest(leaf.ravel(), num_removed(sparsity, leaf.size)) for leaf in chosen]
    shaped = iter([jnp.asarray(keep.reshape(leaf.shape)) for keep, leaf in zip(kept, chosen, strict=True)])
    return jax.tree.unflatten(
        treedef,
        [
            next(shaped) if take else jnp.ones(leaf.shape, bool)
            for leaf, take in zip(leaves, flags, strict=True)
        ],
    )


def _check_inputs(scores: Scores, prunable: Any, sparsity: float, scope: str) -> None:
    if scope not in SCOPES:
        raise InvalidInput([expected("scope", scope, f"to be one of {', '.join(SCOPES)}")])
    problems = check_sparsity(prunable_sizes(scores, prunable), sparsity, scope)
    for (path, leaf), take in zip(jax.tree.leaves_with_path(scores), jax.tree.leaves(prunable), strict=True):
        count = int(np.isnan(np.asarray(leaf)).sum()) if take else 0
        if count:
            problems.append(expected(f"scores at {path_name(path)}", f"{count} NaN", "without NaN"))
    if problems:
        raise InvalidInput(problems)
