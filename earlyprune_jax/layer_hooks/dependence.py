"""What a traced function's results are made of, read off its jaxpr."""

from collections.abc import Iterable
from typing import Any

import jax
from jax.extend.core import Literal

from earlyprune_jax.pruning.channels.trace import INLINED, WITH_DERIVATIVE, body_of

CALLS = (*INLINED, *WITH_DERIVATIVE)
"""Primitives that run a jaxpr on their operands, in order, and return its results."""


def used_inputs(jaxpr: Any, results: Iterable[int]) -> set[int]:
    """The places of the inputs that some of the results depend on.

    Calls are looked into. Of other primitives (scan, cond) a result may depend on every operand, so
    the set is never too small.

    Args:
        jaxpr: an open jaxpr.
        results: places among its results.

    Example:
        >>> import jax
        >>> closed = jax.make_jaxpr(lambda a, b, c: (a + b, 2 * c))(1.0, 2.0, 3.0)
        >>> used_inputs(closed.jaxpr, [0]), used_inputs(closed.jaxpr, [1])
        ({0, 1}, {2})
    """
    wanted = {
        jaxpr.outvars[place] for place in results if not isinstance(jaxpr.outvars[place], Literal)
    }
    for eqn in reversed(jaxpr.eqns):
        live = [place for place, variable in enumerate(eqn.outvars) if variable in wanted]
        if live:
            operands = [eqn.invars[place] for place in _used_operands(eqn, live)]
            wanted.update(atom for atom in operands if not isinstance(atom, Literal))
    return {place for place, variable in enumerate(jaxpr.invars) if variable in wanted}


def unchanged_input(jaxpr: Any, result: int) -> int | None:
    """The place of the input that a result is, handed through without any operation; else None.

    Example:
        >>> import jax
        >>> closed = jax.make_jaxpr(lambda a, b: (b, jax.jit(lambda x: (x, -x))(a)))(1.0, 2.0)
        >>> [unchanged_input(closed.jaxpr, place) for place in range(3)]
        [1, 0, None]
    """
    return _source(jaxpr, jaxpr.outvars[result])


def primitives(jaxpr: Any) -> set[str]:
    """The names of all primitives, those inside calls and loops too.

    Example:
        >>> function = jax.jit(lambda x: -jax.numpy.sin(x))
        >>> {"neg", "sin"} < primitives(jax.make_jaxpr(function)(1.0).jaxpr)
        True
    """
    found = {eqn.primitive.name for eqn in jaxpr.eqns}
    parameters = jax.tree.leaves(
        [list(eqn.params.values()) for eqn in jaxpr.eqns], is_leaf=_is_jaxpr
    )
    return found.union(
        *(primitives(getattr(inner, "jaxpr", inner)) for inner in parameters if _is_jaxpr(inner))
    )


def _is_jaxpr(value: Any) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")


def _source(jaxpr: Any, atom: Any) -> int | None:
    if isinstance(atom, Literal):
        return None
    if atom in jaxpr.invars:
        return jaxpr.invars.index(atom)
    eqn = next((eqn for eqn in jaxpr.eqns if atom in eqn.outvars), None)
    body = None if eqn is None else _body(eqn)
    if eqn is None or body is None:
        return None
    inner = _source(body, body.outvars[eqn.outvars.index(atom)])
    return None if inner is None else _source(jaxpr, eqn.invars[inner])


def _used_operands(eqn: Any, live: list[int]) -> Iterable[int]:
    body = _body(eqn)
    return range(len(eqn.invars)) if body is None else used_inputs(body, live)


def _body(eqn: Any) -> Any:
    """The jaxpr that a call runs, where operands and results are its own in order; else None."""
    if eqn.primitive.name not in CALLS:
        return None
    body, _ = body_of(eqn)
    aligned = len(body.invars) == len(eqn.invars) and len(body.outvars) == len(eqn.outvars)
    return body if aligned else None
