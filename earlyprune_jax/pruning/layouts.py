"""What every leaf of a parameter tree is: kernel, norm or embedding, and what its axes mean.

The only place that decides it. A module says it by itself where the tree holds one (Equinox, whole
NNX modules); else path, rank and the neighbours' shapes do. `layouts=` overrules both.
"""

import collections
import dataclasses
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax

from earlyprune_jax.array_types import Params
from earlyprune_jax.pruning.trees import is_weight, named_leaves, path_name, refuse
from earlyprune_jax.validate import expected

Layouts = Mapping[str, str]
"""Regular expression -> layout: the first that is found in a leaf's path says what the leaf is."""

Shapes = dict[str, tuple[int, ...]]

Describer = tuple[Any, Callable[[Any], str]]
"""Types of a library's layers, and what such a layer says of its kernel or weight."""

KINDS = ("norm", "embedding")
SPATIAL = "DHWX"
LETTERS = f"{SPATIAL}NIOS"
NAMES = ("kernel", "weight")
QUERY = r"([qkv]|query|key|value)(_proj)?"
OUT = r"(o|out|output)(_proj)?"
DENSE_GENERAL = r"DenseGeneral_\d+"
NORM = r"norm(_?\d+)?$|^(bn|ln)(_?\d+)?$"


@dataclasses.dataclass(frozen=True)
class Layout:
    """What one leaf is.

    Attributes:
        axes: a letter per axis: I input, O output, D, H, W (or X) spatial, S stacked copies of a
            layer, N heads, which belong to the input or output axis that comes next. Empty for
            fewer than 2 axes.
        kind: `kernel`, `norm`, `embedding`, or empty for all else, such as biases.

    Example:
        >>> query = Layout("INO")       # [inputs, heads, features]
        >>> query.inputs, query.outputs, query.sizes((6, 2, 4))
        ((0,), (1, 2), (6, 8))
    """

    axes: str = ""
    kind: str = "kernel"

    def __str__(self) -> str:
        """Writes the letters of a kernel, the kind of other leaves."""
        return self.axes if self.kind == "kernel" else self.kind

    @property
    def inputs(self) -> tuple[int, ...]:
        """Returns the axes that together are the input."""
        return self._places("I")

    @property
    def outputs(self) -> tuple[int, ...]:
        """Returns the axes that together are the output."""
        return self._places("O")

    @property
    def spatial(self) -> tuple[int, ...]:
        """Returns the axes of a convolution's window."""
        return self._places(SPATIAL)

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of one layer as [*spatial, in, out]; of unknown axes, `shape`.

        Example:
            >>> Layout("OIHW").sizes((16, 8, 3, 5))
            (3, 5, 8, 16)
        """
        if not self.axes:
            return shape
        joined = (math.prod(shape[axis] for axis in side) for side in (self.inputs, self.outputs))
        return (*(shape[axis] for axis in self.spatial), *joined)

    def matrices(self, array: Any) -> Any:
        """Cuts an array into its matrices [positions and copies, in, out].

        Example:
            >>> import numpy as np
            >>> Layout("OIHW").matrices(np.zeros((16, 8, 3, 5))).shape
            (15, 8, 16)
        """
        moved = array.transpose(self._places(f"S{SPATIAL}") + self.inputs + self.outputs)
        return moved.reshape(-1, *self.sizes(array.shape)[-2:])

    def _places(self, letters: str) -> tuple[int, ...]:
        sides = re.sub("N+([IO])", lambda match: match[1] * len(match[0]), self.axes)
        return tuple(axis for axis, letter in enumerate(sides) if letter in letters)


def last_name(path: str) -> str:
    """Returns the name of a leaf within its layer.

    Example:
        >>> last_name("conv/kernel/value")
        'kernel'
    """
    # A whole NNX module, unlike its state, shows the field in which a variable holds its array.
    return path.removesuffix("/value").rsplit("/", 1)[-1]


def find(params: Params, layouts: Layouts | None = None) -> dict[str, Layout]:
    """Decides what every floating-point leaf of a tree is.

    In this order: what `layouts` says; the module that holds the leaf (Equinox's and NNX's `Linear`
    and convolutions, Equinox's norms and `Embedding`, NNX's `LinearGeneral`); path and rank.
    `kernel` lies [*spatial, in, out] as in Flax, `weight` [out, in, *spatial] as in Equinox and
    PyTorch. A `kernel` whose `bias` has several axes has as many output axes, or is a stack of
    layers; attention's query, key and value are [in, heads, features], its out [heads, features,
    out]. A `weight` is a norm if its `bias` has its shape, or its layer is called one.

    Args:
        params: any pytree; shapes are enough.
        layouts: regular expression -> letters as of `Layout`, `norm` or `embedding`.

    Returns:
        Path -> layout. Leaves that are not floating-point arrays are not in it.

    Raises:
        InvalidInput: patterns that match no leaf, letters that are none or not as many as axes.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"conv": {"kernel": jnp.ones((3, 3, 1, 2)), "bias": jnp.ones(2)}}
        >>> {path: str(layout) for path, layout in find(params).items()}
        {'conv/bias': '', 'conv/kernel': 'HWIO'}
    """
    refuse(check_layouts(layouts, params))
    leaves = {name: tuple(leaf.shape) for name, leaf in named_leaves(params) if is_weight(leaf)}
    shapes = {name.removesuffix("/value"): shape for name, shape in leaves.items()}
    known, makers, found = _said_by_modules(params), _makers_of_heads(shapes), {}
    for name, shape in leaves.items():
        path = name.removesuffix("/value")
        told = [text for pattern, text in (layouts or {}).items() if re.search(pattern, name)]
        said = told[0] if told else known.get(path)
        found[name] = _read(said, len(shape)) if said else _by_path(path, shapes, makers)
    return found


def check_layouts(layouts: Layouts | None, params: Params) -> list[str]:
    """Finds the problems of layouts that a user gives.

    Example:
        >>> check_layouts({"a": "OI"}, {"a": jax.numpy.ones((1, 2, 3))})
        ["Expected layout at a='OI' to have 3 letters, one per axis."]
    """
    if layouts is None:
        return []
    if not isinstance(layouts, Mapping):
        return [expected("layouts", layouts, "to map regular expressions to layouts")]
    problems = [text for pair in layouts.items() for text in _check_pair(*pair)]
    leaves = [] if problems else [pair for pair in named_leaves(params) if is_weight(pair[1])]
    for pattern, text in {} if problems else layouts.items():
        matched = [(name, leaf.ndim) for name, leaf in leaves if re.search(pattern, name)]
        if not matched:
            problems.append(expected("layouts", pattern, "to be found in the path of some leaf"))
        problems += [
            expected(f"layout at {name}", text, f"to have {rank} letters, one per axis")
            for name, rank in matched
            if text not in KINDS and rank != len(text)
        ]
    return problems


def _check_pair(pattern: Any, text: Any) -> list[str]:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        allowed = "to hold a valid regular expression"
        return [expected("layouts", pattern, allowed, f"It says: {error}.")]
    if text in KINDS:
        return []
    is_known = isinstance(text, str) and set(text) <= set(LETTERS) and "I" in text and "O" in text
    if is_known and len(re.findall("[IO]", text)) == 2 and not re.search("N(?![NIO])", text):
        return []
    allowed = f"to be {' or '.join(KINDS)}, or a letter per axis, e.g. HWIO, OIHW, IO, INO"
    remedy = f"Of {', '.join(LETTERS)}: I and O once, N (heads) just before one of them."
    return [expected(f"layouts[{pattern!r}]", text, allowed, remedy)]


def _read(said: str, rank: int) -> Layout:
    """Makes the layout that a user or a module names; a module's may be stacked by vmap."""
    if said in KINDS:
        return Layout(plain(rank), said)
    # Fewer axes than a module's layer has are those of something reduced, such as a score.
    return Layout("S" * (rank - len(said)) + said if rank >= len(said) else plain(rank))


def plain(rank: int) -> str:
    """Writes the letters of [*spatial, in, out].

    Example:
        >>> plain(4), plain(1)
        ('HWIO', '')
    """
    return _window(rank - 2) + "IO" if rank >= 2 else ""


def _window(rank: int) -> str:
    return "DHW"[-rank:] if 0 < rank <= 3 else "X" * rank


def _general(num_inputs: int, num_outputs: int) -> str:
    return "N" * (num_inputs - 1) + "I" + "N" * (num_outputs - 1) + "O"


def _by_path(path: str, shapes: Shapes, makers: Mapping[str, Shapes]) -> Layout:
    name, shape = last_name(path), shapes[path]
    parent = path.removesuffix(name)
    layer, bias = "".join(parent.split("/")[-2:-1]), shapes.get(f"{parent}bias", ())
    if name.startswith("weight") and len(shape) >= 2:
        if bias == shape or re.search(NORM, layer, re.IGNORECASE):
            return Layout(plain(len(shape)), "norm")
        if len(shape) == 2 and re.fullmatch(r"(tok(en)?_)?embed(ding)?s?|wte|wpe", layer):
            return Layout("IO", "embedding")
        return Layout("OI" + _window(len(shape) - 2), "kernel" if name in NAMES else "")
    if name == "kernel":
        beside = makers.get("/".join(["", *parent.split("/")][:-2]), {})
        has_heads = len(bias) < 2 and _with_heads(parent, layer, shapes, beside)
        return Layout(has_heads or _with_bias(shape, bias))
    if name == "weight":
        return Layout()
    kind = {"scale": "norm", "embedding": "embedding"}.get(name, "")
    return Layout(plain(len(shape)), kind)


def _with_bias(shape: tuple[int, ...], bias: tuple[int, ...]) -> str:
    """Reads the axes of a Flax kernel off its bias, which has all output axes."""
    num = len(bias)
    if num < 2 or num >= len(shape):
        return plain(len(shape))
    is_stack = bias[0] == shape[0] and bias[1:] == shape[1 - num :]
    # Where both fit: layers with as many axes as 4 are a stack rather than heads in and out.
    if bias == shape[-num:] and (len(shape) == 3 or not is_stack):
        return _general(len(shape) - num, num)
    return "S" + _with_bias(shape[1:], bias[1:]) if is_stack else plain(len(shape))


def _with_heads(parent: str, layer: str, shapes: Shapes, makers: Shapes) -> str:
    """Tells attention's kernels from those of 1-d convolutions, by the layers beside them."""
    shape, is_general = shapes[f"{parent}kernel"], re.fullmatch(DENSE_GENERAL, layer)
    may_join = is_general or re.fullmatch(OUT, layer)
    if len(shape) != 3 or not (may_join or re.fullmatch(QUERY, layer)):
        return ""
    if is_general and f"{parent}bias" in shapes:
        return "NIO"
    others = [made for name, made in makers.items() if name != layer]
    if may_join and any(shape[:2] == made[1:] for made in others):
        return "NIO"
    return "INO" if is_general or layer in makers and len(makers) > 2 else ""


def _makers_of_heads(shapes: Shapes) -> dict[str, Shapes]:
    """Maps a module's path to its layers that could be [in, heads, features], by their names."""
    found = collections.defaultdict(dict)
    for path in (path for path, shape in shapes.items() if len(shape) == 3):
        *above, layer, name = ["", *path.split("/")]
        has_two_axes = len(shapes.get(f"{path.removesuffix(name)}bias", (0, 0))) == 2
        if name == "kernel" and has_two_axes and re.fullmatch(f"{QUERY}|{DENSE_GENERAL}", layer):
            found["/".join(above)][layer] = shapes[path]
    return found


def _said_by_modules(params: Params) -> dict[str, str]:
    """Maps paths to what the Equinox and NNX modules of a tree say of them."""
    describers = _of_equinox() + _of_nnx()

    def text(node: Any) -> str:
        return next((made(node) for kind, made in describers if isinstance(node, kind)), "")

    said = {}
    for path, node in jax.tree.leaves_with_path(params, is_leaf=lambda node: bool(text(node))):
        if layout := text(node):
            above = f"{path_name(path)}/" if path else ""
            said |= {f"{above}{name}": layout for name in NAMES}
    return said


def _of_equinox() -> list[Describer]:
    nn = getattr(sys.modules.get("equinox"), "nn", None)
    if nn is None:
        return []
    names = ("LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm")
    norms = tuple(getattr(nn, name) for name in names if hasattr(nn, name))
    return [
        ((nn.Conv, nn.ConvTranspose), lambda layer: "OI" + _window(layer.num_spatial_dims)),
        (nn.Linear, lambda _: "OI"),
        (nn.Embedding, lambda _: "embedding"),
        (norms, lambda _: "norm"),
    ]


def _of_nnx() -> list[Describer]:
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        return []

    def transposed(layer: Any) -> str:
        window = _window(len(layer.kernel_size))
        return window + ("OI" if layer.transpose_kernel else "IO")

    return [
        (nnx.Linear, lambda _: "IO"),
        (nnx.LinearGeneral, lambda m: _general(len(m.in_features), len(m.out_features))),
        (nnx.Conv, lambda layer: plain(len(layer.kernel_size) + 2)),
        (nnx.ConvTranspose, transposed),
    ]
