"""What the user sees while the plan runs: a bar on a terminal, one line an epoch elsewhere."""

import contextlib
import functools
import math
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from earlyprune_jax.analysis import peaks, results
from earlyprune_jax.grid import options
from earlyprune_jax.grid.members import Comparison
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import Callbacks
from earlyprune_jax.metrics import Metric
from earlyprune_jax.records import flat
from earlyprune_jax.training import multihost
from earlyprune_jax.validate import InvalidInput

TABLES_SECONDS = 600
"""Tables are written along the way after this time."""


class Reporter:
    """Shows what happens on a console, and writes the tables along the way.

    Args:
        study: whose members are trained.
        console: a terminal gets a bar; a file or pipe gets one line an epoch.
        writes_tables: whether this process writes them.
    """

    def __init__(self, study: Study, console: Console, *, writes_tables: bool):
        self._study, self._console = study, console
        self._bar: Progress | None = None
        self._next_tables = 0.0 if writes_tables else math.inf

    def callbacks(self, deadline: float) -> Callbacks:
        """Returns what a trainer tells, and whom it asks whether time is up."""
        # Clocks differ: where several processes train one run, that of process 0 counts.
        stop = functools.partial(multihost.on_primary, options.stop_at(deadline))
        return Callbacks(self._report, self.say, stop)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Shows progress through the epochs of the members that are left."""
        if not self._console.is_terminal:
            yield
            return
        study = self._study
        num_epochs = sum(
            member.num_epochs(study.at(member.setting)) - len(study.records(member).epochs())
            for member in study.unended(study.wanted_members())
            if not isinstance(member, Comparison)
        )
        columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
        # Epochs last minutes on a slow machine: the speed is averaged over a long window.
        with Progress(*columns, console=self._console, speed_estimate_period=600) as self._bar:
            self._bar.add_task("starting (compiling)", total=num_epochs)
            yield
        self._bar = None

    def say(self, sentence: str) -> None:
        """Prints a sentence as it is, above a bar where there is one."""
        self._console.print(sentence, soft_wrap=True, markup=False, highlight=False)

    def _report(self, name: str, entry: dict[str, Any]) -> None:
        """Shows an epoch of a run, and writes the tables."""
        if not multihost.is_primary():
            # It has no workdir, in which the metric is named, and nothing to say.
            return
        primary = self._study.primary()
        if self._bar:
            value = entry.get(primary.column("test"))
            words = "" if value is None else f" test {primary.scale * value:.2f} {primary.unit}"
            self._bar.update(self._bar.task_ids[0], advance=1, description=f"{name}{words}")
        else:
            print(epoch_line(name, entry, primary), file=self._console.file, flush=True)
        if time.monotonic() >= self._next_tables:
            self._next_tables = time.monotonic() + TABLES_SECONDS
            # What fails here is nothing that the run has done; the end will tell if it lasts.
            with contextlib.suppress(OSError, InvalidInput):
                results.write_tables(self._study.workdir)


def epoch_line(name: str, entry: dict[str, Any], primary: Metric) -> str:
    """Describes one epoch in one line.

    Args:
        name: of the run.
        entry: of the epoch.
        primary: the metric that is shown.

    Returns:
        The line.

    Example:
        >>> epoch_line("trunk seed 0", {"epoch": 3, "learning_rate": 0.1, "train_loss": 0.5,
        ...     "test_error": 0.75, "validation_error": None, "seconds": 1.25}, Metric("error"))
        'trunk seed 0  epoch 3  learning_rate 0.1  train_loss 0.5  test_error 0.75  seconds 1.25'
    """
    metrics = ("train_loss", *map(primary.column, ("train", "validation", "test")))
    signals = peaks.headline_signals(entry.get("signals", {}))
    numbers = flat(entry)
    shown = [
        f"{column} {numbers[column]:.4g}"
        for column in dict.fromkeys(("epoch", "learning_rate", *metrics, *signals, "seconds"))
        if numbers.get(column) is not None
    ]
    return "  ".join([name, *shown])
