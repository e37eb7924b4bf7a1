"""Heat maps of a grid: the metric, difference to each row's best (Figures 2, 3, 8), similarity
(6)."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from earlyprune_jax.analysis import best_epoch, drawing, words
from earlyprune_jax.analysis.regimes import heatmaps, text
from earlyprune_jax.analysis.regimes.findings import Findings
from earlyprune_jax.analysis.regimes.heatmaps import HeatMap
from earlyprune_jax.analysis.stats import mean_of
from earlyprune_jax.metrics import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DIVERGENCE = "divergence (nats): larger = less similar"


def value_title(metric: Metric) -> str:
    """Names what a map of values shows.

    Example:
        >>> value_title(Metric("loss", "nats", larger_is_better=False))
        'test loss (nats)'
    """
    return words.with_unit(words.named(metric), metric.unit)


def difference_title(metric: Metric) -> str:
    """Names what a map of differences shows; worse is below 0, whatever the metric's direction.

    Example:
        >>> difference_title(Metric("loss", "nats", larger_is_better=False))
        "loss gained on the row's best, nats (below 0 = worse)"
    """
    unit = words.difference_unit(metric)
    unit = f", {unit}" if unit else ""
    if metric.larger_is_better:
        return f"difference to the row's best{unit}"
    return f"{metric.name.replace('_', ' ')} gained on the row's best{unit} (below 0 = worse)"


def heat_maps(found: Findings) -> "Figure":
    """Draws the metric above, the difference to each row's best below, the best cell of each row
    starred."""
    metric = found.grid.metric
    maps = [value_map(found, value_title(metric)), difference_map(found, difference_title(metric))]
    rows, columns = maps[0].values.shape
    numbered = columns <= heatmaps.MAX_LABELLED_COLUMNS
    width, height = (0.43, 0.34) if numbered else (0.24, 0.24)
    figure = drawing.blank(max(6.4, 1.9 + width * columns), 2.1 + 2 * max(1.5, height * rows))
    panels = figure.subplots(2, 1, sharex=True)
    units = metric.unit, words.difference_unit(metric)
    for axes, one, label in zip(panels, maps, units, strict=True):
        scale = heatmaps.limits([one])
        mesh = heatmaps.draw(axes, one, scale, decimals=heatmaps.decimals(one))
        heatmaps.colour_bar(figure, mesh, axes, label, scale)
        axes.label_outer()
    panels[0].tick_params(axis="x", labelbottom=True)
    dress(figure, found, "Two regimes of pruning", maps)
    return figure


def similarity_maps(found: Findings) -> "Figure | None":
    """Draws the differences beside model similarity, both transition lines on both; None without
    any."""
    if found.similarity is None:
        return None
    grid = found.grid
    alike = HeatMap(
        title="model similarity between replicates",
        sparsities=grid.sparsities,
        epochs=grid.epochs,
        values=found.similarity.divergence,
        failed=np.zeros(found.similarity.divergence.shape, dtype=bool),
        color_map="viridis_r",
        boundary=_boundary(found),
        lines=_lines(found),
    )
    title = f"{words.named(grid.metric)}, to the row's best"
    maps = [difference_map(found, title, lines=_lines(found)), alike]
    rows, columns = maps[0].values.shape
    figure = drawing.blank(min(16.0, max(9.6, 3.4 + 0.5 * columns)), 1.9 + max(1.7, 0.26 * rows))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, one, label in zip(
        panels, maps, (difference_title(grid.metric), DIVERGENCE), strict=True
    ):
        scale = heatmaps.limits([one])
        mesh = heatmaps.draw(axes, one, scale, cramped=columns > 20)
        heatmaps.colour_bar(figure, mesh, axes, label, scale)
    panels[1].set_ylabel("")
    dress(figure, found, f"Transition line by {grid.metric.name} and by similarity", maps)
    return figure


def value_map(found: Findings, title: str) -> HeatMap:
    """Maps the mean test metric, in its own unit and direction; dark is worse."""
    metric = found.grid.metric
    values = metric.scale * metric.sign * mean_of(found.grid.test, axis=-1)
    colors = "viridis" if metric.larger_is_better else "viridis_r"
    return dataclasses.replace(_map(found, title, values), color_map=colors)


def difference_map(found: Findings, title: str, lines: Sequence[tuple[int, str]] = ()) -> HeatMap:
    """Maps the mean difference to the row's best over paired repeats: below 0 is worse."""
    values = np.full(found.grid.num_runs.shape, np.nan)
    for place, row in enumerate(found.rows):
        if row.best is not None:
            own = best_epoch.differences(found.grid.row(place), row.best.column)
            values[place] = [found.grid.metric.scale * one.mean if one else np.nan for one in own]
    return _map(found, title, values, lines, may_cut=True)


def _map(
    found: Findings,
    title: str,
    values: np.ndarray,
    lines: Sequence[tuple[int, str]] = (),
    *,
    may_cut: bool = False,
) -> HeatMap:
    grid = found.grid
    return HeatMap(
        title=title,
        sparsities=grid.sparsities,
        epochs=grid.epochs,
        values=values,
        failed=(grid.num_runs == 0) & (grid.num_failed > 0),
        stars=[row.best.column if row.best else -1 for row in found.rows],
        boundary=_boundary(found),
        lines=lines,
        may_cut=may_cut,
    )


def _boundary(found: Findings) -> int | None:
    """The first converged column."""
    if found.convergence is None:
        return None
    late = [
        place for place, epoch in enumerate(found.grid.epochs) if epoch >= found.convergence.epoch
    ]
    return late[0] if late else None


def _lines(found: Findings) -> list[tuple[int, str]]:
    places = {
        "metric": found.line.sparsity,
        "similarity": found.similarity and found.similarity.line,
    }
    order = found.grid.sparsities.index
    return [(order(sparsity), name) for name, sparsity in places.items() if sparsity is not None]


def dress(figure: "Figure", found: Findings, title: str, maps: Sequence[HeatMap]) -> None:
    """Adds a title with what the grid is and rests on, and legend."""
    grid = found.grid
    about = f"{words.label(grid.place)}; {text.repeats(grid)}, {text.chosen(grid)}"
    drawing.head(figure, title, about)
    drawing.add_legend(figure, heatmaps.legend(maps, grid.metric))
