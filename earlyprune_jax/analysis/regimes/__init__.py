"""The two regimes of pruning (paper B): when early stopping before pruning pays, when convergence
does.

earlyprune regimes runs/two_regime

Public names: `write` makes tables and figures of a workdir, `analyse` the numbers behind them,
`paragraphs` the text. Where no grid of at least 2 sparsities x 2 fork epochs has finished forks,
nothing but the table of comparisons is written, if there are any.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax.analysis import results
from earlyprune_jax.analysis.regimes import figures, findings, similarity
from earlyprune_jax.analysis.regimes.findings import Findings
from earlyprune_jax.analysis.regimes.text import paragraphs
from earlyprune_jax.analysis.runs import Runs

__all__ = ["Findings", "analyse", "paragraphs", "write"]


def analyse(
    workdir: str | Path,
    runs: Runs | None = None,
    compared: Sequence[Mapping[str, Any]] | None = None,
    *,
    margin: float | None = None,
) -> tuple[Findings, ...]:
    """Works out the regimes of every grid of a workdir.

    Args:
        workdir: an experiment's directory, finished or not.
        runs: its runs, if they have been read already.
        compared: its comparisons, likewise.
        margin: what early and converged epochs may differ by and be called equal, in the primary
            metric's own unit, of percents a fraction; None = 1 % of the dense networks' mean.

    Returns:
        One entry per grid; empty where there is none.

    Raises:
        InvalidInput: a file of the workdir is damaged; names it.

    Example:
        >>> analyse("no/such/workdir")
        ()
    """
    runs = results.read_runs(workdir) if runs is None else runs
    compared = similarity.read(workdir, runs.swept) if compared is None else compared
    return findings.analyse(runs, compared, margin)


def write(
    workdir: str | Path,
    *,
    runs: Runs | None = None,
    margin: float | None = None,
    into: Path | None = None,
) -> list[Path]:
    """Writes tables and figures; each file is replaced in one step.

    Tables: regimes.csv (a row per grid and sparsity), regime_cells.csv (a row per cell), and where
    there is something to say comparisons.csv, regime_alignment.csv, regime_baselines.csv. Figures:
    see `figures.draw`. The same files give the same bytes with the same matplotlib.

    Args:
        workdir: an experiment's directory.
        runs: its runs, if they have been read already.
        margin: as of `analyse`.
        into: where they are written, without comparisons.csv; None = the workdir.

    Returns:
        The paths written; empty where there is neither a grid nor an ended comparison.

    Raises:
        InvalidInput: a file of the workdir is damaged; names it.

    Example:
        >>> write("no/such/workdir")
        []
    """
    runs = results.read_runs(workdir) if runs is None else runs
    compared = similarity.read(workdir, runs.swept)
    grids = findings.analyse(runs, compared, margin)
    tables = findings.tables(grids).items()
    paths = [results.save(Path(into or workdir) / name, rows) for name, rows in tables]
    paths += [] if into else similarity.write(workdir, compared)
    return [*paths, *figures.draw(into or workdir, grids)]
