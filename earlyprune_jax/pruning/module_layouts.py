"""What the layers of Equinox, NNX and Linen themselves say of the axes of their kernels.

No library is imported here: whoever has a module of one has imported it.
"""

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from earlyprune_jax.array_types import Params
from earlyprune_jax.pruning.modules import library_of
from earlyprune_jax.pruning.trees import named_leaves, path_name
from earlyprune_jax.validate import unexpected

Describer = tuple[Any, Callable[[Any], str]]
"""Types of a library's layers, and what such a layer says of its weights."""

NAMES = ("kernel", "weight", "weight_ih", "weight_hh")
"""What layers call a kernel; the last two are those of recurrent cells."""


def plain(rank: int) -> str:
    """Writes the letters of [*spatial, in, out].

    Example:
        >>> plain(4), plain(1)
        ('HWIO', '')
    """
    return window(rank - 2) + "IO" if rank >= 2 else ""


def window(rank: int) -> str:
    """Writes the letters of so many spatial axes."""
    return "DHW"[-rank:] if 0 < rank <= 3 else "X" * rank


def general(num_inputs: int, num_outputs: int) -> str:
    """Writes the letters of a dense kernel with several axes to a side.

    Example:
        >>> general(1, 2), general(2, 1)
        ('INO', 'NIO')
    """
    return "N" * (num_inputs - 1) + "I" + "N" * (num_outputs - 1) + "O"


def said_by_modules(params: Params) -> dict[str, str]:
    """Maps paths to what the Equinox and NNX modules of a tree say of them."""
    describers = [*_of_equinox(), *_of_nnx()]

    def text(node: Any) -> str:
        return next((said(node) for kinds, said in describers if isinstance(node, kinds)), "")

    found = {}
    for path, node in jax.tree.leaves_with_path(params, is_leaf=lambda node: bool(text(node))):
        if layout := text(node):
            above = f"{path_name(path)}/" if path else ""
            found |= {f"{above}{name}": layout for name in NAMES}
    return found


def said_at_init(init: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, dict]:
    """Traces what initialises Linen modules, and listens to their layers.

    Args:
        init: any function of arrays.
        args: arrays, or their shapes.
        options: not traced.

    Returns:
        The shapes of what it makes; and the path of each layer's kernel below `params`, with the
        letters of its axes, those of `nn.scan` and `nn.vmap` among them.
    """
    linen, seen = sys.modules.get("flax.linen"), {}
    if linen is None:
        return jax.eval_shape(lambda *args: init(*args, **options), *args), {}
    describers = [*_of_linen(linen)]

    def listen(next_call: Any, given: Any, named: Any, context: Any) -> Any:
        outputs, layer = next_call(*given, **named), context.module
        said = next((said for kinds, said in describers if isinstance(layer, kinds)), None)
        if said and context.method_name == "__call__" and layer.has_variable("params", "kernel"):
            shape = layer.get_variable("params", "kernel").shape
            seen["/".join((*layer.path, "kernel"))] = said(layer), shape
        return outputs

    with linen.intercept_methods(listen):
        made = jax.eval_shape(lambda *args: init(*args, **options), *args)
    leaves = {name.removeprefix("params/"): np.shape(leaf) for name, leaf in named_leaves(made)}
    return made, {
        path: _stacked(letters, shape, leaves[path])
        for path, (letters, shape) in seen.items()
        if path in leaves and len(letters) == len(shape)
    }


def told_by(model: Any, *args: Any, **options: Any) -> dict[str, str]:
    """Asks the layers of a model what the axes of their kernels are.

    For trees that hold no modules: Linen's params, NNX's states. Linen's layers are met while
    `init` is traced, at no cost.

    Args:
        model: an Equinox or NNX module, or a Linen module.
        args: what the Linen module's `init` takes; arrays, or their shapes.
        options: likewise, by name; not traced.

    Returns:
        What `layouts=` takes: a regular expression for each path -> layout.

    Raises:
        InvalidInput: the model is no module of these libraries.

    Example:
        >>> from flax import linen as nn
        >>> images = np.ones((1, 8, 8, 3))
        >>> told_by(nn.ConvTranspose(5, (3, 3), transpose_kernel=True), jax.random.key(0), images)
        {'^(params/)?kernel(/value)?$': 'HWOI'}
    """
    match library_of(model):
        case None:
            allowed = "to be a module of Linen, NNX or Equinox"
            raise unexpected("model", type(model).__name__, allowed)
        case "flax.linen":
            said = said_at_init(model.init, *args, **options)[1]
        case _:
            leaves = {name.removesuffix("/value") for name, _ in named_leaves(model)}
            said = {path: text for path, text in said_by_modules(model).items() if path in leaves}
    return exactly(said)


def exactly(said: dict[str, str]) -> dict[str, str]:
    """Turns paths into regular expressions that match these paths only."""
    return {rf"^(params/)?{re.escape(path)}(/value)?$": text for path, text in said.items()}


def _stacked(letters: str, shape: tuple[int, ...], whole: tuple[int, ...]) -> str:
    """Adds the axes that transformations of a layer have added to its kernel."""
    if len(whole) <= len(shape):
        return letters
    axes = range(len(whole))
    place = next((a for a in axes if whole[:a] + whole[a + 1 :] == shape), 0)
    return letters[:place] + "S" + letters[place:]


def _einsum(layer: Any) -> str:
    """Reads the axes of an Einsum layer's kernel off its formula, where it has it from the start.

    An axis that stays is an output, one that is summed over an input; one that the inputs have too,
    and that stays, a stack.
    """
    match = re.fullmatch(r"(.*),(\w*)->(.*)", (layer.einsum_str or "").replace(" ", ""))
    if not match:
        return ""
    inputs, kernel, outputs = match.groups()
    sides = ("I" if a not in outputs else "S" if a in inputs else "O" for a in kernel)
    # Neighbours on one side are heads and features.
    return re.sub("I+|O+", lambda run: "N" * (len(run[0]) - 1) + run[0][0], "".join(sides))


def _sides(axes: Any) -> int:
    return len(axes) if isinstance(axes, Sequence) else 1


def _transposed(layer: Any) -> str:
    both = window(_sides(layer.kernel_size)), "OI" if layer.transpose_kernel else "IO"
    return "".join(both)


def _of_linen(nn: Any) -> list[Describer]:
    def dense(layer: Any) -> str:
        stack = "S" * _sides(layer.batch_dims)
        return stack + general(_sides(layer.axis), _sides(layer.features))

    return [
        (nn.Dense, lambda _: "IO"),
        (nn.DenseGeneral, dense),
        (nn.Conv, lambda layer: plain(_sides(layer.kernel_size) + 2)),
        (nn.ConvTranspose, _transposed),
        (nn.Einsum, _einsum),
    ]


def _of_nnx() -> list[Describer]:
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        return []
    return [
        (nnx.Linear, lambda _: "IO"),
        (nnx.LinearGeneral, lambda m: general(len(m.in_features), len(m.out_features))),
        (nnx.Conv, lambda layer: plain(len(layer.kernel_size) + 2)),
        (nnx.ConvTranspose, _transposed),
        (nnx.Einsum, _einsum),
    ]


def _of_equinox() -> list[Describer]:
    nn = getattr(sys.modules.get("equinox"), "nn", None)
    if nn is None:
        return []
    names = ("LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm")
    norms = tuple(getattr(nn, name) for name in names if hasattr(nn, name))
    return [
        ((nn.Conv, nn.ConvTranspose), lambda layer: "OI" + window(layer.num_spatial_dims)),
        ((nn.Linear, nn.LSTMCell, nn.GRUCell), lambda _: "OI"),
        (nn.Embedding, lambda _: "embedding"),
        (norms, lambda _: "norm"),
    ]
