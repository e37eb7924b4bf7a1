"""Which leaves of a parameter tree may be pruned, and why the others may not."""

import math
import re
from collections.abc import Callable
from typing import Any

import jax

from earlyprune_jax.array_types import Params
from earlyprune_jax.pruning.trees import is_weight, named_leaves, path_name, refuse, repeated_paths
from earlyprune_jax.validate import expected, nearest, unexpected

REGEX_PREFIX = "regex:"
KERNEL_AXES = {"kernel": (-1, -2), "weight": (0, 1)}
"""(output, input) axis of a kernel by its name: `kernel` as in Flax, (..., in, out); `weight` as in
Equinox and PyTorch, (out, in, ...)."""

Layers = str | Callable[[str, Any], bool]
"""A named set, `regex:PATTERN`, or a predicate on (path, leaf)."""

Exclusion = Callable[[str, Any], str]
"""Why the leaf at a path does not belong to a set, or nothing if it does."""


def _kernels(fewest_axes: int, most_axes: float, wanted: str) -> Exclusion:
    """Makes the set of the kernels with so many axes."""

    def excluded(path: str, leaf: Any) -> str:
        if _last_name(path) not in KERNEL_AXES:
            return f"is not named {' or '.join(KERNEL_AXES)}"
        if fewest_axes <= leaf.ndim <= most_axes:
            return ""
        return f"has {leaf.ndim} axes, {wanted if leaf.ndim >= 2 else 'kernels have 2 or more'}"

    return excluded


def _last_name(path: str) -> str:
    # A whole NNX module, unlike its state, shows the field in which a variable holds its array.
    return path.removesuffix("/value").rsplit("/", 1)[-1]


def channel_axes(path: str, leaf: Any) -> tuple[int, ...]:
    """Returns the output and the input axis of a kernel; nothing for other leaves.

    Example:
        >>> import jax.numpy as jnp
        >>> channel_axes("conv/kernel", jnp.ones((3, 3, 1, 2)))
        (-1, -2)
    """
    return KERNEL_AXES.get(_last_name(path), ()) if len(leaf.shape) >= 2 else ()


NAMED_SETS: dict[str, Exclusion] = {
    "conv_kernels": _kernels(3, math.inf, "conv kernels have more"),
    "dense_kernels": _kernels(2, 2, "dense kernels 2"),
    "all_kernels": _kernels(2, math.inf, ""),
}


def check_layers(layers: Layers, thing: str = "layers") -> list[str]:
    """Finds the problems of a layer selection, before any parameters are known."""
    if callable(layers) or isinstance(layers, str) and layers in NAMED_SETS:
        return []
    if isinstance(layers, str) and layers.startswith(REGEX_PREFIX):
        return check_pattern(layers.removeprefix(REGEX_PREFIX), thing)
    allowed = f"to be one of {', '.join(NAMED_SETS)}, or {REGEX_PREFIX}PATTERN"
    return [expected(thing, layers, allowed, nearest(layers, NAMED_SETS))]


def check_pattern(pattern: str, thing: str) -> list[str]:
    """Finds the problem of a regular expression that does not compile, if it does not."""
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        allowed = "to hold a valid regular expression"
        return [expected(thing, pattern, allowed, f"It says: {error}.")]
    return []


def exclusions(params: Params, layers: Layers) -> dict[str, str]:
    """Maps the path to the reason for every leaf that may not be pruned.

    Args:
        params: any pytree; shapes are enough.
        layers: as in `select`.

    Returns:
        The reasons; leaves that may be pruned are not in it.

    Raises:
        InvalidInput: unknown name or broken pattern; two leaves with one path.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"conv": {"kernel": jnp.ones((3, 3, 1, 2)), "bias": jnp.ones(2)}}
        >>> exclusions(params, "conv_kernels")
        {'conv/bias': 'is not named kernel or weight'}
    """
    refuse(check_layers(layers) + repeated_paths(params))
    reasons = {}
    for name, leaf in named_leaves(params):
        if not is_weight(leaf):
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            reasons[name] = f"is of type {kind}, not a floating-point array"
        elif callable(layers):
            reasons[name] = "" if layers(name, leaf) else "the predicate left it out"
        elif layers in NAMED_SETS:
            reasons[name] = NAMED_SETS[layers](name, leaf)
        else:
            pattern = layers.removeprefix(REGEX_PREFIX)
            reasons[name] = "" if re.search(pattern, name) else f"does not match {pattern}"
    return {name: reason for name, reason in reasons.items() if reason}


def select(params: Params, layers: Layers) -> Any:
    """Marks the leaves that belong to a set of layers.

    Works on concrete parameters and on `jax.eval_shape` results alike. Leaves that are not
    floating-point arrays never belong, whatever the set.

    Args:
        params: any pytree.
        layers: `conv_kernels` (leaves named `kernel` or `weight` with more than 2 axes: 1x1
            shortcuts and the stem included), `dense_kernels` (2 axes), `all_kernels` (both),
            `regex:PATTERN`, searched in the slash-joined path of every leaf, or a predicate
            (path, leaf) -> bool.

    Returns:
        The structure of `params` with Python bools: True = prunable.

    Raises:
        InvalidInput: unknown name, broken pattern, or nothing selected.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"conv": {"kernel": jnp.ones((3, 3, 1, 2))}, "norm": {"scale": jnp.ones(2)}}
        >>> select(params, "conv_kernels")
        {'conv': {'kernel': True}, 'norm': {'scale': False}}
    """
    reasons = exclusions(params, layers)
    leaves = named_leaves(params)
    if len(reasons) == len(leaves):
        why = "; ".join(f"{name} {reason}" for name, reason in list(reasons.items())[:8])
        remedy = f"Of {len(leaves)} leaves none belongs: {why or 'there are none'}."
        raise unexpected("layers", layers, "to select at least one parameter", remedy)
    return jax.tree.map_with_path(lambda path, _: path_name(path) not in reasons, params)
