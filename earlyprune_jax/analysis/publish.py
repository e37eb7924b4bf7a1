"""Everything an experiment leaves to be looked at, written from one reading of its workdir."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from earlyprune_jax.analysis import figures, regimes, results, rules
from earlyprune_jax.analysis.runs import Run, read_runs


class Writer(Protocol):
    """Writes files into a workdir from its runs, and returns their paths; no path where it has no data."""

    def __call__(self, workdir: str | Path, *, runs: Sequence[Run] | None = None) -> list[Path]: ...


WRITERS: tuple[Writer, ...] = (
    results.write_tables,
    rules.write,
    figures.draw_accuracy_vs_fork_epoch,
    regimes.write,
)
"""In the order of their files; another kind of table or figure is another writer here."""


def publish(workdir: str | Path, *, runs: Sequence[Run] | None = None) -> list[Path]:
    """Writes all tables and figures of a workdir, each file replaced in one step.

    Args:
        workdir: An experiment's directory, finished or not.
        runs: Of `results.read_runs`, where they have been read already: for `summary.summarize` too.

    Returns:
        The paths written.

    Raises:
        InvalidInput: A file of the workdir is damaged.
        OSError: The workdir cannot be written.

    Example:
        >>> import tempfile
        >>> [path.name for path in publish(tempfile.mkdtemp())]
        ['results.csv', 'signals.csv']
    """
    runs = read_runs(workdir) if runs is None else runs
    return [path for write in WRITERS for path in write(workdir, runs=runs)]
