"""What the user sees while the plan runs: a bar on a terminal, one line an epoch elsewhere."""

import contextlib
import functools
import math
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from earlyprune_jax.analysis import peaks, results
from earlyprune_jax.grid import options
from earlyprune_jax.grid.members import Comparison
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import Callbacks
from earlyprune_jax.metrics import Metric
from earlyprune_jax.training import multihost
from earlyprune_jax.validate import InvalidInput

TABLES_SHARE = 0.05
"""Tables are written along the way as long as that takes at most this part of the time."""

COLUMNS = (
    "{task.description}",
    BarColumn(),
    MofNCompleteColumn(),
    "epochs",
    TimeElapsedColumn(),
    "left",
    TimeRemainingColumn(elapsed_when_finished=False),
)


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

    @functools.cached_property
    def _primary(self) -> Metric:
        return self._study.primary()

    def callbacks(self, deadline: float) -> Callbacks:
        """Returns what a trainer tells, and whom it asks whether time is up."""
        # Clocks differ: where several processes train one run, that of process 0 counts.
        stop = functools.partial(multihost.on_primary, options.stop_at(deadline))
        return Callbacks(self._report, self.say, stop)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Shows progress through the epochs of the members that are left."""
        study = self._study
        num_epochs = sum(
            member.num_epochs(study.at(member.setting)) - len(study.records(member).epochs())
            for member in study.unended(study.wanted_members())
            if not isinstance(member, Comparison)
        )
        if not self._console.is_terminal:
            yield
            return
        # Epochs last minutes on a slow machine: the speed is averaged over a long window.
        with Progress(*COLUMNS, console=self._console, speed_estimate_period=600) as self._bar:
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
        if self._bar:
            value = entry.get(self._primary.column("test"))
            scale, unit = self._primary.scale, self._primary.unit
            words = "" if value is None else f" test {scale * value:.2f} {unit}".rstrip()
            self._bar.update(self._bar.task_ids[0], advance=1, description=f"{name}{words}")
        else:
            print(epoch_line(name, entry, self._primary), file=self._console.file, flush=True)
        started = time.monotonic()
        if started < self._next_tables:
            return
        try:
            results.write_tables(self._study.workdir)
        except (OSError, InvalidInput) as error:
            # It is nothing that the run being trained has done; the end will tell if it lasts.
            self.say(f"The tables could not be written by now: {error}")
            self._next_tables = math.inf
            return
        ended = time.monotonic()
        self._next_tables = ended + (ended - started) / TABLES_SHARE


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
        ...     "train_error": 0.8, "test_error": 0.75, "validation_error": None, "seconds": 1.25},
        ...     Metric("error"))
        'trunk seed 0  epoch 3  lr 0.1  train loss 0.5000 error 0.8000  test error 0.7500  1.2 s'
    """
    train = [
        f"{key.removeprefix('train_')} {entry[key]:.4f}"
        for key in dict.fromkeys(("train_loss", primary.column("train")))
        if entry.get(key) is not None
    ]
    parts = [
        f"{name}  epoch {entry['epoch']}  lr {entry['learning_rate']:.4g}",
        f"train {' '.join(train)}",
    ]
    for split in ("validation", "test"):
        if entry.get(primary.column(split)) is not None:
            parts.append(f"{split} {primary.name} {entry[primary.column(split)]:.4f}")
    measured = entry.get("signals", {})
    shown = [(name, measured[name]) for name in peaks.headline_signals(measured)]
    parts += [f"{column} {value:.4g}" for column, value in shown if isinstance(value, float)]
    return "  ".join([*parts, f"{entry['seconds']:.1f} s"])
