"""Which leaves of a parameter tree may be pruned, and why the others may not."""

import re
from collections.abc import Callable
from typing import Any

import jax

from earlyprune_jax.array_types import Params
from earlyprune_jax.pruning.layouts import Layout, Layouts, find, warn_of_guesses
from earlyprune_jax.pruning.modules import function_problems
from earlyprune_jax.pruning.trees import is_weight, named_leaves, path_name, refuse, repeated_paths
from earlyprune_jax.validate import expected, nearest, unexpected

REGEX_PREFIX = "regex:"
Layers = str | Callable[[str, Any], bool]
"""A named set, `regex:PATTERN`, or a predicate on (path, leaf)."""

Exclusion = Callable[[Layout], str]
"""Why a leaf does not belong to a set, or nothing if it does."""


def _kernels(*, conv: bool, dense: bool) -> Exclusion:
    """Makes the set of the kernels with spatial axes, of those without, or of both."""

    def excluded(layout: Layout) -> str:
        if layout.kind != "kernel":
            kinds = {"norm": "is a norm", "embedding": "is an embedding"}
            return kinds.get(layout.kind, "is not named kernel or weight")
        if not layout.axes:
            return "has fewer than 2 axes, kernels have 2 or more"
        if layout.spatial:
            if layout.is_guess and not dense:
                return f"may be no convolution ({layout}), `layouts` can say what it is"
            return "" if conv else f"has spatial axes ({layout}), dense kernels have none"
        return "" if dense else f"has no spatial axis ({layout}), conv kernels have"

    return excluded


NAMED_SETS: dict[str, Exclusion] = {
    "conv_kernels": _kernels(conv=True, dense=False),
    "dense_kernels": _kernels(conv=False, dense=True),
    "all_kernels": _kernels(conv=True, dense=True),
}


def check_layers(layers: Layers, thing: str = "layers") -> list[str]:
    """Finds the problems of a layer selection, before any parameters are known."""
    if callable(layers):
        return function_problems(thing, layers, "(path, leaf)")
    if isinstance(layers, str) and layers in NAMED_SETS:
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


def exclusions(params: Params, layers: Layers, layouts: Layouts | None = None) -> dict[str, str]:
    """Maps the path to the reason for every leaf that may not be pruned.

    Args:
        params: any pytree; shapes are enough.
        layers: as in `select`.
        layouts: as in `select`.

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
    found, reasons = find(params, layouts), {}
    for name, leaf in named_leaves(params):
        if not is_weight(leaf):
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            reasons[name] = f"is of type {kind}, not a floating-point array"
        elif callable(layers):
            reasons[name] = "" if layers(name, leaf) else "the predicate left it out"
        elif layers in NAMED_SETS:
            reasons[name] = NAMED_SETS[layers](found[name])
        else:
            pattern = layers.removeprefix(REGEX_PREFIX)
            reasons[name] = "" if re.search(pattern, name) else f"does not match {pattern}"
    return {name: reason for name, reason in reasons.items() if reason}


def select(params: Params, layers: Layers, layouts: Layouts | None = None) -> Any:
    """Marks the leaves that belong to a set of layers.

    Works on concrete parameters and on `jax.eval_shape` results alike. Leaves that are not
    floating-point arrays never belong, whatever the set.

    Args:
        params: any pytree.
        layers: `conv_kernels` (kernels with spatial axes that are no guess: 1x1 shortcuts and the
            stem included), `dense_kernels` (without, attention's too), `all_kernels` (both, guesses
            too), `regex:PATTERN`,
            searched in the slash-joined path of every leaf, or a predicate (path, leaf) -> bool.
        layouts: what leaves are, where `layouts.find` cannot tell: regular expression -> letters
            of a kernel's axes such as `HWIO`, `OIHW` or `INO`, `norm` or `embedding`. What
            `layouts.told_by(module, ...)` returns.

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
    reasons = exclusions(params, layers, layouts)
    leaves = named_leaves(params)
    if len(reasons) == len(leaves):
        why = "; ".join(f"{name} {reason}" for name, reason in list(reasons.items())[:8])
        remedy = f"Of {len(leaves)} leaves none belongs: {why or 'there are none'}."
        raise unexpected("layers", layers, "to select at least one parameter", remedy)
    if layers in ("conv_kernels", "dense_kernels"):
        found, shaped = find(params, layouts), [pair for pair in leaves if is_weight(pair[1])]
        triples = ((name, leaf.shape, found[name]) for name, leaf in shaped)
        warn_of_guesses(leaf for leaf in triples if leaf[2].kind == "kernel")
    return jax.tree.map_with_path(lambda path, _: path_name(path) not in reasons, params)
