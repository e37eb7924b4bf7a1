"""How each operation treats channels: one rule for every primitive, and the table of all."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from earlyprune_jax.pruning.channels import shape_rules as shapes
from earlyprune_jax.pruning.channels.graph import (
    ChannelGraph,
    Kept,
    Rule,
    Step,
    Tensor,
    no_rule,
    select_axes,
    taken,
    whole,
    with_axis,
)

ZERO_WHERE_ANY_IS = ("mul", "and")
ZERO_WHERE_ALL_ARE = (
    "add", "add_any", "sub", "max", "min", "or", "xor", "neg", "abs", "sign", "sqrt", "cbrt",
    "square", "tanh", "sin", "tan", "asin", "atan", "sinh", "asinh", "atanh", "erf", "expm1",
    "log1p", "floor", "ceil", "round", "real", "imag", "conj", "convert_element_type",
    "reduce_precision", "copy", "copy_p", "stop_gradient", "clamp", "select_n",
)  # fmt: skip
NEVER_ZERO = (
    "exp", "exp2", "logistic", "cos", "cosh", "acos", "not", "is_finite", "eq", "ne", "lt", "le",
    "gt", "ge", "nextafter", "atan2", "erfc", "erf_inv",
)  # fmt: skip
SINGULAR_AT_ZERO = ("div", "rsqrt", "log", "rem", "pow", "integer_pow")
"""Elementwise operations with an operand that a mask must not make zero."""


def elementwise(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Lines up the axes of all operands; scalars and axes of size 1 are broadcast."""
    shape = tuple(eqn.outvars[0].aval.shape)
    axes, zeros = [], []
    for place, size in enumerate(shape):
        lined_up, zeros_along = [], []
        for tensor in inputs:
            if tensor.shape and tensor.shape[place] == size:
                lined_up.append(tensor.axes[place])
                zeros_along.append(tensor.zeros[place])
                continue
            # A broadcast axis loses its id, so what a mask does to it is no longer followed.
            zeros_along.append(np.full(size, tensor.all_zero))
            if tensor.shape:
                graph.pin(tensor.axes[place], "has size 1 and is broadcast")
        axes.append(graph.join(lined_up))
        zeros.append(_zero(eqn, zeros_along))
    all_zero = bool(_zero(eqn, [np.asarray(tensor.all_zero) for tensor in inputs]))
    return [Tensor(shape, tuple(axes), tuple(zeros), all_zero)]


def _zero(eqn: Any, zeros: list[np.ndarray]) -> np.ndarray:
    """Says where a result is zero, from where its operands are."""
    name = eqn.primitive.name
    if name in ZERO_WHERE_ANY_IS:
        return np.logical_or.reduce(zeros)
    if name in ZERO_WHERE_ALL_ARE:
        # Which case is selected does not matter, if all are zero.
        return np.logical_and.reduce(zeros[1:] if name == "select_n" else zeros)
    if name == "integer_pow":
        return zeros[0] & (eqn.params["y"] > 0)
    return zeros[0] if name in ("div", "rem") else np.zeros_like(zeros[0])


def singular(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Keeps the indices at which a mask makes an operand zero that must not be."""
    name = eqn.primitive.name
    # 0 ** y is infinite for y < 0, whatever the exponent's own zeros.
    divisor = inputs[0] if name == "pow" else inputs[-1]
    if name != "integer_pow" or eqn.params["y"] < 0:
        for axis, zero in zip(divisor.axes, divisor.zeros, strict=True):
            graph.pin(taken(axis, zero), f"is divided by, or the like, in {name}")
    return elementwise(graph, eqn, inputs)


def convolution(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Sums over input channels and window; depthwise: an input channel and its outputs go
    together."""
    lhs, rhs = inputs
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    (lhs_batch, lhs_in, *lhs_window) = numbers.lhs_spec
    (rhs_out, rhs_in, *rhs_window) = numbers.rhs_spec
    if eqn.params["batch_group_count"] != 1 or groups not in (1, lhs.shape[lhs_in]):
        return no_rule(graph, eqn, inputs, "in groups of several channels")
    for tensor, places in ((lhs, lhs_window), (rhs, rhs_window)):
        for place in places:
            graph.pin(tensor.axes[place], "is a window of a convolution")
    out_axis, out_zero = rhs.axes[rhs_out], rhs.zeros[rhs_out]
    graph.produced.append(out_axis)
    if groups == 1:
        graph.contract(lhs.axes[lhs_in], rhs.axes[rhs_in], lhs.zeros[lhs_in] | rhs.zeros[rhs_in])
    else:
        graph.pin(rhs.axes[rhs_in], "is the one input channel of a depthwise kernel")
        source = np.arange(rhs.shape[rhs_out]) // (rhs.shape[rhs_out] // groups)
        out_axis = graph.join([out_axis, taken(lhs.axes[lhs_in], source)])
        out_zero = out_zero | lhs.zeros[lhs_in][source]
    all_zero = lhs.all_zero or rhs.all_zero
    result = whole(eqn.outvars[0].aval.shape, "is a window of a convolution", all_zero=all_zero)
    out_batch, out_feature = numbers.out_spec[:2]
    result = with_axis(result, out_batch, lhs.axes[lhs_batch], lhs.zeros[lhs_batch])
    return [with_axis(result, out_feature, out_axis, out_zero)]


def _depthwise(step: Step, kept: Kept) -> dict[str, Any]:
    channels = step.eqn.params["dimension_numbers"].lhs_spec[1]
    depthwise = step.eqn.params["feature_group_count"] > 1
    return {"feature_group_count": kept.shape(step.inputs[0])[channels] if depthwise else 1}


def dot_general(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Sums over the contracted axes; batch axes line up, free axes pass."""
    lhs, rhs = inputs
    (lhs_summed, rhs_summed), (lhs_batch, rhs_batch) = eqn.params["dimension_numbers"]
    for one, other in zip(lhs_summed, rhs_summed, strict=True):
        graph.contract(lhs.axes[one], rhs.axes[other], lhs.zeros[one] | rhs.zeros[other])
    axes, zeros = [], []
    for one, other in zip(lhs_batch, rhs_batch, strict=True):
        axes.append(graph.join([lhs.axes[one], rhs.axes[other]]))
        zeros.append(lhs.zeros[one] | rhs.zeros[other])
    for tensor, used in ((lhs, {*lhs_summed, *lhs_batch}), (rhs, {*rhs_summed, *rhs_batch})):
        for place in (place for place in range(len(tensor.shape)) if place not in used):
            graph.produced.append(tensor.axes[place])
            axes.append(tensor.axes[place])
            zeros.append(tensor.zeros[place])
    shape = tuple(eqn.outvars[0].aval.shape)
    return [Tensor(shape, tuple(axes), tuple(zeros), lhs.all_zero or rhs.all_zero)]


def reduction(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Keeps whole what it reduces over: fewer channels would have another mean or maximum."""
    (tensor,), reduced = inputs, eqn.params["axes"]
    for place in reduced:
        graph.pin(tensor.axes[place], f"is reduced over by {eqn.primitive.name}")
    left = [place for place in range(len(tensor.shape)) if place not in reduced]
    return [select_axes(tensor, left, keeps_zero=eqn.primitive.name.startswith("reduce_"))]


_ELEMENTWISE = (*ZERO_WHERE_ANY_IS, *ZERO_WHERE_ALL_ARE, *NEVER_ZERO)
_REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_or", "reduce_and")
_POOLINGS = ("reduce_window_sum", "reduce_window_max", "reduce_window_min")

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, Rule(elementwise)),
    **dict.fromkeys(SINGULAR_AT_ZERO, Rule(singular)),
    **dict.fromkeys((*_REDUCTIONS, "argmax", "argmin"), Rule(reduction)),
    **dict.fromkeys(_POOLINGS, Rule(shapes.window_reduction)),
    "broadcast_in_dim": Rule(shapes.broadcast_in_dim, sizes=shapes.new_shape("shape")),
    "concatenate": Rule(shapes.concatenate),
    "conv_general_dilated": Rule(convolution, sizes=_depthwise),
    "dot_general": Rule(dot_general),
    "dynamic_slice": Rule(shapes.dynamic_slice, sizes=shapes.slice_sizes),
    "gather": Rule(shapes.gather, sizes=shapes.slice_sizes),
    "iota": Rule(shapes.iota),
    "pad": Rule(shapes.pad, sizes=shapes.padding),
    "reshape": Rule(shapes.reshape, sizes=shapes.new_shape("new_sizes")),
    "rev": Rule(shapes.reverse),
    "slice": Rule(shapes.slice_, run=shapes.run_slice),
    "split": Rule(shapes.split, sizes=shapes.split_sizes),
    "squeeze": Rule(shapes.squeeze),
    "transpose": Rule(shapes.transpose),
}
