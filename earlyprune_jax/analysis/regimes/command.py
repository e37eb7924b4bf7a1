"""earlyprune regimes DIR: prints the text, writes tables and figures."""

import argparse
from collections.abc import Sequence

from earlyprune_jax import records
from earlyprune_jax.analysis import formatting, regimes, results
from earlyprune_jax.validate import answer, unexpected


def _report(workdir: str) -> str:
    records.require_workdir(workdir)
    runs = results.read_runs(workdir)
    grids = regimes.analyse(workdir, runs)
    if not grids:
        remedy = "Regimes are told apart by finished forks."
        allowed = "to hold finished forks of at least 2 sparsities x 2 fork epochs"
        raise unexpected("DIR", workdir, allowed, remedy)
    files = ", ".join(map(str, regimes.write(workdir, runs=runs)))
    return "\n".join([*map(formatting.wrapped, regimes.paragraphs(grids)), f"Files: {files}"])


def parser() -> argparse.ArgumentParser:
    """Returns the reader of the arguments."""
    made = argparse.ArgumentParser(
        prog="earlyprune regimes",
        description="Tells the two regimes of pruning apart: when early stopping pays, when "
        "convergence.",
    )
    made.add_argument("workdir", metavar="DIR", help="a study's directory")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints and writes what was found; returns 0, or 2 where the input cannot be used."""
    flags = parser().parse_args(arguments)
    return answer(lambda: _report(flags.workdir))
