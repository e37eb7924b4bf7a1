"""A mask in one call."""

from typing import Any

import jax
import numpy as np

from earlyprune_jax.array_types import Mask, Params, Scores
from earlyprune_jax.pruning.allocation.allocate import allocate, check_choice
from earlyprune_jax.pruning.allocation.budgets import Sparsity, check_options
from earlyprune_jax.pruning.allocation.patterns import UNSTRUCTURED, Pattern
from earlyprune_jax.pruning.scores.weights import require_like
from earlyprune_jax.pruning.selection import Layers, select
from earlyprune_jax.validate import InvalidInput


def prune(
    params: Params,
    *,
    sparsity: Sparsity,
    scores: Scores | None = None,
    scope: str = "global",
    layers: Layers = "conv_kernels",
    pattern: Pattern = UNSTRUCTURED,
    min_kept: int = 0,
) -> Mask:
    """The mask that removes the lowest-scored fraction of the selected weights, exactly.

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

    Returns:
        The structure of `params`, bool: True = kept; all True on leaves not selected.

    Raises:
        InvalidInput: with every problem found.

    Source: paper A, section 3 ("Pruning"), for the defaults.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"dense": {"kernel": jnp.array([[0.1, -3.0], [2.0, 0.2]]), "bias": jnp.zeros(2)}}
        >>> prune(params, sparsity=0.5, layers="all_kernels")["dense"]["kernel"].tolist()
        [[False, True], [True, False]]
    """
    problems = check_choice(layers, pattern) + check_options(sparsity, scope, min_kept)
    if problems:
        raise InvalidInput(problems)
    if scores is not None:
        require_like(params, scores, "scores")
    prunable = select(params, layers)
    ranked = jax.tree.map(_host_magnitude, params, prunable) if scores is None else scores
    return allocate(
        ranked, prunable, sparsity=sparsity, scope=scope, pattern=pattern, min_kept=min_kept
    )


def _host_magnitude(leaf: Any, take: bool) -> Any:
    # On the host, where the scores are ranked: `scores.magnitude` would compile once a shape.
    return np.abs(np.asarray(leaf)) if take else leaf
