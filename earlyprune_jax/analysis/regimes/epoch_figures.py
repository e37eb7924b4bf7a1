"""Along the epochs: random_distance beside pruned forks (Figure 7), the training curve (Figure
10)."""

from typing import TYPE_CHECKING

import numpy as np

from earlyprune_jax.analysis import drawing, peaks, results, words
from earlyprune_jax.analysis.drawing import COLORS
from earlyprune_jax.analysis.regimes import text, transition
from earlyprune_jax.analysis.regimes.controls import SIGNAL
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
    """Draws test metric and random_distance along the epochs, one panel per heavily pruned row, two
    axes each.

    None where random_distance was not measured along a trunk that was trained to its end.
    """
    table = results.signal_table(found.runs.where(found.runs.frame["complete"]))
    if SIGNAL not in table or peaks.mean_peak(table, SIGNAL) is None:
        return None
    shown = heavy_rows(found)
    figure, panels = drawing.panels(len(shown), 3.7, 2.5)
    for axes, row in zip(panels, shown, strict=True):
        _draw_row(axes, found, row, table)
    about = f"{words.label(found.grid.place)}; {text.repeats(found.grid)}: mean and range"
    title = "Does random distance peak where pruning is best?"
    drawing.head(figure, title, f"{about}; filled marks: the best mean")
    drawing.add_legend(figure)
    return figure


def _draw_row(axes: "Axes", found: Findings, row: Row, signal_table: Table) -> None:
    grid = found.grid
    assert row.best is not None, "heavy_rows keeps rows with a best epoch"
    metric = grid.metric
    values = metric.scale * metric.sign * grid.test[grid.sparsities.index(row.sparsity)]
    kept = np.isfinite(values).any(axis=1)
    epochs, values = np.array(grid.epochs)[kept], values[kept]
    low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
    axes.fill_between(epochs, low, high, color=BLUE, alpha=0.18, linewidth=0)
    right = axes.twinx()
    measured, signal = peaks.mean_curve(signal_table, SIGNAL)
    best, peak = int(np.flatnonzero(epochs == row.best.epoch)[0]), int(np.argmax(signal))
    means, label = np.nanmean(values, axis=1), f"{words.named(metric)} of the pruned network (left)"
    axes.plot(epochs, means, color=BLUE, marker="o", markersize=3, label=label)
    star = {"marker": "*", "markersize": 13, "markeredgecolor": "white"}
    axes.plot(epochs[best], means[best], color=BLUE, **star)
    right.plot(
        measured,
        signal,
        "--",
        color=RED,
        linewidth=1.4,
        marker="D",
        markersize=7,
        markeredgecolor="white",
        markevery=[peak],
        label=f"{words.signal_label(SIGNAL, {})} of the trunk (right)",
    )
    axes.set_zorder(right.get_zorder() + 1)
    axes.patch.set_visible(False)
    place = f"{words.removed(row.sparsity)} % removed: best {row.best.epoch}, peak {measured[peak]}"
    distance = int(measured[peak]) - row.best.epoch
    axes.set_title(f"{place} ({distance:+d})", loc="left", fontsize=9)
    axes.set_xlabel("training epoch", fontsize=8.5)
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel(words.with_unit(words.named(metric), metric.unit), color=BLUE, fontsize=8.5)
    right.set_ylabel("random distance", color=RED, fontsize=8.5)
    for side, colour in ((axes, BLUE), (right, RED)):
        side.tick_params(labelsize=8)
        side.tick_params(axis="y", colors=colour)
        side.spines["top"].set_visible(False)


def training_curve(found: Findings) -> "Figure | None":
    """Draws the train metrics of the setting's trunks, one line per trunk, the convergence epoch
    marked; None without one."""
    if found.convergence is None:
        return None
    columns, frame = transition.train_columns(found.runs), found.runs.of_kind("trunk").frame
    figure = drawing.blank(6.6, 1.7 + 1.7 * len(columns))
    epoch = found.convergence.epoch
    seeds = sorted(set(found.convergence.by_seed.values()))
    label = f"converged at epoch {epoch}"
    label += f" (seeds: {words.span(seeds, '-')})" if len(seeds) > 1 else ""
    panels = figure.subplots(len(columns), 1, sharex=True, squeeze=False).ravel()
    for axes, column in zip(panels, columns, strict=True):
        metric = found.runs.study.metric_of(column)
        assert metric is not None, "train_columns gives columns of metrics"
        for name in frame.loc[frame["complete"], "name"]:
            entries = found.runs.entries[name]
            epochs = [entry["epoch"] for entry in entries]
            values = metric.scale * np.array([entry.get(column) for entry in entries], dtype=float)
            axes.plot(epochs, values, color=BLUE, linewidth=1.1, alpha=0.75)
        axes.axvline(epoch, color="#404040", linestyle=":", linewidth=1.6, label=label)
        axes.set_ylabel(words.with_unit(column.replace("_", " "), metric.unit), fontsize=9)
        drawing.tidy(axes)
    panels[0].set_ylim(bottom=0)
    panels[-1].set_xlabel("training epoch", fontsize=9)
    panels[-1].locator_params(axis="x", integer=True)
    setting = words.label(found.grid.place.setting)
    drawing.head(figure, "Training curve", f"{setting}. Converged: {text.definition(found.runs)}")
    drawing.add_legend(figure)
    return figure
