"""A Linen module in evaluation mode: how it is asked for, what can be wrong, where nan begins."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn
from jax.core import Tracer

from earlyprune_jax.array_types import Variables
from earlyprune_jax.layer_hooks.interception import num_interceptors
from earlyprune_jax.validate import InvalidInput, expected

EVALUATION_VALUES = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}
"""Arguments by which Linen modules are told what mode to run in, and what evaluation is."""

_REMEDIES: dict[type[Exception], str] = {
    errors.ModifyScopeVariableError: "Ask for evaluation mode, e.g. train=False.",
    errors.InvalidRngError: "Ask for evaluation mode, e.g. deterministic=True: nothing may be "
    "random here.",
    errors.ScopeCollectionNotFound: "Give all of module.init's variables.",
    errors.ScopeVariableNotFoundError: "Give all of module.init's variables.",
    errors.ScopeParamNotFoundError: "Give the params of this module.",
    errors.ScopeParamShapeError: "Give the params of this module, and images of the size it was "
    "made for.",
    errors.ApplyScopeInvalidVariablesTypeError: 'Give {"params": ..., "batch_stats": ...}.',
    errors.ApplyScopeInvalidVariablesStructureError: 'Give {"params": ..., "batch_stats": ...}.',
}


def is_linen(model: Any) -> bool:
    """Whether a model is a Linen module; anything else is called as a function.

    Example:
        >>> is_linen(nn.Dense(2)), is_linen(jnp.tanh)
        (True, False)
    """
    return isinstance(model, nn.Module)


def evaluation_options(module: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with which a module runs in evaluation mode.

    Those of `EVALUATION_VALUES` that its method takes, unless they are given, or fixed by an
    attribute of the same name; and everything given.

    Example:
        >>> evaluation_options(nn.BatchNorm(), {})
        {'use_running_average': True}
        >>> evaluation_options(nn.BatchNorm(use_running_average=True), {})
        {}
    """
    method = given.get("method") or "__call__"
    called = getattr(type(module), method) if isinstance(method, str) else method
    names = inspect.signature(called).parameters
    found = {
        name: value
        for name, value in EVALUATION_VALUES.items()
        if name in names and getattr(module, name, None) is None
    }
    return {**found, **given}


def training_options(module: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with which a module runs in training mode: those of `evaluation_options`,
    reversed.

    Example:
        >>> training_options(nn.BatchNorm(), {})
        {'use_running_average': False}
    """
    return {**{name: not value for name, value in evaluation_options(module, {}).items()}, **given}


def linen_problems(options: Mapping[str, Any]) -> list[str]:
    """Lists why a module cannot be measured here, with these options of `module.apply`.

    Nothing may change or be random, and a hooked layer would meet other interceptors twice.
    """
    remedies = {
        "mutable": "Nothing may change while gradients are taken: leave it out.",
        "rngs": "In evaluation mode nothing is random: leave it out.",
    }
    problems = [
        expected(f"apply option {name}", options[name], "to be absent", remedy)
        for name, remedy in remedies.items()
        if name in options
    ]
    if count := num_interceptors():
        remedy = "Measure outside that context."
        problems.append(
            expected("interceptors of nn.intercept_methods", count, "to be none", remedy)
        )
    return problems


def evaluated(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function that runs a Linen module; what Linen refuses, in this package's words.

    Raises:
        InvalidInput: the module would change its variables, needs randomness, or misses variables.
    """
    try:
        return function(*args)
    except tuple(_REMEDIES) as error:
        remedy = next(words for kind, words in _REMEDIES.items() if isinstance(error, kind))
        problem = expected(
            "module", str(error), "to run in evaluation mode with these variables", remedy
        )
        raise InvalidInput([problem]) from error


def first_nonfinite(apply: Callable[..., Any], variables: Variables, batch: Any) -> str | None:
    """The path of the first module, in the order of their results, with an output that is not
    finite.

    A module inside `nn.remat`, `nn.jit` or `nn.scan` is not looked at: the one around it is named.

    Args:
        apply: (variables, batch) -> outputs.
        variables: concrete arrays.
        batch: concrete arrays.
    """
    found: list[str] = []

    def look(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        outputs = next_call(*args, **kwargs)
        if context.method_name != "setup" and not found and _is_concrete_and_nonfinite(outputs):
            found.append("/".join(context.module.path) or "the root")
        return outputs

    with nn.intercept_methods(look):
        apply(variables, batch)
    return found[0] if found else None


def _is_concrete_and_nonfinite(outputs: Any) -> bool:
    arrays = [leaf for leaf in jax.tree.leaves(outputs) if hasattr(leaf, "dtype")]
    return any(
        not isinstance(array, Tracer)
        and jnp.issubdtype(array.dtype, jnp.inexact)
        and not bool(jnp.isfinite(array).all())
        for array in arrays
    )
