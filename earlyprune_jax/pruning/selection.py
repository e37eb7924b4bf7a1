"""Which leaves of a parameter tree may be pruned, and why the others may not."""

import re
from collections.abc import Callable
from typing import Any

import jax

from earlyprune_jax.array_types import Params
from earlyprune_jax.pruning.trees import is_weight, named_leaves, path_name, repeated_paths
from earlyprune_jax.validate import InvalidInput, expected, nearest, unexpected

REGEX_PREFIX = "regex:"
KERNEL_NAMES = ("kernel", "weight")

Layers = str | Callable[[str, Any], bool]
"""A named set, `regex:PATTERN`, or a predicate on (path, leaf)."""

Exclusion = Callable[[str, Any], str]
"""Why the leaf at a path does not belong to a set, or nothing if it does."""


def _not_a_kernel(path: str, leaf: Any) -> str:
    # A whole NNX module, unlike its state, shows the field in which a variable holds its array.
    name = path.removesuffix("/value").rsplit("/", 1)[-1]
    if name not in KERNEL_NAMES:
        return f"is not named {' or '.join(KERNEL_NAMES)}"
    return "" if leaf.ndim >= 2 else f"has {leaf.ndim} axes, kernels have 2 or more"


def _not_a_conv_kernel(path: str, leaf: Any) -> str:
    return _not_a_kernel(path, leaf) or (
        "" if leaf.ndim > 2 else "has 2 axes, conv kernels have more"
    )


def _not_a_dense_kernel(path: str, leaf: Any) -> str:
    return _not_a_kernel(path, leaf) or (
        "" if leaf.ndim == 2 else f"has {leaf.ndim} axes, dense kernels 2"
    )


NAMED_SETS: dict[str, Exclusion] = {
    "conv_kernels": _not_a_conv_kernel,
    "dense_kernels": _not_a_dense_kernel,
    "all_kernels": _not_a_kernel,
}


def check_layers(layers: str, thing: str = "layers") -> list[str]:
    """The problems of a layer selection's name, before any parameters are known."""
    if isinstance(layers, str) and layers in NAMED_SETS:
        return []
    if isinstance(layers, str) and layers.startswith(REGEX_PREFIX):
        return check_pattern(layers.removeprefix(REGEX_PREFIX), thing)
    allowed = f"to be one of {', '.join(NAMED_SETS)}, or {REGEX_PREFIX}PATTERN"
    return [expected(thing, layers, allowed, nearest(layers, NAMED_SETS))]


def check_pattern(pattern: str, thing: str) -> list[str]:
    """The problem of a regular expression that does not compile, if it does not."""
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        return [
            expected(thing, pattern, "to hold a valid regular expression", f"It says: {error}.")
        ]
    return []


def exclusions(params: Params, layers: Layers) -> dict[str, str]:
    """Path -> reason for every leaf that may not be pruned.

    Args:
        params: any pytree; shapes are enough.
        layers: as in `select`.

    Raises:
        InvalidInput: unknown name or broken pattern; two leaves with one path.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"conv": {"kernel": jnp.ones((3, 3, 1, 2)), "bias": jnp.ones(2)}, "steps": 7}
        >>> exclusions(params, "conv_kernels")
        {'conv/bias': 'is not named kernel or weight', 'steps': 'is of type int, not a floating-point array'}
    """
    excluded = _exclusion(layers)
    if problems := repeated_paths(params):
        raise InvalidInput(problems)
    reasons = {
        name: _not_a_weight(leaf) or excluded(name, leaf) for name, leaf in named_leaves(params)
    }
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


def _not_a_weight(leaf: Any) -> str:
    if is_weight(leaf):
        return ""
    kind = (
        f"an array of {leaf.dtype}" if hasattr(leaf, "dtype") else f"of type {type(leaf).__name__}"
    )
    return f"is {kind}, not a floating-point array"


def _exclusion(layers: Layers) -> Exclusion:
    if callable(layers):
        return lambda path, leaf: "" if layers(path, leaf) else "the predicate left it out"
    problems = check_layers(layers)
    if problems:
        raise InvalidInput(problems)
    if layers in NAMED_SETS:
        return NAMED_SETS[layers]
    pattern = re.compile(layers.removeprefix(REGEX_PREFIX))
    return lambda path, leaf: "" if pattern.search(path) else f"does not match {pattern.pattern}"
