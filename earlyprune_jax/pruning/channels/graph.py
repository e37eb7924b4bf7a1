"""Which indices of which axes of a network's arrays stand or fall together.

Every index of every axis of every array has an id. Ids travel with the arrays through the
operations of the network (rules.py); where two must be removed together they are
joined, where one cannot be removed it is pinned, with the reason. What is joined is a group.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """An array of the network: the ids of its axes, and where it is known to be zero.

    Compared by identity: it stands for one value of one execution.

    Attributes:
        axes: for every axis, [n] integers: the ids of its indices.
        zeros: for every axis, [n] bool: the slice at this index is exactly zero once the masked
            weights are.
        all_zero: every entry is exactly zero.
        value: the array itself, if it is a constant.
    """

    axes: tuple[np.ndarray, ...]
    zeros: tuple[np.ndarray, ...]
    all_zero: bool = False
    value: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Returns the shape of the array in the unpruned network."""
        return tuple(ids.size for ids in self.axes)

    def with_axis(self, axis: int, ids: np.ndarray, zero: np.ndarray) -> "Tensor":
        """Replaces one axis.

        Args:
            axis: which.
            ids: [n] integers.
            zero: [n] bool, where the tensor is zero along it.

        Returns:
            A tensor of n entries along that axis.
        """
        axes, zeros = list(self.axes), list(self.zeros)
        axes[axis], zeros[axis] = ids, zero
        return Tensor(tuple(axes), tuple(zeros), self.all_zero)

    def take(self, axis: int, index: np.ndarray) -> "Tensor":
        """Takes the given indices along one axis."""
        return self.with_axis(axis, self.axes[axis][index], self.zeros[axis][index])

    def select(self, chosen: Iterable[int], keeps_zero: bool = True) -> "Tensor":
        """Takes the given axes only, in the given order; `keeps_zero`: what was zero still is."""
        chosen = tuple(chosen)
        zeros = tuple(self.zeros[axis] & keeps_zero for axis in chosen)
        axes = tuple(self.axes[axis] for axis in chosen)
        return Tensor(axes, zeros, self.all_zero and keeps_zero)


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
        pins: id -> the first reason why it must stay.
        produced: the output axes of kernels.
        convolved: operands and results of convolutions.
        steps: the operations in order.
    """

    def __init__(self) -> None:
        self.num_ids = 0
        self.edges: list[tuple[np.ndarray, np.ndarray]] = []
        self.pins: dict[int, str] = {}
        self.produced: list[np.ndarray] = []
        self.convolved: list[Tensor] = []
        self.steps: list[Step] = []

    def new_ids(self, count: int) -> np.ndarray:
        """Makes as many ids as asked for, that nothing else has."""
        self.num_ids += count
        return np.arange(self.num_ids - count, self.num_ids)

    def fresh(
        self, shape: Sequence[int], *, all_zero: bool = False, value: Any = None, pinned: str = ""
    ) -> Tensor:
        """Makes an array with ids of its own on every axis.

        Args:
            shape: of the array.
            all_zero: every entry is exactly zero.
            value: the array itself, if it is a constant.
            pinned: why nothing of it can be removed, if so.

        Returns:
            The tensor.
        """
        axes = tuple(self.new_ids(size) for size in shape)
        if pinned:
            self.pin(axes, pinned)
        return Tensor(axes, tuple(np.full(size, all_zero) for size in shape), all_zero, value)

    def pin(self, axes: Iterable[np.ndarray], reason: str) -> None:
        """Keeps axes whole."""
        for number in itertools.chain.from_iterable(ids.tolist() for ids in axes):
            self.pins.setdefault(number, reason)

    def is_pinned(self, ids: np.ndarray) -> bool:
        """Says whether an axis is known to stay whole."""
        return self.pins.keys() >= set(ids.tolist())

    def join(self, axes: Sequence[np.ndarray]) -> np.ndarray:
        """Makes one axis of those that an operation lines up: a pinned one, if there is one."""
        self.edges += [(axes[0], other) for other in axes[1:] if other is not axes[0]]
        return next((ids for ids in axes if self.is_pinned(ids)), axes[0])

    def contract(self, first: np.ndarray, second: np.ndarray, vanishes: np.ndarray) -> None:
        """Sums products over two axes: an index may go where one factor is zero once masked.

        Args:
            first: the axis of one factor.
            second: that of the other.
            vanishes: [n] bool, whether one of the factors is zero at the index.
        """
        left = self.join([first, second])[~vanishes]
        self.pin([left], "is summed over with values that are not zero when masked")

    def labels(self) -> np.ndarray:
        """Labels the ids: [num_ids] integers, equal where ids are removed together."""
        # Here, for they are slow to import and only those who prune channels need them.
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if not self.edges:
            return np.arange(self.num_ids)
        rows, columns = (np.concatenate(side) for side in zip(*self.edges, strict=True))
        shape = (self.num_ids, self.num_ids)
        links = coo_array((np.ones(rows.size, bool), (rows, columns)), shape=shape)
        return connected_components(links, directed=False)[1]

    def pin_reasons(self, labels: np.ndarray) -> dict[int, str]:
        """Maps a label to the first reason why it must stay."""
        reasons: dict[int, str] = {}
        for number, reason in self.pins.items():
            reasons.setdefault(int(labels[number]), reason)
        return reasons

    def gone(self, labels: np.ndarray, removed: Iterable[np.ndarray]) -> np.ndarray:
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

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """Returns what is left of a tensor's shape."""
        return tuple(int(np.count_nonzero(self.ids[ids])) for ids in tensor.axes)

    def of(self, tensor: Tensor, value: Any) -> Any:
        """Returns what is left of a value that has all channels."""
        for axis, ids in enumerate(tensor.axes):
            index = np.flatnonzero(self.ids[ids])
            if index.size < ids.size:
                # A constant of a traced function has no such method in JAX 0.7.
                array = value if hasattr(value, "take") else jnp.asarray(value)
                value = array.take(index, axis, mode="clip")
        return value

    def spread(self, tensor: Tensor, value: Any) -> Any:
        """Returns a value that has all channels again, with zeros where they are gone."""
        for axis, ids in enumerate(tensor.axes):
            stays = self.ids[ids]
            if not stays.any():
                sizes = zip(value.shape, tensor.shape, self.shape(tensor), strict=True)
                # Where all is left the value's own size: it may be no number yet.
                shape = tuple(size if left == whole else whole for size, whole, left in sizes)
                return jnp.zeros(shape, value.dtype)
            # An index out of range takes the fill value.
            index = np.where(stays, np.cumsum(stays) - 1, stays.size)
            if not stays.all():
                value = jnp.take(value, index, axis=axis, mode="fill", fill_value=0)
        return value


def zero_slices(nonzero: np.ndarray) -> tuple[np.ndarray, ...]:
    """Marks for every axis, [n] bool, where the whole slice is False.

    Example:
        >>> [zero.tolist() for zero in zero_slices(np.array([[True, False], [True, False]]))]
        [[False, False], [False, True]]
    """
    axes = set(range(nonzero.ndim))
    return tuple(np.asarray(~nonzero.any(axis=tuple(axes - {axis}))) for axis in sorted(axes))
