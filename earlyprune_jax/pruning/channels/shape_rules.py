"""How operations that move, cut or join axes treat channels; the rules of rules.py, continued.

A rule has up to two parts: how ids travel, and what changes when channels are gone.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from earlyprune_jax.pruning.channels.graph import (
    ChannelGraph,
    Kept,
    Step,
    Tensor,
    fresh,
    no_rule,
    select_axes,
    taken_along,
    whole,
    with_axis,
    with_indices,
)


def new_shape(parameter: str) -> Any:
    """Makes the change of a parameter that holds the result's shape."""
    return lambda step, kept: {parameter: kept.shape(step.outputs[0])}


def broadcast_in_dim(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gives new and stretched axes ids of their own."""
    (tensor,) = inputs
    result = fresh(graph, eqn.params["shape"], tensor.all_zero)
    for source, place in enumerate(eqn.params["broadcast_dimensions"]):
        if tensor.shape[source] == result.shape[place]:
            result = with_axis(result, place, tensor.axes[source], tensor.zeros[source])
        else:
            graph.pin(tensor.axes[source], "has size 1 and is broadcast")
    return [result]


def iota(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Makes a fresh array: its axes may lose what others lose."""
    if inputs:
        return no_rule(graph, eqn, inputs)
    return [fresh(graph, eqn.outvars[0].aval.shape)]


def transpose(_: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Permutes the axes."""
    return [select_axes(inputs[0], eqn.params["permutation"])]


def squeeze(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Drops axes of size 1."""
    (tensor,), dropped = inputs, eqn.params["dimensions"]
    for place in dropped:
        graph.pin(tensor.axes[place], "has size 1 and is dropped")
    return [select_axes(tensor, [p for p in range(len(tensor.shape)) if p not in dropped])]


def reshape(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Passes axes that stay, and the largest of merged ones; keeps split axes whole."""
    (tensor, *sizes), shape = inputs, tuple(eqn.params["new_sizes"])
    if sizes or eqn.params["dimensions"] is not None or 0 in shape:
        return no_rule(graph, eqn, inputs)
    result = fresh(graph, shape, tensor.all_zero)
    for axis, size in zip(tensor.axes, tensor.shape, strict=True):
        if size == 1:
            graph.pin(axis, "has size 1 and is reshaped")
    for old, new in reshaped_blocks(tensor.shape, shape):
        result = _reshape_block(graph, tensor, result, old, new)
    return [result]


def reshaped_blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Splits a reshape into the smallest runs of axes with equal numbers of elements.

    Axes of size 1 belong to no run.

    Example:
        >>> reshaped_blocks((2, 4, 4, 3), (2, 1, 48))
        [([0], [0]), ([1, 2, 3], [2])]
    """
    left = [place for place, size in enumerate(old) if size != 1]
    right = [place for place, size in enumerate(new) if size != 1]
    blocks = []
    while left:
        one, other = [left.pop(0)], [right.pop(0)]
        while (a := math.prod(old[p] for p in one)) != (b := math.prod(new[p] for p in other)):
            (one if a < b else other).append((left if a < b else right).pop(0))
        blocks.append((one, other))
    return blocks


def _reshape_block(
    graph: ChannelGraph, tensor: Tensor, result: Tensor, old: list[int], new: list[int]
) -> Tensor:
    """Fills in the axes `new` of the result, which come from the axes `old`."""
    if len(new) > 1:
        sizes = [tensor.shape[place] for place in old], [result.shape[place] for place in new]
        reason = "is split or mixed, from {} to {}".format(*sizes)
        for place in old:
            reason = graph.pin(tensor.axes[place], reason)
        for place in new:
            result = with_axis(result, place, reason, result.zeros[place])
        return result
    free = [place for place in old if not isinstance(tensor.axes[place], str)]
    if not free:
        return with_axis(result, new[0], tensor.axes[old[0]], result.zeros[new[0]])
    carried = max(free, key=lambda place: tensor.shape[place])
    for place in (place for place in free if place != carried):
        graph.pin(tensor.axes[place], "is merged with a larger axis")
    inner = math.prod(tensor.shape[place] for place in old if place > carried)
    index = np.arange(result.shape[new[0]]) // inner % tensor.shape[carried]
    merged = with_indices(tensor, carried, index)
    return with_axis(result, new[0], merged.axes[carried], merged.zeros[carried])


def pad(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gives padding ids of its own, zero where the padding value is."""
    tensor, value = inputs
    result, config = tensor, eqn.params["padding_config"]
    for place, (low, high, interior) in enumerate(config):
        axis = tensor.axes[place]
        if interior or min(low, high) < 0:
            axis = graph.pin(axis, "is padded between or cut by pad")
        zero = np.full(eqn.outvars[0].aval.shape[place], False)
        if not isinstance(axis, str):
            axis = np.concatenate([graph.new_ids(low), axis, graph.new_ids(high)])
            zero[:] = value.all_zero
            zero[low : low + tensor.shape[place]] = tensor.zeros[place]
        elif (low, high, interior) == (0, 0, 0):
            zero = tensor.zeros[place]
        # Padding along one axis adds entries to the slices of the others.
        result = with_axis(result, place, axis, zero & value.all_zero)
    return [dataclasses.replace(result, all_zero=tensor.all_zero and value.all_zero)]


def padding(step: Step, kept: Kept) -> dict[str, Any]:
    """Pads with as many entries as are left of the padding."""
    config = list(step.eqn.params["padding_config"])
    for place, (low, high, interior) in enumerate(config):
        stays = kept.along(step.outputs[0], place)
        if not stays.all():
            low, high = np.count_nonzero(stays[:low]), np.count_nonzero(stays[stays.size - high :])
            config[place] = (int(low), int(high), interior)
    return {"padding_config": tuple(config)}


def slice_(_: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Keeps the ids of the indices taken."""
    (result,) = inputs
    for place, cut in enumerate(_cuts(eqn)):
        result = with_indices(result, place, np.arange(result.shape[place])[slice(*cut)])
    return [result]


def run_slice(step: Step, values: Sequence[Any], kept: Kept) -> jax.Array:
    """Takes what is left of the indices taken."""
    (tensor,), (value,) = step.inputs, values
    for place, cut in enumerate(_cuts(step.eqn)):
        stays = kept.along(tensor, place)
        chosen = np.zeros(stays.size, bool)
        chosen[slice(*cut)] = True
        if stays.all():
            value = lax.slice_in_dim(value, *cut, axis=place)
        else:
            value = taken_along(value, np.flatnonzero(chosen[stays]), place)
    return value


def _cuts(eqn: Any) -> list[tuple[int, int, int]]:
    """Returns (start, limit, stride) of every axis."""
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    return list(zip(starts, limits, eqn.params["strides"] or (1,) * len(starts), strict=True))


def split(_: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Cuts one axis into runs."""
    (tensor,), place = inputs, eqn.params["axis"]
    starts = np.cumsum(eqn.params["sizes"])[:-1]
    runs = np.split(np.arange(tensor.shape[place]), starts)
    return [with_indices(tensor, place, run) for run in runs]


def split_sizes(step: Step, kept: Kept) -> dict[str, Any]:
    """Cuts into runs of as many indices as are left."""
    return {"sizes": tuple(kept.shape(tensor)[step.eqn.params["axis"]] for tensor in step.outputs)}


def concatenate(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Puts ids in a row along one axis; the others line up."""
    along, shape = eqn.params["dimension"], tuple(eqn.outvars[0].aval.shape)
    axes, zeros = [], []
    for place in range(len(shape)):
        parts = [tensor.zeros[place] for tensor in inputs]
        if place != along:
            axes.append(graph.join(tensor.axes[place] for tensor in inputs))
            zeros.append(np.logical_and.reduce(parts))
            continue
        rows = []
        for tensor in inputs:
            ids = axis = tensor.axes[place]
            if isinstance(axis, str):
                ids = graph.new_ids(tensor.shape[place])
                graph.pin(ids, axis)
            rows.append(ids)
        axes.append(np.concatenate(rows))
        zeros.append(np.concatenate(parts))
    return [Tensor(shape, tuple(axes), tuple(zeros), all(tensor.all_zero for tensor in inputs))]


def reverse(_: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Turns axes around."""
    (tensor,) = inputs
    # A new tensor even where no axis turns: each stands for one value.
    result = select_axes(tensor, range(len(tensor.shape)))
    for place in eqn.params["dimensions"]:
        result = with_indices(result, place, np.arange(result.shape[place])[::-1])
    return [result]


def gather(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Passes axes taken whole (`x[:, ::2]`, a table's features); keeps all others whole."""
    tensor, indices = inputs
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    dropped = {*numbers.collapsed_slice_dims, *getattr(numbers, "operand_batching_dims", ())}
    sliced = [place for place in range(len(tensor.shape)) if place not in dropped]
    passing = {
        place: out
        for place, out in zip(sliced, numbers.offset_dims, strict=True)
        if sizes[place] == tensor.shape[place] and place not in numbers.start_index_map
    }
    reason = "is picked from by gather"
    for axis in indices.axes:
        graph.pin(axis, reason)
    # Indices out of range may be filled with nan: nothing is known to be zero.
    unknown = select_axes(tensor, range(len(tensor.shape)), keeps_zero=False)
    return [_pass_some(graph, eqn, unknown, passing, reason)]


def dynamic_slice(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Passes axes taken whole."""
    tensor, sizes = inputs[0], eqn.params["slice_sizes"]
    passing = {place: place for place, size in enumerate(sizes) if size == tensor.shape[place]}
    return [_pass_some(graph, eqn, tensor, passing, "is cut by dynamic_slice")]


def slice_sizes(step: Step, kept: Kept) -> dict[str, Any]:
    """Takes of every axis taken whole what is left of it; the others have stayed whole."""
    tensor, sizes = step.inputs[0], step.eqn.params["slice_sizes"]
    left = zip(sizes, tensor.shape, kept.shape(tensor), strict=True)
    return {"slice_sizes": tuple(new if size == old else size for size, old, new in left)}


def window_reduction(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Pools: passes axes with a window of 1, keeps the others whole."""
    (tensor,), shape = inputs, eqn.outvars[0].aval.shape
    windows = zip(eqn.params["window_dimensions"], eqn.params["padding"], strict=True)
    passing = {
        place: place
        for place, (window, padded) in enumerate(windows)
        if window == 1 and tuple(padded) == (0, 0) and shape[place] == tensor.shape[place]
    }
    # A window of zeros may have another value: that of its padding.
    unsure = dataclasses.replace(tensor, all_zero=False)
    return [_pass_some(graph, eqn, unsure, passing, "is a window of a pooling")]


def _pass_some(
    graph: ChannelGraph, eqn: Any, tensor: Tensor, passing: Mapping[int, int], reason: str
) -> Tensor:
    """Passes some axes of an operand, each to the axis of the result; keeps the others whole."""
    result = whole(eqn.outvars[0].aval.shape, reason, all_zero=tensor.all_zero)
    for place, axis in enumerate(tensor.axes):
        if place in passing:
            result = with_axis(result, passing[place], axis, tensor.zeros[place])
        else:
            graph.pin(axis, reason)
    return result
