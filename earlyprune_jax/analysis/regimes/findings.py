"""All that is worked out about the grids of a workdir, and its tables: of each grid, and of series
of grids over model depth and over the amount of training data.

In the tables test metrics are in their own unit and direction, percents as fractions; of
differences (advantage, left_out, below_best, difference) more is better whatever the metric.
Divergences are nats, epochs counted from the trunk's start.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from earlyprune_jax.analysis import best_epoch, publish
from earlyprune_jax.analysis.curves import CellGrid, find_grids
from earlyprune_jax.analysis.places import Place
from earlyprune_jax.analysis.regimes import controls, similarity, transition
from earlyprune_jax.analysis.regimes.controls import Alignment, Baseline
from earlyprune_jax.analysis.regimes.similarity import Agreement, Comparison, Similarity
from earlyprune_jax.analysis.regimes.transition import Convergence, Line, Row
from earlyprune_jax.analysis.runs import Runs, by_setting
from earlyprune_jax.analysis.stats import columns, stats

DEPTH = "model depth"
DATA = "data fraction"
MAX_LINES = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Findings:
    """What one grid shows.

    Attributes:
        runs: of its setting.
        num_epochs: of the trunks; None where there is none.
        convergence: None before a trunk has been trained to its end.
        similarity: None where no replicates were compared.
        agreement: likewise.
    """

    grid: CellGrid
    runs: Runs
    num_epochs: int | None
    convergence: Convergence | None
    rows: tuple[Row, ...]
    line: Line
    similarity: Similarity | None
    agreement: Agreement | None
    alignments: tuple[Alignment, ...]
    baselines: tuple[Baseline, ...]

    @property
    def early_sparsities(self) -> tuple[float, ...]:
        """Sparsities whose best epoch is significantly before convergence."""
        return tuple(row.sparsity for row in self.rows if row.verdict == "early")

    def row(self, sparsity: float) -> Row:
        """Returns the row of a sparsity of the grid."""
        return self.rows[self.grid.sparsities.index(sparsity)]


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


def analyse(runs: Runs, comparisons: Sequence[Comparison] = ()) -> tuple[Findings, ...]:
    """Works out every grid of at least 2 sparsities x 2 fork epochs.

    Args:
        runs: of a workdir.
        comparisons: of the same.

    Returns:
        The findings, sorted by setting, criterion, scope and retraining.

    Example:
        >>> from earlyprune_jax.analysis.runs import read_runs
        >>> analyse(read_runs("no/such/workdir"))
        ()
    """
    grids, runs_of = find_grids(runs), by_setting(runs)
    converged = {setting: transition.convergence_of(own) for setting, own in runs_of.items()}
    compared: dict[Place, list[Comparison]] = {}
    for one in comparisons:
        place = one.cell.without("sparsity", "fork_epoch", "trunk_seed")
        compared.setdefault(place, []).append(one)
    analysed = []
    for grid in (grid for grid in grids if grid.is_two_dimensional):
        setting = grid.place.setting
        rows = transition.rows(grid, converged[setting])
        line = transition.line(rows)
        alike = similarity.measure(grid, compared.get(grid.place, []), converged[setting])
        last = runs_of[setting].of_kind("trunk").frame["last_epoch"]
        num_epochs = int(last.max()) if len(last) else None
        analysed.append(
            Findings(
                grid=grid,
                runs=runs_of[setting],
                num_epochs=num_epochs,
                convergence=converged[setting],
                rows=rows,
                line=line,
                similarity=alike,
                agreement=None if alike is None else similarity.agreement(grid, alike, rows, line),
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


def tables(findings: Sequence[Findings]) -> dict[str, list[dict[str, Any]]]:
    """Makes the rows of the tables that have any, by file name; regimes.csv and regime_cells.csv
    always have.

    Example:
        >>> tables([])
        {}
    """
    made = zip(publish.REGIME_TABLES, (_rows, _cells, _alignments, _baselines), strict=True)
    listed = {name: [row for one in findings for row in rows_of(one)] for name, rows_of in made}
    return {name: rows for name, rows in listed.items() if rows}


def _rows(one: Findings) -> Iterator[dict[str, Any]]:
    """Yields a row per sparsity."""
    grid, alike, test = one.grid, one.similarity, one.grid.metric.column("test")
    line = alike.line if alike else None
    fields = [field.name for field in dataclasses.fields(Agreement)]
    for index, row in enumerate(one.rows):
        best, early, converged = row.best, row.early, row.converged
        low, high = best.interval if best and best.interval else (None, None)
        mean = np.nanmean(grid.test[index, best.column]) if best else None
        divergence = _finite(alike.row_means[index]) if alike else None
        side = None
        if line is not None and divergence is not None:
            side = "less similar" if row.sparsity >= line else "similar"
        yield {
            **grid.place.named,
            "sparsity": row.sparsity,
            "best_epoch": best.epoch if best else None,
            "interval_low": low,
            "interval_high": high,
            "chosen_on": grid.metric.column(grid.split),
            "repeats": grid.repeat_kind,
            "num_repeats": best.num_repeats if best else 0,
            "num_replicates": grid.num_replicates,
            "complete": best.complete if best else None,
            f"best_{test}": None if mean is None else grid.metric.sign * float(mean),
            "convergence_epoch": one.convergence.epoch if one.convergence else None,
            "early_epoch": row.early_epoch,
            "converged_epoch": row.converged_epoch,
            **columns("advantage", row.advantage),
            **columns("left_out_early", early.difference if early else None),
            **columns("left_out_converged", converged.difference if converged else None),
            "p_early": early.p if early else None,
            "p_early_holm": row.early_holm,
            "p_converged": converged.p if converged else None,
            "p_converged_holm": row.converged_holm,
            "verdict": row.verdict,
            "reason": row.reason,
            "transition_sparsity": one.line.sparsity,
            "model_similarity": divergence,
            "similarity_class": side,
            "similarity_transition_sparsity": line,
            **{f"agreement_{name}": getattr(one.agreement, name, None) for name in fields},
        }


def _cells(one: Findings) -> Iterator[dict[str, Any]]:
    """Yields a row per cell that has an ended run."""
    grid = one.grid
    for index, column in np.argwhere(grid.num_runs + grid.num_failed > 0).tolist():
        row, cells = one.rows[index], grid.row(index)
        below = best_epoch.differences(cells, row.best.column)[column] if row.best else None
        num_runs = int(grid.num_runs[index, column])
        mean = grid.metric.sign * stats(cells.test[column]) if num_runs else None
        divergence = one.similarity.divergence[index, column] if one.similarity else np.nan
        yield {
            **grid.place.named,
            "sparsity": row.sparsity,
            "fork_epoch": grid.epochs[column],
            **columns(grid.metric.column("test"), mean),
            "num_runs": num_runs,
            "num_failed": int(grid.num_failed[index, column]),
            **columns("below_best", below),
            "is_best": row.best is not None and row.best.column == column,
            "model_similarity": _finite(divergence),
        }


def _alignments(one: Findings) -> Iterator[dict[str, Any]]:
    """Yields a row per sparsity, trunk seed and marker."""
    for found in one.alignments:
        yield one.grid.place.named | dataclasses.asdict(found)


def _baselines(one: Findings) -> Iterator[dict[str, Any]]:
    """Yields a row per sparsity and baseline."""
    test = one.grid.metric.column("test")
    for found in one.baselines:
        yield {
            **one.grid.place.named,
            "sparsity": found.sparsity,
            "baseline": found.name,
            "best_epoch": found.best_epoch,
            "baseline_epoch": found.epoch,
            "best_num_epochs": found.best_num_epochs,
            "baseline_num_epochs": found.num_epochs,
            f"best_{test}": found.best_value,
            f"baseline_{test}": found.value,
            **columns("difference", found.difference),
            **columns("left_out", found.left_out.difference if found.left_out else None),
            "p": found.left_out.p if found.left_out else None,
        }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
