"""Sizes that are not numbers yet, as the batch's under `jax.export`: one stands in for them."""

import collections
from typing import Any

import jax
from jax import export
from jax.extend.core import Var

STAND_IN = 48
"""What every unknown size is taken for where channels are followed: more than 1, and divisible by
what networks divide by. No decision hangs on it: an axis of unknown size stays whole."""


def numbers(tree: Any) -> Any:
    """Replaces what depends on unknown sizes by its value for the stand-in.

    Example:
        >>> (batch,) = export.symbolic_shape("b")
        >>> numbers({"shape": (2 * batch, 3)})
        {'shape': (96, 3)}
    """
    sizes = collections.defaultdict(lambda: STAND_IN)
    return jax.tree.map(lambda leaf: int(leaf._evaluate(sizes)) if is_unknown(leaf) else leaf, tree)


def is_unknown(size: Any) -> bool:
    """Tells whether a size depends on an unknown one."""
    return export.is_symbolic_dim(size)


def unknown_axes(variable: Any) -> list[int]:
    """Lists the axes of unknown size of a variable of a jaxpr."""
    shape = getattr(variable.aval, "shape", ())
    return [axis for axis, size in enumerate(shape) if is_unknown(size)]


def with_numbers(eqn: Any) -> Any:
    """Makes the equation that rules look at: its parameters and results have sizes in numbers."""
    if not any(map(unknown_axes, (*eqn.invars, *eqn.outvars))):
        return eqn
    outvars = [Var(v.aval.update(shape=numbers(tuple(v.aval.shape)))) for v in eqn.outvars]
    return eqn.replace(params=numbers(eqn.params), outvars=outvars)
