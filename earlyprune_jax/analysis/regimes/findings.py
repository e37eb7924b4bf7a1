"""All that is worked out about the grids of a workdir, before anything is written: of each grid,
and of series of grids over model depth and over the amount of training data."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from earlyprune_jax.analysis.cells import CellGrid, find_grids
from earlyprune_jax.analysis.comparisons import Comparison
from earlyprune_jax.analysis.places import Place
from earlyprune_jax.analysis.regimes import (
    controls,
    similarity,
    transition,
)
from earlyprune_jax.analysis.regimes.controls import Alignment, Baseline
from earlyprune_jax.analysis.regimes.similarity import Agreement, Similarity
from earlyprune_jax.analysis.regimes.transition import Convergence, Line, Row
from earlyprune_jax.analysis.runs import Runs, by_setting

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
        """Gives the row of a sparsity of the grid."""
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

    def high_sparsities(self) -> tuple[float, ...]:
        """Chooses the sparsities whose best epochs are compared, see `high_sparsities`."""
        early = [sparsity for found in self.findings for sparsity in found.early_sparsities]
        return high_sparsities([found.grid for found in self.findings], early)


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
    everything, own = find_grids(runs), by_setting(runs)
    converged = {setting: transition.convergence_of(trunks) for setting, trunks in own.items()}
    compared: dict[Place, list[Comparison]] = {}
    for one in comparisons:
        place = one.cell.without("sparsity", "fork_epoch", "trunk_seed")
        compared.setdefault(place, []).append(one)
    found = []
    for grid in (grid for grid in everything if grid.is_two_dimensional):
        setting = grid.place.setting
        rows = transition.rows(grid, converged[setting])
        line = transition.line(rows)
        alike = similarity.measure(grid, compared.get(grid.place, []), converged[setting])
        last = own[setting].of_kind("trunk").frame["last_epoch"]
        num_epochs = int(last.max()) if len(last) else None
        found.append(
            Findings(
                grid=grid,
                runs=own[setting],
                num_epochs=num_epochs,
                convergence=converged[setting],
                rows=rows,
                line=line,
                similarity=alike,
                agreement=None if alike is None else similarity.agreement(grid, alike, rows, line),
                alignments=controls.alignments(grid, own[setting]),
                baselines=controls.baselines(grid, everything, num_epochs),
            )
        )
    return tuple(found)


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


def high_sparsities(
    grids: Sequence[CellGrid], early: Iterable[float], at_most: int = MAX_LINES
) -> tuple[float, ...]:
    """Chooses the sparsities whose best epochs are compared: the high ones that all grids have.

    High are the upper half, and all from the smallest on that is significantly early in one of the
    grids. The highest are kept if there are more than `at_most`.

    Args:
        grids: of a series.
        early: sparsities of early rows in any of them.
        at_most: lines in the figure.

    Returns:
        Ascending.
    """
    common = sorted(set.intersection(*(set(grid.sparsities) for grid in grids)))
    start = min([*early, *common[len(common) // 2 :]], default=1.0)
    return tuple([sparsity for sparsity in common if sparsity >= start][-at_most:])
