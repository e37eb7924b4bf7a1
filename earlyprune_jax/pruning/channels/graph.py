"""Which indices of which axes of a network's arrays stand or fall together.

Every index of every axis of every weight has an id. Ids travel with the arrays through the
operations of the network (rules.py); where two must be removed together they are
joined, where one cannot be removed it is pinned, with the reason. What is joined is a group.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
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
        produced: the output axes of kernels.
        steps: the operations in order.
    """

    def __init__(self, num_ids: int = 0) -> None:
        self.num_ids = num_ids
        self.edges: list[tuple[np.ndarray, np.ndarray]] = []
        self.pins: list[tuple[np.ndarray, str]] = []
        self.produced: list[Axis] = []
        self.steps: list[Step] = []

    def new_ids(self, count: int) -> np.ndarray:
        """Makes as many ids as asked for, that nothing else has."""
        self.num_ids += count
        return np.arange(self.num_ids - count, self.num_ids)

    def pin(self, axis: Axis, reason: str) -> str:
        """Keeps an axis whole; returns the reason, the earlier one if there was."""
        if isinstance(axis, str):
            return axis
        self.pins.append((axis, reason))
        return reason

    def join(self, axes: Iterable[Axis]) -> Axis:
        """Makes one axis of those that an operation lines up."""
        axes = list(axes)
        free = [axis for axis in axes if not isinstance(axis, str)]
        if reason := next((axis for axis in axes if isinstance(axis, str)), ""):
            self.pins += [(ids, reason) for ids in free]
            return reason
        self.edges += [(free[0], other) for other in free[1:] if other is not free[0]]
        return free[0]

    def contract(self, first: Axis, second: Axis, vanishes: np.ndarray) -> None:
        """Sums products over two axes: an index may go where one factor is zero once masked.

        Args:
            first: the axis of one factor.
            second: that of the other.
            vanishes: [n] bool, whether one of the factors is zero at the index.
        """
        left = taken(self.join([first, second]), ~vanishes)
        self.pin(left, "is summed over with values that are not zero when masked")

    def labels(self) -> np.ndarray:
        """Labels the ids: [num_ids] integers, equal where ids are removed together."""
        if not self.edges:
            return np.arange(self.num_ids)
        rows, columns = (np.concatenate(side) for side in zip(*self.edges, strict=True))
        shape = (self.num_ids, self.num_ids)
        links = coo_array((np.ones(rows.size, bool), (rows, columns)), shape=shape)
        return connected_components(links, directed=False)[1]

    def pin_reasons(self, labels: np.ndarray) -> dict[int, str]:
        """Maps a label to the first reason why it must stay."""
        reasons: dict[int, str] = {}
        for ids, reason in self.pins:
            for label in np.unique(labels[ids]):
                reasons.setdefault(int(label), reason)
        return reasons

    def gone(self, labels: np.ndarray, removed: Iterable[Any]) -> np.ndarray:
        """Marks the labels that go if some ids do, but for those of which one must stay.

        Args:
            labels: from `labels`.
            removed: arrays of ids to remove.

        Returns:
            [num_ids] bool, by label.
        """
        gone = np.zeros(self.num_ids, bool)
        for ids in removed:
            gone[labels[ids]] = True
        gone[list(self.pin_reasons(labels))] = False
        return gone


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """Which ids are left: [num_ids] bool."""

    ids: np.ndarray

    def along(self, tensor: Tensor, place: int) -> np.ndarray:
        """Marks the indices of one axis that are left: [n] bool."""
        axis = tensor.axes[place]
        return np.ones(tensor.shape[place], bool) if isinstance(axis, str) else self.ids[axis]

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """Returns what is left of a tensor's shape."""
        places = range(len(tensor.shape))
        return tuple(int(np.count_nonzero(self.along(tensor, place))) for place in places)

    def of(self, tensor: Tensor, value: Any) -> Any:
        """Returns what is left of a value that has all channels."""
        for place in range(len(tensor.shape)):
            value = taken_along(value, np.flatnonzero(self.along(tensor, place)), place)
        return value


def taken_along(value: Any, index: np.ndarray, place: int) -> Any:
    """Takes the entries at rising indices along one axis; the value itself if that is all of them.

    Args:
        value: an array of NumPy, or one that may be traced.
        index: [n] integers, each once.
        place: the axis.

    Returns:
        The same kind of array, with n entries along the axis.
    """
    if index.size == value.shape[place]:
        return value
    if isinstance(value, np.ndarray):
        return value.take(index, axis=place)
    return jnp.take(value, index, axis=place, mode="clip")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is known of a primitive.

    Attributes:
        follow: passes on the ids of the operands' axes: (graph, equation, operands) -> results. It
            may be cautious, never wrong: what it cannot express it keeps whole.
        sizes: the parameters that hold sizes, for fewer channels: (step, kept) -> changed ones;
            None = it has none.
        run: computes the result of fewer channels where other parameters cannot express it: (step,
            smaller values, kept) -> result.
    """

    follow: Callable[[ChannelGraph, Any, Sequence[Tensor]], list[Tensor]]
    sizes: Callable[[Step, Kept], dict[str, Any]] | None = None
    run: Callable[[Step, Sequence[Any], Kept], Any] | None = None


def whole(
    shape: tuple[int, ...], reason: str, *, all_zero: bool = False, value: Any = None
) -> Tensor:
    """Makes an array of which nothing can be removed.

    Args:
        shape: of the array.
        reason: why.
        all_zero: every entry is exactly zero.
        value: the array itself, if it is a constant.
    """
    zeros = tuple(np.full(size, all_zero) for size in shape)
    return Tensor(tuple(shape), (reason,) * len(shape), zeros, all_zero, value)


def fresh(graph: ChannelGraph, shape: tuple[int, ...], all_zero: bool = False) -> Tensor:
    """Makes an array with ids of its own on every axis."""
    axes = tuple(graph.new_ids(size) for size in shape)
    return dataclasses.replace(whole(shape, "", all_zero=all_zero), axes=axes)


def zero_slices(nonzero: np.ndarray) -> tuple[np.ndarray, ...]:
    """Marks for every axis, [n] bool, where the whole slice is False.

    Example:
        >>> [zero.tolist() for zero in zero_slices(np.array([[True, False], [True, False]]))]
        [[False, False], [False, True]]
    """
    axes = set(range(nonzero.ndim))
    return tuple(np.asarray(~nonzero.any(axis=tuple(axes - {axis}))) for axis in sorted(axes))


def taken(axis: Axis, index: np.ndarray) -> Axis:
    """Returns the axis of the entries at the given indices."""
    return axis if isinstance(axis, str) else axis[index]


def with_axis(tensor: Tensor, place: int, axis: Axis, zero: np.ndarray) -> Tensor:
    """Replaces one axis of a tensor, and where the tensor is zero along it: [n] bool."""
    shape, axes, zeros = list(tensor.shape), list(tensor.axes), list(tensor.zeros)
    shape[place], axes[place], zeros[place] = zero.size, axis, zero
    return Tensor(tuple(shape), tuple(axes), tuple(zeros), tensor.all_zero)


def with_indices(tensor: Tensor, place: int, index: np.ndarray) -> Tensor:
    """Takes the given indices along one axis."""
    return with_axis(tensor, place, taken(tensor.axes[place], index), tensor.zeros[place][index])


def select_axes(tensor: Tensor, places: Sequence[int], keeps_zero: bool = True) -> Tensor:
    """Takes the given axes only, in the given order; `keeps_zero`: what was zero still is."""
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
