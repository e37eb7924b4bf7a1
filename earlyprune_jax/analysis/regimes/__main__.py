"""python -m earlyprune_jax.analysis.regimes WORKDIR: prints the text, writes tables and figures."""

import argparse
import sys
from collections.abc import Sequence

from earlyprune_jax.analysis import regimes, words
from earlyprune_jax.validate import InvalidInput, unexpected


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints and writes what was found; returns 0, or 2 where the input cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m earlyprune_jax.analysis.regimes",
        description="The two regimes of pruning: when early stopping pays, when convergence.",
    )
    parser.add_argument("workdir", metavar="WORKDIR", help="an experiment's directory")
    flags = parser.parse_args(arguments)
    try:
        found = regimes.analyse(flags.workdir)
        if not found:
            remedy = "Regimes are told apart by finished forks."
            allowed = "to hold finished forks of at least 2 sparsities x 2 fork epochs"
            raise unexpected("WORKDIR", flags.workdir, allowed, remedy)
        print("\n".join(words.wrapped(paragraph) for paragraph in regimes.paragraphs(found)))
        print("Files:", ", ".join(map(str, regimes.write(flags.workdir, found=found))))
    except InvalidInput as error:
        print("\n".join(f"- {problem}" for problem in error.problems), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
