"""When training had converged, and row by row whether early is better, or converged. And from which
sparsity on: the transition line."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from earlyprune_jax.analysis import best_epoch
from earlyprune_jax.analysis.best_epoch import LEVEL, MIN_REPEATS, Lead, selection_test
from earlyprune_jax.analysis.curves import CellGrid, Setting
from earlyprune_jax.analysis.runs import Runs
from earlyprune_jax.analysis.stats import best_of, columns, holm, plain_difference, pooled_std
from earlyprune_jax.metrics import Metric

TOLERANCE = 0.05
"""Of the total change: what still separates a converged epoch from the end."""
TAIL = 0.1
"""Of the epochs: over these the level at the end is taken."""
MARGIN_SHARE = 0.01
"""Of the dense networks' mean test metric: the margin of equality where none is given."""
WINDOW = 5
"""Epochs of the running median."""


@dataclasses.dataclass(frozen=True)
class Convergence:
    """The convergence epoch of the trunks of a setting.

    Attributes:
        epoch: the median over trunk seeds, of an even number the later one in the middle.
        by_seed: trunk seed -> its own.
        num_epochs: of the trunks.
    """

    epoch: int
    by_seed: dict[int, int]
    num_epochs: int

    @property
    def settled(self) -> bool:
        """False where it lies within the tail itself: training had then not come to rest by its
        end."""
        return self.epoch <= self.num_epochs - tail_length(self.num_epochs)

    @property
    def text(self) -> str:
        """The epoch, and the range of the seeds' where they differ."""
        seeds = sorted(self.by_seed.values())
        differ = seeds and seeds[0] != seeds[-1]
        return f"{self.epoch}{f' (seeds: {seeds[0]}-{seeds[-1]})' if differ else ''}"


def converged_at(epochs: Sequence[int], values: Sequence[float | None]) -> int | None:
    """Finds the first epoch from which a metric stays near its final level.

    With v the running median of the values over five epochs (fewer in runs under 20), f the median
    of v over the last tenth of the epochs and v_1 its first value: the first epoch after which
    |v - f| <= 0.05 |v_1 - f| for good. The median keeps a step where it is and removes a single
    spike.

    Args:
        epochs: ascending.
        values: the metric at those epochs; not finite ones are passed over.

    Returns:
        The epoch; None without a finite value.

    Example:
        >>> converged_at(range(1, 11), [10.0, 5.0, 4.0, 3.0, 0.3, 0.1, 0.0, 0.0, 0.0, 0.0])
        5
    """
    pairs = zip(epochs, values, strict=True)
    known = [(e, v) for e, v in pairs if v is not None and math.isfinite(v)]
    if not known:
        return None
    smooth = _running_median([value for _, value in known])
    final = statistics.median(smooth[-tail_length(len(known)) :])
    reach = TOLERANCE * abs(smooth[0] - final)
    first = max((index + 1 for index, v in enumerate(smooth) if abs(v - final) > reach), default=0)
    # The last value may itself lie outside where the tail still moves.
    return known[min(first, len(known) - 1)][0]


def train_metrics(runs: Runs) -> list[Metric]:
    """Lists the metrics that were recorded on train data along the trunks of `runs`."""
    trunks = runs.of_kind("trunk").frame["name"]
    entries = [entry for name in trunks for entry in runs.entries[name]]
    return [
        metric
        for metric in runs.study.metrics
        if any(entry.get(metric.column("train")) is not None for entry in entries)
    ]


def convergence_of(runs: Runs) -> Convergence | None:
    """Gives the convergence epoch of a setting's trunks; None before one has been trained to its
    end.

    A trunk has converged when the last of its train metrics has: a first loss that explodes would
    make the loss look converged at once, but a share is bounded.
    """
    frame = runs.of_kind("trunk").frame
    trunks = frame[frame["complete"]].sort_values("trunk_seed")
    columns = [metric.column("train") for metric in train_metrics(runs)]
    by_seed: dict[int, int] = {}
    for name, seed in zip(trunks["name"], trunks["trunk_seed"], strict=True):
        entries = runs.entries[name]
        epochs = [entry["epoch"] for entry in entries]
        converged = (
            converged_at(epochs, [entry.get(name) for entry in entries]) for name in columns
        )
        known = [epoch for epoch in converged if epoch is not None]
        if known:
            by_seed[int(seed)] = max(known)
    if not by_seed:
        return None
    ordered = sorted(by_seed.values())
    return Convergence(ordered[len(ordered) // 2], by_seed, int(trunks["last_epoch"].max()))


def default_margin(runs: Runs) -> float | None:
    """Gives what a difference must stay below to be none: 1 % of the dense networks' test metric.

    Args:
        runs: of a setting.

    Returns:
        `MARGIN_SHARE` of the size of the mean; None where no trunk has been trained to its end.
    """
    dense = Setting(runs).dense_test
    return abs(dense.mean) * MARGIN_SHARE if dense and dense.mean else None


def rows(
    grid: CellGrid, convergence: Convergence | None, margin: float | None = None
) -> list[dict[str, Any]]:
    """Judges the rows of a grid: the columns of regimes.csv from the sparsity to the line.

    Epochs before the convergence epoch are early, the others converged. Two one-sided tests a row,
    at 5 % each after Holm's adjustment over the rows of the grid. The verdict is "early" or
    "converged" where the adjusted p is at most .05. Else it is "equal" where both sides are shown
    to be as good but for the margin: neither side's best is worse than the other's by the margin or
    more. Both one-sided tests must say so, so p is the larger of the two (Schuirmann 1987),
    adjusted over the rows too. What is left is "not settled", or "untested"; `reason` says why.
    `left_out_*` are the differences of the tests, see `best_epoch.selection_test`; `advantage_*`
    those of the best epochs of both sides, for description only, as these were chosen on the same
    runs; `cell_std` is the spread of a cell's repeats, see `stats.pooled_std`.

    Args:
        grid: the grid.
        convergence: of its trunks; None leaves every row untested.
        margin: in the metric's own unit, of percents a fraction; None tests no equality.

    Returns:
        One row a sparsity, ascending.
    """
    start, test_column = convergence and convergence.epoch, grid.metric.column("test")
    early = [c for c, e in enumerate(grid.epochs) if start is not None and e < start]
    late = [c for c, e in enumerate(grid.epochs) if start is not None and e >= start]
    tables = list(zip(grid.chosen_on, grid.test, strict=True))
    leads = [
        (selection_test(*table, early, late), selection_test(*table, late, early))
        for table in tables
    ]
    adjusted = [holm([lead and lead.p for lead in side]) for side in zip(*leads, strict=True)]
    apart = [_p_apart(*pair, margin) for pair in leads]
    adjusted.append(holm(apart))
    judged = []
    for index, (chosen_on, test) in enumerate(tables):
        forward, backward = leads[index]
        p_early, p_converged, p_equal = (side[index] for side in adjusted)
        best = best_epoch.best(grid.epochs, chosen_on)
        low, high = (best and best.interval) or (None, None)
        columns_of_sides = [best_of(chosen_on, side) for side in (early, late)]
        epochs = [None if column is None else grid.epochs[column] for column in columns_of_sides]
        # Both cannot lead: a lead is over the luckiest of the other side.
        verdict = "not settled"
        if p_early is None or p_converged is None:
            verdict = "untested"
        elif min(p_early, p_converged) <= LEVEL:
            verdict = "early" if p_early <= LEVEL else "converged"
        elif p_equal is not None and p_equal <= LEVEL:
            verdict = "equal"
        cell_std, cell_freedom = pooled_std(test)
        judged.append(
            {
                "sparsity": grid.sparsities[index],
                "best_epoch": best and best.epoch,
                "interval_low": low,
                "interval_high": high,
                "chosen_on": grid.metric.column(grid.split),
                "repeats": grid.repeat_kind,
                "num_repeats": best.num_repeats if best else 0,
                "num_replicates": grid.num_replicates,
                "complete": best and best.complete,
                f"best_{test_column}": best
                and grid.metric.sign * float(np.nanmean(test[best.column])),
                "convergence_epoch": start,
                "early_epoch": epochs[0],
                "converged_epoch": epochs[1],
                **columns("advantage", plain_difference(test, *columns_of_sides)),
                **columns("left_out_early", forward and forward.difference),
                **columns("left_out_converged", backward and backward.difference),
                "p_early": forward and forward.p,
                "p_early_holm": p_early,
                "p_converged": backward and backward.p,
                "p_converged_holm": p_converged,
                "margin": margin,
                "p_equal": apart[index],
                "p_equal_holm": p_equal,
                "cell_std": cell_std,
                "cell_std_freedom": cell_freedom,
                "verdict": verdict,
                "reason": _reason(grid, index, epochs, start) if verdict == "untested" else None,
            }
        )
    line = min((row["sparsity"] for row in judged if row["verdict"] == "early"), default=None)
    return [row | {"transition_sparsity": line} for row in judged]


def _p_apart(forward: Lead | None, backward: Lead | None, margin: float | None) -> float | None:
    """Gives the p of "one side's best is worse than the other's by the margin or more"."""
    if margin is None or forward is None or backward is None:
        return None
    worse = [one for one in (forward.p_below(margin), backward.p_below(margin)) if one is not None]
    return max(worse) if len(worse) == 2 else None


def _reason(
    grid: CellGrid, row: int, epochs: Sequence[int | None], convergence_epoch: int | None
) -> str:
    if convergence_epoch is None:
        return "no trunk has been trained to its end, so its convergence epoch is unknown"
    for epoch, side in zip(epochs, ("before", "from"), strict=True):
        if epoch is None:
            return f"no fork {side} the convergence epoch {convergence_epoch}"
    num = int(np.isfinite(grid.test[row]).any(axis=0).sum())
    if num >= MIN_REPEATS:
        return f"fewer than {MIN_REPEATS} {grid.repeat_kind}s have the epochs compared"
    return f"{num} {grid.repeat_kind}{'s' * (num != 1)}: the test needs {MIN_REPEATS}"


def tail_length(num_epochs: int) -> int:
    """Gives the number of last epochs whose median is the final level."""
    return max(1, round(TAIL * num_epochs))


def _running_median(values: Sequence[float]) -> list[float]:
    """Takes centred medians; the window shrinks at the ends and, to an odd width, in short runs."""
    half = (min(WINDOW, max(1, len(values) // 4)) - 1) // 2
    # Shrunk to the same number on both sides: the first value stays the first value.
    reach = [min(half, index, len(values) - 1 - index) for index in range(len(values))]
    return [statistics.median(values[index - r : index + r + 1]) for index, r in enumerate(reach)]
