"""Runs Linen modules in either mode; says what they refuse, and where nan begins."""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import module as linen_module
from jax.core import Tracer

from earlyprune_jax.array_types import Array, Params, PRNGKey, Variables
from earlyprune_jax.pruning.modules import in_evaluation
from earlyprune_jax.validate import expected

MODES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}
"""An argument that tells training from evaluation -> its value in training."""


def is_linen(model: Any) -> bool:
    """Tells whether a model is a Linen module; anything else is called as a function.

    Example:
        >>> is_linen(nn.Dense(2)), is_linen(jnp.tanh)
        (True, False)
    """
    return isinstance(model, nn.Module)


def mode(
    model: Any, given: Mapping[str, Any] = MappingProxyType({}), *, train: bool
) -> dict[str, Any]:
    """Gives the arguments that put a model's call into training or evaluation, and those given.

    Those of `MODES` that a Linen module's method takes, but for those that an attribute of the same
    name fixes. Of an NNX module behind `flax.nnx.bridge.ToLinen` the NNX class's own call is looked
    at.

    Args:
        model: a Linen module; of anything else only the given arguments are taken.
        given: arguments of the call, which go before; `method` among them is looked at.
        train: whether it is to run in training mode.

    Returns:
        The arguments of `apply`.

    Example:
        >>> mode(nn.Dropout(0.1), train=False), mode(nn.Dense(3), train=True)
        ({'deterministic': True}, {})
        >>> mode(nn.BatchNorm(), {"mask": None}, train=True)
        {'use_running_average': False, 'mask': None}
        >>> mode(nn.BatchNorm(use_running_average=True), train=False)
        {}
    """
    if not is_linen(model):
        return dict(given)
    bridged = getattr(model, "nnx_class", None)
    kind = bridged if inspect.isclass(bridged) else type(model)
    method = given.get("method") or "__call__"
    called = getattr(kind, method) if isinstance(method, str) else method
    names = inspect.signature(called).parameters
    own = {
        name: value == train
        for name, value in MODES.items()
        if name in names and getattr(model, name, None) is None
    }
    return {**own, **given}


def init(module: Any, key: PRNGKey, inputs: Any) -> Variables:
    """Initialises the variables of a module.

    Args:
        module: a Linen module.
        key: decides the parameters.
        inputs: an example of what the module is applied to.

    Returns:
        {"params": ..., and other collections}.
    """
    rngs = {"params": key, "dropout": jax.random.fold_in(key, 1)}
    return module.init(rngs, inputs, **mode(module, train=False))


def train(
    module: Any, params: Params, model_state: Any, inputs: Any, key: PRNGKey
) -> tuple[Array, dict[str, Any]]:
    """Applies a module in training mode.

    Args:
        module: a Linen module.
        params: its parameters.
        model_state: its other collections; all of them may change.
        inputs: what it is applied to.
        key: of its dropout.

    Returns:
        The outputs, and the new model_state.
    """
    variables = {"params": params, **model_state}
    # Streams of other names fall back to that of the parameters.
    rngs = {"dropout": key, "params": jax.random.fold_in(key, 1)}
    outputs, updated = module.apply(
        variables, inputs, **mode(module, train=True), mutable=list(model_state), rngs=rngs
    )
    return outputs, {name: updated.get(name, value) for name, value in model_state.items()}


def evaluate(module: Any, variables: Variables, inputs: Any, **linen_options: Any) -> Any:
    """Applies a module in evaluation mode.

    Args:
        module: a Linen module.
        variables: {"params": ..., and other collections}.
        inputs: what it is applied to.
        linen_options: of `apply`.

    Returns:
        The outputs; with those of `mutable` among the options, (outputs, updates).
    """
    return module.apply(variables, inputs, **mode(module, linen_options, train=False))


def flat_product(x: Array, kernel: Array, dimension_numbers: Any, **options: Any) -> Array:
    """Multiplies by a kernel of rank 2, as `nn.Dense(dot_general=flat_product)`, all axes of x but
    its last as one.

    The sum is that of `jax.lax.dot_general`. On CPU XLA copies a cotangent of rank 3 into another
    order before it makes the kernel's gradient of it; of rank 2 it is read as it lies.

    Args:
        x: [..., in].
        kernel: [in, out].
        dimension_numbers: those of `nn.Dense`.
        options: of `jax.lax.dot_general`.

    Returns:
        [..., out].

    Example:
        >>> dense = nn.Dense(5, dot_general=flat_product)
        >>> dense.init_with_output(jax.random.key(0), jnp.ones((2, 3, 4)))[0].shape
        (2, 3, 5)
    """
    del dimension_numbers
    rows = x.reshape(-1, x.shape[-1])
    product = jax.lax.dot_general(rows, kernel, (((1,), (0,)), ((), ())), **options)
    return product.reshape(*x.shape[:-1], -1)


def evaluation_problems(options: Mapping[str, Any]) -> list[str]:
    """Lists why a module cannot be measured here, with these options of `module.apply`.

    Nothing may change or be random, and a hooked layer would meet other interceptors twice.
    """
    remedy = "In evaluation nothing may change or be random: leave it out."
    problems = [
        expected(f"apply option {name}", options[name], "to be absent", remedy)
        for name in ("mutable", "rngs")
        if name in options
    ]
    if count := num_interceptors():
        thing, remedy = "interceptors of nn.intercept_methods", "Measure outside that context."
        problems.append(expected(thing, count, "to be none", remedy))
    return problems


def variables_problems(variables: Any) -> list[str]:
    """Says that these are not the variables of a Linen module."""
    is_mapping = isinstance(variables, Mapping)
    if is_mapping and "params" in variables:
        return []
    given = sorted(map(str, variables)) if is_mapping else variables
    remedy = "Give what module.init returned, not a part of it."
    return [expected("variables", given, 'to be {"params": ..., "batch_stats": ...}', remedy)]


def num_interceptors() -> int:
    """Counts the contexts of `nn.intercept_methods` that are active here."""
    return len(getattr(linen_module, "_global_interceptor_stack", ()))


def evaluated(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function that runs a module; what Flax refuses, in this package's words.

    Raises:
        InvalidInput: the module would change its variables, needs randomness, or misses variables.
    """
    with in_evaluation():
        return function(*args)


def first_nonfinite(apply: Callable[..., Any], variables: Variables, batch: Any) -> str | None:
    """Finds the first module, in the order of their results, whose output is not finite.

    A module inside `nn.remat`, `nn.jit` or `nn.scan` is not looked at: the one around it is named.

    Args:
        apply: (variables, batch) -> outputs.
        variables: concrete arrays.
        batch: concrete arrays.

    Returns:
        The module's path, if there is one.
    """
    names: list[str] = []

    def look(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        outputs = next_call(*args, **kwargs)
        # Inside a transformation outputs are tracers, whose values nobody knows.
        arrays = [leaf for leaf in jax.tree.leaves(outputs) if not isinstance(leaf, Tracer)]
        if context.method_name != "setup" and not all(jnp.isfinite(a).all() for a in arrays):
            names.append("/".join(context.module.path) or "the root")
        return outputs

    with nn.intercept_methods(look):
        apply(variables, batch)
    return names[0] if names else None
