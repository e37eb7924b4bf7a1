"""Output channels as the unit of pruning: what has to go together, and masks that remove it.

Removing an output channel of a convolution also removes its bias, the scale, bias and statistics
of the norm behind it, the slices of the kernels that read it, and, where residual additions
tie channels of several layers, all of theirs. These groups are derived from the computation
itself, for any network.
"""

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Mask, Scores
from earlyprune_jax.pruning.allocation.allocate import allocate
from earlyprune_jax.pruning.allocation.budgets import check_options
from earlyprune_jax.pruning.channels.compact import Apply, trace_network
from earlyprune_jax.pruning.selection import Layers, exclusions
from earlyprune_jax.pruning.trees import few, is_weight, named_leaves, path_name, refuse
from earlyprune_jax.validate import expected, unexpected, unknown_choice

CHANNEL_SCOPES = ("global", "local")


@dataclasses.dataclass(frozen=True)
class Slices:
    """Slices of one leaf: the given indices along one axis; why they must stay, if so."""

    path: str
    axis: int
    indices: tuple[int, ...]
    reason: str = ""


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
        """Lists (path, axis) of every member: equal in one layer, and in layers tied together."""
        return tuple((member.path, member.axis) for member in self.members)


@dataclasses.dataclass(frozen=True, repr=False)
class ChannelGroups:
    """The channels of a network; `print` counts them.

    Attributes:
        groups: those that can be removed, in the order of their first slice in the tree.
        pinned: the slices of weights that cannot.
        shapes: path -> shape of every weight.

    Example:
        >>> outputs = [Slices(path, 1, (0,)) for path in ("first/kernel", "second/kernel")]
        >>> groups = tuple(ChannelGroup((slices,), (slices,)) for slices in outputs)
        >>> ChannelGroups(groups, pinned=(), shapes={})
        ChannelGroups: 2 groups in 2 layers, 0 pinned
    """

    groups: tuple[ChannelGroup, ...]
    pinned: tuple[Slices, ...]
    shapes: Mapping[str, tuple[int, ...]]

    def __repr__(self) -> str:
        layers = {slices.path for group in self.groups for slices in group.outputs}
        counts = f"{len(self.groups):,} groups in {len(layers)} layers"
        return f"{type(self).__name__}: {counts}, {len(self.pinned)} pinned"


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
    names = [name for name, leaf in named_leaves(variables) if is_weight(leaf)]
    produced = np.zeros(trace.graph.num_ids, bool)
    for ids in trace.graph.produced:
        produced[ids] = True
    members: dict[int, list[Slices]] = {}
    outputs: dict[int, list[Slices]] = {}
    pinned: dict[tuple[str, int, str], list[int]] = {}
    for name, tensor in zip(names, trace.weights, strict=True):
        for axis, ids in enumerate(tensor.axes):
            indices_of: dict[int, list[int]] = {}
            for index, label in enumerate(labels[ids].tolist()):
                indices_of.setdefault(label, []).append(index)
            for label, indices in indices_of.items():
                if label in reasons:
                    pinned.setdefault((name, axis, reasons[label]), []).extend(indices)
                    continue
                slices = Slices(name, axis, tuple(indices))
                members.setdefault(label, []).append(slices)
                if produced[ids[indices[0]]]:
                    outputs.setdefault(label, []).append(slices)
    return ChannelGroups(
        groups=tuple(ChannelGroup(tuple(members[k]), tuple(outputs.get(k, ()))) for k in members),
        pinned=tuple(
            Slices(path, axis, tuple(sorted(indices)), reason)
            for (path, axis, reason), indices in pinned.items()
        ),
        shapes={name: tensor.shape for name, tensor in zip(names, trace.weights, strict=True)},
    )


def channel_mask(
    scores: Scores,
    groups: ChannelGroups,
    *,
    sparsity: float,
    scope: str = "global",
    min_kept: int = 1,
    layers: Layers = "all_kernels",
) -> Mask:
    """Removes the lowest-scored channels, everywhere they occur.

    A channel's score is the mean of `scores` over all its output slices: kernel entries
    [..., channel], of every kernel whose output channel it is. Masked are all its slices: outputs,
    biases, norm scales, biases and statistics, and input slices of the kernels that read it. So
    the masked network computes what one without these channels does, and `compact` makes that
    one. A masked variance is harmless behind a masked scale; leaving the statistics as they are,
    as who masks the parameters only does, gives the same outputs.

    The channels of one layer, or of layers tied by residual additions, are a coupled set, and
    treated as `allocate` treats a layer: `global` ranks all channels together and removes
    round(sparsity * n) of them; `local` removes round(sparsity * n_s) of each coupled set s. Among
    equal scores, the first in the tree goes first. The `min_kept` highest of each coupled set are
    never removed; `global` removes others in their place, `local` refuses.

    Args:
        scores: the structure of the variables that `groups` were made from, higher = keep, e.g.
            `magnitude(variables)`; only kernels are looked at, so for scores of the parameters
            alone `variables | {"params": scores}` will do.
        groups: from `channel_groups`.
        sparsity: fraction of the channels removed, in [0, 1). Channels, not weights.
        scope: `global` or `local`.
        min_kept: channels left in each coupled set; 0 lets `global` take a whole layer.
        layers: whose output channels may go, as in `select`. A channel that is the output of
            several kernels may go if one of them is selected; the selected ones give its score.

    Returns:
        The structure of `scores`, bool: True = kept.

    Raises:
        InvalidInput: scores of another structure or shape or with NaN, options out of range,
            nothing that could be removed, or a sparsity that leaves a set less than `min_kept`.

    Warns:
        PruningWarning: as `allocate`, of coupled sets.

    Source: one score for a filter: Li et al. 2017, "Pruning filters for efficient ConvNets",
    section 3.1 (there a sum); coupled channels: Fang et al. 2023, "DepGraph", section 3.

    Example:
        >>> import jax.numpy as jnp
        >>> def apply(params, x):
        ...     return jnp.maximum(x @ params["a"]["kernel"], 0) @ params["b"]["kernel"]
        >>> params = {"a": {"kernel": jnp.array([[3.0, 1.0]])}, "b": {"kernel": jnp.ones((2, 1))}}
        >>> groups = channel_groups(apply, params, jnp.ones((1, 1)))
        >>> mask = channel_mask(params, groups, sparsity=0.5)
        >>> mask["a"]["kernel"].tolist(), mask["b"]["kernel"].tolist()
        ([[True, False]], [[True], [False]])
    """
    problems = check_options(sparsity, "local", min_kept)
    if scope not in CHANNEL_SCOPES:
        problems.append(unknown_choice("scope", scope, CHANNEL_SCOPES))
    shapes = {name: np.shape(leaf) for name, leaf in named_leaves(scores)}
    remedy = "Give scores of the variables that the groups were made from."
    for path, shape in groups.shapes.items():
        if (given := shapes.get(path)) != shape:
            problems.append(expected(f"shape of scores at {path}", given, f"to be {shape}", remedy))
    refuse(problems)
    selected = shapes.keys() - exclusions(scores, layers).keys()
    candidates = [group for group in groups.groups if selected & {it.path for it in group.outputs}]
    if not candidates:
        pinned = (it for it in groups.pinned if it.path in selected)
        reasons = [f"{it.path}, axis {it.axis}: {it.reason}" for it in pinned][:8]
        remedy = f"What is pinned: {'; '.join(reasons) or 'no slice of these layers'}."
        raise unexpected("layers", layers, "to have output channels that can be removed", remedy)
    values = _group_scores(scores, candidates, selected)
    coupled: dict[Any, list[int]] = {}
    for number, group in enumerate(candidates):
        coupled.setdefault(group.coupled, []).append(number)
    # JAX sorts the keys of a dict, and equal scores go in this order.
    sets = collections.OrderedDict()
    for numbers in coupled.values():
        name = few(dict.fromkeys(it.path for it in candidates[numbers[0]].outputs), 3)
        # One layer may have channels in several sets.
        sets[f"{name} ({len(sets)})" if name in sets else name] = values[numbers]
    kept = allocate(
        sets, jax.tree.map(lambda _: True, sets), sparsity=sparsity, scope=scope, min_kept=min_kept
    )
    keeps = {name: np.ones(np.shape(leaf), bool) for name, leaf in named_leaves(scores)}
    for numbers, keep in zip(coupled.values(), kept.values(), strict=True):
        for number in np.array(numbers)[~np.asarray(keep)]:
            for it in candidates[number].members:
                keeps[it.path][(slice(None),) * it.axis + (list(it.indices),)] = False
    return jax.tree.map_with_path(lambda path, _: jnp.asarray(keeps[path_name(path)]), scores)


def _group_scores(
    scores: Scores, candidates: Sequence[ChannelGroup], selected: set[str]
) -> np.ndarray:
    """Averages the scores over the output slices of each group: [n] float64."""
    leaves = dict(named_leaves(scores))

    @functools.cache
    def sums_of(path: str, axis: int) -> tuple[np.ndarray, int]:
        leaf = np.asarray(leaves[path])
        others = tuple(other for other in range(leaf.ndim) if other != axis)
        return leaf.sum(axis=others, dtype=np.float64), leaf.size // leaf.shape[axis]

    means = []
    for group in candidates:
        outputs = [(it, *sums_of(it.path, it.axis)) for it in group.outputs if it.path in selected]
        total = sum(sums[list(it.indices)].sum() for it, sums, _ in outputs)
        means.append(total / sum(size * len(it.indices) for it, _, size in outputs))
    return np.array(means)
