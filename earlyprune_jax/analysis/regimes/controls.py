"""What the best cells are held against: markers of epochs, above all random_distance's peak, and
baselines that are pruned at the end, at initialisation or with a random mask."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from earlyprune_jax.analysis import peaks, results
from earlyprune_jax.analysis.best_epoch import selection_test
from earlyprune_jax.analysis.curves import CellGrid
from earlyprune_jax.analysis.runs import Runs
from earlyprune_jax.analysis.stats import best_column, best_of, columns, plain_difference

SIGNAL = "random_distance"
FRACTIONS = (0.3, 0.5)
"""Of the trunk's epochs: the markers that look at nothing."""
FIRST_DROP = "first learning-rate drop"
MATCHED, CONSTANT, RANDOM = "matched_budget", "constant", "random"
"""Retrainings and the criterion of baselines."""


def alignments(grid: CellGrid, runs: Runs) -> list[dict[str, Any]]:
    """Compares the best epoch of every row and seed with the epochs that markers point to.

    A marker is `SIGNAL`, or a control: "fixed 30 %", "fixed 50 %", `FIRST_DROP`. `edge` is "first"
    or "last" where the signal is largest at an end of the measured epochs: no peak. `best_epoch` is
    that of the seed's own mean over replicates.

    Args:
        grid: the grid.
        runs: of its setting; the config says where a step schedule drops the rate first.

    Returns:
        Rows of regime_alignment.csv, sparsity by sparsity, seed by seed; markers in the order
        signal, fixed fractions, drop. A seed without a finished fork in the row is left out, and so
        is the signal where it was not measured.
    """
    table = results.signal_table(runs.where(runs.frame["complete"]))
    measured = peaks.seed_peaks(table, SIGNAL) if SIGNAL in table else []
    marked = {peak.trunk_seed: {SIGNAL: (peak.epoch, peak.edge)} for peak in measured}
    last = runs.of_kind("trunk").frame["last_epoch"]
    num_epochs = int(last.max()) if len(last) else max(grid.epochs)
    fixed = {f"fixed {100 * part:.0f} %": (round(part * num_epochs), None) for part in FRACTIONS}
    configured = runs.config.get("schedule", {}).get("step_boundaries_epochs")
    drops = grid.place.named.get("schedule.step_boundaries_epochs") or configured
    if drops and grid.place["schedule"] == "step":
        fixed[FIRST_DROP] = (min(drops), None)
    compared = []
    for row, sparsity in enumerate(grid.sparsities):
        for column, seed in enumerate(grid.seeds):
            at = best_column(grid.by_seed[row, :, column])
            if at is None:
                continue
            best = grid.epochs[at]
            for marker, (epoch, edge) in (marked.get(seed, {}) | fixed).items():
                compared.append(
                    {
                        "sparsity": sparsity,
                        "trunk_seed": seed,
                        "marker": marker,
                        "marked_epoch": epoch,
                        "edge": edge,
                        "best_epoch": best,
                        "difference": epoch - best,
                    }
                )
    return compared


def baselines(
    grid: CellGrid, others: Sequence[CellGrid], num_epochs: int | None
) -> list[dict[str, Any]]:
    """Compares the best cell of every row of a grid with the baselines that exist.

    Ends and beginnings: the forks at the trunk's last epoch and at epoch 0 of the same grid, and of
    the grid of `matched_budget`, in which every fork trains equally long in total; the end
    also of `constant`. Random masks, of criterion `random`, same setting and scope: of the
    same retraining at the epoch where it is best, at the end of `constant`, and at init of
    `matched_budget`.

    Args:
        grid: the grid.
        others: all grids of the workdir.
        num_epochs: of the trunk; None where no trunk is known.

    Returns:
        Rows of regime_baselines.csv, sparsity by sparsity; baselines without a repeat in common
        with the best cell are left out. A name ends in ", matched budget" or ", constant rate"
        where the baseline is retrained so and the row is not. `*_num_epochs` is what a run is
        trained in all, dense and pruned: the baseline's may be far longer. `difference_*`: how much
        better the best is, over paired repeats, chosen on the same runs; `left_out_*` and `p`:
        chosen on the others, see `best_epoch.selection_test`.
    """
    sources = list(_sources(grid, others, [] if num_epochs is None else [num_epochs]))
    compared = (
        _compare(grid, row, source, name, epochs)
        for row in range(len(grid.sparsities))
        for name, source, epochs in sources
        if source is not None
    )
    return [baseline for baseline in compared if baseline is not None]


def _sources(
    grid: CellGrid, others: Sequence[CellGrid], ends: Sequence[int]
) -> Iterator[tuple[str, CellGrid | None, Sequence[int]]]:
    """Yields name, grid and epochs of every baseline that there may be."""

    def relative(**changed: str) -> CellGrid | None:
        """Finds the grid that differs in the given axes only, unless it is the grid itself."""
        wanted = grid.place.changed(**changed)
        return next((one for one in others if one.place == wanted != grid.place), None)

    matched = relative(retraining=MATCHED)
    yield "prune at end", grid, ends
    yield "prune at init", grid, [0]
    yield "prune at end, matched budget", matched, ends
    yield "prune at init, matched budget", matched, [0]
    yield "prune at end, constant rate", relative(retraining=CONSTANT), ends
    # A grid of random masks has itself for a baseline of random masks.
    if grid.place["criterion"] == RANDOM:
        return
    alike = relative(criterion=RANDOM)
    # A random mask at the end alone is named below.
    is_end = grid.place["retraining"] == CONSTANT and alike and set(alike.epochs) <= set(ends)
    if alike is not None and not is_end:
        yield "random mask", alike, alike.epochs
    yield "random mask at end", relative(criterion=RANDOM, retraining=CONSTANT), ends
    at_init = relative(criterion=RANDOM, retraining=MATCHED)
    yield "random mask at init, matched budget", at_init, [0]


def _compare(
    grid: CellGrid, row: int, source: CellGrid, name: str, epochs: Sequence[int]
) -> dict[str, Any] | None:
    """Compares a row's best cell with the source's best of some epochs."""
    sparsity, rival = grid.sparsities[row], len(grid.epochs)
    best = best_of(grid.chosen_on[row], range(rival))
    if best is None or sparsity not in source.sparsities:
        return None
    other = source.sparsities.index(sparsity)
    tried = [column for column, epoch in enumerate(source.epochs) if epoch in epochs]
    column = best_of(source.chosen_on[other], tried)
    if column is None:
        return None
    # The source's values where the grid's repeats are; NaN for repeats it lacks.
    values = dict(zip(source.repeats, source.test[other, column], strict=True))
    is_paired = grid.repeat_kind == source.repeat_kind
    rivals = [values.get(repeat, np.nan) if is_paired else np.nan for repeat in grid.repeats]
    measured = np.vstack([grid.test[row], rivals])
    difference = plain_difference(measured, best, rival)
    if difference is None:
        return None
    # The baseline of the grid itself is no candidate against itself.
    candidates = [place for place in range(rival) if source is not grid or place != column]
    chosen_on = np.vstack([grid.chosen_on[row], np.full(len(rivals), np.nan)])
    left_out = selection_test(chosen_on, measured, candidates, [rival])
    metric, test_column = grid.metric, grid.metric.column("test")
    return {
        "sparsity": sparsity,
        "baseline": name,
        "best_epoch": grid.epochs[best],
        "baseline_epoch": source.epochs[column],
        "best_num_epochs": int(grid.num_epochs[row, best]),
        "baseline_num_epochs": int(source.num_epochs[other, column]),
        f"best_{test_column}": metric.sign * float(np.nanmean(grid.test[row, best])),
        f"baseline_{test_column}": metric.sign * float(np.nanmean(source.test[other, column])),
        **columns("difference", difference),
        **columns("left_out", left_out and left_out.difference),
        "p": left_out and left_out.p,
    }
