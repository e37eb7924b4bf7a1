"""Runs, trunks or forks: epochs trained, measured, saved and recorded, from where they stopped."""

import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from earlyprune_jax import pruning
from earlyprune_jax.records import RunRecords, flat
from earlyprune_jax.training import measurement
from earlyprune_jax.training.checkpoint import CheckpointError, CheckpointStore
from earlyprune_jax.training.engine import Engine, EpochOutcome, Means
from earlyprune_jax.training.measurement import Instrument, Watcher
from earlyprune_jax.training.retraining import Training
from earlyprune_jax.training.schedules import rates_of_epoch
from earlyprune_jax.training.state import NEVER, TrainState
from earlyprune_jax.triggers import Trigger

FIRST_GUESS_SECONDS = 0.3
"""What a run's first save is taken to last."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One run's parts.

    Attributes:
        training: length, schedule, momentum.
        first_epoch: epochs of the trunk that lie behind the run's start; 0 for a trunk.
        initial: makes the state at the run's start.
        prunable: the structure of the params with Python bools: of what the sparsity is achieved.
        records: where its epochs and its end are written.
        store: where its checkpoints are.
        report: called with every epoch's entry when it is finished.
        instruments: what is measured after every epoch.
        trigger: the run ends after the epoch at which this fires, if epochs are left to train.
        save_share: the part of the time that saves may take; None = the initial state and every
            epoch are saved, whatever that costs. The last epoch is always saved.
        kept: epochs whose checkpoints stay beside the newest; None = all.
    """

    training: Training
    first_epoch: int
    initial: Callable[[], TrainState]
    prunable: Any
    records: RunRecords
    store: CheckpointStore
    report: Callable[[dict[str, Any]], None]
    instruments: tuple[Instrument, ...] = ()
    trigger: Trigger | None = None
    save_share: float | None = None
    kept: frozenset[int] | None = None


def train(
    engine: Engine,
    runs: Sequence[Run],
    stop: Callable[[], bool] = lambda: False,
    width: int = 1,
) -> None:
    """Trains runs of one shape to their ends, side by side; an interrupted one goes on where it
    stopped.

    A run restarts at an epoch boundary from a saved state, and randomness is a function of
    (key, step): trained alone on one CPU machine a resumed run is bitwise equal to an uninterrupted
    one.

    How a run ended is written to its result.json: {"status": "finished" | "diverged", "epoch",
    "step", "achieved_sparsity"}, and where a trigger ended it "fired": {"epoch", "marked_epoch",
    "reason"}. A run diverges at its first step with a non-finite loss, or at the last step of an
    epoch that leaves non-finite weights or evaluates to a metric that is not finite, of the host
    too; it stops there, and nothing of that epoch is kept. The others go on.

    Args:
        engine: of the runs' network and data.
        runs: one, or several if the backend is to train them as one batch.
        stop: asked before every epoch; where it says yes all runs are saved and stay unfinished.
        width: of the batch they make, which stays the same when some end before the others.
    """
    live = [_Progress(engine, run) for run in runs]
    current = engine.stack([progress.resume() for progress in live], width)
    while going := [index for index, progress in enumerate(live) if not progress.ended()]:
        if len(going) < len(live):
            current = engine.stack([engine.state_of(current, index) for index in going], width)
            live = [live[index] for index in going]
        if stop():
            for index, progress in enumerate(live):
                progress.save(functools.partial(engine.state_of, current, index))
            return
        started = time.monotonic()
        rates = np.stack([progress.rates() for progress in live])
        current, outcomes = engine.train_epoch(current, rates)
        # The runs of a stack share its time.
        train_seconds = (time.monotonic() - started) / len(live)
        evaluated = {split: engine.evaluate(current, split) for split in ("validation", "test")}
        seconds = (time.monotonic() - started) / len(live)
        for index, (progress, outcome) in enumerate(zip(live, outcomes, strict=True)):
            entry = _named("train", outcome.means) | {"train_seconds": train_seconds}
            for split, means in evaluated.items():
                entry |= _named(split, means[index])
            state = functools.partial(engine.state_of, current, index)
            progress.record(state, outcome, entry, seconds)


class _Progress:
    """How far one run is: its epochs on record, its last save, and how it ends."""

    def __init__(self, engine: Engine, run: Run):
        self.engine, self.run = engine, run
        self.history: list[dict[str, Any]] = []
        self.sparsity = 0.0
        self.diverged: dict[str, int] = {}
        self.saved_epoch = -1
        self.unsaved_seconds, self.save_seconds = 0.0, FIRST_GUESS_SECONDS
        self.watcher = Watcher(run.instruments, functools.partial(state_after, engine, run))

    def resume(self) -> TrainState:
        """Returns the newest sound state that the run's records reach."""
        run = self.run
        run.store.discard_interrupted()
        latest = run.first_epoch + len(run.records.epochs())
        state, epoch, is_saved = _newest_sound(self.engine, run, latest)
        run.records.truncate(epoch - run.first_epoch)
        self.history = [flat(entry) for entry in run.records.epochs()]
        self.sparsity = pruning.sparsity(state.mask, run.prunable)
        if is_saved or run.save_share is not None:
            self.saved_epoch = epoch
        else:
            self.save(lambda: state)
        return state

    @property
    def epoch(self) -> int:
        """The last epoch on record."""
        return self.run.first_epoch + len(self.history)

    @property
    def step(self) -> int:
        """Training steps behind that epoch, counted from the start of the trunk."""
        return self.epoch * self.engine.steps_per_epoch

    def rates(self) -> np.ndarray:
        """Returns the learning rates of the next epoch."""
        index, steps_per_epoch = len(self.history), self.engine.steps_per_epoch
        return rates_of_epoch(self.run.training.schedule, index, steps_per_epoch)

    def ended(self) -> bool:
        """Tells whether no epoch is left to train; if so, how it ended is written down."""
        run, result = self.run, {"status": "diverged", **self.diverged}
        if not self.diverged:
            result = {"status": "finished", "epoch": self.epoch, "step": self.step}
            if len(self.history) < run.training.num_epochs:
                # Asked before an epoch, not after one: an interrupted run asks again.
                firing = run.trigger(self.history) if run.trigger and self.history else None
                if firing is None:
                    return False
                result["fired"] = dataclasses.asdict(firing)
        run.records.finish(result | {"achieved_sparsity": self.sparsity})
        return True

    def record(
        self,
        state: Callable[[], TrainState],
        outcome: EpochOutcome,
        measured: Mapping[str, Any],
        seconds: float,
    ) -> None:
        """Writes down one epoch, unless the run has diverged in it, and saves the state if due.

        Args:
            state: gives the state after the epoch.
            outcome: of its training.
            measured: the metrics of every split, and the time its training took.
            seconds: what training and evaluation took.
        """
        started = time.monotonic()
        epoch, last = self.epoch + 1, self.run.first_epoch + self.run.training.num_epochs
        step = self.step + self.engine.steps_per_epoch
        entry: dict[str, Any] = {"epoch": epoch, "step": step}
        entry["learning_rate"] = float(self.rates()[-1])
        entry |= measured
        nonfinite_step = outcome.nonfinite_step
        if nonfinite_step == NEVER:
            entry |= self.engine.measure_on_host(state(), epoch, last)
            if not all(math.isfinite(value) for value in entry.values() if value is not None):
                nonfinite_step = step - 1
        if nonfinite_step != NEVER:
            self.diverged = {"epoch": epoch, "step": nonfinite_step}
            return
        if self.run.instruments:
            entry["signals"], entry["signal_seconds"] = self.watcher.measure(state(), epoch)
        entry["seconds"] = seconds + time.monotonic() - started
        # Recorded before it is saved: a checkpoint that its records do not reach could not be
        # resumed from. Processes that train as one go on with what the first of them has written,
        # for times differ, and the numbers that each works out for itself may.
        entry = self.run.records.append(entry)
        self.history.append(flat(entry))
        self.unsaved_seconds += entry["seconds"]
        share = self.run.save_share
        if epoch == last or share is None or share * self.unsaved_seconds >= self.save_seconds:
            self.save(state)
        self.run.report(entry)

    def save(self, state: Callable[[], TrainState]) -> None:
        """Saves the state after the last epoch on record, unless that is done."""
        run, epoch = self.run, self.epoch
        if self.saved_epoch == epoch:
            return
        self.save_seconds = run.store.save(epoch, state())
        self.saved_epoch, self.unsaved_seconds = epoch, 0.0
        if run.kept is not None:
            compared = measurement.epochs_needed_after(epoch, run.instruments)
            run.store.keep_only(run.kept | compared | {epoch})


def state_after(engine: Engine, run: Run, epoch: int) -> TrainState:
    """Returns the state of a run after an epoch it has trained, from its checkpoint.

    Where that checkpoint is missing or damaged, the epochs since the newest sound one before
    it are trained again, to the same state, and saved.

    Args:
        engine: of the run's network and data.
        run: the run.
        epoch: counted from the trunk's start.

    Returns:
        The state, on the engine's devices.
    """
    state, start, is_saved = _newest_sound(engine, run, epoch)
    for index in range(start - run.first_epoch, epoch - run.first_epoch):
        rates = rates_of_epoch(run.training.schedule, index, engine.steps_per_epoch)
        state, _ = engine.train_epoch(state, rates)
    if start != epoch or not is_saved:
        run.store.save(epoch, state)
    return state


def _newest_sound(engine: Engine, run: Run, latest: int) -> tuple[TrainState, int, bool]:
    """Finds the newest readable checkpoint up to an epoch, or the run's start; its epoch; whether
    it is saved."""
    for epoch in sorted(run.store.epochs(), reverse=True):
        if run.first_epoch <= epoch <= latest:
            try:
                return engine.place(run.store.restore(epoch, engine.state_shapes())), epoch, True
            except CheckpointError as error:
                warnings.warn(f"{error} Going back to an older checkpoint.", stacklevel=2)
    return run.initial(), run.first_epoch, False


def _named(prefix: str, measured: Means) -> dict[str, Any]:
    return {f"{prefix}_{name}": value for name, value in measured.items()}
