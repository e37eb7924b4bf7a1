"""The account of a mask: per layer and in total, asked for and got, as data and as a table.

What looks wrong is said in sentences.
"""

import dataclasses
import json
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

from earlyprune_jax.array_types import Mask, Params
from earlyprune_jax.pruning import costs, masks
from earlyprune_jax.pruning.allocation.budgets import check_options, check_used, layer_sparsities
from earlyprune_jax.pruning.layouts import Layout, Layouts, find
from earlyprune_jax.pruning.selection import NAMED_SETS, Layers, exclusions
from earlyprune_jax.pruning.trees import few, is_weight, named_leaves, refuse
from earlyprune_jax.validate import expected, nearest

Counts = list[tuple[int, int]]
"""(weights, of these removed)."""
_WORDS = ("layer", "shape", "layout")
WIDTH = 90
"""Columns of a sentence below the table."""


@dataclasses.dataclass(frozen=True)
class LedgerRow:
    """One leaf, or a sum over leaves; a leaf without weights (functions, integers) has size 0.

    Attributes:
        path: slash-joined; of a sum what it is over.
        size: number of weights.
        kept: weights the mask keeps.
        removed: size - kept.
        sparsity: removed / size; 0 where there are no weights.
        macs: multiply-accumulates of one example, dense; None unless given.
        macs_left: macs x kept / size.
        requested: the sparsity asked for, None if none was.
        shape: of the leaf; () for leaves that are no arrays.
        layout: a letter per axis of a kernel (`pruning.layouts.Layout`), `norm`, `embedding`, or
            empty.
        dtype: its name; the Python type for leaves that are no arrays.
        excluded: why the leaf may not be pruned; empty if it may.
        collapsed: whether all weights are removed.
        dead_outputs: output channels without a weight; None where no axis is known to be theirs.
        dead_inputs: input channels without a weight; likewise.
    """

    path: str
    size: int
    kept: int
    removed: int
    sparsity: float
    macs: int | None
    macs_left: int | None
    requested: float | None = None
    shape: tuple[int, ...] = ()
    layout: str = ""
    dtype: str = ""
    excluded: str = ""
    collapsed: bool = False
    dead_outputs: int | None = None
    dead_inputs: int | None = None


@dataclasses.dataclass(frozen=True)
class Ledger:
    """The account of a mask; `print` it, or take `as_dict()`.

    Attributes:
        rows: every leaf, in the tree's order.
        prunable: sums over the leaves that may be pruned; sparsity is the fraction of these.
        everything: sums over all weights, with the products that involve no weight in its macs.
        requested: the sparsity asked for over all prunable leaves, None if none or one per leaf.
        warnings: sentences on collapsed layers, dead channels, weights removed where none may be,
            and counts other than requested.
        read_off: what the mask says of the leaves that may be pruned; empty where `layers` was
            given.
    """

    rows: tuple[LedgerRow, ...]
    prunable: LedgerRow
    everything: LedgerRow
    requested: float | None
    warnings: tuple[str, ...]
    read_off: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Returns the same in dicts, lists, strings and numbers, ready for JSON.

        Example:
            >>> total = LedgerRow("prunable", 4, 3, 1, 0.25, None, None)
            >>> Ledger((), total, total, 0.25, ()).as_dict()["prunable"]["removed"]
            1
        """
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Shows the table where IPython or a notebook shows the value of a cell."""
        printer.text(str(self))

    def __str__(self) -> str:
        """Writes a table, what is prunable, what is not and why, and the warnings as plain text.

        The table has the prunable leaves, those pruned although excluded, and two totals.
        """
        shown = [row for row in self.rows if not row.excluded or row.removed]
        names = ["weights", "kept", "sparsity", "requested", "MACs", "MACs left"]
        table = [[*_WORDS, *names]]
        for row in (*shown, self.prunable, self.everything):
            numbers = [row.size, row.kept, row.sparsity, row.requested, row.macs, row.macs_left]
            formats = [",", ",", ".4f", ".4f", ",", ","]
            pairs = zip(numbers, formats, strict=True)
            cells = ["" if number is None else f"{number:{form}}" for number, form in pairs]
            table.append([row.path, "x".join(map(str, row.shape)), row.layout, *cells])
        # A column of which nothing is known is left out.
        columns = [column for column in zip(*table, strict=True) if any(column[1:])]
        widths = [max(map(len, column)) for column in columns]
        texts = [
            "   ".join(
                cell.ljust(width) if column[0] in _WORDS else cell.rjust(width)
                for cell, column, width in zip(line, columns, widths, strict=True)
            )
            for line in zip(*columns, strict=True)
        ]
        texts[1:1], texts[-2:-2] = ["─" * len(texts[0])], [""]
        said = []
        if self.read_off:
            said.append(f"Prunable, read off the mask: {self.read_off}.")
        for reason in dict.fromkeys(row.excluded for row in self.rows if row.excluded):
            paths = [row.path for row in self.rows if row.excluded == reason]
            said.append(f"Not prunable: {few(paths, 4)}: {reason}.")
        said += [f"Warning: {warning}" for warning in self.warnings]
        return "\n".join([*map(str.rstrip, texts), *map(_wrapped, said)])


def ledger(
    params: Params,
    mask: Mask,
    *,
    layers: Layers | None = None,
    requested: float | Mapping[str, float] | None = None,
    macs: Mapping[str, int] | None = None,
    layouts: Layouts | None = None,
) -> Ledger:
    """Counts what a mask removes, leaf by leaf, and compares it with what was asked for.

    A request of sparsity s is met by n weights when round(s n) are removed (Python's round):
    exactly in a leaf, and over all prunable leaves up to half a weight a leaf, what scope `local`
    rounds. A dead output channel is an index of the output axis, or of heads and features
    together, at which every weight is removed; a dead input channel likewise. Only kernels have
    them, along the axes that the column `layout` names.

    Args:
        params: any pytree; shapes are enough.
        mask: bool leaves, True = kept.
        layers: the leaves that may be pruned, as in `select`. None reads them off the mask: the
            first of `conv_kernels`, `dense_kernels` and `all_kernels` that holds every kernel of
            which it removes something; where it prunes other leaves only, these. Give those that
            the mask was made with where that is another set.
        requested: nothing; the sparsity over all prunable leaves together; or a mapping from
            regular expressions to sparsities, as `prune` takes it.
        macs: path -> multiply-accumulates of one example, from `costs.macs`; what is left is that
            times the kept fraction, as if a kernel could skip every removed weight.
        layouts: as in `select`.

    Returns:
        One row per leaf, totals and warnings.

    Raises:
        InvalidInput: a mask of another structure, unknown `layers`, sparsities outside [0, 1),
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
        layer         shape     layout   weights   kept   sparsity   requested
        ──────────────────────────────────────────────────────────────────────
        conv/kernel   3x3x2x4   HWIO          72     54     0.2500
        <BLANKLINE>
        prunable                              72     54     0.2500      0.2500
        all weights                           76     58     0.2368
        Prunable, read off the mask: conv_kernels.
        Not prunable: conv/bias: is not named kernel or weight.
        Warning: conv/kernel has channels without a weight: 1 of 4 outputs and 0 of 2 inputs.
    """
    masks.check(mask, params)
    leaves, keeps = dict(named_leaves(params)), dict(named_leaves(mask))
    given, found = layers is not None, find(params, layouts)
    if layers is None:
        read_off, excluded = _read_off(params, keeps, layouts)
    else:
        read_off, excluded = "", exclusions(params, layers, layouts)
    names = [name for name in leaves if name not in excluded]
    targets = requested if isinstance(requested, Mapping) else {}
    problems = [] if requested is None else check_options(requested, "local")
    problems = [f"requested: {text}" for text in problems or check_used(targets, names)]
    dense = {name: int(count) for name, count in (macs or {}).items()}
    problems += [
        expected("macs for", name, "to be the path of a leaf", nearest(name, leaves))
        for name in dense
        if name not in leaves and name != costs.NO_WEIGHTS
    ]
    refuse(problems)
    overall = None if requested is None or isinstance(requested, Mapping) else float(requested)
    per_leaf, left = layer_sparsities(names, targets), costs.macs_left(dense, mask)

    def row_of(path: str, counts: Counts, paths: list[str], **others: Any) -> LedgerRow:
        size, removed = (sum(column) for column in zip((0, 0), *counts, strict=True))
        return LedgerRow(
            path=path,
            size=size,
            kept=size - removed,
            removed=removed,
            sparsity=removed / size if size else 0.0,
            macs=None if macs is None else sum(dense.get(name, 0) for name in paths),
            macs_left=None if macs is None else sum(left.get(name, 0) for name in paths),
            collapsed=0 < size == removed,
            **others,
        )

    rows, warnings, touched = [], [], []
    for name, leaf in leaves.items():
        keep, size = np.asarray(keeps[name]), np.size(leaf) if is_weight(leaf) else 0
        num_removed = int(keep.size - np.count_nonzero(keep))
        layout = found.get(name, Layout(kind=""))
        has_channels = size and name not in excluded and layout.axes and layout.kind == "kernel"
        sides = (layout.outputs, layout.inputs) if has_channels else ()
        alive = [keep.any(axis=tuple({*range(keep.ndim)} - {*axes})) for axes in sides]
        dead = [int(np.count_nonzero(~channels)) for channels in alive] or [None, None]
        row = row_of(
            name,
            [(size, num_removed if size else 0)],
            [name],
            requested=float(per_leaf[name]) if targets and name in per_leaf else None,
            shape=np.shape(leaf),
            layout=str(layout),
            dtype=str(getattr(leaf, "dtype", type(leaf).__name__)),
            excluded=excluded.get(name, ""),
            dead_outputs=dead[0],
            dead_inputs=dead[1],
        )
        rows.append(row)
        if row.excluded:
            touched += [f"{name} ({num_removed} of {keep.size})"] if num_removed else []
            continue
        if row.collapsed:
            lost = f"{name} lost all of its {size} weights: nothing passes through it."
            warnings.append(f"{lost} Prune with min_kept=1, or scope='erk'.")
        elif any(dead):
            both = zip(("outputs", "inputs"), dead, alive, strict=True)
            counts = " and ".join(f"{n} of {channels.size} {side}" for side, n, channels in both)
            warnings.append(f"{name} has channels without a weight: {counts}.")
        warnings += _missed(row, slack=0)
    chosen = [row for row in rows if not row.excluded]
    sums = [(row.size, row.removed) for row in chosen]
    prunable = row_of("prunable", sums, names, requested=overall)
    sums, paths = [(row.size, row.removed) for row in rows], [*leaves, costs.NO_WEIGHTS]
    everything = row_of("all weights", sums, paths)
    if not prunable.size:
        why = (
            "`layers` selects none" if given else "the mask prunes no weights, and none is a kernel"
        )
        warnings.append(f"No leaf may be pruned: {why}.")
    if touched:
        remedy = "Give the `layers` it was made with; masks of channels do so on purpose."
        where = f"leaves that {read_off or '`layers`'} excludes: {', '.join(touched)}"
        warnings.append(f"The mask also removes entries of {where}. {remedy}")
    # Rounded in every layer by itself, a total may be off by half a weight a layer.
    remedy = "" if given else " If the mask was made with other `layers`, give them."
    warnings += [said + remedy for said in _missed(prunable, slack=len(chosen) // 2)]
    return Ledger(tuple(rows), prunable, everything, overall, tuple(warnings), read_off)


def _wrapped(sentence: str) -> str:
    # A notebook breaks longer lines within words. A path must stay in one piece, to be copied.
    return textwrap.fill(
        sentence, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _read_off(
    params: Params, keeps: Mapping[str, Any], layouts: Layouts | None
) -> tuple[str, dict[str, str]]:
    """Tells from a mask which leaves may be pruned, in words, and why the others may not."""
    pruned = {name for name, keep in keeps.items() if not np.all(keep)}
    sets = {name: exclusions(params, name, layouts) for name in NAMED_SETS}
    kernels = pruned - sets["all_kernels"].keys()
    for name, excluded in sets.items():
        holds_all = len(excluded) < len(keeps) and not kernels & excluded.keys()
        if holds_all and (kernels or not pruned):
            return name, excluded
    kept = dict.fromkeys(keeps.keys() - pruned, "the mask keeps all of it")
    return "the leaves that it prunes", kept | exclusions(params, lambda *_: True)


def _missed(row: LedgerRow, slack: int) -> list[str]:
    """Says that a count is not the requested one, if so."""
    wanted = row.removed if row.requested is None else round(row.requested * row.size)
    if abs(row.removed - wanted) <= slack:
        return []
    removed = f"{row.removed} of {row.size} weights are removed ({row.sparsity:.6g})"
    return [f"{row.path}: {removed}, not {wanted} as requested ({row.requested:g})."]
