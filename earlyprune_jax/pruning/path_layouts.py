"""What path, rank and the neighbours' shapes say of a leaf, where no module does.

`kernel` lies [*spatial, in, out] as in Flax, `weight` [out, in, *spatial] as in Equinox and
PyTorch, unless the bias, which has all output axes, fits another side only.
"""

import collections
import re
from collections.abc import Mapping

from earlyprune_jax.pruning.module_layouts import general, plain, window

Shape = tuple[int, ...]

Scope = dict[str, dict[str, Shape]]
"""The layers of one module: name -> names of their leaves -> shapes."""

KERNEL = r"kernel|weight(_[ih]h(_l\d+)?(_reverse)?)?|in_proj_weight"
QUERY = r"([qkv]|query|key|value)(_proj)?"
OUT = r"(o|out|output)(_proj)?"
DENSE_GENERAL = r"DenseGeneral_\d+"
NO_CONVOLUTION = rf"{QUERY}|(Dense|DenseGeneral|Einsum)(_\d+)?|[hi][ifgonrz]_?"
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

    Example:
        >>> split("block/conv/kernel"), split("kernel")
        (('block', 'conv', 'kernel'), ('', '', 'kernel'))
    """
    *above, layer, name = ["", *path.split("/")]
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
    if name == "kernel":
        letters = _of_kernel(layer, scope)
        return letters or plain(len(shape)), "kernel", not letters and _is_guess(path, shape, bias)
    if not re.fullmatch(KERNEL, name):
        kind = {"scale": "norm", "embedding": "embedding"}.get(name, "")
        return plain(len(shape)), kind, False
    if len(shape) < 2:
        return "", "kernel", False
    if bias == shape or re.search(NORM, layer, re.IGNORECASE):
        return plain(len(shape)), "norm", False
    if len(shape) == 2 and not bias and re.fullmatch(EMBEDDING, layer):
        return "IO", "embedding", False
    letters = _of_weight(shape, bias)
    otherwise = "OI" + window(len(shape) - 2)
    return letters or otherwise, "kernel", not letters and _is_guess(path, shape, bias)


def _bias(layer: Mapping[str, Shape]) -> Shape:
    shape = layer.get("bias", layer.get("b", ()))
    while shape[1:] and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _is_guess(path: str, shape: Shape, bias: Shape) -> bool:
    """Says whether a leaf of at least 3 axes may as well be no convolution, or a transposed one."""
    if len(shape) < 3:
        return False
    if re.search("(?i)transpose|deconv", path) or re.search("(?i)scan|vmap", path) and not bias:
        return True
    if re.fullmatch(NO_CONVOLUTION, split(path)[1]):
        return True
    # Kernels of 4 axes, and of 5 with a bias, are taken for convolutions whatever their names.
    return not re.search("(?i)conv", path) and (len(shape) == 3 or len(shape) > 4 and not bias)


def _of_weight(shape: Shape, bias: Shape) -> str:
    """Reads a weight's axes off its bias: the first side that has its size, in the order of
    PyTorch's layers, its transposed convolutions, and Flax."""
    if len(bias) == 2 and bias[0] == shape[0] and len(shape) > 2:
        rest = _of_weight(shape[1:], bias[1:])
        return rest and "S" + rest
    rank = len(shape)
    sides = [(0, "OI" + window(rank - 2)), (1, "IO" + window(rank - 2)), (-1, plain(rank))]
    return next((letters for axis, letters in sides if (shape[axis],) == bias), "")


def _of_kernel(layer: str, scope: Scope) -> str:
    """Reads a kernel's axes off its bias and its neighbours; nothing where these do not tell."""
    shape, bias = scope[layer]["kernel"], _bias(scope[layer])
    if len(shape) < 3:
        return plain(len(shape))
    if len(bias) > 1:
        return _with_axes_of_bias(layer, scope)
    if bias and re.fullmatch(DENSE_GENERAL, layer):
        return general(len(shape) - 1, 1)
    if (shape[-2],) == bias != (shape[-1],):
        return window(len(shape) - 2) + "OI"
    if (shape[-2],) != bias == (shape[-1],) and len(shape) > 3:
        return plain(len(shape))
    if heads := _with_heads(layer, scope):
        return heads
    is_stack = not bias and any(_is_stacked(name, scope, shape[0]) for name in scope)
    return _of_stack(layer, scope) if is_stack else ""


def _with_axes_of_bias(layer: str, scope: Scope) -> str:
    shape, bias = scope[layer]["kernel"], _bias(scope[layer])
    rank, num = len(shape), len(bias)
    # Where both fit: layers with as many axes as 4 are a stack rather than heads in and out.
    is_stack = _is_stacked(layer, scope, shape[0])
    if bias == shape[rank - num :] and num < rank and (rank == 3 or not is_stack):
        return general(rank - num, num)
    if is_stack:
        return _of_stack(layer, scope)
    # nn.scan puts the layers along any axis, the same for kernel and bias.
    for axis in range(1, rank):
        for place in range(num):
            left = shape[:axis] + shape[axis + 1 :], bias[:place] + bias[place + 1 :]
            if num == 2 and bias[place] == shape[axis] and left[0][-1:] == left[1]:
                letters = plain(rank - 1)
                return letters[:axis] + "S" + letters[axis:]
    return ""


def _is_stacked(layer: str, scope: Scope, size: int) -> bool:
    """Says whether a layer's kernel and bias both begin with an axis of so many copies."""
    shape, bias = scope[layer].get("kernel", ()), _bias(scope[layer])
    is_longer = 1 < len(bias) < len(shape)
    return is_longer and shape[0] == bias[0] == size and bias[1:] == shape[1 - len(bias) :]


def _of_stack(layer: str, scope: Scope) -> str:
    size = scope[layer]["kernel"][0]
    single = {
        name: {leaf: shape[1:] for leaf, shape in leaves.items() if shape[:1] == (size,)}
        for name, leaves in scope.items()
    }
    return "S" + (_of_kernel(layer, single) or plain(len(single[layer]["kernel"])))


def _with_heads(layer: str, scope: Scope) -> str:
    """Tells attention's kernels from those of 1-d convolutions, by the layers beside them."""
    shape, is_general = scope[layer]["kernel"], re.fullmatch(DENSE_GENERAL, layer)
    may_join = is_general or re.fullmatch(OUT, layer)
    if len(shape) != 3 or not (may_join or re.fullmatch(QUERY, layer)):
        return ""
    makers = {name for name in scope if _makes_heads(name, scope[name])}
    if may_join and any(shape[:2] == scope[name]["kernel"][1:] for name in makers - {layer}):
        return "NIO"
    return "INO" if is_general or layer in makers and len(makers) > 2 else ""


def _makes_heads(name: str, layer: Mapping[str, Shape]) -> bool:
    """Says whether a layer could be [in, heads, features]."""
    has_two_axes = len(layer.get("bias", (0, 0))) == 2
    has_three = len(layer.get("kernel", ())) == 3
    return has_two_axes and has_three and bool(re.fullmatch(f"{QUERY}|{DENSE_GENERAL}", name))
