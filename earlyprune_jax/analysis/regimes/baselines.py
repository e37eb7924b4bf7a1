"""The best cell of a sparsity against pruning at the end, at initialisation, and with a random
mask."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from earlyprune_jax.analysis.cells import CellGrid
from earlyprune_jax.analysis.lead import Lead, lead
from earlyprune_jax.analysis.stats import Stats, best_of, plain_difference

MATCHED = "matched_budget"
CONSTANT = "constant"
RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The best cell of a row against a baseline of the same sparsity.

    Attributes:
        name: "prune at end", "prune at init", "random mask", "random mask at end" or "random mask
            at init"; with ", matched budget" or ", constant rate" where it is of that rule and the
            row is not.
        best_epoch: of the row.
        epoch: of the baseline; a random mask's own best.
        best_num_epochs: what a run of the row's best cell is trained in all, dense and pruned.
        num_epochs: the same of the baseline, which may be far longer.
        best_value: mean test metric of the row's best cell, in its own direction.
        value: the same of the baseline.
        difference: how much better the best is, over paired repeats; best chosen on the same runs.
        left_out: the same with the best epoch chosen on the other repeats; see `lead.lead`.
    """

    sparsity: float
    name: str
    best_epoch: int
    epoch: int
    best_num_epochs: int
    num_epochs: int
    best_value: float
    value: float
    difference: Stats
    left_out: Lead | None


def compare(
    grid: CellGrid, others: Iterable[CellGrid], num_epochs: int | None
) -> tuple[Baseline, ...]:
    """Compares every row of a grid with the baselines that exist.

    Ends and beginnings: the forks at the trunk's last epoch and at epoch 0 of the same grid, and of
    the grid of rule `matched_budget`, in which every fork trains equally long in total; the end
    also of rule `constant`. Random masks, of criterion `random`, same setting and scope: of the
    same rule at the epoch where it is best, at the end of rule `constant`, and at init of rule
    `matched_budget`.

    Args:
        grid: the grid.
        others: all grids of the workdir.
        num_epochs: of the trunk; None where no trunk is known.

    Returns:
        Row by row. Baselines without a repeat in common with the best cell are left out.
    """
    sources = _sources(grid, list(others), [] if num_epochs is None else [num_epochs])
    compared = (
        _compare(grid, row, source, name, epochs)
        for row in range(len(grid.sparsities))
        for source, name, epochs in sources
        if source is not None
    )
    return tuple(one for one in compared if one is not None)


def _sources(
    grid: CellGrid, others: Sequence[CellGrid], ends: Sequence[int]
) -> list[tuple[CellGrid | None, str, Sequence[int] | None]]:
    """Grid, name and epochs (None: all) of every baseline that there may be."""
    matched = _relative(grid, others, rule=MATCHED)
    masks = [
        (grid, "prune at end", ends),
        (grid, "prune at init", [0]),
        (matched, "prune at end, matched budget", ends),
        (matched, "prune at init, matched budget", [0]),
        (_relative(grid, others, rule=CONSTANT), "prune at end, constant rate", ends),
    ]
    # A grid of random masks has itself for a baseline of random masks.
    if grid.place["criterion"] == RANDOM:
        return masks
    same_rule = _relative(grid, others, criterion=RANDOM)
    # A random mask at the end alone is named below.
    if (
        same_rule is not None
        and grid.place["rule"] == CONSTANT
        and set(same_rule.epochs) <= set(ends)
    ):
        same_rule = None
    at_init = _relative(grid, others, criterion=RANDOM, rule=MATCHED)
    return [
        *masks,
        (same_rule, "random mask", None),
        (_relative(grid, others, criterion=RANDOM, rule=CONSTANT), "random mask at end", ends),
        (at_init, "random mask at init, matched budget", [0]),
    ]


def _relative(grid: CellGrid, others: Sequence[CellGrid], **changed: str) -> CellGrid | None:
    """The grid that differs in the given axes only; None where there is none, or it is the grid
    itself."""
    wanted = grid.place.changed(**changed)
    return next((one for one in others if one.place == wanted != grid.place), None)


def _compare(
    grid: CellGrid, row: int, source: CellGrid, name: str, epochs: Sequence[int] | None
) -> Baseline | None:
    """Against the source's best of some epochs; of all its epochs if None."""
    sparsity = grid.sparsities[row]
    best = best_of(grid.chosen_on[row], range(len(grid.epochs)))
    if best is None or sparsity not in source.sparsities:
        return None
    other = source.sparsities.index(sparsity)
    columns = [c for c, epoch in enumerate(source.epochs) if epochs is None or epoch in epochs]
    column = best_of(source.chosen_on[other], columns)
    if column is None:
        return None
    measured = np.vstack([grid.test[row], _on_repeats_of(grid, source, source.test[other, column])])
    rival = len(grid.epochs)
    difference = plain_difference(measured, best, rival)
    if difference is None:
        return None
    # The baseline of the grid itself is no candidate against itself.
    candidates = [c for c in range(rival) if source is not grid or c != column]
    chosen_on = np.vstack([grid.chosen_on[row], np.full((1, grid.num_repeats), np.nan)])
    return Baseline(
        sparsity=sparsity,
        name=name,
        best_epoch=grid.epochs[best],
        epoch=source.epochs[column],
        best_num_epochs=int(grid.num_epochs[row, best]),
        num_epochs=int(source.num_epochs[other, column]),
        best_value=grid.value(float(np.nanmean(grid.test[row, best]))),
        value=grid.value(float(np.nanmean(source.test[other, column]))),
        difference=difference,
        left_out=lead(chosen_on, measured, candidates, [rival]),
    )


def _on_repeats_of(grid: CellGrid, source: CellGrid, values: np.ndarray) -> np.ndarray:
    """The source's values where the grid's repeats are; NaN for repeats it lacks."""
    if grid.repeat_kind != source.repeat_kind:
        return np.full(grid.num_repeats, np.nan)
    own = dict(zip(source.repeats, values, strict=True))
    return np.array([own.get(repeat, np.nan) for repeat in grid.repeats])
