"""One process at work on a study: it takes what is ready and free, trains it, and looks again.

Several processes, on one machine or many, share a study by doing just this on the same workdir:
locks keep them apart, and what one leaves unfinished another goes on with.
"""

import dataclasses
import time
import traceback
from collections.abc import Collection
from functools import partial
from pathlib import Path

from earlyprune_jax.grid import claims, identity, plan
from earlyprune_jax.grid.agenda import agenda
from earlyprune_jax.grid.claims import Busy, Claim
from earlyprune_jax.grid.members import Comparison, Fork, Member, label, trunk_of
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import Trainer
from earlyprune_jax.grid.width import Widths
from earlyprune_jax.records import RunRecords
from earlyprune_jax.training.engine import engine_id
from earlyprune_jax.training.hosts import is_primary, on_primary, require_same_error

SHORTEST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
"""Seconds between looks while all that is left is held by others: doubled each time."""


@dataclasses.dataclass(frozen=True)
class Orders:
    """What one process is to do of a study.

    Attributes:
        only: directories of members; None = all.
        widths: with how many others of its shape a fork may train as one batch.
    """

    only: Collection[str] | None
    widths: Widths


def orders(
    trainer: Trainer, *, only: Collection[str] | None = None, asked_width: int = 0
) -> Orders:
    """Orders for a trainer, with batches of forks as wide as asked, or as this device likes
    them."""
    study = trainer.study
    num_forks = sum(isinstance(member, Fork) for member in plan.members(study.spec))
    widths = Widths(
        study.spec, trainer.engine, asked_width, num_forks, study.workdir / "fork_widths"
    )
    return Orders(None if only is None else frozenset(only), widths)


def work(trainer: Trainer, orders: Orders) -> None:
    """Trains until every member has ended, or until the trainer is told to stop.

    A member that raises is recorded as failed, with its reason; the others go on. So is a member at
    which one process after another dies without finishing an epoch. Where several processes train
    one run, process 0 looks and claims for all.
    """
    study = trainer.study
    pending = on_primary(partial(_pending, study, orders))
    pause = SHORTEST_PAUSE
    while pending and not trainer.talk.stop():
        claim = Claim()
        try:
            taken, pending = on_primary(partial(_take, study, pending, claim, orders))
            has_trained = bool(taken) and _train(
                trainer, orders, [(one, pending[one]) for one in taken]
            )
        finally:
            claim.release()
        if pending and not has_trained:
            # What is left is being trained by others, who may die; or needs something of theirs: it
            # waits.
            pending = _with_last(pending, taken)
            time.sleep(pause)
        pause = SHORTEST_PAUSE if has_trained else min(2 * pause, LONGEST_PAUSE)
        pending = pending or on_primary(partial(_pending, study, orders))


def _pending(study: Study, orders: Orders) -> dict[Member, Path]:
    """What has not ended, with its directory, in the order of the plan."""
    names = {member: identity.directory(study.spec, member) for member in agenda(study)}
    wanted = {
        member: name for member, name in names.items() if orders.only is None or name in orders.only
    }
    return {
        member: study.workdir / name
        for member, name in wanted.items()
        if not (study.workdir / name / "result.json").is_file()
    }


def _with_last(pending: dict[Member, Path], last: Collection[Member]) -> dict[Member, Path]:
    """The same in another order."""
    first = {member: directory for member, directory in pending.items() if member not in last}
    return first | pending


def _take(
    study: Study, pending: dict[Member, Path], claim: Claim, orders: Orders
) -> tuple[list[Member], dict[Member, Path]]:
    """Claims the first member that is ready and free, and others that may train with it.

    Returns:
        What is claimed, and what is pending without the members that have ended meanwhile.
    """
    pending = dict(pending)
    taken: list[Member] = []
    ready: dict[tuple[Member, ...], bool] = {}
    for member, directory in list(pending.items()):
        if (directory / "result.json").is_file():
            del pending[member]
            continue
        # One at which a process has died may be to blame: it trains alone.
        if taken and (claims.has_attempts(directory) or not _trains_with(study, taken[0], member)):
            continue
        if not _is_ready(study, member, ready) or not claim.take(directory):
            continue
        # Looked at before the lock was there: its last holder may have finished it in between.
        # Opening the directory asks the server of a network file system, where looking for one file
        # may not.
        if any(entry.name == "result.json" for entry in directory.iterdir()):
            continue
        taken.append(member)
        first = taken[0]
        if not isinstance(first, Fork) or claims.has_attempts(directory):
            break
        if len(taken) >= orders.widths.of(first):
            break
    return taken, pending


def _is_ready(study: Study, member: Member, known: dict[tuple[Member, ...], bool]) -> bool:
    """Whether what a member starts from is there; asked once a look for forks of one epoch."""
    if not isinstance(member, Fork):
        return study.is_ready(member)
    start = (trunk_of(member), dataclasses.replace(member, **_NO_CELL))
    if start not in known:
        known[start] = study.is_ready(member)
    return known[start]


_NO_CELL = {"criterion": "", "scope": "", "sparsity": 0.0, "rule": "", "replicate": 0}
"""What readiness does not depend on."""


def _trains_with(study: Study, first: Member, other: Member) -> bool:
    """Whether two forks are of one shape: network, data, and epochs left to train."""
    if not isinstance(first, Fork) or not isinstance(other, Fork):
        return False
    return _shape(study, first) == _shape(study, other)


def _shape(study: Study, fork: Fork) -> tuple[object, ...]:
    length = fork.num_epochs(study.at(fork.setting))
    trained = len(study.records(fork).epochs())
    return engine_id(study.at(fork.setting)), length - trained


def _train(trainer: Trainer, orders: Orders, taken: list[tuple[Member, Path]]) -> bool:
    """Trains what has been claimed; where a batch raises, its members one by one, to find the
    culprit.

    Returns:
        Whether something was done; not where what it needs was held by another process.
    """
    members = on_primary(
        lambda: [member for member, directory in taken if _may_try(trainer, member, directory)]
    )
    try:
        has_done = _train_members(trainer, orders, members)
        if has_done:
            trainer.talk.ended()
        return has_done
    finally:
        # Not by on_primary: an interrupted process has nobody to talk to.
        for _, directory in taken if is_primary() else ():
            claims.forget_attempts(directory)


def _train_members(trainer: Trainer, orders: Orders, members: list[Member]) -> bool:
    forks = [member for member in members if isinstance(member, Fork)]
    if len(forks) > 1:
        return _train_batch(trainer, orders, forks)
    return all(_train_alone(trainer, member) for member in members)


def _train_batch(trainer: Trainer, orders: Orders, members: list[Fork]) -> bool:
    first, reason = members[0], ""
    try:
        trainer.train(members, orders.widths.of(first))
        return True
    except Busy:
        pass
    except Exception as error:  # whatever one member raises must not stop the others
        # Its words only: through its traceback the error would hold all that the batch holds on the
        # device.
        reason = _one_line(error)
        trainer.talk.say(f"A batch of {len(members)} forks raised {reason} They train one by one.")
    has_done = [_train_alone(trainer, member) for member in trainer.study.unended(members)]
    if reason and all(has_done) and "failed" not in trainer.study.statuses(members):
        _narrow(trainer, orders, first)
    return all(has_done)


def _narrow(trainer: Trainer, orders: Orders, fork: Fork) -> None:
    """Each of its forks trains, and so the batch was too wide."""
    if not trainer.talk.stop():
        width = orders.widths.narrow(fork)
        name = trainer.study.at(fork.setting).model.name
        trainer.talk.say(f"Each did: batches of {name} are {width} wide from now on.")


def _one_line(error: Exception) -> str:
    return (
        f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(" .")
        + "."
    )


def _train_alone(trainer: Trainer, member: Member) -> bool:
    try:
        trainer.train([member])
    except Busy:
        return False
    except Exception as error:  # as in _train_batch
        require_same_error(error)
        details = "".join(traceback.format_exception(error))
        on_primary(partial(_fail, trainer, member, f"{type(error).__name__}: {error}", details))
    return True


def _may_try(trainer: Trainer, member: Member, directory: Path) -> bool:
    """Notes the attempt; where too many processes have died at this very point, the member has
    failed."""
    num_epochs = len(trainer.study.records(member).epochs())
    if claims.attempt(directory, num_epochs) <= claims.MOST_ATTEMPTS:
        return True
    where = f"after its epoch {num_epochs}" if num_epochs else "before its first epoch"
    _fail(trainer, member, f"{claims.MOST_ATTEMPTS} processes died one after another {where}", "")
    return False


def _fail(trainer: Trainer, member: Member, reason: str, details: str) -> None:
    records = trainer.study.records(member)
    if records.description() is None:
        first_epoch = getattr(member, "fork_epoch", 0)
        records.start(identity.described(trainer.study.spec, member, first_epoch, 0))
    (records.directory / "error.txt").write_text(details or reason)
    records.finish({"status": "failed", "reason": reason} | _failed_epoch(member, records))
    trainer.talk.say(f"{label(member)} failed: {reason}")


def _failed_epoch(member: Member, records: RunRecords) -> dict[str, int]:
    """The epoch in which a run failed; a comparison has none."""
    described = records.description()
    if isinstance(member, Comparison) or described is None:
        return {}
    return {"epoch": described["first_epoch"] + len(records.epochs()) + 1}
