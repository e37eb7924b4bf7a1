"""How each operation treats channels: what becomes of the ids of its operands' axes.

A rule takes the graph, which grows, a jaxpr's equation and its operands, and returns the results.
It may be cautious, never wrong: what it cannot express it keeps whole. Elementwise operations have
no rule of their own: whether an operation is one, and what it makes of zeros, is tried out.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import GatherScatterMode

from earlyprune_jax.pruning.channels.graph import ChannelGraph, Tensor


def no_rule(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor], why: str = "") -> list[Tensor]:
    """Keeps the operands and the results of an operation whole.

    Args:
        graph: what grows.
        eqn: the operation.
        inputs: its operands.
        why: why there is no rule.

    Returns:
        Its results.
    """
    reason = f"goes through {eqn.primitive.name}, {why or 'for which there is no rule'}"
    for tensor in inputs:
        graph.pin(tensor.axes, reason)
    return [graph.fresh(variable.aval.shape, pinned=reason) for variable in eqn.outvars]


def elementwise(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Lines up the axes of all operands; scalars and axes of size 1 are broadcast.

    Args:
        graph: what grows.
        eqn: the operation, whatever it is.
        inputs: its operands.

    Returns:
        Its results; whole ones if the operation is not elementwise.
    """
    if not inputs:
        return [graph.fresh(variable.aval.shape) for variable in eqn.outvars]
    try:
        parameters = tuple(eqn.params.items())
        trial = _tried_at_zero(eqn.primitive, parameters, tuple(v.aval.dtype for v in eqn.invars))
    except TypeError:  # parameters that cannot be hashed: no elementwise operation has such
        trial = None
    if trial is None or eqn.effects or len(eqn.outvars) != 1:
        return no_rule(graph, eqn, inputs)
    shape = eqn.outvars[0].aval.shape
    vanishes, breaks = trial
    axes, zeros = [], []
    for axis, size in enumerate(shape):
        lined_up = []
        # Which operands are zero, one bit for each: where the trial looks it up.
        are_zero = np.zeros(size, int)
        for number, tensor in enumerate(inputs):
            if tensor.shape and tensor.shape[axis] == size:
                lined_up.append(tensor.axes[axis])
                are_zero |= tensor.zeros[axis].astype(int) << number
                continue
            # A broadcast axis loses its id, so what a mask does to it is no longer followed.
            are_zero |= tensor.all_zero << number
            graph.pin(tensor.axes[axis : axis + 1], "has size 1 and is broadcast")
        axes.append(graph.join(lined_up))
        zeros.append(vanishes[are_zero])
        broken = axes[-1][breaks[are_zero]]
        graph.pin([broken], f"is divided by, or the like, in {eqn.primitive.name}")
    all_zero = vanishes[sum(tensor.all_zero << number for number, tensor in enumerate(inputs))]
    return [Tensor(tuple(axes), tuple(zeros), bool(all_zero))]


@functools.cache
def _tried_at_zero(
    primitive: Any, parameters: tuple[Any, ...], dtypes: tuple[Any, ...]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Runs an elementwise primitive on all combinations of 0, 1 and -1; None if it is not one.

    Args:
        primitive: what to run.
        parameters: (name, value) of its parameters.
        dtypes: of its operands.

    Returns:
        Whether its result is zero, and whether it may be no finite number: [2 ** operands] bool
        each, by the operands that are zero: bit k stands for operand k.
    """

    def run(*operands: Any) -> Any:
        return primitive.bind(*operands, **dict(parameters))

    try:
        # What works on scalars knows of no axes.
        if jax.eval_shape(run, *(jax.ShapeDtypeStruct((), dtype) for dtype in dtypes)).shape:
            return None
        trials = np.array(list(itertools.product((0, 1, -1), repeat=len(dtypes)))).T
        with jax.ensure_compile_time_eval():
            operands = [jnp.asarray(t).astype(d) for t, d in zip(trials, dtypes, strict=True)]
            results = np.asarray(run(*operands)).astype(complex)
    except Exception:  # whatever a primitive says to operands that it was not made for
        return None
    are_zero = np.bitwise_or.reduce((trials == 0) << np.arange(len(dtypes))[:, None])
    vanishes, breaks = np.zeros((2, 2 ** len(dtypes)), bool)
    for pattern in range(1, vanishes.size):
        of_pattern = results[are_zero == pattern]
        vanishes[pattern] = not of_pattern.any()
        breaks[pattern] = not np.isfinite(of_pattern).all()
    return vanishes, breaks


def _convolution(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Sums over input channels and window; depthwise: an input channel and its outputs go
    together."""
    lhs, rhs = inputs
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    (lhs_batch, lhs_in, *lhs_window) = numbers.lhs_spec
    (rhs_out, rhs_in, *rhs_window) = numbers.rhs_spec
    if eqn.params["batch_group_count"] != 1 or groups not in (1, lhs.shape[lhs_in]):
        return no_rule(graph, eqn, inputs, "in groups of several channels")
    window = "is a window of a convolution"
    graph.pin(lhs.select(lhs_window).axes + rhs.select(rhs_window).axes, window)
    out_ids, out_zero = rhs.axes[rhs_out], rhs.zeros[rhs_out]
    graph.produced.append(out_ids)
    if groups == 1:
        graph.contract(lhs.axes[lhs_in], rhs.axes[rhs_in], lhs.zeros[lhs_in] | rhs.zeros[rhs_in])
    else:
        graph.pin([rhs.axes[rhs_in]], "is the one input channel of a depthwise kernel")
        source = np.arange(out_ids.size) // (out_ids.size // groups)
        out_ids = graph.join([out_ids, lhs.axes[lhs_in][source]])
        out_zero = out_zero | lhs.zeros[lhs_in][source]
    all_zero = lhs.all_zero or rhs.all_zero
    result = graph.fresh(eqn.outvars[0].aval.shape, all_zero=all_zero)
    out_batch, out_feature, *out_window = numbers.out_spec
    graph.pin(result.select(out_window).axes, window)
    result = result.with_axis(out_batch, lhs.axes[lhs_batch], lhs.zeros[lhs_batch])
    result = result.with_axis(out_feature, out_ids, out_zero)
    graph.convolved += [lhs, rhs, result]
    return [result]


def _dot_general(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Sums over the contracted axes; batch axes line up, free axes pass."""
    lhs, rhs = inputs
    (lhs_summed, rhs_summed), (lhs_batch, rhs_batch) = eqn.params["dimension_numbers"]
    for left, right in zip(lhs_summed, rhs_summed, strict=True):
        graph.contract(lhs.axes[left], rhs.axes[right], lhs.zeros[left] | rhs.zeros[right])
    axes, zeros = [], []
    for left, right in zip(lhs_batch, rhs_batch, strict=True):
        axes.append(graph.join([lhs.axes[left], rhs.axes[right]]))
        zeros.append(lhs.zeros[left] | rhs.zeros[right])
    for tensor, used in ((lhs, {*lhs_summed, *lhs_batch}), (rhs, {*rhs_summed, *rhs_batch})):
        free = tensor.select(axis for axis in range(len(tensor.shape)) if axis not in used)
        graph.produced += free.axes
        axes += free.axes
        zeros += free.zeros
    return [Tensor(tuple(axes), tuple(zeros), lhs.all_zero or rhs.all_zero)]


def _reduction(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Keeps whole what it reduces over: fewer channels would have another mean or maximum."""
    (tensor,), name = inputs, eqn.primitive.name
    reduced = eqn.params["dimensions" if name == "squeeze" else "axes"]
    graph.pin(tensor.select(reduced).axes, f"is reduced over by {name}")
    left = [axis for axis in range(len(tensor.shape)) if axis not in reduced]
    return [tensor.select(left, keeps_zero=name not in ("argmax", "argmin"))]


def _broadcast_in_dim(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gives new and stretched axes ids of their own."""
    (tensor,) = inputs
    result = graph.fresh(eqn.params["shape"], all_zero=tensor.all_zero)
    for source, axis in enumerate(eqn.params["broadcast_dimensions"]):
        if tensor.shape[source] == result.shape[axis]:
            result = result.with_axis(axis, tensor.axes[source], tensor.zeros[source])
        else:
            graph.pin([tensor.axes[source]], "has size 1 and is broadcast")
    return [result]


def _transpose(_: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Permutes the axes."""
    return [inputs[0].select(eqn.params["permutation"])]


def _reshape(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Passes axes that stay, and the largest of merged ones; keeps split axes whole."""
    (tensor, *sizes), shape = inputs, tuple(eqn.params["new_sizes"])
    if sizes or eqn.params["dimensions"] is not None or 0 in shape:
        return no_rule(graph, eqn, inputs)
    result, filled = graph.fresh(shape, all_zero=tensor.all_zero), set()
    # How far apart the entries of an axis lie, old and new.
    old_strides, new_strides = (
        [math.prod(of[axis + 1 :]) for axis in range(len(of))] for of in (tensor.shape, shape)
    )
    axes = range(len(tensor.shape))
    # Of merged axes one can be followed: a free one if there is one, and the largest.
    for axis in sorted(axes, key=lambda p: (graph.is_pinned(tensor.axes[p]), -tensor.shape[p])):
        ids, size, stride = tensor.axes[axis], tensor.shape[axis], old_strides[axis]
        if size == 1:
            graph.pin([ids], "has size 1 and is reshaped")
            continue
        overlapping = [
            new
            for new, new_stride in enumerate(new_strides)
            if new_stride < stride * size and stride < new_stride * shape[new]
        ]
        new = overlapping[0]
        inside = stride % new_strides[new] == 0
        if not inside or new_strides[new] * shape[new] % (stride * size):
            reason = f"is split or mixed, from {[*tensor.shape]} to {[*shape]}"
            graph.pin([ids, *result.select(overlapping).axes], reason)
        elif new in filled:
            graph.pin([ids], "is merged with a larger axis")
        else:
            filled.add(new)
            index = np.arange(shape[new]) * new_strides[new] // stride % size
            result = result.with_axis(new, ids[index], tensor.zeros[axis][index])
    return [result]


def _pad(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gives padding ids of its own, zero where the padding value is."""
    tensor, value = inputs
    axes, zeros = [], []
    for axis, (low, high, interior) in enumerate(eqn.params["padding_config"]):
        ids, zero = tensor.axes[axis], tensor.zeros[axis]
        if interior or min(low, high) < 0:
            reason = "is padded between or cut by pad"
            graph.pin([ids], reason)
            (ids,) = graph.fresh(eqn.outvars[0].aval.shape[axis : axis + 1], pinned=reason).axes
            zero = np.full(ids.size, False)
        else:
            ids = np.concatenate([graph.new_ids(low), ids, graph.new_ids(high)])
            zero = np.pad(zero, (low, high), constant_values=True)
        axes.append(ids)
        # Padding along one axis adds entries to the slices of the others.
        zeros.append(zero & value.all_zero)
    return [Tensor(tuple(axes), tuple(zeros), tensor.all_zero and value.all_zero)]


def _slice(_: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Keeps the ids of the indices taken."""
    (result,), starts = inputs, eqn.params["start_indices"]
    strides = eqn.params["strides"] or (1,) * len(starts)
    cuts = zip(starts, eqn.params["limit_indices"], strides, strict=True)
    for axis, cut in enumerate(cuts):
        result = result.take(axis, np.arange(result.shape[axis])[slice(*cut)])
    return [result]


def _split(_: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Cuts one axis into runs."""
    (tensor,), axis = inputs, eqn.params["axis"]
    starts = np.cumsum(eqn.params["sizes"])[:-1]
    return [tensor.take(axis, run) for run in np.split(np.arange(tensor.shape[axis]), starts)]


def _concatenate(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Puts ids in a row along one axis; the others line up."""
    axes, zeros = [], []
    for axis in range(len(inputs[0].shape)):
        ids = [tensor.axes[axis] for tensor in inputs]
        zero = [tensor.zeros[axis] for tensor in inputs]
        along = axis == eqn.params["dimension"]
        axes.append(np.concatenate(ids) if along else graph.join(ids))
        zeros.append(np.concatenate(zero) if along else np.logical_and.reduce(zero))
    return [Tensor(tuple(axes), tuple(zeros), all(tensor.all_zero for tensor in inputs))]


def _reverse(_: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Turns axes around."""
    # A new tensor even where no axis turns: each stands for one value.
    result = inputs[0].select(range(len(inputs[0].shape)))
    for axis in eqn.params["dimensions"]:
        result = result.take(axis, np.arange(result.shape[axis])[::-1])
    return [result]


def _gather(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Passes axes taken whole (`x[:, ::2]`, a table's features); keeps all others whole."""
    tensor, indices = inputs
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    dropped = {*numbers.collapsed_slice_dims, *getattr(numbers, "operand_batching_dims", ())}
    sliced = [axis for axis in range(len(tensor.shape)) if axis not in dropped]
    passing = {
        axis: out
        for axis, out in zip(sliced, numbers.offset_dims, strict=True)
        if sizes[axis] == tensor.shape[axis] and axis not in numbers.start_index_map
    }
    reason = "is picked from by gather"
    graph.pin(indices.axes, reason)
    # Indices out of range may be filled with nan: nothing is known to be zero then.
    inside = eqn.params["mode"] in (GatherScatterMode.CLIP, GatherScatterMode.PROMISE_IN_BOUNDS)
    tensor = tensor.select(range(len(tensor.shape)), keeps_zero=inside)
    if inside and (taken := _taken(graph, eqn, tensor, indices, passing)):
        return [taken]
    return [_pass_some(graph, eqn, tensor, passing, reason)]


def _taken(
    graph: ChannelGraph, eqn: Any, tensor: Tensor, indices: Tensor, passing: Mapping[int, int]
) -> Tensor | None:
    """Takes known indices along one axis: what `x[..., 2:]`, `x[..., ::-1]` and `x[..., 0]` are
    where some size is not known.

    None if it is anything else. Of the operand's axes `passing` are taken whole, to these places.
    """
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    axes = [axis for axis in range(len(tensor.shape)) if axis not in passing]
    if indices.value is None or axes != list(numbers.start_index_map) or len(axes) != 1:
        return None
    (axis,), starts = axes, np.asarray(indices.value).reshape(-1)
    dropped, single = axis in numbers.collapsed_slice_dims, len(indices.shape) == 1
    if len(indices.shape) > 2 or not (dropped or single):
        return None
    starts = np.clip(starts, 0, tensor.shape[axis] - sizes[axis])
    result = tensor.take(axis, (starts[:, None] + np.arange(sizes[axis])).reshape(-1))
    order = sorted(passing, key=passing.__getitem__)
    if dropped and single:
        graph.pin([result.axes[axis]], "is one that gather picks")
    else:
        places = itertools.count()
        order.insert(next(n for n in places if n not in passing.values()), axis)
    return result.select(order)


def _dynamic_slice(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Passes axes taken whole."""
    tensor, sizes = inputs[0], eqn.params["slice_sizes"]
    passing = {axis: axis for axis, size in enumerate(sizes) if size == tensor.shape[axis]}
    return [_pass_some(graph, eqn, tensor, passing, "is cut by dynamic_slice")]


def _window_reduction(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Pools: passes axes with a window of 1, keeps the others whole."""
    (tensor,), shape = inputs, eqn.outvars[0].aval.shape
    windows = zip(eqn.params["window_dimensions"], eqn.params["padding"], strict=True)
    passing = {
        axis: axis
        for axis, (window, padded) in enumerate(windows)
        if window == 1 and tuple(padded) == (0, 0) and shape[axis] == tensor.shape[axis]
    }
    # A window of zeros may have another value: that of its padding.
    unsure = Tensor(tensor.axes, tensor.zeros)
    return [_pass_some(graph, eqn, unsure, passing, "is a window of a pooling")]


def _pass_some(
    graph: ChannelGraph, eqn: Any, tensor: Tensor, passing: Mapping[int, int], reason: str
) -> Tensor:
    """Passes some axes of an operand, each to the axis of the result; keeps the others whole."""
    result = graph.fresh(eqn.outvars[0].aval.shape, all_zero=tensor.all_zero)
    whole = [axis for axis in range(len(result.shape)) if axis not in passing.values()]
    graph.pin(result.select(whole).axes, reason)
    for axis, ids in enumerate(tensor.axes):
        if axis in passing:
            result = result.with_axis(passing[axis], ids, tensor.zeros[axis])
        else:
            graph.pin([ids], reason)
    return result


_REDUCTIONS = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_or", "reduce_and")
_POOLINGS = ("reduce_window_sum", "reduce_window_max", "reduce_window_min")

RULES: dict[str, Callable[[ChannelGraph, Any, Sequence[Tensor]], list[Tensor]]] = {
    **dict.fromkeys((*_REDUCTIONS, "argmax", "argmin", "squeeze"), _reduction),
    **dict.fromkeys(_POOLINGS, _window_reduction),
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "dot_general": _dot_general,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _reverse,
    "slice": _slice,
    "split": _split,
    "transpose": _transpose,
}
"""(graph, equation, operands) -> results; every other primitive is tried as `elementwise`."""
