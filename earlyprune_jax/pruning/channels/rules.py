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
from jax import lax

from earlyprune_jax.pruning.channels.graph import ChannelGraph, Kept, Step, Tensor, taken_along


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


def convolution(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
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


def dot_general(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
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


def reduction(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Keeps whole what it reduces over: fewer channels would have another mean or maximum."""
    (tensor,), reduced = inputs, eqn.params["axes"]
    graph.pin(tensor.select(reduced).axes, f"is reduced over by {eqn.primitive.name}")
    left = [axis for axis in range(len(tensor.shape)) if axis not in reduced]
    return [tensor.select(left, keeps_zero=eqn.primitive.name.startswith("reduce_"))]


def broadcast_in_dim(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gives new and stretched axes ids of their own."""
    (tensor,) = inputs
    result = graph.fresh(eqn.params["shape"], all_zero=tensor.all_zero)
    for source, axis in enumerate(eqn.params["broadcast_dimensions"]):
        if tensor.shape[source] == result.shape[axis]:
            result = result.with_axis(axis, tensor.axes[source], tensor.zeros[source])
        else:
            graph.pin([tensor.axes[source]], "has size 1 and is broadcast")
    return [result]


def transpose(_: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Permutes the axes."""
    return [inputs[0].select(eqn.params["permutation"])]


def squeeze(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Drops axes of size 1."""
    (tensor,), dropped = inputs, eqn.params["dimensions"]
    graph.pin(tensor.select(dropped).axes, "has size 1 and is dropped")
    return [tensor.select(axis for axis in range(len(tensor.shape)) if axis not in dropped)]


def reshape(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Passes axes that stay, and the largest of merged ones; keeps split axes whole."""
    (tensor, *sizes), shape = inputs, tuple(eqn.params["new_sizes"])
    if sizes or eqn.params["dimensions"] is not None or 0 in shape:
        return no_rule(graph, eqn, inputs)
    result, filled = graph.fresh(shape, all_zero=tensor.all_zero), set()
    # How far apart the entries of an axis lie, old and new.
    old_strides, new_strides = _strides(tensor.shape), _strides(shape)
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


def _strides(shape: Sequence[int]) -> list[int]:
    """Counts the entries from one index of every axis to the next."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def pad(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
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


def slice_(_: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Keeps the ids of the indices taken."""
    (result,) = inputs
    for axis, cut in enumerate(_cuts(eqn)):
        result = result.take(axis, np.arange(result.shape[axis])[slice(*cut)])
    return [result]


def _cuts(eqn: Any) -> list[tuple[int, int, int]]:
    """Returns (start, limit, stride) of every axis."""
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    return list(zip(starts, limits, eqn.params["strides"] or (1,) * len(starts), strict=True))


def split(_: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Cuts one axis into runs."""
    (tensor,), axis = inputs, eqn.params["axis"]
    starts = np.cumsum(eqn.params["sizes"])[:-1]
    return [tensor.take(axis, run) for run in np.split(np.arange(tensor.shape[axis]), starts)]


def concatenate(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Puts ids in a row along one axis; the others line up."""
    axes, zeros = [], []
    for axis in range(len(inputs[0].shape)):
        ids = [tensor.axes[axis] for tensor in inputs]
        zero = [tensor.zeros[axis] for tensor in inputs]
        along = axis == eqn.params["dimension"]
        axes.append(np.concatenate(ids) if along else graph.join(ids))
        zeros.append(np.concatenate(zero) if along else np.logical_and.reduce(zero))
    return [Tensor(tuple(axes), tuple(zeros), all(tensor.all_zero for tensor in inputs))]


def reverse(_: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Turns axes around."""
    # A new tensor even where no axis turns: each stands for one value.
    result = inputs[0].select(range(len(inputs[0].shape)))
    for axis in eqn.params["dimensions"]:
        result = result.take(axis, np.arange(result.shape[axis])[::-1])
    return [result]


def gather(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
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
    # Indices out of range may be filled with nan: nothing is known to be zero.
    unknown = tensor.select(range(len(tensor.shape)), keeps_zero=False)
    return [_pass_some(graph, eqn, unknown, passing, reason)]


def dynamic_slice(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Passes axes taken whole."""
    tensor, sizes = inputs[0], eqn.params["slice_sizes"]
    passing = {axis: axis for axis, size in enumerate(sizes) if size == tensor.shape[axis]}
    return [_pass_some(graph, eqn, tensor, passing, "is cut by dynamic_slice")]


def window_reduction(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
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
    **dict.fromkeys((*_REDUCTIONS, "argmax", "argmin"), reduction),
    **dict.fromkeys(_POOLINGS, window_reduction),
    "broadcast_in_dim": broadcast_in_dim,
    "concatenate": concatenate,
    "conv_general_dilated": convolution,
    "dot_general": dot_general,
    "dynamic_slice": dynamic_slice,
    "gather": gather,
    "pad": pad,
    "reshape": reshape,
    "rev": reverse,
    "slice": slice_,
    "split": split,
    "squeeze": squeeze,
    "transpose": transpose,
}
"""(graph, equation, operands) -> results; every other primitive is tried as `elementwise`."""


def _padding(step: Step, kept: Kept) -> tuple[tuple[int, int, int], ...]:
    """Pads with as many entries as are left of the padding."""
    config = list(step.eqn.params["padding_config"])
    for axis, (low, high, interior) in enumerate(config):
        stays = kept.ids[step.outputs[0].axes[axis]]
        if not stays.all():
            low, high = np.count_nonzero(stays[:low]), np.count_nonzero(stays[stays.size - high :])
            config[axis] = (int(low), int(high), interior)
    return tuple(config)


def _slice_sizes(step: Step, kept: Kept) -> tuple[int, ...]:
    """Takes of every axis taken whole what is left of it; the others have stayed whole."""
    tensor, sizes = step.inputs[0], step.eqn.params["slice_sizes"]
    left = zip(sizes, tensor.shape, kept.shape(tensor), strict=True)
    return tuple(new if size == old else size for size, old, new in left)


def _feature_groups(step: Step, kept: Kept) -> int:
    """Gives a depthwise kernel as many groups as input channels are left."""
    channels = step.eqn.params["dimension_numbers"].lhs_spec[1]
    depthwise = step.eqn.params["feature_group_count"] > 1
    return kept.shape(step.inputs[0])[channels] if depthwise else 1


def _run_sizes(step: Step, kept: Kept) -> tuple[int, ...]:
    """Cuts into runs of as many indices as are left."""
    return tuple(kept.shape(tensor)[step.eqn.params["axis"]] for tensor in step.outputs)


def _result_shape(step: Step, kept: Kept) -> tuple[int, ...]:
    return kept.shape(step.outputs[0])


SIZES: dict[str, tuple[str, Callable[[Step, Kept], Any]]] = {
    "broadcast_in_dim": ("shape", _result_shape),
    "conv_general_dilated": ("feature_group_count", _feature_groups),
    "dynamic_slice": ("slice_sizes", _slice_sizes),
    "gather": ("slice_sizes", _slice_sizes),
    "pad": ("padding_config", _padding),
    "reshape": ("new_sizes", _result_shape),
    "split": ("sizes", _run_sizes),
}
"""Primitive -> the parameter that holds sizes, and what it is when channels are gone."""


def run_slice(step: Step, value: Any, kept: Kept) -> jax.Array:
    """Takes what is left of the indices that a slice takes: no start and stride say which.

    Args:
        step: the slice.
        value: what is left of its operand.
        kept: which ids are left.

    Returns:
        The result, of the indices that are left.
    """
    (tensor,) = step.inputs
    for axis, cut in enumerate(_cuts(step.eqn)):
        stays = kept.ids[tensor.axes[axis]]
        chosen = np.zeros(stays.size, bool)
        chosen[slice(*cut)] = True
        if stays.all():
            value = lax.slice_in_dim(value, *cut, axis=axis)
        else:
            value = taken_along(value, np.flatnonzero(chosen[stays]), axis)
    return value
