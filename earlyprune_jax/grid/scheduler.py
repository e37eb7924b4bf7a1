"""One process at work on a study: it takes what is ready and free, trains it, and looks again.

Several processes, on one machine or many, share a study by doing just this in the same workdir:
locks keep them apart, and what one leaves unfinished another goes on with.
"""

import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from earlyprune_jax import records, tasks
from earlyprune_jax.grid import locks, members, plan
from earlyprune_jax.grid.locks import Locked, RunLocks
from earlyprune_jax.grid.members import Comparison, Fork, Member, Trunk, label, trunk_of
from earlyprune_jax.grid.search import wanted_members
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import Trainer
from earlyprune_jax.spec import Setting
from earlyprune_jax.training import execution
from earlyprune_jax.training.engine import engine_id

SHORTEST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
"""Seconds between looks while all that is left is held by others: doubled each time."""


class Scope(NamedTuple):
    """Which part of a study a process takes.

    Attributes:
        trunks_only: dense runs, and nothing that starts from them.
        waits: stays while others train what is left, for they may die.
    """

    trunks_only: bool = False
    waits: bool = True


EVERYTHING = Scope()


def work(trainer: Trainer, *, asked_width: int = 0, scope: Scope = EVERYTHING) -> None:
    """Trains until every member has ended, or until the trainer is told to stop.

    A member that raises is recorded as failed, with its reason; the others go on. So is a member at
    which one process after another dies without finishing an epoch.

    Args:
        trainer: of the study.
        asked_width: forks trained as one batch; 0 = as this device likes them.
        scope: which members, and whether to wait for others.
    """
    study, batches = trainer.study, ForksPerBatch(trainer, asked_width)
    pending, pause = _pending(study, scope), SHORTEST_PAUSE
    while pending and not trainer.callbacks.stop():
        with RunLocks() as run_locks:
            taken, pending = _take(study, pending, run_locks, batches)
            has_trained = bool(taken) and _train(trainer, batches, taken)
        if has_trained:
            pause = SHORTEST_PAUSE
        elif pending and not scope.waits:
            return
        elif pending:
            # What is left is being trained by others, or needs something of theirs: it goes last.
            later = {member: pending.pop(member) for member in taken}
            pending |= later
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        pending = pending or _pending(study, scope)


class ForksPerBatch:
    """With how many forks of its shape a fork trains: as asked, one on CPU, else as measured here.

    Args:
        trainer: of the study; builds engines only where forks may train as one batch.
        asked: what the user has set. 0 = one fork where this backend trains forks one after
            another, else as many as was measured, with a few steps of throw-away runs per width.
    """

    def __init__(self, trainer: Trainer, asked: int):
        self._trainer, self._asked = trainer, asked
        planned = plan.members(trainer.study.spec)
        self._most = sum(isinstance(member, Fork) for member in planned)
        self._narrowed: dict[str, int] = {}

    def of(self, fork: Member) -> int:
        """Returns the width of a fork's batch, itself counted."""
        spec = self._trainer.study.at(fork.setting)
        # Several processes share the batches of one run.
        if self._asked == 1 or jax.process_count() > 1:
            return 1
        if not (self._asked or execution.batches_forks(jax.default_backend())):
            return 1
        # Where batches come in kinds, each run has an order of kinds of its own.
        if len(tasks.abstract(spec).batching.kinds) > 1:
            return 1
        width = self._asked or self._measured(fork.setting)
        return min(width, self._narrowed.get(engine_id(spec), width))

    def narrow(self, fork: Member) -> int:
        """Halves the batches of a network that did not fit, and returns their new width.

        A batch has equally many forks on every device; below one on each, forks train one by one.
        """
        num_devices = self._trainer.engine(fork.setting).fork_mesh.size
        half = self.of(fork) // 2
        width = max(half - half % num_devices, 1)
        self._narrowed[engine_id(self._trainer.study.at(fork.setting))] = width
        return width

    def _measured(self, setting: Setting) -> int:
        """Returns the width measured on this kind of device, by this process or an earlier one."""
        try:
            engine = self._trainer.engine(setting)
        except Exception:  # a network that cannot be built: the fork, trained alone, will say so
            return 1
        device, num_devices = jax.devices()[0].device_kind, engine.fork_mesh.size
        name = f"{engine_id(engine.spec)}_{members.slug(device)}_x{num_devices}.json"
        path = self._trainer.study.workdir / "fork_widths" / name
        known = records.read_json(path)
        # What was as wide as there were forks might have been wider.
        if known is None or known["width"] >= known["most"] < self._most:
            width = execution.measured_width(
                engine.step_seconds, self._most, multiple_of=num_devices
            )
            known = {"width": width, "most": self._most}
            path.parent.mkdir(exist_ok=True)
            records.write_json(path, known)
        return max(1, min(known["width"], self._most))


def _pending(study: Study, scope: Scope) -> dict[Member, Path]:
    """Returns what has not ended, with its directory, in the order of the plan."""
    directories = {
        member: study.directory(member)
        for member in wanted_members(study)
        if isinstance(member, Trunk) or not scope.trunks_only
    }
    return {member: path for member, path in directories.items() if not _has_ended(path)}


def _has_ended(directory: Path) -> bool:
    return (directory / "result.json").is_file()


def _take(
    study: Study, pending: dict[Member, Path], run_locks: RunLocks, batches: ForksPerBatch
) -> tuple[list[Member], dict[Member, Path]]:
    """Locks the first member that is ready and free, and others that may train with it.

    Returns:
        What is locked, and what is pending without the members that have ended meanwhile.
    """
    pending, taken = dict(pending), []
    ready: dict[Member | tuple[Trunk, int | None], bool] = {}
    for member, directory in list(pending.items()):
        if _has_ended(directory):
            del pending[member]
            continue
        # One at which a process has died may be to blame: it trains alone.
        is_suspect = locks.has_attempts(directory)
        if taken and (is_suspect or not _trains_with(study, taken[0], member)):
            continue
        # Forks of one epoch ask once per look.
        start = (trunk_of(member), member.fork_epoch) if isinstance(member, Fork) else member
        if start not in ready:
            ready[start] = study.is_ready(member)
        if not ready[start] or not run_locks.take(directory):
            continue
        # Looked at before the lock was there: its last holder may have finished it in between.
        # Opening the directory asks the server of a network file system, where looking for one file
        # may not.
        if any(entry.name == "result.json" for entry in directory.iterdir()):
            continue
        taken.append(member)
        if not isinstance(taken[0], Fork) or is_suspect or len(taken) >= batches.of(taken[0]):
            break
    return taken, pending


def _trains_with(study: Study, first: Member, other: Member) -> bool:
    """Tells whether two forks are of one shape: network, data, and epochs left to train."""
    if not isinstance(first, Fork) or not isinstance(other, Fork) or first.fork_epoch is None:
        return False
    specs = study.at(first.setting), study.at(other.setting)
    if engine_id(specs[0]) != engine_id(specs[1]):
        return False
    one, another = (
        fork.num_epochs(spec) - len(study.records(fork).epochs())
        for fork, spec in zip((first, other), specs, strict=True)
    )
    return one == another


def _train(trainer: Trainer, batches: ForksPerBatch, taken: Sequence[Member]) -> bool:
    """Trains what is locked; where a batch raises, its members one by one, to find the culprit.

    Returns:
        Whether something was done; not where another process held what it needs.
    """
    study, has_trained, problem = trainer.study, True, ""
    tried = [member for member in taken if _may_try(trainer, member)]
    groups = [tried] if tried else []
    try:
        while groups:
            group = groups.pop(0)
            try:
                trainer.train(group, batches.of(group[0]) if group[1:] else 1)
            except Locked:
                # Where it was a batch, its members ask again.
                has_trained = has_trained and len(group) > 1
            except Exception as error:  # whatever one member raises must not stop the others
                if not group[1:]:
                    details = "".join(traceback.format_exception(error))
                    _fail(trainer, group[0], f"{type(error).__name__}: {error}", details)
                else:
                    # Its words only: its traceback would hold all that the batch holds on the
                    # device.
                    words = str(error).partition("\n")[0]
                    problem = f"{type(error).__name__}: {words}".rstrip(" .:")
                    said = f"A batch of {len(group)} forks raised {problem}. They train one by one."
                    trainer.callbacks.say(said)
            if group[1:]:
                groups = [[member] for member in study.unended(group)]
        is_narrower = problem and has_trained and "failed" not in study.statuses(tried)
        if is_narrower and not trainer.callbacks.stop():
            width, name = batches.narrow(tried[0]), study.at(tried[0].setting).model.name
            trainer.callbacks.say(f"Each did: batches of {name} are {width} wide from now on.")
        return has_trained
    finally:
        for member in taken:
            locks.forget_attempts(study.directory(member))


def _may_try(trainer: Trainer, member: Member) -> bool:
    """Notes the attempt; a member at which too many processes have died has failed."""
    num_epochs = len(trainer.study.records(member).epochs())
    attempts = locks.attempt(trainer.study.directory(member), num_epochs)
    if attempts <= locks.MOST_ATTEMPTS:
        return True
    where = f"after its epoch {num_epochs}" if num_epochs else "before its first epoch"
    _fail(trainer, member, f"{locks.MOST_ATTEMPTS} processes died one after another {where}", "")
    return False


def _fail(trainer: Trainer, member: Member, reason: str, details: str) -> None:
    records_of = trainer.study.records(member)
    described = records_of.description()
    if described is None:
        first_epoch = getattr(member, "fork_epoch", None) or 0
        described = members.described(trainer.study.spec, member, first_epoch, 0)
        records_of.start(described)
    (records_of.directory / "error.txt").write_text(details or reason)
    result = {"status": "failed", "reason": reason}
    if not isinstance(member, Comparison):
        result |= {"epoch": described["first_epoch"] + len(records_of.epochs()) + 1}
    records_of.finish(result)
    where = f" (see {records_of.directory / 'error.txt'})" if details else ""
    trainer.callbacks.say(f"{label(member)} failed: {reason}{where}")
