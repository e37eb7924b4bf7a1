"""The story: begin, train dense and measure, prune and retrain, compare, tabulate.

A study is a workdir full of members. Processes take what is ready and free (`scheduler.work`):
`Trainer.train_dense` trains a dense run and measures signals along it, `Trainer.prune_and_retrain`
forks pruned runs from its checkpoints, `Trainer.compare` compares their replicates; `_tabulate`
writes tables, figures and the summary.
"""

import contextlib
from pathlib import Path

import jax
from rich.console import Console

from earlyprune_jax import workspace
from earlyprune_jax.analysis import results, summary
from earlyprune_jax.grid import options as running
from earlyprune_jax.grid import plan, scheduler
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.scheduler import EVERYTHING, Scope
from earlyprune_jax.grid.search import wanted_members
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import Trainer
from earlyprune_jax.grid.workers import Pool
from earlyprune_jax.progress import Reporter
from earlyprune_jax.spec import RunSpec, content_hash
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training import multihost
from earlyprune_jax.validate import InvalidInput

DONE, FAILED, UNFINISHED = 0, 1, 3
"""Exit codes: all members ended well; some diverged or failed; time was up."""

DEFAULT = Options()


def run(
    spec: RunSpec,
    workdir: Path | str,
    console: Console | None = None,
    *,
    options: Options = DEFAULT,
) -> str:
    """Does the whole experiment, or what is left of it, in a directory.

    Trains every trunk and every fork of the plan that has no result yet, going on from the newest
    checkpoint; writes results.csv, signals.csv and the figures. Finished work is never done twice,
    and a grid that has grown since trains its new cells only. A run that diverges or raises is
    recorded and the rest goes on. Several processes, on several machines too, may do this at once
    in one directory. Processes that `multihost.initialize` has joined do it as one: each run's
    batches are shared by all their devices, and process 0 alone reads and writes the workdir.

    Args:
        spec: from `config.resolve`.
        workdir: absent, empty, or holding this same study: only axes may differ.
        console: where progress goes; None = standard output.
        options: workers, batches, time limit.

    Returns:
        The closing summary.

    Raises:
        InvalidInput: the workdir holds another study or cannot be written, lacks what a fork starts
            from, or the data cannot be had or have changed.

    Example:
        >>> from configs import digits
        >>> from earlyprune_jax import config
        >>> spec = config.resolve(digits.get_config())
        >>> print(run(spec, "runs/digits"))     # doctest: +SKIP
    """
    study = Study(spec, Path(workdir))
    multihost.require_same("config", content_hash([spec.to_dict(), spec.code]))
    reporter = Reporter(study, console or Console(), writes_tables=True)
    deadline = running.deadline(options.max_minutes)
    trainer = Trainer(study, reporter.callbacks(deadline))
    if not multihost.is_primary():
        multihost.follow(trainer)
        return ""
    with multihost.leading(trainer) as trainer:
        require(study, options)
        is_begun = (study.workdir / "config.json").is_file()
        if is_begun and not study.left(wanted_members(study)):
            return _sum_up(trainer)
        begin(trainer, options)
        _train_prune_and_compare(trainer, options, deadline, reporter, EVERYTHING)
        return _tabulate(study.workdir)


def _train_prune_and_compare(
    trainer: Trainer, options: Options, deadline: float, reporter: Reporter, scope: Scope
) -> None:
    """Trains what is left: `Trainer.train_dense`, `.prune_and_retrain`, `.compare`; shows progress.

    In this process (`scheduler.work`), or in worker processes that do the same.
    """
    with reporter.shown():
        if options.num_workers > 1:
            # Workers read the data themselves.
            trainer.forget_data()
            Pool(trainer.study, trainer.callbacks, options, deadline, scope).run()
        else:
            scheduler.work(trainer, asked_width=options.fork_width, scope=scope)


def _tabulate(workdir: Path) -> str:
    """Writes tables and figures, and returns the summary, from one reading of the workdir."""
    runs = results.read_runs(workdir)
    results.publish(workdir, runs=runs)
    return summary.summarize(workdir, runs=runs)


def _sum_up(trainer: Trainer) -> str:
    """Returns the summary of a study that has ended, unless its data have changed since.

    Raises:
        InvalidInput: the data are others than those that the runs were trained on.
    """
    study = trainer.study
    try:
        digests = trainer.read_data()
    except InvalidInput as error:
        # The results can be read without the data.
        trainer.callbacks.say(f"The data cannot be compared with those of the runs: {error}")
    else:
        if problems := workspace.changed_data(study, digests):
            raise InvalidInput(problems)
    # All is there already: a read-only copy is good enough to be summed up.
    with contextlib.suppress(OSError):
        return _tabulate(study.workdir)
    return summary.summarize(study.workdir)


def take_part(study: Study, options: Options, scope: Scope, *, closes: bool) -> None:
    """Works on a study that `begin` has begun, beside others: what has failed stays so.

    Args:
        study: in whose workdir.
        options: workers, batches, time limit.
        scope: which members, and whether to wait for others.
        closes: writes the tables and figures at the end, and prints the summary.
    """
    reporter = Reporter(study, Console(), writes_tables=False)
    deadline = running.deadline(options.max_minutes)
    trainer = Trainer(study, reporter.callbacks(deadline))
    workspace.describe(study, options, trainer.read_data())
    _train_prune_and_compare(trainer, options, deadline, reporter, scope)
    if closes:
        print(_tabulate(study.workdir), flush=True)


def begin(trainer: Trainer, options: Options, *, trains: bool = True) -> None:
    """Reads the data, writes config.json and env.json, and lets members run again that failed.

    Args:
        trainer: of the study.
        options: workers and batches.
        trains: False = others will train, on other hardware perhaps.
    """
    study = trainer.study
    # Read before the first write: a data set that cannot be had must leave no trace.
    workspace.describe(study, options, trainer.read_data(), trains=trains)
    study.forget_failures(plan.members(study.spec))


def require(study: Study, options: Options) -> None:
    """Checks everything that speaks against starting; writes nothing.

    Raises:
        InvalidInput: with every problem.
    """
    problems = options.check() + options.check_backend()
    if jax.process_count() > 1:
        problems += options.check_multihost()
        problems += engines.indivisible(study.spec, jax.device_count())
    require_study(study, problems)


def require_study(study: Study, problems: list[str]) -> None:
    """Checks the workdir too; `problems` are those of the options, found already.

    Raises:
        InvalidInput: with every problem.
    """
    problems = problems + workspace.check(study.workdir, study.spec)
    if problems:
        raise InvalidInput(problems)


def exit_status(study: Study) -> int:
    """Returns how a study stands: `DONE`, `FAILED` or `UNFINISHED`."""
    statuses = multihost.on_primary(lambda: set(study.statuses(wanted_members(study))))
    if "unfinished" in statuses:
        return UNFINISHED
    return FAILED if statuses & {"failed", "diverged"} else DONE
