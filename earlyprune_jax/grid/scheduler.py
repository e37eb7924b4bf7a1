"""One process at work on a study: it takes what is ready and free, trains it, and looks again.

Several processes, on one machine or many, share a study by doing just this in the same workdir:
locks keep them apart, and what one leaves unfinished another goes on with.
"""

import functools
import time
import traceback
from collections.abc import Sequence
from typing import NamedTuple

import jax

from earlyprune_jax import storage, tasks, user_code
from earlyprune_jax.grid import members, plan
from earlyprune_jax.grid.locks import Locked, RunLocks
from earlyprune_jax.grid.members import Comparison, Fork, Member, Trunk, label, trunk_of
from earlyprune_jax.grid.study import MOST_ATTEMPTS, Study
from earlyprune_jax.grid.trainer import Trainer
from earlyprune_jax.storage import StorageError, UnusableFile
from earlyprune_jax.training import clock
from earlyprune_jax.training.engine import engine_id

SHORTEST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
"""Seconds between looks while all that is left is held by others: doubled each time."""

FORKS_PER_DEVICE = 32
"""So many forks at most train as one batch on each accelerator, unless the user asks for more."""


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
        asked_width: forks trained as one batch; 0 = one on CPU, else as many as there are, up to
            `FORKS_PER_DEVICE`.
        scope: which members, and whether to wait for others.
    """
    study, widths = trainer.study, Widths(trainer.study, asked_width)
    pending, pause = pending_members(study, scope), SHORTEST_PAUSE
    while pending and not trainer.callbacks.stop():
        with RunLocks() as run_locks, clock.telling(functools.partial(_tell_compiling, trainer)):
            taken = _take(trainer, pending, run_locks, widths)
            has_trained = bool(taken) and _train(trainer, widths, taken)
        if has_trained:
            pause = SHORTEST_PAUSE
        elif pending and not scope.waits:
            return
        elif pending:
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            # What is left is being trained by others, or needs something of theirs: it goes last.
            # Listed anew, for what had ended may be lost: a trunk that forks still need.
            pending = sorted(pending_members(study, scope), key=taken.__contains__)
        pending = pending or pending_members(study, scope)


def _tell_compiling(trainer: Trainer, function: str, is_over: bool) -> None:
    # Steps take long; the functions of a few operations that JAX compiles besides do not.
    if "_step" in function:
        trainer.callbacks.do("" if is_over else f"compiling {function}")


def pending_members(study: Study, scope: Scope) -> list[Member]:
    """Lists what a process may take and what has not ended, in the order of the plan."""
    wanted = study.wanted_members()
    return study.unended(
        member for member in wanted if isinstance(member, Trunk) or not scope.trunks_only
    )


class Widths:
    """How many forks train as one batch: as asked, or as the device likes it.

    Args:
        study: whose forks.
        asked: what the user has set; 0 as of `work`.
    """

    def __init__(self, study: Study, asked: int):
        self._study, self._asked = study, asked
        num_forks = sum(isinstance(member, Fork) for member in plan.members(study.spec))
        self._automatic = min(num_forks, FORKS_PER_DEVICE * jax.local_device_count())
        # On CPU several forks as one batch are 4 to 11 times slower than one after another.
        if jax.default_backend() == "cpu":
            self._automatic = 1
        self._narrowed: dict[str, int] = {}

    def of(self, fork: Member) -> int:
        """Returns the width of a fork's batch, itself counted."""
        width, spec = self._asked or self._automatic, self._study.at(fork.setting)
        # Several processes share the batches of one run; where batches come in kinds, each run has
        # an order of kinds of its own.
        if width <= 1 or jax.process_count() > 1 or len(tasks.abstract(spec).batching.kinds) > 1:
            return 1
        return min(width, self._narrowed.get(engine_id(spec), width))

    def narrow(self, fork: Member, width: int) -> None:
        """Has batches of a fork's network be so wide at most."""
        self._narrowed[engine_id(self._study.at(fork.setting))] = width


def _take(
    trainer: Trainer, pending: list[Member], run_locks: RunLocks, widths: Widths
) -> list[Member]:
    """Locks the first member that is ready and free, and others that may train with it.

    Members that have ended meanwhile are removed from what is pending; damaged records of those
    that are taken are set aside.
    """
    study, taken = trainer.study, list[Member]()
    shape = None
    ready: dict[Member | tuple[Trunk, int | None], bool] = {}
    for member in tuple(pending):
        directory = study.directory(member)
        if study.records(member).has_ended():
            pending.remove(member)
            continue
        # One at which a process has died may be to blame: it trains alone.
        is_suspect = study.records(member).has_attempts()
        if taken and (is_suspect or _shape(study, member) != shape):
            continue
        # Forks of one epoch ask once per look.
        start = (trunk_of(member), member.fork_epoch) if isinstance(member, Fork) else member
        if start not in ready:
            ready[start] = study.is_ready(member)
        if not ready[start] or not run_locks.take(directory):
            continue
        storage.clean(directory, is_held=True)
        # Looked at before the lock was there: its last holder may have finished it in between.
        # Opening the directory asks the server of a network file system, where looking for one file
        # may not.
        with storage.using(directory):
            has_ended = any(entry.name == "result.json" for entry in directory.iterdir())
        if has_ended:
            storage.refuse_foreign(directory / "result.json")
            continue
        study.mend(member, trainer.callbacks.say)
        taken.append(member)
        shape = shape or _shape(study, member)
        if shape is None or is_suspect or len(taken) >= widths.of(taken[0]):
            break
    return taken


def _shape(study: Study, member: Member) -> tuple[str, int] | None:
    """Returns what forks that train as one batch have in common: network and data, and the epochs
    left to train; None for what trains alone."""
    if not isinstance(member, Fork) or member.fork_epoch is None:
        return None
    spec = study.at(member.setting)
    return engine_id(spec), member.num_epochs(spec) - study.records(member).num_sound()


def _train(trainer: Trainer, widths: Widths, taken: Sequence[Member]) -> bool:
    """Trains what is locked; a batch that raises is tried again at half its width, down to 1.

    Returns:
        Whether it has trained; not where another process held what it needs.
    """
    has_failed, left = False, [member for member in taken if _may_try(trainer, member)]
    width = most = widths.of(left[0]) if left[1:] else 1
    try:
        while left:
            group = left[:width]
            try:
                trainer.train(group, width if group[1:] else 1)
                left = left[width:]
            except Locked:
                return False
            except (StorageError, UnusableFile):
                raise  # Nor could it be written down that the member has failed.
            except BaseException as error:  # whatever one member raises must not stop the others
                user_code.let_interrupts_through(error)
                if group[1:]:
                    # Equally many on every device; below one on each, forks train one by one.
                    width = max(width // 2 - width // 2 % jax.local_device_count(), 1)
                    left = trainer.study.unended(left)
                    # Its words only: its traceback would hold all that the batch holds on the
                    # device.
                    words = user_code.words(error).partition("\n")[0].rstrip(" .:")
                    said = f"A batch of {len(group)} forks raised {words}."
                    trainer.callbacks.say(f"{said} Batches of {width} are tried.")
                else:
                    has_failed, left = True, left[1:]
                    details = "".join(traceback.format_exception(error))
                    _fail(trainer, group[0], user_code.words(error), details)
        # Where a member fails alone, the batch has failed for its sake, not for want of memory.
        if width < most and not has_failed:
            widths.narrow(taken[0], width)
        return True
    finally:
        for member in taken:
            trainer.study.records(member).forget_attempts()


def _may_try(trainer: Trainer, member: Member) -> bool:
    """Notes the attempt; a member at which too many processes have died has failed."""
    run = trainer.study.records(member)
    num_epochs = run.num_sound()
    if run.attempt(num_epochs) <= MOST_ATTEMPTS:
        return True
    where = f"after its epoch {num_epochs}" if num_epochs else "before its first epoch"
    _fail(trainer, member, f"{MOST_ATTEMPTS} processes died one after another {where}", "")
    return False


def _fail(trainer: Trainer, member: Member, reason: str, details: str) -> None:
    records_of = trainer.study.records(member)
    described = records_of.description()
    if described is None:
        first_epoch = getattr(member, "fork_epoch", None) or 0
        described = members.described(trainer.study.spec, member, first_epoch, 0)
        records_of.start(described)
    written = (details or reason).encode(errors="backslashreplace")
    storage.replace_file(records_of.directory / "error.txt", written)
    result = {"status": "failed", "reason": reason}
    if not isinstance(member, Comparison):
        result |= {"epoch": described["first_epoch"] + records_of.num_sound() + 1}
    records_of.finish(result)
    where = f" (see {records_of.directory / 'error.txt'})" if details else ""
    trainer.callbacks.say(f"{label(member)} failed: {reason}{where}")
    trainer.callbacks.end(label(member), result)
