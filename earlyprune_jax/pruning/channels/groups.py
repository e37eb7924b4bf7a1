"""Output channels as the unit of pruning: what has to go together, and masks that remove it.

Removing an output channel of a convolution also removes its bias, the scale, bias and statistics
of the norm behind it, the slices of the kernels that read it, and, where residual additions
tie channels of several layers, all of theirs. These groups are derived from the computation
itself, for any network.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Mask, Scores
from earlyprune_jax.pruning.allocation.allocate import PruningWarning
from earlyprune_jax.pruning.allocation.budgets import check_fraction, is_whole
from earlyprune_jax.pruning.allocation.ranking import keep_highest
from earlyprune_jax.pruning.channels.trace import Apply, trace_network
from earlyprune_jax.pruning.selection import Layers, exclusions
from earlyprune_jax.pruning.trees import few, is_weight, named_leaves, path_name, refuse
from earlyprune_jax.validate import expected, unexpected, unknown_choice

CHANNEL_SCOPES = ("global", "local")


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
        """Lists (path, axis) of every member: equal in one layer, and in layers tied together."""
        return tuple((member.path, member.axis) for member in self.members)


@dataclasses.dataclass(frozen=True)
class PinnedSlices(Slices):
    """Slices that cannot be removed, and why."""

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
    names = [name for name, leaf in named_leaves(variables) if is_weight(leaf)]
    produced = np.zeros(trace.graph.num_ids, bool)
    for axis in trace.graph.produced:
        if not isinstance(axis, str):
            produced[axis] = True
    members: dict[int, list[Slices]] = {}
    outputs: dict[int, list[Slices]] = {}
    pinned: dict[tuple[str, int, str], list[int]] = {}
    for name, tensor in zip(names, trace.weights, strict=True):
        for place, ids in enumerate(tensor.axes):
            for label, indices in _runs(labels[ids]):
                if label in reasons:
                    pinned.setdefault((name, place, reasons[label]), []).extend(indices)
                    continue
                slices = Slices(name, place, indices)
                members.setdefault(label, []).append(slices)
                if produced[ids[indices[0]]]:
                    outputs.setdefault(label, []).append(slices)
    return ChannelGroups(
        groups=tuple(ChannelGroup(tuple(members[k]), tuple(outputs.get(k, ()))) for k in members),
        pinned=tuple(
            PinnedSlices(path, axis, tuple(sorted(indices)), reason)
            for (path, axis, reason), indices in pinned.items()
        ),
        shapes={name: tensor.shape for name, tensor in zip(names, trace.weights, strict=True)},
    )


def _runs(labels: np.ndarray) -> list[tuple[int, tuple[int, ...]]]:
    """Lists (label, its indices) of every label on an axis, in the order of their first index."""
    indices: dict[int, list[int]] = {}
    for index, label in enumerate(labels.tolist()):
        indices.setdefault(label, []).append(index)
    return [(label, tuple(places)) for label, places in indices.items()]


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

    `global` ranks all channels together and removes round(sparsity * n) of them; `local` removes
    round(sparsity * n_s) of each coupled set s: the channels of one layer, or of layers tied by
    residual additions. Among equal scores, the first in the tree goes first. The `min_kept`
    highest of each coupled set are never removed; `global` removes others in their place.

    Args:
        scores: the structure of the variables that `groups` were made from, higher = keep, e.g.
            `magnitude(variables)`; only kernels are looked at, so for scores of the parameters
            alone `variables | {"params": scores}` will do.
        groups: from `channel_groups`.
        sparsity: fraction of the channels removed, in [0, 1). Channels, not weights.
        scope: `global` or `local`.
        min_kept: channels left in each coupled set; 0 lets a whole layer go.
        layers: whose output channels may go, as in `select`. A channel that is the output of
            several kernels may go if one of them is selected; the selected ones give its score.

    Returns:
        The structure of `scores`, bool: True = kept.

    Raises:
        InvalidInput: scores of another structure or shape or with NaN, options out of range,
            nothing that could be removed, or a sparsity that leaves a set less than `min_kept`.

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
    _check_options(scores, groups, sparsity, scope, min_kept)
    left_out = exclusions(scores, layers)
    selected = {name for name, _ in named_leaves(scores) if name not in left_out}
    candidates = [
        group for group in groups.groups if any(slices.path in selected for slices in group.outputs)
    ]
    if not candidates:
        pinned = (it for it in groups.pinned if it.path in selected)
        reasons = [f"{it.path}, axis {it.axis}: {it.reason}" for it in pinned][:8]
        remedy = f"What is pinned: {'; '.join(reasons) or 'no slice of these layers'}."
        allowed = "to have output channels that can be removed"
        raise unexpected("layers", layers, allowed, remedy)
    values = _group_scores(scores, candidates, selected)
    removed = _lowest(values, candidates, sparsity, scope, min_kept)
    _warn(values, removed, candidates)
    gone = [group for group, goes in zip(candidates, removed, strict=True) if goes]
    return _without(scores, gone)


def _check_options(
    scores: Scores, groups: ChannelGroups, sparsity: float, scope: str, min_kept: int
) -> None:
    problems = check_fraction(sparsity, "sparsity")
    if scope not in CHANNEL_SCOPES:
        problems.append(unknown_choice("scope", scope, CHANNEL_SCOPES))
    if not is_whole(min_kept) or min_kept < 0:
        problems.append(expected("min_kept", min_kept, "to be an integer of at least 0"))
    shapes = {name: np.shape(leaf) for name, leaf in named_leaves(scores)}
    remedy = "Give scores of the variables that the groups were made from."
    for path, shape in groups.shapes.items():
        if (given := shapes.get(path)) != shape:
            problems.append(expected(f"shape of scores at {path}", given, f"to be {shape}", remedy))
    refuse(problems)


def _group_scores(
    scores: Scores, candidates: Sequence[ChannelGroup], selected: set[str]
) -> np.ndarray:
    """Averages the scores over the output slices of each group: [n] float64."""
    leaves = dict(named_leaves(scores))
    outputs = [[it for it in group.outputs if it.path in selected] for group in candidates]
    sums, sizes = {}, {}
    for path, axis in {(it.path, it.axis) for group in outputs for it in group}:
        leaf = np.asarray(leaves[path])
        others = tuple(place for place in range(leaf.ndim) if place != axis)
        sums[path, axis] = leaf.sum(axis=others, dtype=np.float64)
        sizes[path, axis] = leaf.size // leaf.shape[axis]
    broken = sorted(path for (path, _), values in sums.items() if np.isnan(values).any())
    refuse(expected(f"scores at {path}", "NaN", "without NaN") for path in broken)
    return np.array(
        [
            sum(sums[it.path, it.axis][list(it.indices)].sum() for it in group)
            / sum(sizes[it.path, it.axis] * len(it.indices) for it in group)
            for group in outputs
        ]
    )


def _lowest(
    values: np.ndarray,
    candidates: Sequence[ChannelGroup],
    sparsity: float,
    scope: str,
    min_kept: int,
) -> np.ndarray:
    """Marks what is removed: [n] bool."""
    coupled: dict[Any, list[int]] = {}
    for number, group in enumerate(candidates):
        coupled.setdefault(group.coupled, []).append(number)
    may_go = np.zeros(len(candidates), bool)
    for numbers in coupled.values():
        may_go[numbers] = ~keep_highest([values[numbers]], max(0, len(numbers) - min_kept))[0]
    removed = np.zeros(len(candidates), bool)
    problems = []
    for numbers in [range(len(candidates))] if scope == "global" else coupled.values():
        available = np.array([number for number in numbers if may_go[number]], int)
        count = round(sparsity * len(numbers))
        if count <= available.size:
            removed[available] = ~keep_highest([values[available]], count)[0]
            continue
        members = (slices.path for number in numbers for slices in candidates[number].outputs)
        problems.append(
            expected(
                f"sparsity at {few(dict.fromkeys(members), 3)}",
                sparsity,
                f"to remove at most {available.size} of {len(numbers)} channels",
                f"It would remove {count}, but {min_kept} of each coupled set must stay "
                f"(min_kept). Lower it or min_kept{', or use scope global' * (scope == 'local')}.",
            )
        )
    refuse(problems)
    return removed


def _warn(values: np.ndarray, removed: np.ndarray, candidates: Sequence[ChannelGroup]) -> None:
    """Warns where the index decided, and of layers without a channel left."""
    if removed.any() and len(values) > 1 and (values == values[0]).all():
        text = f"All channels' scores are equal ({values[0]:g}): the index alone decides which go."
        warnings.warn(text, PruningWarning, stacklevel=3)
    left = {group.coupled for group, gone in zip(candidates, removed, strict=True) if not gone}
    emptied = {it.path for group in candidates if group.coupled not in left for it in group.outputs}
    if emptied:
        text = f"Every channel is removed at {', '.join(sorted(emptied))}. min_kept=1 prevents it."
        warnings.warn(text, PruningWarning, stacklevel=3)


def _without(scores: Scores, removed: Sequence[ChannelGroup]) -> Mask:
    keeps = {name: np.ones(np.shape(leaf), bool) for name, leaf in named_leaves(scores)}
    for slices in (slices for group in removed for slices in group.members):
        keeps[slices.path][(slice(None),) * slices.axis + (list(slices.indices),)] = False
    return jax.tree.map_with_path(lambda path, _: jnp.asarray(keeps[path_name(path)]), scores)
