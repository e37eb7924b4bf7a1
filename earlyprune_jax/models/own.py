"""Networks by reference: a built-in or the user's own Linen module, with what the experiment gives
it."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from earlyprune_jax import references
from earlyprune_jax.models import catalog
from earlyprune_jax.validate import InvalidInput, unexpected

KEY = "model.name"


def factory(name: str, *, width_multiplier: float = 1.0) -> Callable[..., nn.Module]:
    """A function that makes the network a config names.

    Args:
        name: one of `models.names()`, or `module:Class`, with literal arguments if wanted.
        width_multiplier: scales every layer's channels; passed on where it is accepted.

    Returns:
        A function of named arguments (num_classes, dtype, ...) -> a Linen module; of what it is
        given it passes on what the class or function takes.

    Raises:
        InvalidInput: what `references.load` finds, or a width that is not accepted.
    """
    builtins = {known: functools.partial(catalog.build, known) for known in catalog.names()}
    made_by = references.load(KEY, name, builtins)
    accepts_width = "width_multiplier" in references.accepted(made_by, {"width_multiplier": 1.0})
    if width_multiplier != 1 and not accepts_width:
        allowed = f"to be 1: {name} has no argument width_multiplier"
        raise unexpected("model.width_multiplier", width_multiplier, allowed)

    def make(**given: Any) -> nn.Module:
        dtype = given.get("dtype")
        takes = references.accepted(made_by, {"width_multiplier": width_multiplier, **given})
        if dtype is not None and jnp.dtype(dtype) != jnp.float32 and "dtype" not in takes:
            allowed = f"to be float32: {name} has no argument dtype"
            raise unexpected("train.precision", jnp.dtype(dtype).name, allowed)
        try:
            module = made_by(**takes)
        except (TypeError, ValueError) as error:
            if isinstance(error, InvalidInput):
                raise
            given_names = ", ".join(takes) or "nothing"
            allowed = f"to be makeable from its arguments and {given_names} ({error})"
            raise unexpected(KEY, name, allowed) from error
        if not isinstance(module, nn.Module):
            found = type(module).__name__
            remedy = "Give the class, e.g. nets:Net. NNX modules: flax.nnx.bridge.ToLinen, see docs/extending.md."
            raise unexpected(KEY, name, f"to make a Linen module, not a {found}", remedy)
        return module

    # Messages name the network as the config does.
    make.reference = name  # pyright: ignore[reportFunctionMemberAccess]
    return make
