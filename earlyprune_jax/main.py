"""Trains dense trunks, measures their signals, forks pruned runs, and shows when pruning was best.

    python -m earlyprune_jax.main --config=configs/digits.py --workdir=runs/digits

flags:
  --config FILE            a config file, e.g. configs/digits.py, or a form of it, FILE.py:FORM
  --config.SECTION.KEY=V   any config key; tuples as 0,1,2
  --workdir DIR            default: runs/<config name>-<study id>
  --dry_run                print config, runs, groups, steps and disk; touch nothing
  --measure                with --dry_run: time a few steps, and estimate the whole
  --workers N              processes on this machine, each bound to its share of the cores; auto =
                           one a core (CPU only); default 1
  --fork_width N           forks trained as one batch; default 0 = one on CPU, on
                           accelerators as many as there are, up to 32 a device
  --max_minutes M          begin no epoch after M minutes; all is kept, and the same command goes on
                           (exit code 3)
  --slurm                  submit to Slurm instead of running here
  --slurm.KEY=V            minutes, partition, cpus, gpus, memory_gb, num_tasks, max_parallel,
                           extra: docs/scaling.md
  --distributed            several hosts as one, the same command on each: Slurm, Open MPI, TPU
                           pods, where JAX finds the others
  --coordinator HOST:PORT  several hosts elsewhere: where process 0 listens
  --num_processes N        with --coordinator: how many processes there are
  --process_id I           with --coordinator: this one's number, from 0
  -h, --help               print this and exit
"""

import argparse
import contextlib
import math
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from earlyprune_jax.grid.options import keep_freed_memory, leave_on

# The rest is imported late: help and typing errors should not wait for JAX.
if TYPE_CHECKING:
    from earlyprune_jax.grid.options import Options
    from earlyprune_jax.grid.study import Study
    from earlyprune_jax.slurm.submission import SlurmOptions

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

KEYED = ("config", "slurm")
"""`--config.SECTION.KEY=VALUE` and `--slurm.KEY=VALUE`."""
SWITCHES = ("dry_run", "measure", "slurm", "distributed")
TEXTS = ("config", "workdir", "coordinator")
NUMBERS: dict[str, tuple[type, str | None]] = {
    "workers": (int, "1"),
    "fork_width": (int, "0"),
    "max_minutes": (float, "inf"),
    "num_processes": (int, None),
    "process_id": (int, None),
}
"""Flag -> its type and default; the docstring above, which is --help, says what a flag means."""


def main(argv: list[str]) -> int:
    """Runs an experiment from command-line arguments.

    Returns:
        0 = all done; 1 = all done, but runs diverged or failed; 2 = bad input, nothing was written;
        3 = time is up, the same command goes on; 130 = interrupted, likewise.
    """
    parser = _parser()
    flags, rest = parser.parse_known_args(argv)
    if flags.help:
        from earlyprune_jax import spec_sections

        print(f"{__doc__}\nconfig keys:\n{spec_sections.describe_keys()}")
        return 0
    from earlyprune_jax.validate import InvalidInput

    try:
        return _run(flags, rest)
    except InvalidInput as error:
        count = len(error.problems)
        print(f"earlyprune_jax: {count} problem{'s' if count > 1 else ''}:", file=sys.stderr)
        print("\n".join(f"- {problem}" for problem in error.problems), file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from the last saved epoch.", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    """Makes the parser of all flags but those of `KEYED`."""
    usage = "python -m earlyprune_jax.main --config=FILE ...; --help explains every flag and key"
    parser = argparse.ArgumentParser(usage=usage, add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    for name in SWITCHES:
        parser.add_argument(f"--{name}", action="store_true")
    for name in TEXTS:
        parser.add_argument(f"--{name}")
    for name, (_, default) in NUMBERS.items():
        parser.add_argument(f"--{name}", default=default)
    return parser


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
    given: dict[str, list[tuple[str, str]]] = {kind: [] for kind in KEYED}
    problems = []
    remaining = iter(arguments)
    for argument in remaining:
        kind, dot, rest = argument.removeprefix("--").partition(".")
        if kind not in given or not dot or not argument.startswith("--"):
            problems.append(f"Unknown argument {argument}. See --help.")
            continue
        name, equals, value = rest.partition("=")
        if not equals:
            value = next(remaining, None)
        if value is None:
            problems.append(f"Argument {argument} needs a value: {argument}=VALUE.")
        else:
            given[kind].append((name, value))
    return given, problems


def _run(flags: argparse.Namespace, rest: list[str]) -> int:
    from earlyprune_jax import config, experiment, preview
    from earlyprune_jax.grid.study import Study
    from earlyprune_jax.slurm import submission
    from earlyprune_jax.validate import InvalidInput, gathering

    given, problems = split_keyed(rest)
    slurm_options = None
    if flags.slurm:
        slurm_options, wrong = submission.parse(given["slurm"])
        problems += wrong
    elif given["slurm"]:
        named = ", ".join(f"--slurm.{name}" for name, _ in given["slurm"])
        problems.append(f"Expected --slurm with {named}.")
    options = _options(flags, slurm_options, problems)
    if not flags.config:
        problems.append("Expected --config=FILE. Try --config=configs/digits.py; --help explains.")
        raise InvalidInput(problems)
    with gathering(problems):
        spec = config.resolve(config.load_file(flags.config), given["config"])
    if problems:
        raise InvalidInput(problems)
    workdir = Path(flags.workdir or f"runs/{config.short_name(flags.config)}-{spec.study_id()}")
    study = Study(spec, workdir)
    if not flags.dry_run:
        if slurm_options:
            return _submit(study, options, slurm_options)
        return _carry_out(study, options, flags)
    if slurm_options:
        submission.require(study, options, slurm_options)
    else:
        experiment.require(study, options)
    print(preview.preview(study, options, measure=flags.measure))
    if slurm_options:
        print(submission.preview(study, slurm_options))
    return 0


def _options(
    flags: argparse.Namespace, slurm_options: "SlurmOptions | None", problems: list[str]
) -> "Options":
    """Reads how to carry it out, and adds what is wrong with that to the problems."""
    from earlyprune_jax.grid.options import Options, num_useful_workers
    from earlyprune_jax.training import multihost
    from earlyprune_jax.validate import expected

    is_together = flags.distributed or flags.coordinator is not None
    if is_together and flags.slurm:
        problems.append(
            "Expected no --slurm with --distributed or --coordinator: its tasks are single "
            "processes. Start this command in a job of several tasks by srun."
        )
    if flags.measure and not flags.dry_run:
        problems.append(
            "Expected --measure with --dry_run: it times a few steps to say how long all will take."
        )
    if flags.workers == "auto" and is_together:
        # JAX must not look at its devices before the processes have met.
        flags.workers = "1"
    elif flags.workers == "auto" and slurm_options:
        flags.workers = "1" if slurm_options.gpus else str(slurm_options.cpus)
    elif flags.workers == "auto":
        flags.workers = str(num_useful_workers())
    numbers: dict[str, Any] = {}
    for name, (kind, _) in NUMBERS.items():
        text = getattr(flags, name)
        try:
            numbers[name] = None if text is None else kind(text)
        except ValueError:
            problems.append(expected(f"--{name}", text, "to be a number"))
    if len(numbers) < len(NUMBERS):
        return Options()
    vars(flags).update(numbers)
    options = Options(numbers["workers"], numbers["fork_width"], numbers["max_minutes"])
    problems += multihost.problems(flags.coordinator, flags.num_processes, flags.process_id)
    problems += options.check_multihost() if is_together else []
    # On a cluster the cores that count are those of a task: see submission.require.
    problems += [] if slurm_options else options.check()
    return options


def _carry_out(study: "Study", options: "Options", flags: argparse.Namespace) -> int:
    from earlyprune_jax import experiment
    from earlyprune_jax.training import multihost

    if flags.distributed or flags.coordinator is not None:
        multihost.initialize(flags.coordinator, flags.num_processes, flags.process_id)
    # Of several processes that do one thing, one speaks.
    is_primary = multihost.is_primary()
    with contextlib.nullcontext() if is_primary else contextlib.redirect_stdout(None):
        print(f"Workdir: {study.workdir}", flush=True)
        print(experiment.run(study.spec, study.workdir, options=options))
        code = experiment.exit_status(study)
        if code == experiment.UNFINISHED:
            is_limited = options.max_minutes < math.inf
            reason = "Time is up." if is_limited else "Not all could be done: see above."
            print(f"{reason} The same command goes on from here.", file=sys.stderr)
    return code


def _submit(study: "Study", options: "Options", slurm_options: "SlurmOptions") -> int:
    from earlyprune_jax.slurm import submission

    print(f"Workdir: {study.workdir}", flush=True)
    print(submission.submit(study, options, slurm_options))
    return 0


def _program() -> NoReturn:
    """Runs `main` on the process's arguments, and ends the process."""
    keep_freed_memory()
    # A batch system's SIGTERM stops a run like Ctrl-C.
    leave_on(signal.SIGINT, signal.SIGTERM)
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads standard output has gone, as in `... --help | head`: nothing is left to be said.
        os._exit(FAILED)
    except Exception:  # a crash must leave at once too: see below
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(FAILED)
    if code in (BAD_INPUT, INTERRUPTED):
        sys.stderr.flush()
        # A normal exit would wait: for threads of a checkpoint that was being written, or for other
        # processes.
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    _program()
