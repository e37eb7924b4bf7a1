"""Runs, trunks or forks: epochs trained, measured, saved and recorded, from where they stopped."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from earlyprune_jax import pruning
from earlyprune_jax.run_records import RunRecords, as_history
from earlyprune_jax.training import clock, measurement
from earlyprune_jax.training.checkpoint import CheckpointError, CheckpointStore
from earlyprune_jax.training.engine import Engine, EpochOutcome, Means
from earlyprune_jax.training.measurement import Instrument, Watcher
from earlyprune_jax.training.retraining import Training
from earlyprune_jax.training.schedules import rates_of_epoch
from earlyprune_jax.training.state import BrokenMask, TrainState
from earlyprune_jax.triggers import Trigger
from earlyprune_jax.validate import expected

FIRST_GUESS_SECONDS = 0.3
"""What a run's first save is taken to last."""


@dataclasses.dataclass(eq=False)
class Run:
    """One run: its parts, its epochs on record, its last save, and how it ends.

    Attributes:
        engine: of its network and data.
        training: length, schedule, momentum.
        first_epoch: epochs of the trunk that lie behind the run's start; 0 for a trunk.
        initial: makes the state at the run's start.
        prunable: the structure of the params with Python bools: of what the sparsity is achieved.
        records: where its epochs and its end are written.
        store: where its checkpoints are.
        report: called with every epoch's entry when it is finished.
        end: called with how the run has ended, when that is written down.
        instruments: what is measured after every epoch.
        trigger: the run ends after the epoch at which this fires, if epochs are left to train.
        save_share: the part of the time that saves may take; None = the initial state and every
            epoch are saved, whatever that costs. The last epoch is always saved.
        kept: epochs whose checkpoints stay beside the newest; None = all.
    """

    engine: Engine
    training: Training
    first_epoch: int
    initial: Callable[[], TrainState]
    prunable: Any
    records: RunRecords
    store: CheckpointStore
    report: Callable[[dict[str, Any]], None]
    end: Callable[[dict[str, Any]], None] = lambda result: None
    instruments: tuple[Instrument, ...] = ()
    trigger: Trigger | None = None
    save_share: float | None = None
    kept: frozenset[int] | None = None

    def __post_init__(self):
        self.history: list[dict[str, Any]] = []
        self._diverged: dict[str, Any] = {}
        # Of the epoch they were asked for last: to train it, then for its record.
        self._rates: tuple[int, np.ndarray] = (-1, np.zeros(0, np.float32))
        self._saved_epoch, self._unsaved_seconds, self._save_seconds = -1, 0.0, FIRST_GUESS_SECONDS
        self._watcher = Watcher(self.instruments, self.state_after)

    def resume(self) -> TrainState:
        """Returns the newest sound state that the run's records reach."""
        self.store.discard_interrupted()
        latest = self.first_epoch + len(self.records.epochs())
        state, epoch, is_saved = self._newest_sound(latest)
        self.records.truncate(epoch - self.first_epoch)
        self.history = self._seen(self.records.epochs())
        self._sparsity = pruning.sparsity(state.mask, self.prunable)
        if is_saved or self.save_share is not None:
            self._saved_epoch = epoch
        else:
            self.save(lambda: state)
        return state

    def _seen(self, entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        return as_history(entries, self.first_epoch + self.training.num_epochs)

    @property
    def epoch(self) -> int:
        """The last epoch on record."""
        return self.first_epoch + len(self.history)

    def rates(self, index: int | None = None) -> np.ndarray:
        """Returns the learning rates of the run's epoch `index`, from 0; None = the next one."""
        index = len(self.history) if index is None else index
        if index != self._rates[0]:
            steps = self.engine.steps_per_epoch
            self._rates = index, rates_of_epoch(self.training.schedule, index, steps)
        return self._rates[1]

    def ended(self) -> bool:
        """Tells whether no epoch is left to train; if so, how it ended is written down."""
        result: dict[str, Any] = {"status": "diverged", **self._diverged}
        if not self._diverged:
            step = self.epoch * self.engine.steps_per_epoch
            result = {"status": "finished", "epoch": self.epoch, "step": step}
            if len(self.history) < self.training.num_epochs:
                # Asked before an epoch, not after one: an interrupted run asks again.
                firing = self.trigger(self.history) if self.trigger and self.history else None
                if firing is None:
                    return False
                result["fired"] = dataclasses.asdict(firing)
        seconds = sum(entry.get("seconds") or 0.0 for entry in self.history)
        result |= {"achieved_sparsity": self._sparsity, "seconds": seconds}
        # Whoever asks how a large study goes need not read the epochs of all its runs.
        last = self.history[-1] if self.history else {}
        result |= {"last": _evaluated(last)}
        self.records.finish(result)
        self.end(result)
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
            measured: the metrics of every split, and the seconds of training and of compiling.
            seconds: what training and evaluation took, without compiling.
        """
        started, compiled = clock.run_seconds(), clock.compile_seconds()
        epoch, last = self.epoch + 1, self.first_epoch + self.training.num_epochs
        step = epoch * self.engine.steps_per_epoch
        entry: dict[str, Any] = {"epoch": epoch, "step": step}
        entry |= {"learning_rate": float(self.rates()[-1]), **measured}
        what, nonfinite_step = outcome.nonfinite, outcome.nonfinite_step
        if not what:
            entry |= self.engine.measure_on_host(state(), epoch, last)
            values = {name: value for name, value in entry.items() if value is not None}
            what = next((name for name in values if not math.isfinite(values[name])), "")
            nonfinite_step = step - 1
        if what:
            reason = f"{what} not finite at step {nonfinite_step}, in epoch {epoch}"
            self._diverged = {"epoch": epoch, "step": nonfinite_step, "reason": reason}
            return
        if self.instruments:
            entry["signals"], entry["signal_seconds"] = self._watcher.measure(state(), epoch)
        entry["seconds"] = seconds + clock.run_seconds() - started
        entry["compile_seconds"] += clock.compile_seconds() - compiled
        # Recorded before it is saved: a checkpoint that its records do not reach could not be
        # resumed from. Processes that train as one go on with what the first of them has written,
        # for times differ, and the numbers that each works out for itself may.
        entry = self.records.append(entry)
        self.history += self._seen([entry])
        self._unsaved_seconds += entry["seconds"]
        share = self.save_share
        if epoch == last or share is None or share * self._unsaved_seconds >= self._save_seconds:
            self.save(state)
        self.report(entry)

    def save(self, state: Callable[[], TrainState]) -> None:
        """Saves the state after the last epoch on record, unless that is done."""
        epoch = self.epoch
        if self._saved_epoch == epoch:
            return
        saved = state()
        if (sparsity := pruning.sparsity(saved.mask, self.prunable)) != self._sparsity:
            allowed = f"to stay {self._sparsity}, as the run began"
            raise BrokenMask(expected("achieved sparsity", sparsity, allowed))
        self._save_seconds = self.engine.save(self.store, epoch, saved)
        self._saved_epoch, self._unsaved_seconds = epoch, 0.0
        if self.kept is not None:
            compared = measurement.epochs_needed_after(epoch, self.instruments)
            self.store.keep_only(self.kept | compared | {epoch})

    def state_after(self, epoch: int) -> TrainState:
        """Returns the state after an epoch it has trained, from its checkpoint.

        Where that checkpoint is missing or damaged, the epochs since the newest sound one before
        it are trained again, to the same state, and saved.
        """
        state, start, is_saved = self._newest_sound(epoch)
        for index in range(start - self.first_epoch, epoch - self.first_epoch):
            state, _ = self.engine.train_epoch(state, self.rates(index))
        if start != epoch or not is_saved:
            self.engine.save(self.store, epoch, state)
        return state

    def _newest_sound(self, latest: int) -> tuple[TrainState, int, bool]:
        """Finds the newest readable checkpoint up to an epoch, or the run's start; its epoch;
        whether it is saved."""
        for epoch in sorted(self.store.epochs(), reverse=True):
            if self.first_epoch <= epoch <= latest:
                try:
                    return self.engine.restored(self.store, epoch), epoch, True
                except CheckpointError as error:
                    warnings.warn(f"{error} Going back to an older checkpoint.", stacklevel=2)
        return self.initial(), self.first_epoch, False


def train(runs: Sequence[Run], stop: Callable[[], bool] = lambda: False, width: int = 1) -> None:
    """Trains runs of one shape to their ends, side by side; an interrupted one goes on where it
    stopped.

    A run restarts at an epoch boundary from a saved state, and randomness is a function of
    (key, step): trained alone on one CPU machine a resumed run is bitwise equal to an uninterrupted
    one.

    How a run ended is written to its result.json: {"status": "finished" | "diverged", "epoch",
    "step", "achieved_sparsity", "seconds", "last"}, where a trigger ended it "fired": {"epoch",
    "marked_epoch", "reason"}, and where it diverged "reason". `last` holds the metrics of the
    validation and test split after the last epoch. A run diverges at its first step with a
    non-finite loss, or at the last step of an epoch that leaves non-finite weights or evaluates to
    a metric that is not finite, of the host too; it stops there, and nothing of that epoch is kept.
    The others go on.

    Args:
        runs: one, or several of one engine if the backend is to train them as one batch.
        stop: asked before every epoch; where it says yes all runs are saved and stay unfinished.
        width: of the batch they make, which stays the same when some end before the others.
    """
    engine, live = runs[0].engine, list(runs)
    current = engine.stack([run.resume() for run in live], width)
    while going := [index for index, run in enumerate(live) if not run.ended()]:
        if len(going) < len(live):
            current = engine.stack([engine.state_of(current, index) for index in going], width)
            live = [live[index] for index in going]
        if stop():
            for index, run in enumerate(live):
                run.save(functools.partial(engine.state_of, current, index))
            return
        started, compiled = clock.run_seconds(), clock.compile_seconds()
        current, outcomes = engine.train_epoch(current, np.stack([run.rates() for run in live]))
        # The runs of a stack share its time.
        times = {"train_seconds": (clock.run_seconds() - started) / len(live)}
        evaluated = {split: engine.evaluate(current, split) for split in ("validation", "test")}
        seconds = (clock.run_seconds() - started) / len(live)
        times["compile_seconds"] = (clock.compile_seconds() - compiled) / len(live)
        for index, (run, outcome) in enumerate(zip(live, outcomes, strict=True)):
            entry = _named("train", outcome.means) | times
            for split, means in evaluated.items():
                entry |= _named(split, means[index])
            state = functools.partial(engine.state_of, current, index)
            run.record(state, outcome, entry, seconds)


def _evaluated(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Keeps what an epoch was evaluated to on held-out examples."""
    return {name: v for name, v in entry.items() if name.startswith(("validation_", "test_"))}


def _named(prefix: str, measured: Means) -> dict[str, Any]:
    return {f"{prefix}_{name}": value for name, value in measured.items()}
