"""earlyprune regimes DIR: prints the text, writes tables and figures."""

import argparse
import math
from collections.abc import Sequence

from earlyprune_jax import records
from earlyprune_jax.analysis import formatting, regimes, results
from earlyprune_jax.analysis.curves import find_grids
from earlyprune_jax.analysis.runs import Runs
from earlyprune_jax.validate import answer, unexpected


def _report(workdir: str, margin: float | None) -> str:
    if margin is not None and not 0 < margin < math.inf:
        raise unexpected("--margin", margin, "to be above 0", "Leave it out for the default.")
    records.require_workdir(workdir)
    runs = results.read_runs(workdir)
    margin = margin and margin / runs.metric.scale
    grids = regimes.analyse(workdir, runs, margin=margin)
    if not grids:
        allowed = "to hold finished forks of at least 2 sparsities x 2 fork epochs"
        raise unexpected("DIR", workdir, allowed, _why_no_grid(runs))
    files = ", ".join(map(str, regimes.write(workdir, runs=runs, margin=margin)))
    found = map(formatting.wrapped, regimes.paragraphs(grids))
    return "\n".join([*found, *formatting.coverage(runs), f"Files: {files}"])


def _why_no_grid(runs: Runs) -> str:
    """Says how large the largest grid is, and what to run for a larger one."""
    sizes = [grid.size for grid in find_grids(runs) if all(grid.size)]
    if not sizes:
        return "It has none."
    rows, columns = max(sizes, key=math.prod)
    keys = ["--config.pruning.sparsities=0.9,0.97"] * (rows < 2)
    keys += ["--config.fork.epochs=2,4,8,16"] * (columns < 2)
    has = f"{rows} sparsit{'y' if rows == 1 else 'ies'}"
    epochs = formatting.plural(columns, "fork epoch")
    return f"It has {has} x {epochs}: run it again with {' '.join(keys)}."


def parser() -> argparse.ArgumentParser:
    """Returns the reader of the arguments."""
    made = argparse.ArgumentParser(
        prog="earlyprune regimes",
        description="Tells the two regimes of pruning apart: when early stopping pays, when "
        "convergence.",
    )
    made.add_argument("workdir", metavar="DIR", help="a study's directory")
    made.add_argument(
        "--margin",
        metavar="NUMBER",
        type=float,
        help="early and converged epochs are equal if they differ by less, in the unit of the "
        "metric that forks are compared by, points for percents; by default 1 %% of the mean of "
        "the dense networks",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints and writes what was found; returns 0, or 2 where the input cannot be used."""
    flags = parser().parse_args(arguments)
    return answer(lambda: _report(flags.workdir, flags.margin))
