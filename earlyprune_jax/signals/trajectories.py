"""Signals that compare epochs: how much the mask still changes, how far the weights have moved.

`mask_distance` (`pruning.hamming`) and `early_bird_distance` are Early-Bird's, `weight_change` is
EarlyCroP's.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np

from earlyprune_jax.array_types import Mask, Params
from earlyprune_jax.pruning.masks import hamming
from earlyprune_jax.pruning.scores.weights import nonfinite_problems, require_like
from earlyprune_jax.pruning.selection import Layers, select
from earlyprune_jax.pruning.trees import marked_leaves, refuse
from earlyprune_jax.validate import unexpected

mask_distance = hamming
"""The fraction of prunable entries in which two masks differ, under Early-Bird's name."""


def early_bird_distance(newest: Mask, older: Sequence[Mask], where: Any = None) -> float:
    """Measures the largest distance of the newest mask from any of the older ones.

    Early-Bird keeps the masks of the last 5 epochs and draws its ticket once the newest differs
    from EACH of the 4 older ones by at most 0.1, that is, once this is at most 0.1. (Distances
    between neighbours would add up to more.) In [0, 2 min(s, 1 - s)] at equal sparsity s.

    Cost: one `mask_distance` for each older mask.

    Args:
        newest: bool leaves.
        older: at least one mask of the same structure, in any order; Early-Bird's are 4.
        where: as in `mask_distance`.

    Returns:
        The distance.

    Raises:
        InvalidInput: as `mask_distance`; no older mask.

    Source: You et al. 2020, "Drawing Early-Bird Tickets", section 3.2 and Algorithm 1.

    Example:
        >>> new, same = np.array([True, False, False, False]), np.array([True, False, False, False])
        >>> early_bird_distance(new, [same, np.array([False, True, False, False])])
        0.5
    """
    if not isinstance(older, Sequence) or not len(older):
        remedy = "Keep the masks of the last epochs; there is no distance before the second."
        raise unexpected("older", type(older).__name__, "to be a list of at least one mask", remedy)
    return max(hamming(newest, mask, where) for mask in older)


def weight_change(
    reference: Params, params: Params, *, layers: Layers | Any = "all_kernels"
) -> float:
    """Measures ||w - w_ref||_2 / ||w_ref||_2 over all chosen weights together.

    No division by the number of weights. 0 if nothing has moved, 1 if all weights are 0 now;
    no upper bound. EarlyCroP takes the weights after epoch 1 as reference and prunes at the first
    epoch whose change of this number since the epoch before is below (1 - r) of its first value.

    Cost: one pass over the weights, on the host in float64.

    Args:
        reference: the weights earlier, any pytree.
        params: the weights now, the same structure and shapes.
        layers: as in `select`, or what it returns: the structure of `params` with Python bools.

    Returns:
        The change.

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
    require_like(params, reference, "reference")
    # An Equinox module full of bools may be callable too; a predicate is a leaf.
    is_predicate = callable(layers) and jax.tree.leaves(layers) == [layers]
    if isinstance(layers, str) or is_predicate:
        chosen = select(params, cast(Layers, layers))
    elif any(jax.tree.leaves(layers)):
        chosen = layers
    else:
        raise unexpected("layers", "False everywhere", "to choose at least one leaf")
    before, now = marked_leaves(reference, chosen), marked_leaves(params, chosen)
    refuse(nonfinite_problems("reference", before) + nonfinite_problems("params", now))
    moved, length = [], []
    for (_, then), (_, leaf) in zip(before, now, strict=True):
        # In float64 or complex128.
        wide = np.asarray(then).astype(np.result_type(then.dtype, np.float64))
        moved.append(float(np.sum(np.abs(np.asarray(leaf) - wide) ** 2)))
        length.append(float(np.sum(np.abs(wide) ** 2)))
    if not any(length):
        remedy = "Nothing can be relative to it: take the weights after the first epoch."
        raise unexpected("||reference||", 0.0, "to be positive", remedy)
    return math.sqrt(math.fsum(moved)) / math.sqrt(math.fsum(length))
