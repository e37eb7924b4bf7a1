"""From the files of a workdir to rows: one per ended run, one per trunk epoch."""

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import records
from earlyprune_jax.validate import InvalidInput, expected

AXES = ("trunk_seed", "fork_epoch", "criterion", "scope", "sparsity", "rule", "replicate")
ONLINE = ("trigger", "fired_epoch", "marked_epoch", "mode")
"""What run.json says of a run that pruned itself; `fork_epoch` is then the epoch of its weights."""
KINDS = ("trunk", "fork", "online")
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


@dataclasses.dataclass(frozen=True)
class Run:
    """One run directory as written: what it is, its finished epochs, how it ended.

    `records` holds one entry per finished epoch, ascending; `result` is None while the
    run is unfinished. Axes that a trunk does not have are None. Only a run of kind "online", which
    pruned itself, has a trigger and a mode; its `fired_epoch` is None where the trigger never
    fired, and its `fork_epoch` where it stayed dense.
    """

    name: str
    kind: str
    trunk_seed: int
    fork_epoch: int | None
    criterion: str | None
    scope: str | None
    sparsity: float | None
    rule: str | None
    replicate: int | None
    first_epoch: int
    last_epoch: int
    records: tuple[dict[str, Any], ...]
    result: dict[str, Any] | None
    trigger: str | None = None
    fired_epoch: int | None = None
    marked_epoch: int | None = None
    mode: str | None = None
    reason: str | None = None

    @property
    def status(self) -> str:
        """finished, diverged, skipped, or unfinished where no result has been written."""
        return "unfinished" if self.result is None else self.result["status"]

    @property
    def complete(self) -> bool:
        """Finished, and trained to the last epoch planned: a trunk that a trigger ended is not."""
        reached = self.records[-1]["epoch"] >= self.last_epoch if self.records else False
        return self.status == "finished" and reached

    def last(self, metric: str) -> float | None:
        """The metric at the last finished epoch, or None without an epoch or a value."""
        return self.records[-1].get(metric) if self.records else None


def read_runs(workdir: str | Path) -> list[Run]:
    """Reads every run of a workdir, trunks first, then sorted by all axes.

    A directory without run.json is not a run; any of `trunks`, `forks` and `online` may be absent.
    The last line of metrics.jsonl may be torn (a crash while writing) and is then dropped.

    Args:
        workdir: The experiment's directory.

    Returns:
        The runs, ended or not.

    Raises:
        InvalidInput: A file that a finished write cannot have left; names file and line.

    Example:
        >>> read_runs("no/such/workdir")
        []
    """
    groups = ("trunks", "forks", "online")
    paths = [path for group in groups for path in Path(workdir).glob(f"{group}/*/run.json")]
    return sorted((_read_run(path.parent) for path in paths), key=_sort_key)


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
    return [_result_row(run) for run in sorted(runs, key=_sort_key) if run.result is not None]


def signal_rows(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """One row per trunk seed and epoch: trunk_seed, epoch, then every scalar signal.

    Unfinished trunks are included. All rows have the same keys, None where a record lacks a
    signal; entries that are not numbers (values per parameter) are left out.

    Example:
        >>> signal_rows([])
        []
    """
    trunks = sorted((run for run in runs if run.kind == "trunk"), key=_sort_key)
    measured = [(run, record, record.get("signals") or {}) for run in trunks for record in run.records]
    names = list(
        dict.fromkeys(name for *_, signals in measured for name in signals if _is_number(signals[name]))
    )
    return [
        {
            "trunk_seed": run.trunk_seed,
            "epoch": record["epoch"],
            **{name: signals.get(name) for name in names},
        }
        for run, record, signals in measured
    ]


def write_tables(workdir: str | Path) -> list[Path]:
    """Writes results.csv and signals.csv, each replaced in one step, and returns their paths.

    Floats are written with `repr`, so that reading them back gives the same bits; a cell is
    empty where there is no value.

    Example:
        >>> import tempfile
        >>> [path.name for path in write_tables(tempfile.mkdtemp())]
        ['results.csv', 'signals.csv']
    """
    runs = read_runs(workdir)
    signals = signal_rows(runs)
    signal_columns = tuple(signals[0]) if signals else ("trunk_seed", "epoch")
    tables = {"results.csv": (RESULT_COLUMNS, result_rows(runs)), "signals.csv": (signal_columns, signals)}
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


def _read_run(directory: Path) -> Run:
    description = records.read_json(directory / "run.json")
    needed = ("kind", "trunk_seed", "first_epoch", "last_epoch")
    if missing := [name for name in needed if description.get(name) is None]:
        raise InvalidInput([expected(str(directory / "run.json"), sorted(description), f"to have {missing}")])
    names = {*needed, *AXES, *ONLINE, "reason"}
    identity: dict[str, Any] = {name: description.get(name) for name in names}
    run = records.RunRecords(directory)
    return Run(name=directory.name, **identity, records=tuple(run.epochs()), result=run.result())


def _result_row(run: Run) -> dict[str, Any]:
    result = run.result or {}
    best = _argmax(run.records, "test_accuracy")
    chosen = _argmax(run.records, "validation_accuracy")
    diverged = result if run.status == "diverged" else {}
    values = {
        "kind": run.kind,
        **{axis: getattr(run, axis) for axis in AXES},
        "status": run.status,
        "achieved_sparsity": result.get("achieved_sparsity"),
        "epochs_trained": run.records[-1]["epoch"] - run.first_epoch if run.records else 0,
        "final_lr": run.last("learning_rate"),
        **{metric: run.last(metric) for metric in LAST_EPOCH_METRICS},
        "best_test_accuracy": best.get("test_accuracy"),
        "best_test_epoch": best.get("epoch"),
        "validation_epoch": chosen.get("epoch"),
        "validation_epoch_test_accuracy": chosen.get("test_accuracy"),
        "diverged_epoch": diverged.get("epoch"),
        "diverged_step": diverged.get("step"),
        "seconds": sum(record.get("seconds") or 0.0 for record in run.records) if run.records else None,
        "reason": result.get("reason") or run.reason,
        **{name: getattr(run, name) for name in ONLINE},
    }
    return {column: values[column] for column in RESULT_COLUMNS}


def _argmax(records: Sequence[dict[str, Any]], metric: str) -> dict[str, Any]:
    """The earliest record with the highest finite value; empty where there is none."""
    usable = [r for r in records if _is_number(r.get(metric)) and math.isfinite(r[metric])]
    return max(usable, key=lambda record: record[metric], default={})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sort_key(run: Run) -> tuple[Any, ...]:
    # None sorts before every value: (False,) < (True, value).
    axes = ((value is not None, *([] if value is None else [value])) for value in _axis_values(run))
    return (KINDS.index(run.kind) if run.kind in KINDS else len(KINDS), *axes)


def _axis_values(run: Run) -> list[Any]:
    return [getattr(run, axis) for axis in AXES]


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
