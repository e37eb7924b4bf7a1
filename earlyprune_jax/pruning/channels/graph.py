"""Which indices of which axes of a network's arrays stand or fall together.

Every index of every axis of every weight has an id. Ids travel with the arrays through the
operations of the network (rules.py); where two must be removed together they are
joined, where one cannot be removed it is pinned, with the reason. What is joined is a group.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Axis = np.ndarray | str
"""The ids of an axis, [n] integers; or why nothing of it can be removed."""


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """An array of the network: its shape, the ids of its axes, and where it is known to be zero.

    Compared by identity: it stands for one value of one execution.

    Attributes:
        shape: of the unpruned network.
        axes: one `Axis` for every axis.
        zeros: for every axis, [n] bool: the slice at this index is exactly zero once the masked
            weights are.
        all_zero: every entry is exactly zero.
        value: the array itself, if it is a constant.
    """

    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    zeros: tuple[np.ndarray, ...]
    all_zero: bool = False
    value: Any = None


@dataclasses.dataclass(frozen=True)
class Step:
    """One operation: a jaxpr equation, what goes in and comes out, and its body if it has one."""

    eqn: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    body: tuple["Step", ...] | None = None


class ChannelGraph:
    """Grows while a network is traced: ids, what joins them, what pins them, and the steps.

    Attributes:
        num_ids: how many ids there are.
        edges: pairs of equally long id arrays, to be removed together index by index.
        pins: (ids, reason).
        produced: ids of the output axes of kernels.
        steps: the operations in order.
    """

    def __init__(self, num_ids: int = 0) -> None:
        self.num_ids = num_ids
        self.edges: list[tuple[np.ndarray, np.ndarray]] = []
        self.pins: list[tuple[np.ndarray, str]] = []
        self.produced: list[np.ndarray] = []
        self.steps: list[Step] = []

    def new_ids(self, count: int) -> np.ndarray:
        """As many ids as asked for, that nothing else has."""
        self.num_ids += count
        return np.arange(self.num_ids - count, self.num_ids)

    def pin(self, axis: Axis, reason: str) -> str:
        """Keeps an axis whole; returns the reason, the earlier one if there was."""
        if isinstance(axis, str):
            return axis
        self.pins.append((axis, reason))
        return reason

    def join(self, axes: Iterable[Axis]) -> Axis:
        """The one axis that several axes become where an operation lines them up."""
        axes = list(axes)
        reason = next((axis for axis in axes if isinstance(axis, str)), "")
        free = [axis for axis in axes if not isinstance(axis, str)]
        if reason:
            self.pins += [(ids, reason) for ids in free]
            return reason
        self.edges += [(free[0], other) for other in free[1:] if other is not free[0]]
        return free[0]

    def contract(self, first: Axis, second: Axis, vanishes: np.ndarray) -> None:
        """Sums products over two axes: an index can go where one factor is zero in the masked
        network.

        Args:
            vanishes: [n] bool, whether one of the factors is zero at the index.
        """
        joined = self.join([first, second])
        if not isinstance(joined, str) and not np.all(vanishes):
            self.pin(joined[~vanishes], "is summed over with values that are not zero when masked")

    def labels(self) -> np.ndarray:
        """[num_ids] integers: equal where ids are removed together."""
        if not self.edges:
            return np.arange(self.num_ids)
        rows, columns = (np.concatenate(side) for side in zip(*self.edges, strict=True))
        links = coo_array(
            (np.ones(rows.size, bool), (rows, columns)), shape=(self.num_ids, self.num_ids)
        )
        return connected_components(links, directed=False)[1]

    def pin_reasons(self, labels: np.ndarray) -> dict[int, str]:
        """Label -> the first reason why it must stay."""
        reasons: dict[int, str] = {}
        for ids, reason in self.pins:
            for label in np.unique(labels[ids]):
                reasons.setdefault(int(label), reason)
        return reasons


def whole(
    shape: tuple[int, ...], reason: str, *, all_zero: bool = False, value: Any = None
) -> Tensor:
    """An array of which nothing can be removed."""
    zeros = tuple(np.full(size, all_zero) for size in shape)
    return Tensor(tuple(shape), (reason,) * len(shape), zeros, all_zero, value)


def tracked(
    graph: ChannelGraph, shape: tuple[int, ...], zeros: tuple[np.ndarray, ...], value: Any = None
) -> Tensor:
    """An array with ids of its own on every axis."""
    all_zero = value is not None and all(np.all(zero) for zero in zeros)
    return Tensor(
        tuple(shape), tuple(graph.new_ids(size) for size in shape), zeros, all_zero, value
    )


def zero_slices(nonzero: np.ndarray) -> tuple[np.ndarray, ...]:
    """For every axis, [n] bool: where the whole slice is False.

    Example:
        >>> [zero.tolist() for zero in zero_slices(np.array([[True, False], [True, False]]))]
        [[False, False], [False, True]]
    """
    axes = range(nonzero.ndim)
    return tuple(
        np.asarray(~nonzero.any(axis=tuple(a for a in axes if a != axis))) for axis in axes
    )


def taken(axis: Axis, source: np.ndarray) -> Axis:
    """The axis of the entries at the given indices."""
    return axis if isinstance(axis, str) else axis[source]


def with_axis(tensor: Tensor, place: int, axis: Axis, zero: np.ndarray) -> Tensor:
    """The tensor with one axis, and where it is zero along it, replaced."""
    axes, zeros = list(tensor.axes), list(tensor.zeros)
    axes[place], zeros[place] = axis, zero
    return Tensor(tensor.shape, tuple(axes), tuple(zeros), tensor.all_zero)


def select_axes(tensor: Tensor, places: Sequence[int], keeps_zero: bool = True) -> Tensor:
    """The tensor with the given axes only, in the given order."""
    return Tensor(
        tuple(tensor.shape[place] for place in places),
        tuple(tensor.axes[place] for place in places),
        tuple(tensor.zeros[place] & keeps_zero for place in places),
        tensor.all_zero and keeps_zero,
    )


def no_rule(graph: ChannelGraph, eqn: Any, inputs: Sequence[Tensor], why: str = "") -> list[Tensor]:
    """Keeps the operands and the results of an operation whole."""
    reason = f"goes through {eqn.primitive.name}, {why or 'for which there is no rule'}"
    for tensor in inputs:
        for axis in tensor.axes:
            graph.pin(axis, reason)
    return [whole(variable.aval.shape, reason) for variable in eqn.outvars]
