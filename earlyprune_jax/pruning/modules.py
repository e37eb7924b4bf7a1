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


def function_problems(thing: str, model: Any, wanted: str = "(variables, inputs)") -> list[str]:
    """Says that a module, a class or what cannot be called is no function, and what to give.

    Args:
        thing: the argument's name.
        model: what was given.
        wanted: the function's arguments.

    Returns:
        The problem, if there is one.
    """
    allowed = f"to be a function of {wanted}"
    if library := library_of(model):
        allowed += f", not a module of {library}"
        return [expected(thing, type(model).__name__, allowed, FUNCTIONS[library])]
    if not callable(model):
        return [expected(thing, model, allowed)]
    remedy = "A class makes objects: give a function that calls one."
    return [expected(thing, model, allowed, remedy)] if isinstance(model, type) else []


def require_function(thing: str, model: Any, wanted: str = "(variables, inputs)") -> None:
    """Raises what `function_problems` finds.

    Args:
        thing: the argument's name.
        model: what was given.
        wanted: the function's arguments.

    Raises:
        InvalidInput: it is no function.
    """
    refuse(function_problems(thing, model, wanted))


def whole_model_problems(thing: str, params: Any) -> list[str]:
    """Says that a whole NNX model is in training mode, or holds more than parameters.

    Such a model runs: batch statistics then count as weights, and what it changes is lost.

    Args:
        thing: the argument's name.
        params: what was given.

    Returns:
        The problem, if there is one.
    """
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not isinstance(params, nnx.Module):
        return []
    nodes = [node for _, node in nnx.iter_graph(params)]
    others = [node for node in nodes if isinstance(node, nnx.Variable)]
    others = [node for node in others if not isinstance(node, nnx.Param) and is_weight(node)]
    modes = "deterministic", "use_running_average"
    trains = any(getattr(node, mode, None) is False for node in nodes for mode in modes)
    if not others and not trains:
        return []
    given = "training mode" if trains else f"a {type(others[0]).__name__}"
    allowed = f"to be parameters in evaluation mode, not a module of flax.nnx with {given}"
    return [expected(thing, type(params).__name__, allowed, FUNCTIONS["flax.nnx"])]


@contextlib.contextmanager
def in_evaluation() -> Iterator[None]:
    """Says in this package's words what Flax and Equinox refuse inside: a module that would change
    its variables, needs randomness, or misses variables.

    Raises:
        InvalidInput: they have refused something.
    """
    allowed = "to run in evaluation mode with these variables"
    try:
        yield
    except Exception as error:  # the user's model: what it has not refused itself goes on
        flax, remedy = sys.modules.get("flax.errors"), ""
        if flax and isinstance(error, flax.FlaxError):
            is_nnx = isinstance(error, flax.TraceContextError)
            remedy = _NNX_REMEDY if is_nnx else _LINEN_REMEDY
        elif isinstance(error, RuntimeError) and "Dropout requires a key" in str(error):
            remedy = "Give equinox.nn.inference_mode(module)."
        if not remedy:
            raise
        raise unexpected("module", str(error), allowed, remedy) from error
