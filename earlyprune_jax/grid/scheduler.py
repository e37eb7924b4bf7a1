"""One process at work on a study: it takes what is ready and free, trains it, and looks again.

Several processes, on one machine or many, share a study by doing just this in the same workdir:
locks keep them apart, and what one leaves unfinished another goes on with.
"""

import time
import traceback
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from earlyprune_jax.grid import identity, locks, plan
from earlyprune_jax.grid.forks_per_batch import ForksPerBatch
from earlyprune_jax.grid.locks import Locked, RunLocks
from earlyprune_jax.grid.members import Comparison, Fork, Member, Trunk, label, trunk_of
from earlyprune_jax.grid.search import wanted_members
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import Trainer
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
    study = trainer.study
    num_forks = sum(isinstance(member, Fork) for member in plan.members(study.spec))
    widths_folder = study.workdir / "fork_widths"
    batches = ForksPerBatch(study.spec, trainer.engine, asked_width, num_forks, widths_folder)
    pending, pause = _pending(study, scope), SHORTEST_PAUSE
    while pending and not trainer.callbacks.stop():
        run_locks = RunLocks()
        try:
            taken, pending = _take(study, pending, run_locks, batches)
            has_trained = bool(taken) and _train(trainer, batches, taken)
        finally:
            run_locks.release()
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


def _pending(study: Study, scope: Scope) -> dict[Member, Path]:
    """Returns what has not ended, with its directory, in the order of the plan."""
    members = wanted_members(study)
    if scope.trunks_only:
        members = [member for member in members if isinstance(member, Trunk)]
    directories = {member: study.directory(member) for member in members}
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
    ready: dict[tuple[Trunk, int], bool] = {}
    for member, directory in list(pending.items()):
        if _has_ended(directory):
            del pending[member]
            continue
        # One at which a process has died may be to blame: it trains alone.
        is_suspect = locks.has_attempts(directory)
        if taken and (is_suspect or not _trains_with(study, taken[0], member)):
            continue
        if not _is_ready(study, member, ready) or not run_locks.take(directory):
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


def _is_ready(study: Study, member: Member, known: dict[tuple[Trunk, int], bool]) -> bool:
    """Tells whether what a member starts from is there; forks of one epoch ask once per look."""
    if not isinstance(member, Fork):
        return study.is_ready(member)
    start = (trunk_of(member), member.fork_epoch)
    if start not in known:
        known[start] = study.is_ready(member)
    return known[start]


def _trains_with(study: Study, first: Member, other: Member) -> bool:
    """Tells whether two forks are of one shape: network, data, and epochs left to train."""
    if not isinstance(first, Fork) or not isinstance(other, Fork):
        return False
    first_spec, other_spec = study.at(first.setting), study.at(other.setting)
    if engine_id(first_spec) != engine_id(other_spec):
        return False
    left = [
        fork.num_epochs(spec) - len(study.records(fork).epochs())
        for fork, spec in ((first, first_spec), (other, other_spec))
    ]
    return left[0] == left[1]


def _train(trainer: Trainer, batches: ForksPerBatch, taken: Collection[Member]) -> bool:
    """Trains what is locked; where a batch raises, its members one by one, to find the culprit.

    Returns:
        Whether something was done; not where another process held what it needs.
    """
    study = trainer.study
    members = [member for member in taken if _may_try(trainer, member)]
    try:
        problem = _train_batch(trainer, batches, members) if len(members) > 1 else ""
        has_trained = True
        for member in study.unended(members) if len(members) > 1 else members:
            try:
                if isinstance(member, Trunk):
                    trainer.train_dense(member)
                elif isinstance(member, Comparison):
                    trainer.compare(member)
                else:
                    trainer.prune_and_retrain([member])
            except Locked:
                has_trained = False
            except Exception as error:  # whatever one member raises must not stop the others
                details = "".join(traceback.format_exception(error))
                _fail(trainer, member, f"{type(error).__name__}: {error}", details)
        if problem and has_trained and "failed" not in study.statuses(members):
            _narrow(trainer, batches, members[0])
        if has_trained:
            trainer.callbacks.ended()
        return has_trained
    finally:
        for member in taken:
            locks.forget_attempts(study.directory(member))


def _train_batch(trainer: Trainer, batches: ForksPerBatch, members: Sequence[Member]) -> str:
    """Trains forks as one batch, and returns what it raised, if anything but `Locked`."""
    try:
        forks = [member for member in members if isinstance(member, Fork)]
        trainer.prune_and_retrain(forks, batches.of(forks[0]))
    except Locked:
        pass
    except Exception as error:  # as in _train
        # Its words only: its traceback would hold all that the batch holds on the device.
        line = str(error).partition("\n")[0]
        problem = f"{type(error).__name__}: {line}".rstrip(" .:")
        said = f"A batch of {len(members)} forks raised {problem}. They train one by one."
        trainer.callbacks.say(said)
        return problem
    return ""


def _narrow(trainer: Trainer, batches: ForksPerBatch, fork: Member) -> None:
    """Halves the batches of a network whose forks train one by one, but not together."""
    if not trainer.callbacks.stop():
        width, name = batches.narrow(fork), trainer.study.at(fork.setting).model.name
        trainer.callbacks.say(f"Each did: batches of {name} are {width} wide from now on.")


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
    records = trainer.study.records(member)
    described = records.description()
    if described is None:
        first_epoch = getattr(member, "fork_epoch", 0)
        described = identity.described(trainer.study.spec, member, first_epoch, 0)
        records.start(described)
    (records.directory / "error.txt").write_text(details or reason)
    result = {"status": "failed", "reason": reason}
    if not isinstance(member, Comparison):
        result |= {"epoch": described["first_epoch"] + len(records.epochs()) + 1}
    records.finish(result)
    where = f" (see {records.directory / 'error.txt'})" if details else ""
    trainer.callbacks.say(f"{label(member)} failed: {reason}{where}")
