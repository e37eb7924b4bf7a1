"""What the user sees while the plan runs: a bar on a terminal, one line an epoch elsewhere."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from earlyprune_jax.analysis import peaks
from earlyprune_jax.metrics import Metric

Advance = Callable[[str, dict[str, Any] | None], None]
"""(run name, an epoch's entry) -> shown; None for an epoch that is not trained now."""


@contextlib.contextmanager
def shown(num_epochs: int, console: Console, primary: Metric) -> Iterator[Advance]:
    """Shows progress through `num_epochs` epochs of the whole plan, with the time left.

    Args:
        num_epochs: over all runs.
        console: a terminal gets a bar; a file or pipe gets one line an epoch.
        primary: the metric that is shown.
    """
    if not console.is_terminal:

        def print_line(name: str, entry: dict[str, Any] | None) -> None:
            if entry:
                print(epoch_line(name, entry, primary), file=console.file, flush=True)

        yield print_line
        return
    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        "epochs",
        TimeElapsedColumn(),
        "left",
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    # Epochs last minutes on a slow machine: the speed is averaged over a long window.
    with Progress(*columns, console=console, speed_estimate_period=600) as bar:
        task = bar.add_task("starting (compiling)", total=num_epochs)

        def advance(name: str, entry: dict[str, Any] | None) -> None:
            value = (entry or {}).get(primary.column("test"))
            words = "" if value is None else f" test {primary.scale * value:.2f} {primary.unit}"
            bar.update(task, advance=1, description=f"{name}{words.rstrip()}")

        yield advance


def say(console: Console, sentence: str) -> None:
    """Prints a sentence as it is, above a bar where there is one."""
    console.print(sentence, soft_wrap=True, markup=False, highlight=False)


def epoch_line(name: str, entry: dict[str, Any], primary: Metric) -> str:
    """Describes one epoch in one line.

    Args:
        name: of the run.
        entry: of the epoch.
        primary: the metric that is shown.

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
