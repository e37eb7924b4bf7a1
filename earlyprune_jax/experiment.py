"""The story on one screen: a plan, its trunks, their forks, the tables, the figure, the summary."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
from rich.console import Console

from earlyprune_jax import data, progress, pruning, workspace
from earlyprune_jax.analysis import figures, results, summary
from earlyprune_jax.grid import plan
from earlyprune_jax.grid.plan import AnyRun, Fork, Trunk
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training import loop, optim, state, tasks
from earlyprune_jax.training.checkpoint import CheckpointError, CheckpointStore
from earlyprune_jax.training.engine import Engine
from earlyprune_jax.training.loop import SavePolicy
from earlyprune_jax.training.records import RunRecords
from earlyprune_jax.validate import InvalidInput

FORK_SAVE_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a call of `run` leaves: the closing text, and runs that could not be completed."""

    summary: str
    failures: tuple[str, ...]


def run(spec: RunSpec, workdir: Path, console: Console | None = None) -> Outcome:
    """Does the whole experiment, or what is left of it, in a directory.

    Trains every trunk and every fork of the plan that has no result yet, going on from the
    newest checkpoint; writes results.csv, signals.csv and the figure; returns the summary.
    Finished work is never done twice. A run that diverges is recorded and the rest goes on.

    Args:
        spec: from `config.resolve`.
        workdir: absent, empty, or holding this same experiment.
        console: where progress goes; None = standard output.

    Raises:
        InvalidInput: the workdir holds another experiment or is in use, or the data cannot be had.

    Example:
        >>> from configs import digits
        >>> from earlyprune_jax import config
        >>> spec = config.resolve(digits.get_config())
        >>> outcome = run(spec, Path("runs/digits"))     # doctest: +SKIP
    """
    problems = workspace.check(workdir, spec)
    if problems:
        raise InvalidInput(problems)
    unfinished = [member for member in plan.runs(spec) if _records(workdir, member).result() is None]
    if not unfinished and (workdir / "config.json").is_file():
        return Outcome(_publish(workdir), ())
    # Before the first write: a data set that cannot be had must leave no trace.
    dataset = data.load(spec.data)
    workdir.mkdir(parents=True, exist_ok=True)
    with workspace.locked(workdir):
        engine = engines.build(spec, dataset)
        workspace.describe(workdir, spec, form=engine.form, data_digest=dataset.digest())
        failures = _run_all(engine, unfinished, workdir, console or Console())
    return Outcome(_publish(workdir), failures)


def _run_all(engine: Engine, unfinished: list[AnyRun], workdir: Path, console: Console) -> tuple[str, ...]:
    failures = []
    lengths = {
        member: member.training(engine.spec, engine.steps_per_epoch).num_epochs for member in unfinished
    }
    with progress.shown(sum(lengths.values()), console) as advance:
        for member in unfinished:
            records = _records(workdir, member)
            try:
                _run_one(engine, member, workdir, functools.partial(advance, member.label))
            except CheckpointError as error:
                failures.append(f"{member.label}: {error}")
            for _ in range(lengths[member] - len(records.epochs())):
                advance(member.label, None)
            results.write_tables(workdir)
    return tuple(failures)


def _run_one(engine: Engine, member: AnyRun, workdir: Path, report: loop.Report) -> None:
    training = member.training(engine.spec, engine.steps_per_epoch)
    records, store = _records(workdir, member), _store(workdir, member)
    records.start(plan.identity(member, training.num_epochs))
    if isinstance(member, Trunk):
        keep = (
            frozenset(engine.spec.fork.epochs)
            if engine.spec.train.keep_checkpoints == "fork_epochs"
            else None
        )
        initial = functools.partial(engine.new_state, member.trunk_seed)
        dense = loop.Run(training, 0, initial, measure=True, save=SavePolicy(0, keep))
        loop.train(engine, dense, records, store, report)
        return
    reason = _unreachable(workdir, member)
    if reason:
        records.finish(
            {"status": "skipped", "epoch": None, "step": None, "achieved_sparsity": None, "reason": reason}
        )
        return
    initial = functools.partial(_fork_state, engine, member, workdir, training.reset_momentum)
    save = SavePolicy(FORK_SAVE_SECONDS, frozenset())
    pruned = loop.Run(training, member.fork_epoch, initial, measure=False, save=save)
    loop.train(engine, pruned, records, store, report)


def _fork_state(engine: Engine, fork: Fork, workdir: Path, reset_momentum: bool) -> state.TrainState:
    parent = _store(workdir, Trunk(fork.trunk_seed))
    dense = parent.restore(fork.fork_epoch, engine.state_shapes())
    scores = pruning.CRITERIA[fork.criterion](dense.params)
    mask = pruning.allocate(scores, engine.prunable, sparsity=fork.sparsity, scope=fork.scope)
    pruned = state.fork(
        dense, mask, engine.optimizer, replicate=fork.replicate, reset_momentum=reset_momentum
    )
    return engines.on_device(pruned)


def _unreachable(workdir: Path, fork: Fork) -> str:
    """Why the trunk never got to the fork's epoch, or nothing."""
    trunk = Trunk(fork.trunk_seed)
    ended = _records(workdir, trunk).result()
    if ended and ended["status"] == "diverged" and ended["epoch"] <= fork.fork_epoch:
        return f"{trunk.label} diverged in epoch {ended['epoch']}"
    return ""


def _records(workdir: Path, member: AnyRun) -> RunRecords:
    return RunRecords(workdir / member.directory)


def _store(workdir: Path, member: AnyRun) -> CheckpointStore:
    return CheckpointStore(workdir / member.directory / "checkpoints")


def _publish(workdir: Path) -> str:
    results.write_tables(workdir)
    figures.draw_accuracy_vs_fork_epoch(workdir)
    return summary.summarize(workdir)


def preview(spec: RunSpec) -> str:
    """What `run` would do, without touching anything: config, runs, steps, disk."""
    sizes = data.sizes(spec.data)
    per_epoch = data.steps_per_epoch(sizes.num_train, spec.train.batch_size)
    task = tasks.classification(
        spec.data, spec.model, precision=spec.train.precision, image_shape=sizes.image_shape
    )
    cost = plan.cost(spec, steps_per_epoch=per_epoch, state_bytes=_state_bytes(spec, task))
    lines = [json.dumps(spec.to_dict(), indent=2), "", f"Runs (id {spec.run_id()}):"]
    for member in plan.runs(spec):
        length = member.training(spec, per_epoch).num_epochs
        lines.append(f"  {member.directory}: {length} epochs, {length * per_epoch} steps")
    lines += [
        "",
        f"Images: {sizes.num_train} train, {sizes.num_validation} validation, {sizes.num_test} test, "
        f"{per_epoch} steps an epoch",
        f"Total: {len(plan.runs(spec))} runs, {cost.num_epochs} epochs, {cost.num_steps} training steps",
        f"Disk: {cost.num_checkpoints} checkpoints, about {cost.disk_bytes / 1e6:.0f} MB",
    ]
    return "\n".join(lines)


def _state_bytes(spec: RunSpec, task: tasks.Task) -> int:
    make = engines.state_maker(task, optim.sgd(spec.optim))
    return plan.tree_bytes(jax.eval_shape(make, jax.ShapeDtypeStruct((2,), "uint32")))
