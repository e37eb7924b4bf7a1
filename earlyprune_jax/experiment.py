"""The story on one screen: a study, what is left of it, this process or a pool at work, tables,
summary."""

import contextlib
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path

import jax
from rich.console import Console

from earlyprune_jax import data, progress, tasks, workspace
from earlyprune_jax.analysis import publish, results, summary
from earlyprune_jax.grid import options, plan, pool
from earlyprune_jax.grid.agenda import agenda
from earlyprune_jax.grid.members import Comparison, Member
from earlyprune_jax.grid.options import ALONE, Options
from earlyprune_jax.grid.pool import Pool
from earlyprune_jax.grid.run import orders, work
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import Talk, Trainer
from earlyprune_jax.spec import RunSpec, Setting, content_hash
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training.execution import execution_form
from earlyprune_jax.training.hosts import on_primary, require_same
from earlyprune_jax.validate import InvalidInput

DONE, FAILED, UNFINISHED = 0, 1, 3
"""How an experiment stands, as exit codes: all members ended well; some diverged or failed; time
was up."""

TABLES_SHARE = 0.05
"""Tables are written along the way as long as that takes at most this part of the time."""


def run(
    spec: RunSpec, workdir: Path | str, console: Console | None = None, *, how: Options = ALONE
) -> str:
    """Does the whole experiment, or what is left of it, in a directory.

    Trains every trunk and every fork of the plan that has no result yet, going on from the
    newest checkpoint; writes results.csv, signals.csv and the figures; returns the summary.
    Finished work is never done twice, and a grid that has grown since trains its new cells only. A
    run that diverges or raises is recorded and the rest goes on. Several processes, on several
    machines too, may do this at once in one directory. Processes that `hosts.initialize` has joined
    do it as one: each run's batches are shared by all their devices, and process 0 alone reads and
    writes the workdir.

    Args:
        spec: from `config.resolve`.
        workdir: absent, empty, or holding this same study: only axes may differ.
        console: where progress goes; None = standard output.
        how: workers, batches, time limit.

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
    require_same("config", content_hash([spec.to_dict(), spec.code]))
    finished = on_primary(lambda: _finished_earlier(study, how))
    if finished is not None:
        return finished
    console = console or Console()
    reader = begin(study, how)
    _carry_out(study, reader, how, console, _Tables(study.workdir, console).write_if_cheap)
    return on_primary(lambda: _publish(study.workdir))


def _finished_earlier(study: Study, how: Options) -> str | None:
    """The summary of a study that has been finished; None where something is left to do."""
    require(study, how)
    if not (study.workdir / "config.json").is_file() or study.left(agenda(study)):
        return None
    # All is there already: a read-only copy is good enough to be summed up.
    with contextlib.suppress(OSError):
        return _publish(study.workdir)
    return summary.summarize(study.workdir)


def begin(study: Study, how: Options, *, trains: bool = True) -> data.Reader:
    """Reads the data, writes config.json and env.json, and lets members run again that failed.

    Args:
        study: what is to be done.
        how: workers and batches.
        trains: False = others will train, on other hardware perhaps.

    Returns:
        What has read the data, and holds the last of them.
    """
    # Before the first write: a data set that cannot be had must leave no trace.
    reader = _enter(study, how, trains)
    on_primary(lambda: study.forget_failures(plan.members(study.spec)))
    return reader


def take_part(study: Study, how: Options, *, closes: bool = False) -> None:
    """Works on a study that `begin` has begun, beside others: what has failed stays so.

    Args:
        study: in whose workdir.
        how: workers, batches, time limit, and which members: `how.only`.
        closes: writes the tables and figures at the end, and prints the summary.
    """
    _carry_out(study, _enter(study, how, trains=True), how, Console(), lambda: None)
    if closes:
        print(_publish(study.workdir), flush=True)


def _enter(study: Study, how: Options, trains: bool) -> data.Reader:
    spec, reader = study.spec, data.Reader()
    form, digests = execution_form(jax.default_backend()), _data_digests(study, reader)
    require_same("data", content_hash(list(digests.values())))
    task = tasks.abstract(spec.at(spec.settings()[0]))
    on_primary(
        lambda: workspace.describe(
            study.workdir, spec, form=form, data_digests=digests, task=task, how=how, trains=trains
        )
    )
    return reader


def _data_digests(study: Study, reader: data.Reader) -> dict[Setting, str]:
    """Setting of a trunk -> the digest of its data; each source is read once."""
    read: dict[tuple[str, int], str] = {}
    found = {}
    for setting in dict.fromkeys(setting.trunk for setting in study.spec.settings()):
        own = study.at(setting).data
        key = (own.name, own.num_classes)
        if key not in read:
            read[key] = reader(own).digest()
        found[setting] = read[key]
    return found


def require(study: Study, how: Options) -> None:
    """Raises InvalidInput with everything that speaks against starting; nothing is written."""
    problems = how.check() + pool.check(how)
    if jax.process_count() > 1:
        problems += how.check_together() + engines.indivisible(study.spec, jax.device_count())
    require_study(study, problems)


def require_study(study: Study, problems: list[str]) -> None:
    """As `require`, with the problems of how to do it found already."""
    problems = problems + workspace.check(study.workdir, study.spec)
    if not problems:
        problems = study.check()
    if problems:
        raise InvalidInput(problems)


def standing(spec: RunSpec, workdir: Path | str) -> int:
    """How a study stands: `DONE`, `FAILED` or `UNFINISHED`."""
    study = Study(spec, Path(workdir))
    statuses = set(on_primary(lambda: study.statuses(agenda(study))))
    if "unfinished" in statuses:
        return UNFINISHED
    return FAILED if statuses & {"failed", "diverged"} else DONE


def _publish(workdir: Path) -> str:
    """Writes tables and figures, and returns the summary, from one reading of the workdir."""
    runs = results.read_runs(workdir)
    publish.publish(workdir, runs=runs)
    return summary.summarize(workdir, runs=runs)


def _carry_out(
    study: Study,
    reader: data.Reader,
    how: Options,
    console: Console,
    after_epoch: Callable[[], None],
) -> None:
    unended = on_primary(lambda: study.unended(agenda(study)))
    left = {member: _num_epochs(study, member) for member in unended}
    moment = options.deadline(how.max_minutes)
    # Clocks differ: where several processes train one run, process 0's says when time is up.
    stop = functools.partial(on_primary, options.stop_at(moment))
    with progress.shown(sum(left.values()), console, study.primary()) as advance:

        def report(name: str, entry: dict | None) -> None:
            advance(name, entry)
            on_primary(after_epoch)

        talk = Talk(report, functools.partial(progress.say, console), stop)
        if how.num_workers > 1:
            del reader  # Workers read the data themselves.
            Pool(study, how, moment, talk).run()
        else:
            trainer = Trainer(study, talk, reader)
            work(trainer, orders(trainer, only=how.only or None, asked_width=how.fork_width))


def _num_epochs(study: Study, member: Member) -> int:
    if isinstance(member, Comparison):
        return 0
    return member.num_epochs(study.at(member.setting))


class _Tables:
    """The tables, written while the experiment runs: rarely enough to cost next to nothing."""

    def __init__(self, workdir: Path, console: Console):
        self._workdir, self._console, self._next = workdir, console, 0.0

    def write_if_cheap(self) -> None:
        """Writes them, if the last time was long enough ago."""
        started = time.monotonic()
        if started < self._next:
            return
        try:
            results.write_tables(self._workdir)
        except (OSError, InvalidInput) as error:
            # It is nothing that the run being trained has done; the end will tell if it lasts.
            progress.say(self._console, f"The tables could not be written by now: {error}")
            self._next = math.inf
            return
        ended = time.monotonic()
        self._next = ended + (ended - started) / TABLES_SHARE
