"""python -m earlyprune_jax.analysis.regimes WORKDIR: prints the text, writes tables and figures."""

import argparse
import sys
from collections.abc import Sequence

from earlyprune_jax.analysis import formatting, regimes, results
from earlyprune_jax.validate import unexpected


def _report(workdir: str) -> str:
    runs = results.read_runs(workdir)
    grids = regimes.analyse(workdir, runs)
    if not grids:
        remedy = "Regimes are told apart by finished forks."
        allowed = "to hold finished forks of at least 2 sparsities x 2 fork epochs"
        raise unexpected("WORKDIR", workdir, allowed, remedy)
    files = ", ".join(map(str, regimes.write(workdir, runs=runs)))
    return "\n".join([*map(formatting.wrapped, regimes.paragraphs(grids)), f"Files: {files}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints and writes what was found; returns 0, or 2 where the input cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m earlyprune_jax.analysis.regimes",
        description="The two regimes of pruning: when early stopping pays, when convergence.",
    )
    parser.add_argument("workdir", metavar="WORKDIR", help="an experiment's directory")
    flags = parser.parse_args(arguments)
    return formatting.answer(lambda: _report(flags.workdir))


if __name__ == "__main__":
    sys.exit(main())
