"""Trains members of a study in this process: trunks, batches of forks, comparisons of
replicates."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from earlyprune_jax import data, tasks
from earlyprune_jax.grid import claims, identity
from earlyprune_jax.grid.departures import Departure, departure, stopping_rule
from earlyprune_jax.grid.members import (
    Comparison,
    Fork,
    Member,
    Pruned,
    Run,
    Trunk,
    label,
    trunk_of,
)
from earlyprune_jax.grid.plan import kept_epochs
from earlyprune_jax.grid.study import Study, described_trunk
from earlyprune_jax.records import flat
from earlyprune_jax.spec import RunSpec, Setting
from earlyprune_jax.training import (
    budget,
    criteria,
    loop,
    measurement,
    retraining,
    state,
)
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training.checkpoint import CheckpointError
from earlyprune_jax.training.engine import Engine
from earlyprune_jax.training.hosts import held_by_primary
from earlyprune_jax.training.loop import SavePolicy, Watch
from earlyprune_jax.training.mesh import data_mesh
from earlyprune_jax.training.retraining import Training

FORK_SAVE_SHARE = 0.05
"""Saving a fork on the way may take this part of its time."""


@dataclasses.dataclass(frozen=True)
class Talk:
    """Who is told what happens.

    Attributes:
        report: (member's label, an epoch's entry, or None for one that was trained earlier).
        say: a sentence that does not belong to an epoch.
        stop: asked before every epoch; where it says yes, what runs is saved and left unfinished.
        ended: called whenever members have been dealt with: trained, saved, or recorded as failed.
    """

    report: Callable[[str, dict[str, Any] | None], None]
    say: Callable[[str], None]
    stop: Callable[[], bool]
    ended: Callable[[], None] = lambda: None


class _Equipment:
    """What members of one engine share."""

    def __init__(
        self, engine: Engine, of_data: dict[str, Any], budget_file: Path, say: Callable[[str], None]
    ):
        self.engine, self.of_data = engine, of_data
        self.budget_file, self._say = budget_file, say

    @functools.cached_property
    def watch(self) -> Watch:
        """What is measured along every trunk, within its budget, and the rule that may end them."""
        engine, tools = self.engine, measurement.instruments(self.engine)
        limited = engine.spec.signals.max_overhead_fraction > 0
        folder = self.budget_file.parent
        with held_by_primary(lambda: claims.held(folder)) if limited else contextlib.nullcontext():
            tools = budget.limited(engine, tools, self.budget_file)
        for sentence in budget.sentences(engine, tools):
            self._say(sentence)
        return Watch(tools, stopping_rule(engine.spec))


class Trainer:
    """The members of a study, trained one after another or in batches; engines are built when
    needed.

    Args:
        study: whose members.
        talk: who is told.
        reader: of the data; None = a new one.
    """

    def __init__(self, study: Study, talk: Talk, reader: data.Reader | None = None):
        self.study, self.talk = study, talk
        self._reader = reader or data.Reader()
        # One at a time: an engine holds its data on the device.
        self._by_engine = functools.lru_cache(maxsize=1)(self._equip)

    def train(self, members: Sequence[Member], width: int = 1) -> None:
        """Trains a trunk, a comparison, or forks of one shape; all of them end, or are saved.

        Args:
            members: one, or several forks.
            width: of the batch that several forks make.

        Raises:
            claims.Busy: what a fork needs of its trunk is being made by another process.
        """
        first = members[0]
        if isinstance(first, Trunk):
            loop.train(self.engine(first.setting), [self._trunk(first)], self.talk.stop)
        elif isinstance(first, Comparison):
            self._compare(first)
        else:
            pruned = [member for member in members if not isinstance(member, Trunk | Comparison)]
            started = [run for run in map(self._pruned, pruned) if run]
            if started:
                loop.train(self.engine(first.setting), started, self.talk.stop, width)

    def engine(self, setting: Setting) -> Engine:
        """The engine of a setting's network and data."""
        return self._equipment(setting).engine

    def _equipment(self, setting: Setting) -> "_Equipment":
        return self._by_engine(engines.engine_id(self.study.at(setting)))

    def _equip(self, engine_id: str) -> "_Equipment":
        # What an engine does not depend on, schedules and forks, may be that of any of its
        # settings.
        every = map(self.study.at, self.study.spec.settings())
        spec = next(each for each in every if engines.engine_id(each) == engine_id)
        source = self._reader(spec.data)
        mesh = data_mesh() if jax.process_count() > 1 else None
        engine = engines.build(spec, tasks.build(spec, source), mesh=mesh)
        name = f"{identity.slug(spec.model.name)}_{spec.data.train_fraction:.10g}-{engine_id}.json"
        folder = self.study.workdir / "signal_budgets"
        mean, std = data.normalisation(source, spec.data)
        of_data = {"data_sha256": source.digest(), "mean": list(mean), "std": list(std)}
        return _Equipment(engine, of_data, folder / name, self.talk.say)

    def _run(self, member: Run, training: Training, first_epoch: int, **parts: Any) -> loop.Run:
        records, store = self.study.records(member), self.study.store(member)
        report = functools.partial(self.talk.report, label(member))
        return loop.Run(training, first_epoch, records=records, store=store, report=report, **parts)

    def _trunk(self, trunk: Trunk) -> loop.Run:
        equipment, spec = self._equipment(trunk.setting), self.study.at(trunk.setting)
        engine = equipment.engine
        training = retraining.trunk(spec, engine.steps_per_epoch)
        initial = functools.partial(engine.new_state, trunk.trunk_seed)
        run = self._run(
            trunk,
            training,
            0,
            initial=initial,
            prunable=engine.prunable(spec.pruning.layers),
            watch=equipment.watch,
            save=SavePolicy(None, kept_epochs(spec)),
        )
        run.records.start(
            described_trunk(
                self.study.spec,
                trunk,
                training.num_epochs,
                equipment.of_data,
                equipment.budget_file.relative_to(self.study.workdir).as_posix(),
            )
        )
        return run

    def _pruned(self, member: Pruned) -> loop.Run | None:
        """A pruned run, ready to train; None where there is nothing to start from, which is written
        down."""
        spec, trunk = self.study.at(member.setting), trunk_of(member)
        records, dense = self.study.records(member), self.study.records(trunk)
        ended = dense.result()
        leaving = departure(spec, member, ended, [flat(entry) for entry in dense.epochs()])
        if leaving.sentence:
            self.talk.say(f"{label(member)}: {leaving.sentence}")
        if leaving.fork is None:
            records.start(
                identity.described(self.study.spec, member, leaving.dense_epochs, 0)
                | leaving.described
            )
            for_now = bool(ended and ended["status"] == "failed")
            records.finish({"status": "skipped", "reason": leaving.sentence, "for_now": for_now})
            return None
        return self._departing(member, leaving, leaving.fork)

    def _departing(self, member: Pruned, leaving: Departure, fork: Fork) -> loop.Run:
        engine, spec = self.engine(member.setting), self.study.at(member.setting)
        training = retraining.training(
            spec, fork.rule, leaving.dense_epochs, engine.steps_per_epoch
        )
        run = self._run(
            member,
            training,
            fork.fork_epoch,
            initial=functools.partial(self._prune, engine, spec, fork, training),
            prunable=engine.prunable(spec.pruning.layers),
            watch=loop.NOT_WATCHED,
            save=SavePolicy(FORK_SAVE_SHARE, frozenset()),
        )
        described = identity.described(
            self.study.spec, member, fork.fork_epoch, training.num_epochs
        )
        described |= {"fork_epoch": fork.fork_epoch} | leaving.described
        trunk = trunk_of(member)
        run.records.start(
            described
            # No digest if the trunk's checkpoint has to be made again.
            | {
                "parent": identity.directory(self.study.spec, trunk),
                "parent_sha256": self.study.store(trunk).sha256(fork.fork_epoch),
            }
        )
        return run

    def _prune(
        self, engine: Engine, spec: RunSpec, fork: Fork, training: Training
    ) -> state.TrainState:
        """The fork's first state: its trunk at the fork epoch, less the weights with the lowest
        scores."""
        dense = self._dense(engine, fork)
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

    def _dense(self, engine: Engine, fork: Fork) -> state.TrainState:
        """The trunk's state at the fork epoch; where its checkpoint is lost, that is made again."""
        trunk = trunk_of(fork)
        store = self.study.store(trunk)
        try:
            return engine.place(store.restore(fork.fork_epoch, engine.state_shapes()))
        except CheckpointError:
            directory = self.study.records(trunk).directory
            with held_by_primary(lambda: claims.held_if_free(directory)):
                return loop.state_after(engine, self._trunk(trunk), fork.fork_epoch)

    def _compare(self, comparison: Comparison) -> None:
        """Measures how alike the replicates of a cell have become."""
        study, engine = self.study, self.engine(comparison.setting)
        forks, records = comparison.forks(), self.study.records(comparison)
        records.start(identity.described(study.spec, comparison, comparison.fork_epoch, 0))
        statuses = study.statuses(forks)
        lost = [fork for fork, status in zip(forks, statuses, strict=True) if status != "finished"]
        if lost:
            reason = f"{label(lost[0])} {statuses[forks.index(lost[0])]}"
            for_now = bool(study.left(forks))
            records.finish({"status": "skipped", "reason": reason, "for_now": for_now})
            return
        networks = [self._final(engine, fork) for fork in forks]
        measured = measurement.compare(
            study.spec.fork.comparisons, engine.log_probs(networks, "train")
        )
        records.finish({"status": "finished", **measured})

    def _final(self, engine: Engine, fork: Fork) -> state.TrainState:
        """A finished fork's last state, from its checkpoint."""
        store, result = self.study.store(fork), self.study.records(fork).result() or {}
        try:
            return engine.place(store.restore(result["epoch"], engine.state_shapes()))
        except CheckpointError as error:
            remedy = (
                "Delete that fork's directory: the same command then trains it again, and compares."
            )
            raise CheckpointError(f"{error} {remedy}") from error
