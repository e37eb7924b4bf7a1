"""The story on one screen: a plan, its trunks, their forks, the tables, the figure, the summary."""

import contextlib
import functools
from pathlib import Path

from rich.console import Console

from earlyprune_jax import data, progress, pruning, workspace
from earlyprune_jax.analysis import figures, results, rules, summary
from earlyprune_jax.grid import plan
from earlyprune_jax.grid.departures import departure, stopping_rule
from earlyprune_jax.grid.plan import AnyRun, Fork, Online, Trunk
from earlyprune_jax.records import RunRecords, flat
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.training import budget, fork_rules, fork_scores, loop, measurement, state
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training.checkpoint import CheckpointStore
from earlyprune_jax.training.engine import Engine
from earlyprune_jax.training.fork_rules import Training
from earlyprune_jax.training.loop import SavePolicy, Watch

FORK_SAVE_SECONDS = 60.0


def run(spec: RunSpec, workdir: Path | str, console: Console | None = None) -> str:
    """Does the whole experiment, or what is left of it, in a directory.

    Trains every trunk and every fork of the plan that has no result yet, going on from the
    newest checkpoint; writes results.csv, signals.csv and the figure; returns the summary.
    Finished work is never done twice. A run that diverges is recorded and the rest goes on.

    Args:
        spec: from `config.resolve`.
        workdir: absent, empty, or holding this same experiment.
        console: where progress goes; None = standard output.

    Returns:
        The closing summary.

    Raises:
        InvalidInput: the workdir holds another experiment, is in use or cannot be written, or
            the data cannot be had or have changed.

    Example:
        >>> from configs import digits
        >>> from earlyprune_jax import config
        >>> spec = config.resolve(digits.get_config())
        >>> print(run(spec, "runs/digits"))     # doctest: +SKIP
    """
    workdir = Path(workdir)
    workspace.require(workdir, spec)
    if (workdir / "config.json").is_file() and not _unfinished(workdir, spec):
        # All is there already: a read-only copy is good enough to be summed up.
        with contextlib.suppress(OSError):
            _publish(workdir)
        return summary.summarize(workdir)
    # Before the first write: a data set that cannot be had must leave no trace.
    dataset = data.load(spec.data)
    with workspace.locked(workdir):
        workspace.require(workdir, spec)
        engine = engines.build(spec, dataset)
        workspace.describe(workdir, spec, form=engine.form, data_digest=dataset.digest())
        _run_all(engine, _unfinished(workdir, spec), workdir, console or Console())
        _publish(workdir)
    return summary.summarize(workdir)


def _unfinished(workdir: Path, spec: RunSpec) -> list[AnyRun]:
    return [member for member in plan.runs(spec) if _records(workdir, member).result() is None]


def _publish(workdir: Path) -> None:
    results.write_tables(workdir)
    rules.write(workdir)
    figures.draw_accuracy_vs_fork_epoch(workdir)


def _run_all(engine: Engine, members: list[AnyRun], workdir: Path, console: Console) -> None:
    watch = _watch(engine, workdir, console)
    trainings = {member: member.training(engine.spec, engine.steps_per_epoch) for member in members}
    with progress.shown(sum(training.num_epochs for training in trainings.values()), console) as advance:
        for member, training in trainings.items():
            report = functools.partial(advance, member.label)
            if isinstance(member, Trunk):
                _run_trunk(engine, member, watch, workdir, report)
            else:
                _run_pruned(engine, member, watch, workdir, report, console)
            for _ in range(training.num_epochs - len(_records(workdir, member).epochs())):
                advance(member.label, None)
            results.write_tables(workdir)


def _watch(engine: Engine, workdir: Path, console: Console) -> Watch:
    """What is measured along every trunk, within its budget, and the rule that may end them."""
    tools = measurement.instruments(engine)
    sampling = budget.sampling(engine, tools, workdir)
    full = measurement.full_sampling(engine, tools)
    for name in (name for name in sampling if sampling[name] != full[name]):
        progress.say(console, budget.sentence(name, sampling[name], engine.spec))
    return Watch(tools, sampling, stopping_rule(engine.spec))


def _run_trunk(engine: Engine, trunk: Trunk, watch: Watch, workdir: Path, report: loop.Report) -> None:
    prepared = _prepare_trunk(engine, trunk, watch)
    records = _records(workdir, trunk)
    records.start(plan.identity(trunk, 0, prepared.training.num_epochs))
    loop.train(engine, prepared, records, _store(workdir, trunk), report)


def _prepare_trunk(engine: Engine, trunk: Trunk, watch: Watch) -> loop.Run:
    initial = functools.partial(engine.new_state, trunk.trunk_seed)
    only_forks = engine.spec.train.keep_checkpoints == "fork_epochs"
    save = SavePolicy(0, plan.kept_epochs(engine.spec) if only_forks else None)
    training = trunk.training(engine.spec, engine.steps_per_epoch)
    return loop.Run(training, 0, initial, watch, save)


def _run_pruned(
    engine: Engine,
    member: Fork | Online,
    watch: Watch,
    workdir: Path,
    report: loop.Report,
    console: Console,
) -> None:
    """Prunes a trunk where the plan or the trigger says, and trains what is left of its epochs."""
    trunk, records = Trunk(member.trunk_seed), _records(workdir, member)
    dense = _records(workdir, trunk)
    leaving = departure(engine.spec, member, dense.result(), [flat(entry) for entry in dense.epochs()])
    if leaving.sentence:
        progress.say(console, f"{member.label}: {leaving.sentence}")
    if leaving.fork is None:
        records.start(plan.identity(member, leaving.dense_epochs, 0) | leaving.described)
        records.finish({"status": "skipped", "reason": leaving.sentence})
        return
    fork, store = leaving.fork, _store(workdir, trunk)
    training = fork_rules.RULES[fork.rule](engine.spec, leaving.dense_epochs, engine.steps_per_epoch)
    identity = plan.identity(member, fork.fork_epoch, training.num_epochs) | {"fork_epoch": fork.fork_epoch}
    # No digest if the trunk's checkpoint has to be made again.
    parentage = {"parent": trunk.directory, "parent_sha256": store.sha256(fork.fork_epoch)}
    records.start(identity | leaving.described | parentage)
    initial = functools.partial(_prune, engine, fork, training, _prepare_trunk(engine, trunk, watch), store)
    save = SavePolicy(FORK_SAVE_SECONDS, frozenset())
    prepared = loop.Run(training, fork.fork_epoch, initial, loop.NOT_WATCHED, save)
    loop.train(engine, prepared, records, _store(workdir, member), report)


def _prune(
    engine: Engine, fork: Fork, training: Training, trunk: loop.Run, store: CheckpointStore
) -> state.TrainState:
    """The fork's first state: its trunk at the fork epoch, less the weights with the lowest scores."""
    dense = loop.state_after(engine, trunk, store, fork.fork_epoch)
    scores = fork_scores.CRITERIA[fork.criterion](engine, dense)
    mask = pruning.allocate(scores, engine.prunable, sparsity=fork.sparsity, scope=fork.scope)
    reset = training.reset_momentum
    pruned = state.fork(dense, mask, engine.optimizer, replicate=fork.replicate, reset_momentum=reset)
    return engines.on_device(pruned)


def _records(workdir: Path, member: AnyRun) -> RunRecords:
    return RunRecords(workdir / member.directory)


def _store(workdir: Path, member: AnyRun) -> CheckpointStore:
    return CheckpointStore(workdir / member.directory / "checkpoints")
