"""From the files of a workdir to rows: one per ended run, one per trunk epoch."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import records
from earlyprune_jax.analysis.runs import (
    AXES,
    ONLINE,
    SETTING,
    Run,
    Setting,
    by_setting,
    in_order,
    is_number,
    read_runs,
)

__all__ = [
    "AXES",
    "ONLINE",
    "RESULT_COLUMNS",
    "SETTING",
    "SIGNAL_KEYS",
    "Run",
    "Setting",
    "by_setting",
    "csv_text",
    "read_config",
    "read_runs",
    "result_rows",
    "signal_rows",
    "write_tables",
]

SIGNAL_KEYS = (*SETTING, "trunk_seed", "epoch")
"""What a row of signals.csv is about; its other columns are signals."""
LAST_EPOCH_METRICS = (
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "test_loss",
    "test_accuracy",
)
RESULT_COLUMNS = (
    "kind",
    *AXES,
    "status",
    "achieved_sparsity",
    "epochs_trained",
    "final_lr",
    *LAST_EPOCH_METRICS,
    "best_test_accuracy",
    "best_test_epoch",
    "validation_epoch",
    "validation_epoch_test_accuracy",
    "diverged_epoch",
    "diverged_step",
    "seconds",
    "reason",
    *ONLINE,
)


def result_rows(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """One row per ended run, with the keys `RESULT_COLUMNS`; unfinished runs have no row.

    Losses are mean cross-entropy in nats, accuracies fractions, each at the last finished epoch.
    `best_test_accuracy` is the maximum over epochs, chosen on test data as both papers do: an
    optimistic number, kept for comparison with theirs. `validation_epoch` has the highest
    validation accuracy (the earliest of equals) and is the honest choice. None where a value
    does not exist.

    Example:
        >>> result_rows([])
        []
    """
    return list(_result_rows(runs))


def signal_rows(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """One row per trunk and epoch: its setting, trunk_seed, epoch, then every scalar signal.

    Unfinished trunks are included. All rows have the same keys, None where a record lacks a
    signal; entries that are not numbers (values per parameter) are left out.

    Example:
        >>> signal_rows([])
        []
    """
    trunks = in_order(run for run in runs if run.kind == "trunk")
    measured = [(run, record, record.get("signals") or {}) for run in trunks for record in run.records]
    names = list(
        dict.fromkeys(name for *_, signals in measured for name in signals if is_number(signals[name]))
    )
    return [
        {
            **{axis: getattr(run, axis) for axis in SETTING},
            "trunk_seed": run.trunk_seed,
            "epoch": record["epoch"],
            **{name: signals.get(name) for name in names},
        }
        for run, record, signals in measured
    ]


def write_tables(workdir: str | Path, *, runs: Sequence[Run] | None = None) -> list[Path]:
    """Writes results.csv and signals.csv, each replaced in one step, and returns their paths.

    Floats are written with `repr`, so that reading them back gives the same bits; a cell is
    empty where there is no value.

    Args:
        workdir: An existing directory.
        runs: What `read_runs` gave for it, where that is known already.

    Raises:
        InvalidInput: A file of the workdir is damaged.

    Example:
        >>> import tempfile
        >>> [path.name for path in write_tables(tempfile.mkdtemp())]
        ['results.csv', 'signals.csv']
    """
    runs = read_runs(workdir) if runs is None else runs
    signals = signal_rows(runs)
    signal_columns = tuple(signals[0]) if signals else SIGNAL_KEYS
    tables = {"results.csv": (RESULT_COLUMNS, _result_rows(runs)), "signals.csv": (signal_columns, signals)}
    paths = []
    for name, (columns, rows) in tables.items():
        paths.append(Path(workdir) / name)
        records.replace_file(paths[-1], csv_text(columns, rows).encode())
    return paths


def read_config(workdir: str | Path) -> dict[str, dict[str, Any]]:
    """The resolved config {section: {key: value}}; empty where config.json is absent.

    Example:
        >>> read_config("no/such/workdir")
        {}
    """
    return records.read_json(Path(workdir) / "config.json") or {}


def _result_rows(runs: Iterable[Run]) -> Iterator[dict[str, Any]]:
    """One after the other: of ten thousand runs the rows would need as much memory as the runs."""
    return (_result_row(run) for run in in_order(runs) if run.result is not None)


def _result_row(run: Run) -> dict[str, Any]:
    result = run.result or {}
    best, chosen = run.epochs.best_test, run.epochs.best_validation
    diverged = result if run.status == "diverged" else {}
    values = {
        "kind": run.kind,
        **{axis: getattr(run, axis) for axis in AXES},
        "status": run.status,
        "achieved_sparsity": result.get("achieved_sparsity"),
        "epochs_trained": run.epochs.last.get("epoch", run.first_epoch) - run.first_epoch,
        "final_lr": run.last("learning_rate"),
        **{metric: run.last(metric) for metric in LAST_EPOCH_METRICS},
        "best_test_accuracy": best.get("test_accuracy"),
        "best_test_epoch": best.get("epoch"),
        "validation_epoch": chosen.get("epoch"),
        "validation_epoch_test_accuracy": chosen.get("test_accuracy"),
        "diverged_epoch": diverged.get("epoch"),
        "diverged_step": diverged.get("step"),
        "seconds": run.epochs.seconds,
        "reason": run.why,
        **{name: getattr(run, name) for name in ONLINE},
    }
    return {column: values[column] for column in RESULT_COLUMNS}


def csv_text(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """A table's text: floats by `repr`, no value as an empty cell.

    Example:
        >>> csv_text(("a", "b"), [{"a": 0.1, "b": None}])
        'a,b\\n0.1,\\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)
