"""All that is worked out about the grids of a workdir, and its tables: of each grid, and of series
of grids over model depth and over the amount of training data.

In the tables test metrics are in their own unit and direction, percents as fractions; of
differences (advantage, left_out, below_best, difference) more is better whatever the metric.
Divergences are nats, epochs counted from the trunk's start.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from earlyprune_jax.analysis import results
from earlyprune_jax.analysis.curves import CellGrid, find_grids
from earlyprune_jax.analysis.places import Place
from earlyprune_jax.analysis.regimes import controls, similarity, transition
from earlyprune_jax.analysis.regimes.similarity import Similarity
from earlyprune_jax.analysis.regimes.transition import Convergence
from earlyprune_jax.analysis.runs import Runs, by_setting
from earlyprune_jax.analysis.stats import columns, plain_difference, stats

Rows = list[dict[str, Any]]
"""Of a table: values by column, None where there is none."""
DEPTH = "model depth"
DATA = "data fraction"
MAX_LINES = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Findings:
    """What one grid shows: rows of the tables, without the columns of its place.

    Attributes:
        runs: of its setting.
        num_epochs: of the trunks; None where there is none.
        convergence: None before a trunk has been trained to its end.
        rows: of regimes.csv, one a sparsity of the grid.
        cells: of regime_cells.csv.
        alignments: of regime_alignment.csv.
        baselines: of regime_baselines.csv.
    """

    grid: CellGrid
    runs: Runs
    num_epochs: int | None
    convergence: Convergence | None
    rows: Rows
    cells: Rows
    alignments: Rows
    baselines: Rows

    @property
    def early_sparsities(self) -> tuple[float, ...]:
        """Sparsities whose best epoch is significantly before convergence."""
        return self.judged("early")

    def judged(self, verdict: str) -> tuple[float, ...]:
        """Lists the sparsities of a verdict."""
        return tuple(row["sparsity"] for row in self.rows if row["verdict"] == verdict)

    def values(self, column: str) -> np.ndarray:
        """Arranges a column of the cells [S, E]; NaN where there is nothing."""
        values = np.full(self.grid.num_runs.shape, np.nan)
        for row in self.cells:
            place = self.grid.sparsities.index(row["sparsity"])
            values[place, self.grid.epochs.index(row["fork_epoch"])] = row[column]
        return values


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Grids that differ in one axis only.

    Attributes:
        axis: `DEPTH` or `DATA`.
        place: what its grids have in common; of models of several depths the family.
        values: depths, or data fractions, ascending.
        findings: one per value.
    """

    axis: str
    place: Place
    values: tuple[float, ...]
    findings: tuple[Findings, ...]

    def label(self, value: float) -> str:
        """Writes a value for readers."""
        return f"{value:.0f}" if self.axis == DEPTH else f"{100 * value:.6g} %"

    def high_sparsities(self, at_most: int = MAX_LINES) -> tuple[float, ...]:
        """Lists the sparsities whose best epochs are compared: the high ones that all grids have.

        High are the upper half, and all from the smallest on that is significantly early in one of
        the grids. The highest are kept if there are more than `at_most`.
        """
        early = [sparsity for found in self.findings for sparsity in found.early_sparsities]
        grids = [set(found.grid.sparsities) for found in self.findings]
        common = sorted(set.intersection(*grids))
        start = min([*early, *common[len(common) // 2 :]], default=1.0)
        return tuple([sparsity for sparsity in common if sparsity >= start][-at_most:])


def analyse(
    runs: Runs, comparisons: Sequence[Mapping[str, Any]] = (), margin: float | None = None
) -> tuple[Findings, ...]:
    """Works out every grid of at least 2 sparsities x 2 fork epochs.

    Args:
        runs: of a workdir.
        comparisons: of the same, see `similarity.read`.
        margin: of equality, in the metric's own unit, of percents a fraction; None =
            `transition.default_margin` of each setting.

    Returns:
        The findings, sorted by setting, criterion, scope and retraining.

    Example:
        >>> from earlyprune_jax.analysis.runs import read_runs
        >>> analyse(read_runs("no/such/workdir"))
        ()
    """
    grids, runs_of = find_grids(runs), by_setting(runs)
    converged = {setting: transition.convergence_of(own) for setting, own in runs_of.items()}
    analysed = []
    for grid in (grid for grid in grids if grid.is_two_dimensional):
        setting = grid.place.setting
        own_margin = transition.default_margin(runs_of[setting]) if margin is None else margin
        rows = transition.rows(grid, converged[setting], own_margin)
        alike = similarity.measure(grid, comparisons, converged[setting])
        last = runs_of[setting].of_kind("trunk").frame["last_epoch"]
        num_epochs = int(last.max()) if len(last) else None
        analysed.append(
            Findings(
                grid=grid,
                runs=runs_of[setting],
                num_epochs=num_epochs,
                convergence=converged[setting],
                rows=_with_similarity(grid, rows, alike),
                cells=_cells(grid, rows, alike),
                alignments=controls.alignments(grid, runs_of[setting]),
                baselines=controls.baselines(grid, grids, num_epochs),
            )
        )
    return tuple(analysed)


def series(findings: Iterable[Findings]) -> tuple[Series, ...]:
    """Finds the series of at least two grids: over depth within a family of models, over data for
    one model.

    A model's depth is the first number of its name, its family the rest: preresnet20_lottery and
    preresnet56_lottery belong together, preresnet20 does not.

    Example:
        >>> series([])
        ()
    """
    groups: dict[tuple[str, Place], list[tuple[Any, Findings]]] = {}
    for found in findings:
        place = found.grid.place
        if number := re.search(r"\d+", place["model"]):
            family = place.changed(model=place["model"].replace(number.group(), "", 1))
            groups.setdefault((DEPTH, family), []).append((int(number.group()), found))
        rest = place.without("train_fraction")
        groups.setdefault((DATA, rest), []).append((place["train_fraction"], found))
    every = []
    for (axis, place), members in groups.items():
        if len(members) > 1:
            values, own = zip(*sorted(members, key=lambda member: member[0]), strict=True)
            every.append(Series(axis, place, values, own))
    return tuple(sorted(every, key=lambda one: (one.axis != DEPTH, one.place)))


def tables(findings: Sequence[Findings]) -> dict[str, Rows]:
    """Makes the rows of the tables that have any, by file name; regimes.csv and regime_cells.csv
    always have.

    Example:
        >>> tables([])
        {}
    """
    made: dict[str, Rows] = {}
    for one in findings:
        parts = (one.rows, one.cells, one.alignments, one.baselines)
        for name, rows in zip(results.REGIME_TABLES, parts, strict=True):
            made.setdefault(name, []).extend(one.grid.place.named | row for row in rows)
    return {name: rows for name, rows in made.items() if rows}


def _with_similarity(grid: CellGrid, rows: Rows, alike: Similarity) -> Rows:
    """Adds the columns of similarity; those of the whole grid are the same in all rows."""
    line, agreed = alike.line, similarity.agreement(grid, alike, rows)
    of_grid = {f"agreement_{name}": value for name, value in agreed.items()}
    of_grid = {"similarity_transition_sparsity": line} | of_grid
    completed = []
    for row, mean in zip(rows, alike.row_means, strict=True):
        divergence, side = _finite(mean), None
        if line is not None and divergence is not None:
            side = "less similar" if row["sparsity"] >= line else "similar"
        of_row = {"model_similarity": divergence, "similarity_class": side}
        completed.append(row | of_row | of_grid)
    return completed


def _cells(grid: CellGrid, rows: Rows, alike: Similarity) -> Rows:
    """Makes a row per cell that has an ended run."""
    made = []
    for index, column in np.argwhere(grid.num_runs + grid.num_failed > 0).tolist():
        test, best = grid.test[index], rows[index]["best_epoch"]
        epoch, num_runs = grid.epochs[column], int(grid.num_runs[index, column])
        best_column = None if best is None else grid.epochs.index(best)
        below = plain_difference(test, column, best_column)
        mean = stats(grid.metric.sign * test[column]) if num_runs else None
        made.append(
            {
                "sparsity": grid.sparsities[index],
                "fork_epoch": epoch,
                **columns(grid.metric.column("test"), mean),
                "num_runs": num_runs,
                "num_failed": int(grid.num_failed[index, column]),
                **columns("below_best", below),
                "is_best": epoch == best,
                "model_similarity": _finite(alike.divergence[index, column]),
            }
        )
    return made


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
