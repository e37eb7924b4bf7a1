"""Trains members of a study in this process: dense runs, pruned runs, comparisons of replicates."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from earlyprune_jax import data, tasks
from earlyprune_jax.grid import identity, locks
from earlyprune_jax.grid.fork_points import ForkPoint, fork_point, stopping_rule
from earlyprune_jax.grid.members import (
    Comparison,
    Fork,
    PrunedRun,
    Run,
    Trunk,
    label,
    trunk_of,
)
from earlyprune_jax.grid.plan import kept_epochs
from earlyprune_jax.grid.study import Study
from earlyprune_jax.records import flat
from earlyprune_jax.spec import RunSpec, Setting, content_hash
from earlyprune_jax.training import (
    budget,
    criteria,
    loop,
    measurement,
    multihost,
    retraining,
    state,
)
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training.checkpoint import CheckpointError
from earlyprune_jax.training.engine import Engine
from earlyprune_jax.training.loop import SavePolicy, Watch
from earlyprune_jax.training.mesh import data_mesh
from earlyprune_jax.training.retraining import Training

FORK_SAVE_SHARE = 0.05
"""The part of its time that a fork may spend on saving its state."""


@dataclasses.dataclass(frozen=True)
class Callbacks:
    """Who is told what happens.

    Attributes:
        report: called with a member's label and an epoch's entry; None for one trained earlier.
        say: called with a sentence that does not belong to an epoch.
        stop: asked before every epoch; where it says yes, what runs is saved and left unfinished.
        ended: called whenever members have been dealt with: trained, saved, or recorded as failed.
    """

    report: Callable[[str, dict[str, Any] | None], None]
    say: Callable[[str], None]
    stop: Callable[[], bool]
    ended: Callable[[], None] = lambda: None


SILENT = Callbacks(lambda name, entry: None, lambda sentence: None, lambda: False)


@dataclasses.dataclass(frozen=True)
class _EngineBundle:
    """An engine, and what run.json says of its data and its signals' budget."""

    engine: Engine
    described_data: dict[str, Any]
    budget_file: Path


class Trainer:
    """Trains the members of a study; builds engines when they are needed.

    Where several processes train one run, all call the same methods with the same arguments.

    Args:
        study: whose members.
        callbacks: who is told.
    """

    def __init__(self, study: Study, callbacks: Callbacks):
        self.study, self.callbacks = study, callbacks
        self._reader = data.Reader()
        # One at a time: an engine holds its data on the device.
        self._bundle_of = functools.lru_cache(maxsize=1)(self._build)
        self._watch_of = functools.lru_cache(maxsize=1)(self._watch)

    def read_data(self) -> dict[Setting, str]:
        """Reads each data set once, and returns the digest of its source by setting of a trunk.

        Raises:
            InvalidInput: the data cannot be had, or another process has different data.
        """
        digests, read = {}, {}
        for setting in dict.fromkeys(setting.trunk for setting in self.study.spec.settings()):
            spec = self.study.at(setting).data
            source = (spec.name, spec.num_classes)
            if source not in read:
                read[source] = self._reader(spec).digest()
            digests[setting] = read[source]
        multihost.require_same("data", content_hash(list(digests.values())))
        return digests

    def forget_data(self) -> None:
        """Frees the data that `read_data` has read."""
        self._reader = data.Reader()

    def train_dense(self, trunk: Trunk) -> None:
        """Trains a dense run, and measures the signals along it."""
        run = self._dense_run(trunk)
        loop.train(self.engine(trunk.setting), [run], self.callbacks.stop)

    def prune_and_retrain(self, members: Sequence[PrunedRun], width: int = 1) -> None:
        """Prunes the weights of trunks, and trains what is left; all runs end, or are saved.

        Args:
            members: of one shape.
            width: of the batch they make.

        Raises:
            Locked: what a fork needs of its trunk is being made by another process.
        """
        runs = [run for run in map(self._pruned_run, members) if run]
        if runs:
            loop.train(self.engine(members[0].setting), runs, self.callbacks.stop, width)

    def compare(self, comparison: Comparison) -> None:
        """Measures how alike the replicates of a cell have become."""
        study, engine = self.study, self.engine(comparison.setting)
        forks, records = comparison.forks(), self.study.records(comparison)
        records.start(identity.described(study.spec, comparison, comparison.fork_epoch, 0))
        for fork, status in zip(forks, study.statuses(forks), strict=True):
            if status != "finished":
                reason, for_now = f"{label(fork)} {status}", bool(study.left(forks))
                records.finish({"status": "skipped", "reason": reason, "for_now": for_now})
                return
        networks = [self._final_state(engine, fork) for fork in forks]
        measures = study.spec.fork.comparisons
        measured = measurement.compare(measures, engine.log_probs(networks, "train"))
        records.finish({"status": "finished", **measured})

    def engine(self, setting: Setting) -> Engine:
        """Returns the engine of a setting's network and data."""
        return self._bundle(setting).engine

    def _bundle(self, setting: Setting) -> _EngineBundle:
        return self._bundle_of(engines.engine_id(self.study.at(setting)))

    def _build(self, engine_id: str) -> _EngineBundle:
        # What an engine does not depend on, schedules and forks, may be that of any of its
        # settings.
        specs = map(self.study.at, self.study.spec.settings())
        spec = next(spec for spec in specs if engines.engine_id(spec) == engine_id)
        source = self._reader(spec.data)
        mesh = data_mesh() if jax.process_count() > 1 else None
        engine = engines.build(spec, tasks.build(spec, source), mesh=mesh)
        name = f"{identity.slug(spec.model.name)}_{spec.data.train_fraction:.10g}-{engine_id}.json"
        mean, std = data.normalisation(source, spec.data)
        described = {"data_sha256": source.digest(), "mean": list(mean), "std": list(std)}
        return _EngineBundle(engine, described, self.study.workdir / "signal_budgets" / name)

    def _watch(self, engine_id: str) -> Watch:
        """Returns what is measured along every trunk, within its budget, and what may end it."""
        bundle = self._bundle_of(engine_id)
        engine, instruments = bundle.engine, measurement.instruments(bundle.engine)
        limited = engine.spec.signals.max_overhead_fraction > 0
        folder = bundle.budget_file.parent
        with (
            multihost.held_by_primary(lambda: locks.held(folder))
            if limited
            else contextlib.nullcontext()
        ):
            instruments = budget.limited(engine, instruments, bundle.budget_file)
        for sentence in budget.sentences(engine, instruments):
            self.callbacks.say(sentence)
        return Watch(instruments, stopping_rule(engine.spec))

    def _run(self, member: Run, training: Training, first_epoch: int, **parts: Any) -> loop.Run:
        engine, spec = self.engine(member.setting), self.study.at(member.setting)
        return loop.Run(
            training,
            first_epoch,
            records=self.study.records(member),
            store=self.study.store(member),
            report=functools.partial(self.callbacks.report, label(member)),
            prunable=engine.prunable(spec.pruning.layers),
            **parts,
        )

    def _dense_run(self, trunk: Trunk) -> loop.Run:
        """Returns a dense run, ready to train, and says in run.json what it is."""
        bundle, spec = self._bundle(trunk.setting), self.study.at(trunk.setting)
        engine, kept = bundle.engine, kept_epochs(spec)
        training = retraining.trunk(spec, engine.steps_per_epoch)
        initial = functools.partial(engine.new_state, trunk.trunk_seed)
        watch = self._watch_of(engines.engine_id(spec))
        run = self._run(
            trunk, training, 0, initial=initial, watch=watch, save=SavePolicy(None, kept)
        )
        budget_file = bundle.budget_file.relative_to(self.study.workdir).as_posix()
        run.records.start(
            {
                **identity.described(self.study.spec, trunk, 0, training.num_epochs),
                "kept_epochs": None if kept is None else sorted(kept),
                **bundle.described_data,
                "signal_budget": budget_file,
            }
        )
        return run

    def _pruned_run(self, member: PrunedRun) -> loop.Run | None:
        """Returns a pruned run, ready to train; None, and says why, where it has nothing to start
        from."""
        spec, trunk = self.study.at(member.setting), self.study.records(trunk_of(member))
        trunk_result = trunk.result()
        start = fork_point(spec, member, trunk_result, [flat(entry) for entry in trunk.epochs()])
        if start.sentence:
            self.callbacks.say(f"{label(member)}: {start.sentence}")
        if start.fork:
            return self._started_run(member, start, start.fork)
        described = identity.described(self.study.spec, member, start.dense_epochs, 0)
        for_now = bool(trunk_result and trunk_result["status"] == "failed")
        records = self.study.records(member)
        records.start(described | start.described)
        records.finish({"status": "skipped", "reason": start.sentence, "for_now": for_now})
        return None

    def _started_run(self, member: PrunedRun, start: ForkPoint, fork: Fork) -> loop.Run:
        engine, spec = self.engine(member.setting), self.study.at(member.setting)
        training = retraining.training(
            spec, fork.retraining, start.dense_epochs, engine.steps_per_epoch
        )
        run = self._run(
            member,
            training,
            fork.fork_epoch,
            initial=functools.partial(self._prune, engine, spec, fork, training),
            watch=loop.NOT_WATCHED,
            save=SavePolicy(FORK_SAVE_SHARE, frozenset()),
        )
        trunk = trunk_of(member)
        run.records.start(
            {
                **identity.described(self.study.spec, member, fork.fork_epoch, training.num_epochs),
                "fork_epoch": fork.fork_epoch,
                **start.described,
                "parent": identity.directory(self.study.spec, trunk),
                # None if the trunk's checkpoint has to be made again.
                "parent_sha256": self.study.store(trunk).sha256(fork.fork_epoch),
            }
        )
        return run

    def _prune(
        self, engine: Engine, spec: RunSpec, fork: Fork, training: Training
    ) -> state.TrainState:
        """Returns the trunk's state at the fork epoch, less the weights with the lowest scores."""
        dense = self._dense_state(engine, fork)
        numbers = engines.probe_indices(
            engine.num_train, spec.pruning.num_examples, spec.data.split_seed
        )
        mask = criteria.make_mask(
            engine,
            dense,
            criterion=fork.criterion,
            scope=fork.scope,
            sparsity=fork.sparsity,
            prunable=engine.prunable(spec.pruning.layers),
            examples=criteria.Examples(engine, numbers, spec.pruning.batch_size),
        )
        reset = training.reset_momentum
        pruned = state.fork(
            dense, mask, engine.optimizer, replicate=fork.replicate, reset_momentum=reset
        )
        return engine.place(pruned)

    def _dense_state(self, engine: Engine, fork: Fork) -> state.TrainState:
        """Returns the trunk's state at the fork epoch; a lost checkpoint is made again."""
        trunk = trunk_of(fork)
        try:
            stored = self.study.store(trunk).restore(fork.fork_epoch, engine.state_shapes())
            return engine.place(stored)
        except CheckpointError:
            directory = self.study.directory(trunk)
            with multihost.held_by_primary(lambda: locks.held_if_free(directory)):
                return loop.state_after(engine, self._dense_run(trunk), fork.fork_epoch)

    def _final_state(self, engine: Engine, fork: Fork) -> state.TrainState:
        """Returns a finished fork's last state, from its checkpoint."""
        store, result = self.study.store(fork), self.study.records(fork).result() or {}
        try:
            return engine.place(store.restore(result["epoch"], engine.state_shapes()))
        except CheckpointError as error:
            remedy = "Delete that fork's directory: the same command trains it again, and compares."
            raise CheckpointError(f"{error} {remedy}") from error
