"""Everything an experiment leaves to be looked at, written from one reading of its workdir.

Nothing here imports pandas or Matplotlib before something is written.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from earlyprune_jax.analysis.runs import Runs

PACKAGE = "earlyprune_jax.analysis"


RESULT_TABLES = ("results.csv", "signals.csv")
RULE_TABLES = ("rules.csv", "rule_choices.csv", "signal_correlations.csv")
REGIME_TABLES = ("regimes.csv", "regime_cells.csv", "regime_alignment.csv", "regime_baselines.csv")
COMPARISONS = "comparisons.csv"
WRITERS: dict[str, tuple[str, ...]] = {
    "results:write_tables": RESULT_TABLES,
    "rules:write": RULE_TABLES,
    "figures:draw_main": (),
    "regimes:write": (*REGIME_TABLES, COMPARISONS),
}
"""`module:function` within this package -> the tables that it may write; figures lie in the folder
`figures`. A function is called with the workdir and `runs`, and returns the paths of the files that
it has written, in the order of these tables: none where it has no data. Another kind of table or
figure is registered here, and nowhere else."""


def publish(workdir: str | Path, *, runs: "Runs | None" = None) -> list[Path]:
    """Writes all tables and figures of a workdir, each file replaced in one step.

    Args:
        workdir: An experiment's directory, finished or not.
        runs: Of `results.read_runs`, where they have been read already: for `summary.summarize`
            too.

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
    from earlyprune_jax.analysis.runs import read_runs

    runs = read_runs(workdir) if runs is None else runs
    paths: list[Path] = []
    for writer in WRITERS:
        module, _, name = writer.partition(":")
        write = getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)
        paths += write(workdir, runs=runs)
    return paths


def tables() -> tuple[str, ...]:
    """Lists the tables that `publish` may write, in its order.

    Example:
        >>> tables()[:2]
        ('results.csv', 'signals.csv')
    """
    return tuple(name for tables in WRITERS.values() for name in tables)


def file_names() -> tuple[str, ...]:
    """Lists what `publish` may write into a workdir: the tables, and the folder of the figures.

    Example:
        >>> file_names()[-1]
        'figures'
    """
    return (*tables(), "figures")
