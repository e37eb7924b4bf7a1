"""One run, trunk or fork: epochs trained, measured, saved and recorded, from where it stopped."""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

from earlyprune_jax import pruning
from earlyprune_jax.records import RunRecords
from earlyprune_jax.training import schedules
from earlyprune_jax.training.checkpoint import CheckpointError, CheckpointStore
from earlyprune_jax.training.engine import Engine, on_device
from earlyprune_jax.training.fork_rules import Training
from earlyprune_jax.training.state import TrainState
from earlyprune_jax.training.steps import NEVER

Report = Callable[[dict[str, Any] | None], None]
"""Called with every epoch's entry when it is finished; with None for one finished earlier."""


@dataclasses.dataclass(frozen=True)
class SavePolicy:
    """When a run's state is saved, and which saves stay.

    Attributes:
        seconds: the least time between saves; 0 = the initial state and every epoch. The last
            epoch is always saved.
        keep: epochs whose checkpoints stay beside the newest; None = all.
    """

    seconds: float
    keep: frozenset[int] | None


@dataclasses.dataclass(frozen=True)
class Run:
    """One run's parts.

    Attributes:
        training: length, schedule, momentum.
        first_epoch: epochs of the trunk that lie behind the run's start; 0 for a trunk.
        initial: makes the state at the run's start.
        measure: whether signals are measured after every epoch.
    """

    training: Training
    first_epoch: int
    initial: Callable[[], TrainState]
    measure: bool
    save: SavePolicy


def train(
    engine: Engine, run: Run, records: RunRecords, store: CheckpointStore, report: Report
) -> dict[str, Any]:
    """Trains a run to its end and returns its result; an interrupted one goes on where it stopped.

    A run restarts at an epoch boundary from a saved state, and randomness is a function of
    (key, step): on one CPU machine a resumed run is bitwise equal to an uninterrupted one.

    Returns:
        {"status": "finished" | "diverged", "epoch", "step", "achieved_sparsity"}; also written
        to result.json. A run diverges at its first step with a non-finite loss, or at the last
        step of an epoch that leaves non-finite weights or evaluates to a non-finite loss; it
        stops there, and nothing of that epoch is kept.
    """
    store.discard_interrupted()
    state, done = _resume(engine, run, records, store)
    for _ in range(done):
        report(None)
    sparsity = pruning.sparsity(state.mask, engine.prunable)
    saved_at = time.monotonic()
    for index in range(done, run.training.num_epochs):
        started, epoch = time.monotonic(), run.first_epoch + index + 1
        rates = schedules.rates_of_epoch(run.training.schedule, index, engine.steps_per_epoch)
        state, trained, nonfinite_step = engine.train_epoch(state, rates)
        if nonfinite_step != NEVER:
            return _finish(records, "diverged", epoch, nonfinite_step, sparsity)
        entry = {"epoch": epoch, "step": int(state.step), "learning_rate": float(rates[-1])}
        entry |= _named("train", trained)
        for split in ("validation", "test"):
            entry |= _named(split, engine.evaluate(state, split))
        if not all(math.isfinite(value) for value in entry.values() if value is not None):
            return _finish(records, "diverged", epoch, int(state.step) - 1, sparsity)
        if run.measure:
            entry["signals"] = engine.measure(state, epoch)
        entry["seconds"] = time.monotonic() - started
        # Recorded first: a checkpoint that its records do not reach could not be resumed from.
        records.append(entry)
        is_last = index + 1 == run.training.num_epochs
        if is_last or time.monotonic() - saved_at >= run.save.seconds:
            _save(run.save, store, epoch, state)
            saved_at = time.monotonic()
        report(entry)
    return _finish(records, "finished", run.first_epoch + run.training.num_epochs, int(state.step), sparsity)


def state_after(engine: Engine, run: Run, store: CheckpointStore, epoch: int) -> TrainState:
    """The state of a run after an epoch it has trained, from its checkpoint.

    Where that checkpoint is missing or damaged, the epochs since the newest sound one before
    it are trained again, to the same state, and saved.
    """
    state, found = _newest_sound(engine, run, store, epoch)
    for index in range(found - run.first_epoch, epoch - run.first_epoch):
        rates = schedules.rates_of_epoch(run.training.schedule, index, engine.steps_per_epoch)
        state, _, _ = engine.train_epoch(state, rates)
    if found != epoch:
        store.save(epoch, state)
    return state


def _resume(engine: Engine, run: Run, records: RunRecords, store: CheckpointStore) -> tuple[TrainState, int]:
    """The newest sound state that its records reach, and how many epochs it has behind it."""
    state, found = _newest_sound(engine, run, store, run.first_epoch + len(records.epochs()))
    records.truncate(found - run.first_epoch)
    if found == run.first_epoch and run.save.seconds == 0:
        _save(run.save, store, found, state)
    return state, found - run.first_epoch


def _newest_sound(engine: Engine, run: Run, store: CheckpointStore, latest: int) -> tuple[TrainState, int]:
    """The newest readable checkpoint up to an epoch, or the run's start; and its epoch."""
    for epoch in sorted(store.epochs(), reverse=True):
        if run.first_epoch <= epoch <= latest:
            try:
                return on_device(store.restore(epoch, engine.state_shapes())), epoch
            except CheckpointError as error:
                warnings.warn(f"{error} Going back to an older checkpoint.", stacklevel=2)
    return run.initial(), run.first_epoch


def _save(policy: SavePolicy, store: CheckpointStore, epoch: int, state: TrainState) -> None:
    store.save(epoch, state)
    if policy.keep is not None:
        store.keep_only(policy.keep | {epoch})


def _named(prefix: str, measured: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}_{name}": measured[name] for name in ("loss", "accuracy")}


def _finish(records: RunRecords, status: str, epoch: int, step: int, sparsity: float) -> dict[str, Any]:
    result = {"status": status, "epoch": epoch, "step": step, "achieved_sparsity": sparsity}
    records.finish(result)
    return result
