"""The tables results.csv, one row per ended run, and signals.csv, one row per trunk epoch; how any
is written."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import records
from earlyprune_jax.analysis import publish
from earlyprune_jax.analysis.places import SETTING, Place
from earlyprune_jax.analysis.runs import (
    Runs,
    Table,
    by_setting,
    is_number,
    read_runs,
    result_columns,
)

__all__ = ["SETTING", "Place", "Runs", "by_setting", "read_runs", "write_tables"]


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


def result_rows(runs: Runs) -> list[dict[str, Any]]:
    """Gives the rows of `result_table`, None where there is no value.

    Example:
        >>> result_rows(read_runs("no/such/workdir"))
        []
    """
    return rows_of(result_table(runs))


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
        {
            **dict(zip(keys, values, strict=True)),
            "epoch": entry["epoch"],
            **{
                name: value
                for name, value in (entry.get("signals") or {}).items()
                if is_number(value)
            },
        }
        for name, *values in trunks[["name", *keys]].itertuples(index=False, name=None)
        for entry in runs.entries[name]
    ]
    return pd.DataFrame(rows, columns=None if rows else [*keys, "epoch"])


def write_tables(
    workdir: str | Path, *, runs: Runs | None = None, parquet: bool = False
) -> list[Path]:
    """Writes results.csv and signals.csv, each replaced in one step.

    Floats are written with all their digits, so that reading them back gives the same bits. A cell
    is empty where there is no value.

    Args:
        workdir: An existing directory.
        runs: What `read_runs` gave for it, where that is known already.
        parquet: Write results.parquet and signals.parquet too; needs pyarrow.

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
    paths = [Path(workdir) / name for name in publish.RESULT_TABLES]
    for path, table in zip(paths, tables, strict=True):
        save(path, table)
    for path, table in zip(paths[:], tables, strict=True) if parquet else ():
        paths.append(path.with_suffix(".parquet"))
        records.replace_file(paths[-1], table.convert_dtypes().to_parquet(index=False))
    return paths


def save(
    path: Path, rows: Table | Iterable[Mapping[str, Any]], columns: Sequence[str] = ()
) -> Path:
    """Writes a table as .csv, in one step.

    Args:
        path: of the file.
        rows: a frame, or one mapping per row.
        columns: of the file; those of the first row if none are given.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> save(Path(tempfile.mkdtemp()) / "table.csv", [{"a": 1, "b": None}]).read_text()
        'a,b\\n1,\\n'
    """
    records.replace_file(path, csv_text(rows, columns).encode())
    return path


def csv_text(rows: Table | Iterable[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Gives a table's text: floats with all their digits, no value as an empty cell.

    Example:
        >>> csv_text([{"a": 0.1, "b": None}])
        'a,b\\n0.1,\\n'
    """
    return frame_of(rows, columns).to_csv(index=False, lineterminator="\n")


def frame_of(rows: Table | Iterable[Mapping[str, Any]], columns: Sequence[str] = ()) -> Table:
    """Makes a frame of rows, in which whole numbers stay whole beside cells without a value.

    Example:
        >>> frame_of([{"a": 1}, {"a": None}])["a"].tolist()
        [1, None]
    """
    import pandas as pd

    if isinstance(rows, pd.DataFrame):
        return rows
    rows = list(rows)
    columns = list(columns or (rows[0] if rows else ()))
    # One list per column: rows of several columns would be searched for their type.
    return pd.DataFrame(
        {name: pd.Series([row[name] for row in rows], dtype="object") for name in columns}
    )


def rows_of(table: Table) -> list[dict[str, Any]]:
    """Gives the rows of a frame as dictionaries, None where there is no value.

    Example:
        >>> rows_of(frame_of([{"a": 1, "b": None}]))
        [{'a': 1, 'b': None}]
    """
    return table.astype("object").where(table.notna(), None).to_dict("records")
