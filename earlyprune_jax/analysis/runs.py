"""The runs of a workdir as they were written, and the settings that must be kept apart.

Of a trunk every epoch is kept, for its signals; of the runs pruned from it, which are many, only what
the tables need.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from earlyprune_jax import records
from earlyprune_jax.spec import Setting
from earlyprune_jax.validate import InvalidInput, expected

SETTING = ("model", "train_fraction", "schedule")
"""What trunks differ in beside their seed: runs of two settings are never averaged, nor paired."""
AXES = (*SETTING, "trunk_seed", "fork_epoch", "criterion", "scope", "sparsity", "rule", "replicate")
ONLINE = ("trigger", "fired_epoch", "marked_epoch", "mode")
"""What run.json says of a run that pruned itself; `fork_epoch` is then the epoch of its weights."""
KINDS = ("trunk", "fork", "online")
LOST = ("diverged", "failed")
"""How a run ends without a result: its numbers were no longer finite, or it raised."""


@dataclasses.dataclass(frozen=True)
class Epochs:
    """What the finished epochs of a run come to.

    Attributes:
        last: The entry of the last one; empty without any.
        best_test: Of the epoch with the highest finite test accuracy, the earliest of equals; or empty.
        best_validation: Likewise for validation accuracy.
        seconds: Of all of them; None without any.
    """

    last: Mapping[str, Any]
    best_test: Mapping[str, Any]
    best_validation: Mapping[str, Any]
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class Run:
    """One run directory as written: what it is, its finished epochs, how it ended.

    `records` holds one entry per finished epoch of a trunk, ascending, without values per parameter; it is
    empty for a pruned run, of which `epochs` tells the rest. `result` is None while the
    run is unfinished. Axes that a trunk does not have are None. Only a run of kind "online", which
    pruned itself, has a trigger and a mode; its `fired_epoch` is None where the trigger never
    fired, and its `fork_epoch` where it stayed dense.
    """

    name: str
    kind: str
    model: str
    train_fraction: float
    schedule: str
    trunk_seed: int
    fork_epoch: int | None
    criterion: str | None
    scope: str | None
    sparsity: float | None
    rule: str | None
    replicate: int | None
    first_epoch: int
    last_epoch: int
    epochs: Epochs
    records: tuple[dict[str, Any], ...]
    result: dict[str, Any] | None
    trigger: str | None = None
    fired_epoch: int | None = None
    marked_epoch: int | None = None
    mode: str | None = None
    reason: str | None = None

    @property
    def setting(self) -> Setting:
        """What its trunk differs in from others of the same seed."""
        return Setting(self.model, self.train_fraction, self.schedule)

    @property
    def status(self) -> str:
        """finished, diverged, failed, skipped, or unfinished where no result has been written."""
        return "unfinished" if self.result is None else self.result["status"]

    @property
    def why(self) -> str | None:
        """Why the run ended as it did, or pruned itself when it did, where that was written."""
        return (self.result or {}).get("reason") or self.reason

    @property
    def complete(self) -> bool:
        """Finished, and trained to the last epoch planned: a trunk that a trigger ended is not."""
        return self.status == "finished" and self.epochs.last.get("epoch", -1) >= self.last_epoch

    def last(self, metric: str) -> float | None:
        """The metric at the last finished epoch, or None without an epoch or a value."""
        return self.epochs.last.get(metric)


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
    paths = (path for group in groups for path in Path(workdir).glob(f"{group}/*/run.json"))
    return in_order(_read_run(path.parent) for path in paths)


def in_order(runs: Iterable[Run]) -> list[Run]:
    """The runs trunks first, then sorted by all axes, numbers as numbers.

    Example:
        >>> in_order([])
        []
    """
    return sorted(runs, key=_sort_key)


def by_setting(runs: Iterable[Run]) -> dict[Setting, list[Run]]:
    """The runs of each setting, in their order; the settings sorted.

    Example:
        >>> by_setting([])
        {}
    """
    found: dict[Setting, list[Run]] = {}
    for run in runs:
        found.setdefault(run.setting, []).append(run)
    return {setting: found[setting] for setting in sorted(found)}


def summed_up(entries: Sequence[dict[str, Any]]) -> Epochs:
    """What a run's entries, one an epoch, come to.

    Example:
        >>> found = summed_up([{"epoch": e, "test_accuracy": a} for e, a in ((1, 0.5), (2, 0.9), (3, 0.9))])
        >>> found.last["epoch"], found.best_test["epoch"], found.best_validation, found.seconds
        (3, 2, {}, 0.0)
    """
    return Epochs(
        last=entries[-1] if entries else {},
        best_test=_best(entries, "test_accuracy"),
        best_validation=_best(entries, "validation_accuracy"),
        seconds=sum(entry.get("seconds") or 0.0 for entry in entries) if entries else None,
    )


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a record's value is a number; JSON's true and false are none.

    Example:
        >>> is_number(1), is_number(True), is_number(None)
        (True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_run(directory: Path) -> Run:
    description = records.read_json(directory / "run.json")
    needed = ("kind", *SETTING, "trunk_seed", "first_epoch", "last_epoch")
    if missing := [name for name in needed if description.get(name) is None]:
        raise InvalidInput([expected(str(directory / "run.json"), sorted(description), f"to have {missing}")])
    identity: dict[str, Any] = {name: description.get(name) for name in IDENTITY}
    files = records.RunRecords(directory)
    entries = files.epochs()
    kept = tuple(map(_lean, entries)) if identity["kind"] == "trunk" else ()
    return Run(
        name=directory.name, **identity, epochs=summed_up(entries), records=kept, result=files.result()
    )


IDENTITY = ("kind", *AXES, "first_epoch", "last_epoch", *ONLINE, "reason")


def _lean(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry without its signals' values per parameter, which are most of it."""
    signals = entry.get("signals")
    if not signals:
        return entry
    single = {name: value for name, value in signals.items() if not isinstance(value, dict)}
    return {**entry, "signals": single}


def _best(entries: Sequence[dict[str, Any]], metric: str) -> dict[str, Any]:
    """The entry with the highest finite value, the first of equals; empty without one."""
    top, best = -math.inf, {}
    for entry in entries:
        value = entry.get(metric)
        if is_number(value) and top < value < math.inf:
            top, best = value, entry
    return best


def _sort_key(run: Run) -> tuple[Any, ...]:
    # None sorts before every value: (False,) < (True, value).
    values = (getattr(run, axis) for axis in AXES)
    axes = ((value is not None, *([] if value is None else [value])) for value in values)
    return (KINDS.index(run.kind) if run.kind in KINDS else len(KINDS), *axes)
