"""Heat maps of grids (Figures 2, 3, 4, 6, 8 and 9 of the paper): sparsities upward, fork epochs to
the right, one colour per cell.

Colours are viridis: monotone in lightness, so readable in grey and by colour-blind readers. Cells
are equally large although epochs and sparsities are not equally far apart: every row and column is
named. Matplotlib is imported on use.
"""

import dataclasses
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from earlyprune_jax.analysis import drawing, formatting
from earlyprune_jax.analysis.regimes import text
from earlyprune_jax.analysis.regimes.findings import DEPTH, Findings, Series
from earlyprune_jax.metrics import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HATCHES = (("///", "not measured"), ("xxxx", "diverged or failed"))
"""Of cells without a number, by whether their runs have failed."""
EMPTY: dict[str, Any] = {"facecolor": "#ebebeb", "edgecolor": "#8c8c8c", "linewidth": 0.4}
STAR = "#D7191C"
BY_SIMILARITY: dict[str, Any] = {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 2.2}
BY_METRIC: dict[str, Any] = {"color": STAR, "linestyle": "-", "linewidth": 2.2}
"""Transition lines."""
REGION: dict[str, Any] = {"facecolor": "none", "edgecolor": "#E66100", "linewidth": 2.2}
"""Around rows in which early and converged epochs are equally good."""
MAX_LABELLED_COLUMNS = 22
"""More columns leave no room for a number in each cell."""
MAX_PANELS = 6
ROUNDING = 1e-9
"""Differences as small as this are 0."""
LOWEST_SHARE, REACH = 0.25, 3.0
"""The lowest quarter of the cells shares the darkest colour where it reaches thrice as far as the
rest."""


@dataclasses.dataclass(frozen=True, eq=False)
class HeatMap:
    """Holds what a heat map shows.

    Attributes:
        values: [S, E]; NaN where there is nothing.
        failed: [S, E], where all that ended has diverged or failed.
        color_map: so that dark is worse: "viridis", or "viridis_r" where larger values are.
        stars: [S], the column of each row's best cell, or -1.
        boundary: the first converged column: a line before it; None without one.
        lines: (row, "similarity" or the metric's name) of transition lines below rows.
        regions: first and last of neighbouring rows with the verdict "equal".
        region: how near that is.
        may_cut: whether the lowest cells may share a colour, so that the others can be told apart.
    """

    title: str
    sparsities: tuple[float, ...]
    epochs: tuple[int, ...]
    values: np.ndarray
    failed: np.ndarray
    color_map: str = "viridis"
    stars: Sequence[int] = ()
    boundary: int | None = None
    lines: Sequence[tuple[int, str]] = ()
    regions: Sequence[tuple[int, int]] = ()
    region: str = ""
    may_cut: bool = False


def grid_maps(found: Findings) -> "Figure":
    """Draws the metric above, the difference to each row's best below, the best cell of each row
    starred; the transition line, and rows in which early and converged are equally good."""
    metric, line = found.grid.metric, found.rows[0]["transition_sparsity"]
    difference = difference_map(found, difference_title(metric))
    if line is not None:
        below = found.grid.sparsities.index(line), metric.name.replace("_", " ")
        difference = dataclasses.replace(difference, lines=[below])
    rows = [
        (metric.unit, [value_map(found, formatting.axis_label(metric))]),
        (formatting.difference_unit(metric), [difference]),
    ]
    place = formatting.label(found.grid.place)
    return _maps(rows, found, "Two regimes of pruning", place, numbered=True)


def similarity_maps(found: Findings) -> "Figure | None":
    """Draws the differences above model similarity, both transition lines on both; None without
    any."""
    divergence = found.values("model_similarity")
    if not np.isfinite(divergence).any():
        return None
    metric, row = found.grid.metric, found.rows[0]
    name, place = metric.name.replace("_", " "), formatting.label(found.grid.place)
    sparsities = {name: row["transition_sparsity"]}
    sparsities["similarity"] = row["similarity_transition_sparsity"]
    order = found.grid.sparsities.index
    lines = [(order(one), by) for by, one in sparsities.items() if one is not None]
    difference = difference_map(found, f"{formatting.named(metric)}, to the row's best")
    difference = dataclasses.replace(difference, lines=lines)
    alike = dataclasses.replace(
        difference,
        title="model similarity between replicates",
        values=divergence,
        failed=np.zeros(divergence.shape, dtype=bool),
        color_map="viridis_r",
        stars=(),
        may_cut=False,
    )
    label = "divergence (nats): larger = less similar"
    rows = [(difference_title(metric), [difference]), (label, [alike])]
    return _maps(rows, found, f"Transition line by {name} and by similarity", place)


def scaling_maps(over: Series) -> "Figure":
    """Draws one column per depth or data fraction: differences above, values below, with a colour
    axis each.

    With more than six values the first five and the last are drawn.
    """
    num_first = min(len(over.values), MAX_PANELS) - 1
    labels = [over.label(value) for value in (*over.values[:num_first], over.values[-1])]
    titles = [f"depth {one}" if over.axis == DEPTH else f"{one} of the data" for one in labels]
    findings = [*over.findings[:num_first], over.findings[-1]]
    metric = findings[0].grid.metric
    rows = [
        (difference_title(metric), list(map(difference_map, findings, titles))),
        (formatting.axis_label(metric), list(map(value_map, findings, titles))),
    ]
    title = f"Regimes of pruning against {over.axis}"
    return _maps(rows, findings[0], title, formatting.label(over.place))


def difference_title(metric: Metric) -> str:
    """Names what a map of differences shows; worse is below 0, whatever the metric's direction.

    Example:
        >>> difference_title(Metric("loss", "nats", larger_is_better=False))
        "difference to the row's best, nats (below 0 = worse)"
    """
    unit = formatting.difference_unit(metric)
    title = f"difference to the row's best{f', {unit}' if unit else ''}"
    return title if metric.larger_is_better else f"{title} (below 0 = worse)"


def value_map(found: Findings, title: str) -> HeatMap:
    """Maps the mean test metric, in its own unit and direction; dark is worse."""
    metric = found.grid.metric
    column = f"{metric.column('test')}_mean"
    return _map(found, title, column, "viridis" if metric.larger_is_better else "viridis_r")


def difference_map(found: Findings, title: str) -> HeatMap:
    """Maps the mean difference to the row's best over paired repeats: below 0 is worse; its lowest
    cells may share a colour."""
    return dataclasses.replace(_map(found, title, "below_best_mean", "viridis"), may_cut=True)


def _map(found: Findings, title: str, column: str, color_map: str) -> HeatMap:
    grid, start = found.grid, found.convergence.epoch if found.convergence else math.inf
    bests = [row["best_epoch"] for row in found.rows]
    equal = [index for index, row in enumerate(found.rows) if row["verdict"] == "equal"]
    return HeatMap(
        title=title,
        sparsities=grid.sparsities,
        epochs=grid.epochs,
        values=grid.metric.scale * found.values(column),
        failed=(grid.num_runs == 0) & (grid.num_failed > 0),
        color_map=color_map,
        stars=[-1 if best is None else grid.epochs.index(best) for best in bests],
        boundary=next((c for c, epoch in enumerate(grid.epochs) if epoch >= start), None),
        regions=_neighbours(equal),
        region=text.within(found) if equal else "",
    )


def _neighbours(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Joins ascending rows that follow one another: first and last of each group."""
    ends = [row for row in rows if row + 1 not in rows]
    return list(zip((row for row in rows if row - 1 not in rows), ends, strict=True))


def _maps(
    rows: Sequence[tuple[str, Sequence[HeatMap]]],
    found: Findings,
    title: str,
    place: str,
    *,
    numbered: bool = False,
) -> "Figure":
    """Draws rows of maps, each with one colour axis, and its bar, which ends in a point where lower
    values exist.

    Args:
        rows: name of the colour axis, and maps; as many in each row.
        found: a grid of those drawn, which tells what all rest on.
        title: of the figure.
        place: what the grids have in common.
        numbered: whether each cell names its value, where there is room.
    """
    maps = [one for _, row in rows for one in row]
    num_sparsities = max(len(one.sparsities) for one in maps)
    num_epochs, num_columns = max(len(one.epochs) for one in maps), len(rows[0][1])
    numbered = numbered and num_epochs <= MAX_LABELLED_COLUMNS
    cell = (0.43, 0.34) if numbered else (0.24 if num_columns == 1 else 0.16, 0.25)
    width = num_columns * max(2.2, cell[0] * num_epochs + 0.4)
    height = max(1.6, cell[1] * num_sparsities + 0.5)
    figure = drawing.blank(min(18.0, max(6.4, 1.5 + width)), 1.8 + len(rows) * height)
    panels = figure.subplots(len(rows), num_columns, squeeze=False)
    for axes_of_row, (label, row) in zip(panels, rows, strict=True):
        scale = limits(row)
        for axes, one in zip(axes_of_row, row, strict=True):
            mesh = draw(axes, one, scale, numbered=numbered)
        axes_of_row[0].set_ylabel("prune ratio (% removed)", fontsize=9)
        extend = "min" if scale[2] else "neither"
        if scale[2]:
            # A pointed end alone is overlooked.
            lowest = f"{scale[0]:.3g}".replace("-", "\N{MINUS SIGN}")
            label = f"{label} (darkest: {lowest} or less)".lstrip()
        bar = figure.colorbar(mesh, ax=list(axes_of_row), extend=extend, pad=0.015, aspect=26)
        # Beside low maps a long label is broken, or two would meet.
        bar.set_label(textwrap.fill(label, int(14 * height) - 4), fontsize=9)
        bar.ax.tick_params(labelsize=8)
    drawing.head(figure, title, f"{place}; {text.basis(found.grid)}")
    drawing.add_legend(figure, note=_above_best(maps, found))
    return figure


def _above_best(maps: Sequence[HeatMap], found: Findings) -> str:
    """Explains differences to a row's best that are above 0; empty where there are none."""
    differences = [one.values for one in maps if one.may_cut]
    if not any((values > ROUNDING).any() for values in differences):
        return ""
    metric, split = found.grid.metric, found.grid.split
    if split == "test":
        return "Above 0: better than the row's best in the repeats that both cells have."
    return (
        f"Above 0: better than the row's best on {formatting.named(metric)}; the best is chosen on "
        f"{formatting.named(metric, split)}."
    )


def limits(maps: Sequence[HeatMap]) -> tuple[float, float, bool]:
    """Fits one colour axis to several maps: lowest and highest value of it, and whether lower
    values exist.

    Networks pruned at initialisation are worse by so much that in a map of differences all others
    would look alike: where all maps allow it, the lowest quarter of the cells is cut if it reaches
    far.

    Example:
        >>> limits([])
        (0.0, 1.0, False)
    """
    values = np.concatenate([np.empty(0), *(one.values[np.isfinite(one.values)] for one in maps)])
    if not values.size:
        return 0.0, 1.0, False
    low, high = float(values.min()), float(values.max())
    robust = float(np.quantile(values, LOWEST_SHARE))
    cut = all(one.may_cut for one in maps) and high - low > REACH * (high - robust) > 0
    low = robust if cut else low
    return (low, high, cut) if high > low else (low - 0.5, high + 0.5, False)


def draw(
    axes: "Axes", one: HeatMap, scale: tuple[float, float, bool], *, numbered: bool = False
) -> Any:
    """Draws a map.

    Args:
        axes: To draw on.
        one: The map.
        scale: Of `limits`.
        numbered: Whether each cell names its value. Without, cells are small: epochs stand
            upright, and stars are smaller.

    Returns:
        What a colour bar needs.
    """
    from matplotlib.patches import Rectangle

    rows, columns = one.values.shape
    colors: dict[str, Any] = {"cmap": one.color_map, "vmin": scale[0], "vmax": scale[1]}
    # Centred on the whole numbers, as arrays of the cells' shape are.
    cells = np.arange(columns), np.arange(rows), np.ma.masked_invalid(one.values)
    mesh = axes.pcolormesh(*cells, **colors, shading="nearest", edgecolors="white", linewidth=0.4)
    for row, column in np.argwhere(~np.isfinite(one.values)):
        hatch, label = HATCHES[bool(one.failed[row, column])]
        patch = Rectangle((column - 0.5, row - 0.5), 1, 1, hatch=hatch, label=label, **EMPTY)
        axes.add_patch(patch)
    if numbered:
        _write_numbers(axes, one, mesh)
    _mark(axes, one, numbered=numbered)
    axes.set_xticks(range(columns), [str(epoch) for epoch in one.epochs], fontsize=8)
    axes.set_yticks(range(rows), list(map(formatting.removed, one.sparsities)), fontsize=8)
    axes.tick_params(axis="x", labelrotation=90 if columns > 8 and not numbered else 0)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(-0.5, rows - 0.5))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(one.title, loc="left", fontsize=9.5)
    axes.set_xlabel("training epoch at pruning", fontsize=9)
    return mesh


def _mark(axes: "Axes", one: HeatMap, *, numbered: bool) -> None:
    """Draws the best cells, the convergence epoch, the transition lines and regions."""
    from matplotlib import patheffects
    from matplotlib.patches import Rectangle

    rows = [row for row, column in enumerate(one.stars) if column >= 0]
    if rows:
        size, up = (80, 0.16) if numbered else (50, 0.0)
        star = {"color": STAR, "edgecolors": "white", "linewidths": 0.7, "marker": "*", "s": size}
        columns, heights = [one.stars[row] for row in rows], [row + up for row in rows]
        axes.scatter(columns, heights, zorder=5, label="best epoch of the row", **star)
    if one.boundary is not None:
        # White on dark cells, its black rim on bright ones.
        line = axes.axvline(one.boundary - 0.5, color="white", linestyle=":", linewidth=1.8)
        rim = patheffects.withStroke(linewidth=3.2, foreground="black")
        line.set(zorder=3, label="training converged", path_effects=[rim])
    for first, last in one.regions:
        # A transition line above it stays visible.
        corner, size = (-0.44, first - 0.43), (one.values.shape[1] - 0.12, last - first + 0.79)
        label = f"early and converged equally good (within {one.region})"
        box = Rectangle(corner, *size, label=label, zorder=4, **REGION)
        axes.add_patch(box)
    for row, name in one.lines:
        # Two lines at one place stay both visible.
        up, style = (0.06, BY_SIMILARITY) if name == "similarity" else (-0.06, BY_METRIC)
        axes.axhline(row - 0.5 + up, zorder=4, label=f"transition line, by {name}", **style)


def _write_numbers(axes: "Axes", one: HeatMap, mesh: Any) -> None:
    colours = mesh.cmap(mesh.norm(one.values))[..., :3]
    bright = colours @ np.array([0.299, 0.587, 0.114]) > 0.55
    values = one.values[np.isfinite(one.values)]
    reach = float(np.ptp(values)) if values.size else 0.0
    # As many decimals as tell values apart: one, more where all are close.
    decimals = min(max(1, math.ceil(-math.log10(reach / 5))), 3) if reach else 1
    # Inside its cell a text moves nothing, and asking it takes long.
    style: dict[str, Any] = {"ha": "center", "va": "center", "in_layout": False}
    style["fontsize"] = 7.5 if one.values.shape[1] <= 12 else 6.2
    for row, column in np.argwhere(np.isfinite(one.values)):
        # A star takes the upper half of its cell.
        down = 0.27 if row < len(one.stars) and one.stars[row] == column else 0.0
        # z: what is rounded to nothing has no sign.
        number = f"{one.values[row, column]:z.{decimals}f}".replace("-", "\N{MINUS SIGN}")
        color = "black" if bright[row, column] else "white"
        axes.text(column, row - down, number, color=color, **style)
