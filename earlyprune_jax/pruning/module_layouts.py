"""What the layers of Equinox, NNX and Linen themselves say of the axes of their kernels.

No library is imported here: whoever has a module of one has imported it.
"""

import collections
import itertools
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

Shape = tuple[int, ...]

Describer = tuple[Any, Callable[[Any], Any]]
"""Types of a library's layers, and what such a layer says of its weights: in Linen letters, in NNX
and Equinox also the shape that one layer has by itself, empty where it has not kept that."""

NAMES = ("kernel", "weight", "weight_ih", "weight_hh")
"""What layers call a kernel; the last two are those of recurrent cells."""

Seen = tuple[str, Shape, object]
"""A leaf's letters, if its layer has said them; its shape there; which module was left last."""

SPATIAL = "DHWX"
KINDS = ("norm", "embedding")


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

    def described(node: Any) -> Any:
        return next((said(node) for kinds, said in describers if isinstance(node, kinds)), None)

    found = {}
    for path, node in jax.tree.leaves_with_path(params, is_leaf=lambda node: bool(described(node))):
        letters, own = described(node) or ("", ())
        for name in NAMES if letters else ():
            for leaf in jax.tree.leaves(getattr(node, name, None)):
                said = letters if letters in KINDS else _stacked(letters, own, np.shape(leaf))
                found[f"{path_name(path)}/{name}".removeprefix("/")] = said
    return found


def said_at_init(init: Callable[..., Any], *args: Any, **options: Any) -> tuple[Any, dict]:
    """Traces what initialises Linen modules, and listens to their layers.

    Args:
        init: any function of arrays.
        args: arrays, or their shapes.
        options: not traced.

    Returns:
        The shapes of what it makes; and the path of each layer's kernel below `params`, with the
        letters of its axes, those of `nn.scan` and `nn.vmap` among them, as of `told_by`.
    """
    linen, seen = sys.modules.get("flax.linen"), {}
    if linen is None:
        return jax.eval_shape(lambda *args: init(*args, **options), *args), {}
    describers = _of_linen(linen)

    def listen(next_call: Any, given: Any, named: Any, context: Any) -> Any:
        outputs, layer = next_call(*given, **named), context.module
        if context.method_name == "__call__" and layer.scope is not None:
            here, kernel = layer.variables.get("params", {}), "/".join((*layer.path, "kernel"))
            _leave(seen, layer.path, here)
            said = next((said for kinds, said in describers if isinstance(layer, kinds)), None)
            if said and kernel in seen and len(said(layer)) == len(seen[kernel][1]):
                seen[kernel] = said(layer), *seen[kernel][1:]
        return outputs

    with linen.intercept_methods(listen):
        made = jax.eval_shape(lambda *args: init(*args, **options), *args)
    leaves = {name.removeprefix("params/"): leaf for name, leaf in named_leaves(made)}
    _leave(seen, (), leaves)
    return made, {path: seen[path][0] for path in leaves if seen[path][0]}


def told_by(model: Any, *args: Any, **options: Any) -> dict[str, str]:
    """Asks the layers of a model what the axes of their kernels are.

    For trees that hold no modules: Linen's params, NNX's states. Linen's layers are met while
    `init` is traced, at no cost.

    Args:
        model: an Equinox or NNX module, or a Linen module.
        args: what the Linen module's `init` takes; arrays, or their shapes.
        options: likewise, by name; not traced.

    Returns:
        What `layouts=` takes: a regular expression for each path -> layout, with ? where a stack
        of layers has axes of one size, any of which may be that of the layers.

    Raises:
        InvalidInput: the model is no module of these libraries.

    Example:
        >>> from flax import linen as nn
        >>> images = np.ones((1, 8, 8, 3))
        >>> told_by(nn.ConvTranspose(5, (3, 3), transpose_kernel=True), jax.random.key(0), images)
        {'^(params/)?kernel(/value)?$': 'HWOI'}
    """
    match library := library_of(model):
        case None:
            allowed = "to be a module of Linen, NNX or Equinox"
            raise unexpected("model", type(model).__name__, allowed)
        case "flax.linen":
            said = said_at_init(model.init, *args, **options)[1]
        case _:
            # A layer that stands in an NNX model at two places has its kernel at the first.
            tree = sys.modules["flax.nnx"].state(model) if library == "flax.nnx" else model
            leaves = {name.removesuffix("/value") for name, _ in named_leaves(tree)}
            said = {path: text for path, text in said_by_modules(model).items() if path in leaves}
    return exactly(said)


def exactly(said: dict[str, str]) -> dict[str, str]:
    """Turns paths into regular expressions that match these paths only."""
    return {rf"^(params/)?{re.escape(path)}(/value)?$": text for path, text in said.items()}


def _leave(seen: dict[str, Seen], path: Sequence[str], params: Params) -> None:
    """Notes the leaves of a module that is left, and the axes that they have only outside of it.

    Leaves that were in one module before, and have got axes since, were transformed together.
    """
    here = {"/".join((*path, name)): np.shape(leaf) for name, leaf in named_leaves(params)}
    together, module = collections.defaultdict(list), object()
    for name, whole in here.items():
        if name in seen and len(seen[name][1]) < len(whole):
            together[seen[name][2]].append((seen[name][1], whole))
    for name, whole in here.items():
        letters, own, inner = seen.get(name, ("", whole, module))
        letters = letters and _stacked(letters, own, whole, together[inner])
        seen[name] = letters, whole, module


def _stacked(
    letters: str, own: Shape, whole: Shape, together: Sequence[tuple[Shape, Shape]] = ()
) -> str:
    """Adds an S for each axis that transformations have added to a kernel.

    Args:
        letters: of the layer by itself.
        own: its shape there.
        whole: its shape now.
        together: both shapes of leaves that have got the same axes as this one.

    Returns:
        The letters of the whole, with ? where other axes would fit as well.
    """
    bare, rank = letters.rstrip("?"), len(whole)
    if rank <= len(bare):
        # Fewer axes than the layer has are those of something reduced, such as a score.
        return letters if rank == len(bare) else plain(rank)
    alone = [(own, whole)]
    places = (_added(together or alone) or _added(alone)) if own else set()
    texts = []
    for axes in places or {tuple(range(rank - len(bare)))}:
        rest, copies = iter(bare), {axis % rank for axis in axes}
        texts.append("".join("S" if axis in copies else next(rest) for axis in range(rank)))
    # What asks for axes does not tell copies of a layer from positions of its window.
    is_sure = places and len({re.sub(f"[{SPATIAL}]", "S", text) for text in texts}) == 1
    return max(texts) + ("" if is_sure and bare == letters else "?")


def _added(together: Sequence[tuple[Shape, Shape]]) -> set[Shape]:
    """Finds the axes that all these leaves may have got: the same, or the last."""
    same, last = [], []
    for own, whole in together:
        axes = itertools.combinations(range(len(whole)), len(whole) - len(own))
        same.append({some for some in axes if np.delete(whole, some).tolist() == [*own]})
        ends = tuple(range(len(own) - len(whole), 0))
        last.append({ends} if whole[: len(own)] == own else set())
    return set.intersection(*same) | set.intersection(*last)


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
    text = re.sub("I+|O+", lambda run: "N" * (len(run[0]) - 1) + run[0][0], "".join(sides))
    return text if "I" in text and "O" in text else ""


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

    def dense(layer: Any) -> tuple[str, Shape]:
        batch, sides = tuple(layer.batch_axis.values()), (layer.in_features, layer.out_features)
        return "S" * len(batch) + general(*map(len, sides)), (*batch, *sum(sides, ()))

    return [
        (nnx.Linear, lambda layer: ("IO", (layer.in_features, layer.out_features))),
        (nnx.LinearGeneral, dense),
        (nnx.Conv, lambda layer: (plain(len(layer.kernel_shape)), layer.kernel_shape)),
        (nnx.ConvTranspose, lambda layer: (_transposed(layer), layer.kernel_shape)),
        (nnx.Einsum, lambda layer: (_einsum(layer), layer.kernel_shape)),
    ]


def _of_equinox() -> list[Describer]:
    nn = getattr(sys.modules.get("equinox"), "nn", None)
    if nn is None:
        return []
    names = ("LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm")
    norms = tuple(getattr(nn, name) for name in names if hasattr(nn, name))

    def conv(layer: Any) -> tuple[str, Shape]:
        sides = layer.out_channels, layer.in_channels // layer.groups
        return "OI" + window(layer.num_spatial_dims), (*sides, *layer.kernel_size)

    return [
        ((nn.Conv, nn.ConvTranspose), conv),
        (nn.Linear, lambda layer: ("OI", (layer.out_features, layer.in_features))),
        ((nn.LSTMCell, nn.GRUCell), lambda _: ("OI", ())),
        (nn.Embedding, lambda _: ("embedding", ())),
        (norms, lambda _: ("norm", ())),
    ]
