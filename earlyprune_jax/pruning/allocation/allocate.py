"""From scores and a sparsity to a mask.

Requested and removed counts are equal, exactly: `round(sparsity * n)` (Python's `round`,
as PyTorch's pruning counts), with equal scores broken by index.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from earlyprune_jax.array_types import Mask, Scores
from earlyprune_jax.pruning.allocation.budgets import SCOPES, Sparsity
from earlyprune_jax.pruning.allocation.patterns import UNSTRUCTURED, Pattern, check_is_pattern
from earlyprune_jax.pruning.selection import Layers, check_layers
from earlyprune_jax.pruning.trees import named_leaves, repeated_paths, structure_problems
from earlyprune_jax.validate import InvalidInput, expected


class PruningWarning(UserWarning):
    """A mask that was asked for and made, but that its maker may not have meant."""


def prunable_shapes(params: Any, prunable: Any) -> dict[str, tuple[int, ...]]:
    """Path -> shape of every prunable leaf; shapes are enough.

    Example:
        >>> prunable_shapes({"a": np.zeros((2, 3)), "b": np.zeros(3)}, {"a": True, "b": False})
        {'a': (2, 3)}
    """
    flags = jax.tree.leaves(prunable)
    leaves = named_leaves(params)
    return {
        name: tuple(leaf.shape) for (name, leaf), take in zip(leaves, flags, strict=True) if take
    }


def allocate(
    scores: Scores,
    prunable: Any,
    *,
    sparsity: Sparsity,
    scope: str = "global",
    pattern: Pattern = UNSTRUCTURED,
    min_kept: int = 0,
) -> Mask:
    """Turns scores into a mask that removes the lowest-scored prunable weights.

    | scope | ranked | removed |
    | --- | --- | --- |
    | `global` | all layers together | round(sparsity * n) in all; a layer may lose all its weights |
    | `local` | each layer by itself | round(sparsity * n_l) in each layer l |
    | `uniform` | each layer by itself | round(sparsity * n) in all, of each layer the same fraction |
    | `erk` | each layer by itself | round(sparsity * n) in all, by `erk_densities` |
    | `lamp` | all together, by `lamp` of the scores | round(sparsity * n) in all; a layer of zeros may go |

    Runs on the host. Memory beyond the scores: at most one copy of them, and the mask.

    Args:
        scores: float leaves, higher = keep; leaves that are not prunable are not looked at.
        prunable: the structure of `scores` with Python bools, from `select`.
        sparsity: fraction of the prunable units removed, in [0, 1); or, with scope `local`, a
            mapping from regular expressions to such fractions: the first found in a leaf's path
            holds, and leaves that none matches keep everything.
        scope: as above.
        pattern: what a unit is: a weight (`UNSTRUCTURED`), `Blocks((4, 4))`, or `NM(2, 4)`.
        min_kept: units that every layer keeps at least. With `global` and `lamp` others go instead,
            with `uniform` and `erk` other layers lose more, with `local` less is refused.

    Returns:
        The structure of `scores`, bool: True = kept; all True where not prunable.

    Raises:
        InvalidInput: with every problem found: a sparsity outside [0, 1) or that would empty a
            layer where the scope does not allow it, NaN scores, nothing prunable, a pattern that
            does not fit a leaf.

    Warns:
        PruningWarning: a layer lost all its weights, or all its scores are equal, so that the index
            alone decides.

    Example:
        >>> scores = {"a": np.array([1.0, 4.0]), "b": np.array([2.0, 3.0])}
        >>> mask = allocate(scores, {"a": True, "b": True}, sparsity=0.5, scope="global")
        >>> mask["a"].tolist(), mask["b"].tolist()
        ([False, True], [False, True])
    """
    problems = _check_prunable(scores, prunable)
    if problems:
        raise InvalidInput(problems)
    shapes = prunable_shapes(scores, prunable)
    problems = check_allocation(shapes, sparsity, scope, pattern, min_kept)
    if problems:
        raise InvalidInput(problems)
    leaves, treedef = jax.tree.flatten(scores)
    flags = jax.tree.leaves(prunable)
    chosen = [_host_scores(leaf) for leaf, take in zip(leaves, flags, strict=True) if take]
    _check_scores(dict(zip(shapes, chosen, strict=True)), scope)
    counts = pattern.counts(shapes, sparsity, scope, min_kept)
    _warn_of_ties(dict(zip(shapes, chosen, strict=True)), counts, scope)
    kept = pattern.masks(chosen, counts, scope, min_kept, np)
    _warn_of_collapse(dict(zip(shapes, kept, strict=True)))
    made = iter(kept)
    every = [
        next(made) if take else np.ones(np.shape(leaf), bool)
        for leaf, take in zip(leaves, flags, strict=True)
    ]
    return jax.device_put(jax.tree.unflatten(treedef, every))


def check_choice(layers: Layers, pattern: Any) -> list[str]:
    """The problems of what may be pruned and what goes as a whole, before any network is known."""
    return ([] if callable(layers) else check_layers(layers)) + check_is_pattern(pattern)


def check_allocation(
    shapes: dict[str, tuple[int, ...]],
    sparsity: Sparsity,
    scope: str,
    pattern: Pattern,
    min_kept: int,
) -> list[str]:
    """The problems of pruning leaves of the given shapes (path -> shape), before any score is
    known."""
    if problems := check_is_pattern(pattern):
        return problems
    if not shapes:
        return [expected("prunable", "no leaf", "to mark at least one", "Choose other `layers`.")]
    return pattern.check(shapes, sparsity, scope, min_kept)


def _check_prunable(scores: Scores, prunable: Any) -> list[str]:
    """The problems of `prunable` as a choice among the leaves of `scores`."""
    remedy = "Make it with select from a tree of the structure of the scores."
    problems = structure_problems("prunable", prunable, scores) + repeated_paths(scores)
    problems += [
        expected(f"prunable at {name}", flag, "to be True or False", remedy)
        for name, flag in named_leaves(prunable)
        if not isinstance(flag, bool | np.bool_)
    ]
    return problems or [
        expected(f"scores at {name}", leaf, "to be an array where prunable")
        for (name, leaf), flag in zip(named_leaves(scores), jax.tree.leaves(prunable), strict=True)
        if flag and not hasattr(leaf, "shape")
    ]


def _host_scores(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    if array.dtype in (np.float32, np.float64) or array.dtype.kind == "c":
        return array
    # bfloat16 and float16 fit in float32 exactly, and NumPy ranks that some ten times faster.
    return array.astype(np.float32 if array.dtype.itemsize <= 2 else np.float64)


def _check_scores(scores: dict[str, np.ndarray], scope: str) -> None:
    problems = []
    for path, leaf in scores.items():
        if leaf.dtype.kind == "c":
            problems.append(
                expected(f"scores at {path}", str(leaf.dtype), "to be real", "Take their size.")
            )
            continue
        # NumPy's maximum is NaN where any entry is: counting is left to the rare case.
        if leaf.size and np.isnan(leaf.max()):
            count = f"{np.isnan(leaf).sum()} NaN"
            remedy = "Score weights that are finite, or leave it out by `layers`."
            problems.append(expected(f"scores at {path}", count, "without NaN", remedy))
        elif scope == "lamp" and leaf.size and leaf.min() < 0:
            remedy = (
                "Scope lamp squares magnitudes: take scores that are not signed, or another scope."
            )
            problems.append(
                expected(f"lowest score at {path}", float(leaf.min()), "to be 0 or more", remedy)
            )
    if problems:
        raise InvalidInput(problems)


def _warn_of_ties(scores: dict[str, np.ndarray], counts: Sequence[int], scope: str) -> None:
    """Warns where every score of one ranking is the same, and some of them go."""
    rankings = {path: [leaf] for path, leaf in scores.items()}
    if SCOPES[scope].together:
        rankings = {"all prunable leaves": list(scores.values())}
    equal = [
        name
        for (name, leaves), count in zip(rankings.items(), counts, strict=True)
        if count and _all_equal(leaves)
    ]
    if equal:
        text = (
            f"All scores are equal at {', '.join(equal)}: the index alone decides which weights go."
        )
        warnings.warn(text, PruningWarning, stacklevel=3)


def _all_equal(leaves: list[np.ndarray]) -> bool:
    first = next((leaf.flat[0] for leaf in leaves if leaf.size), None)
    return all(
        leaf.size == 0 or (leaf.flat[-1] == first and (leaf == first).all()) for leaf in leaves
    )


def _warn_of_collapse(kept: dict[str, np.ndarray]) -> None:
    emptied = [
        f"{path} ({keep.size} weights)"
        for path, keep in kept.items()
        if keep.size and not keep.any()
    ]
    if emptied:
        text = f"Every weight is removed at {', '.join(emptied)}. min_kept=1 or another scope prevents it."
        warnings.warn(text, PruningWarning, stacklevel=3)
