"""Command line: flags -> config -> experiment.run -> exit code.

python -m earlyprune_jax.main --config=configs/digits.py --workdir=runs/digits
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

FLAGS = (
    (
        "config",
        "FILE",
        None,
        "a config file, e.g. configs/digits.py, or a form of it, FILE.py:FORM",
    ),
    ("workdir", "DIR", None, "default: runs/<config name>-<study id>"),
    ("dry_run", "", None, "print config, runs, groups, steps and disk; touch nothing"),
    ("measure", "", None, "with --dry_run: time a few steps, and estimate the whole"),
    (
        "workers",
        "N",
        "1",
        "processes on this machine, each bound to its share of the cores; auto = one a core (CPU "
        "only)",
    ),
    (
        "fork_width",
        "N",
        "0",
        "forks trained as one batch; 0 = one on CPU, measured on accelerators",
    ),
    (
        "max_minutes",
        "M",
        "inf",
        "begin no epoch after M minutes; all is kept, and the same command goes on (exit code 3)",
    ),
    (
        "slurm",
        "",
        None,
        "submit to Slurm instead of running here; --slurm.minutes, partition, cpus, gpus, "
        "memory_gb, num_tasks, max_parallel, extra: docs/scaling.md",
    ),
    (
        "distributed",
        "",
        None,
        "several hosts as one, the same command on each: Slurm, Open MPI, TPU pods, where JAX "
        "finds the others",
    ),
    ("coordinator", "HOST:PORT", None, "several hosts elsewhere: where process 0 listens"),
    ("num_processes", "N", None, "with --coordinator: how many processes there are"),
    ("process_id", "I", None, "with --coordinator: this one's number, from 0"),
    ("help", "", None, "print this and exit"),
)
"""Name, what it takes (nothing = a switch), default, and what --help says of it."""

NUMBERS = {
    "workers": int,
    "fork_width": int,
    "max_minutes": float,
    "num_processes": int,
    "process_id": int,
}


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

        parser.print_help()
        print(f"\nconfig keys:\n{spec_sections.describe_keys()}")
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
    parser = argparse.ArgumentParser(
        prog="python -m earlyprune_jax.main",
        description="Train a dense trunk, measure its signals, fork pruned runs, show when pruning "
        "was best.",
        epilog="Any config key can be overridden: --config.SECTION.KEY=VALUE (tuples as 0,1,2).",
        add_help=False,
        allow_abbrev=False,
    )
    for name, takes, default, meaning in FLAGS:
        names = [f"--{name}"] if name != "help" else ["-h", "--help"]
        if takes:
            parser.add_argument(*names, metavar=takes, default=default, help=meaning)
        else:
            parser.add_argument(*names, action="store_true", help=meaning)
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
    from earlyprune_jax.validate import InvalidInput

    given, problems = split_keyed(rest)
    cluster = None
    if flags.slurm:
        cluster, wrong = submission.parse(given["slurm"])
        problems += wrong
    elif given["slurm"]:
        named = ", ".join(f"--slurm.{name}" for name, _ in given["slurm"])
        problems.append(f"Expected --slurm with {named}.")
    how, wrong = _options(flags, cluster)
    problems += wrong
    if not flags.config:
        problems.append("Expected --config=FILE. Try --config=configs/digits.py; --help explains.")
    spec = None
    try:
        if flags.config:
            spec = config.resolve(config.load_file(flags.config), given["config"])
    except InvalidInput as error:
        problems += error.problems
    if problems or spec is None or how is None:
        raise InvalidInput(problems)
    workdir = Path(flags.workdir or f"runs/{config.short_name(flags.config)}-{spec.study_id()}")
    study = Study(spec, workdir)
    if not flags.dry_run:
        return _submit(study, how, cluster) if cluster else _carry_out(study, how, flags)
    if cluster:
        submission.require(study, how, cluster)
    else:
        experiment.require(study, how)
    print(preview.preview(study, how, measure=flags.measure))
    if cluster:
        print(submission.preview(study, cluster))
    return 0


def _options(
    flags: argparse.Namespace, cluster: "SlurmOptions | None"
) -> "tuple[Options | None, list[str]]":
    """Reads how to carry it out, and lists what is wrong with that."""
    from earlyprune_jax.grid.options import Options, num_useful_workers
    from earlyprune_jax.training import multihost
    from earlyprune_jax.validate import expected

    numbers: dict[str, Any] = {}
    problems = []
    is_together = flags.distributed or flags.coordinator is not None
    if flags.workers == "auto" and is_together:
        # JAX must not look at its devices before the processes have met.
        flags.workers = "1"
    elif flags.workers == "auto":
        on_cluster = cluster and (1 if cluster.gpus else cluster.cpus)
        flags.workers = str(on_cluster or num_useful_workers())
    for name, kind in NUMBERS.items():
        text = getattr(flags, name)
        try:
            numbers[name] = None if text is None else kind(text)
        except ValueError:
            problems.append(expected(f"--{name}", text, "to be a number"))
    how = None
    if not problems:
        vars(flags).update(numbers)
        how = Options(numbers["workers"], numbers["fork_width"], numbers["max_minutes"])
        problems += multihost.problems(flags.coordinator, flags.num_processes, flags.process_id)
        problems += how.check_multihost() if is_together else []
        # On a cluster the cores that count are those of a task: see submission.require.
        problems += [] if cluster else how.check()
    if is_together and flags.slurm:
        problems.append(
            "Expected no --slurm with --distributed or --coordinator: its tasks are single "
            "processes. Start this command in a job of several tasks by srun."
        )
    if flags.measure and not flags.dry_run:
        problems.append(
            "Expected --measure with --dry_run: it times a few steps to say how long all will take."
        )
    return how, problems


def _carry_out(study: "Study", how: "Options", flags: argparse.Namespace) -> int:
    from earlyprune_jax import experiment
    from earlyprune_jax.training import multihost

    if flags.distributed or flags.coordinator is not None:
        multihost.initialize(flags.coordinator, flags.num_processes, flags.process_id)
    with contextlib.ExitStack() as silence:
        if not multihost.is_primary():
            # Of several processes that do one thing, one speaks.
            nowhere = silence.enter_context(Path(os.devnull).open("w"))
            silence.enter_context(contextlib.redirect_stdout(nowhere))
        print(f"Workdir: {study.workdir}", flush=True)
        print(experiment.run(study.spec, study.workdir, options=how))
        code = experiment.exit_status(study)
        if code == experiment.UNFINISHED:
            is_limited = how.max_minutes < math.inf
            reason = "Time is up." if is_limited else "Not all could be done: see above."
            print(f"{reason} The same command goes on from here.", file=sys.stderr)
    return code


def _submit(study: "Study", how: "Options", cluster: "SlurmOptions") -> int:
    from earlyprune_jax.slurm import submission

    print(f"Workdir: {study.workdir}", flush=True)
    print(submission.submit(study, how, cluster))
    return 0


def _program() -> NoReturn:
    """Runs `main` on the process's arguments, and ends the process."""
    keep_freed_memory()
    # A batch system's SIGTERM stops a run like Ctrl-C.
    leave_on(signal.SIGINT, signal.SIGTERM)
    has_crashed = False
    try:
        code = main(sys.argv[1:])
    except Exception:  # a crash must leave at once too: see below
        traceback.print_exc()
        code, has_crashed = FAILED, True
    if has_crashed or code in (BAD_INPUT, INTERRUPTED):
        sys.stdout.flush()
        sys.stderr.flush()
        # A normal exit would wait: for threads of a checkpoint that was being written, or for other
        # processes.
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    _program()
