"""Trains members of a study in this process: dense runs, pruned runs, comparisons of replicates."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from earlyprune_jax import assets, data, tasks, triggers
from earlyprune_jax.grid import members, signature
from earlyprune_jax.grid.locks import Locked, RunLocks
from earlyprune_jax.grid.members import Comparison, Fork, Member, Run, Trunk, label, trunk_of
from earlyprune_jax.grid.plan import kept_epochs
from earlyprune_jax.grid.study import BUDGETS, Study
from earlyprune_jax.run_records import DATA, as_history
from earlyprune_jax.spec import RunSpec, Setting, content_hash
from earlyprune_jax.training import budget, criteria, loop, measurement, multihost, retraining
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training.checkpoint import CheckpointError
from earlyprune_jax.training.execution import data_mesh
from earlyprune_jax.training.multihost import on_primary
from earlyprune_jax.training.retraining import Training
from earlyprune_jax.training.state import TrainState, fork
from earlyprune_jax.triggers import Trigger

FORK_SAVE_SHARE = 0.05
"""The part of its time that a fork may spend on saving its state."""


@dataclasses.dataclass(frozen=True)
class Callbacks:
    """Who is told what happens.

    Attributes:
        report: called with a member's label and the entry of an epoch it has trained.
        say: called with a sentence that does not belong to an epoch.
        stop: asked before every epoch; where it says yes, what runs is saved and left unfinished.
        end: called with a member's label and how it has ended, what result.json says.
        do: called with what is being done that may take a while before an epoch, and with "" when
            it is done.
    """

    report: Callable[[str, dict[str, Any]], None]
    say: Callable[[str], None]
    stop: Callable[[], bool]
    end: Callable[[str, dict[str, Any]], None]
    do: Callable[[str], None]


SILENT = Callbacks(
    report=lambda name, entry: None,
    say=lambda sentence: None,
    stop=lambda: False,
    end=lambda name, result: None,
    do=lambda text: None,
)


@dataclasses.dataclass(frozen=True)
class ForkPoint:
    """From which weights a pruned run starts, and how many dense epochs they have cost.

    Attributes:
        epoch: of these weights; None where there is nothing to start from.
        dense_epochs: epochs the trunk has trained by then. The retraining schedule and the length
            of what is left follow from these; with a rewind they are more than the weights' epoch.
        described: what run.json says of the decision.
        sentence: the decision in words, or why there is no run.
    """

    epoch: int | None
    dense_epochs: int
    described: dict[str, Any]
    sentence: str


def stopping_rule(spec: RunSpec) -> Trigger | None:
    """Returns what ends a trunk that prunes itself: the configured rule, or the fallback epoch."""
    if spec.fork.when == "epochs":
        return None
    rule = triggers.parse(spec.fork.trigger)
    fallback = spec.fork.fallback_epoch
    return triggers.First((rule, triggers.AtEpoch(fallback))) if fallback else rule


def fork_point(
    spec: RunSpec,
    run: Fork,
    trunk_result: Mapping[str, Any] | None,
    history: Sequence[Mapping[str, Any]],
) -> ForkPoint:
    """Decides where a pruned run starts, from how its trunk went.

    Args:
        spec: of the run's setting.
        run: a fork of the grid, or one that prunes itself.
        trunk_result: the trunk's result.json; None while it is unfinished.
        history: of the trunk.

    Returns:
        The fork point; without an epoch where the trunk never got there.
    """
    result, loss = trunk_result or {}, ""
    if result.get("status") in ("diverged", "failed"):
        loss = f"{label(trunk_of(run))} {result['status']} in epoch {result['epoch']}"
    if run.fork_epoch is not None:
        # The last epoch of a trunk that diverged or failed left nothing behind.
        is_lost = loss and result["epoch"] <= run.fork_epoch
        epoch, sentence = (None, loss) if is_lost else (run.fork_epoch, "")
        return ForkPoint(epoch, run.fork_epoch, {}, sentence)
    rule = triggers.parse(spec.fork.trigger)
    described: dict[str, Any] = {"trigger": str(rule), "mode": spec.fork.prune_at}
    described |= {"fired_epoch": None, "marked_epoch": None}
    if not result.get("fired"):
        never = f"{rule.label} did not fire before the last of {spec.train.num_epochs} epochs, and "
        sentence = loss or f"{never}fork.fallback_epoch=0: nothing was pruned"
        return ForkPoint(None, 0, described, sentence)
    dense_epochs, firing = result["fired"]["epoch"], rule(history)
    reason = f"{rule.label} had not fired by fork.fallback_epoch={dense_epochs}"
    start = dense_epochs
    if firing:
        described |= {"fired_epoch": dense_epochs, "marked_epoch": firing.marked_epoch}
        reason = f"{firing.reason}. It marks epoch {firing.marked_epoch}"
        start = firing.marked_epoch if spec.fork.prune_at == "rewind" else dense_epochs
    sentence = f"{reason}. Pruned: the weights of epoch {start}, after {dense_epochs} dense epochs."
    described["reason"] = sentence
    return ForkPoint(start, dense_epochs, described, sentence)


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
        self._engine: engines.Engine | None = None
        self._instruments: tuple[measurement.Instrument, ...] | None = None

    def read_data(self) -> dict[Setting, str]:
        """Reads each data set once, says what is used of it and what tasks remark, and returns the
        digest of its source by setting of a trunk.

        Raises:
            InvalidInput: the data cannot be had, or another process has different data.
        """
        digests, by_source = {}, {}
        for setting in dict.fromkeys(setting.trunk for setting in self.study.spec.settings()):
            by_source.setdefault(data.source_key(self.study.at(setting).data), []).append(setting)
        for settings in by_source.values():
            specs = [self.study.at(setting).data for setting in settings]
            self.callbacks.do(f"reading {specs[0].name}")
            source = self._reader(specs[0])
            digests |= dict.fromkeys(settings, source.digest())
            for sentence in dict.fromkeys(data.usage(source, spec) for spec in specs):
                self.callbacks.say(sentence)
        multihost.require_same("data", content_hash(list(digests.values())))
        made = (tasks.abstract(self.study.at(setting)) for setting in digests)
        for remark in dict.fromkeys(remark for task in made for remark in task.remarks):
            self.callbacks.say(remark)
        return digests

    def forget_data(self) -> None:
        """Frees the data that `read_data` has read."""
        self._reader = data.Reader()

    def engine(self, setting: Setting) -> engines.Engine:
        """Returns the engine of a setting's network and data."""
        spec = self.study.at(setting)
        engine_id = engines.engine_id(spec)
        if self._engine is None or engines.engine_id(self._engine.spec) != engine_id:
            # One at a time: an engine holds its data on the device.
            self._engine = self._instruments = None
            self.callbacks.do(f"building {spec.model.name}")
            mesh = data_mesh() if jax.process_count() > 1 else None
            task = tasks.build(spec, self._reader(spec.data))
            self._engine = engines.Engine(spec, task, mesh=mesh)
        return self._engine

    def train(self, group: Sequence[Member], width: int = 1) -> None:
        """Does what members are for: trains a trunk and measures signals along it; prunes weights
        of trunks and trains what is left; compares replicates.

        Args:
            group: one member, or several forks of one shape.
            width: of the batch that forks make.

        Raises:
            Locked: what a fork needs of its trunk is being made by another process.
        """
        runs = []
        for member in group:
            if isinstance(member, Comparison):
                self._compare(member)
            elif isinstance(member, Trunk):
                runs.append(self._dense_run(member))
            elif run := self._pruned_run(member):
                runs.append(run)
        if runs:
            loop.train(runs, self.callbacks.stop, width)

    def _compare(self, comparison: Comparison) -> None:
        """Measures how alike the replicates of a cell have become."""
        study, engine = self.study, self.engine(comparison.setting)
        forks, own_records = comparison.forks(), study.records(comparison)
        described = members.described(study.spec, comparison, comparison.fork_epoch, 0)
        own_records.start(described | {DATA: self._digest(comparison)})
        for each, status in zip(forks, study.statuses(forks), strict=True):
            if status != "finished":
                reason, for_now = f"{label(each)} {status}", bool(study.left(forks))
                lost = {"status": "skipped", "reason": reason, "for_now": for_now}
                self._finish(comparison, lost)
                return
        networks = [self._final_state(engine, each) for each in forks]
        measures = study.spec.fork.comparisons
        measured = measurement.compare(measures, engine.log_probs(networks, "train"))
        self._finish(comparison, {"status": "finished", **measured})

    def _final_state(self, engine: engines.Engine, run: Fork) -> TrainState:
        """Returns the state that a finished run ended with.

        Raises:
            Locked: it is damaged or lost: the run is no longer finished, and is to be trained
                again first.
        """
        own_records = self.study.records(run)
        try:
            return engine.restored(self.study.store(run), (own_records.result() or {})["epoch"])
        except CheckpointError as error:
            with RunLocks() as run_locks:
                if on_primary(lambda: run_locks.take(own_records.directory)):
                    own_records.forget_result()
            self.callbacks.say(f"{error} {label(run)} is trained again.")
            raise Locked(str(own_records.directory)) from None

    def _finish(self, member: Member, result: dict[str, Any]) -> None:
        """Writes down how a member has ended, and tells of it."""
        self.study.records(member).finish(result)
        self.callbacks.end(label(member), result)

    def _affordable(self, engine: engines.Engine) -> tuple[measurement.Instrument, ...]:
        """Returns what is measured along every trunk of an engine, within its budget."""
        tools = measurement.instruments(engine)
        if not tools or engine.spec.signals.max_overhead_fraction == 0:
            return tools
        name = self._budget_file(engine.spec)
        decision = on_primary(lambda: self.study.budget(name))
        if decision is None:
            made = budget.decide(engine, tools)
            # What is decided first holds for all processes.
            decision = on_primary(lambda: self.study.budget(name, made)) or made
        return budget.limited(engine, tools, decision)

    def _budget_file(self, spec: RunSpec) -> str:
        name = f"{members.slug(spec.model.name)}_{spec.data.train_fraction:.10g}"
        return f"{name}-{engines.engine_id(spec)}.json"

    def _run(
        self, run: Run, training: Training, first_epoch: int, more: dict[str, Any], **parts: Any
    ) -> loop.Run:
        """Returns a run, ready to train, and says in run.json what it is."""
        study, engine, records = self.study, self.engine(run.setting), self.study.records(run)
        described = members.described(study.spec, run, first_epoch, training.num_epochs)
        described |= {DATA: self._digest(run)}
        if engine.task.assets:
            described[assets.KEY] = assets.paths(engine.task.assets)
        records.start(described | more | {"executions": self._executions(run, first_epoch)})
        return loop.Run(
            engine,
            training,
            first_epoch,
            prunable=engine.prunable(study.at(run.setting).pruning.layers),
            records=records,
            store=study.store(run),
            report=functools.partial(self.callbacks.report, label(run)),
            # At once: a batch may go on for long.
            end=functools.partial(self.callbacks.end, label(run)),
            **parts,
        )

    def _digest(self, member: Member) -> str:
        """Returns the digest of a member's data."""
        return self._reader(self.study.at(member.setting).data).digest()

    def _executions(self, run: Run, first_epoch: int) -> list[dict[str, Any]]:
        """Returns under which signatures a run's epochs were trained, and its next ones will be."""
        run_records, now = self.study.records(run), signature.signature()
        before = (run_records.description() or {}).get("executions", [])
        recorded = first_epoch + run_records.num_sound()
        # What is on record but not saved is trained again.
        saved = (epoch for epoch in self.study.store(run).epochs() if epoch <= recorded)
        epoch = max(saved, default=first_epoch)
        executions = signature.continued(before, epoch, now)
        if len(executions) > 1 and executions[-1][signature.FROM] == epoch:
            moved = ", ".join(signature.differences(executions[-2], now))
            ended = "no longer bitwise what it would have been"
            self.callbacks.say(f"{label(run)} goes on after epoch {epoch} with {moved}: {ended}.")
        return executions

    def _dense_run(self, trunk: Trunk) -> loop.Run:
        spec, engine = self.study.at(trunk.setting), self.engine(trunk.setting)
        if self._instruments is None:
            self._instruments = self._affordable(engine)
        source = self._reader(spec.data)
        mean, std = data.normalisation(source, spec.data)
        described = {
            "mean": list(mean),
            "std": list(std),
            "signal_budget": f"{BUDGETS}/{self._budget_file(spec)}",
        }
        return self._run(
            trunk,
            retraining.trunk(spec, engine.steps_per_epoch),
            0,
            described,
            initial=functools.partial(engine.new_state, trunk.trunk_seed),
            instruments=self._instruments,
            trigger=stopping_rule(spec),
            kept=kept_epochs(spec),
        )

    def _pruned_run(self, run: Fork) -> loop.Run | None:
        """Returns a pruned run; None, and says why, where it has nothing to start from."""
        study, spec, trunk = self.study, self.study.at(run.setting), trunk_of(run)
        dense_records, own_records = study.records(trunk), study.records(run)
        result = dense_records.result()
        history = as_history(dense_records.epochs(), spec.train.num_epochs)
        start = fork_point(spec, run, result, history)
        if start.sentence:
            self.callbacks.say(f"{label(run)}: {start.sentence}")
        if start.epoch is None:
            described = members.described(study.spec, run, start.dense_epochs, 0)
            own_records.start(described | start.described | {DATA: self._digest(run)})
            for_now = bool(result and result["status"] == "failed")
            result = {"status": "skipped", "reason": start.sentence, "for_now": for_now}
            self._finish(run, result)
            return None
        steps_per_epoch = self.engine(run.setting).steps_per_epoch
        training = retraining.training(spec, run.retraining, start.dense_epochs, steps_per_epoch)
        described = {
            "fork_epoch": start.epoch,
            **start.described,
            "parent": members.directory(study.spec, trunk),
            # None if the trunk's checkpoint has to be made again.
            "parent_sha256": study.store(trunk).sha256(start.epoch),
        }
        return self._run(
            run,
            training,
            start.epoch,
            described,
            initial=functools.partial(self._prune, run, start.epoch, training.reset_momentum),
            save_share=FORK_SAVE_SHARE,
            kept=frozenset(),
        )

    def _prune(self, run: Fork, epoch: int, reset_momentum: bool) -> TrainState:
        """Returns the trunk's state after an epoch, less the weights with the lowest scores."""
        engine, spec = self.engine(run.setting), self.study.at(run.setting)
        dense, pruning = self._dense_state(engine, trunk_of(run), epoch), spec.pruning
        seed = spec.data.split_seed
        numbers = engines.probe_indices(engine.num_train, pruning.num_examples, seed)
        mask = criteria.make_mask(
            engine,
            dense,
            criterion=run.criterion,
            scope=run.scope,
            sparsity=run.sparsity,
            prunable=engine.prunable(pruning.layers),
            examples=criteria.Examples(engine, numbers, pruning.batch_size),
        )
        return engine.place(fork(dense, mask, engine.optimizer, run.replicate, reset_momentum))

    def _dense_state(self, engine: engines.Engine, trunk: Trunk, epoch: int) -> TrainState:
        """Returns a trunk's state after an epoch; one that was not kept, or lost, is made again."""
        try:
            return engine.restored(self.study.store(trunk), epoch)
        except CheckpointError:
            directory = self.study.directory(trunk)
            with RunLocks() as run_locks:
                if not on_primary(lambda: run_locks.take(directory)):
                    raise Locked(str(directory)) from None
                return self._dense_run(trunk).state_after(epoch)
