"""What to give in place of a module of Flax or Equinox, where a function of arrays is wanted.

Neither library is imported here: whoever gives a module of one has it.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import jax

from earlyprune_jax.pruning.trees import is_weight
from earlyprune_jax.validate import expected, refuse, unexpected

FUNCTIONS = {
    "flax.linen": "Give lambda variables, x: module.apply(variables, x, train=False), with what "
    "module.init returned.",
    "flax.nnx": "Call model.eval(), then graph, state, rest = nnx.split(model, nnx.Param, ...), "
    "and give lambda state, x: nnx.merge(graph, state, rest)(x), with that state.",
    "equinox": "Give lambda module, x: jax.vmap(module)(x), with the module itself.",
}
"""Library -> the function to give in place of one of its modules, and with which variables."""

_LINEN_REMEDY = (
    "Ask for evaluation mode, e.g. train=False or deterministic=True: nothing may change or be "
    'random here. Give all of module.init\'s variables, {"params": ..., "batch_stats": ...}, and '
    "images of the size it was made for."
)
_NNX_REMEDY = f"In evaluation nothing may change or be random. {FUNCTIONS['flax.nnx']}"


def library_of(model: Any) -> str | None:
    """Tells of which library something is a module with weights of its own.

    Functions that Equinox wraps are modules too, but for their weights.

    Example:
        >>> library_of(jax.numpy.tanh) is None
        True
    """
    for name in FUNCTIONS:
        library = sys.modules.get(name)
        if library and isinstance(model, library.Module):
            return None if name == "equinox" and _wraps_a_function(model, library) else name
    return None


def _wraps_a_function(model: Any, equinox: Any) -> bool:
    has_weights = any(map(is_weight, jax.tree.leaves(model)))
    return isinstance(model, equinox.Partial) or not has_weights


def module_problems(thing: str, model: Any, wanted: str = "(variables, inputs)") -> list[str]:
    """Says that a module is no function, and what to give.

    Args:
        thing: the argument's name.
        model: what was given.
        wanted: the function's arguments.

    Returns:
        The problem, if there is one.
    """
    library = library_of(model)
    if library is None:
        return []
    allowed = f"to be a function of {wanted}, not a module of {library}"
    return [expected(thing, type(model).__name__, allowed, FUNCTIONS[library])]


def refuse_modules(thing: str, model: Any, wanted: str = "(variables, inputs)") -> None:
    """Raises what `module_problems` finds.

    Args:
        thing: the argument's name.
        model: what was given.
        wanted: the function's arguments.

    Raises:
        InvalidInput: it is a module.
    """
    refuse(module_problems(thing, model, wanted))


@contextlib.contextmanager
def in_evaluation() -> Iterator[None]:
    """Says in this package's words what Flax refuses inside: a module that would change its
    variables, needs randomness, or misses variables.

    Raises:
        InvalidInput: Flax has refused something.
    """
    try:
        yield
    except Exception as error:
        flax = sys.modules.get("flax.errors")
        if flax is None or not isinstance(error, flax.FlaxError):
            raise
        is_nnx = isinstance(error, flax.TraceContextError)
        allowed, remedy = "to run in evaluation mode with these variables", _LINEN_REMEDY
        raise unexpected(
            "module", str(error), allowed, _NNX_REMEDY if is_nnx else remedy
        ) from error
