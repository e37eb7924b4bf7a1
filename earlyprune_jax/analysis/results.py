"""The tables results.csv, one row per ended run, and signals.csv, one row per trunk epoch; how any
is written; and all that an experiment leaves to be looked at, from one reading of its workdir.

Nothing here imports pandas or Matplotlib before something is written.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import storage
from earlyprune_jax.analysis.places import SETTING, Place
from earlyprune_jax.analysis.runs import (
    Runs,
    Table,
    by_setting,
    is_number,
    read_runs,
    result_columns,
)

__all__ = ["SETTING", "Place", "Runs", "by_setting", "publish", "read_runs", "write_tables"]

RESULT_TABLES = ("results.csv", "signals.csv")
RULE_TABLES = ("rules.csv", "rule_choices.csv", "signal_correlations.csv")
REGIME_TABLES = ("regimes.csv", "regime_cells.csv", "regime_alignment.csv", "regime_baselines.csv")
COMPARISONS = "comparisons.csv"
REPRODUCED = "reproduced"
"""Folder of published figures, a folder each."""
TABLES = (*RESULT_TABLES, *RULE_TABLES, *REGIME_TABLES, COMPARISONS)
"""All that `publish` may write, in its order; figures lie in the folder `figures`."""


def result_table(runs: Runs) -> Table:
    """Tables the ended runs; unfinished ones have no row.

    Metrics are those of the last finished epoch, in their own unit, percents as fractions.
    `best_test_METRIC` is the best over epochs, chosen on test data as both papers do: an optimistic
    number, kept for comparison with theirs. `validation_epoch` has the best validation value of the
    primary metric (the earliest of equals) and is the honest choice.

    Example:
        >>> len(result_table(read_runs("no/such/workdir")))
        0
    """
    frame = runs.frame
    return frame.loc[frame["status"] != "unfinished", list(result_columns(runs.study, runs.swept))]


def signal_table(runs: Runs) -> Table:
    """Tables the trunks' epochs: setting, trunk_seed, epoch, then every scalar signal.

    Unfinished trunks are included; entries that are not numbers (values per parameter) are left
    out.

    Example:
        >>> list(signal_table(read_runs("no/such/workdir")))[-2:]
        ['trunk_seed', 'epoch']
    """
    import pandas as pd

    keys = [*runs.setting_axes, "trunk_seed"]
    trunks = runs.of_kind("trunk").frame
    rows = [
        dict(zip(keys, values, strict=True))
        | {"epoch": entry["epoch"]}
        | {name: value for name, value in (entry.get("signals") or {}).items() if is_number(value)}
        for name, *values in trunks[["name", *keys]].itertuples(index=False, name=None)
        for entry in runs.entries[name]
    ]
    return pd.DataFrame(rows, columns=None if rows else [*keys, "epoch"])


def write_tables(workdir: str | Path, *, runs: Runs | None = None) -> list[Path]:
    """Writes results.csv and signals.csv, each replaced in one step.

    Floats are written with all their digits, so that reading them back gives the same bits. A cell
    is empty where there is no value.

    Args:
        workdir: An existing directory.
        runs: What `read_runs` gave for it, where that is known already.

    Returns:
        The paths written.

    Raises:
        InvalidInput: A file of the workdir is damaged.

    Example:
        >>> import tempfile
        >>> [path.name for path in write_tables(tempfile.mkdtemp())]
        ['results.csv', 'signals.csv']
    """
    runs = read_runs(workdir) if runs is None else runs
    tables = result_table(runs), signal_table(runs)
    names = zip(RESULT_TABLES, tables, strict=True)
    return [save(Path(workdir) / name, table) for name, table in names]


def save(
    path: Path, rows: Table | Iterable[Mapping[str, Any]], columns: Sequence[str] = ()
) -> Path:
    """Writes a table as .csv, in one step.

    Args:
        path: of the file.
        rows: a frame, or one mapping per row.
        columns: of the file; those of the rows if none are given.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> rows = [{"a": 1, "b": None}, {"a": None, "b": 0.5}]
        >>> save(Path(tempfile.mkdtemp()) / "table.csv", rows).read_text()
        'a,b\\n1,\\n,0.5\\n'
    """
    import pandas as pd

    if not isinstance(rows, pd.DataFrame):
        # Objects: whole numbers stay whole beside cells without a value.
        rows = pd.DataFrame(list(rows), columns=list(columns) or None, dtype="object")
    storage.replace_file(path, rows.to_csv(index=False, lineterminator="\n").encode())
    return path


def publish(workdir: str | Path, *, runs: Runs | None = None) -> list[Path]:
    """Writes all tables and figures of a workdir, each file replaced in one step.

    In a workdir of published figures the tables of all runs, and the metric against fork epoch:
    each figure has the others of its own runs, see `published.reproduce`.

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
    from earlyprune_jax.analysis import (
        figures,
        online_figure,
        regimes,
        rules,
    )

    runs = read_runs(workdir) if runs is None else runs
    # Another kind of table or figure is a further function here; its tables are among `TABLES`.
    writers = (write_tables, rules.write, figures.draw_main, online_figure.draw, regimes.write)
    if runs.config.get("figure", {}).get("name"):
        writers = (write_tables, figures.draw_main)
    return [path for write in writers for path in write(workdir, runs=runs)]
