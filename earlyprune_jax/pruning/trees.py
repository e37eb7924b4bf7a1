"""Answers what every other module here asks of a pytree: its leaves' names, and which are weights.

Parameters come as Linen dicts, NNX states, Equinox modules, lists, tuples or one bare array,
and may hold leaves that are no weights: integer arrays, keys, functions, Python numbers.
"""

import collections
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Array, Params
from earlyprune_jax.validate import expected, shortened
from earlyprune_jax.validate import refuse as refuse


def path_name(path: tuple[Any, ...]) -> str:
    """Makes the slash-joined name of a pytree path, e.g. `stage1_block0/conv1/kernel`.

    The field in which an NNX variable holds its array is left out, so that the same network has
    the same names in Linen and NNX.

    Example:
        >>> path_name((jax.tree_util.DictKey("stem_conv"), jax.tree_util.DictKey("kernel")))
        'stem_conv/kernel'
        >>> path_name((jax.tree_util.DictKey("kernel"), jax.tree_util.GetAttrKey("value")))
        'kernel'
    """
    match path:
        case [*_, jax.tree_util.DictKey(), jax.tree_util.GetAttrKey(name="value" | "raw_value")]:
            path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_weight(leaf: Any) -> bool:
    """Says whether a leaf is an array of floating-point or complex numbers, or the shape of one.

    Example:
        >>> is_weight(jnp.zeros(2)), is_weight(jnp.arange(2)), is_weight(0.5), is_weight(jnp.tanh)
        (True, False, False, False)
    """
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and hasattr(leaf, "shape") and jnp.issubdtype(dtype, jnp.inexact)


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Lists (name, leaf) of every leaf, in the tree's own order.

    Example:
        >>> named_leaves({"b": 1, "a": [2, 3]})
        [('a/0', 2), ('a/1', 3), ('b', 1)]
    """
    return [(path_name(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]


def repeated_paths(tree: Any) -> list[str]:
    """Finds the problems of a tree in which two leaves have one name.

    Example:
        >>> repeated_paths({"a/b": 1, "a": {"b": 2}})
        ["Expected path='a/b' to be that of one leaf. Rename a key with a slash in it."]
    """
    counts = collections.Counter(name for name, _ in named_leaves(tree))
    allowed, remedy = "to be that of one leaf", "Rename a key with a slash in it."
    return [expected("path", n, allowed, remedy) for n, count in counts.items() if count > 1]


def split_leaves(
    tree: Any, chosen: Iterable[Any]
) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """Splits off some leaves of a tree, and gives the function that puts others in their place.

    Args:
        tree: any pytree.
        chosen: for every leaf, in the tree's order, whether it is split off.

    Returns:
        The chosen leaves, and a function from as many values to the structure of `tree` with these
        values where the chosen leaves were.

    Example:
        >>> chosen, merge = split_leaves({"a": 1, "b": 2}, [False, True])
        >>> chosen, merge([5])
        ([2], {'a': 1, 'b': 5})
    """
    leaves, treedef = jax.tree.flatten(tree)
    indices = [index for index, take in enumerate(chosen) if take]

    def merge(values: Sequence[Any]) -> Any:
        filled = list(leaves)
        for index, value in zip(indices, values, strict=True):
            filled[index] = value
        return jax.tree.unflatten(treedef, filled)

    return [leaves[index] for index in indices], merge


def split_weights(params: Params) -> tuple[list[Array], Callable[[Sequence[Any]], Params]]:
    """Splits off the weights of a tree, as `split_leaves` does.

    What is differentiated, scored or traced is the list, so other leaves never reach `jax.grad`.

    Example:
        >>> weights, merge = split_weights({"act": jnp.tanh, "w": jnp.ones(2)})
        >>> merge([2 * weight for weight in weights])["w"].tolist()
        [2.0, 2.0]
    """
    return split_leaves(params, map(is_weight, jax.tree.leaves(params)))


def marked_leaves(tree: Any, prunable: Any) -> list[tuple[str, Any]]:
    """Lists (name, leaf) of every leaf that a tree of Python bools marks.

    Raises:
        InvalidInput: `prunable` has not the structure of the tree.

    Example:
        >>> marked_leaves({"a": 1, "b": 2}, {"a": False, "b": True})
        [('b', 2)]
    """
    refuse(structure_problems("prunable", prunable, tree))
    flags = jax.tree.leaves(prunable)
    return [named for named, take in zip(named_leaves(tree), flags, strict=True) if take]


def map_weights(function: Callable[..., Any], params: Any, *others: Any) -> Any:
    """Applies a function to every weight; other leaves become zeros of their shape.

    Args:
        function: (leaf of params, leaves of the others) -> array.
        params: any pytree.
        others: trees of the structure of `params`.

    Returns:
        A tree of the structure of `params`.

    Example:
        >>> map_weights(jnp.abs, {"n": 3, "w": jnp.array([-1.0])})
        {'n': array(0., dtype=float32), 'w': Array([1.], dtype=float32)}
    """

    def map_leaf(leaf: Any, *rest: Any) -> Any:
        return function(leaf, *rest) if is_weight(leaf) else np.zeros(np.shape(leaf), np.float32)

    refuse(tree_problems("params", params))
    return jax.tree.map(map_leaf, params, *others)


def tree_problems(thing: str, given: Any) -> list[str]:
    """Says that a name, a function or a Linen module is no tree of arrays.

    Example:
        >>> tree_problems("params", jnp.tanh)[0].partition(". ")[2]
        'A name, a function or a module is no tree of arrays: give what it makes or returns.'
    """
    is_leaf = jax.tree_util.treedef_is_leaf(jax.tree.structure(given))
    if not (is_leaf and (isinstance(given, str) or callable(given))):
        return []
    remedy = "A name, a function or a module is no tree of arrays: give what it makes or returns."
    return [expected(thing, given, "to be a tree of arrays", remedy)]


def structure_problems(thing: str, given: Any, wanted: Any) -> list[str]:
    """Says why a tree has not the structure of another, leaf by leaf; nothing if it has.

    Args:
        thing: what the tree is called in the problems.
        given: the tree.
        wanted: the tree whose structure it should have.

    Returns:
        The problems.

    Example:
        >>> structure_problems("mask", {"a": 1, "c": 1}, {"a": 1, "b": 1})[0].split(". ")[0]
        "Expected mask at='b' to be there"
    """
    if jax.tree.structure(given) == jax.tree.structure(wanted):
        return []
    if problems := tree_problems(thing, given):
        return problems
    given_names, wanted_names = dict(named_leaves(given)), dict(named_leaves(wanted))
    remedy = "Make both from the same tree: is one only a part, such as its ['params']?"
    missing = [name for name in wanted_names if name not in given_names]
    extra = [name for name in given_names if name not in wanted_names]
    problems = shortened([expected(f"{thing} at", n, "to be there", remedy) for n in missing])
    problems += shortened([expected(f"{thing} at", n, "not to be there", remedy) for n in extra])
    if problems:
        return problems
    kinds = f"{jax.tree.structure(given)}"[:200]
    remedy = "The paths agree. For an optimizer's mask: get_mask(..., like=params)."
    return [expected(f"structure of {thing}", kinds, "to be that of the tree", remedy)]


def likeness_problems(thing: str, given: Any, wanted: Any) -> list[str]:
    """Says why a tree has not the structure of another, or not its leaves' shapes.

    Args:
        thing: what the tree is called in the problems.
        given: the tree.
        wanted: the tree that it should be like.

    Returns:
        The problems.

    Example:
        >>> likeness_problems("mask", {"a": np.ones(2)}, {"a": np.ones(3)})
        ['Expected shape of mask at a=(2,) to be (3,), that of the leaf.']
    """
    shapes = {name: np.shape(leaf) for name, leaf in named_leaves(wanted)}
    problems = [
        expected(f"shape of {thing} at {n}", np.shape(leaf), f"to be {shapes[n]}, that of the leaf")
        for n, leaf in named_leaves(given)
        if n in shapes and np.shape(leaf) != shapes[n]
    ]
    return structure_problems(thing, given, wanted) + shortened(problems)


def few(names: Iterable[str], at_most: int) -> str:
    """Lists the first of many names, and how many more there are.

    Example:
        >>> few(["a", "b", "c"], at_most=2)
        'a, b and 1 more'
    """
    names = list(names)
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
