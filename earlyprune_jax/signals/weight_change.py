"""EarlyCroP's signal: how far the weights have moved from a reference, relative to its length."""

import math
from typing import Any, cast

import jax
import numpy as np

from earlyprune_jax.array_types import Params
from earlyprune_jax.pruning.scores.weights import require_like
from earlyprune_jax.pruning.selection import Layers, select
from earlyprune_jax.pruning.trees import named_leaves, structure_problems
from earlyprune_jax.validate import InvalidInput, expected, shortened, unexpected


def weight_change(
    reference: Params, params: Params, *, layers: Layers | Any = "all_kernels"
) -> float:
    """||w - w_ref||_2 / ||w_ref||_2 over all chosen weights together.

    No division by the number of weights. 0 if nothing has moved, 1 if all weights are 0 now;
    no upper bound. EarlyCroP takes the weights after epoch 1 as reference and prunes at the first
    epoch whose change of this number since the epoch before is below (1 - r) of its first value.

    Cost: one pass over the weights, on the host in float64.

    Args:
        reference: the weights earlier, any pytree.
        params: the weights now, the same structure and shapes.
        layers: as in `select`, or what it returns: the structure of `params` with Python bools.

    Raises:
        InvalidInput: the trees differ (by path), nothing is chosen, a weight is not finite (by
            path), or the reference is 0 throughout.

    Source: Rachwan et al. 2022, "Winning the Lottery Ahead of Time: Efficient Early Network
    Pruning".

    Example:
        >>> then, now = {"kernel": np.array([[3.0, 4.0]])}, {"kernel": np.array([[3.0, 1.0]])}
        >>> weight_change(then, now)
        0.6
    """
    squares = _squares(reference, params, layers)
    moved, length = (math.sqrt(math.fsum(column)) for column in zip(*squares.values(), strict=True))
    if not length:
        remedy = "Nothing can be relative to it: take the weights after the first epoch."
        raise unexpected("||reference||", 0.0, "to be positive", remedy)
    return moved / length


def weight_change_per_leaf(
    reference: Params, params: Params, *, layers: Layers | Any = "all_kernels"
) -> dict[str, float | None]:
    """`weight_change` of every chosen leaf alone: path -> value, None where its reference is 0.

    Example:
        >>> then = {"a": {"kernel": np.array([[3.0, 4.0]])}, "b": {"kernel": np.zeros((1, 2))}}
        >>> now = {"a": {"kernel": np.array([[3.0, 1.0]])}, "b": {"kernel": np.ones((1, 2))}}
        >>> weight_change_per_leaf(then, now)
        {'a/kernel': 0.6, 'b/kernel': None}
    """
    squares = _squares(reference, params, layers)
    return {
        name: math.sqrt(moved) / math.sqrt(length) if length else None
        for name, (moved, length) in squares.items()
    }


def _squares(
    reference: Params, params: Params, layers: Layers | Any
) -> dict[str, tuple[float, float]]:
    """Path of every chosen leaf -> (||w - w_ref||^2, ||w_ref||^2)."""
    require_like(params, reference, "reference")
    chosen = jax.tree.leaves(_chosen(params, layers))
    leaves = zip(named_leaves(params), jax.tree.leaves(reference), chosen, strict=True)
    wide = {name: (_wide(then), _wide(now)) for (name, now), then, take in leaves if take}
    problems = [
        expected(f"{thing} at {name or 'its root'}", "not finite", "to be finite")
        for name, pair in wide.items()
        for thing, leaf in zip(("reference", "params"), pair, strict=True)
        if not np.isfinite(leaf).all()
    ]
    if problems:
        raise InvalidInput(shortened(problems))
    return {name: (_square(now - then), _square(then)) for name, (then, now) in wide.items()}


def _chosen(params: Params, layers: Any) -> Any:
    """The structure of `params` with Python bools."""
    # An Equinox module full of bools may be callable too; a predicate is a leaf.
    is_predicate = callable(layers) and jax.tree.leaves(layers) == [layers]
    if isinstance(layers, str) or is_predicate:
        return select(params, cast(Layers, layers))
    if problems := structure_problems("layers", layers, params):
        raise InvalidInput(problems)
    if not any(jax.tree.leaves(layers)):
        raise unexpected("layers", "False everywhere", "to choose at least one leaf")
    return layers


def _wide(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def _square(array: np.ndarray) -> float:
    return float(np.sum(np.abs(array) ** 2))
