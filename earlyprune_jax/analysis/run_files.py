"""The files of runs: run.json, metrics.jsonl and result.json of each, as rows of plain values.

Grids of ten thousand runs are read in seconds: all epochs of a run are parsed at once, and only
those of trunks are kept.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from earlyprune_jax import records
from earlyprune_jax.analysis import study as studies
from earlyprune_jax.analysis.places import SETTING
from earlyprune_jax.analysis.study import Study
from earlyprune_jax.metrics import Metric
from earlyprune_jax.validate import unexpected

GROUPS = ("trunks", "forks", "online")
NEEDED = ("kind", *SETTING, "trunk_seed", "first_epoch", "last_epoch")


@dataclasses.dataclass(frozen=True)
class RunFile:
    """One run directory as written.

    Attributes:
        row: what run.json says, and what the run came to.
        config: the place of its config in `Files.configs`.
        entries: the finished epochs of a trunk, without values per parameter; None of other runs.
    """

    row: dict[str, Any]
    config: int
    entries: list[dict[str, Any]] | None


@dataclasses.dataclass(frozen=True)
class Files:
    """All runs of a workdir, and the distinct configs among them; empty ones of an earlier
    version."""

    study: Study
    runs: list[RunFile]
    configs: list[dict[str, Any]]


def read(workdir: str | Path) -> Files:
    """Reads every directory of `GROUPS` that has a run.json, in no order.

    Raises:
        InvalidInput: A file that a finished write cannot have left; names file and line.

    Example:
        >>> read("no/such/workdir").runs
        []
    """
    paths = [path for group in GROUPS for path in Path(workdir).glob(f"{group}/*/run.json")]
    directories = [path.parent for path in paths]
    study = studies.read_study(workdir) or studies.recorded_study(_first_entries(directories))
    configs: list[dict[str, Any]] = []
    runs = []
    for path, directory in zip(paths, directories, strict=True):
        row = _description(path)
        config = _interned(row.pop("config", None) or {}, configs)
        entries = _entries(directory)
        result = _read_json(directory / "result.json")
        if result is not None and "status" not in result:
            result = records.RunRecords(directory).result()
        kept = [_lean(entry) for entry in entries] if row["kind"] == "trunk" else None
        row |= _numbers(row, entries, result, study) | {"name": directory.name}
        runs.append(RunFile(row, config, kept))
    return Files(study, runs, configs)


def best_entry(
    entries: Sequence[Mapping[str, Any]], metric: Metric, split: str
) -> Mapping[str, Any]:
    """Finds the epoch with the best finite value, the first of equals; empty without one.

    Args:
        entries: epochs of a run; those without a value are passed over.
        metric: says which direction is better.
        split: validation or test.

    Example:
        >>> entries = [{"epoch": e, "test_loss": x} for e, x in ((1, 0.5), (2, None), (3, 0.2), (4, 0.2))]
        >>> best_entry(entries, Metric("loss", larger_is_better=False), "test")["epoch"]
        3
    """
    column, sign = metric.column(split), metric.sign
    top, best = -math.inf, {}
    for entry in entries:
        value = entry.get(column)
        if is_number(value) and top < sign * value < math.inf:
            top, best = sign * value, entry
    return best


def is_number(value: Any) -> TypeGuard[float]:
    """Tells whether a record's value is a number; JSON's true and false are none.

    Example:
        >>> is_number(1), is_number(True), is_number(None)
        (True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_json(path: Path) -> Any:
    """As `records.read_json`, which names what is damaged; this is the fast way where nothing
    is."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return records.read_json(path)
    return value if isinstance(value, dict) else records.read_json(path)


def _description(path: Path) -> dict[str, Any]:
    described = _read_json(path)
    if missing := [name for name in NEEDED if described.get(name) is None]:
        raise unexpected(str(path), sorted(described), f"to have {missing}")
    return described


def _entries(directory: Path) -> list[dict[str, Any]]:
    """As `records.RunRecords.epochs`: all lines at once, and one by one where one is damaged."""
    try:
        whole = (directory / "metrics.jsonl").read_bytes().rpartition(b"\n")[0]
    except FileNotFoundError:
        return []
    try:
        entries = json.loads(b"[" + whole.replace(b"\n", b",") + b"]")
    except ValueError:
        entries = []
    # Two damaged lines must not pass as the halves of one.
    if len(entries) == whole.count(b"\n") + bool(whole) and all(
        type(one) is dict for one in entries
    ):
        return entries
    return records.RunRecords(directory).epochs()


def _first_entries(directories: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The first epoch of a run of each kind that has one."""
    for group in dict.fromkeys(directory.parent for directory in directories):
        own = (directory for directory in directories if directory.parent == group)
        yield from next(filter(None, map(_entries, own)), [])[:1]


def _interned(config: dict[str, Any], configs: list[dict[str, Any]]) -> int:
    """The place of a config among the distinct ones, to which it is added."""
    for place, known in enumerate(configs):
        if known == config:
            return place
    configs.append(config)
    return len(configs) - 1


def _numbers(
    described: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any] | None,
    study: Study,
) -> dict[str, Any]:
    """What a run came to: its end, the metrics of its last epoch, its best epochs."""
    last: Mapping[str, Any] = entries[-1] if entries else {}
    status = "unfinished" if result is None else result["status"]
    result = result or {}
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
    """The entry without its signals' values per parameter, which are most of it."""
    signals = entry.get("signals")
    if not signals:
        return entry
    single = {name: value for name, value in signals.items() if not isinstance(value, dict)}
    return {**entry, "signals": single}
