"""The account of a mask: per layer and in total, asked for and got, as data and as a table.

What looks wrong is said in sentences.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from earlyprune_jax.array_types import Mask, Params
from earlyprune_jax.pruning import costs, masks
from earlyprune_jax.pruning.allocation.budgets import check_used, layer_sparsities
from earlyprune_jax.pruning.comparison import rate_problems
from earlyprune_jax.pruning.selection import Layers, exclusions
from earlyprune_jax.pruning.trees import few, is_weight, named_leaves, refuse
from earlyprune_jax.validate import expected, nearest, within

CHANNEL_AXES = {"kernel": (-1, -2), "weight": (0, 1)}
"""(output, input) axis by a leaf's name: `kernel` as in Flax, (..., in, out); `weight` as in
Equinox and PyTorch, (out, in, ...)."""


@dataclasses.dataclass(frozen=True)
class LedgerRow:
    """One leaf.

    Attributes:
        path: slash-joined.
        shape: of the leaf; () for leaves that are no arrays.
        dtype: its name; the Python type for leaves that are no arrays.
        size: number of weights; 0 for leaves that are none (functions, integer arrays).
        kept: weights the mask keeps.
        removed: size - kept.
        sparsity: removed / size; 0 where there are none.
        requested: the sparsity asked for, None if none was.
        macs: multiply-accumulates of one example, dense; None unless given.
        macs_left: macs x kept / size.
        excluded: why the leaf may not be pruned; empty if it may.
        collapsed: whether all of its weights are removed.
        dead_outputs: output channels without a weight; None where no axis is known to be theirs.
        dead_inputs: input channels without a weight; likewise.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    size: int
    kept: int
    removed: int
    sparsity: float
    requested: float | None
    macs: int | None
    macs_left: int | None
    excluded: str
    collapsed: bool
    dead_outputs: int | None
    dead_inputs: int | None


@dataclasses.dataclass(frozen=True)
class Total:
    """Sums over some leaves: weights, removed weights, their fraction, multiply-accumulates if
    given."""

    size: int
    kept: int
    removed: int
    sparsity: float
    macs: int | None
    macs_left: int | None


@dataclasses.dataclass(frozen=True)
class Ledger:
    """The account of a mask; `print` it, or take `table()` or `as_dict()`.

    Attributes:
        rows: every leaf, in the tree's order.
        prunable: sums over the leaves that may be pruned; sparsity is the fraction of these.
        everything: sums over all weights, with the products that involve no weight in its macs.
        requested: the sparsity asked for over all prunable leaves, None if none or one per leaf.
        warnings: sentences on collapsed layers, dead channels, weights removed where none may be,
            and counts other than requested.
    """

    rows: tuple[LedgerRow, ...]
    prunable: Total
    everything: Total
    requested: float | None
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns the same in dicts, lists, strings and numbers, ready for JSON.

        Example:
            >>> total = Total(size=4, kept=3, removed=1, sparsity=0.25, macs=None, macs_left=None)
            >>> Ledger((), total, total, 0.25, ()).as_dict()["prunable"]
            {'size': 4, 'kept': 3, 'removed': 1, 'sparsity': 0.25, 'macs': None, 'macs_left': None}
        """
        rows = [{**dataclasses.asdict(row), "shape": list(row.shape)} for row in self.rows]
        return {**dataclasses.asdict(self), "rows": rows, "warnings": list(self.warnings)}

    def table(self) -> Table:
        """Makes a rich table: prunable leaves, those pruned although excluded, and two totals."""
        requests = [self.requested, *(row.requested for row in self.rows)]
        with_requested = any(request is not None for request in requests)
        with_macs = self.everything.macs is not None
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("layer", no_wrap=True)
        table.add_column("shape", no_wrap=True)
        heads = ["weights", "kept", "sparsity"]
        heads += ["requested"] * with_requested + ["MACs", "MACs left"] * with_macs
        for head in heads:
            table.add_column(head, justify="right", no_wrap=True)

        def cells(counted: LedgerRow | Total, requested: float | None) -> list[str]:
            texts = [f"{counted.size:,}", f"{counted.kept:,}", f"{counted.sparsity:.4f}"]
            texts += ["" if requested is None else f"{requested:.4f}"] * with_requested
            macs = (counted.macs, counted.macs_left)
            return texts + [f"{count or 0:,}" for count in macs] * with_macs

        for row in self.rows:
            if not row.excluded or row.removed:
                shape = "x".join(map(str, row.shape))
                table.add_row(Text(row.path), shape, *cells(row, row.requested))
        table.add_section()
        table.add_row("prunable", "", *cells(self.prunable, self.requested))
        table.add_row("all weights", "", *cells(self.everything, None))
        return table

    def excluded(self) -> dict[str, list[str]]:
        """Maps a reason to the paths of the leaves that may not be pruned for it."""
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            if row.excluded:
                reasons.setdefault(row.excluded, []).append(row.path)
        return reasons

    def __str__(self) -> str:
        """Writes the table, what is not prunable and why, and the warnings as plain text."""
        table = self.table()
        # Inside a notebook a console would display what it is told to write.
        console = Console(file=io.StringIO(), width=1000, color_system=None, force_jupyter=False)
        width = Measurement.get(console, console.options, table).maximum
        with console.capture() as captured:
            console.print(table, width=width)
        lines = [line.rstrip() for line in captured.get().splitlines()]
        for reason, paths in self.excluded().items():
            lines.append(f"Not prunable: {few(paths, 4)}: {reason}.")
        return "\n".join(lines + [f"Warning: {warning}" for warning in self.warnings])


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

    Returns:
        One row per leaf, totals and warnings.

    Raises:
        InvalidInput: a mask of another structure, unknown `layers`, sparsities outside [0, 1],
            patterns in `requested` that match no prunable leaf, paths in `macs` that are no leaf.

    Example:
        >>> params = {"conv": {"kernel": np.ones((3, 3, 2, 4)), "bias": np.ones(4)}}
        >>> keep = np.ones((3, 3, 2, 4), bool)
        >>> keep[..., 0] = False
        >>> mask = {"conv": {"kernel": keep, "bias": np.ones(4, bool)}}
        >>> account = ledger(params, mask, requested=0.25)
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
    excluded = exclusions(params, layers)
    leaves, keeps = named_leaves(params), [np.asarray(keep) for _, keep in named_leaves(mask)]
    names = [name for name, _ in leaves if name not in excluded]
    refuse(_requested_problems(requested, names) + _unknown_paths(macs, dict(leaves)))
    per_leaf = layer_sparsities(names, requested) if isinstance(requested, Mapping) else {}
    overall = None if requested is None or isinstance(requested, Mapping) else float(requested)
    left = {} if macs is None else costs.macs_left(macs, mask)
    rows, warnings = [], []
    for (name, leaf), kept in zip(leaves, keeps, strict=True):
        counts = (None, None) if macs is None else (int(macs.get(name, 0)), left.get(name, 0))
        rows.append(_row(name, leaf, kept, per_leaf.get(name), counts, excluded.get(name, "")))
        warnings += [] if rows[-1].excluded else _row_warnings(rows[-1])
    prunable = _total([row for row in rows if not row.excluded], macs is not None)
    everything = _total(rows, macs is not None)
    if macs is not None:
        sums = {"macs": int(sum(macs.values())), "macs_left": sum(left.values())}
        everything = dataclasses.replace(everything, **sums)
    warnings += _warnings(rows, prunable, overall)
    warnings += [
        f"{name} holds no weights, yet the mask is False for {kept.size - np.count_nonzero(kept)} "
        "of its entries: that has no effect."
        for (name, leaf), kept in zip(leaves, keeps, strict=True)
        if not is_weight(leaf) and not np.all(kept)
    ]
    return Ledger(tuple(rows), prunable, everything, overall, tuple(warnings))


def _row(
    name: str,
    leaf: Any,
    kept: np.ndarray,
    requested: float | None,
    macs: tuple[int | None, int | None],
    excluded: str,
) -> LedgerRow:
    size = kept.size if is_weight(leaf) else 0
    num_kept = int(np.count_nonzero(kept)) if size else 0
    axes = CHANNEL_AXES.get(_last_name(name), ()) if kept.ndim >= 2 else ()
    dead = [_num_dead(kept, axis) for axis in axes] if size and not excluded else []
    return LedgerRow(
        path=name,
        shape=tuple(np.shape(leaf)),
        dtype=str(getattr(leaf, "dtype", type(leaf).__name__)),
        size=size,
        kept=num_kept,
        removed=size - num_kept,
        sparsity=_fraction(size - num_kept, size),
        requested=None if requested is None else float(requested),
        macs=macs[0],
        macs_left=macs[1],
        excluded=excluded,
        collapsed=size > 0 and num_kept == 0,
        dead_outputs=dead[0] if dead else None,
        dead_inputs=dead[1] if dead else None,
    )


def _num_dead(kept: np.ndarray, axis: int) -> int:
    """Counts the indices of an axis at which nothing is kept."""
    alive = np.moveaxis(kept, axis, 0).reshape(kept.shape[axis], -1).any(axis=1)
    return int(np.count_nonzero(~alive))


def _total(rows: Sequence[LedgerRow], with_macs: bool) -> Total:
    size, removed = sum(row.size for row in rows), sum(row.removed for row in rows)
    macs = sum(row.macs or 0 for row in rows) if with_macs else None
    left = sum(row.macs_left or 0 for row in rows) if with_macs else None
    return Total(size, size - removed, removed, _fraction(removed, size), macs, left)


def _fraction(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _warnings(rows: Sequence[LedgerRow], prunable: Total, requested: float | None) -> list[str]:
    """Says what looks wrong of all leaves together."""
    sentences = []
    if not prunable.size:
        sentences.append("No leaf may be pruned: `layers` selects none.")
    touched = [row for row in rows if row.excluded and row.removed]
    if touched:
        where = ", ".join(f"{row.path} ({row.removed} of {row.size})" for row in touched)
        sentences.append(
            f"The mask also removes weights of leaves that `layers` excludes: {where}. Give the "
            "`layers` it was made with; masks of channels do so on purpose."
        )
    # Rounded in every layer by itself, a total may be off by half a weight a layer.
    slack = sum(not row.excluded for row in rows) // 2
    return sentences + _missed("All prunable leaves together", prunable, requested, slack)


def _row_warnings(row: LedgerRow) -> list[str]:
    """Says what looks wrong of one leaf."""
    sentences = []
    if row.collapsed:
        lost = f"{row.path} lost all of its {row.size} weights: nothing passes through it."
        sentences.append(lost)
    elif row.dead_outputs is not None:
        out_axis, in_axis = CHANNEL_AXES[_last_name(row.path)]
        for which, count, axis, consequence in (
            ("output", row.dead_outputs, out_axis, "they are constant"),
            ("input", row.dead_inputs, in_axis, "what feeds them is computed for nothing"),
        ):
            dead = f"{which} channels without a weight ({count} of {row.shape[axis]})"
            sentences += [f"{row.path} has {dead}: {consequence}."] if count else []
    return sentences + _missed(row.path, row, row.requested)


def _missed(
    whose: str, counted: LedgerRow | Total, requested: float | None, slack: int = 0
) -> list[str]:
    if requested is None:
        return []
    wanted = round(requested * counted.size)
    if abs(counted.removed - wanted) <= slack:
        return []
    should = f"{wanted} of {counted.size} weights removed (sparsity {requested:g})"
    return [f"{whose} should have {should}, but {counted.removed} are ({counted.sparsity:.6g})."]


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


def _unknown_paths(macs: Mapping[str, int] | None, names: Mapping[str, Any]) -> list[str]:
    return [
        expected("macs for", name, "to be the path of a leaf", nearest(name, names))
        for name in macs or {}
        if name not in names and name != costs.NO_WEIGHTS
    ]


def _last_name(path: str) -> str:
    return path.rsplit("/", 1)[-1]
