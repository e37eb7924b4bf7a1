"""The story on one screen: a plan, its trunks, their forks, the tables, the figure, the summary."""

import contextlib
import functools
from pathlib import Path

from rich.console import Console

from earlyprune_jax import data, progress, pruning, workspace
from earlyprune_jax.analysis import figures, results, summary
from earlyprune_jax.grid import plan
from earlyprune_jax.grid.plan import AnyRun, Fork, Trunk
from earlyprune_jax.records import RunRecords
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training import fork_scores, loop, state
from earlyprune_jax.training.checkpoint import CheckpointStore
from earlyprune_jax.training.engine import Engine
from earlyprune_jax.training.fork_rules import Training
from earlyprune_jax.training.loop import SavePolicy

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
    figures.draw_accuracy_vs_fork_epoch(workdir)


def _run_all(engine: Engine, members: list[AnyRun], workdir: Path, console: Console) -> None:
    trainings = {member: member.training(engine.spec, engine.steps_per_epoch) for member in members}
    with progress.shown(sum(training.num_epochs for training in trainings.values()), console) as advance:
        for member, training in trainings.items():
            _run_one(engine, member, training, workdir, functools.partial(advance, member.label))
            for _ in range(training.num_epochs - len(_records(workdir, member).epochs())):
                advance(member.label, None)
            results.write_tables(workdir)


def _run_one(engine: Engine, member: AnyRun, training: Training, workdir: Path, report: loop.Report) -> None:
    records = _records(workdir, member)
    records.start(plan.identity(member, training.num_epochs) | _parentage(workdir, member))
    reason = _unreachable(workdir, member)
    if reason:
        records.finish({"status": "skipped", "reason": reason})
        return
    prepared = _prepare(engine, member, training, workdir)
    loop.train(engine, prepared, records, _store(workdir, member), report)


def _parentage(workdir: Path, member: AnyRun) -> dict[str, str | None]:
    """Which saved state a fork starts from, for run.json; no digest if it has to be made again."""
    if isinstance(member, Trunk):
        return {}
    trunk = Trunk(member.trunk_seed)
    return {"parent": trunk.directory, "parent_sha256": _store(workdir, trunk).sha256(member.fork_epoch)}


def _prepare(engine: Engine, member: AnyRun, training: Training, workdir: Path) -> loop.Run:
    if isinstance(member, Trunk):
        initial = functools.partial(engine.new_state, member.trunk_seed)
        only_forks = engine.spec.train.keep_checkpoints == "fork_epochs"
        save = SavePolicy(0, frozenset(engine.spec.fork.epochs) if only_forks else None)
        return loop.Run(training, 0, initial, measure=True, save=save)
    initial = functools.partial(_prune, engine, member, training, workdir)
    save = SavePolicy(FORK_SAVE_SECONDS, frozenset())
    return loop.Run(training, member.fork_epoch, initial, measure=False, save=save)


def _prune(engine: Engine, fork: Fork, training: Training, workdir: Path) -> state.TrainState:
    """The fork's first state: its trunk at the fork epoch, less the weights with the lowest scores."""
    trunk = Trunk(fork.trunk_seed)
    prepared = _prepare(engine, trunk, trunk.training(engine.spec, engine.steps_per_epoch), workdir)
    dense = loop.state_after(engine, prepared, _store(workdir, trunk), fork.fork_epoch)
    scores = fork_scores.CRITERIA[fork.criterion](engine, dense)
    mask = pruning.allocate(scores, engine.prunable, sparsity=fork.sparsity, scope=fork.scope)
    reset = training.reset_momentum
    pruned = state.fork(dense, mask, engine.optimizer, replicate=fork.replicate, reset_momentum=reset)
    return engines.on_device(pruned)


def _unreachable(workdir: Path, member: AnyRun) -> str:
    """Why a fork's trunk never got to the fork epoch, or nothing."""
    if isinstance(member, Trunk):
        return ""
    trunk = Trunk(member.trunk_seed)
    ended = _records(workdir, trunk).result()
    if ended and ended["status"] == "diverged" and ended["epoch"] <= member.fork_epoch:
        return f"{trunk.label} diverged in epoch {ended['epoch']}"
    return ""


def _records(workdir: Path, member: AnyRun) -> RunRecords:
    return RunRecords(workdir / member.directory)


def _store(workdir: Path, member: AnyRun) -> CheckpointStore:
    return CheckpointStore(workdir / member.directory / "checkpoints")
