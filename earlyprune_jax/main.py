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
from typing import TYPE_CHECKING, NoReturn

from earlyprune_jax import command_line, memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from earlyprune_jax.grid.options import Options
    from earlyprune_jax.grid.study import Study
    from earlyprune_jax.slurm.arrays import SlurmOptions

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def main(argv: list[str]) -> int:
    """Runs an experiment from command-line arguments.

    Returns:
        0 = all done; 1 = all done, but runs diverged or failed; 2 = bad input, nothing was written;
        3 = time is up, the same command goes on; 130 = interrupted, likewise.
    """
    parser = command_line.parser()
    flags, rest = parser.parse_known_args(argv)
    if flags.help:
        return _print_help(parser)
    # Imported late: help and typing errors should not wait for JAX.
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


def _run(flags: argparse.Namespace, rest: list[str]) -> int:
    from earlyprune_jax import config, experiment, preview
    from earlyprune_jax.grid.study import Study
    from earlyprune_jax.validate import InvalidInput

    given, problems = command_line.split_keyed(rest)
    cluster, wrong = _slurm_options(flags, given["slurm"])
    problems += wrong
    how, wrong = _options(flags, cluster)
    problems += wrong + _together_problems(flags, how)
    # On a cluster the cores that count are those of a task: see submission.require.
    problems += how.check() if how and not cluster else []
    if not flags.config:
        problems.append("Expected --config=FILE. Try --config=configs/digits.py; --help explains.")
    try:
        spec = (
            config.resolve(config.load_file(flags.config), given["config"])
            if flags.config
            else None
        )
    except InvalidInput as error:
        problems += error.problems
    if problems or spec is None or how is None:
        raise InvalidInput(problems)
    workdir = Path(flags.workdir or f"runs/{config.short_name(flags.config)}-{spec.study_id()}")
    study = Study(spec, workdir)
    if cluster:
        return _submit(study, how, cluster, flags)
    if flags.dry_run:
        experiment.require(study, how)
        print(preview.preview(study, how, measure=flags.measure))
        return 0
    return _carry_out(study, how, flags)


def _carry_out(study: "Study", how: "Options", flags: argparse.Namespace) -> int:
    from earlyprune_jax import experiment
    from earlyprune_jax.training import multihost

    if _is_together(flags):
        multihost.initialize(flags.coordinator, flags.num_processes, flags.process_id)
    with contextlib.nullcontext() if multihost.is_primary() else _silence():
        print(f"Workdir: {study.workdir}", flush=True)
        print(experiment.run(study.spec, study.workdir, options=how))
        code = experiment.exit_status(study)
        if code == experiment.UNFINISHED:
            up = (
                "Time is up." if how.max_minutes < math.inf else "Not all could be done: see above."
            )
            print(f"{up} The same command goes on from here.", file=sys.stderr)
    return code


@contextlib.contextmanager
def _silence() -> "Iterator[None]":
    """Of several processes that do one thing, one speaks."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _is_together(flags: argparse.Namespace) -> bool:
    return flags.distributed or flags.coordinator is not None


def _together_problems(flags: argparse.Namespace, how: "Options | None") -> list[str]:
    """What is wrong with how several hosts are to train as one."""
    from earlyprune_jax.training import multihost

    problems = multihost.problems(flags.coordinator, flags.num_processes, flags.process_id)
    if _is_together(flags):
        problems += how.check_multihost() if how else []
        if flags.slurm:
            problems.append(
                "Expected no --slurm with --distributed or --coordinator: its tasks are single processes. "
                "Start this command in a job of several tasks by srun."
            )
    return problems


def _submit(
    study: "Study", how: "Options", cluster: "SlurmOptions", flags: argparse.Namespace
) -> int:
    from earlyprune_jax import preview
    from earlyprune_jax.slurm import submission

    if flags.dry_run:
        submission.require(study, how, cluster)
        print(preview.preview(study, how, measure=flags.measure))
        print(submission.preview(study, cluster))
        return 0
    print(f"Workdir: {study.workdir}", flush=True)
    submitted = submission.submit(study, how, cluster)
    if submitted is None:
        print(
            "Every run has ended: nothing was submitted. The same command without --slurm sums it up."
        )
    else:
        print(submission.announcement(submitted, study.workdir))
    return 0


def _slurm_options(
    flags: argparse.Namespace, given: list[tuple[str, str]]
) -> "tuple[SlurmOptions | None, list[str]]":
    """What to ask Slurm for, or what is wrong with that; neither without --slurm."""
    if not flags.slurm:
        named = ", ".join(f"--slurm.{name}" for name, _ in given)
        return None, [f"Expected --slurm with {named}."] if given else []
    from earlyprune_jax.slurm import submission

    return submission.parse(given)


def _options(
    flags: argparse.Namespace, cluster: "SlurmOptions | None"
) -> "tuple[Options | None, list[str]]":
    """How to carry it out, or what is wrong with that."""
    from earlyprune_jax.grid import options
    from earlyprune_jax.grid.options import Options
    from earlyprune_jax.validate import expected

    values, problems = {}, []
    workers = flags.workers
    if workers == "auto" and _is_together(flags):
        # And JAX must not look at its devices before the processes have met.
        workers = "1"
    elif workers == "auto":
        on_cluster = cluster and (1 if cluster.gpus else cluster.cpus)
        workers = str(on_cluster or options.num_useful_workers())
    for name, kind, text in (
        ("num_workers", int, workers),
        ("fork_width", int, flags.fork_width),
        ("max_minutes", float, flags.max_minutes),
    ):
        try:
            values[name] = kind(text)
        except ValueError:
            flag = "workers" if name == "num_workers" else name
            problems.append(expected(f"--{flag}", text, "to be a number"))
    if flags.measure and not flags.dry_run:
        problems.append(
            "Expected --measure with --dry_run: it times a few steps to say how long all will take."
        )
    return (None if problems else Options(**values)), problems


def _print_help(parser: argparse.ArgumentParser) -> int:
    from earlyprune_jax import spec_sections

    parser.print_help()
    print(f"\nconfig keys:\n{spec_sections.describe_keys()}")
    return 0


def _interrupt(signum, frame):
    raise KeyboardInterrupt


def _leave(code: int) -> NoReturn:
    """Ends the process; an interrupted one at once, for all that is finished is on disk."""
    if code in (BAD_INPUT, INTERRUPTED):
        _leave_at_once(code)
    sys.exit(code)


def _leave_at_once(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    # A normal exit would wait: for threads of a checkpoint that was being written, or for other
    # processes.
    os._exit(code)


if __name__ == "__main__":
    memory.keep_freed()
    # A batch system's SIGTERM stops a run like Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        exit_code = main(sys.argv[1:])
    except Exception:  # a crash must leave at once: a normal exit waits for other processes
        traceback.print_exc()
        _leave_at_once(FAILED)
    _leave(exit_code)
