"""Output channels as the unit of pruning: what has to go together.

Removing an output channel of a convolution also removes its bias, the scale, bias and statistics
of the norm behind it, the slices of the kernels that read it, and, where residual additions
tie channels of several layers, all of theirs. These groups are derived from the computation
itself, for any network.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from earlyprune_jax.pruning.channels.graph import Tensor
from earlyprune_jax.pruning.channels.trace import Apply, trace_network
from earlyprune_jax.pruning.trees import is_weight, named_leaves


@dataclasses.dataclass(frozen=True)
class Slices:
    """Slices of one leaf: the given indices along one axis."""

    path: str
    axis: int
    indices: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ChannelGroup:
    """What is removed together.

    Attributes:
        members: all slices, in the tree's order.
        outputs: those of them that are output channels of a kernel.
    """

    members: tuple[Slices, ...]
    outputs: tuple[Slices, ...]

    @property
    def coupled(self) -> tuple[tuple[str, int], ...]:
        """The (path, axis) of every member: equal for channels of one layer, or of layers tied
        together."""
        return tuple((member.path, member.axis) for member in self.members)


@dataclasses.dataclass(frozen=True)
class PinnedSlices:
    """Slices that cannot be removed, and why."""

    path: str
    axis: int
    indices: tuple[int, ...]
    reason: str


@dataclasses.dataclass(frozen=True)
class ChannelGroups:
    """The channels of a network.

    Attributes:
        groups: those that can be removed, in the order of their first slice in the tree.
        pinned: the slices of weights that cannot.
        shapes: path -> shape of every weight.
    """

    groups: tuple[ChannelGroup, ...]
    pinned: tuple[PinnedSlices, ...]
    shapes: Mapping[str, tuple[int, ...]]


def channel_groups(apply: Apply, variables: Any, inputs: Any) -> ChannelGroups:
    """Finds which slices of which weights have to be removed together, from the computation alone.

    Two slices belong together if an operation lines them up: the output channel of a kernel with
    its bias, its norm and the next kernel's input slice; the two sides of an addition; a pixel's
    channels with the rows of a dense kernel behind a flatten. Followed are convolutions (depthwise
    ones too), matrix products, elementwise operations, pooling, padding, slices, concatenations,
    transposes, reshapes that drop or merge axes, and calls; a padded channel, as in parameter-free
    shortcuts, is removed with what is added to it. Hidden units, attention heads and their
    features are channels too, where a kernel has an axis for them.

    Guarantees: with a group's slices set to 0, nothing of the group reaches the outputs, whatever
    its activations are. What belongs to inputs or outputs stays; so does what is reduced over
    (layer norm over channels, softmax), split by a reshape (group norm), or goes through an
    operation without a rule (loops, sorting, scatter): `pinned` says which and why.

    Nothing is computed: the function is traced.

    Args:
        apply: (variables, inputs) -> outputs, in evaluation mode.
        variables: any pytree, of arrays or shapes: parameters, and the norms' statistics if the
            network has them.
        inputs: any pytree of arrays or shapes. The batch size does not matter.

    Returns:
        The groups, and what is pinned with the reason. A group without `outputs` is no kernel's
        output (copies of an input, say); `channel_mask` never removes it.

    Source: Fang et al. 2023, "DepGraph: towards any structural pruning", section 3, where the
    dependencies are those of layers; here they are those of indices.

    Example:
        >>> import jax.numpy as jnp
        >>> def apply(params, x):
        ...     return jnp.maximum(x @ params["a"] + params["b"][None], 0) @ params["c"]
        >>> params = {"a": jnp.ones((3, 2)), "b": jnp.ones(2), "c": jnp.ones((2, 5))}
        >>> groups = channel_groups(apply, params, jnp.ones((1, 3)))
        >>> [(slices.path, slices.axis, slices.indices) for slices in groups.groups[0].members]
        [('a', 1, (0,)), ('b', 0, (0,)), ('c', 0, (0,))]
        >>> [(slices.path, slices.axis, slices.reason) for slices in groups.pinned]
        [('a', 0, 'belongs to the inputs'), ('c', 1, 'belongs to the outputs')]
    """
    trace = trace_network(apply, variables, inputs)
    labels = trace.graph.labels()
    reasons = trace.graph.pin_reasons(labels)
    paths = [name for name, leaf in named_leaves(variables) if is_weight(leaf)]
    produced = np.zeros(trace.graph.num_ids, bool)
    for ids in trace.graph.produced:
        produced[ids] = True
    groups: dict[int, list[tuple[Slices, bool]]] = {}
    pinned: dict[tuple[str, int, str], list[int]] = {}
    for path, tensor in zip(paths, trace.weights, strict=True):
        for label, slices, is_output in _labelled_slices(path, tensor, labels, produced):
            if label in reasons:
                key = (slices.path, slices.axis, reasons[label])
                pinned.setdefault(key, []).extend(slices.indices)
            else:
                groups.setdefault(label, []).append((slices, is_output))
    return ChannelGroups(
        groups=tuple(_group(members) for members in groups.values()),
        pinned=tuple(
            PinnedSlices(p, a, tuple(sorted(where)), why) for (p, a, why), where in pinned.items()
        ),
        shapes={path: tensor.shape for path, tensor in zip(paths, trace.weights, strict=True)},
    )


def _group(members: list[tuple[Slices, bool]]) -> ChannelGroup:
    slices = tuple(slices for slices, _ in members)
    return ChannelGroup(slices, tuple(slices for slices, is_output in members if is_output))


def _labelled_slices(
    path: str, tensor: Tensor, labels: np.ndarray, produced: np.ndarray
) -> Iterator[tuple[int, Slices, bool]]:
    """(label, slices, whether they are output channels) for each axis of a weight and label on
    it."""
    for place, ids in enumerate(tensor.axes):
        order = np.argsort(labels[ids], kind="stable")
        starts = np.flatnonzero(np.diff(labels[ids][order], prepend=-1))
        runs = np.split(order, starts[1:])
        # In the order of the indices, not of the labels.
        for run in sorted((run for run in runs if run.size), key=lambda run: int(run[0])):
            slices = Slices(path, place, tuple(int(index) for index in run))
            yield int(labels[ids[run[0]]]), slices, bool(produced[ids[run[0]]])
