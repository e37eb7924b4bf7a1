"""How each operation passes on the ids of its operands' axes: one rule for each primitive.

A rule takes the graph, the equation and the operands, and returns the results. It may be
cautious, never wrong: what it cannot express it keeps whole.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from earlyprune_jax.pruning.channels import shape_rules as shapes
from earlyprune_jax.pruning.channels.graph import (
    Axis,
    ChannelGraph,
    Tensor,
    no_rule,
    select_axes,
    taken,
    whole,
    with_axis,
)

Rule = Callable[[ChannelGraph, Any, Sequence[Tensor]], list[Tensor]]

ZERO_WHERE_ANY_IS = ("mul", "and")
ZERO_WHERE_ALL_ARE = (
    "add", "add_any", "sub", "max", "min", "or", "xor", "neg", "abs", "sign", "sqrt", "cbrt", "square",
    "tanh", "sin", "tan", "asin", "atan", "sinh", "asinh", "atanh", "erf", "expm1", "log1p", "floor", "ceil",
    "round", "real", "imag", "conj", "convert_element_type", "reduce_precision", "copy", "copy_p",
    "stop_gradient", "clamp", "select_n",
)  # fmt: skip
NEVER_ZERO = (
    "exp", "exp2", "logistic", "cos", "cosh", "acos", "not", "is_finite", "eq", "ne", "lt", "le",
    "gt", "ge", "nextafter", "atan2", "erfc", "erf_inv",
)  # fmt: skip
SINGULAR_AT_ZERO = ("div", "rsqrt", "log", "rem", "pow", "integer_pow")
"""Elementwise operations with an operand that a mask must not make zero."""


def elementwise(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Lines up the axes of all operands; scalars and axes of size 1 are broadcast."""
    shape, name = eqn.outvars[0].aval.shape, eqn.primitive.name
    axes, zeros = [], []
    for place, size in enumerate(shape):
        lined_up = []
        for tensor in inputs:
            if tensor.shape and tensor.shape[place] == size:
                lined_up.append(tensor.axes[place])
            elif tensor.shape:
                graph.pin(tensor.axes[place], "has size 1 and is broadcast")
        axes.append(graph.join(lined_up))
        zeros.append(_zero(name, [_zero_along(tensor, place, size) for tensor in inputs]))
    all_zero = bool(_zero(name, [np.asarray(tensor.all_zero) for tensor in inputs]))
    return [Tensor(tuple(shape), tuple(axes), tuple(zeros), all_zero)]


def _zero_along(tensor: Tensor, place: int, size: int) -> np.ndarray:
    if not tensor.shape or tensor.shape[place] != size:
        # A broadcast axis loses its id, so what a mask does to it is no longer followed.
        return np.full(size, tensor.all_zero)
    return tensor.zeros[place]


def _zero(name: str, zeros: list[np.ndarray]) -> np.ndarray:
    if name in ZERO_WHERE_ANY_IS:
        return np.logical_or.reduce(zeros)
    if name == "select_n":
        return np.logical_and.reduce(zeros[1:])
    if name in ZERO_WHERE_ALL_ARE:
        return np.logical_and.reduce(zeros)
    return zeros[0] if name in ("div", "rem") else np.zeros_like(zeros[0])


def singular(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Elementwise, infinite or undefined where an operand is zero: indices a mask makes so are
    kept."""
    # 0 ** y is infinite for y < 0, whatever the exponent's own zeros.
    divisor = inputs[0] if eqn.primitive.name == "pow" else inputs[-1]
    if eqn.primitive.name != "integer_pow" or eqn.params["y"] < 0:
        for axis, zero in zip(divisor.axes, divisor.zeros, strict=True):
            if not isinstance(axis, str) and zero.any():
                graph.pin(axis[zero], f"is divided by, or the like, in {eqn.primitive.name}")
        return elementwise(graph, eqn, inputs)
    (result,) = elementwise(graph, eqn, inputs)
    positive = eqn.params["y"] > 0
    zeros = tuple(zero & positive for zero in inputs[0].zeros)
    return [Tensor(result.shape, result.axes, zeros, inputs[0].all_zero and positive)]


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
    _produce(graph, out_axis)
    if groups == 1:
        graph.contract(lhs.axes[lhs_in], rhs.axes[rhs_in], lhs.zeros[lhs_in] | rhs.zeros[rhs_in])
    else:
        graph.pin(rhs.axes[rhs_in], "is the one input channel of a depthwise kernel")
        source = np.arange(rhs.shape[rhs_out]) // (rhs.shape[rhs_out] // groups)
        out_axis = graph.join([out_axis, taken(lhs.axes[lhs_in], source)])
        out_zero = out_zero | lhs.zeros[lhs_in][source]
    result = whole(
        eqn.outvars[0].aval.shape,
        "is a window of a convolution",
        all_zero=lhs.all_zero or rhs.all_zero,
    )
    out_batch, out_feature = numbers.out_spec[:2]
    result = with_axis(result, out_batch, lhs.axes[lhs_batch], lhs.zeros[lhs_batch])
    return [with_axis(result, out_feature, out_axis, out_zero)]


def _produce(graph: ChannelGraph, axis: Axis) -> None:
    if not isinstance(axis, str):
        graph.produced.append(axis)


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
            _produce(graph, tensor.axes[place])
            axes.append(tensor.axes[place])
            zeros.append(tensor.zeros[place])
    shape = tuple(eqn.outvars[0].aval.shape)
    return [Tensor(shape, tuple(axes), tuple(zeros), lhs.all_zero or rhs.all_zero)]


def reduction(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Keeps whole what it reduces over: fewer channels would have another mean or maximum."""
    (tensor,) = inputs
    for place in eqn.params["axes"]:
        graph.pin(tensor.axes[place], f"is reduced over by {eqn.primitive.name}")
    keeps_zero = eqn.primitive.name.startswith("reduce_")
    return [
        select_axes(
            tensor, [p for p in range(len(tensor.shape)) if p not in eqn.params["axes"]], keeps_zero
        )
    ]


def window_reduction(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Pooling: axes with a window of 1 pass, the others stay whole."""
    (tensor,) = inputs
    result = whole(eqn.outvars[0].aval.shape, "is a window of a pooling")
    for place, window in enumerate(eqn.params["window_dimensions"]):
        padding = eqn.params["padding"][place]
        if window == 1 and tuple(padding) == (0, 0) and result.shape[place] == tensor.shape[place]:
            result = with_axis(result, place, tensor.axes[place], tensor.zeros[place])
        else:
            graph.pin(tensor.axes[place], "is a window of a pooling")
    return [result]


RULES: dict[str, Rule] = {
    **dict.fromkeys((*ZERO_WHERE_ANY_IS, *ZERO_WHERE_ALL_ARE, *NEVER_ZERO), elementwise),
    **dict.fromkeys(SINGULAR_AT_ZERO, singular),
    **dict.fromkeys(
        ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_or", "reduce_and"),
        reduction,
    ),
    **dict.fromkeys(("argmax", "argmin"), reduction),
    **dict.fromkeys(
        ("reduce_window_sum", "reduce_window_max", "reduce_window_min"), window_reduction
    ),
    "broadcast_in_dim": shapes.broadcast_in_dim,
    "concatenate": shapes.concatenate,
    "conv_general_dilated": convolution,
    "dot_general": dot_general,
    "dynamic_slice": shapes.dynamic_slice,
    "gather": shapes.gather,
    "iota": shapes.iota,
    "pad": shapes.pad,
    "reshape": shapes.reshape,
    "rev": shapes.reverse,
    "slice": shapes.slice_,
    "split": shapes.split,
    "squeeze": shapes.squeeze,
    "transpose": shapes.transpose,
}
