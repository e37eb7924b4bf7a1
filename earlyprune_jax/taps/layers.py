"""The Linen layers whose per-example gradients follow from their inputs and output cotangents.

A rule says when it holds (exact classes only: a subclass may do anything to its kernel) and how the
gradients are made. Everything else is left to the caller, with the reason.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from earlyprune_jax.array_types import Array
from earlyprune_jax.taps.convolution import convolution_operands
from earlyprune_jax.taps.gradients import Explicit, Gradient, Product, Scatter


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer, its batch along axis 0.

    Attributes:
        layer: the layer, unbound.
        method: the name of the method called.
        input: what the layer is applied to.
        cotangent: of the call's output, in its shape.
        state: the layer's variables other than its parameters.
    """

    layer: Any
    method: str
    input: Array
    cotangent: Array
    state: Any


@dataclasses.dataclass(frozen=True)
class Rule:
    """How one class of layers is tapped.

    Attributes:
        arguments: method -> the name of the argument that is the layer's input.
        parameters: layer -> the names of its parameters.
        refusal: (layer, input, the call's other arguments that are not None) -> why this call is
            not understood, or nothing.
        gradients: all calls of one layer -> parameter name -> its per-example gradients, added over
            the calls.
    """

    arguments: Mapping[str, str]
    parameters: Callable[[Any], tuple[str, ...]]
    refusal: Callable[[Any, Array, dict[str, Any]], str]
    gradients: Callable[[Sequence[Call]], dict[str, Gradient]]


def read_call(rule: Rule, layer: Any, method: str, args: Any, kwargs: Any) -> tuple[Any, str]:
    """A call's input, and why the rule does not hold for it, or nothing."""
    given = dict(
        inspect.signature(getattr(type(layer), method)).bind(layer, *args, **kwargs).arguments
    )
    given.pop("self", None)
    x = given.pop(rule.arguments[method])
    others = {name: value for name, value in given.items() if value is not None}
    return x, _common_refusal(layer, x) or rule.refusal(layer, x, others)


def compute_type(cotangent: Array) -> Any:
    """What squares are summed in: float32 at least."""
    return jnp.promote_types(cotangent.dtype, jnp.float32)


def _common_refusal(layer: Any, x: Any) -> str:
    if not hasattr(x, "ndim") or x.ndim < 1 or jnp.issubdtype(x.dtype, jnp.complexfloating):
        return "its input is no real array with a batch axis"
    if getattr(layer, "promote_dtype", promote_dtype) is not promote_dtype:
        return "it has a promote_dtype of its own"
    replaced = (
        "dot_general",
        "dot_general_cls",
        "conv_general_dilated",
        "conv_general_dilated_cls",
    )
    for name in (*replaced, "mask", "axis_name"):
        if getattr(layer, name, None) is not None:
            return f"its attribute {name} is set"
    return ""


def _no_other_arguments(layer: Any, x: Array, others: dict[str, Any]) -> str:
    return f"it is called with {', '.join(others)}" if others else ""


def _kernel_and_bias(layer: Any) -> tuple[str, ...]:
    return ("kernel", "bias") if layer.use_bias else ("kernel",)


def _operands(call: Call) -> tuple[Array, Array]:
    """Input and cotangent as the layer's product meets them: rounded to its type, then float32."""
    accurate = compute_type(call.cotangent)
    return call.input.astype(call.cotangent.dtype).astype(accurate), call.cotangent.astype(accurate)


def _by_position(x: Array, num_axes: int) -> Array:
    """[B, ..., the last num_axes axes] -> [B, T, 1, their product]."""
    width = 1
    for size in x.shape[x.ndim - num_axes :]:
        width *= size
    return x.reshape(x.shape[0], -1, 1, width)


def _all_positions(arrays: Sequence[Array]) -> Array:
    """The positions of all calls behind one another."""
    return arrays[0] if len(arrays) == 1 else jnp.concatenate(arrays, axis=1)


def _with_bias(call: Call, kernel: Product) -> dict[str, Gradient]:
    if not call.layer.use_bias:
        return {"kernel": kernel}
    sums = jnp.sum(kernel.cotangents, axis=1)
    return {"kernel": kernel, "bias": Explicit(sums.reshape(sums.shape[0], *kernel.columns))}


def _dense_gradients(calls: Sequence[Call]) -> dict[str, Gradient]:
    operands = [[_by_position(x, 1) for x in _operands(call)] for call in calls]
    inputs, cotangents = (_all_positions(arrays) for arrays in zip(*operands, strict=True))
    kernel = Product((inputs,), cotangents, inputs.shape[3:], cotangents.shape[3:])
    return _with_bias(calls[0], kernel)


def _dense_general_refusal(layer: Any, x: Array, others: dict[str, Any]) -> str:
    if as_tuple(layer.batch_dims):
        return "it has batch_dims"
    if 0 in {axis % x.ndim for axis in as_tuple(layer.axis)}:
        return "it contracts the batch axis"
    return _no_other_arguments(layer, x, others)


def _dense_general_gradients(calls: Sequence[Call]) -> dict[str, Gradient]:
    layer, operands = calls[0].layer, []
    features = as_tuple(layer.features)
    for call in calls:
        x, cotangent = _operands(call)
        # Linen's kernel has the contracted axes in ascending order, whatever order they are given
        # in.
        axes = sorted(axis % x.ndim for axis in as_tuple(layer.axis))
        last = range(x.ndim - len(axes), x.ndim)
        contracted = jnp.moveaxis(x, axes, last)
        operands.append(
            (_by_position(contracted, len(axes)), _by_position(cotangent, len(features)))
        )
        rows = tuple(contracted.shape[axis] for axis in last)
    inputs, cotangents = (_all_positions(arrays) for arrays in zip(*operands, strict=True))
    return _with_bias(calls[0], Product((inputs,), cotangents, rows, features))


def _conv_refusal(layer: Any, x: Array, others: dict[str, Any]) -> str:
    if x.ndim < len(as_tuple(layer.kernel_size)) + 2:
        return "its input has no batch axis"
    return _no_other_arguments(layer, x, others)


def _conv_gradients(calls: Sequence[Call]) -> dict[str, Gradient]:
    operands = [convolution_operands(call.layer, *_operands(call)) for call in calls]
    blocks = tuple(
        _all_positions(arrays) for arrays in zip(*(blocks for blocks, _ in operands), strict=True)
    )
    cotangents = _all_positions([cotangents for _, cotangents in operands])
    rows = (*as_tuple(calls[0].layer.kernel_size), calls[0].input.shape[-1] // cotangents.shape[2])
    return _with_bias(calls[0], Product(blocks, cotangents, rows, (calls[0].layer.features,)))


def _embed_refusal(layer: Any, x: Array, others: dict[str, Any]) -> str:
    return _no_other_arguments(layer, x, others)


def _embed_gradients(calls: Sequence[Call]) -> dict[str, Gradient]:
    layer, kinds = calls[0].layer, {call.method for call in calls}
    if kinds == {"__call__"}:
        indices = [_indices(call) for call in calls]
        cotangents = [_by_position(_operands(call)[1], 1)[:, :, 0] for call in calls]
        return {
            "embedding": Scatter(
                _all_positions(indices), _all_positions(cotangents), layer.num_embeddings
            )
        }
    operands = [_embed_operands(call) for call in calls]
    inputs, cotangents = (_all_positions(arrays) for arrays in zip(*operands, strict=True))
    return {"embedding": Product((inputs,), cotangents, inputs.shape[3:], cotangents.shape[3:])}


def _indices(call: Call) -> Array:
    """[B, T] in [0, V); with one row Linen takes it whatever the index."""
    size = call.layer.num_embeddings
    indices = call.input.reshape(call.input.shape[0], -1)
    return jnp.zeros_like(indices) if size == 1 else jnp.where(indices < 0, indices + size, indices)


def _embed_operands(call: Call) -> tuple[Array, Array]:
    """A lookup multiplies one-hot rows; `attend` multiplies its query by the transposed table."""
    x, cotangent = _operands(call)
    if call.method == "attend":
        return _by_position(cotangent, 1), _by_position(x, 1)
    rows = jax.nn.one_hot(_indices(call), call.layer.num_embeddings, dtype=cotangent.dtype)
    return _by_position(rows, 1), _by_position(cotangent, 1)


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
    return _no_other_arguments(layer, x, others)


def _feature_axes(layer: Any, ndim: int) -> list[int]:
    axes = layer.axis if isinstance(layer, nn.BatchNorm) else getattr(layer, "feature_axes", -1)
    return sorted(axis % ndim for axis in as_tuple(axes))


def _norm_gradients(calls: Sequence[Call]) -> dict[str, Gradient]:
    sums: dict[str, Any] = {}
    for call in calls:
        accurate = compute_type(call.cotangent)
        cotangent = call.cotangent.astype(accurate)
        summed = {"scale": cotangent * _normalized(call, accurate), "bias": cotangent}
        kept = {0, *_feature_axes(call.layer, cotangent.ndim)}
        over = tuple(axis for axis in range(cotangent.ndim) if axis not in kept)
        for name in _scale_and_bias(call.layer):
            sums[name] = sums.get(name, 0) + jnp.sum(summed[name], axis=over)
    return {name: Explicit(total) for name, total in sums.items()}


def _normalized(call: Call, dtype: Any) -> Array:
    """What the layer makes of its input before it scales."""
    off = {name: False for name in ("use_scale", "use_bias") if hasattr(call.layer, name)}
    layer: Any = call.layer.clone(dtype=dtype, **off)
    options = {"use_running_average": True} if layer_is_undecided(layer) else {}
    return layer.apply(dict(call.state), call.input, **options)


def layer_is_undecided(layer: Any) -> bool:
    """Whether a batch norm is told at each call which statistics to use."""
    return isinstance(layer, nn.BatchNorm) and layer.use_running_average is None


def as_tuple(value: Any) -> tuple[Any, ...]:
    """A layer's option, which may be one number for all axes."""
    return tuple(value) if hasattr(value, "__iter__") else (value,)


_NORM = Rule({"__call__": "x"}, _scale_and_bias, _norm_refusal, _norm_gradients)

RULES: dict[type, Rule] = {
    nn.Conv: Rule({"__call__": "inputs"}, _kernel_and_bias, _conv_refusal, _conv_gradients),
    nn.Dense: Rule({"__call__": "inputs"}, _kernel_and_bias, _no_other_arguments, _dense_gradients),
    nn.DenseGeneral: Rule(
        {"__call__": "inputs"}, _kernel_and_bias, _dense_general_refusal, _dense_general_gradients
    ),
    nn.Embed: Rule(
        {"__call__": "inputs", "attend": "query"},
        lambda layer: ("embedding",),
        _embed_refusal,
        _embed_gradients,
    ),
    nn.BatchNorm: dataclasses.replace(_NORM, refusal=_batch_norm_refusal),
    nn.LayerNorm: _NORM,
    nn.RMSNorm: _NORM,
    nn.GroupNorm: _NORM,
}
"""Layer class -> its rule."""
