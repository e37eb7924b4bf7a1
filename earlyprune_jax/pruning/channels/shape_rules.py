"""How operations that move, cut or join axes pass on their ids; the rules of rules.py,
continued."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

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


def broadcast_in_dim(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """New and stretched axes get ids of their own."""
    (tensor,) = inputs
    shape, places = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    axes: list[Axis] = [graph.new_ids(size) for size in shape]
    zeros = [np.full(size, tensor.all_zero) for size in shape]
    for source, place in enumerate(places):
        if tensor.shape[source] == shape[place]:
            axes[place], zeros[place] = tensor.axes[source], tensor.zeros[source]
        else:
            graph.pin(tensor.axes[source], "has size 1 and is broadcast")
    return [Tensor(tuple(shape), tuple(axes), tuple(zeros), tensor.all_zero)]


def iota(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """A fresh array: its axes may lose what others lose."""
    shape = tuple(eqn.outvars[0].aval.shape)
    if inputs:
        return no_rule(graph, eqn, inputs)
    axes = tuple(graph.new_ids(size) for size in shape)
    return [Tensor(shape, axes, tuple(np.zeros(size, bool) for size in shape))]


def transpose(_: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Permutes the axes."""
    return [select_axes(inputs[0], eqn.params["permutation"])]


def squeeze(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Drops axes of size 1."""
    (tensor,), dropped = inputs, eqn.params["dimensions"]
    for place in dropped:
        graph.pin(tensor.axes[place], "has size 1 and is dropped")
    return [
        select_axes(tensor, [place for place in range(len(tensor.shape)) if place not in dropped])
    ]


def reshape(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Axes that stay pass; axes merged into one pass their largest; split axes stay whole."""
    (tensor, *sizes), shape = inputs, tuple(eqn.params["new_sizes"])
    if sizes or eqn.params["dimensions"] is not None or 0 in shape:
        return no_rule(graph, eqn, inputs)
    result = Tensor(
        shape,
        tuple(graph.new_ids(size) for size in shape),
        tuple(np.full(size, tensor.all_zero) for size in shape),
        tensor.all_zero,
    )
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
    free = [place for place in old if not isinstance(tensor.axes[place], str)]
    if len(new) > 1:
        reason = f"is split or mixed, from {[tensor.shape[p] for p in old]} to {[result.shape[p] for p in new]}"
        for place in old:
            reason = graph.pin(tensor.axes[place], reason)
        for place in new:
            result = with_axis(result, place, reason, result.zeros[place])
        return result
    if not free:
        return with_axis(result, new[0], tensor.axes[old[0]], result.zeros[new[0]])
    carried = max(free, key=lambda place: tensor.shape[place])
    for place in (place for place in free if place != carried):
        graph.pin(tensor.axes[place], "is merged with a larger axis")
    inner = math.prod(tensor.shape[place] for place in old if place > carried)
    index = np.arange(result.shape[new[0]]) // inner % tensor.shape[carried]
    return with_axis(
        result, new[0], taken(tensor.axes[carried], index), tensor.zeros[carried][index]
    )


def pad(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Padding has ids of its own, zero where the padding value is."""
    tensor, value = inputs
    shape = tuple(eqn.outvars[0].aval.shape)
    axes, zeros = [], []
    for place, (low, high, interior) in enumerate(eqn.params["padding_config"]):
        axis, zero = tensor.axes[place], tensor.zeros[place]
        if (low, high, interior) != (0, 0, 0):
            if interior or min(low, high) < 0:
                axis = graph.pin(axis, "is padded between or cut by pad")
            if not isinstance(axis, str):
                axis = np.concatenate([graph.new_ids(low), axis, graph.new_ids(high)])
            zero = np.full(shape[place], False)
            if not isinstance(axis, str):
                zero[:] = value.all_zero
                zero[low : low + tensor.shape[place]] = tensor.zeros[place]
        axes.append(axis)
        zeros.append(zero)
    # Padding along one axis adds entries to the slices of the others.
    if not value.all_zero:
        zeros = [np.zeros_like(zero) for zero in zeros]
    return [Tensor(shape, tuple(axes), tuple(zeros), tensor.all_zero and value.all_zero)]


def slice_(_: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Keeps the ids of the indices taken."""
    (tensor,) = inputs
    strides = eqn.params["strides"] or (1,) * len(tensor.shape)
    result = tensor
    for place, cut in enumerate(
        zip(eqn.params["start_indices"], eqn.params["limit_indices"], strides, strict=True)
    ):
        index = np.arange(tensor.shape[place])[slice(*cut)]
        if index.size < tensor.shape[place]:
            result = with_axis(
                result, place, taken(result.axes[place], index), result.zeros[place][index]
            )
    return [Tensor(tuple(eqn.outvars[0].aval.shape), result.axes, result.zeros, tensor.all_zero)]


def split(_: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Cuts one axis into runs."""
    (tensor,), place = inputs, eqn.params["axis"]
    results, start = [], 0
    for variable in eqn.outvars:
        shape = tuple(variable.aval.shape)
        index = np.arange(start, start + shape[place])
        part = Tensor(shape, tensor.axes, tensor.zeros, tensor.all_zero)
        results.append(
            with_axis(part, place, taken(tensor.axes[place], index), tensor.zeros[place][index])
        )
        start += shape[place]
    return results


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
            axis = tensor.axes[place]
            ids = graph.new_ids(tensor.shape[place]) if isinstance(axis, str) else axis
            if isinstance(axis, str):
                graph.pin(ids, axis)
            rows.append(ids)
        axes.append(np.concatenate(rows))
        zeros.append(np.concatenate(parts))
    return [Tensor(shape, tuple(axes), tuple(zeros), all(tensor.all_zero for tensor in inputs))]


def reverse(_: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Turns axes around."""
    result = inputs[0]
    for place in eqn.params["dimensions"]:
        index = np.arange(result.shape[place])[::-1]
        result = with_axis(
            result, place, taken(result.axes[place], index), result.zeros[place][index]
        )
    return [result if result is not inputs[0] else select_axes(result, range(len(result.shape)))]


def gather(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Axes taken whole pass (`x[:, ::2]`, a table's features); the others and the indices stay
    whole."""
    tensor, indices = inputs
    numbers = eqn.params["dimension_numbers"]
    batching = getattr(numbers, "operand_batching_dims", ())
    sliced = [
        p
        for p in range(len(tensor.shape))
        if p not in numbers.collapsed_slice_dims and p not in batching
    ]
    result = whole(eqn.outvars[0].aval.shape, "is picked from by gather")
    passing = {
        place: out
        for place, out in zip(sliced, numbers.offset_dims, strict=True)
        if eqn.params["slice_sizes"][place] == tensor.shape[place]
        and place not in numbers.start_index_map
    }
    for axis in (
        *indices.axes,
        *(axis for place, axis in enumerate(tensor.axes) if place not in passing),
    ):
        graph.pin(axis, "is picked from by gather")
    for place, out in passing.items():
        # Indices out of range may be filled with nan: nothing is known to be zero.
        result = with_axis(result, out, tensor.axes[place], np.zeros(tensor.shape[place], bool))
    return [result]


def dynamic_slice(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Axes taken whole pass."""
    tensor = inputs[0]
    result = whole(eqn.outvars[0].aval.shape, "is cut by dynamic_slice", all_zero=tensor.all_zero)
    for place, size in enumerate(eqn.params["slice_sizes"]):
        if size == tensor.shape[place]:
            result = with_axis(result, place, tensor.axes[place], tensor.zeros[place])
        else:
            graph.pin(tensor.axes[place], "is cut by dynamic_slice")
    return [result]
