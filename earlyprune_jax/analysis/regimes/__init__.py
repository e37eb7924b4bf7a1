"""The two regimes of pruning (paper B): when early stopping before pruning pays, when convergence does.

python -m earlyprune_jax.analysis.regimes runs/two_regime

Public names: `write` makes tables and figures of a workdir, `analyse` the numbers behind them,
`paragraphs` the text. Where no grid of at least 2 sparsities x 2 fork epochs has finished forks, nothing
but the table of comparisons is written, if there are any.
"""

from collections.abc import Sequence
from pathlib import Path

from earlyprune_jax import records
from earlyprune_jax.analysis import comparisons, results
from earlyprune_jax.analysis.regimes import findings, publication, tables
from earlyprune_jax.analysis.regimes.findings import Findings
from earlyprune_jax.analysis.regimes.text import paragraphs
from earlyprune_jax.analysis.results import Run

__all__ = ["Findings", "analyse", "paragraphs", "write"]


def analyse(workdir: str | Path, runs: Sequence[Run] | None = None) -> tuple[Findings, ...]:
    """Works out the regimes of every grid of a workdir.

    Args:
        workdir: an experiment's directory, finished or not.
        runs: its runs, if they have been read already.

    Returns:
        One entry a grid; empty where there is none.

    Raises:
        InvalidInput: a file of the workdir is damaged; names it.

    Example:
        >>> analyse("no/such/workdir")
        ()
    """
    runs = results.read_runs(workdir) if runs is None else runs
    return findings.analyse(runs, comparisons.read(workdir), results.read_config(workdir))


def write(
    workdir: str | Path, *, runs: Sequence[Run] | None = None, found: Sequence[Findings] | None = None
) -> list[Path]:
    """Writes tables and figures; each file is replaced in one step.

    Tables: regimes.csv (a row a grid and sparsity), regime_cells.csv (a row a cell), and where there is
    something to say comparisons.csv, regime_alignment.csv, regime_baselines.csv. Figures: see
    `publication.draw`. The same files give the same bytes with the same matplotlib.

    Args:
        workdir: an experiment's directory.
        runs: its runs, if they have been read already.
        found: of `analyse`, if that has been done already.

    Returns:
        The paths written; empty where there is neither a grid nor an ended comparison.

    Raises:
        InvalidInput: a file of the workdir is damaged; names it.

    Example:
        >>> write("no/such/workdir")
        []
    """
    found = analyse(workdir, runs) if found is None else found
    texts = tables.texts(found)
    compared = comparisons.read(workdir)
    if any(one.status != "unfinished" for one in compared):
        texts["comparisons.csv"] = comparisons.table(compared)
    paths = [Path(workdir) / name for name in texts]
    for path in paths:
        records.replace_file(path, texts[path.name].encode())
    return paths + (publication.draw(workdir, found) if found else [])
