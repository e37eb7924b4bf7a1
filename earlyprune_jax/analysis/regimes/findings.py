"""All that is worked out about the grids of a workdir, before anything is written."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from earlyprune_jax.analysis import results
from earlyprune_jax.analysis.comparisons import Comparison
from earlyprune_jax.analysis.regimes import alignment, baselines, convergence, grids, similarity, transition
from earlyprune_jax.analysis.regimes.alignment import Alignment
from earlyprune_jax.analysis.regimes.baselines import Baseline
from earlyprune_jax.analysis.regimes.convergence import Convergence
from earlyprune_jax.analysis.regimes.grids import KEY, RegimeGrid
from earlyprune_jax.analysis.regimes.similarity import Agreement, Similarity
from earlyprune_jax.analysis.regimes.transition import Line, Row
from earlyprune_jax.analysis.results import Run


@dataclasses.dataclass(frozen=True, eq=False)
class Findings:
    """What one grid shows.

    Attributes:
        trunks: of its setting.
        num_epochs: of the trunks; None where there is none.
        convergence: None before a trunk has been trained to its end.
        similarity: None where no replicates were compared.
        agreement: likewise.
    """

    grid: RegimeGrid
    trunks: tuple[Run, ...]
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


def analyse(
    runs: Sequence[Run], comparisons: Sequence[Comparison] = (), config: Mapping[str, Any] | None = None
) -> tuple[Findings, ...]:
    """Works out every grid of at least 2 sparsities x 2 fork epochs.

    Args:
        runs: of a workdir.
        comparisons: of the same.
        config: of the same; only where its step schedule drops the learning rate is read.

    Returns:
        The findings, sorted by setting, criterion, scope and rule.

    Example:
        >>> analyse([])
        ()
    """
    everything = grids.find(runs)
    trunks: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        if run.kind == "trunk":
            trunks.setdefault(tuple(getattr(run, axis) for axis in results.SETTING), []).append(run)
    compared: dict[tuple[Any, ...], list[Comparison]] = {}
    for one in comparisons:
        compared.setdefault(tuple(getattr(one, axis) for axis in KEY), []).append(one)
    converged = {setting: convergence.of_trunks(own) for setting, own in trunks.items()}
    return tuple(
        _findings(
            grid,
            everything,
            trunks.get(grid.setting, []),
            converged.get(grid.setting),
            compared.get(grid.key, []),
            config or {},
        )
        for grid in everything
        if grid.is_two_dimensional
    )


def _findings(
    grid: RegimeGrid,
    everything: Sequence[RegimeGrid],
    trunks: Sequence[Run],
    converged: Convergence | None,
    comparisons: Sequence[Comparison],
    config: Mapping[str, Any],
) -> Findings:
    rows = transition.rows(grid, converged)
    line = transition.line(rows)
    alike = similarity.measure(grid, comparisons, converged)
    num_epochs = max((run.last_epoch for run in trunks), default=None)
    return Findings(
        grid=grid,
        trunks=tuple(trunks),
        num_epochs=num_epochs,
        convergence=converged,
        rows=rows,
        line=line,
        similarity=alike,
        agreement=None if alike is None else similarity.agreement(grid, alike, rows, line),
        alignments=alignment.alignments(grid, trunks, config),
        baselines=baselines.compare(grid, everything, num_epochs),
    )
