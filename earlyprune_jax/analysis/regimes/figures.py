"""Figures of grids (2, 3, 6 and 8 of the paper) and across them (4, 5 and 9), and their names."""

import dataclasses
import itertools
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from earlyprune_jax.analysis import best_epoch, drawing, words
from earlyprune_jax.analysis.drawing import COLORS, MARKERS
from earlyprune_jax.analysis.places import Place, varying
from earlyprune_jax.analysis.regimes import epoch_figures, heatmaps, text
from earlyprune_jax.analysis.regimes.findings import DATA, DEPTH, Findings, Series, series
from earlyprune_jax.analysis.regimes.heatmaps import HeatMap
from earlyprune_jax.analysis.stats import mean_of
from earlyprune_jax.metrics import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_GRIDS = 4
"""Grids that get figures of their own; series over depth and data are drawn in any case."""
MAX_PANELS = 6
OVER = {DEPTH: "regimes_depth", DATA: "regimes_data"}
"""The figure of a series, by what it is over."""


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
            pictures[_stem(name, one.grid.place, axes)] = drawn(one)
        curve = _stem(CURVE, one.grid.place.setting, axes)
        if curve not in pictures:
            pictures[curve] = epoch_figures.training_curve(one)
    found = series(findings)
    for axis, name in OVER.items():
        own = [each for each in found if each.axis == axis]
        places = varying([each.place for each in own])
        for each in own[:MAX_GRIDS]:
            pictures[_stem(name, each.place, places)] = scaling_maps(each)
    pictures["regimes_optimal_epoch"] = optimal_epochs(found)
    possible = [(name, one.grid.place) for one in findings for name in (*OF_GRID, CURVE)]
    possible += [(OVER[each.axis], each.place) for each in found]
    stems = (stem for name, place in possible for stem in _stems(name, place))
    return drawing.save_all(workdir, pictures, possible=stems)


def _stem(name: str, place: Place, axes: Sequence[str]) -> str:
    """Names a figure; the end tells places that differ on `axes` apart."""
    return "_".join(filter(None, (name, place.slug(axes))))


def _stems(name: str, place: Place) -> Iterator[str]:
    """Lists all names that tell the place from others, whichever these are."""
    for size in range(len(place.axes) + 1):
        for axes in itertools.combinations(place.axes, size):
            yield _stem(name, place, axes)


def heat_maps(found: Findings) -> "Figure":
    """Draws the metric above, the difference to each row's best below, the best cell of each row
    starred."""
    metric = found.grid.metric
    rows = [
        (metric.unit, [value_map(found, value_title(metric))]),
        (words.difference_unit(metric), [difference_map(found, difference_title(metric))]),
    ]
    return _maps(rows, found, "Two regimes of pruning", numbered=True)


def similarity_maps(found: Findings) -> "Figure | None":
    """Draws the differences above model similarity, both transition lines on both; None without
    any."""
    if found.similarity is None:
        return None
    metric, divergence = found.grid.metric, found.similarity.divergence
    name = metric.name.replace("_", " ")
    sparsities = {name: found.line.sparsity, "similarity": found.similarity.line}
    order = found.grid.sparsities.index
    lines = [(order(s), by) for by, s in sparsities.items() if s is not None]
    difference = difference_map(found, f"{words.named(metric)}, to the row's best")
    alike = dataclasses.replace(
        difference,
        title="model similarity between replicates",
        values=divergence,
        failed=np.zeros(divergence.shape, dtype=bool),
        color_map="viridis_r",
        stars=(),
        lines=lines,
        may_cut=False,
    )
    rows = [
        (difference_title(metric), [dataclasses.replace(difference, lines=lines)]),
        ("divergence (nats): larger = less similar", [alike]),
    ]
    return _maps(rows, found, f"Transition line by {name} and by similarity")


OF_GRID = {
    "regimes": heat_maps,
    "regimes_similarity": similarity_maps,
    "regimes_random_distance": epoch_figures.random_distance,
}
"""The figures of a grid, by their names."""
CURVE = "training_curve"
"""The figure of a setting."""


def scaling_maps(over: Series) -> "Figure":
    """Draws one column per depth or data fraction: differences above, values below, with a colour
    axis each.

    With more than six values the first five and the last are drawn.
    """
    shown = list(zip(over.values, over.findings, strict=True))
    shown = shown if len(shown) <= MAX_PANELS else [*shown[: MAX_PANELS - 1], shown[-1]]
    titles = [
        f"depth {value:.0f}" if over.axis == DEPTH else f"{over.label(value)} of the data"
        for value, _ in shown
    ]
    own = [found for _, found in shown]
    metric = own[0].grid.metric
    rows = [
        (difference_title(metric), list(map(difference_map, own, titles))),
        (value_title(metric), list(map(value_map, own, titles))),
    ]
    title = f"Regimes of pruning against {over.axis}"
    return _maps(rows, own[0], title, place=words.label(over.place))


def _maps(
    rows: Sequence[tuple[str, Sequence[HeatMap]]],
    found: Findings,
    title: str,
    *,
    place: str = "",
    numbered: bool = False,
) -> "Figure":
    """Draws rows of maps, each with a colour axis of its own.

    Args:
        rows: name of the colour axis, and maps; as many in each row.
        found: a grid of those drawn, which tells what all rest on.
        title: of the figure.
        place: what the grids have in common; as a default all there is to say of `found`.
        numbered: whether each cell names its value, where there is room.
    """
    maps = [one for _, row in rows for one in row]
    num_sparsities = max(len(one.sparsities) for one in maps)
    num_epochs, num_columns = max(len(one.epochs) for one in maps), len(rows[0][1])
    numbered = numbered and num_epochs <= heatmaps.MAX_LABELLED_COLUMNS
    cell = (0.43, 0.34) if numbered else (0.24 if num_columns == 1 else 0.16, 0.25)
    width = num_columns * max(2.2, cell[0] * num_epochs + 0.4)
    height = len(rows) * max(1.6, cell[1] * num_sparsities + 0.5)
    figure = drawing.blank(min(18.0, max(6.4, 1.5 + width)), 1.8 + height)
    panels = figure.subplots(len(rows), num_columns, squeeze=False)
    for axes, (label, row) in zip(panels, rows, strict=True):
        heatmaps.draw_row(figure, axes, row, label, numbered=numbered)
    grid = found.grid
    about = f"{place or words.label(grid.place)}; {text.repeats(grid)}, {text.chosen(grid)}"
    drawing.head(figure, title, about)
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
        _dress_series(axes, over)
    about = "95 % bootstrap intervals of at least three repeats; dotted: training converged"
    drawing.head(figure, "Optimal epoch of pruning at high prune ratios", about)
    drawing.add_legend(figure)
    return figure


def _draw_line(axes: "Axes", over: Series, sparsity: float, number: int, shift: float) -> None:
    bests = [found.row(sparsity).best for found in over.findings]
    epochs = np.array([best.epoch if best else np.nan for best in bests])
    # A bootstrap interval may leave out the best epoch itself.
    reach = np.zeros((2, len(bests)))
    for place, best in enumerate(bests):
        if best and best.interval:
            low, high = best.interval
            reach[:, place] = max(0, best.epoch - low), max(0, high - best.epoch)
    axes.errorbar(
        np.arange(len(epochs)) + shift,
        epochs,
        yerr=reach,
        color=COLORS[number % len(COLORS)],
        marker=MARKERS[number % len(MARKERS)],
        linewidth=1.6,
        elinewidth=1.0,
        capsize=2.5,
        label=f"{words.removed(sparsity)} % removed",
    )


def _dress_series(axes: "Axes", over: Series) -> None:
    """Adds the convergence epochs, scales and title of a panel."""
    places = range(len(over.values))
    known = [found.convergence for found in over.findings]
    converged = [one.epoch if one else np.nan for one in known]
    axes.plot(places, converged, ":", color="#767676", linewidth=1.3, marker="_", markersize=14)
    axes.set_xticks(places, [over.label(value) for value in over.values], fontsize=8.5)
    axes.set_xlim(-0.4, len(over.values) - 0.6)
    last = max(found.num_epochs or found.grid.epochs[-1] for found in over.findings)
    axes.set_ylim(0, 1.04 * last)
    axes.set_xlabel(over.axis, fontsize=9)
    axes.set_ylabel("best epoch", fontsize=9)
    axes.locator_params(axis="y", integer=True)
    axes.set_title(textwrap.fill(words.label(over.place), 52), loc="left", fontsize=8)
    drawing.tidy(axes)


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


def value_map(found: Findings, title: str) -> HeatMap:
    """Maps the mean test metric, in its own unit and direction; dark is worse."""
    metric = found.grid.metric
    values = metric.scale * metric.sign * mean_of(found.grid.test, axis=-1)
    colors = "viridis" if metric.larger_is_better else "viridis_r"
    return dataclasses.replace(_map(found, title, values), color_map=colors)


def difference_map(found: Findings, title: str) -> HeatMap:
    """Maps the mean difference to the row's best over paired repeats: below 0 is worse."""
    values = np.full(found.grid.num_runs.shape, np.nan)
    for place, row in enumerate(found.rows):
        if row.best is not None:
            own = best_epoch.differences(found.grid.row(place), row.best.column)
            values[place] = [found.grid.metric.scale * one.mean if one else np.nan for one in own]
    return dataclasses.replace(_map(found, title, values), may_cut=True)


def _map(found: Findings, title: str, values: np.ndarray) -> HeatMap:
    grid = found.grid
    late = [
        place
        for place, epoch in enumerate(grid.epochs)
        if found.convergence and epoch >= found.convergence.epoch
    ]
    return HeatMap(
        title=title,
        sparsities=grid.sparsities,
        epochs=grid.epochs,
        values=values,
        failed=(grid.num_runs == 0) & (grid.num_failed > 0),
        stars=[row.best.column if row.best else -1 for row in found.rows],
        boundary=late[0] if late else None,
    )
