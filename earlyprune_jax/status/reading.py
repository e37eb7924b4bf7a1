"""What a workdir says of its members: at one look, while it may be written.

Looks at names and at every result.json, besides plan.json and study.json, and writes nothing: a
read-only copy will do.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from earlyprune_jax import records
from earlyprune_jax.analysis.column_types import is_number
from earlyprune_jax.analysis.study import read_study
from earlyprune_jax.grid.locks import is_held
from earlyprune_jax.metrics import Metric
from earlyprune_jax.run_records import RunRecords
from earlyprune_jax.validate import InvalidInput

FINISHED, RUNNING, BEGUN, DAMAGED = "finished", "running", "begun", "damaged"
"""The state of most members, which result.json names. Without one: its lock is held, or nobody is
at it. The last is that of a result.json that cannot be read."""


class Cell(NamedTuple):
    """Members that differ in seed and replicate only, as plan.json lists them.

    Attributes:
        kind: trunk, fork, online or comparison.
        row: what they share with other fork epochs; see `members.row`.
        fork_epoch: after which they are pruned; None for what is not, or decides by itself.
        num_epochs: that each of them trains, at most; 0 of a comparison.
        members: their directories, relative to the workdir.
    """

    kind: str
    row: str
    fork_epoch: int | None
    num_epochs: int
    members: tuple[str, ...]


class Found(NamedTuple):
    """A member that has been begun: its state, and what result.json says or why it says nothing."""

    state: str
    result: Mapping[str, Any]

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.state in (RUNNING, BEGUN)

    def number(self, *path: str) -> float | None:
        """Returns a number of result.json; None where there is none."""
        value: Any = self.result
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value if is_number(value) else None


@dataclasses.dataclass(frozen=True)
class Status:
    """A workdir at one moment.

    Attributes:
        metric: that runs are compared by.
        cells: all that are planned; None where that is not known.
        is_search: whether only some of the cells will be trained.
        is_closed: whether a search has ended: no cell is left that it asks for.
        found: directory -> what was found there.
        processes: that are at work now, as far as the members they hold tell.
    """

    metric: Metric
    cells: tuple[Cell, ...] | None
    is_search: bool
    is_closed: bool
    found: Mapping[str, Found]
    processes: frozenset[str]

    @property
    def trained(self) -> list[Cell]:
        """The cells of runs; comparisons train nothing."""
        return [cell for cell in self.cells or () if cell.num_epochs]

    def finished(self, cell: Cell) -> list[Found]:
        """Returns those of a cell's members that have finished."""
        found = (self.found[name] for name in cell.members if name in self.found)
        return [one for one in found if one.state == FINISHED]

    def has_ended(self) -> bool:
        """Tells whether there is nothing to wait for: all that is planned, or known, has ended."""
        names = {name for cell in self.cells or () for name in cell.members}
        is_open = any(found.is_open for found in self.found.values())
        return not is_open and (self.is_closed if self.is_search else names <= self.found.keys())


def numbers(runs: Iterable[Found], *path: str) -> list[float]:
    """Returns a number of result.json, of the runs that have it."""
    return [value for one in runs if (value := one.number(*path)) is not None]


def read(workdir: str | Path) -> Status:
    """Looks at a workdir.

    Raises:
        InvalidInput: it holds no experiment, or its plan.json or study.json is damaged.
        OSError: it cannot be read.

    Example:
        >>> read("none")                    # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        earlyprune_jax.validate.InvalidInput: Expected DIR='none' to be a directory. There ...
    """
    records.require_workdir(workdir)
    folder = Path(workdir)
    study, plan = read_study(folder), _read_plan(folder)
    assert study is not None, "required above"
    folders = records.FOLDERS.values()
    found = {path: one for name in folders for path, one in _found(folder, name)}
    running = (path for path, one in found.items() if one.state == RUNNING)
    processes = frozenset(RunRecords(folder / path).holder() for path in running)
    return Status(study.primary, *plan, found, processes)


def _read_plan(workdir: Path) -> tuple[tuple[Cell, ...] | None, bool, bool]:
    plan = records.read_of_study(workdir, records.PLAN, remedy=records.PLAN_REMEDY)
    if plan is None:
        return None, False, False
    with records.sound(workdir / records.PLAN):
        return tuple(map(_cell, plan["cells"])), plan["search"] != "all", bool(plan.get("ended"))


def _cell(listed: Mapping[str, Any]) -> Cell:
    folder = records.FOLDERS[listed["kind"]]
    members = tuple(f"{folder}/{name}" for name in listed["members"])
    row, num_epochs = str(listed["row"]), int(listed["num_epochs"])
    return Cell(listed["kind"], row, listed["fork_epoch"], num_epochs, members)


def _found(workdir: Path, folder: str) -> Iterator[tuple[str, Found]]:
    absent = contextlib.suppress(FileNotFoundError, NotADirectoryError)
    with absent, os.scandir(workdir / folder) as entries:
        for entry in entries:
            path = f"{folder}/{entry.name}"
            if entry.is_dir():
                yield path, _state(entry.path)
            elif not entry.name.startswith("."):
                yield path, Found(DAMAGED, {"reason": "it is no folder: move it away"})


def _state(directory: str) -> Found:
    if ended := _ended(directory):
        return ended
    if is_held(Path(directory)):
        return Found(RUNNING, {})
    # Its holder may have finished it between the two looks.
    return _ended(directory) or Found(BEGUN, {})


def _ended(directory: str) -> Found | None:
    """Reads how a member has ended; None where there is no result.json."""
    try:
        result = RunRecords(Path(directory)).result()
    except InvalidInput as error:
        return Found(DAMAGED, {"reason": str(error)})
    return Found(result["status"], result) if result else None
