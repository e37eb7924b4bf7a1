"""Row by row: is early better, or converged? And from which sparsity on: the transition line."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from earlyprune_jax.analysis import best_epoch
from earlyprune_jax.analysis.best_epoch import Best
from earlyprune_jax.analysis.cells import CellGrid
from earlyprune_jax.analysis.lead import LEVEL, MIN_REPEATS, Lead, lead
from earlyprune_jax.analysis.regimes.convergence import Convergence
from earlyprune_jax.analysis.stats import Stats, best_of, holm, plain_difference


@dataclasses.dataclass(frozen=True)
class Row:
    """A sparsity of a grid.

    Attributes:
        best: None for a row without finished runs.
        early_epoch: the best before convergence; None where none is.
        converged_epoch: the best from convergence on; None likewise.
        advantage: how much better `early_epoch` is on test than `converged_epoch`, over paired
            repeats: for description, as both were chosen on these runs.
        early: lead of the early epochs, left-out repeats; see `lead.lead`.
        converged: lead of the converged ones.
        early_holm: `early.p` adjusted over the grid's sparsities.
        converged_holm: `converged.p` likewise.
        verdict: "early" or "converged" where the adjusted p is at most .05, else "not settled", or
            "untested".
        reason: why untested.
    """

    sparsity: float
    best: Best | None
    early_epoch: int | None
    converged_epoch: int | None
    advantage: Stats | None
    early: Lead | None
    converged: Lead | None
    early_holm: float | None
    converged_holm: float | None
    verdict: str
    reason: str | None


@dataclasses.dataclass(frozen=True)
class Line:
    """The transition line: the smallest sparsity whose best epoch is significantly early.

    Attributes:
        sparsity: None where no row is.
        exceptions: tested sparsities above it that are not significantly early: the regimes are
            then not cleanly apart, or the test is too weak there.
        num_tested: rows that could be tested.
    """

    sparsity: float | None
    exceptions: tuple[float, ...]
    num_tested: int


def rows(grid: CellGrid, convergence: Convergence | None) -> tuple[Row, ...]:
    """Judges the rows of a grid.

    Epochs before the convergence epoch are early, the others converged. Two one-sided tests a row,
    at 5 % each after Holm's adjustment over the rows of the grid.

    Args:
        grid: the grid.
        convergence: of its trunks; None leaves every row untested.

    Returns:
        One row a sparsity, ascending.
    """
    early, late = _sides(grid, convergence)
    places = range(len(grid.sparsities))
    forward = [lead(grid.chosen_on[r], grid.test[r], early, late) for r in places]
    backward = [lead(grid.chosen_on[r], grid.test[r], late, early) for r in places]
    adjusted = [holm([one.p if one else None for one in side]) for side in (forward, backward)]
    return tuple(
        _row(
            grid,
            r,
            (early, late),
            (forward[r], backward[r]),
            (adjusted[0][r], adjusted[1][r]),
            convergence,
        )
        for r in places
    )


def line(found: Sequence[Row]) -> Line:
    """Finds the transition line of a grid's rows.

    Example:
        >>> line([])
        Line(sparsity=None, exceptions=(), num_tested=0)
    """
    early = [row.sparsity for row in found if row.verdict == "early"]
    tested = [row for row in found if row.verdict != "untested"]
    start = min(early, default=None)
    exceptions = (row.sparsity for row in tested if start is not None and row.sparsity > start)
    return Line(start, tuple(s for s in exceptions if s not in early), len(tested))


def _sides(grid: CellGrid, convergence: Convergence | None) -> tuple[list[int], list[int]]:
    """Columns before the convergence epoch, and from it on."""
    if convergence is None:
        return [], []
    columns = range(len(grid.epochs))
    early = [c for c in columns if grid.epochs[c] < convergence.epoch]
    return early, [c for c in columns if grid.epochs[c] >= convergence.epoch]


def _row(
    grid: CellGrid,
    row: int,
    sides: tuple[list[int], list[int]],
    leads: tuple[Lead | None, Lead | None],
    adjusted: tuple[float | None, float | None],
    convergence: Convergence | None,
) -> Row:
    bests = [best_of(grid.chosen_on[row], side) if side else None for side in sides]
    epochs = [None if column is None else grid.epochs[column] for column in bests]
    verdict = _verdict(adjusted)
    return Row(
        sparsity=grid.sparsities[row],
        best=best_epoch.best(grid.row(row)),
        early_epoch=epochs[0],
        converged_epoch=epochs[1],
        advantage=plain_difference(grid.test[row], bests[0], bests[1]),
        early=leads[0],
        converged=leads[1],
        early_holm=adjusted[0],
        converged_holm=adjusted[1],
        verdict=verdict,
        reason=_reason(grid, row, epochs, convergence) if verdict == "untested" else None,
    )


def _verdict(adjusted: tuple[float | None, float | None]) -> str:
    early, converged = adjusted
    if early is None or converged is None:
        return "untested"
    # Both cannot lead: a lead is over the luckiest of the other side.
    return "early" if early <= LEVEL else "converged" if converged <= LEVEL else "not settled"


def _reason(
    grid: CellGrid, row: int, epochs: Sequence[int | None], convergence: Convergence | None
) -> str:
    if convergence is None:
        return "no trunk has been trained to its end, so its convergence epoch is unknown"
    for epoch, side in zip(epochs, ("before", "from"), strict=True):
        if epoch is None:
            return f"no fork {side} the convergence epoch {convergence.epoch}"
    num = int(np.isfinite(grid.test[row]).any(axis=0).sum())
    if num >= MIN_REPEATS:
        return f"fewer than {MIN_REPEATS} {grid.repeat_kind}s have the epochs compared"
    return f"{num} {grid.repeat_kind}{'s' * (num != 1)}: the test needs {MIN_REPEATS}"
