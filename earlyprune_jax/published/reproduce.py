"""A published figure from the runs of a workdir that it plans: their tables and figures, and the
published curves beside them, in reproduced/NAME/."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from earlyprune_jax import records, storage
from earlyprune_jax.analysis import (
    drawing,
    figures,
    learning_rates,
    regimes,
    results,
    rules,
)
from earlyprune_jax.analysis.runs import Runs
from earlyprune_jax.published import beside

NOTED = ("data", "model", "train", "optim", "schedule")
"""Sections of keys that a figure names where they are shrunken; its config.json has all."""


def write(workdir: str | Path, runs: Runs) -> list[Path]:
    """Writes tables and figures of the figure that the last session was of.

    Args:
        workdir: an experiment's directory.
        runs: of `own_runs`.

    Returns:
        The paths; none where it was of no figure.

    Example:
        >>> write("no/such/workdir", results.read_runs("no/such/workdir"))
        []
    """
    figure = runs.config.get("figure", {})
    if not figure.get("name"):
        return []
    into, paths = figure_folder(workdir, figure["name"]), list[Path]()
    storage.make_directory(into)
    with drawing.noted(note_of(figure)):
        for make in (results.write_tables, rules.write, figures.draw_main, beside.write):
            paths += make(into, runs=runs)
        paths += learning_rates.write(workdir, into)
        return paths + regimes.write(workdir, runs=runs, into=into)


def own_runs(workdir: str | Path, runs: Runs) -> Runs:
    """Returns the runs of the published figure that the last session was of; all, of none."""
    if not runs.config.get("figure", {}).get("name"):
        return runs
    return dataclasses.replace(runs.of_plan(records.planned(Path(workdir))), num_more=0)


def figure_folder(workdir: str | Path, name: str) -> Path:
    """Returns the folder of a published figure: its own runs' tables, and their figures in it.

    Example:
        >>> figure_folder("runs/paper_a", "A 6b").as_posix()
        'runs/paper_a/reproduced/a_6b'
    """
    return Path(workdir) / results.REPRODUCED / name.lower().replace(" ", "_")


def note_of(figure: Mapping[str, Any]) -> str:
    """Says what of a published figure was shrunken; nothing of one at full scale.

    Example:
        >>> changed = ("train.num_epochs: 200 -> 60", "signals.num_examples: 0 -> 1000")
        >>> note_of({"name": "A 3", "scale": "short", "changed": changed})
        'Shrunken (short): train.num_epochs: 200 -> 60; and 1 key of forks and signals.'
    """
    told, rest = [], 0
    for text in figure.get("changed", ()):
        is_told = text.partition(".")[0] in NOTED
        told, rest = [*told, *[text] * is_told], rest + (not is_told)
    more = f"; and {rest} key{'s' * (rest > 1)} of forks and signals" if rest else ""
    return f"Shrunken ({figure['scale']}): {'; '.join(told)}{more}." if told else ""
