"""Pruning masks as pytrees of booleans, usable from any JAX training loop.

from earlyprune_jax import pruning
mask = pruning.prune(params, sparsity=0.8)      # True = kept
params = pruning.apply(mask, params)            # removed weights are exactly 0
"""

from earlyprune_jax.array_types import Mask, Params
from earlyprune_jax.pruning.allocation import SCOPES, allocate
from earlyprune_jax.pruning.masks import apply, count_removed, full, sparsity
from earlyprune_jax.pruning.scores import CRITERIA, magnitude
from earlyprune_jax.pruning.selection import select
from earlyprune_jax.validate import InvalidInput, unknown_choice

__all__ = [
    "CRITERIA",
    "SCOPES",
    "allocate",
    "apply",
    "count_removed",
    "full",
    "magnitude",
    "prune",
    "select",
    "sparsity",
]


def prune(
    params: Params,
    *,
    sparsity: float,
    criterion: str = "magnitude",
    scope: str = "global",
    layers: str = "conv_kernels",
) -> Mask:
    """One-shot pruning: the mask that removes the lowest-scored fraction of the selected weights.

    Removes exactly round(sparsity * n) weights, over all selected leaves (`global`) or in
    each (`local`); equal scores are broken by index.

    Args:
        params: a pytree of arrays.
        sparsity: fraction removed, in [0, 1).
        criterion: `magnitude`.
        scope: `global` or `local`.
        layers: `conv_kernels`, `dense_kernels`, `all_kernels` or `regex:PATTERN`.

    Returns:
        The structure of `params`, bool: True = kept; all True on leaves not selected.

    Raises:
        InvalidInput: with every problem found.

    Source: paper A, section 3 ("Pruning").

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"dense": {"kernel": jnp.array([[0.1, -3.0], [2.0, 0.2]]), "bias": jnp.zeros(2)}}
        >>> prune(params, sparsity=0.5, layers="all_kernels")["dense"]["kernel"].tolist()
        [[False, True], [True, False]]
    """
    if criterion not in CRITERIA:
        raise InvalidInput([unknown_choice("criterion", criterion, tuple(CRITERIA))])
    return allocate(CRITERIA[criterion](params), select(params, layers), sparsity=sparsity, scope=scope)
