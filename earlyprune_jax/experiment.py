"""The story: begin, train dense and measure, prune and retrain, compare, tabulate.

A study is a workdir full of members. Processes take what is ready and free (`scheduler.work`):
`Trainer.train` trains a dense run and measures signals along it, forks pruned runs from its
checkpoints, or compares their replicates; `_finish` writes tables, figures and the summary.
"""

import contextlib
import errno
import functools
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import jax
from rich.console import Console

from earlyprune_jax import leaving, tasks, triggers, workspace
from earlyprune_jax.analysis import formatting, results, summary
from earlyprune_jax.analysis.runs import Table
from earlyprune_jax.grid import locks, plan, scheduler, signature
from earlyprune_jax.grid import options as running
from earlyprune_jax.grid.members import Comparison, Run, Trunk
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.scheduler import EVERYTHING, Scope
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import Trainer
from earlyprune_jax.grid.workers import Pool, step_seconds
from earlyprune_jax.leaving import DONE, FAILED, UNFINISHED
from earlyprune_jax.metrics import duration
from earlyprune_jax.progress import Reporter, standard_output
from earlyprune_jax.published import reproduce
from earlyprune_jax.spec import RunSpec, Setting, content_hash
from earlyprune_jax.storage import NotPermitted, StorageError, free_bytes
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training import measurement, multihost, optim
from earlyprune_jax.validate import InvalidInput, refuse

DEFAULT = Options()
MOST_OTHERS = 4
"""So many other processes are named."""


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
        options: workers, batches, time limit, verbosity.

    Returns:
        The closing summary, a text. A notebook shows it with the workdir's figures and tables.

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
    console = console or standard_output()
    reporter = Reporter(study, console, writes_tables=True, verbose=options.verbose)
    deadline = running.deadline(options.max_minutes)
    trainer = Trainer(study, reporter.callbacks(deadline))
    if not multihost.is_primary():
        multihost.follow(trainer)
        return ""
    with multihost.leading(trainer) as trainer:
        require(study, options)
        is_begun = (study.workdir / "config.json").is_file()
        with contextlib.suppress(InvalidInput):  # Of damaged records, which are mended, or again.
            workspace.require_sound(study.workdir)
            is_done = is_begun and not study.left(study.wanted_members())
            if is_done and workspace.last_figure(study.workdir) == spec.figure.name:
                return _sum_up(trainer)
        study.mend_ended(plan.members(spec), trainer.callbacks.say)
        begin(trainer, options)
        _train_prune_and_compare(trainer, options, deadline, reporter, EVERYTHING)
        return _finish(study)


def _train_prune_and_compare(
    trainer: Trainer, options: Options, deadline: float, reporter: Reporter, scope: Scope
) -> None:
    """Trains what is left, and shows progress.

    In this process (`scheduler.work`), or in worker processes that do the same.
    """
    _tell_of_others(trainer, scope)
    leaving.farewells[:] = [functools.partial(_leave_in_order, trainer.study.workdir)]
    with reporter.shown():
        if options.num_workers > 1:
            # Workers read the data themselves.
            trainer.forget_data()
            trainer.callbacks.do(f"starting {options.num_workers} workers")
            Pool(trainer.study, trainer.callbacks, options, deadline, scope).run()
        else:
            scheduler.work(trainer, asked_width=options.fork_width, scope=scope)


def _leave_in_order(workdir: Path) -> None:
    """Notes that what this process and its workers are at has not killed them."""
    workers = (worker.pid for worker in leaving.children)
    locks.forget_attempts(workdir, {os.getpid(), *workers})


def _tell_of_others(trainer: Trainer, scope: Scope) -> None:
    """Says who else is at work, and what that means."""
    if others := locks.holders(trainer.study.workdir):
        named = formatting.listed(others, at_most=MOST_OTHERS)
        rest = ", and waits for the rest" if scope.waits else ""
        shares = f"This process takes what is free{rest}; no run is trained twice"
        trainer.callbacks.say(f"Others are at work in this workdir: {named}. {shares}.")


def _finish(study: Study) -> str:
    """Writes tables and figures, and returns the summary, from one reading of the workdir."""
    workspace.close(study)
    runs = results.read_runs(study.workdir)
    results.publish(study.workdir, runs=runs)
    own = reproduce.own_runs(study.workdir, runs)
    reproduce.write(study.workdir, own)
    return summary.summarize(study.workdir, runs=own)


def _sum_up(trainer: Trainer) -> str:
    """Returns the summary of a study that has ended, unless its data have changed since.

    Raises:
        InvalidInput: the data are others than those that the runs were trained on.
    """
    study, digests = trainer.study, {}
    try:
        digests = trainer.read_data()
    except InvalidInput as error:
        # The results can be read without the data.
        trainer.callbacks.say(f"The data cannot be compared with those of the runs: {error}")
    else:
        refuse(workspace.changed_data(study, digests))
    try:
        if digests:
            workspace.keep_assets(study, trainer.callbacks.say)
        return _finish(study)
    except (OSError, NotPermitted) as error:
        # All is there already: a read-only copy is good enough to be summed up.
        if isinstance(error, StorageError) and error.errno != errno.EROFS:
            raise
        trainer.callbacks.say(f"Tables and figures were not written: {error}")
    return summary.summarize(study.workdir)


def take_part(study: Study, options: Options, scope: Scope, *, closes: bool) -> None:
    """Works on a study that `begin` has begun, beside others: what has failed stays so.

    Args:
        study: in whose workdir.
        options: workers, batches, time limit.
        scope: which members, and whether to wait for others.
        closes: writes the tables and figures at the end, and prints the summary.
    """
    reporter = Reporter(study, Console(), writes_tables=False, verbose=options.verbose)
    deadline = running.deadline(options.max_minutes)
    trainer = Trainer(study, reporter.callbacks(deadline))
    if options.require_exact:
        refuse(signature.inexact(study, plan.members(study.spec), options))
    workspace.describe(study, options, trainer.read_data())
    workspace.keep_assets(study, trainer.callbacks.say)
    _train_prune_and_compare(trainer, options, deadline, reporter, scope)
    if closes:
        print(_finish(study), flush=True)


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
    workspace.keep_assets(study, trainer.callbacks.say)
    study.forget_failures(plan.members(study.spec))


def require(study: Study, options: Options) -> None:
    """Checks everything that speaks against starting; writes nothing.

    Raises:
        InvalidInput: with every problem.
    """
    problems = options.check() + options.check_backend()
    if jax.process_count() > 1:
        problems += options.check_multihost()
        problems += multihost.indivisible(study.spec, jax.device_count())
    refuse(problems + workspace.check(study.workdir, study.spec))
    if options.require_exact:
        refuse(signature.inexact(study, plan.members(study.spec), options))


def exit_status(study: Study) -> int:
    """Returns how a study stands: `DONE`, `FAILED` or `UNFINISHED`."""
    statuses = multihost.on_primary(lambda: set(study.statuses(study.wanted_members())))
    if "unfinished" in statuses:
        return UNFINISHED
    return FAILED if statuses & {"failed", "diverged"} else DONE


# What an experiment would do: writes nothing


def preview(study: Study, options: Options = DEFAULT, *, measure: bool = False) -> str:
    """Writes the resolved config, a table of the runs and what they cost, and the totals.

    Args:
        study: the spec, and the workdir in which part of it may be done already.
        options: workers among which the estimated time is divided.
        measure: time a few training steps of every network and data fraction, and estimate the
            whole.

    Returns:
        The text, of many lines.

    Example:
        >>> from pathlib import Path
        >>> from configs import digits
        >>> from earlyprune_jax import config
        >>> study = Study(config.resolve(digits.get_config()), Path("no/such/workdir"))
        >>> print(preview(study).splitlines()[-1].split(";")[0])
        Disk: 150 checkpoints, about 57 MB
    """
    table = _table(study)
    lines = [
        json.dumps(study.spec.to_dict(), indent=2),
        "",
        f"Runs (study {study.spec.study_id()}):",
        table.drop(columns=["engine", "bytes"]).to_string(index=False, max_rows=40),
        "",
        *_totals(study, table, options, measure=measure),
    ]
    return "\n".join(lines)


def estimate(study: Study, options: Options = DEFAULT) -> str:
    """Writes what an experiment costs: the last lines of `preview`, with the time.

    Args:
        study: as of `preview`.
        options: as of `preview`.

    Returns:
        The totals of runs, steps, time and disk, in lines of at most 100 characters.

    Example:
        >>> print(estimate(study))     # doctest: +SKIP
    """
    totals = _totals(study, _table(study), options, measure=True)
    return "\n".join(map(formatting.wrapped, totals))


def _totals(study: Study, table: Table, options: Options, *, measure: bool) -> Iterator[str]:
    spec, total = study.spec, table.sum(numeric_only=True)
    num_comparisons = len(study.wanted_members()) - total["runs"]
    yield (
        f"Total: {total['runs']} runs, {total['epochs']} epochs, {total['steps']} training steps; "
        f"{num_comparisons} comparisons of replicates"
    )
    yield f"Left to do: {total['runs left']} runs, {total['steps left']} training steps"
    if spec.fork.when == "trigger":
        yield (
            f"{triggers.label(spec.fork.trigger)} decides: these are the most epochs and steps; "
            f"dense and pruned part share {spec.train.num_epochs} epochs"
        )
    if spec.fork.search == "coarse_to_fine":
        yield "Then come the cells around the best of these, within fork.max_cells"
    if measure:
        yield _time_line(spec, table, options)
        settings = (study.at(setting) for setting in spec.settings())
        left = (measurement.left_to_vmap(own, tasks.abstract(own)) for own in settings)
        if notes := dict.fromkeys(itertools.chain(*left)):
            yield f"tr(F) is measured layer by layer, except: {formatting.listed([*notes], 3)}"
    yield (
        f"Disk: {total['checkpoints']} checkpoints, about {total['bytes'] / 1e6:.0f} MB; "
        f"{free_bytes(study.workdir) / 1e6:.0f} MB free"
    )


def _table(study: Study) -> Table:
    """Adds up the runs of every setting, trunks and pruned ones apart: a row each."""
    import pandas as pd

    runs = [one for one in study.wanted_members() if not isinstance(one, Comparison)]
    groups: dict[tuple[Setting, str], list[Run]] = {}
    for run in runs:
        kind = "trunks" if isinstance(run, Trunk) else "pruned"
        groups.setdefault((run.setting, kind), []).append(run)
    rows = []
    for (setting, kind), members in groups.items():
        own, left = study.at(setting), study.left(members)
        task = tasks.abstract(own)
        make_state = engines.state_maker(task, optim.make(own.optim, task.optimizer))
        state = jax.eval_shape(make_state, jax.ShapeDtypeStruct((2,), "uint32"))
        sizes = {
            "steps_per_epoch": task.batching.steps_per_epoch,
            "state_bytes": plan.tree_bytes(state),
        }
        cost, cost_left = (plan.cost(own, some, **sizes) for some in (members, left))
        row = {"network": own.model.name, "setting": setting.words(), "kind": kind}
        row |= {f"{name} examples": num for name, num in task.batching.num_examples.items()}
        row |= {"runs": len(members), "epochs": cost.num_epochs, "steps": cost.num_steps}
        row |= {"runs left": len(left), "steps left": cost_left.num_steps}
        row |= {"checkpoints": cost.num_checkpoints, "bytes": cost.disk_bytes}
        rows.append({**row, "engine": engines.engine_id(own)})
    return pd.DataFrame(rows)


def _time_line(spec: RunSpec, table: Table, options: Options) -> str:
    """Estimates the time of all steps that are left, from a few of each network and data fraction
    on a worker's share of the cores."""
    cores = running.shares(running.usable_cores(), options.num_workers)[0]
    timed = step_seconds(spec, cores)
    left = zip(table["engine"], table["steps left"], strict=True)
    seconds = sum(timed[engine] * num_steps for engine, num_steps in left)
    names = dict(zip(table["engine"], table["network"], strict=True))
    steps = ", ".join(f"{names[engine]} {1000 * value:.1f} ms" for engine, value in timed.items())
    seconds /= options.num_workers
    about = "under 1 min" if seconds < 60 else f"about {duration(seconds)}"
    return (
        f"Time: {about} for the training steps left (workers: {options.num_workers}, each on "
        f"cores: {len(cores)}; a step, measured now, forks one by one: {steps}); evaluation, "
        "signals and compilation come on top"
    )
