"""The Linen layers whose per-example gradients follow from their inputs and output cotangents.

A rule says when it holds (exact classes only: a subclass may do anything to its kernel) and how the
gradients are made. Everything else is left to the caller, with the reason.
"""

import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from flax.linen.dtypes import promote_dtype
from flax.linen.linear import canonicalize_padding

from earlyprune_jax.array_types import Array, accurate
from earlyprune_jax.layer_hooks.gradients import Explicit, Gradient, Product, Scatter, Tied
from earlyprune_jax.models.forward import flat_product

BLOCK_CHANNELS = 48
"""Kernel positions share one product until it has so many rows; with fewer the product runs
slow."""

MAX_BLOCKS = 32

REPLACEABLE = (
    *("dot_general", "dot_general_cls", "conv_general_dilated", "conv_general_dilated_cls"),
    *("mask", "axis_name"),
)
"""Attributes that change what a layer computes, where they are set to other than `flat_product`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Held:
    """A layer as part of a tree's structure: options such as a list of paddings have no hash."""

    layer: Any


@struct.dataclass
class Call:
    """One call of a layer of a known class.

    Attributes:
        input: what the layer is applied to, its batch along axis 0.
        output: what came out; None where not asked for.
        parameters: as the layer saw them; None where not asked for.
        state: the layer's other variables.
        held: the unbound layer.
        refusal: why the call is not understood, or nothing.
        method: that was called.
        cotangent: of the output, in its shape; None before the backward pass.
    """

    input: Any
    output: Any
    parameters: Any
    state: Any
    held: Held = struct.field(pytree_node=False)
    refusal: str = struct.field(pytree_node=False, default="")
    method: str = struct.field(pytree_node=False, default="__call__")
    cotangent: Any = None

    @property
    def layer(self) -> Any:
        """The unbound layer."""
        return self.held.layer


@dataclasses.dataclass(frozen=True)
class Rule:
    """How one class of layers is hooked.

    Attributes:
        argument: the name of the argument of `__call__` that is the layer's input.
        parameters: layer -> the names of its parameters.
        refusal: (layer, input, the call's other arguments that are not None) -> why this call is
            not understood, or nothing; takes out the arguments it knows.
        gradients: all calls of one layer -> parameter name -> its per-example gradients, added over
            the calls.
        others: further methods that are hooked, with the names of their arguments.
    """

    argument: str
    parameters: Callable[[Any], tuple[str, ...]]
    refusal: Callable[[Any, Array, dict[str, Any]], str]
    gradients: Callable[[Sequence[Call]], dict[str, Gradient]]
    others: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def argument_of(self, method: str) -> str | None:
        """Names the argument of a method that is its input; None where it is not hooked."""
        return self.argument if method == "__call__" else self.others.get(method)


def read_call(rule: Rule, layer: Any, method: str, args: Any, kwargs: Any) -> tuple[Any, str]:
    """Reads a call's input, and why the rule does not hold for it, or nothing.

    Args:
        rule: of the layer's class.
        layer: that is called.
        method: of it, one that the rule knows.
        args: what it is called with.
        kwargs: likewise.

    Returns:
        The input, and the reason.
    """
    signature = inspect.signature(getattr(type(layer), method))
    given = dict(signature.bind(layer, *args, **kwargs).arguments)
    given.pop("self", None)
    x = given.pop(rule.argument_of(method) or "")
    others = {name: value for name, value in given.items() if value is not None}
    if not hasattr(x, "ndim") or x.ndim < 1 or jnp.issubdtype(x.dtype, jnp.complexfloating):
        return x, "its input is no real array with a batch axis"
    if getattr(layer, "promote_dtype", promote_dtype) is not promote_dtype:
        return x, "it has a promote_dtype of its own"
    for name in REPLACEABLE:
        value = getattr(layer, name, None)
        if value is not None and value is not flat_product:
            return x, f"its attribute {name} is set"
    refusal = rule.refusal(layer, x, others)
    return x, refusal or (f"it is called with {', '.join(others)}" if others else "")


def as_tuple(value: Any, rank: int = 1) -> tuple[Any, ...]:
    """Reads a layer's option, which may be one number for all axes, or None for 1."""
    if hasattr(value, "__iter__"):
        return tuple(value)
    return (1 if value is None else value,) * rank


def _kernel_and_bias(layer: Any) -> tuple[str, ...]:
    return ("kernel", "bias") if layer.use_bias else ("kernel",)


def _operands(call: Call) -> tuple[Array, Array]:
    """Returns input and cotangent as the layer meets them: rounded to its type, then float32."""
    wide = accurate(call.cotangent.dtype)
    return call.input.astype(call.cotangent.dtype).astype(wide), call.cotangent.astype(wide)


def _by_position(x: Array, num_axes: int) -> Array:
    """Reshapes [B, ..., the last num_axes axes] to [B, T, 1, their product]."""
    return x.reshape(x.shape[0], -1, 1, math.prod(x.shape[x.ndim - num_axes :]))


def _all_positions(arrays: Sequence[Array]) -> Array:
    """Puts the positions of all calls behind one another."""
    return arrays[0] if len(arrays) == 1 else jnp.concatenate(arrays, axis=1)


def _with_bias(call: Call, kernel: Product) -> dict[str, Gradient]:
    if not call.layer.use_bias:
        return {"kernel": kernel}
    return {"kernel": kernel, "bias": Explicit(jnp.sum(kernel.cotangents, axis=1))}


def _dense_refusal(layer: Any, x: Array, others: dict[str, Any]) -> str:
    if as_tuple(getattr(layer, "batch_dims", ())):
        return "it has batch_dims"
    return "it contracts the batch axis" if 0 in _contracted(layer, x.ndim) else ""


def _contracted(layer: Any, ndim: int) -> list[int]:
    # Linen's kernel has the contracted axes in ascending order, whatever order they are given in.
    return sorted(axis % ndim for axis in as_tuple(getattr(layer, "axis", -1)))


def _dense_gradients(calls: Sequence[Call]) -> dict[str, Gradient]:
    """Makes those of `nn.DenseGeneral`; `nn.Dense` is one that contracts the last axis."""
    num_features, operands = len(as_tuple(calls[0].layer.features)), []
    for call in calls:
        x, cotangent = _operands(call)
        axes = _contracted(call.layer, x.ndim)
        x = jnp.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
        operands.append((_by_position(x, len(axes)), _by_position(cotangent, num_features)))
    inputs, cotangents = (_all_positions(arrays) for arrays in zip(*operands, strict=True))
    return _with_bias(calls[0], Product((inputs,), cotangents))


def _conv_refusal(layer: Any, x: Array, others: dict[str, Any]) -> str:
    return "its input has no batch axis" if x.ndim < len(as_tuple(layer.kernel_size)) + 2 else ""


def _conv_gradients(calls: Sequence[Call]) -> dict[str, Gradient]:
    layer, rank = calls[0].layer, len(as_tuple(calls[0].layer.kernel_size))
    groups = layer.feature_group_count
    views, cotangents = [], []
    for call in calls:
        x, cotangent = _operands(call)
        split = x.shape[0], -1, groups
        cotangents.append(cotangent.reshape(*split, cotangent.shape[-1] // groups))
        spatial = cotangent.shape[-rank - 1 : -1]
        of_call = conv_views(layer, x, spatial)
        views.append([view.reshape(*split, x.shape[-1] // groups) for view in of_call])
    channels, number = views[0][0].shape[-1], len(views[0])
    together = max(1, BLOCK_CHANNELS // channels, math.ceil(number / MAX_BLOCKS))
    blocks = []
    for start in range(0, number, together):
        of_block = [of_call[start : start + together] for of_call in views]
        joined = [part[0] if len(part) == 1 else jnp.concatenate(part, -1) for part in of_block]
        blocks.append(_all_positions(joined))
    return _with_bias(calls[0], Product(tuple(blocks), _all_positions(cotangents)))


def conv_views(layer: Any, x: Array, spatial: tuple[int, ...]) -> list[Array]:
    """Takes, for every entry of a kernel, the pixels that it meets.

    kernel gradient[b, k, i, o] = sum_t view_k[b, t, i] cotangent[b, t, o], t over output pixels.

    Args:
        layer: an `nn.Conv`.
        x: [..., *spatial of the input, in].
        spatial: of the output.

    Returns:
        Shifted, strided views of the padded input [batch, *spatial, in], ordered as the kernel is.
    """
    size = as_tuple(layer.kernel_size)
    x = x.reshape(-1, *x.shape[-len(size) - 1 :])
    strides, dilation, input_dilation = (
        as_tuple(option, len(size))
        for option in (layer.strides, layer.kernel_dilation, layer.input_dilation)
    )
    window = [(length - 1) * step + 1 for length, step in zip(size, dilation, strict=True)]
    if layer.padding in ("CIRCULAR", "REFLECT"):
        around = [(0, 0), *(((length - 1) // 2, length // 2) for length in window), (0, 0)]
        mode = "wrap" if layer.padding == "CIRCULAR" else "reflect"
        padded = jnp.pad(x, around, mode=mode)
    else:
        pads = canonicalize_padding(layer.padding, len(size))
        if pads == "CAUSAL":
            pads = [(window[0] - 1, 0)]
        elif isinstance(pads, str):
            pads = jax.lax.padtype_to_pads(x.shape[1:-1], window, strides, pads)
        inner = [(*pad, step - 1) for pad, step in zip(pads, input_dilation, strict=True)]
        padded = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *inner, (0, 0, 0)])
    views = []
    for position in itertools.product(*map(range, size)):
        starts = [index * step for index, step in zip(position, dilation, strict=True)]
        limits = [
            start + (length - 1) * stride + 1
            for start, length, stride in zip(starts, spatial, strides, strict=True)
        ]
        corners = (0, *starts, 0), (x.shape[0], *limits, x.shape[-1])
        views.append(jax.lax.slice(padded, *corners, (1, *strides, 1)))
    return views


def _embed_gradients(calls: Sequence[Call]) -> dict[str, Gradient]:
    """Makes those of lookups, of products with the embedding (`attend`), or of both."""
    lookups = [call for call in calls if call.method == "__call__"]
    operands = [_operands(call) for call in calls if call.method != "__call__"]
    if not operands:
        return {"embedding": _lookup_gradients(lookups)}
    # Transposed: what the embedding's rows multiply are the cotangents.
    queries, rows = (
        _all_positions([_by_position(array, 1) for array in arrays])
        for arrays in zip(*operands, strict=True)
    )
    attended = Product((rows,), queries)
    return {"embedding": Tied(_lookup_gradients(lookups), attended) if lookups else attended}


def _lookup_gradients(calls: Sequence[Call]) -> Scatter:
    size, indices, cotangents = calls[0].layer.num_embeddings, [], []
    for call in calls:
        of_call = call.input.reshape(call.input.shape[0], -1)
        # With one row Linen takes it whatever the index.
        of_call = of_call * 0 if size == 1 else jnp.where(of_call < 0, of_call + size, of_call)
        indices.append(of_call)
        cotangents.append(_by_position(_operands(call)[1], 1)[:, :, 0])
    return Scatter(_all_positions(indices), _all_positions(cotangents))


def _scale_and_bias(layer: Any) -> tuple[str, ...]:
    has_bias = getattr(layer, "use_bias", False)
    return (("scale",) if layer.use_scale else ()) + (("bias",) if has_bias else ())


def _batch_norm_refusal(layer: Any, x: Array, others: dict[str, Any]) -> str:
    frozen = layer.use_running_average, others.pop("use_running_average", None)
    if True not in frozen:
        return "it takes its statistics from the batch"
    return _norm_refusal(layer, x, others)


def _norm_refusal(layer: Any, x: Array, others: dict[str, Any]) -> str:
    if 0 in _feature_axes(layer, x.ndim) or x.ndim < 2:
        return "it scales along the batch axis"
    reduced = getattr(layer, "reduction_axes", None)
    if reduced is not None and 0 in {axis % x.ndim for axis in as_tuple(reduced)}:
        return "it normalises over the batch axis"
    return ""


def _feature_axes(layer: Any, ndim: int) -> list[int]:
    axes = layer.axis if isinstance(layer, nn.BatchNorm) else getattr(layer, "feature_axes", -1)
    return sorted(axis % ndim for axis in as_tuple(axes))


def _norm_gradients(calls: Sequence[Call]) -> dict[str, Gradient]:
    sums: dict[str, Any] = {}
    for call in calls:
        _, cotangent = _operands(call)
        # What the layer makes of its input before it scales.
        off = {name: False for name in ("use_scale", "use_bias") if hasattr(call.layer, name)}
        layer: Any = call.layer.clone(dtype=cotangent.dtype, **off)
        # A batch norm may be told at each call which statistics to use.
        is_undecided = getattr(layer, "use_running_average", True) is None
        options = {"use_running_average": True} if is_undecided else {}
        normalized = layer.apply(dict(call.state), call.input, **options)
        summed = {"scale": cotangent * normalized, "bias": cotangent}
        kept = {0, *_feature_axes(call.layer, cotangent.ndim)}
        over = tuple(axis for axis in range(cotangent.ndim) if axis not in kept)
        for name in _scale_and_bias(call.layer):
            sums[name] = sums.get(name, 0) + jnp.sum(summed[name], axis=over)
    return {name: Explicit(total) for name, total in sums.items()}


_DENSE = Rule("inputs", _kernel_and_bias, _dense_refusal, _dense_gradients)
_NORM = Rule("x", _scale_and_bias, _norm_refusal, _norm_gradients)

RULES: dict[type, Rule] = {
    nn.Conv: Rule("inputs", _kernel_and_bias, _conv_refusal, _conv_gradients),
    nn.Dense: _DENSE,
    nn.DenseGeneral: _DENSE,
    nn.Embed: Rule(
        *("inputs", lambda layer: ("embedding",), lambda layer, x, others: "", _embed_gradients),
        others={"attend": "query"},
    ),
    nn.BatchNorm: dataclasses.replace(_NORM, refusal=_batch_norm_refusal),
    nn.LayerNorm: _NORM,
    nn.RMSNorm: _NORM,
    nn.GroupNorm: _NORM,
}
"""Layer class -> its rule."""
