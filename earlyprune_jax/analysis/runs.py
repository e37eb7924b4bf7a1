"""The runs of a workdir as one frame: one row per run, with all its axes, swept keys and numbers.

Of trunks every epoch is kept, for its signals; of the runs pruned from them, which are many, only
the last and the best. Pandas is imported on use: a process that trains needs none of it.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax import records
from earlyprune_jax.analysis import column_types
from earlyprune_jax.analysis.column_types import Table, is_number
from earlyprune_jax.analysis.places import CURVE, SETTING, Place, Swept, order, swept_keys, value_of
from earlyprune_jax.analysis.study import LOSS, Study, read_study
from earlyprune_jax.metrics import Metric
from earlyprune_jax.run_records import DATA, Recorded, RunRecords
from earlyprune_jax.validate import unexpected

KINDS = ("trunk", "fork", "online")
ONLINE = ("trigger", "fired_epoch", "marked_epoch", "mode")
"""What run.json says of a run that pruned itself; `fork_epoch` is then the epoch of its weights."""
LOST = ("diverged", "failed")
"""How a run ends without a result: its numbers were no longer finite, or it raised."""
NEEDED = ("kind", *SETTING, "trunk_seed", "first_epoch", "last_epoch")
"""What every run.json says; a fork's also says where it belongs."""


@dataclasses.dataclass(frozen=True, eq=False)
class Runs:
    """Runs of a workdir, trunks first, then sorted by all axes.

    Attributes:
        study: the metrics.
        config: of `read_config`.
        swept: the swept keys; each has a column of its full name.
        frame: a row per run: its directory's name, axes, status, metrics of the last epoch, the
            best epochs. `end_epoch` is the last finished epoch; `complete` says that the run has
            finished and was trained to the last epoch planned. No value is NA, None or NaN.
        entries: a trunk's directory -> its finished epochs, without values per parameter.
        num_missing: how many members that are planned are not there: not begun, or lost; None where
            no plan says so.
        num_more: how many are there that the last session has not planned.
    """

    study: Study
    config: Mapping[str, Any]
    swept: Swept
    frame: Table
    entries: Mapping[str, Sequence[Mapping[str, Any]]]
    num_missing: int | None = None
    num_more: int = 0

    def __len__(self) -> int:
        return len(self.frame)

    def __iter__(self) -> Iterator[Any]:
        """Yields a named tuple per run."""
        return each(self.frame)

    @property
    def metric(self) -> Metric:
        """The primary metric."""
        return self.study.primary

    @property
    def setting_axes(self) -> tuple[str, ...]:
        """The columns that tell settings apart."""
        return (*SETTING, *self.swept.trunk)

    @property
    def setting(self) -> Place:
        """Where the first run lies: of runs of one setting, all of them."""
        axes = list(self.setting_axes)
        return Place.of(axes, self.frame[axes].iloc[0])

    @property
    def curve_axes(self) -> tuple[str, ...]:
        """The columns that tell curves apart, those of the setting first."""
        return (*self.setting_axes, *CURVE, *self.swept.fork)

    def where(self, mask: Any) -> "Runs":
        """Keeps the rows of a mask."""
        return dataclasses.replace(self, frame=self.frame[mask])

    def of_plan(self, planned: Iterable[str] | None) -> "Runs":
        """Keeps the runs of a plan, FOLDER/NAME; all where there is none."""
        if planned is None:
            return self
        folders = self.frame["kind"].map(records.FOLDERS)
        return self.where((folders + "/" + self.frame["name"]).isin(set(planned)))

    def of_kind(self, kind: str) -> "Runs":
        """Keeps the runs of one kind: trunk, fork or online."""
        return self.where(self.frame["kind"] == kind)


def each(frame: Table) -> Iterator[Any]:
    """Yields a named tuple per row, None where there is no value.

    Example:
        >>> import pandas as pd
        >>> [run.x for run in each(pd.DataFrame({"x": pd.Series([1, None], dtype="Int64")}))]
        [1, None]
    """
    return frame.astype("object").where(frame.notna(), None).itertuples(index=False)


def axes_of(swept: Swept) -> tuple[str, ...]:
    """Lists all axes of runs, in the order of the tables.

    Example:
        >>> axes_of(Swept(fork=("fork.length",)))[4:]
        ('fork_epoch', 'criterion', 'scope', 'sparsity', 'retraining', 'fork.length', 'replicate')
    """
    return (*SETTING, *swept.trunk, "trunk_seed", "fork_epoch", *CURVE, *swept.fork, "replicate")


def read_runs(workdir: str | Path) -> Runs:
    """Reads every run of a workdir.

    Any of `trunks`, `forks` and `online` may be absent, and so may be the records of a run that has
    just begun. The last line of metrics.jsonl may be torn (a crash while writing) and is then
    dropped.

    Returns:
        The runs, ended or not.

    Raises:
        InvalidInput: A file that a finished write cannot have left; names file and line.

    Example:
        >>> len(read_runs("no/such/workdir"))
        0
    """
    config = read_config(workdir)
    read = [_read_records(Path(workdir), kind) for kind in KINDS]
    study = read_study(workdir) or Study((LOSS,), LOSS)
    configs: list[Mapping[str, Any]] = []
    primary = study.primary.column("test")
    floats = {*study.columns, f"best_{primary}", f"validation_epoch_{primary}"}
    rows, entries, data = [], {}, {}
    for directory, run in itertools.chain(*read):
        with records.sound(directory):
            row, epochs = _row(directory, run, study), run.epochs
            for numbers in (row, *(epochs if row["kind"] == "trunk" else ())):
                column_types.check(numbers, floats)
        study.require_own(directory, row)
        run_config = row.pop("config", None) or {}
        _require_same_data(directory, run, data)
        if run_config not in configs:
            configs.append(run_config)
        rows.append((row, configs.index(run_config)))
        if row["kind"] == "trunk":
            entries[row["name"]] = [_lean(entry) for entry in epochs]
    with records.sound(Path(workdir)):
        swept = swept_keys(config, configs)
        for row, place in rows:
            # What is swept of the forks says nothing of a trunk.
            keys = swept.trunk if row["kind"] == "trunk" else (*swept.trunk, *swept.fork)
            row |= {key: value_of(configs[place], key) for key in keys}
    axes = axes_of(swept)

    def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return KINDS.index(row["kind"]), *(order(row.get(axis)) for axis in axes)

    plan = ("first_epoch", "last_epoch", "end_epoch", "complete")
    columns = ("name", *result_columns(study, swept), *plan)
    frame = column_types.frame(sorted((row for row, _ in rows), key=key), columns, floats)
    planned = records.planned(Path(workdir))
    there = records.described(Path(workdir)) if planned else set()
    missing = None if planned is None else len(planned - there)
    return Runs(study, config, swept, frame, entries, missing, len(there - (planned or set())))


def _read_records(workdir: Path, kind: str) -> Iterator[tuple[Path, Recorded]]:
    """Reads what each run of a kind has on record, one by one: all epochs at once are too much."""
    for directory in records.run_directories(workdir, kind):
        run = RunRecords(directory).read()
        if run.description is not None:
            yield directory, run


def _require_same_data(directory: Path, run: Recorded, data: dict[str, Any]) -> None:
    """Refuses a run on other data than those before it of the same config; `data` holds the digest
    of each config's data."""
    described = run.description or {}
    found, section = described.get(DATA), json.dumps(described.get("config", {}).get("data"))
    if found is not None and found != data.setdefault(section, found):
        allowed = f"to be trained on the data of the runs beside it ({DATA} {data[section]})"
        raise unexpected("run", str(directory), allowed, records.REMEDY)


def _row(directory: Path, run: Recorded, study: Study) -> dict[str, Any]:
    """Makes a run's row, with its config in it."""
    row = _described(directory / "run.json", run.description or {})
    return row | _numbers(row, run.epochs, run.result, study) | {"name": directory.name}


def groups_of(frame: Table, axes: Sequence[str]) -> list[tuple[Place, Table]]:
    """Parts rows by their values on some axes, sorted by these.

    Example:
        >>> groups_of(read_runs("no/such/workdir").frame, ["model"])
        []
    """
    groups = frame.groupby(list(axes), sort=False, dropna=False) if len(frame) else ()
    parts = [(Place.of(axes, values), rows) for values, rows in groups]
    return sorted(parts, key=lambda part: part[0])


def by_setting(runs: Runs) -> dict[Place, Runs]:
    """Gives the runs of each setting, in their order; the settings sorted.

    Example:
        >>> by_setting(read_runs("no/such/workdir"))
        {}
    """
    groups = groups_of(runs.frame, runs.setting_axes)
    return {place: dataclasses.replace(runs, frame=frame) for place, frame in groups}


def result_columns(study: Study, swept: Swept) -> tuple[str, ...]:
    """Lists the columns of results.csv.

    Example:
        >>> result_columns(Study((LOSS,), LOSS), Swept())[-13:-9]
        ('test_loss', 'best_test_loss', 'best_test_epoch', 'validation_epoch')
    """
    primary = study.primary.column("test")
    return (
        "kind",
        *axes_of(swept),
        *("status", "achieved_sparsity", "epochs_trained", "final_lr"),
        *study.columns,
        *(f"best_{primary}", "best_test_epoch", "validation_epoch", f"validation_epoch_{primary}"),
        *("diverged_epoch", "diverged_step", "seconds", "reason"),
        *ONLINE,
    )


def best_entry(
    entries: Sequence[Mapping[str, Any]], metric: Metric, split: str
) -> Mapping[str, Any]:
    """Finds the epoch with the best finite value, the first of equals; empty without one.

    Args:
        entries: epochs of a run; those without a value are passed over.
        metric: says which direction is better.
        split: validation or test.

    Returns:
        The epoch's entry.

    Example:
        >>> values = {1: 0.5, 2: None, 3: 0.2, 4: 0.2}
        >>> entries = [{"epoch": epoch, "test_loss": loss} for epoch, loss in values.items()]
        >>> best_entry(entries, Metric("loss", larger_is_better=False), "test")["epoch"]
        3
    """
    column = metric.column(split)
    known = [entry for entry in entries if is_number(v := entry.get(column)) and math.isfinite(v)]
    return max(known, key=lambda entry: metric.sign * entry[column], default={})


def read_config(workdir: str | Path) -> dict[str, dict[str, Any]]:
    """Reads the resolved config {section: {key: value}}; empty where config.json is absent."""
    return records.read_of_study(Path(workdir), records.CONFIG) or {}


def _described(path: Path, held: Mapping[str, Any]) -> dict[str, Any]:
    described = dict(held)
    forks = ("fork_epoch", *CURVE, "replicate") if described.get("kind") == "fork" else ()
    missing = [name for name in (*NEEDED, *forks) if described.get(name) is None]
    if missing:
        raise unexpected(str(path), missing, "not to be null", records.REMEDY)
    # What tells runs apart must be a value: a list raises TypeError.
    hash(tuple(map(described.get, (*NEEDED, *CURVE))))
    if described["kind"] not in KINDS:
        allowed = f"to be one of {', '.join(KINDS)}"
        raise unexpected(f"kind in {path}", described["kind"], allowed, records.REMEDY)
    return described


def _numbers(
    described: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any] | None,
    study: Study,
) -> dict[str, Any]:
    """What a run came to: its end, the metrics of its last epoch, its best epochs."""
    last: Mapping[str, Any] = entries[-1] if entries else {}
    result = result or {"status": "unfinished"}
    status = result["status"]
    best, chosen = (best_entry(entries, study.primary, split) for split in ("test", "validation"))
    primary = study.primary.column("test")
    diverged = result if status == "diverged" else {}
    end = last.get("epoch", described["first_epoch"])
    return {
        "status": status,
        "achieved_sparsity": result.get("achieved_sparsity"),
        "epochs_trained": end - described["first_epoch"],
        "final_lr": last.get("learning_rate"),
        **{column: last.get(column) for column in study.columns},
        f"best_{primary}": best.get(primary),
        "best_test_epoch": best.get("epoch"),
        "validation_epoch": chosen.get("epoch"),
        f"validation_epoch_{primary}": chosen.get(primary),
        "diverged_epoch": diverged.get("epoch"),
        "diverged_step": diverged.get("step"),
        "seconds": sum(entry.get("seconds") or 0.0 for entry in entries) if entries else None,
        "reason": result.get("reason") or described.get("reason"),
        "end_epoch": end,
        "complete": status == "finished" and last.get("epoch", -1) >= described["last_epoch"],
    }


def _lean(entry: dict[str, Any]) -> dict[str, Any]:
    """Drops the signals' values per parameter, which are most of an entry."""
    signals = entry.get("signals")
    if not signals:
        return entry
    kept = {name: value for name, value in signals.items() if not isinstance(value, dict)}
    return entry | {"signals": kept}
