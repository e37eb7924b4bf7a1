"""Along the epochs: random_distance beside pruned accuracy (Figure 7), the training curve (Figure 10)."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from earlyprune_jax.analysis import labels, peaks, results
from earlyprune_jax.analysis.panels import COLORS
from earlyprune_jax.analysis.regimes import convergence, words
from earlyprune_jax.analysis.regimes.alignment import SIGNAL
from earlyprune_jax.analysis.regimes.figures import add_legend, blank, head
from earlyprune_jax.analysis.regimes.findings import Findings
from earlyprune_jax.analysis.regimes.transition import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PANELS = 6
BLUE, RED = COLORS[0], COLORS[1]


def heavy_rows(found: Findings) -> list[Row]:
    """The rows drawn: significantly early ones, or the three heaviest where none is; six at most."""
    usable = [row for row in found.rows if row.best is not None]
    early = [row for row in usable if row.verdict == "early"]
    return early[-MAX_PANELS:] if early else usable[-3:]


def random_distance(found: Findings) -> "Figure | None":
    """Accuracy and random_distance along the epochs, a panel a heavily pruned row, two axes each.

    None where random_distance was not measured along a trunk that was trained to its end.
    """
    rows = results.signal_rows(run for run in found.trunks if run.complete)
    if not rows or SIGNAL not in rows[0] or peaks.mean_peak(rows, SIGNAL) is None:
        return None
    shown = heavy_rows(found)
    num_columns = min(3, len(shown))
    num_rows = math.ceil(len(shown) / num_columns)
    figure = blank(0.8 + 3.7 * num_columns, 1.5 + 2.5 * num_rows)
    handles: list[Any] = []
    for index, row in enumerate(shown):
        axes = figure.add_subplot(num_rows, num_columns, index + 1)
        handles = _draw_row(axes, found, row, rows)
    about = f"{words.grid_label(found.grid)}; {words.repeats(found.grid)}: mean and range"
    title = "Does random distance peak where pruning is best?"
    head(figure, title, f"{about}; filled marks: the highest mean")
    add_legend(figure, handles)
    return figure


def _draw_row(axes: "Axes", found: Findings, row: Row, signal_rows: Sequence[dict[str, Any]]) -> list[Any]:
    grid = found.grid
    assert row.best is not None, "heavy_rows keeps rows with a best epoch"
    values = 100 * grid.test[grid.sparsities.index(row.sparsity)]
    kept = np.isfinite(values).any(axis=1)
    epochs, values = np.array(grid.epochs)[kept], values[kept]
    means = np.nanmean(values, axis=1)
    axes.fill_between(
        epochs, np.nanmin(values, axis=1), np.nanmax(values, axis=1), color=BLUE, alpha=0.18, linewidth=0
    )
    label = "test accuracy of the pruned network (left)"
    (line,) = axes.plot(epochs, means, "-", color=BLUE, marker="o", markersize=3, label=label)
    top = int(np.flatnonzero(epochs == row.best.epoch)[0])
    axes.plot(row.best.epoch, means[top], marker="*", markersize=13, color=BLUE, markeredgecolor="white")
    right = axes.twinx()
    measured, signal = peaks.mean_curve(signal_rows, SIGNAL)
    label = f"{labels.signal_label(SIGNAL, {})} of the trunk (right)"
    (dashed,) = right.plot(measured, signal, "--", color=RED, linewidth=1.4, label=label)
    place = int(np.argmax(signal))
    right.plot(measured[place], signal[place], marker="D", markersize=7, color=RED, markeredgecolor="white")
    axes.set_zorder(right.get_zorder() + 1)
    axes.patch.set_visible(False)
    distance = int(measured[place]) - row.best.epoch
    title = f"{words.removed(row.sparsity)} % removed: best {row.best.epoch}, peak {measured[place]}"
    axes.set_title(f"{title} ({distance:+d})", loc="left", fontsize=9)
    axes.set_xlabel("training epoch", fontsize=8.5)
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel("test accuracy (%)", color=BLUE, fontsize=8.5)
    right.set_ylabel("random distance", color=RED, fontsize=8.5)
    for own, colour in ((axes, BLUE), (right, RED)):
        own.tick_params(axis="y", colors=colour, labelsize=8)
        own.tick_params(axis="x", labelsize=8)
        own.spines["top"].set_visible(False)
    return [line, dashed]


def training_curve(found: Findings) -> "Figure | None":
    """Train loss and accuracy of the setting's trunks, the convergence epoch marked; None without one."""
    if found.convergence is None:
        return None
    figure = blank(6.6, 4.2)
    axes = figure.add_subplot()
    right = axes.twinx()
    handles = []
    for own, metric, color, style in (
        (axes, "train_loss", COLORS[0], "-"),
        (right, "train_accuracy", COLORS[1], "--"),
    ):
        handles += _draw_metric(own, found, metric, color, style)
    epoch = found.convergence.epoch
    seeds = sorted(set(found.convergence.by_seed.values()))
    spread = f" (seeds: {seeds[0]}-{seeds[-1]})" if len(seeds) > 1 else ""
    label = f"converged at epoch {epoch}{spread}"
    handles.append(axes.axvline(epoch, color="#404040", linestyle=":", linewidth=1.6, label=label))
    axes.set_xlabel("training epoch", fontsize=9)
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel("train loss (nats)", color=COLORS[0], fontsize=9)
    right.set_ylabel("train accuracy (%)", color=COLORS[1], fontsize=9)
    axes.set_ylim(bottom=0)
    for own in (axes, right):
        own.spines["top"].set_visible(False)
    setting = words.grid_label(found.grid, ("model", "train_fraction", "schedule"))
    head(figure, "Training curve", f"{setting}. Converged: {convergence.DEFINITION}")
    add_legend(figure, handles)
    return figure


def _draw_metric(axes: "Axes", found: Findings, metric: str, color: str, style: str) -> list[Any]:
    """Thin lines, one a trunk; returns a handle where there is one."""
    factor = 100 if metric.endswith("accuracy") else 1
    handles = []
    for run in (run for run in found.trunks if run.complete):
        values = [record.get(metric) for record in run.records]
        numbers = [float("nan") if value is None else factor * value for value in values]
        epochs = [record["epoch"] for record in run.records]
        label = metric.replace("_", " ")
        handles = axes.plot(epochs, numbers, style, color=color, linewidth=1.1, alpha=0.75, label=label)
    axes.tick_params(axis="y", colors=color)
    return handles
