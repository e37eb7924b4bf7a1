"""From scores and a sparsity to a mask.

Requested and removed counts are equal, exactly: `round(sparsity * n)` (Python's `round`,
as PyTorch's pruning counts), with equal scores broken by index.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from earlyprune_jax.array_types import Mask, Params, Scores
from earlyprune_jax.pruning import trees
from earlyprune_jax.pruning.allocation.budgets import (
    SCOPES,
    Leaf,
    Shapes,
    Sparsity,
    check_options,
)
from earlyprune_jax.pruning.allocation.patterns import NM, UNSTRUCTURED, Pattern, check_is_pattern
from earlyprune_jax.pruning.layouts import Layout, Layouts, PruningWarning, find, warn_of_guesses
from earlyprune_jax.pruning.scores.weights import require_like
from earlyprune_jax.pruning.selection import Layers, check_layers, select
from earlyprune_jax.validate import expected


def prunable_shapes(params: Any, prunable: Any, layouts: Layouts | None = None) -> Shapes:
    """Maps the path of every prunable leaf to its shape and layout; shapes are enough.

    Args:
        params: any pytree.
        prunable: from `select`.
        layouts: as in `select`.

    Example:
        >>> shapes = prunable_shapes({"w": np.zeros((2, 3)), "n": 4}, {"w": True, "n": False})
        >>> shapes["w"].shape, shapes["w"].layout.axes
        ((2, 3), 'IO')
    """
    found, unknown = find(params, layouts), Layout(kind="")
    return {
        name: Leaf(np.shape(leaf), found.get(name, unknown))
        for name, leaf in trees.marked_leaves(params, prunable)
    }


def allocate(
    scores: Scores,
    prunable: Any,
    *,
    sparsity: Sparsity,
    scope: str = "global",
    pattern: Pattern = UNSTRUCTURED,
    min_kept: int = 0,
    layouts: Layouts | None = None,
) -> Mask:
    """Turns scores into a mask that removes the lowest-scored prunable weights.

    | scope | ranked | removed |
    | --- | --- | --- |
    | `global` | all layers together | round(sparsity * n) in all; a layer may lose all it has |
    | `local` | each layer by itself | round(sparsity * n_l) in each layer l |
    | `uniform` | each layer by itself | round(sparsity * n) in all, the same fraction of each |
    | `erk` | each layer by itself | round(sparsity * n) in all, by `erk_densities` |
    | `lamp` | all together, by `lamp` of the scores | round(sparsity * n) in all |

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
        layouts: as in `select`; what axes mean matters to `erk` and to `NM`.

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
    remedy = "Make it with select from a tree of the structure of the scores."
    problems = trees.structure_problems("prunable", prunable, scores) + trees.repeated_paths(scores)
    problems += [
        expected(f"prunable at {name}", flag, "to be True or False", remedy)
        for name, flag in trees.named_leaves(prunable)
        if not isinstance(flag, bool | np.bool_)
    ]
    trees.refuse(problems)
    shapes = prunable_shapes(scores, prunable, layouts)
    trees.refuse(check_allocation(shapes, sparsity, scope, pattern, min_kept))
    flags = jax.tree.leaves(prunable)
    ranked = [_host_scores(leaf) for leaf in trees.split_leaves(scores, flags)[0]]
    named = dict(zip(shapes, ranked, strict=True))
    trees.refuse(_check_scores(named, scope))
    counts = pattern.counts(shapes, sparsity, scope, min_kept)
    _warn_of_ties(named, counts, scope)
    kinds = [leaf.layout for leaf in shapes.values()]
    kept = pattern.masks(ranked, counts, scope, min_kept, np, kinds)
    pairs = zip(shapes, kept, strict=True)
    if emptied := [f"{n} (all {k.size} removed)" for n, k in pairs if k.size and not k.any()]:
        text = f"Nothing is kept at {', '.join(emptied)}. min_kept=1 or another scope prevents it."
        warnings.warn(text, PruningWarning, stacklevel=2)
    _, merge = trees.split_leaves(
        jax.tree.map(lambda leaf: np.broadcast_to(True, np.shape(leaf)), scores), flags
    )
    return jax.device_put(merge(kept))


def prune(
    params: Params,
    *,
    sparsity: Sparsity,
    scores: Scores | None = None,
    scope: str = "global",
    layers: Layers = "conv_kernels",
    pattern: Pattern = UNSTRUCTURED,
    min_kept: int = 0,
    layouts: Layouts | None = None,
) -> Mask:
    """Makes the mask that removes the lowest-scored fraction of the selected weights, exactly.

    `allocate(scores, select(params, layers), ...)`; see `allocate` for scopes and guarantees.

    Args:
        params: a pytree of arrays: Linen, NNX, Equinox, lists.
        sparsity: fraction removed, in [0, 1), or a mapping from regular expressions to fractions.
        scores: the structure of `params`, higher = keep; None = magnitude.
        scope: `global`, `local`, `uniform`, `erk` or `lamp`.
        layers: `conv_kernels`, `dense_kernels`, `all_kernels`, `regex:PATTERN`, or a predicate on
            (path, leaf).
        pattern: `UNSTRUCTURED`, `Blocks(...)` or `NM(...)`.
        min_kept: units that every layer keeps at least.
        layouts: as in `select`, where axes are others than `layouts.find` says.

    Returns:
        The structure of `params`, bool: True = kept; all True on leaves not selected.

    Raises:
        InvalidInput: with every problem found.

    Source: paper A, section 3 ("Pruning"), for the defaults.

    Example:
        >>> import jax.numpy as jnp
        >>> kernel = jnp.array([[0.1, -3.0], [2.0, 0.2]])
        >>> params = {"dense": {"kernel": kernel, "bias": jnp.zeros(2)}}
        >>> prune(params, sparsity=0.5, layers="all_kernels")["dense"]["kernel"].tolist()
        [[False, True], [True, False]]
    """
    problems = check_layers(layers) + check_is_pattern(pattern)
    trees.refuse(problems + check_options(sparsity, scope, min_kept))
    if scores is not None:
        require_like(params, scores, "scores")
    prunable = select(params, layers, layouts)
    if scores is None:
        # On the host, where the scores are ranked: `scores.magnitude` would compile once per shape.
        scores = jax.tree.map(
            lambda leaf, take: np.abs(np.asarray(leaf)) if take else leaf, params, prunable
        )
    return allocate(
        scores,
        prunable,
        sparsity=sparsity,
        scope=scope,
        pattern=pattern,
        min_kept=min_kept,
        layouts=layouts,
    )


def check_allocation(
    shapes: Shapes, sparsity: Sparsity, scope: str, pattern: Pattern, min_kept: int
) -> list[str]:
    """Finds the problems of pruning leaves before any score is known.

    Args:
        shapes: path -> shape and layout of every prunable leaf.
        sparsity: as in `allocate`.
        scope: as in `allocate`.
        pattern: as in `allocate`.
        min_kept: as in `allocate`.

    Returns:
        All problems.
    """
    if problems := check_is_pattern(pattern):
        return problems
    if not shapes:
        return [expected("prunable", "no leaf", "to mark at least one", "Choose other `layers`.")]
    if scope == "erk" or isinstance(pattern, NM) and pattern.axis == "input":
        warn_of_guesses((path, leaf.shape, leaf.layout) for path, leaf in shapes.items())
    return pattern.check(shapes, sparsity, scope, min_kept)


def _host_scores(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    if array.dtype in (np.float32, np.float64) or array.dtype.kind == "c":
        return array
    # bfloat16 and float16 fit in float32 exactly, and NumPy ranks that some ten times faster.
    return array.astype(np.float32 if array.dtype.itemsize <= 2 else np.float64)


def _check_scores(scores: Mapping[str, np.ndarray], scope: str) -> list[str]:
    problems = []
    for path, leaf in scores.items():
        thing = f"scores at {path}"
        if leaf.dtype.kind == "c":
            problems.append(expected(thing, str(leaf.dtype), "to be real", "Take their size."))
        # NumPy's maximum is NaN where any entry is: counting is left to the rare case.
        elif leaf.size and np.isnan(leaf.max()):
            count = f"{np.isnan(leaf).sum()} NaN"
            remedy = "Score weights that are finite, or leave it out by `layers`."
            problems.append(expected(thing, count, "without NaN", remedy))
        elif scope == "lamp" and leaf.size and leaf.min() < 0:
            thing, lowest = f"lowest score at {path}", float(leaf.min())
            remedy = "Lamp squares magnitudes: take scores that are not signed, or another scope."
            problems.append(expected(thing, lowest, "to be 0 or more", remedy))
    return problems


def _warn_of_ties(scores: Mapping[str, np.ndarray], counts: Sequence[int], scope: str) -> None:
    """Warns where every score of one ranking is the same, and some of them go."""
    rankings = {path: [leaf] for path, leaf in scores.items()}
    if SCOPES[scope].together:
        rankings = {"all prunable leaves": list(scores.values())}
    removing = zip(rankings.items(), counts, strict=True)
    equal = [name for (name, leaves), count in removing if count and _all_equal(leaves)]
    if equal:
        text = f"All scores are equal at {', '.join(equal)}: the index alone decides which go."
        warnings.warn(text, PruningWarning, stacklevel=3)


def _all_equal(leaves: list[np.ndarray]) -> bool:
    first = next((leaf.flat[0] for leaf in leaves if leaf.size), None)
    return all(
        leaf.size == 0 or (leaf.flat[-1] == first and (leaf == first).all()) for leaf in leaves
    )
