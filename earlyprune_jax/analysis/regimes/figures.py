"""Which figures of the regimes are drawn and what they are called; those along epochs: random
distance beside pruned forks (Figure 7 of the paper), the training curve (10), best epochs (5)."""

import itertools
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from earlyprune_jax.analysis import drawing, formatting, peaks, results
from earlyprune_jax.analysis.drawing import COLORS, MARKERS, Style
from earlyprune_jax.analysis.places import Place, varying
from earlyprune_jax.analysis.regimes import heatmaps, text, transition
from earlyprune_jax.analysis.regimes.controls import SIGNAL
from earlyprune_jax.analysis.regimes.findings import DATA, DEPTH, Findings, Rows, Series, series
from earlyprune_jax.analysis.runs import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_GRIDS = 4
"""Grids that get figures of their own; series over depth and data are drawn in any case."""
MAX_PANELS = 6
OVER = {DEPTH: "regimes_depth", DATA: "regimes_data"}
"""The figure of a series, by what it is over."""
BLUE = COLORS[0]


def draw(workdir: str | Path, findings: Sequence[Findings]) -> list[Path]:
    """Draws what the data allows: figures/<name>.png and .svg.

    `regimes` (Figures 2, 3, 8), `regimes_similarity` (6), `regimes_random_distance` (7) and
    `training_curve` (10), `regimes_depth` and `regimes_data` (4, 9), with the axes on which grids,
    or series, differ at the end of the name; `regimes_optimal_epoch` (5). Figures of these
    grids that an earlier call has drawn and this one has not, such as those of the time when there
    were fewer of them and their names were shorter, are removed.

    Args:
        workdir: where `figures` lies or is made.
        findings: of its grids; the first four get figures of their own.

    Returns:
        The paths written.

    Example:
        >>> draw("no/such/workdir", ())
        []
    """
    axes = varying([one.grid.place for one in findings])
    pictures: dict[str, Figure | None] = {}
    for one in findings[:MAX_GRIDS]:
        for name, drawn in OF_GRID.items():
            pictures[drawing.stem(name, one.grid.place, axes)] = drawn(one)
        curve = drawing.stem(CURVE, one.grid.place.setting, axes)
        if curve not in pictures:
            pictures[curve] = training_curve(one)
    every = series(findings)
    for axis, name in OVER.items():
        along = [one for one in every if one.axis == axis]
        axes = varying([one.place for one in along])
        for one in along[:MAX_GRIDS]:
            pictures[drawing.stem(name, one.place, axes)] = heatmaps.scaling_maps(one)
    pictures["regimes_optimal_epoch"] = optimal_epochs(every)
    possible = [(name, one.grid.place) for one in findings for name in (*OF_GRID, CURVE)]
    possible += [(OVER[one.axis], one.place) for one in every]
    stems = (stem for name, place in possible for stem in _stems(name, place))
    return drawing.save_all(workdir, pictures, possible=stems)


def _stems(name: str, place: Place) -> Iterator[str]:
    """Lists all names that tell the place from others, whichever these are."""
    for size in range(len(place.axes) + 1):
        for axes in itertools.combinations(place.axes, size):
            yield drawing.stem(name, place, axes)


def heavy_rows(found: Findings) -> Rows:
    """Chooses the rows drawn: significantly early ones, or the three heaviest where none is; six at
    most."""
    usable = [row for row in found.rows if row["best_epoch"] is not None]
    early = [row for row in usable if row["verdict"] == "early"]
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
    about = f"{formatting.label(found.grid.place)}; {text.basis(found.grid)}"
    title = "Does random distance peak where pruning is best?"
    drawing.head(figure, title, f"{about}. Band: range over repeats; filled marks: the best mean")
    drawing.add_legend(figure)
    return figure


def _draw_row(axes: "Axes", found: Findings, row: Mapping[str, Any], signal_table: Table) -> None:
    grid, metric, best_epoch = found.grid, found.grid.metric, row["best_epoch"]
    values = metric.scale * metric.sign * grid.test[grid.sparsities.index(row["sparsity"])]
    kept = np.isfinite(values).any(axis=1)
    epochs, values = np.array(grid.epochs)[kept], values[kept]
    low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
    axes.fill_between(epochs, low, high, color=BLUE, alpha=0.18, linewidth=0)
    right = axes.twinx()
    measured, signal = peaks.mean_curve(signal_table, SIGNAL)
    best, peak = int(np.flatnonzero(epochs == best_epoch)[0]), int(np.argmax(signal))
    label = f"{formatting.named(metric)} of the pruned network (left)"
    means = np.nanmean(values, axis=1)
    axes.plot(epochs, means, color=BLUE, marker="o", markersize=3, label=label)
    axes.scatter(epochs[best], means[best], s=170, color=BLUE, marker="*", edgecolors="white")
    label = f"{formatting.signal_label(SIGNAL, {})} of the trunk (right)"
    look = drawing.SIGNALS[SIGNAL]
    mark = {"markersize": 8, "markeredgecolor": "white", "markevery": [peak]}
    right.plot(measured, signal, linewidth=1.6, label=label, **mark, **look.options)
    axes.set_zorder(right.get_zorder() + 1)
    axes.patch.set_visible(False)
    removed = f"{formatting.removed(row['sparsity'])} % removed"
    apart = int(measured[peak]) - best_epoch
    title = f"{removed}: best {best_epoch}, peak {measured[peak]} ({apart:+d})"
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_xlabel("training epoch", fontsize=8.5)
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel(formatting.axis_label(metric), color=BLUE, fontsize=8.5)
    right.set_ylabel("random distance", color=look.color, fontsize=8.5)
    for side, colour in ((axes, BLUE), (right, look.color)):
        side.tick_params(labelsize=8)
        side.tick_params(axis="y", colors=colour)
        side.spines["top"].set_visible(False)


def training_curve(found: Findings) -> "Figure | None":
    """Draws the train metrics of the setting's trunks, one line per trunk, the convergence epoch
    marked; None without one."""
    if found.convergence is None:
        return None
    metrics, frame = transition.train_metrics(found.runs), found.runs.of_kind("trunk").frame
    figure = drawing.blank(6.6, 1.7 + 1.7 * len(metrics))
    line: dict[str, Any] = {"color": "#404040", "linestyle": ":", "linewidth": 1.6}
    line["label"] = f"converged at epoch {found.convergence.text}"
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False).ravel()
    for axes, metric in zip(panels, metrics, strict=True):
        column = metric.column("train")
        for name in frame.loc[frame["complete"], "name"]:
            entries = found.runs.entries[name]
            epochs = [entry["epoch"] for entry in entries]
            values = metric.scale * np.array([entry.get(column) for entry in entries], dtype=float)
            axes.plot(epochs, values, color=BLUE, linewidth=1.1, alpha=0.75)
        axes.axvline(found.convergence.epoch, **line)
        axes.set_ylabel(formatting.axis_label(metric, "train"), fontsize=9)
        drawing.tidy(axes)
    panels[0].set_ylim(bottom=0)
    panels[-1].set_xlabel("training epoch", fontsize=9)
    panels[-1].locator_params(axis="x", integer=True)
    setting = formatting.label(found.grid.place.setting)
    names = formatting.listed([formatting.named(metric, "train") for metric in metrics])
    converged = f"the first epoch from which the running median of {names} stays within"
    near = f"{100 * transition.TOLERANCE:.0f} % of the total change from the final level"
    drawing.head(figure, "Training curve", f"{setting}. Converged: {converged} {near}")
    drawing.add_legend(figure)
    return figure


def optimal_epochs(every: Sequence[Series]) -> "Figure | None":
    """Draws the best epoch against depth and data fraction, one line per high sparsity; None
    without a series."""
    every = every[:MAX_PANELS]
    if not every:
        return None
    figure, panels = drawing.panels(len(every), 3.9, 3.0, max_columns=MAX_PANELS)
    high = [over.high_sparsities() for over in every]
    # A sparsity looks the same in all panels.
    order = list(dict.fromkeys(itertools.chain(*high)))
    for axes, over, sparsities in zip(panels, every, high, strict=True):
        for index, sparsity in enumerate(sparsities):
            # Lines a little apart, or equal epochs would hide one another.
            shift = 0.09 * (index - (len(sparsities) - 1) / 2)
            _draw_line(axes, over, sparsity, order.index(sparsity), shift)
        ticks = range(len(over.values))
        known = [found.convergence for found in over.findings]
        converged = [one.epoch if one else np.nan for one in known]
        axes.plot(ticks, converged, ":", color="#767676", linewidth=1.3, marker="_", markersize=14)
        axes.set_xticks(ticks, [over.label(value) for value in over.values], fontsize=8.5)
        axes.set_xlim(-0.4, len(over.values) - 0.6)
        last = max(found.num_epochs or found.grid.epochs[-1] for found in over.findings)
        axes.set_ylim(0, 1.04 * last)
        axes.set_xlabel(over.axis, fontsize=9)
        axes.set_ylabel("best epoch", fontsize=9)
        axes.locator_params(axis="y", integer=True)
        axes.set_title(textwrap.fill(formatting.label(over.place), 52), loc="left", fontsize=8)
        drawing.tidy(axes)
    about = "95 % bootstrap intervals of at least three repeats; dotted: training converged"
    drawing.head(figure, "Optimal epoch of pruning at high prune ratios", about)
    drawing.add_legend(figure)
    return figure


def _draw_line(axes: "Axes", over: Series, sparsity: float, number: int, shift: float) -> None:
    rows = [found.rows[found.grid.sparsities.index(sparsity)] for found in over.findings]
    columns = ("best_epoch", "interval_low", "interval_high")
    # [3, V]; NaN where there is none.
    epochs, low, high = np.array([[row[name] for row in rows] for name in columns], dtype=float)
    # A bootstrap interval may leave out the best epoch itself.
    reach = np.nan_to_num(np.maximum(0, [epochs - low, high - epochs]))
    style = Style(COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)])
    options = {"yerr": reach, "linewidth": 1.6, "elinewidth": 1.0, "capsize": 2.5}
    label = f"{formatting.removed(sparsity)} % removed"
    axes.errorbar(np.arange(len(epochs)) + shift, epochs, label=label, **style.options, **options)


OF_GRID: dict[str, Callable[[Findings], "Figure | None"]] = {
    "regimes": heatmaps.grid_maps,
    "regimes_similarity": heatmaps.similarity_maps,
    "regimes_random_distance": random_distance,
}
"""The figures of a grid, by their names."""
CURVE = "training_curve"
"""The figure of a setting."""
