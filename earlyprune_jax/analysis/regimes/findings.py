"""All that is worked out about the grids of a workdir, before anything is written."""

import dataclasses
from collections.abc import Sequence

from earlyprune_jax.analysis.cells import CellGrid, find_grids
from earlyprune_jax.analysis.comparisons import Comparison
from earlyprune_jax.analysis.places import Place
from earlyprune_jax.analysis.regimes import (
    alignment,
    baselines,
    convergence,
    similarity,
    transition,
)
from earlyprune_jax.analysis.regimes.alignment import Alignment
from earlyprune_jax.analysis.regimes.baselines import Baseline
from earlyprune_jax.analysis.regimes.convergence import Convergence
from earlyprune_jax.analysis.regimes.similarity import Agreement, Similarity
from earlyprune_jax.analysis.regimes.transition import Line, Row
from earlyprune_jax.analysis.runs import Runs, by_setting


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


def analyse(runs: Runs, comparisons: Sequence[Comparison] = ()) -> tuple[Findings, ...]:
    """Works out every grid of at least 2 sparsities x 2 fork epochs.

    Args:
        runs: of a workdir.
        comparisons: of the same.

    Returns:
        The findings, sorted by setting, criterion, scope and rule.

    Example:
        >>> from earlyprune_jax.analysis.runs import read_runs
        >>> analyse(read_runs("no/such/workdir"))
        ()
    """
    everything = find_grids(runs)
    own = by_setting(runs)
    converged = {setting: convergence.of_trunks(found) for setting, found in own.items()}
    compared: dict[Place, list[Comparison]] = {}
    for one in comparisons:
        place = one.cell.without("sparsity", "fork_epoch", "trunk_seed")
        compared.setdefault(place, []).append(one)
    return tuple(
        _findings(
            grid,
            everything,
            own[grid.place.setting],
            converged[grid.place.setting],
            compared.get(grid.place, []),
        )
        for grid in everything
        if grid.is_two_dimensional
    )


def _findings(
    grid: CellGrid,
    everything: Sequence[CellGrid],
    runs: Runs,
    converged: Convergence | None,
    comparisons: Sequence[Comparison],
) -> Findings:
    rows = transition.rows(grid, converged)
    line = transition.line(rows)
    alike = similarity.measure(grid, comparisons, converged)
    last = runs.of_kind("trunk").frame["last_epoch"]
    num_epochs = int(last.max()) if len(last) else None
    return Findings(
        grid=grid,
        runs=runs,
        num_epochs=num_epochs,
        convergence=converged,
        rows=rows,
        line=line,
        similarity=alike,
        agreement=None if alike is None else similarity.agreement(grid, alike, rows, line),
        alignments=alignment.alignments(grid, runs),
        baselines=baselines.compare(grid, everything, num_epochs),
    )
