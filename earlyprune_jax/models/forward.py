"""Applies Linen modules that take `train`, `deterministic` or neither, with or without batch
norm."""

import functools
import inspect
from typing import Any

import jax

from earlyprune_jax.array_types import Array, Params, PRNGKey, Variables

MODES = {"train": True, "deterministic": False, "is_training": True, "training": True}
"""An argument that tells training from evaluation -> its value in training."""


@functools.lru_cache(maxsize=256)
def _mode(kind: type) -> tuple[tuple[str, bool], ...]:
    parameters = inspect.signature(kind.__call__).parameters
    return tuple((name, value) for name, value in MODES.items() if name in parameters)


def mode(module: Any, *, train: bool) -> dict[str, bool]:
    """Gives the arguments that put a module's call into training or evaluation; none where it has
    none.

    Of an NNX module behind `flax.nnx.bridge.ToLinen` the NNX class's own call is looked at.

    Example:
        >>> from flax import linen as nn
        >>> mode(nn.Dropout(0.1), train=False), mode(nn.Dense(3), train=True)
        ({'deterministic': True}, {})
    """
    bridged = getattr(module, "nnx_class", None)
    kind = bridged if inspect.isclass(bridged) else type(module)
    return {name: value if train else not value for name, value in _mode(kind)}


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
    return module.apply(variables, inputs, **mode(module, train=False), **linen_options)
