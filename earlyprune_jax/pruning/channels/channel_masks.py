"""Masks that remove the lowest-scored channels, everywhere they occur."""

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Mask, Scores
from earlyprune_jax.pruning.allocation.allocate import PruningWarning
from earlyprune_jax.pruning.allocation.budgets import check_fraction
from earlyprune_jax.pruning.allocation.ranking import keep_highest
from earlyprune_jax.pruning.channels.groups import ChannelGroup, ChannelGroups, Slices
from earlyprune_jax.pruning.selection import Layers, exclusions
from earlyprune_jax.pruning.trees import named_leaves
from earlyprune_jax.validate import InvalidInput, expected, unknown_choice

CHANNEL_SCOPES = ("global", "local")


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
        >>> from earlyprune_jax.pruning.channels.groups import channel_groups
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
        raise InvalidInput([_nothing_removable(groups, layers, selected)])
    values = _group_scores(scores, candidates, selected)
    removed = _lowest(values, candidates, sparsity, scope, min_kept)
    _warn(values, removed, candidates)
    return _without(
        scores, [group for group, gone in zip(candidates, removed, strict=True) if gone]
    )


def _check_options(
    scores: Scores, groups: ChannelGroups, sparsity: float, scope: str, min_kept: int
) -> None:
    problems = []
    problems += check_fraction(sparsity, "sparsity")
    if scope not in CHANNEL_SCOPES:
        problems.append(unknown_choice("scope", scope, CHANNEL_SCOPES))
    if isinstance(min_kept, bool) or not isinstance(min_kept, int) or min_kept < 0:
        problems.append(expected("min_kept", min_kept, "to be an integer of at least 0"))
    given = dict(named_leaves(scores))
    remedy = "Give scores of the variables that the groups were made from."
    for path, shape in groups.shapes.items():
        if path not in given or np.shape(given[path]) != shape:
            value = np.shape(given[path]) if path in given else None
            problems.append(expected(f"shape of scores at {path}", value, f"to be {shape}", remedy))
    if problems:
        raise InvalidInput(problems)


def _nothing_removable(groups: ChannelGroups, layers: Layers, selected: set[str]) -> str:
    reasons = [
        f"{it.path}, axis {it.axis}: {it.reason}" for it in groups.pinned if it.path in selected
    ]
    remedy = f"What is pinned: {'; '.join(reasons[:8]) or 'no slice of these layers'}."
    return expected("layers", layers, "to have output channels that can be removed", remedy)


def _group_scores(
    scores: Scores, candidates: Sequence[ChannelGroup], selected: set[str]
) -> np.ndarray:
    """[n] float64: the mean score over the output slices of each group."""
    leaves = dict(named_leaves(scores))
    outputs = [[it for it in group.outputs if it.path in selected] for group in candidates]
    sums, sizes = {}, {}
    for path, axis in {(it.path, it.axis) for group in outputs for it in group}:
        leaf = np.asarray(leaves[path])
        others = tuple(place for place in range(leaf.ndim) if place != axis)
        sums[path, axis] = leaf.sum(axis=others, dtype=np.float64)
        sizes[path, axis] = leaf.size // leaf.shape[axis]
    broken = sorted(path for (path, _), values in sums.items() if np.isnan(values).any())
    if broken:
        raise InvalidInput([expected(f"scores at {path}", "NaN", "without NaN") for path in broken])
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
    """[n] bool, True = removed."""
    sets: dict[Any, list[int]] = {}
    for number, group in enumerate(candidates):
        sets.setdefault(group.coupled, []).append(number)
    may_go = np.zeros(len(candidates), bool)
    for members in sets.values():
        may_go[members] = ~keep_highest([values[members]], max(0, len(members) - min_kept))[0]
    ranked = [list(range(len(candidates)))] if scope == "global" else list(sets.values())
    removed = np.zeros(len(candidates), bool)
    problems = []
    for members in ranked:
        available = np.array([number for number in members if may_go[number]], int)
        count = round(sparsity * len(members))
        if count > available.size:
            group = [candidates[number] for number in members]
            problems.append(_too_many(group, sparsity, count, available.size, scope, min_kept))
        else:
            removed[available] = ~keep_highest([values[available]], count)[0]
    if problems:
        raise InvalidInput(problems)
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


def _too_many(
    members: Sequence[ChannelGroup],
    sparsity: float,
    count: int,
    available: int,
    scope: str,
    min_kept: int,
) -> str:
    paths = list(dict.fromkeys(slices.path for group in members for slices in group.outputs))
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    where = "Lower it or min_kept" + (", or use scope global." if scope == "local" else ".")
    return expected(
        f"sparsity at {', '.join(paths[:3])}{more}",
        sparsity,
        f"to remove at most {available} of {len(members)} channels",
        f"It would remove {count}, but {min_kept} of each coupled set must stay (min_kept). {where}",
    )


def _without(scores: Scores, removed: Sequence[ChannelGroup]) -> Mask:
    gone: dict[str, list[Slices]] = {}
    for group in removed:
        for slices in group.members:
            gone.setdefault(slices.path, []).append(slices)
    leaves = []
    for name, leaf in named_leaves(scores):
        keep = np.ones(np.shape(leaf), bool)
        for slices in gone.get(name, []):
            keep[(slice(None),) * slices.axis + (list(slices.indices),)] = False
        leaves.append(jnp.asarray(keep))
    return jax.tree.unflatten(jax.tree.structure(scores), leaves)
