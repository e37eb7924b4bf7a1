"""Completions of the shell, by argcomplete: commands, flags, configs with their forms, keys.

    eval "$(register-python-argcomplete earlyprune)"

The shell then starts `earlyprune` at each press of TAB, with what has been typed in its
environment.
"""

import argparse
import os
from collections.abc import Sequence

import argcomplete
from argcomplete.completers import DirectoriesCompleter, FilesCompleter

from earlyprune_jax import cli


def complete() -> None:
    """Answers the shell, and ends the process."""
    typed = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "0"))]
    argcomplete.autocomplete(parser(typed.split()[1:2]))


def parser(typed: Sequence[str]) -> argparse.ArgumentParser:
    """Returns a reader of whole command lines.

    Args:
        typed: the command, where one has been typed: the others' modules are left alone.
    """
    whole = argparse.ArgumentParser(prog="earlyprune")
    whole.add_argument("--version", action="store_true")
    commands = whole.add_subparsers()
    for name in cli.COMMANDS:
        parents = [cli.module(name).parser()] if name in typed else []
        own = commands.add_parser(name, parents=parents, add_help=False)
        for action in own._actions:
            action.completer = _completer(action)  # pyright: ignore[reportAttributeAccessIssue]
    return whole


def _completer(action: argparse.Action):
    if action.metavar in ("DIR", "RUN_DIR"):
        return DirectoriesCompleter()
    return _configs if action.metavar == "FILE" else None


def _configs(prefix: str, **_) -> list[str]:
    """Lists configs of the package with their forms, and Python files."""
    from earlyprune_jax import config_files

    return [*config_files.names(), *FilesCompleter(["py"])(prefix)]
