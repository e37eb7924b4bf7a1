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
from earlyprune_jax.analysis.words import plural


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
    early = [c for c, e in enumerate(grid.epochs) if convergence and e < convergence.epoch]
    late = [c for c, e in enumerate(grid.epochs) if convergence and e >= convergence.epoch]
    places = range(len(grid.sparsities))
    forward = [lead(grid.chosen_on[r], grid.test[r], early, late) for r in places]
    backward = [lead(grid.chosen_on[r], grid.test[r], late, early) for r in places]
    early_holm, late_holm = (
        holm([one.p if one else None for one in side]) for side in (forward, backward)
    )
    found = []
    for r in places:
        bests = [best_of(grid.chosen_on[r], side) if side else None for side in (early, late)]
        epochs = [None if column is None else grid.epochs[column] for column in bests]
        verdict = _verdict(early_holm[r], late_holm[r])
        found.append(
            Row(
                sparsity=grid.sparsities[r],
                best=best_epoch.best(grid.row(r)),
                early_epoch=epochs[0],
                converged_epoch=epochs[1],
                advantage=plain_difference(grid.test[r], bests[0], bests[1]),
                early=forward[r],
                converged=backward[r],
                early_holm=early_holm[r],
                converged_holm=late_holm[r],
                verdict=verdict,
                reason=_reason(grid, r, epochs, convergence) if verdict == "untested" else None,
            )
        )
    return tuple(found)


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


def _verdict(early: float | None, converged: float | None) -> str:
    """Judges a row by its adjusted p-values."""
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
    return f"{plural(num, grid.repeat_kind)}: the test needs {MIN_REPEATS}"
