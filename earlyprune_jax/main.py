"""Command line: flags -> config -> experiment.run -> exit code.

python -m earlyprune_jax.main --config=configs/digits.py --workdir=runs/digits
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

OVERRIDE = "--config."
INTERRUPTED = 130


def main(argv: list[str]) -> int:
    """Runs an experiment from command-line arguments.

    Returns:
        0 = all done; 2 = bad input, nothing was written; 130 = interrupted, the same command
        goes on.
    """
    parser = _parser()
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
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from the last saved epoch.", file=sys.stderr)
        return INTERRUPTED


def _run(flags: argparse.Namespace, rest: list[str]) -> int:
    from earlyprune_jax import config, experiment, preview, workspace
    from earlyprune_jax.validate import InvalidInput

    overrides, problems = split_overrides(rest)
    if not flags.config:
        problems.append("Expected --config=FILE. Try --config=configs/digits.py; --help explains.")
    try:
        spec = config.resolve(config.load_file(flags.config), overrides) if flags.config else None
    except InvalidInput as error:
        problems += error.problems
    if problems or spec is None:
        raise InvalidInput(problems)
    workdir = Path(flags.workdir or f"runs/{Path(flags.config).stem}-{spec.run_id()}")
    if flags.dry_run:
        workspace.require(workdir, spec)
        print(preview.preview(spec))
        return 0
    print(f"Workdir: {workdir}", flush=True)
    print(experiment.run(spec, workdir))
    return 0


def split_overrides(arguments: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Separates `--config.section.key=value` (or `... value`) from what is no flag at all.

    Returns:
        (`section.key`, value) pairs, and a problem for every other argument.

    Example:
        >>> split_overrides(["--config.train.num_epochs=3", "--config.model.name", "resnet8", "--x"])
        ([('train.num_epochs', '3'), ('model.name', 'resnet8')], ['Unknown argument --x. See --help.'])
    """
    overrides, problems = [], []
    remaining = iter(arguments)
    for argument in remaining:
        if not argument.startswith(OVERRIDE):
            problems.append(f"Unknown argument {argument}. See --help.")
            continue
        name, equals, value = argument.removeprefix(OVERRIDE).partition("=")
        if not equals:
            value = next(remaining, None)
        if value is None:
            problems.append(f"Argument {argument} needs a value: {argument}=VALUE.")
        else:
            overrides.append((name, value))
    return overrides, problems


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m earlyprune_jax.main",
        description="Train a dense trunk, measure its signals, fork pruned runs, show when pruning was best.",
        epilog="Any config key can be overridden: --config.SECTION.KEY=VALUE (tuples as 0,1,2).",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="a config file, e.g. configs/digits.py")
    parser.add_argument("--workdir", metavar="DIR", help="default: runs/<config name>-<run id>")
    parser.add_argument(
        "--dry_run", action="store_true", help="print config, runs, steps and disk; touch nothing"
    )
    parser.add_argument("-h", "--help", action="store_true", help="print this and exit")
    return parser


def _print_help(parser: argparse.ArgumentParser) -> int:
    from earlyprune_jax import config

    parser.print_help()
    print(f"\nconfig keys:\n{config.describe_keys()}")
    return 0


def _interrupt(signum, frame):
    raise KeyboardInterrupt


def _leave(code: int) -> NoReturn:
    """Ends the process; an interrupted one at once, for all that is finished is on disk."""
    if code == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        # Threads of a checkpoint that was being written would hold a normal exit for five minutes.
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    # A batch system's SIGTERM stops a run like Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    _leave(main(sys.argv[1:]))
