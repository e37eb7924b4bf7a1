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
from earlyprune_jax.training import cohort as cohorts
from earlyprune_jax.training import measurement, schedules
from earlyprune_jax.training.checkpoint import CheckpointError, CheckpointStore
from earlyprune_jax.training.cohort import Cohort
from earlyprune_jax.training.engine import Engine, EpochOutcome, Means
from earlyprune_jax.training.measurement import Instrument, Sampling, Watcher
from earlyprune_jax.training.multihost import on_primary
from earlyprune_jax.training.retraining import Training
from earlyprune_jax.training.state import TrainState
from earlyprune_jax.training.steps import NEVER
from earlyprune_jax.triggers import Trigger

Report = Callable[[dict[str, Any] | None], None]
"""Called with every epoch's entry when it is finished; with None for one finished earlier."""


@dataclasses.dataclass(frozen=True)
class SavePolicy:
    """When a run's state is saved, and which saves stay.

    Attributes:
        share: the part of the time that saves may take; None = the initial state and every epoch
            are saved, whatever that costs. The last epoch is always saved.
        keep: epochs whose checkpoints stay beside the newest; None = all.
    """

    share: float | None
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


FIRST_GUESS_SECONDS = 0.3
"""What a run's first save is taken to last."""

NOT_WATCHED = Watch((), {}, None)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run's parts.

    Attributes:
        training: length, schedule, momentum.
        first_epoch: epochs of the trunk that lie behind the run's start; 0 for a trunk.
        initial: makes the state at the run's start.
        watch: what is measured after every epoch.
        save: when its state is saved.
        records: where its epochs and its end are written.
        store: where its checkpoints are.
        report: called after every epoch.
        prunable: the structure of the params with Python bools: of what the sparsity is achieved.
    """

    training: Training
    first_epoch: int
    initial: Callable[[], TrainState]
    prunable: Any
    watch: Watch
    save: SavePolicy
    records: RunRecords
    store: CheckpointStore
    report: Report


def never() -> bool:
    """A `stop` that lets every run reach its end."""
    return False


def train(
    engine: Engine, runs: Sequence[Run], stop: Callable[[], bool] = never, width: int = 1
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
    cohort = cohorts.make(engine, [one.resume() for one in live], width)
    while True:
        going = [index for index, one in enumerate(live) if not one.ended()]
        if not going:
            return
        if len(going) < len(live):
            states = [cohort.state(index) for index in going]
            live, cohort = [live[index] for index in going], cohorts.make(engine, states, width)
        if stop():
            for index, one in enumerate(live):
                one.save(functools.partial(cohort.state, index))
            return
        _train_epoch(cohort, live)


def _train_epoch(cohort: Cohort, live: Sequence["_Progress"]) -> None:
    """Trains, evaluates and measures every run for one epoch, and records it."""
    started = time.monotonic()
    trained = cohort.train_epoch([one.rates() for one in live])
    train_seconds = (time.monotonic() - started) / len(live)
    measured = {split: cohort.evaluate(split) for split in ("validation", "test")}
    # The runs of a batch share its time.
    seconds = (time.monotonic() - started) / len(live)
    for index, (one, epoch) in enumerate(zip(live, trained, strict=True)):
        evaluated = {split: means[index] for split, means in measured.items()}
        one.record(functools.partial(cohort.state, index), epoch, evaluated, train_seconds, seconds)


class _Progress:
    """How far one run is: its epochs on record, its last save, and how it ends."""

    def __init__(self, engine: Engine, run: Run):
        self.engine, self.run = engine, run
        self.history: list[dict[str, Any]] = []
        self.sparsity = 0.0
        self.diverged: tuple[int, int] | None = None
        self.saved_epoch = -1
        self.unsaved_seconds, self.save_seconds = 0.0, FIRST_GUESS_SECONDS
        self.watcher = Watcher(
            engine,
            run.watch.tools,
            run.watch.sampling,
            lambda epoch: state_after(engine, run, epoch),
        )

    def resume(self) -> TrainState:
        """The newest sound state that the run's records reach."""
        run = self.run
        run.store.discard_interrupted()
        latest = run.first_epoch + len(run.records.epochs())
        state, found, is_saved = _newest_sound(self.engine, run, latest)
        run.records.truncate(found - run.first_epoch)
        if not is_saved and run.save.share is None:
            _save(run, found, state)
        self.history = [flat(entry) for entry in run.records.epochs()]
        self.sparsity = pruning.sparsity(state.mask, run.prunable)
        self.saved_epoch = found
        for _ in self.history:
            run.report(None)
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
        """The learning rates of the next epoch."""
        return schedules.rates_of_epoch(
            self.run.training.schedule, len(self.history), self.engine.steps_per_epoch
        )

    def ended(self) -> bool:
        """Whether no epoch is left to train; if so, how it ended is written down."""
        if self.diverged:
            epoch, step = self.diverged
            self._finish({"status": "diverged", "epoch": epoch, "step": step})
            return True
        firing = None
        if len(self.history) < self.run.training.num_epochs:
            # Asked before an epoch, not after one: a run that was interrupted in between asks
            # again.
            trigger = self.run.watch.trigger
            firing = trigger(self.history) if trigger and self.history else None
            if firing is None:
                return False
        fired = {"fired": dataclasses.asdict(firing)} if firing else {}
        self._finish({"status": "finished", "epoch": self.epoch, "step": self.step}, fired)
        return True

    def _finish(self, result: dict[str, Any], fired: dict[str, Any] | None = None) -> None:
        self.run.records.finish(result | {"achieved_sparsity": self.sparsity} | (fired or {}))

    def record(
        self,
        state: Callable[[], TrainState],
        trained: EpochOutcome,
        evaluated: dict[str, Means],
        train_seconds: float,
        seconds: float,
    ) -> None:
        """Writes down one epoch, unless the run has diverged in it."""
        after = self.step + self.engine.steps_per_epoch
        entry: dict[str, Any] = {"epoch": self.epoch + 1, "step": after}
        entry["learning_rate"] = float(self.rates()[-1])
        entry |= _named("train", trained.means) | {"train_seconds": train_seconds}
        for split, means in evaluated.items():
            entry |= _named(split, means)
        step = trained.nonfinite_step
        if step == NEVER and self.engine.task.host:
            last = self.run.first_epoch + self.run.training.num_epochs
            entry |= self.engine.measure_on_host(state(), entry["epoch"], last)
        if step == NEVER and not all(
            math.isfinite(value) for value in entry.values() if value is not None
        ):
            step = after - 1
        step = on_primary(lambda: step)
        if step != NEVER:
            self.diverged = (entry["epoch"], step)
            return
        started = time.monotonic()
        if self.run.watch.tools:
            entry["signals"], entry["signal_seconds"] = self.watcher.measure(
                state(), entry["epoch"]
            )
        entry["seconds"] = seconds + time.monotonic() - started
        # Numbers that each process works out for itself, and times, may differ: all go by the
        # primary's.
        entry = on_primary(lambda: entry)
        # Recorded first: a checkpoint that its records do not reach could not be resumed from.
        self.run.records.append(entry)
        self.history.append(flat(entry))
        self.unsaved_seconds += entry["seconds"]
        is_last = len(self.history) == self.run.training.num_epochs
        if is_last or on_primary(self._save_is_due):
            self.save(state)
        self.run.report(entry)

    def _save_is_due(self) -> bool:
        """Whether another save is within its share of the run's own time since the last one."""
        share = self.run.save.share
        return share is None or share * self.unsaved_seconds >= self.save_seconds

    def save(self, state: Callable[[], TrainState]) -> None:
        """Saves the state after the last epoch on record, unless that is done."""
        if self.saved_epoch != self.epoch:
            started = time.monotonic()
            _save(self.run, self.epoch, state())
            self.saved_epoch, self.unsaved_seconds = self.epoch, 0.0
            self.save_seconds = time.monotonic() - started


def state_after(engine: Engine, run: Run, epoch: int) -> TrainState:
    """The state of a run after an epoch it has trained, from its checkpoint.

    Where that checkpoint is missing or damaged, the epochs since the newest sound one before
    it are trained again, to the same state, and saved.
    """
    state, found, is_saved = _newest_sound(engine, run, epoch)
    for index in range(found - run.first_epoch, epoch - run.first_epoch):
        rates = schedules.rates_of_epoch(run.training.schedule, index, engine.steps_per_epoch)
        state, _ = engine.train_epoch(state, rates)
    if found != epoch or not is_saved:
        run.store.save(epoch, state)
    return state


def _newest_sound(engine: Engine, run: Run, latest: int) -> tuple[TrainState, int, bool]:
    """The newest readable checkpoint up to an epoch, or the run's start; its epoch; whether it is
    saved."""
    for epoch in sorted(run.store.epochs(), reverse=True):
        if run.first_epoch <= epoch <= latest:
            try:
                return engine.place(run.store.restore(epoch, engine.state_shapes())), epoch, True
            except CheckpointError as error:
                warnings.warn(f"{error} Going back to an older checkpoint.", stacklevel=2)
    return run.initial(), run.first_epoch, False


def _save(run: Run, epoch: int, state: TrainState) -> None:
    run.store.save(epoch, state)
    if run.save.keep is not None:
        compared = measurement.epochs_needed_after(epoch, run.watch.tools, run.watch.sampling)
        run.store.keep_only(run.save.keep | compared | {epoch})


def _named(prefix: str, measured: Means) -> dict[str, Any]:
    return {f"{prefix}_{name}": value for name, value in measured.items()}
