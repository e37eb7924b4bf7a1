"""The command line's flags: what there is, and what each says of itself."""

import argparse

KEYED = ("config", "slurm")
"""`--config.SECTION.KEY=VALUE` and `--slurm.KEY=VALUE`."""


def parser() -> argparse.ArgumentParser:
    """All flags but those of `KEYED`."""
    made = argparse.ArgumentParser(
        prog="python -m earlyprune_jax.main",
        description="Train a dense trunk, measure its signals, fork pruned runs, show when pruning was best.",
        epilog="Any config key can be overridden: --config.SECTION.KEY=VALUE (tuples as 0,1,2).",
        add_help=False,
        allow_abbrev=False,
    )
    made.add_argument(
        "--config",
        metavar="FILE",
        help="a config file, e.g. configs/digits.py, or one of its forms, FILE.py:FORM",
    )
    made.add_argument("--workdir", metavar="DIR", help="default: runs/<config name>-<study id>")
    made.add_argument(
        "--dry_run",
        action="store_true",
        help="print config, runs, groups, steps and disk; touch nothing",
    )
    made.add_argument(
        "--measure",
        action="store_true",
        help="with --dry_run: time a few steps, and estimate the whole",
    )
    made.add_argument(
        "--workers",
        metavar="N",
        default="1",
        help="processes on this machine, each bound to its share of the cores; auto = one a core (CPU only)",
    )
    made.add_argument(
        "--fork_width",
        metavar="N",
        default="0",
        help="forks trained as one batch; 0 = one on CPU, measured on accelerators",
    )
    made.add_argument(
        "--max_minutes",
        metavar="M",
        default="inf",
        help="begin no epoch after M minutes; all is kept, and the same command goes on (exit code 3)",
    )
    made.add_argument(
        "--slurm",
        action="store_true",
        help="submit to Slurm instead of running here; --slurm.minutes, partition, cpus, gpus, memory_gb, "
        "num_tasks, max_parallel, extra: docs/scaling.md",
    )
    several = made.add_argument_group("several hosts as one: the same command on each")
    several.add_argument(
        "--distributed", action="store_true", help="Slurm, Open MPI, TPU pods: JAX finds the others"
    )
    several.add_argument(
        "--coordinator", metavar="HOST:PORT", help="elsewhere: where process 0 listens"
    )
    several.add_argument(
        "--num_processes", type=int, metavar="N", help="how many processes there are"
    )
    several.add_argument("--process_id", type=int, metavar="I", help="this one's number, from 0")
    made.add_argument("-h", "--help", action="store_true", help="print this and exit")
    return made


def split_keyed(arguments: list[str]) -> tuple[dict[str, list[tuple[str, str]]], list[str]]:
    """Separates `--config.section.key=value` and `--slurm.key=value` from what is no flag at all.

    The value may also follow after a space.

    Returns:
        config and slurm -> (key, value) pairs, and a problem for every other argument.

    Example:
        >>> given, problems = split_keyed(["--config.train.num_epochs=3", "--slurm.cpus", "2", "--x"])
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
