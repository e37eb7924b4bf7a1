"""Along the epochs: random_distance beside pruned forks (Figure 7), the training curve (Figure
10)."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from earlyprune_jax.analysis import drawing, peaks, results, words
from earlyprune_jax.analysis.drawing import COLORS
from earlyprune_jax.analysis.regimes import convergence, text
from earlyprune_jax.analysis.regimes.alignment import SIGNAL
from earlyprune_jax.analysis.regimes.findings import Findings
from earlyprune_jax.analysis.regimes.transition import Row
from earlyprune_jax.analysis.runs import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PANELS = 6
BLUE, RED = COLORS[0], COLORS[1]


def heavy_rows(found: Findings) -> list[Row]:
    """Chooses the rows drawn: significantly early ones, or the three heaviest where none is; six at
    most."""
    usable = [row for row in found.rows if row.best is not None]
    early = [row for row in usable if row.verdict == "early"]
    return early[-MAX_PANELS:] if early else usable[-3:]


def random_distance(found: Findings) -> "Figure | None":
    """Draws test metric and random_distance along the epochs, a panel a heavily pruned row, two
    axes each.

    None where random_distance was not measured along a trunk that was trained to its end.
    """
    table = results.signal_table(found.runs.where(found.runs.frame["complete"]))
    if SIGNAL not in table or peaks.mean_peak(table, SIGNAL) is None:
        return None
    shown = heavy_rows(found)
    num_columns = min(3, len(shown))
    num_rows = math.ceil(len(shown) / num_columns)
    figure = drawing.blank(0.8 + 3.7 * num_columns, 1.5 + 2.5 * num_rows)
    handles: list[Any] = []
    for index, row in enumerate(shown):
        axes = figure.add_subplot(num_rows, num_columns, index + 1)
        handles = _draw_row(axes, found, row, table)
    about = f"{words.label(found.grid.place)}; {text.repeats(found.grid)}: mean and range"
    title = "Does random distance peak where pruning is best?"
    drawing.head(figure, title, f"{about}; filled marks: the best mean")
    drawing.add_legend(figure, handles)
    return figure


def _draw_row(axes: "Axes", found: Findings, row: Row, signal_table: Table) -> list[Any]:
    grid = found.grid
    assert row.best is not None, "heavy_rows keeps rows with a best epoch"
    metric = grid.metric
    values = metric.scale * metric.sign * grid.test[grid.sparsities.index(row.sparsity)]
    kept = np.isfinite(values).any(axis=1)
    epochs, values = np.array(grid.epochs)[kept], values[kept]
    means = np.nanmean(values, axis=1)
    axes.fill_between(
        epochs,
        np.nanmin(values, axis=1),
        np.nanmax(values, axis=1),
        color=BLUE,
        alpha=0.18,
        linewidth=0,
    )
    label = f"{words.named(metric)} of the pruned network (left)"
    (line,) = axes.plot(epochs, means, "-", color=BLUE, marker="o", markersize=3, label=label)
    top = int(np.flatnonzero(epochs == row.best.epoch)[0])
    axes.plot(
        row.best.epoch, means[top], marker="*", markersize=13, color=BLUE, markeredgecolor="white"
    )
    right = axes.twinx()
    measured, signal = peaks.mean_curve(signal_table, SIGNAL)
    label = f"{words.signal_label(SIGNAL, {})} of the trunk (right)"
    (dashed,) = right.plot(measured, signal, "--", color=RED, linewidth=1.4, label=label)
    place = int(np.argmax(signal))
    right.plot(
        measured[place], signal[place], marker="D", markersize=7, color=RED, markeredgecolor="white"
    )
    axes.set_zorder(right.get_zorder() + 1)
    axes.patch.set_visible(False)
    distance = int(measured[place]) - row.best.epoch
    title = (
        f"{words.removed(row.sparsity)} % removed: best {row.best.epoch}, peak {measured[place]}"
    )
    axes.set_title(f"{title} ({distance:+d})", loc="left", fontsize=9)
    axes.set_xlabel("training epoch", fontsize=8.5)
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel(words.with_unit(words.named(metric), metric.unit), color=BLUE, fontsize=8.5)
    right.set_ylabel("random distance", color=RED, fontsize=8.5)
    for own, colour in ((axes, BLUE), (right, RED)):
        own.tick_params(axis="y", colors=colour, labelsize=8)
        own.tick_params(axis="x", labelsize=8)
        own.spines["top"].set_visible(False)
    return [line, dashed]


def training_curve(found: Findings) -> "Figure | None":
    """Draws the train metrics of the setting's trunks, the convergence epoch marked; None without
    one."""
    if found.convergence is None:
        return None
    figure = drawing.blank(6.6, 4.2)
    left = figure.add_subplot()
    handles = []
    for index, column in enumerate(convergence.columns(found.runs)):
        axes = left if index == 0 else left.twinx()
        # A third axis stands beside the second.
        axes.spines["right"].set_position(("axes", 1.0 + 0.16 * max(0, index - 1)))
        handles += _draw_metric(axes, found, column, COLORS[index], "-" if index == 0 else "--")
    epoch = found.convergence.epoch
    seeds = sorted(set(found.convergence.by_seed.values()))
    spread = f" (seeds: {words.span(seeds, '-')})" if len(seeds) > 1 else ""
    label = f"converged at epoch {epoch}{spread}"
    handles.append(left.axvline(epoch, color="#404040", linestyle=":", linewidth=1.6, label=label))
    left.set_xlabel("training epoch", fontsize=9)
    left.locator_params(axis="x", integer=True)
    left.set_ylim(bottom=0)
    setting = words.label(found.grid.place.setting)
    drawing.head(
        figure, "Training curve", f"{setting}. Converged: {convergence.definition(found.runs)}"
    )
    drawing.add_legend(figure, handles)
    return figure


def _draw_metric(axes: "Axes", found: Findings, column: str, color: str, style: str) -> list[Any]:
    """Thin lines, one per trunk; returns a handle where there is one."""
    metric, frame = found.runs.study.metric_of(column), found.runs.of_kind("trunk").frame
    assert metric is not None, "convergence.columns gives columns of metrics"
    handles, label = [], column.replace("_", " ")
    for name in frame.loc[frame["complete"], "name"]:
        entries = found.runs.entries[name]
        values = [entry.get(column) for entry in entries]
        numbers = [float("nan") if value is None else metric.scale * value for value in values]
        epochs = [entry["epoch"] for entry in entries]
        handles = axes.plot(
            epochs, numbers, style, color=color, linewidth=1.1, alpha=0.75, label=label
        )
    axes.tick_params(axis="y", colors=color)
    axes.set_ylabel(words.with_unit(label, metric.unit), color=color, fontsize=9)
    axes.spines["top"].set_visible(False)
    return handles
