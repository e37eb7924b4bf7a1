"""Boolean masks over parameter trees: True = kept, all True where nothing is prunable."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Mask, Params


def full(params: Params) -> Mask:
    """The mask of an unpruned network: True everywhere.

    Example:
        >>> full({"kernel": jnp.zeros(2)})["kernel"].tolist()
        [True, True]
    """
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)


def apply(mask: Mask, tree: Any) -> Any:
    """Sets the entries of `tree` that the mask removes to exactly +0.0; kept entries are untouched.

    Args:
        mask: bool leaves, the structure and shapes of `tree`.
        tree: parameters, gradients or momenta.

    Example:
        >>> apply({"w": jnp.array([True, False])}, {"w": jnp.array([2.0, jnp.inf])})["w"].tolist()
        [2.0, 0.0]
    """
    # A product would turn a removed inf into nan and a removed -1 into -0.0.
    return jax.tree.map(lambda keep, leaf: jnp.where(keep, leaf, jnp.zeros_like(leaf)), mask, tree)


def count_removed(mask: Mask) -> int:
    """How many entries the whole mask removes."""
    return sum(int(np.size(leaf) - np.count_nonzero(leaf)) for leaf in jax.tree.leaves(mask))


def sparsity(mask: Mask, prunable: Any) -> float:
    """The fraction of the prunable weights that the mask removes, in [0, 1).

    Args:
        mask: bool leaves.
        prunable: the structure of `mask` with Python bools, from `selection.select`.

    Example:
        >>> sparsity({"w": jnp.array([True, False]), "b": jnp.array([True])}, {"w": True, "b": False})
        0.5
    """
    chosen = [
        leaf for leaf, take in zip(jax.tree.leaves(mask), jax.tree.leaves(prunable), strict=True) if take
    ]
    return count_removed(chosen) / sum(int(np.size(leaf)) for leaf in chosen)
