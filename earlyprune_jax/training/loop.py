"""One run, trunk or fork: epochs trained, measured, saved and recorded, from where it stopped."""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from earlyprune_jax import pruning
from earlyprune_jax.records import RunRecords, flat
from earlyprune_jax.training import measurement, schedules
from earlyprune_jax.training.checkpoint import CheckpointError, CheckpointStore
from earlyprune_jax.training.engine import Engine, on_device
from earlyprune_jax.training.fork_rules import Training
from earlyprune_jax.training.measurement import Instrument, Sampling, Watcher
from earlyprune_jax.training.state import TrainState
from earlyprune_jax.training.steps import NEVER
from earlyprune_jax.triggers import Firing, Trigger

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
class Watch:
    """What is measured along a run, and the rule that may end it.

    Attributes:
        tools: the instruments.
        sampling: signal -> how much of it is measured.
        trigger: the run ends after the epoch at which this fires, if epochs are left to train.
    """

    tools: tuple[Instrument, ...]
    sampling: Mapping[str, Sampling]
    trigger: Trigger | None


NOT_WATCHED = Watch((), {}, None)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run's parts.

    Attributes:
        training: length, schedule, momentum.
        first_epoch: epochs of the trunk that lie behind the run's start; 0 for a trunk.
        initial: makes the state at the run's start.
        watch: what is measured after every epoch.
    """

    training: Training
    first_epoch: int
    initial: Callable[[], TrainState]
    watch: Watch
    save: SavePolicy


def train(
    engine: Engine, run: Run, records: RunRecords, store: CheckpointStore, report: Report
) -> dict[str, Any]:
    """Trains a run to its end and returns its result; an interrupted one goes on where it stopped.

    A run restarts at an epoch boundary from a saved state, and randomness is a function of
    (key, step): on one CPU machine a resumed run is bitwise equal to an uninterrupted one.

    Returns:
        {"status": "finished" | "diverged", "epoch", "step", "achieved_sparsity"}, and where a
        trigger ended the run "fired": {"epoch", "marked_epoch", "reason"}; also written to
        result.json. A run diverges at its first step with a non-finite loss, or at the last
        step of an epoch that leaves non-finite weights or evaluates to a non-finite loss; it
        stops there, and nothing of that epoch is kept.
    """
    store.discard_interrupted()
    state, done = _resume(engine, run, records, store)
    for _ in range(done):
        report(None)
    sparsity = pruning.sparsity(state.mask, engine.prunable)
    watcher = Watcher(
        engine, run.watch.tools, run.watch.sampling, lambda epoch: state_after(engine, run, store, epoch)
    )
    history = [flat(entry) for entry in records.epochs()]
    saved_at, firing = time.monotonic(), None
    for index in range(done, run.training.num_epochs):
        # Asked before an epoch, not after one: a run that was interrupted in between asks again.
        firing = run.watch.trigger(history) if run.watch.trigger and history else None
        if firing:
            break
        state, entry, diverged_step = _epoch(engine, run, watcher, state, index)
        if diverged_step != NEVER:
            return _finish(records, "diverged", entry["epoch"], diverged_step, sparsity)
        # Recorded first: a checkpoint that its records do not reach could not be resumed from.
        records.append(entry)
        history.append(flat(entry))
        is_last = index + 1 == run.training.num_epochs
        if is_last or time.monotonic() - saved_at >= run.save.seconds:
            _save(run, store, entry["epoch"], state)
            saved_at = time.monotonic()
        report(entry)
    return _finish(records, "finished", run.first_epoch + len(history), int(state.step), sparsity, firing)


def _epoch(
    engine: Engine, run: Run, watcher: Watcher, state: TrainState, index: int
) -> tuple[TrainState, dict[str, Any], int]:
    """Trains, evaluates and measures one epoch.

    Returns:
        The new state, the epoch's entry, and the step at which the run diverged or NEVER; of an
        epoch that diverged the entry holds no more than was known by then.
    """
    started = time.monotonic()
    rates = schedules.rates_of_epoch(run.training.schedule, index, engine.steps_per_epoch)
    state, trained, nonfinite_step = engine.train_epoch(state, rates)
    entry: dict[str, Any] = {"epoch": run.first_epoch + index + 1, "step": int(state.step)}
    entry["learning_rate"] = float(rates[-1])
    entry |= _named("train", trained) | {"train_seconds": time.monotonic() - started}
    if nonfinite_step != NEVER:
        return state, entry, nonfinite_step
    for split in ("validation", "test"):
        entry |= _named(split, engine.evaluate(state, split))
    if not all(math.isfinite(value) for value in entry.values() if value is not None):
        return state, entry, int(state.step) - 1
    if run.watch.tools:
        entry["signals"], entry["signal_seconds"] = watcher.measure(state, entry["epoch"])
    entry["seconds"] = time.monotonic() - started
    return state, entry, NEVER


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
        _save(run, store, found, state)
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


def _save(run: Run, store: CheckpointStore, epoch: int, state: TrainState) -> None:
    store.save(epoch, state)
    if run.save.keep is not None:
        compared = measurement.epochs_needed_after(epoch, run.watch.tools, run.watch.sampling)
        store.keep_only(run.save.keep | compared | {epoch})


def _named(prefix: str, measured: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}_{name}": measured[name] for name in ("loss", "accuracy")}


def _finish(
    records: RunRecords, status: str, epoch: int, step: int, sparsity: float, firing: Firing | None = None
) -> dict[str, Any]:
    result: dict[str, Any] = {"status": status, "epoch": epoch, "step": step, "achieved_sparsity": sparsity}
    if firing:
        result["fired"] = dataclasses.asdict(firing)
    records.finish(result)
    return result
