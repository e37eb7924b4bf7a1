"""Heat maps of grids: sparsities upward, fork epochs to the right, one colour per cell.

Colours are viridis: monotone in lightness, so readable in grey and by colour-blind readers. Cells
are equally large although epochs and sparsities are not equally far apart: every row and column is
named. Matplotlib is imported on use.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from earlyprune_jax.analysis import words

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
MAX_LABELLED_COLUMNS = 22
"""More columns leave no room for a number in each cell."""
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
    may_cut: bool = False


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


def draw_row(
    figure: "Figure",
    panels: Sequence["Axes"],
    maps: Sequence[HeatMap],
    label: str,
    *,
    numbered: bool = False,
) -> None:
    """Draws maps side by side with one colour axis, and its bar, which ends in a point where lower
    values exist.

    Args:
        figure: That the panels belong to.
        panels: One per map.
        maps: What is drawn.
        label: Of the colour bar.
        numbered: Whether each cell names its value, where there is room. Without, cells are small:
            epochs stand upright, and stars are smaller.
    """
    scale, mesh = limits(maps), None
    for axes, one in zip(panels, maps, strict=True):
        mesh = draw(axes, one, scale, numbered=numbered)
        axes.set_ylabel("prune ratio (% removed)" if axes is panels[0] else "", fontsize=9)
    assert mesh is not None, "a row has a map at least"
    extend = "min" if scale[2] else "neither"
    bar = figure.colorbar(mesh, ax=list(panels), extend=extend, pad=0.015, aspect=26)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def draw(
    axes: "Axes",
    one: HeatMap,
    scale: tuple[float, float, bool],
    *,
    numbered: bool = False,
) -> Any:
    """Draws a map.

    Args:
        axes: To draw on.
        one: The map.
        scale: Of `limits`.
        numbered: As in `draw_row`.

    Returns:
        What a colour bar needs.
    """
    from matplotlib.patches import Rectangle

    rows, columns = one.values.shape
    mesh = axes.pcolormesh(
        np.arange(columns + 1) - 0.5,
        np.arange(rows + 1) - 0.5,
        np.ma.masked_invalid(one.values),
        cmap=one.color_map,
        vmin=scale[0],
        vmax=scale[1],
        edgecolors="white",
        linewidth=0.4,
    )
    for row, column in np.argwhere(~np.isfinite(one.values)):
        hatch, label = HATCHES[bool(one.failed[row, column])]
        patch = Rectangle((column - 0.5, row - 0.5), 1, 1, hatch=hatch, label=label, **EMPTY)
        axes.add_patch(patch)
    numbered = numbered and columns <= MAX_LABELLED_COLUMNS
    if numbered:
        _write_numbers(axes, one, mesh)
    _mark(axes, one, numbered=numbered)
    axes.set_xticks(range(columns), [str(epoch) for epoch in one.epochs], fontsize=8)
    axes.set_yticks(range(rows), [words.removed(each) for each in one.sparsities], fontsize=8)
    is_upright = columns > 8 and not numbered
    axes.tick_params(axis="x", labelrotation=90 if is_upright else 0)
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(-0.5, rows - 0.5))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(one.title, loc="left", fontsize=9.5)
    axes.set_xlabel("training epoch at pruning", fontsize=9)
    return mesh


def decimals(values: np.ndarray) -> int:
    """Chooses how many decimals tell values apart: one, more where all are close.

    Example:
        >>> decimals(np.array([90.0, 90.04]))
        3
    """
    values = values[np.isfinite(values)]
    reach = float(np.ptp(values)) if values.size else 0.0
    return 1 if not reach else min(max(1, math.ceil(-math.log10(reach / 5))), 3)


def _mark(axes: "Axes", one: HeatMap, *, numbered: bool) -> None:
    """Draws the best cells, the convergence epoch and the transition lines."""
    from matplotlib import patheffects

    starred = np.array([(column, row) for row, column in enumerate(one.stars) if column >= 0])
    style: dict[str, Any]
    if starred.size:
        style = {"color": STAR, "edgecolors": "white", "linewidths": 0.7, "zorder": 5}
        style |= {"marker": "*", "s": 80 if numbered else 50, "label": "best epoch of the row"}
        axes.scatter(starred[:, 0], starred[:, 1] + (0.16 if numbered else 0.0), **style)
    if one.boundary is not None:
        # White on dark cells, its black rim on bright ones.
        rim = [patheffects.withStroke(linewidth=3.2, foreground="black")]
        style = {"color": "white", "linestyle": ":", "linewidth": 1.8, "path_effects": rim}
        axes.axvline(one.boundary - 0.5, zorder=3, label="training converged", **style)
    for row, name in one.lines:
        is_similarity = name == "similarity"
        # Two lines at one place stay both visible.
        height = row - 0.5 + (0.06 if is_similarity else -0.06)
        style = BY_SIMILARITY if is_similarity else BY_METRIC
        axes.axhline(height, zorder=4, label=f"transition line, by {name}", **style)


def _write_numbers(axes: "Axes", one: HeatMap, mesh: Any) -> None:
    colours = mesh.cmap(mesh.norm(one.values))[..., :3]
    bright = colours @ np.array([0.299, 0.587, 0.114]) > 0.55
    size = 7.5 if one.values.shape[1] <= 12 else 6.2
    precision = decimals(one.values)
    for row, column in np.argwhere(np.isfinite(one.values)):
        is_starred = row < len(one.stars) and one.stars[row] == column
        # z: what is rounded to nothing has no sign.
        text = f"{one.values[row, column]:z.{precision}f}"
        axes.text(
            column,
            # A star takes the upper half of its cell.
            row - (0.27 if is_starred else 0.0),
            text.replace("-", "\N{MINUS SIGN}"),
            ha="center",
            va="center",
            fontsize=size,
            # Inside its cell it moves nothing, and asking it takes long.
            in_layout=False,
            color="black" if bright[row, column] else "white",
        )
