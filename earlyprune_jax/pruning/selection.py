"""Which leaves of a parameter tree may be pruned, chosen by name."""

import re
from collections.abc import Callable
from typing import Any

import jax

from earlyprune_jax.array_types import Params
from earlyprune_jax.validate import InvalidInput, expected, nearest

REGEX_PREFIX = "regex:"


def path_name(path: tuple[Any, ...]) -> str:
    """The slash-joined name of a pytree path, e.g. `stage1_block0/conv1/kernel`.

    Example:
        >>> path_name((jax.tree_util.DictKey("stem_conv"), jax.tree_util.DictKey("kernel")))
        'stem_conv/kernel'
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_kernel(path: str, leaf: Any) -> bool:
    return path.rsplit("/", 1)[-1] == "kernel" and leaf.ndim >= 2


NAMED_SETS: dict[str, Callable[[str, Any], bool]] = {
    "conv_kernels": lambda path, leaf: _is_kernel(path, leaf) and leaf.ndim > 2,
    "dense_kernels": lambda path, leaf: _is_kernel(path, leaf) and leaf.ndim == 2,
    "all_kernels": _is_kernel,
}


def check_layers(layers: str, thing: str = "layers") -> list[str]:
    """The problems of a layer selection's name, before any parameters are known."""
    if layers in NAMED_SETS:
        return []
    if layers.startswith(REGEX_PREFIX):
        try:
            re.compile(layers.removeprefix(REGEX_PREFIX))
        except re.error as error:
            return [expected(thing, layers, "to hold a valid regular expression", f"It says: {error}.")]
        return []
    allowed = f"to be one of {', '.join(NAMED_SETS)}, or {REGEX_PREFIX}PATTERN"
    return [expected(thing, layers, allowed, nearest(layers, NAMED_SETS))]


def select(params: Params, layers: str) -> Any:
    """Marks the leaves that belong to a named set of layers.

    Works on concrete parameters and on `jax.eval_shape` results alike.

    Args:
        params: a pytree of arrays.
        layers: `conv_kernels` (leaves named `kernel` with more than 2 axes: 1x1 shortcuts and
            the stem included), `dense_kernels` (2 axes), `all_kernels`, or `regex:PATTERN`,
            searched in the slash-joined path of every leaf.

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
    problems = check_layers(layers)
    if problems:
        raise InvalidInput(problems)
    if layers in NAMED_SETS:
        belongs = NAMED_SETS[layers]
    else:
        pattern = re.compile(layers.removeprefix(REGEX_PREFIX))
        belongs = lambda path, leaf: pattern.search(path) is not None  # noqa: E731
    selected = jax.tree.map_with_path(lambda path, leaf: belongs(path_name(path), leaf), params)
    if not any(jax.tree.leaves(selected)):
        names = ", ".join(path_name(path) for path, _ in jax.tree.leaves_with_path(params)[:8])
        remedy = f"The paths begin: {names}."
        raise InvalidInput([expected("layers", layers, "to select at least one parameter", remedy)])
    return selected
