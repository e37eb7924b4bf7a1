"""What the user sees while the plan runs: a bar on a terminal, else one line per finished run."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task
from rich.text import Text

from earlyprune_jax.analysis import formatting, notebook, peaks, results
from earlyprune_jax.grid import options
from earlyprune_jax.grid.pace import Pace, time_left
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import Callbacks
from earlyprune_jax.metrics import Metric, duration
from earlyprune_jax.run_records import flat
from earlyprune_jax.training import multihost
from earlyprune_jax.validate import InvalidInput

TABLES_SECONDS = 600
"""Tables are written along the way after this time."""

BAR_WIDTH, SPINNER_WIDTH, SHORTEST_NAME = 8, 1, 8
"""Columns of a terminal."""


class Reporter:
    """Shows what happens on a console, and writes the tables along the way.

    Args:
        study: whose members are trained.
        console: a terminal gets a bar; a file or pipe gets one line a finished run.
        writes_tables: whether this process writes them.
        verbose: one line an epoch too.
    """

    def __init__(
        self, study: Study, console: Console, *, writes_tables: bool, verbose: bool = False
    ):
        self._study, self._console, self._verbose = study, console, verbose
        self._bar: Progress | None = None
        self._pace: Pace | None = None
        self._next_tables = 0.0 if writes_tables else math.inf
        self._doing, self._since = "", time.monotonic()
        self._told: set[str] = set()
        # Run -> the metric of its last epoch, until it ends; and the last that was told of.
        self._values: dict[str, str] = {}
        self._last = ("", "")

    def callbacks(self, deadline: float) -> Callbacks:
        """Returns what a trainer tells, and whom it asks whether time is up."""
        # Clocks differ: where several processes train one run, that of process 0 counts.
        stop = functools.partial(multihost.on_primary, options.stop_at(deadline))
        return Callbacks(self._report, self.say, stop, self._end, self._do)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Shows progress through the members that are left."""
        self._pace = Pace(self._study)
        if not self._console.is_terminal:
            yield
            return
        columns = (SpinnerColumn(), BarColumn(BAR_WIDTH), _Line(self._console, self.line))
        with Progress(*columns, console=self._console) as bar:
            bar.add_task("", total=self._pace.num_epochs)
            self._bar = bar
            yield
        self._bar = None

    def say(self, sentence: str) -> None:
        """Prints a sentence, in one line or above the bar."""
        whole = not self._console.is_terminal
        self._console.print(sentence, soft_wrap=whole, markup=False, highlight=False)

    def line(self, width: int) -> str:
        """Writes what stands beside the bar.

        Args:
            width: columns there are; numbers stay whole, and the run's name is shortened.
        """
        pace = self._pace
        assert pace is not None
        counts = [
            f"{pace.num_ended}/{pace.num_members} runs",
            f"{pace.done.total()}/{pace.num_epochs} epochs",
        ]
        name, value = self._last
        if self._doing or not name:
            doing = self._doing or "first epoch"
            elapsed = duration(time.monotonic() - self._since)
            return fitted([*counts, f"{elapsed} {doing}"], "", width)
        shown = [*counts, time_left(pace.seconds_left()), value and f"test {value}"]
        return fitted(shown, name, width)

    def _do(self, text: str) -> None:
        """Shows what takes a while before an epoch; "" = that is over."""
        if not multihost.is_primary():
            return
        self._doing, self._since = text, time.monotonic()
        kind = text.partition(" ")[0]
        if text and not self._bar and kind not in self._told:
            self._told.add(kind)
            self.say(f"{text[0].upper()}{text[1:]} ...")

    def _report(self, name: str, entry: dict[str, Any]) -> None:
        """Shows an epoch of a run, and writes the tables."""
        # Other processes have no workdir, in which the metric is named, and nothing to say.
        if multihost.is_primary():
            with multihost.alone():
                self._show(name, entry)

    def _show(self, name: str, entry: dict[str, Any]) -> None:
        primary, self._doing = self._study.primary(), ""
        value = entry.get(primary.column("test"))
        self._values[name] = "" if value is None else primary.written(value)
        self._last = name, self._values[name]
        if self._pace:
            self._pace.note_epoch(name, entry)
            self._show_epoch(self._pace, name, entry)
        if self._verbose:
            self.say(epoch_line(name, entry, primary))
        if time.monotonic() >= self._next_tables:
            self._next_tables = time.monotonic() + TABLES_SECONDS
            # What fails here is nothing that the run has done; the end will tell if it lasts.
            with contextlib.suppress(OSError, InvalidInput):
                results.write_tables(self._study.workdir)

    def _show_epoch(self, pace: Pace, name: str, entry: dict[str, Any]) -> None:
        if self._bar:
            done, total = pace.done.total(), pace.num_epochs
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)
        elif "epoch" not in self._told:
            self._told.add("epoch")
            took, compiled = duration(entry["seconds"]), duration(entry["compile_seconds"])
            left = time_left(pace.seconds_left())
            first = f"{name}: first epoch in {took} after {compiled} of compiling"
            self.say(f"{first}; {pace.num_members} runs, {pace.num_epochs} epochs to train, {left}")

    def _end(self, name: str, result: dict[str, Any]) -> None:
        """Tells of a member that has ended; where there is a bar, of one that has diverged."""
        value, pace = self._values.pop(name, ""), self._pace
        if pace is None:
            return
        with multihost.alone():
            place = pace.note_end(name)
        how = status = result["status"]
        if status == "diverged":
            how = f"diverged: {result['reason']}"
        elif self._bar:
            return
        elif "fired" in result:
            how = f"dense until epoch {result['epoch']}"
        elif status == "finished" and value:
            how = f"{formatting.named(self._study.primary())} {value}"
        left = time_left(pace.seconds_left())
        parts = (f"[{place}/{pace.num_members}] {name}", how, left)
        self.say("  ".join(filter(None, parts)))


def standard_output() -> Console:
    """Makes the console of a process that was given none.

    A notebook gets plain lines, of which it shows the newest: it would cut those that Rich writes
    as HTML, and pile up the states of a bar.
    """
    console = Console()
    if not console.is_jupyter:
        return console
    return Console(file=notebook.NewestLine(), force_jupyter=False, force_terminal=False)


class _Line(ProgressColumn):
    """The text beside the bar, written anew whenever it is drawn: widths and times change."""

    def __init__(self, console: Console, write: Callable[[int], str]):
        super().__init__()
        self._console, self._write = console, write

    def render(self, task: Task) -> Text:
        # A space between columns.
        width = self._console.width - BAR_WIDTH - SPINNER_WIDTH - 2
        return Text(self._write(width), no_wrap=True)


def fitted(parts: Sequence[str], name: str, width: int) -> str:
    """Joins texts within a width: those that do not fit are left out, a name is shortened.

    Args:
        parts: kept whole, the first ones first.
        name: comes last, with its middle left out where it is too long.
        width: in characters.

    Returns:
        The text.

    Example:
        >>> fitted(["3/30 runs", "12 s left"], "fork seed 0 at 12, magnitude", 40)
        '3/30 runs  12 s left  fork see…agnitude'
        >>> fitted(["3/30 runs", "12 s left"], "fork seed 0", 25)
        '3/30 runs  12 s left'
    """
    text = ""
    for part in filter(None, parts):
        longer = f"{text}  {part}" if text else part
        text = longer if len(longer) <= width else text
    room = width - len(text) - 2
    if len(name) > room:
        half = (room - 1) // 2
        name = f"{name[:half]}…{name[-half:]}" if room >= SHORTEST_NAME else ""
    return f"{text}  {name}" if name else text


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
