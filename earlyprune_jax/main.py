"""Trains dense trunks, measures signals, forks pruned runs; shows when to prune.

Example: earlyprune run --config=digits --workdir=runs/digits

  --config FILE            a config, FILE.py:FORM, or a workdir's config.json
  --config.SECTION.KEY=V   any key below; tuples as 0,1,2
  --scale S                of paper_a, paper_b: full, short (two cores), smoke
  --workdir DIR            default: runs/CONFIG-ID, of figures PAPER-DATA-SCALE
  --dry_run                print config, runs, steps and disk; touch nothing
  --measure                with --dry_run: time a few steps, estimate the whole
  --workers N              processes, each on its own cores; auto = one a core
                           (CPU only); default 1
  --fork_width N           forks in one batch; 0 = 1 on CPU, else 32 a device
  --require_exact          refuse runs of other versions, devices, cores, flags
  --verbose                in a pipe: one line per epoch, not only per run
  --max_minutes M          begin no epoch later; exit code 3: run again to go on
  --slurm                  submit to Slurm; docs/scaling.md
  --slurm.KEY=V            minutes, cpus, gpus, ...: see docs/scaling.md
  --distributed            several hosts as one: Slurm, Open MPI, TPU pods
  --coordinator HOST:PORT  the same elsewhere: where process 0 listens
  --num_processes N        with --coordinator: how many there are
  --process_id I           with --coordinator: this one's number, from 0
  -h, --help               print this
"""

import argparse
import contextlib
import math
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from earlyprune_jax import leaving
from earlyprune_jax.grid.options import keep_freed_memory
from earlyprune_jax.leaving import BAD_INPUT, FAILED, INTERRUPTED, UNFINISHED
from earlyprune_jax.storage import StorageError
from earlyprune_jax.validate import InvalidInput, expected, gathering, refuse
from earlyprune_jax.xla_flags import avoid_miscompilation

# The rest is imported late: help and typing errors should not wait for JAX.
if TYPE_CHECKING:
    from earlyprune_jax.grid.options import Options
    from earlyprune_jax.slurm.options import SlurmOptions
    from earlyprune_jax.spec import RunSpec

EXAMPLE = "digits"
"""The config whose values --help shows."""
SWITCHES = ("dry_run", "measure", "slurm", "distributed", "verbose", "require_exact")
VALUES: dict[str, tuple[type, str | None]] = {
    "config": (str, None),
    "scale": (str, None),
    "workdir": (str, None),
    "workers": (int, "1"),
    "fork_width": (int, "0"),
    "max_minutes": (float, "inf"),
    "coordinator": (str, None),
    "num_processes": (int, None),
    "process_id": (int, None),
}
"""Flag -> its type and default; the docstring above, which is --help, says what a flag means."""

RANKS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK")
"""Where Slurm and Open MPI tell a process its number, long before JAX is there to ask."""


def parser(*, with_keys: bool = True) -> argparse.ArgumentParser:
    """Returns the reader of the flags; with config keys as flags too, to complete them."""
    from earlyprune_jax.spec_sections import KEYS

    usage = "earlyprune run --config=FILE ...; --help explains every flag and key"
    made = argparse.ArgumentParser(usage=usage, add_help=False, allow_abbrev=False)
    made.add_argument("-h", "--help", action="store_true")
    for name in SWITCHES:
        made.add_argument(f"--{name}", action="store_true")
    metavars = dict(re.findall(r"^  --(\w+) ([A-Z]\S*)", __doc__ or "", re.MULTILINE))
    for name, (_, default) in VALUES.items():
        made.add_argument(f"--{name}", default=default, metavar=metavars.get(name))
    for key in KEYS if with_keys else ():
        made.add_argument(f"--config.{key}")
    return made


def _help() -> str:
    from earlyprune_jax import config_files, config_help

    values = config_files.load_file(EXAMPLE).to_dict()
    usage = __doc__ or "Python -OO leaves out what this help consists of."
    return f"{usage}\n{config_help.describe_keys(values, EXAMPLE)}"


def main(argv: list[str]) -> int:
    """Runs an experiment from command-line arguments.

    Returns:
        0 = done; 1 = done, but runs diverged or failed; 2 = bad input, nothing was written; 3 =
        unfinished, the same command goes on. As a program also 4 = storage gave out, 130 = Ctrl-C,
        143 = SIGTERM: see `leaving`.
    """
    # Its place is fixed: behind an unknown flag it would be the flag's value.
    named = [f"--config={argv[0]}"] if argv and not argv[0].startswith("-") else []
    flags, rest = parser(with_keys=False).parse_known_args([*named, *argv[len(named) :]])
    if flags.help:
        print(_help())
        return 0
    # On a busy machine the imports alone take half a minute.
    _announce(flags, "starting JAX")
    try:
        return _run(flags, rest)
    except InvalidInput as error:
        count = len(error.problems)
        print(f"earlyprune_jax: {count} problem{'s' if count > 1 else ''}:", file=sys.stderr)
        print("\n".join(f"- {problem}" for problem in error.problems), file=sys.stderr)
        return BAD_INPUT


def split_keyed(arguments: list[str]) -> tuple[dict[str, list[tuple[str, str]]], list[str]]:
    """Separates `--config.section.key=value` and `--slurm.key=value` from what is no flag at all.

    The value may also follow after a space.

    Returns:
        config and slurm -> (key, value) pairs, and a problem for every other argument.

    Example:
        >>> arguments = ["--config.train.num_epochs=3", "--slurm.cpus", "2", "--x"]
        >>> given, problems = split_keyed(arguments)
        >>> given
        {'config': [('train.num_epochs', '3')], 'slurm': [('cpus', '2')]}
        >>> problems
        ['Unknown argument --x. See --help.']
    """
    from earlyprune_jax.validate import nearest

    flags = [f"--{name}" for name in (*VALUES, *SWITCHES, "help")]
    given: dict[str, list[tuple[str, str]]] = {"config": [], "slurm": []}
    problems = []
    remaining = iter(arguments)
    for argument in remaining:
        kind, dot, rest = argument.removeprefix("--").partition(".")
        if kind not in given or not dot or not argument.startswith("--"):
            hint = nearest(re.split("[=.]", argument)[0], flags)
            problems.append(f"Unknown argument {argument}. {f'{hint} See'.lstrip()} --help.")
            continue
        name, equals, value = rest.partition("=")
        if not equals:
            value = next(remaining, None)
        if value is None:
            problems.append(f"Argument {argument} needs a value: {argument}=VALUE.")
        else:
            given[kind].append((name, value))
    return given, problems


def _announce(flags: argparse.Namespace, stage: str) -> None:
    """Says on standard error what takes a while; of processes that know their number the first."""
    ranks = filter(None, map(os.environ.get, RANKS if flags.distributed else ()))
    if flags.config and (flags.process_id or next(ranks, "0")) == "0":
        print(f"earlyprune_jax: {stage} ...", file=sys.stderr, flush=True)


def _run(flags: argparse.Namespace, rest: list[str]) -> int:
    """Runs, submits or previews what the flags say. Returns as `main`."""
    from earlyprune_jax import config, experiment, workspace
    from earlyprune_jax.grid.study import Study
    from earlyprune_jax.slurm import options as slurm_flags
    from earlyprune_jax.slurm import submission
    from earlyprune_jax.training import multihost

    _announce(flags, f"checking {flags.config}")
    given, problems = split_keyed(rest)
    slurm_options = None
    if flags.slurm:
        slurm_options, wrong = slurm_flags.parse(given["slurm"])
        problems += wrong
    elif given["slurm"]:
        named = ", ".join(f"--slurm.{name}" for name, _ in given["slurm"])
        problems.append(f"Expected --slurm with {named}.")
    is_together = flags.distributed or flags.coordinator is not None
    options = _options(flags, is_together, slurm_options, problems)
    if not flags.config:
        problems.append("Expected --config=FILE. Try --config=configs/digits.py; --help explains.")
        refuse(problems)
    if is_together and not (problems or flags.dry_run):
        with gathering(problems):
            # Before the config: what it names of the user's may compute something.
            multihost.initialize(flags.coordinator, flags.num_processes, flags.process_id)
    with gathering(problems):
        loaded = config.load_file(flags.config, flags.scale or "")
        beside = config.workdir_of(flags.config)
        workdir = flags.workdir or beside
        workspace.require_code(workdir, config.named_code(loaded, given["config"]))
        spec = config.resolve(loaded, given["config"])
    refuse(problems)
    workdir = Path(workdir or f"runs/{_own_folder(flags.config, spec)}")
    study = Study(spec, workdir)
    if flags.dry_run and slurm_options:
        submission.require(study, options, slurm_options)
        print(experiment.preview(study, options, measure=flags.measure))
        print(submission.preview(study, slurm_options))
        return 0
    if flags.dry_run:
        experiment.require(study, options)
        print(experiment.preview(study, options, measure=flags.measure))
        return 0
    # Of several processes that do one thing, one speaks.
    with contextlib.nullcontext() if multihost.is_primary() else contextlib.redirect_stdout(None):
        print(f"Workdir: {workdir}", flush=True)
        if slurm_options:
            try:
                print(submission.submit(study, options, slurm_options))
            except submission.NotSubmitted as error:
                print(f"earlyprune_jax: {error}", file=sys.stderr)
                return UNFINISHED
            return 0
        leaving.advice.append("The same command goes on from the last saved epoch.")
        print(experiment.run(spec, workdir, options=options))
        code = experiment.exit_status(study)
        if code == UNFINISHED:
            is_limited = options.max_minutes < math.inf
            reason = "Time is up." if is_limited else "Not all could be done: see above."
            print(f"{reason} The same command goes on from here.", file=sys.stderr)
    return code


def _own_folder(path: str, spec: "RunSpec") -> str:
    """Names the workdir of a config; figures of a paper, data set and scale share one."""
    from earlyprune_jax import config

    if not spec.figure.name:
        return f"{config.short_name(path)}-{spec.study_id()}"
    paper, data = config.short_name(config.split_form(path)[0]), re.split(r"\W", spec.data.name)[0]
    return f"{paper}-{data}-{spec.figure.scale}"


def _options(
    flags: argparse.Namespace,
    is_together: bool,
    slurm_options: "SlurmOptions | None",
    problems: list[str],
) -> "Options":
    """Reads how to carry it out.

    Args:
        flags: of the command line; those of `VALUES` become values of their types.
        is_together: whether several processes train as one.
        slurm_options: where it is submitted to Slurm.
        problems: takes what is wrong.
    """
    from earlyprune_jax.grid.options import Options, num_useful_workers
    from earlyprune_jax.training import multihost

    if is_together and flags.slurm:
        problems.append(
            "Expected no --slurm with --distributed or --coordinator: its tasks are single "
            "processes. Start this command in a job of several tasks by srun."
        )
    if flags.measure and not flags.dry_run:
        problems.append(
            "Expected --measure with --dry_run: it times a few steps to say how long all will take."
        )
    if flags.workers == "auto":
        # JAX must not look at its devices before the processes have met.
        flags.workers = 1 if is_together or slurm_options else num_useful_workers()
        if slurm_options and not slurm_options.gpus and not is_together:
            flags.workers = slurm_options.cpus
    num_problems = len(problems)
    for name, (kind, _) in VALUES.items():
        given = getattr(flags, name)
        try:
            setattr(flags, name, None if given is None else kind(given))
        except ValueError:
            problems.append(expected(f"--{name}", given, "to be a number"))
    if len(problems) > num_problems:
        return Options()
    how = flags.workers, flags.fork_width, flags.max_minutes, flags.verbose, flags.require_exact
    options = Options(*how)
    problems += multihost.problems(flags.coordinator, flags.num_processes, flags.process_id)
    problems += options.check_multihost() if is_together else []
    # On a cluster the cores that count are those of a task: see submission.require.
    problems += [] if slurm_options else options.check()
    return options


def program(command: Callable[[list[str]], int] = main) -> NoReturn:
    """Runs a command on the process's arguments, and ends the process."""
    leaving.begin()
    keep_freed_memory()
    avoid_miscompilation()
    try:
        Path.cwd()
    except OSError as error:
        leaving.refuse(f"The current folder cannot be used ({error.strerror}). Go to another.")
    try:
        code = command(sys.argv[1:])
    except KeyboardInterrupt:  # the user's code may raise it; of a signal there is none
        leaving.leave(INTERRUPTED)
    except StorageError as error:
        print(f"earlyprune_jax: {error}", file=sys.stderr)
        leaving.leave(leaving.STORAGE)
    except Exception as error:  # a crash must leave at once too: see `leave`
        if isinstance(error, OSError) and error.strerror and error.filename is None:
            print(f"earlyprune_jax: reading or writing failed: {error.strerror}.", file=sys.stderr)
        else:
            traceback.print_exc()
        leaving.leave(FAILED)
    if code == BAD_INPUT:
        leaving.leave(code)
    sys.exit(code)


if __name__ == "__main__":
    program()
