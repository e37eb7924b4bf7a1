"""The account of a mask as data, and as a table: one row a leaf, totals, and warnings in
sentences."""

import dataclasses
import io
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


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
        """The same in dicts, lists, strings and numbers, ready for JSON.

        Example:
            >>> total = Total(size=4, kept=3, removed=1, sparsity=0.25, macs=None, macs_left=None)
            >>> Ledger((), total, total, 0.25, ()).as_dict()["prunable"]
            {'size': 4, 'kept': 3, 'removed': 1, 'sparsity': 0.25, 'macs': None, 'macs_left': None}
        """
        rows = [{**dataclasses.asdict(row), "shape": list(row.shape)} for row in self.rows]
        return {**dataclasses.asdict(self), "rows": rows, "warnings": list(self.warnings)}

    def table(self) -> Table:
        """A rich table: prunable leaves, leaves pruned although excluded, and the two totals."""
        with_macs, with_requested = self.everything.macs is not None, _any_requested(self)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("layer", no_wrap=True)
        table.add_column("shape", no_wrap=True)
        heads = ["weights", "kept", "sparsity"] + ["requested"] * with_requested
        for head in heads + ["MACs", "MACs left"] * with_macs:
            table.add_column(head, justify="right", no_wrap=True)
        shown = [row for row in self.rows if not row.excluded or row.removed]
        totals = [
            ("prunable", self.prunable, self.requested),
            ("all weights", self.everything, None),
        ]
        for row in shown:
            shape = "x".join(map(str, row.shape))
            table.add_row(
                Text(row.path), shape, *_cells(row, row.requested, with_requested, with_macs)
            )
        table.add_section()
        for name, total, requested in totals:
            table.add_row(name, "", *_cells(total, requested, with_requested, with_macs))
        return table

    def excluded(self) -> dict[str, list[str]]:
        """Reason -> paths of the leaves that may not be pruned for it."""
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            if row.excluded:
                reasons.setdefault(row.excluded, []).append(row.path)
        return reasons

    def __str__(self) -> str:
        """The table, what is not prunable and why, and the warnings, as plain text."""
        table = self.table()
        # Inside a notebook a console would display what it is told to write.
        console = Console(file=io.StringIO(), width=1000, color_system=None, force_jupyter=False)
        width = Measurement.get(console, console.options, table).maximum
        with console.capture() as captured:
            console.print(table, width=width)
        lines = [line.rstrip() for line in captured.get().splitlines()]
        excluded = [
            f"Not prunable: {_few(paths)}: {reason}." for reason, paths in self.excluded().items()
        ]
        return "\n".join(lines + excluded + [f"Warning: {warning}" for warning in self.warnings])


def _few(paths: list[str]) -> str:
    return ", ".join(paths[:4]) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")


def _any_requested(account: Ledger) -> bool:
    return account.requested is not None or any(row.requested is not None for row in account.rows)


def _cells(
    counted: LedgerRow | Total, requested: float | None, with_requested: bool, with_macs: bool
) -> list[str]:
    cells = [f"{counted.size:,}", f"{counted.kept:,}", f"{counted.sparsity:.4f}"]
    if with_requested:
        cells.append("" if requested is None else f"{requested:.4f}")
    return cells + [f"{count or 0:,}" for count in (counted.macs, counted.macs_left)] * with_macs
