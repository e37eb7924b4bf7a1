# PYTHON_ARGCOMPLETE_OK
"""The program `earlyprune`, which `python -m earlyprune_jax` is too: one name for all commands."""

import contextlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

# Nothing heavy: what is wrong with a command is said at once, and so are completions.
from earlyprune_jax import __version__
from earlyprune_jax.leaving import BAD_INPUT
from earlyprune_jax.validate import nearest

COMMANDS = {
    "run": ("main", "--config=FILE ...", "train, measure, prune: a whole study"),
    "status": ("status.command", "DIR", "how far a study is; --watch: live"),
    "verify": ("verify", "DIR", "is every record and checkpoint sound?"),
    "translate": ("translate", "RUN_DIR", "translate lines by a trained run"),
    "compare": ("analysis.compare", "DIR DIR ...", "studies side by side"),
    "rules": ("analysis.rules", "DIR", "when each rule would have pruned; its loss"),
    "regimes": ("analysis.regimes.command", "DIR", "where stopping early pays"),
    "claims": ("published.claims", "DIR ...", "both papers' claims, on runs of yours"),
}
"""Name -> its module in this package, with `parser()` and `main(arguments)`; arguments; what it
does."""


def main(argv: list[str]) -> int:
    """Carries out a command.

    Returns:
        What the command returns: 0, or 2 where the input cannot be used; see also `main.main`.

    Example:
        >>> main(["--version"])
        earlyprune_jax 0.1.0
        0
    """
    name, arguments = (argv[0], argv[1:]) if argv else ("--help", [])
    if name in COMMANDS:
        return module(name).main(arguments)
    if name in ("-h", "--help"):
        print(_help())
    elif name == "--version":
        print(f"earlyprune_jax {__version__}")
    else:
        is_flag = name.startswith("--")
        hint = f"Did you mean 'run {name}'?" if is_flag else nearest(name, COMMANDS)
        wrong = f"- Unknown command {name!r}. {hint}".rstrip()
        print(f"{wrong} Commands: {', '.join(COMMANDS)}.", file=sys.stderr)
        return BAD_INPUT
    return 0


def module(name: str) -> Any:
    """Imports the module of a command."""
    return importlib.import_module(f"earlyprune_jax.{COMMANDS[name][0]}")


def _help() -> str:
    rows = [(f"{name} {given}", does) for name, (_, given, does) in COMMANDS.items()]
    return "\n".join(
        [
            "earlyprune_jax: when may a network be pruned, how hard, by which criterion?",
            "",
            *(f"  earlyprune {row:<21} {does}" for row, does in rows),
            "",
            "earlyprune COMMAND --help says more; earlyprune --version.",
        ]
    )


def program() -> None:
    """Runs `main` on the process's arguments, and ends the process."""
    if "_ARGCOMPLETE" in os.environ:
        from earlyprune_jax import completion

        completion.complete()
    # As python -m does: a config's nets:Net may be a file of the current directory.
    with contextlib.suppress(OSError):  # it is gone: the program says so
        if sys.path[0] != (here := str(Path.cwd())):
            sys.path.insert(0, here)
    module("run").program(main)


if __name__ == "__main__":
    program()
