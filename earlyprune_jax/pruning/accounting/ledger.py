"""What a mask did: per layer and in total, asked for and got, with what looks wrong said in
sentences."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from earlyprune_jax.array_types import Mask, Params
from earlyprune_jax.pruning import masks, selection
from earlyprune_jax.pruning.accounting import costs
from earlyprune_jax.pruning.accounting.account import Ledger, LedgerRow, Total
from earlyprune_jax.pruning.allocation.budgets import check_used, layer_sparsities
from earlyprune_jax.pruning.comparison import rate_problems
from earlyprune_jax.pruning.selection import Layers
from earlyprune_jax.pruning.trees import is_weight, named_leaves
from earlyprune_jax.validate import InvalidInput, expected, nearest, within

CHANNEL_AXES = {"kernel": (-1, -2), "weight": (0, 1)}
"""(output, input) axis by a leaf's name: `kernel` as in Flax, (..., in, out); `weight` as in
Equinox and PyTorch, (out, in, ...)."""


def ledger(
    params: Params,
    mask: Mask,
    *,
    layers: Layers = "conv_kernels",
    requested: float | Mapping[str, float] | None = None,
    macs: Mapping[str, int] | None = None,
) -> Ledger:
    """Counts what a mask removes, leaf by leaf, and compares it with what was asked for.

    A request of sparsity s is met by n weights when round(s n) are removed (Python's round):
    exactly in a leaf, and over all prunable leaves up to half a weight a leaf, what scope `local`
    rounds. A dead output channel is an index of the output axis at which every weight is removed:
    the last axis of a leaf named `kernel` (Flax), the first of one named `weight` (Equinox,
    PyTorch). A dead input channel likewise, along the axis before or after. Other leaves have none.

    Args:
        params: any pytree; shapes are enough.
        mask: bool leaves, True = kept.
        layers: the leaves that may be pruned, as in `select`.
        requested: nothing; the sparsity over all prunable leaves together; or a mapping from
            regular expressions to sparsities, as `prune` takes it.
        macs: path -> multiply-accumulates of one example, from `costs.macs`; what is left is that
            times the kept fraction, as if a kernel could skip every removed weight.

    Raises:
        InvalidInput: a mask of another structure, unknown `layers`, sparsities outside [0, 1],
            patterns in `requested` that match no prunable leaf, paths in `macs` that are no leaf.

    Example:
        >>> params = {"conv": {"kernel": np.ones((3, 3, 2, 4)), "bias": np.ones(4)}}
        >>> keep = np.ones((3, 3, 2, 4), bool)
        >>> keep[..., 0] = False
        >>> account = ledger(params, {"conv": {"kernel": keep, "bias": np.ones(4, bool)}}, requested=0.25)
        >>> account.prunable.sparsity, account.rows[1].dead_outputs
        (0.25, 1)
        >>> print(account)
        layer         shape     weights   kept   sparsity   requested
        ─────────────────────────────────────────────────────────────
        conv/kernel   3x3x2x4        72     54     0.2500
        <BLANKLINE>
        prunable                     72     54     0.2500      0.2500
        all weights                  76     58     0.2368
        Not prunable: conv/bias: is not named kernel or weight.
        Warning: conv/kernel has output channels without a weight (1 of 4): they are constant.
    """
    masks.check(mask, params)
    excluded = selection.exclusions(params, layers)
    leaves = named_leaves(params)
    problems = _requested_problems(requested, [name for name, _ in leaves if name not in excluded])
    problems += _unknown_paths("macs", macs or {}, [costs.NO_WEIGHTS, *dict(leaves)])
    if problems:
        raise InvalidInput(problems)
    prunable_names = [name for name, _ in leaves if name not in excluded]
    per_leaf = layer_sparsities(prunable_names, requested) if isinstance(requested, Mapping) else {}
    overall = None if requested is None or isinstance(requested, Mapping) else float(requested)
    left = costs.macs_left(macs, mask) if macs is not None else {}
    rows = tuple(
        _row(name, leaf, np.asarray(kept), per_leaf.get(name), macs, left, excluded.get(name, ""))
        for (name, leaf), (_, kept) in zip(leaves, named_leaves(mask), strict=True)
    )
    prunable = _total([row for row in rows if not row.excluded], macs is not None)
    everything = _total(rows, macs is not None)
    if macs is not None:
        sums = {"macs": int(sum(macs.values())), "macs_left": sum(left.values())}
        everything = dataclasses.replace(everything, **sums)
    warnings = _warnings(rows, prunable, overall) + _ineffective(leaves, mask)
    return Ledger(rows, prunable, everything, overall, tuple(warnings))


def _row(
    name: str,
    leaf: Any,
    kept: np.ndarray,
    requested: float | None,
    macs: Mapping[str, int] | None,
    left: Mapping[str, int],
    excluded: str,
) -> LedgerRow:
    size = kept.size if is_weight(leaf) else 0
    num_kept = int(np.count_nonzero(kept)) if size else 0
    dead = _dead_channels(name, kept) if size and not excluded else (None, None)
    return LedgerRow(
        path=name,
        shape=tuple(np.shape(leaf)),
        dtype=str(getattr(leaf, "dtype", type(leaf).__name__)),
        size=size,
        kept=num_kept,
        removed=size - num_kept,
        sparsity=_fraction(size - num_kept, size),
        requested=None if requested is None else float(requested),
        macs=None if macs is None else int(macs.get(name, 0)),
        macs_left=None if macs is None else left.get(name, 0),
        excluded=excluded,
        collapsed=size > 0 and num_kept == 0,
        dead_outputs=dead[0],
        dead_inputs=dead[1],
    )


def _dead_channels(name: str, kept: np.ndarray) -> tuple[int | None, int | None]:
    axes = CHANNEL_AXES.get(_last_name(name))
    if axes is None or kept.ndim < 2:
        return None, None
    per_channel = [
        np.moveaxis(kept, axis, 0).reshape(kept.shape[axis], -1).any(axis=1) for axis in axes
    ]
    outputs, inputs = (int(np.count_nonzero(~alive)) for alive in per_channel)
    return outputs, inputs


def _total(rows: Sequence[LedgerRow], with_macs: bool) -> Total:
    size, removed = sum(row.size for row in rows), sum(row.removed for row in rows)
    macs = sum(row.macs or 0 for row in rows) if with_macs else None
    left = sum(row.macs_left or 0 for row in rows) if with_macs else None
    return Total(size, size - removed, removed, _fraction(removed, size), macs, left)


def _fraction(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _warnings(rows: Sequence[LedgerRow], prunable: Total, requested: float | None) -> list[str]:
    sentences = [sentence for row in rows for sentence in _row_warnings(row)]
    if not prunable.size:
        sentences.append("No leaf may be pruned: `layers` selects none.")
    touched = [
        f"{row.path} ({row.removed} of {row.size})" for row in rows if row.excluded and row.removed
    ]
    if touched:
        sentences.append(
            f"The mask also removes weights of leaves that `layers` excludes: {', '.join(touched)}. "
            "Give the `layers` it was made with; masks of channels do so on purpose."
        )
    # Rounded in every layer by itself, a total may be off by half a weight a layer.
    slack = sum(not row.excluded for row in rows) // 2
    return sentences + _missed("All prunable leaves together", prunable, requested, slack)


def _row_warnings(row: LedgerRow) -> list[str]:
    if row.excluded:
        return []
    missed = _missed(row.path, row, row.requested)
    if row.collapsed:
        return [
            f"{row.path} lost all of its {row.size} weights: nothing passes through it.",
            *missed,
        ]
    outputs, inputs = _channels(row)
    dead = [
        f"{row.path} has {which} channels without a weight ({count} of {of}): {consequence}."
        for which, count, of, consequence in (
            ("output", row.dead_outputs, outputs, "they are constant"),
            ("input", row.dead_inputs, inputs, "what feeds them is computed for nothing"),
        )
        if count
    ]
    return dead + missed


def _channels(row: LedgerRow) -> tuple[int, int]:
    """The number of output and of input channels; 0 where no axis is known to be theirs."""
    if row.dead_outputs is None:
        return 0, 0
    output_axis, input_axis = CHANNEL_AXES[_last_name(row.path)]
    return row.shape[output_axis], row.shape[input_axis]


def _missed(
    whose: str, counted: LedgerRow | Total, requested: float | None, slack: int = 0
) -> list[str]:
    if requested is None or abs(counted.removed - round(requested * counted.size)) <= slack:
        return []
    wanted = f"{round(requested * counted.size)} of {counted.size} weights removed (sparsity {requested:g})"
    return [f"{whose} should have {wanted}, but {counted.removed} are ({counted.sparsity:.6g})."]


def _ineffective(leaves: Sequence[tuple[str, Any]], mask: Mask) -> list[str]:
    return [
        f"{name} holds no weights, yet the mask is False for {np.size(kept) - np.count_nonzero(kept)} of its "
        "entries: that has no effect."
        for (name, leaf), (_, kept) in zip(leaves, named_leaves(mask), strict=True)
        if not is_weight(leaf) and not np.all(kept)
    ]


def _requested_problems(
    requested: float | Mapping[str, float] | None, prunable: Sequence[str]
) -> list[str]:
    if requested is None:
        return []
    if not isinstance(requested, Mapping):
        return rate_problems("requested", requested, within(0, 1))
    problems = []
    for pattern, sparsity in requested.items():
        problems += rate_problems(f"requested for {pattern}", sparsity, within(0, 1))
        problems += check_used(pattern, requested, prunable)
    return problems


def _unknown_paths(thing: str, given: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [
        expected(f"{thing} for", name, "to be the path of a leaf", nearest(name, names))
        for name in given
        if name not in names
    ]


def _last_name(path: str) -> str:
    return path.rsplit("/", 1)[-1]
