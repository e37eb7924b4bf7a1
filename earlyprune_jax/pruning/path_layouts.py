"""What path, rank and the neighbours' shapes say of a leaf, where no module does.

`kernel` lies [*spatial, in, out] as in Flax, `weight` [out, in, *spatial] as in Equinox and
PyTorch, unless the bias, which has all output axes, fits another side only.
"""

import collections
import re
from collections.abc import Mapping

from earlyprune_jax.pruning.module_layouts import SPATIAL, Shape, general, plain, window

Scope = dict[str, dict[str, Shape]]
"""The layers of one module: name -> names of their leaves -> shapes."""

KERNEL = r"kernel|weight(_[ih]h(_l\d+)?(_reverse)?)?|in_proj_weight"
BIASES = ("bias", "b")
QUERY = r"([qkv]|query|key|value)(_proj)?"
OUT = r"(o|out|output)(_proj)?"
DENSE_GENERAL = r"DenseGeneral_\d+"
NO_CONVOLUTION = rf"{QUERY}|{OUT}|qkv|(Dense|DenseGeneral|Einsum)(_\d+)?|[hi][ifgonrz]_?"
NORM = r"norms?(_?\d+)?$|^(bn|ln)_?\w{0,2}$"
LOOKED_UP = r"word|tok(en)?|pos(ition(al)?)?|(token_)?type|segment|char|class|label|item|user"
EMBEDDING = rf"(({LOOKED_UP})_)?emb(ed(ding)?)?s?(_(tokens?|positions?))?(_?\d+)?|w[tp]e"


def scopes_of(shapes: Mapping[str, Shape]) -> dict[str, Scope]:
    """Groups leaves by the modules around their layers.

    Example:
        >>> dict(scopes_of({"block/conv/kernel": (3, 3, 1, 8)}))
        {'block': defaultdict(<class 'dict'>, {'conv': {'kernel': (3, 3, 1, 8)}})}
    """
    found: dict[str, Scope] = collections.defaultdict(lambda: collections.defaultdict(dict))
    for path, shape in shapes.items():
        above, layer, name = split(path)
        found[above][layer][name] = shape
    return found


def split(path: str) -> tuple[str, str, str]:
    """Splits a path into those of the module around its layer, the layer and the leaf.

    Dots part names too, as in a flat `state_dict` of PyTorch.

    Example:
        >>> split("block/conv/kernel"), split("conv.weight")
        (('block', 'conv', 'kernel'), ('', 'conv', 'weight'))
    """
    *above, layer, name = ["", *path.replace(".", "/").split("/")]
    return "/".join(above).removeprefix("/"), layer, name


def read(path: str, scope: Scope) -> tuple[str, str, bool]:
    """Reads a leaf's axes, its kind, and whether the axes are no more than a guess.

    Args:
        path: of the leaf.
        scope: the layers beside its own, and that.

    Returns:
        The letters, the kind as of `Layout`, and whether other letters fit as well.
    """
    _, layer, name = split(path)
    shape, bias = scope[layer][name], _bias(scope[layer])
    rank = len(shape)
    if not re.fullmatch(KERNEL, name):
        kind = {"scale": "norm", "embedding": "embedding"}.get(name, "")
        return plain(rank), kind, rank > 2 and not kind and name not in BIASES
    if rank < 2:
        return "", "kernel", False
    if name == "kernel":
        fits, otherwise = _of_kernel(shape, bias), plain(rank)
    else:
        if bias == shape or re.search(NORM, layer, re.IGNORECASE):
            return plain(rank), "norm", False
        if rank == 2 and not bias and re.fullmatch(EMBEDDING, layer):
            return "IO", "embedding", False
        fits, otherwise = _of_weight(shape, bias), "OI" + window(rank - 2)
    letters = fits[0] if fits else otherwise
    if name == "kernel" and (heads := _with_heads(layer, letters, scope)):
        return heads, "kernel", len(fits) > 1
    is_guess = len(fits) > 1 or _may_be_none(path, letters, shape, bias if fits else ())
    return letters, "kernel", is_guess


def _bias(layer: Mapping[str, Shape]) -> Shape:
    return next((layer[name] for name in BIASES if name in layer), ())


def _may_be_none(path: str, letters: str, shape: Shape, bias: Shape) -> bool:
    """Says whether what is read as a convolution may as well be none, or a transposed one.

    Args:
        path: of the leaf.
        letters: as which it is read.
        shape: of the leaf.
        bias: its shape where it fits, else nothing.

    Returns:
        False for what is read as no convolution, too.
    """
    sizes = _sizes(shape, letters, SPATIAL)
    is_square, is_named = len(set(_sizes(shape, letters, "IO"))) == 1, re.search("(?i)conv", path)
    if not sizes:
        return False
    if re.search("(?i)transpose|deconv", path) and (is_square or not bias):
        return True
    if re.fullmatch(NO_CONVOLUTION, split(path)[1]) and (len(sizes) == 1 or not bias):
        return True
    if bias:
        return len(sizes) == 1 and not is_named
    # Windows are told from layers and heads by sides of one length.
    is_uneven = len(set(sizes)) > 1
    if re.search("(?i)scan|vmap", path):
        return True
    return is_uneven and len(sizes) > 2 if is_named else is_uneven or len(sizes) != 2


def _sizes(shape: Shape, letters: str, wanted: str) -> list[int]:
    return [size for size, letter in zip(shape, letters, strict=True) if letter in wanted]


def _of_weight(shape: Shape, bias: Shape) -> list[str]:
    """Reads a weight's axes off its bias: the first side that has its size, in the order of
    PyTorch's layers, its transposed convolutions, and Flax."""
    rank = len(shape)
    while bias[1:] and bias[-1] == 1:  # Equinox's convolutions have it [out, 1, 1].
        bias = bias[:-1]
    if len(bias) == 2 and bias[0] == shape[0] and rank > 2:
        return ["S" + rest for rest in _of_weight(shape[1:], bias[1:])]
    sides = [(0, "OI" + window(rank - 2)), (1, "IO" + window(rank - 2)), (-1, plain(rank))]
    return [letters for axis, letters in sides if (shape[axis],) == bias][:1]


def _of_kernel(shape: Shape, bias: Shape) -> list[str]:
    """Lists what a kernel's axes may be by its bias, which has all outputs and all stacks.

    Example:
        >>> _of_kernel((6, 2, 4), (2, 4)), _of_kernel((2, 6, 4), (2, 4))
        (['INO'], ['SIO'])
    """
    rank, num, found = len(shape), len(bias), []
    if 0 < num < rank and shape[rank - num :] == bias:
        found.append(plain(rank) if num == 1 else general(rank - num, num))
    elif num == 1 and rank > 2 and shape[-2:-1] == bias:
        found.append(window(rank - 2) + "OI")
    # nn.scan puts the layers along any axis, the same for kernel and bias.
    for axis in range(num if 1 < num < rank else 0):
        if shape[axis] == bias[axis]:
            rest = (size[:axis] + size[axis + 1 :] for size in (shape, bias))
            found += [text[:axis] + "S" + text[axis:] for text in _of_kernel(*rest)]
    return list(dict.fromkeys(found))


def _with_heads(layer: str, letters: str, scope: Scope) -> str:
    """Tells attention's kernels from those of convolutions, by the layers beside them."""
    shape, bias = scope[layer]["kernel"], _bias(scope[layer])
    is_general, dense = re.fullmatch(DENSE_GENERAL, layer), re.sub(f"[{SPATIAL}]", "N", letters)
    if dense == letters:
        return ""
    makers = {name: heads for name in scope if (heads := _heads_of(name, scope[name]))}
    others = [heads for name, heads in makers.items() if name != layer]
    may_join = is_general or re.fullmatch(OUT, layer)
    if is_general and bias or may_join and _sizes(shape, dense, "NI") in others:
        return dense
    return "INO" if not bias and layer in makers and (is_general or len(others) > 1) else ""


def _heads_of(name: str, layer: Mapping[str, Shape]) -> list[int]:
    """Returns the sizes of [heads, features] that a layer could make."""
    shape, bias = layer.get("kernel", ()), _bias(layer)
    if not re.fullmatch(f"{QUERY}|{DENSE_GENERAL}", name):
        return []
    fits = _of_kernel(shape, bias) if bias else ["INO"] * (len(shape) == 3)
    made = (_sizes(shape, text, "NO") for text in fits if "NO" in text.replace("S", ""))
    return next(made, [])
