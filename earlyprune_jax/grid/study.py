"""A study on disk: a workdir whose members have a directory each, and say there how far they are;
who works on which; and which members it wants by now.

No process knows of the others. Whoever takes a member's lock may train it, and nobody else can. The
kernel frees the lock of a holder that dies; its files are sound, so the next one goes on from
there.

Wanted are the whole grid, or the cells that a coarse-to-fine search asks for. Paper B's question
needs two things of a grid: the best epoch of every sparsity, and the sparsity at which it moves. So
rows are refined around their best epoch, and a new row is put between two whose best epochs differ.
A round depends only on the scores of the rounds before it: every process that looks at the same
results asks for the same cells.
"""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import itertools
import shutil
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from earlyprune_jax.grid import members, plan
from earlyprune_jax.grid.members import Comparison, Fork, Member, Run, Trunk, trunk_of
from earlyprune_jax.grid.plan import Cell, Curve
from earlyprune_jax.metrics import Metric
from earlyprune_jax.records import RunRecords, read_json, write_json
from earlyprune_jax.spec import RunSpec, Setting
from earlyprune_jax.training.checkpoint import CheckpointStore
from earlyprune_jax.training.multihost import primary_only
from earlyprune_jax.validate import unexpected

MOST_ATTEMPTS = 5
"""After so many deaths of processes at one epoch of a member, the member has failed."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

AnyMember = TypeVar("AnyMember", bound=Member)

FEWEST = 3
"""A coarse axis has at least so many points, if it has them."""

Scores = Mapping[Cell, float | None]
"""Cell -> mean score, larger = better; None where a run came to nothing. Absent: has not ended."""


class Locked(Exception):
    """What is needed is held by another process; later it may be free."""


class RunLocks(contextlib.ExitStack):
    """The directories that this process holds, until the `with` block ends, or `close`.

    Example:
        >>> import tempfile
        >>> mine, other, directory = RunLocks(), RunLocks(), Path(tempfile.mkdtemp()) / "run"
        >>> mine.take(directory), other.take(directory)
        (True, False)
        >>> mine.close()
        >>> other.take(directory)
        True
        >>> other.close()
    """

    def take(self, directory: Path, *, waits: bool = False) -> bool:
        """Locks a directory, and makes it if need be.

        Returns:
            False where another process holds it, unless it `waits` until it is free.

        Raises:
            InvalidInput: its file system has no locks.
        """
        directory.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            file = opened.enter_context((directory / ".lock").open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                remedy = "Mount it with locks (for NFS without nolock), or choose another."
                allowed = f"to be on a file system with file locks ({error.strerror})"
                raise unexpected("--workdir", str(directory), allowed, remedy) from error
            self.push(opened.pop_all())
        return True


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Holds a directory's lock, after waiting for it."""
    with RunLocks() as locks:
        locks.take(directory, waits=True)
        yield


def first_written(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """Writes JSON unless another process has done so, and returns what the file holds."""
    with held(path.parent):
        written = read_json(path)
        if written is None:
            write_json(path, value)
    return written or value


@dataclasses.dataclass(frozen=True)
class Study:
    """A spec and the workdir that holds its members, those of earlier grids among them.

    Where several processes train one run, the workdir is that of process 0.
    """

    spec: RunSpec
    workdir: Path

    def primary(self) -> Metric:
        """Returns the metric that forks are compared by, as the workdir's study.json says."""
        study = read_json(self.workdir / "study.json")
        named = (metric for metric in study["metrics"] if metric["name"] == study["primary"])
        return Metric(**next(named))

    def at(self, setting: Setting) -> RunSpec:
        """Returns the spec of one setting."""
        return self.spec.at(setting)

    @functools.cached_property
    def _directories(self) -> dict[Member, Path]:
        return {}

    def directory(self, member: Member) -> Path:
        """Returns the directory of a member."""
        if member not in self._directories:
            self._directories[member] = self.workdir / members.directory(self.spec, member)
        return self._directories[member]

    def wanted_members(self) -> list[Member]:
        """Lists the members wanted by now; a search may want more once these have ended."""
        spec = self.spec
        if spec.fork.search == "all":
            return plan.members(spec)
        curves = itertools.product(spec.settings(), plan.curves(spec))
        return plan.members(spec, {curve: self._searched_cells(*curve) for curve in curves})

    def _searched_cells(self, setting: Setting, curve: Curve) -> list[Cell]:
        spec, scores = self.spec, {}
        for cell in itertools.product(spec.fork.epochs, spec.pruning.sparsities):
            forks = [
                run
                for seed in spec.train.seeds
                for run in plan.replicates(spec, setting, seed, cell, curve)
                if isinstance(run, Fork)
            ]
            statuses = set(self.statuses(forks))
            if "unfinished" not in statuses:
                scores[cell] = self._mean_score(forks) if statuses == {"finished"} else None
        return wanted_cells(spec.fork.epochs, spec.pruning.sparsities, scores, spec.fork.max_cells)

    def _mean_score(self, forks: Sequence[Fork]) -> float:
        """Averages the primary metric on validation, larger = better."""
        primary = self.primary()
        column = primary.column("validation")
        values = [self.records(fork).epochs()[-1][column] for fork in forks]
        return primary.sign * statistics.fmean(values)

    def records(self, member: Member) -> RunRecords:
        """Returns what a member has written."""
        return primary_only(RunRecords(self.directory(member)))

    def store(self, run: Run) -> CheckpointStore:
        """Returns a run's checkpoints."""
        return primary_only(CheckpointStore(self.directory(run) / "checkpoints"))

    def unended(self, planned: Iterable[Member]) -> list[Member]:
        """Keeps those that have no result yet."""
        return [member for member in planned if not self.records(member).has_ended()]

    def left(self, planned: Iterable[AnyMember]) -> list[AnyMember]:
        """Keeps those that another session would work on: without a result, failed, or skipped."""
        return [member for member in planned if self._is_left(member)]

    def _is_left(self, member: Member) -> bool:
        result = self.records(member).result()
        return result is None or result["status"] == "failed" or bool(result.get("for_now"))

    def statuses(self, planned: Iterable[Member]) -> list[str]:
        """Says how each has ended; unfinished where it has not."""
        results = (self.records(member).result() for member in planned)
        return ["unfinished" if result is None else result["status"] for result in results]

    def is_ready(self, member: Member) -> bool:
        """Tells whether what a member starts from is there."""
        if isinstance(member, Trunk):
            return True
        if isinstance(member, Comparison):
            return all(self.records(fork).has_ended() for fork in member.forks())
        trunk = trunk_of(member)
        if self.records(trunk).has_ended():
            return True
        # A fork need not wait for the end of its trunk, only for its checkpoint.
        return member.fork_epoch is not None and self.store(trunk).has(member.fork_epoch)

    def has_attempts(self, member: Member) -> bool:
        """Tells whether a process works on a member now, or has died working on it."""
        return self._attempts(member).is_file()

    def attempt(self, member: Member, num_epochs: int) -> int:
        """Notes that a member is begun with so many epochs on record.

        A count that grows while the epochs stay the same tells of a member that kills its process.

        Returns:
            How often it has been begun there, in a row.
        """
        last = read_json(self._attempts(member)) or {}
        count = last.get("count", 0) + 1 if last.get("num_epochs") == num_epochs else 1
        write_json(self._attempts(member), {"num_epochs": num_epochs, "count": count})
        return count

    def forget_attempts(self, member: Member) -> None:
        """Notes that a member was left in an orderly way."""
        self._attempts(member).unlink(missing_ok=True)

    def _attempts(self, member: Member) -> Path:
        return self.directory(member) / "attempts.json"

    def forget_failures(self, planned: Iterable[Member]) -> None:
        """Lets members run again that failed, or were skipped for want of one that failed.

        One that another process holds is left to it.
        """
        for member in self.left(planned):
            records = self.records(member)
            if records.has_ended():
                with RunLocks() as locks:
                    # Looked at again: another process may have finished it since.
                    if locks.take(records.directory) and self._is_left(member):
                        records.forget_result()


def free_bytes(workdir: Path) -> int:
    """Returns what is free on the disk that a workdir is on, or will be."""
    path = workdir.absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(existing).free


def wanted_cells(
    epochs: Sequence[int], sparsities: Sequence[float], scores: Scores, max_cells: int
) -> list[Cell]:
    """Returns the cells of all rounds that have ended, and of the next one.

    The first round takes every 2^k-th epoch and sparsity and the last of each, with k as large as
    leaves three. Each further round halves both strides: a row tried gets the epochs one stride
    beside its best. Between two neighbouring rows whose best epochs differ comes the one in the
    middle, at their best epochs and those between. With strides of 1, rounds go on until nothing
    new is asked for.

    Args:
        epochs: fork epochs that may be tried.
        sparsities: sparsities that may be tried.
        scores: what is known.
        max_cells: how many to try at most; 0 = no limit. The earliest rounds' come first.

    Returns:
        Cells in the order of the rounds, without repetition.

    Example:
        >>> first = wanted_cells((1, 2, 3, 4, 5), (0.5, 0.7, 0.9), {}, 0)
        >>> len(first), first[0]
        (9, (1, 0.5))
        >>> late_is_best = {cell: float(cell[0]) for cell in first}
        >>> wanted_cells((1, 2, 3, 4, 5), (0.5, 0.7, 0.9), late_is_best, 0)[9:]
        [(4, 0.5), (4, 0.7), (4, 0.9)]
    """
    if not epochs:
        return []
    columns, rows = sorted(epochs), sorted(sparsities)
    stride, row_stride = _coarse(len(columns)), _coarse(len(rows))
    asked: list[Cell] = [
        (columns[column], rows[row])
        for row in _every(row_stride, len(rows))
        for column in _every(stride, len(columns))
    ]
    while all(cell in scores for cell in asked) and not 0 < max_cells <= len(asked):
        stride, row_stride = max(1, stride // 2), max(1, row_stride // 2)
        # Row -> the column of its best epoch, the earliest of equals.
        best: dict[int, int] = {}
        for row, sparsity in enumerate(rows):
            tried = {e: scores[e, sparsity] for e in columns if (e, sparsity) in asked}
            if tried:
                ranks = {e: (score is not None, score or 0.0) for e, score in tried.items()}
                best[row] = columns.index(max(ranks, key=ranks.__getitem__))
        refined = [
            (column, row)
            for row in best
            for column in (best[row] - stride, best[row] + stride)
            if 0 <= column < len(columns)
        ]
        for low, high in itertools.pairwise(best):
            if high - low > 1 and best[low] != best[high]:
                first, last = sorted((best[low], best[high]))
                between = sorted({*range(first, last, stride), last})
                refined += [(column, (low + high) // 2) for column in between]
        cells = dict.fromkeys((columns[column], rows[row]) for column, row in refined)
        new = [cell for cell in cells if cell not in asked]
        if not new and stride == row_stride == 1:
            break
        asked += new
    return asked[:max_cells] if max_cells else asked


def _coarse(count: int) -> int:
    """Returns the largest power of two that leaves `FEWEST` points of so many, the last
    included."""
    stride = 1
    while len(_every(2 * stride, count)) >= min(FEWEST, count) and 2 * stride < count:
        stride *= 2
    return stride


def _every(stride: int, count: int) -> list[int]:
    return sorted({*range(0, count, stride), count - 1})
