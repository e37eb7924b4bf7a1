"""Regimes over model depth and over the amount of data (Figures 4 and 9), and the optimal epochs
(5)."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from earlyprune_jax.analysis import drawing, words
from earlyprune_jax.analysis.drawing import COLORS, MARKERS
from earlyprune_jax.analysis.places import Place
from earlyprune_jax.analysis.regimes import heatmaps, scaling, text
from earlyprune_jax.analysis.regimes.figures import (
    difference_map,
    difference_title,
    value_map,
    value_title,
)
from earlyprune_jax.analysis.regimes.findings import Findings
from earlyprune_jax.analysis.regimes.heatmaps import HeatMap
from earlyprune_jax.analysis.regimes.scaling import DEPTH, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PANELS = 6


def scaling_maps(series: Series, findings: Mapping[Place, Findings]) -> "Figure":
    """A column a depth or data fraction: differences above, values below, a shared colour axis
    each.

    With more than six values the first five and the last are drawn.
    """
    shown = list(zip(series.values, series.grids, strict=True))
    shown = shown if len(shown) <= MAX_PANELS else [*shown[: MAX_PANELS - 1], shown[-1]]
    own = [findings[grid.place] for _, grid in shown]
    titles = [value_label(series, value) for value, _ in shown]
    grid = own[0].grid
    rows = [
        (
            difference_title(grid.metric),
            [difference_map(f, t) for f, t in zip(own, titles, strict=True)],
        ),
        (value_title(grid.metric), [value_map(f, t) for f, t in zip(own, titles, strict=True)]),
    ]
    num_rows, num_columns = (max(one.values.shape[axis] for one in rows[0][1]) for axis in (0, 1))
    width = min(18.0, 1.4 + len(own) * max(2.2, 0.16 * num_columns + 0.4))
    figure = drawing.blank(width, 2.0 + 2 * max(1.6, 0.25 * num_rows + 0.5))
    panels = figure.subplots(2, len(own), squeeze=False)
    for axes, (label, maps) in zip(panels, rows, strict=True):
        _draw_row(figure, axes, maps, label)
    for axes in panels[0]:
        axes.set_xlabel("")
    title = f"Regimes of pruning against {series.axis}"
    drawing.head(
        figure, title, f"{_shared_label(series)}; {text.repeats(grid)}, {text.chosen(grid)}"
    )
    drawing.add_legend(
        figure, heatmaps.legend([one for _, maps in rows for one in maps], grid.metric)
    )
    return figure


def _draw_row(figure: "Figure", axes: Any, maps: Sequence[HeatMap], label: str) -> None:
    scale = heatmaps.limits(maps)
    meshes = [
        heatmaps.draw(own, one, scale, cramped=True) for own, one in zip(axes, maps, strict=True)
    ]
    for own in axes[1:]:
        own.set_ylabel("")
    heatmaps.colour_bar(figure, meshes[0], list(axes), label, scale)


def optimal_epochs(found: Sequence[Series], findings: Mapping[Place, Findings]) -> "Figure | None":
    """The best epoch against depth and data fraction, a line a high sparsity; None without a
    series."""
    found = found[:MAX_PANELS]
    if not found:
        return None
    figure = drawing.blank(1.0 + 3.9 * len(found), 4.3)
    handles: dict[float, Any] = {}
    for axes, one in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        handles |= _draw_series(axes, one, [findings[grid.place] for grid in one.grids], handles)
    about = "95 % bootstrap intervals where there are at least three repeats; dotted: training converged"
    drawing.head(figure, "Optimal epoch of pruning at high prune ratios", about)
    drawing.add_legend(figure, [handles[sparsity] for sparsity in sorted(handles)])
    return figure


def _draw_series(
    axes: "Axes", series: Series, findings: Sequence[Findings], known: Mapping[float, Any]
) -> dict[float, Any]:
    """One panel; returns a handle a sparsity. A sparsity looks the same in all panels."""
    early = [sparsity for one in findings for sparsity in one.early_sparsities]
    sparsities = scaling.high_sparsities(series.grids, early)
    handles = dict(known)
    places = range(len(series.values))
    for index, sparsity in enumerate(sparsities):
        number = list(handles).index(sparsity) if sparsity in handles else len(handles)
        # Lines a little apart, or equal epochs would hide one another.
        shift = 0.09 * (index - (len(sparsities) - 1) / 2)
        handles[sparsity] = _draw_line(
            axes, findings, sparsity, number, [place + shift for place in places]
        )
    converged = [one.convergence.epoch if one.convergence else float("nan") for one in findings]
    axes.plot(places, converged, ":", color="#767676", linewidth=1.3, marker="_", markersize=14)
    axes.set_xticks(places, [_tick(series, value) for value in series.values], fontsize=8.5)
    axes.set_xlim(-0.4, len(series.values) - 0.6)
    axes.set_ylim(0, 1.04 * max(one.num_epochs or one.grid.epochs[-1] for one in findings))
    axes.set_xlabel(series.axis, fontsize=9)
    axes.set_ylabel("best epoch", fontsize=9)
    axes.locator_params(axis="y", integer=True)
    axes.set_title(textwrap.fill(_shared_label(series), 52), loc="left", fontsize=8)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return handles


def _draw_line(
    axes: "Axes",
    findings: Sequence[Findings],
    sparsity: float,
    number: int,
    places: Sequence[float],
) -> Any:
    bests = [
        next((row.best for row in one.rows if row.sparsity == sparsity and row.best), None)
        for one in findings
    ]
    epochs = [best.epoch if best else float("nan") for best in bests]
    reach = [best.interval if best and best.interval else None for best in bests]
    low = [e - r[0] if r else 0 for e, r in zip(epochs, reach, strict=True)]
    high = [r[1] - e if r else 0 for e, r in zip(epochs, reach, strict=True)]
    return axes.errorbar(
        list(places),
        epochs,
        # A bootstrap interval may leave out the best epoch itself.
        yerr=[[max(0.0, value) for value in low], [max(0.0, value) for value in high]],
        color=COLORS[number % len(COLORS)],
        marker=MARKERS[number % len(MARKERS)],
        linewidth=1.6,
        elinewidth=1.0,
        capsize=2.5,
        label=f"{words.removed(sparsity)} % removed",
    )


def value_label(series: Series, value: float) -> str:
    """A depth or a data fraction, for readers."""
    return f"depth {value:.0f}" if series.axis == DEPTH else f"{100 * value:.6g} % of the data"


def _tick(series: Series, value: float) -> str:
    return f"{value:.0f}" if series.axis == DEPTH else f"{100 * value:.6g} %"


def _shared_label(series: Series) -> str:
    return words.label(series.place)
