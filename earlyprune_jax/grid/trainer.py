"""Trains members of a study in this process: trunks, batches of forks, comparisons of replicates."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from earlyprune_jax import data, pruning
from earlyprune_jax.data import Source
from earlyprune_jax.grid import claims, identity
from earlyprune_jax.grid.departures import Departure, departure, stopping_rule
from earlyprune_jax.grid.members import Comparison, Fork, Member, Pruned, Run, Trunk, label, trunk_of
from earlyprune_jax.grid.plan import kept_epochs
from earlyprune_jax.grid.study import Study, described_trunk
from earlyprune_jax.records import flat
from earlyprune_jax.spec import Setting
from earlyprune_jax.training import budget, comparisons, fork_rules, fork_scores, loop, measurement, state
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training.checkpoint import CheckpointError
from earlyprune_jax.training.engine import Engine
from earlyprune_jax.training.fork_rules import Training
from earlyprune_jax.training.hosts import held_by_primary
from earlyprune_jax.training.loop import SavePolicy, Watch
from earlyprune_jax.training.mesh import data_mesh

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
    """What members of one network and data fraction share."""

    def __init__(self, engine: Engine, budget_file: Path, say: Callable[[str], None]):
        self.engine, self._budget_file, self._say = engine, budget_file, say

    @functools.cached_property
    def watch(self) -> Watch:
        """What is measured along every trunk, within its budget, and the rule that may end them."""
        engine, tools = self.engine, measurement.instruments(self.engine)
        limited = engine.spec.signals.max_overhead_fraction > 0
        folder = self._budget_file.parent
        with held_by_primary(lambda: claims.held(folder)) if limited else contextlib.nullcontext():
            sampling = budget.sampling(engine, tools, self._budget_file)
        full = measurement.full_sampling(engine, tools)
        for name in (name for name in sampling if sampling[name] != full[name]):
            self._say(budget.sentence(name, sampling[name], engine.spec))
        return Watch(tools, sampling, stopping_rule(engine.spec))


class Trainer:
    """The members of a study, trained one after another or in batches; engines are built when needed.

    Args:
        study: whose members.
        source: the data set, as its makers split it.
        talk: who is told.
    """

    def __init__(self, study: Study, source: Source, talk: Talk):
        self.study, self.talk = study, talk
        self._source = source
        # One at a time: an engine holds its data on the device.
        self._equipment = functools.lru_cache(maxsize=1)(self._equip)

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
        return self._equipment(setting.model, setting.train_fraction).engine

    def _equip(self, model: str, train_fraction: float) -> "_Equipment":
        settings = self.study.spec.settings()
        # Schedules are no part of an engine: any setting of this network and these data will do.
        one = next(each for each in settings if (each.model, each.train_fraction) == (model, train_fraction))
        spec = self.study.at(one)
        mesh = data_mesh() if jax.process_count() > 1 else None
        engine = engines.build(spec, data.split(self._source, spec.data), mesh=mesh)
        folder = self.study.workdir / "signal_budgets"
        return _Equipment(engine, folder / f"{one.network_slug}.json", self.talk.say)

    def _run(self, member: Run, training: Training, first_epoch: int, **parts: Any) -> loop.Run:
        records, store = self.study.records(member), self.study.store(member)
        report = functools.partial(self.talk.report, label(member, self.study.spec))
        return loop.Run(training, first_epoch, records=records, store=store, report=report, **parts)

    def _trunk(self, trunk: Trunk) -> loop.Run:
        engine, spec = self.engine(trunk.setting), self.study.at(trunk.setting)
        training = trunk.training(spec, engine.steps_per_epoch)
        initial = functools.partial(engine.new_state, trunk.trunk_seed)
        run = self._run(
            trunk,
            training,
            0,
            initial=initial,
            watch=self._equipment(trunk.setting.model, trunk.setting.train_fraction).watch,
            save=SavePolicy(None, kept_epochs(spec)),
        )
        run.records.start(described_trunk(self.study.spec, trunk, training.num_epochs))
        return run

    def _pruned(self, member: Pruned) -> loop.Run | None:
        """A pruned run, ready to train; None where there is nothing to start from, which is written down."""
        spec, trunk = self.study.at(member.setting), trunk_of(member)
        records, dense = self.study.records(member), self.study.records(trunk)
        ended = dense.result()
        leaving = departure(spec, member, ended, [flat(entry) for entry in dense.epochs()])
        if leaving.sentence:
            self.talk.say(f"{label(member, self.study.spec)}: {leaving.sentence}")
        if leaving.fork is None:
            records.start(identity.described(member, leaving.dense_epochs, 0) | leaving.described)
            for_now = bool(ended and ended["status"] == "failed")
            records.finish({"status": "skipped", "reason": leaving.sentence, "for_now": for_now})
            return None
        return self._departing(member, leaving, leaving.fork)

    def _departing(self, member: Pruned, leaving: Departure, fork: Fork) -> loop.Run:
        engine, spec = self.engine(member.setting), self.study.at(member.setting)
        training = fork_rules.RULES[fork.rule](spec, leaving.dense_epochs, engine.steps_per_epoch)
        run = self._run(
            member,
            training,
            fork.fork_epoch,
            initial=functools.partial(self._prune, engine, fork, training),
            watch=loop.NOT_WATCHED,
            save=SavePolicy(FORK_SAVE_SHARE, frozenset()),
        )
        described = identity.described(member, fork.fork_epoch, training.num_epochs)
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

    def _prune(self, engine: Engine, fork: Fork, training: Training) -> state.TrainState:
        """The fork's first state: its trunk at the fork epoch, less the weights with the lowest scores."""
        dense = self._dense(engine, fork)
        scores = fork_scores.CRITERIA[fork.criterion](engine, dense)
        mask = pruning.allocate(scores, engine.prunable, sparsity=fork.sparsity, scope=fork.scope)
        reset = training.reset_momentum
        pruned = state.fork(dense, mask, engine.optimizer, replicate=fork.replicate, reset_momentum=reset)
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
        records.start(identity.described(comparison, comparison.fork_epoch, 0))
        statuses = study.statuses(forks)
        lost = [fork for fork, status in zip(forks, statuses, strict=True) if status != "finished"]
        if lost:
            reason = f"{label(lost[0], study.spec)} {statuses[forks.index(lost[0])]}"
            for_now = bool(study.left(forks))
            records.finish({"status": "skipped", "reason": reason, "for_now": for_now})
            return
        log_probs = [engine.log_probs(self._final(engine, fork), "train") for fork in forks]
        measured = comparisons.measure(study.spec.fork.comparisons, log_probs)
        records.finish({"status": "finished", "num_examples": len(log_probs[0]), **measured})

    def _final(self, engine: Engine, fork: Fork) -> state.TrainState:
        """A finished fork's last state, from its checkpoint."""
        store, result = self.study.store(fork), self.study.records(fork).result() or {}
        try:
            return engine.place(store.restore(result["epoch"], engine.state_shapes()))
        except CheckpointError as error:
            remedy = "Delete that fork's directory: the same command then trains it again, and compares."
            raise CheckpointError(f"{error} {remedy}") from error
