"""One heat map of a grid: sparsities upward, fork epochs to the right, a colour a cell.

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
from earlyprune_jax.metrics import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EPOCH_AXIS = "training epoch at pruning"
RATIO_AXIS = "prune ratio (% removed)"
MISSING, FAILED = "///", "xxxx"
STAR = "#D7191C"
MAX_LABELLED_COLUMNS = 22
"""More columns leave no room for a number in each cell."""
LOWEST_SHARE, REACH = 0.25, 3.0
"""The lowest quarter of the cells shares the darkest colour where it reaches thrice as far as the
rest."""


@dataclasses.dataclass(frozen=True, eq=False)
class HeatMap:
    """What a heat map shows.

    Attributes:
        values: [S, E]; NaN where there is nothing.
        failed: [S, E], where all that ended has diverged or failed.
        color_map: so that dark is worse: "viridis", or "viridis_r" where larger values are.
        stars: [S], the column of each row's best cell, or -1.
        boundary: the first converged column: a line before it; None without one.
        lines: (row, style) of lines below rows, "metric" or "similarity".
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


LINE_STYLES: dict[str, dict[str, Any]] = {
    "metric": {"color": STAR, "linestyle": "-", "linewidth": 2.2},
    "similarity": {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 2.2},
}


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
    values = (
        np.concatenate([one.values[np.isfinite(one.values)] for one in maps])
        if maps
        else np.empty(0)
    )
    if not values.size:
        return 0.0, 1.0, False
    low, high = float(values.min()), float(values.max())
    robust = float(np.quantile(values, LOWEST_SHARE))
    cut = all(one.may_cut for one in maps) and high - low > REACH * (high - robust) > 0
    low = robust if cut else low
    return (low, high, cut) if high > low else (low - 0.5, high + 0.5, False)


def draw(
    axes: "Axes",
    one: HeatMap,
    scale: tuple[float, float, bool],
    *,
    decimals: int | None = None,
    cramped: bool = False,
) -> Any:
    """Draws a map and returns what a colour bar needs.

    Args:
        axes: to draw on.
        one: the map.
        scale: of `limits`.
        decimals: of the number in each cell; None = no numbers.
        cramped: in a small panel, where names of columns stand upright and stars are smaller.
    """
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
    _hatch(axes, one)
    numbered = decimals is not None and columns <= MAX_LABELLED_COLUMNS
    if numbered:
        _write_numbers(axes, one, mesh, decimals or 0)
    _mark(axes, one, lift=0.16 if numbered else 0.0, size=50 if cramped else 80)
    _name_axes(axes, one, upright=cramped and columns > 8)
    return mesh


def decimals(one: HeatMap) -> int:
    """Chooses how many decimals tell the cells of a map apart: one, more where all values are
    close.

    Example:
        >>> decimals(HeatMap("", (0.5,), (1, 2), np.array([[90.0, 90.04]]), np.zeros((1, 2), dtype=bool)))
        3
    """
    values = one.values[np.isfinite(one.values)]
    reach = float(np.ptp(values)) if values.size else 0.0
    return 1 if not reach else min(max(1, math.ceil(-math.log10(reach / 5))), 3)


def colour_bar(
    figure: "Figure", mesh: Any, axes: Any, label: str, scale: tuple[float, float, bool]
) -> None:
    """Adds a colour bar beside one or several axes, with a point below where lower values exist."""
    bar = figure.colorbar(
        mesh, ax=axes, extend="min" if scale[2] else "neither", pad=0.015, aspect=26
    )
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def legend(maps: Sequence[HeatMap], metric: Metric) -> list[Any]:
    """Makes handles for the marks that the maps use."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    if any(column >= 0 for one in maps for column in one.stars):
        style: dict[str, Any] = {
            "marker": "*",
            "linestyle": "",
            "markersize": 11,
            "markeredgecolor": "white",
        }
        handles.append(Line2D([], [], color=STAR, label="best epoch of the row", **style))
    if any(one.boundary is not None for one in maps):
        handles.append(
            Line2D([], [], color="white", **_boundary_style(), label="training converged")
        )
    name_of = metric.name.replace("_", " ")
    names = {
        "metric": f"transition line, by {name_of}",
        "similarity": "transition line, by similarity",
    }
    for name, style in LINE_STYLES.items():
        if any(name == own for one in maps for _, own in one.lines):
            handles.append(Line2D([], [], label=names[name], **style))
    face: dict[str, Any] = {"facecolor": "#ebebeb", "edgecolor": "#8c8c8c", "linewidth": 0.4}
    if any((~np.isfinite(one.values) & ~one.failed).any() for one in maps):
        handles.append(Patch(hatch=MISSING, label="not measured", **face))
    if any(one.failed.any() for one in maps):
        handles.append(Patch(hatch=FAILED, label="diverged or failed", **face))
    return handles


def _boundary_style() -> dict[str, Any]:
    from matplotlib import patheffects

    # White on dark cells, its black rim on bright ones.
    rim = [patheffects.withStroke(linewidth=3.2, foreground="black")]
    return {"linestyle": ":", "linewidth": 1.8, "path_effects": rim}


def _hatch(axes: "Axes", one: HeatMap) -> None:
    from matplotlib.patches import Rectangle

    for row, column in np.argwhere(~np.isfinite(one.values)):
        axes.add_patch(
            Rectangle(
                (column - 0.5, row - 0.5),
                1,
                1,
                facecolor="#ebebeb",
                edgecolor="#8c8c8c",
                linewidth=0.4,
                hatch=FAILED if one.failed[row, column] else MISSING,
            )
        )


def _write_numbers(axes: "Axes", one: HeatMap, mesh: Any, decimals: int) -> None:
    colours = mesh.cmap(mesh.norm(one.values))[..., :3]
    bright = colours @ np.array([0.299, 0.587, 0.114]) > 0.55
    size = 7.5 if one.values.shape[1] <= 12 else 6.2
    for row, column in np.argwhere(np.isfinite(one.values)):
        starred = row < len(one.stars) and one.stars[row] == column
        axes.text(
            column,
            # A star takes the upper half of its cell.
            row - (0.27 if starred else 0.0),
            f"{one.values[row, column]:.{decimals}f}".replace("-0.0", "0.0").replace(
                "-", "\N{MINUS SIGN}"
            ),
            ha="center",
            va="center",
            fontsize=size,
            # Inside its cell it moves nothing, and asking it takes long.
            in_layout=False,
            color="black" if bright[row, column] else "white",
        )


def _mark(axes: "Axes", one: HeatMap, *, lift: float, size: float) -> None:
    rows = [row for row, column in enumerate(one.stars) if column >= 0]
    axes.scatter(
        [one.stars[row] for row in rows],
        [row + lift for row in rows],
        marker="*",
        s=size,
        color=STAR,
        edgecolors="white",
        linewidths=0.7,
        zorder=5,
    )
    if one.boundary is not None:
        axes.axvline(one.boundary - 0.5, color="white", zorder=3, **_boundary_style())
    for row, name in one.lines:
        # Two lines at one place stay both visible.
        axes.axhline(
            row - 0.5 + (0.06 if name == "similarity" else -0.06), zorder=4, **LINE_STYLES[name]
        )


def _name_axes(axes: "Axes", one: HeatMap, *, upright: bool) -> None:
    columns, rows = range(len(one.epochs)), range(len(one.sparsities))
    axes.set_xticks(columns, [str(epoch) for epoch in one.epochs], fontsize=8)
    if upright or len(one.epochs) > MAX_LABELLED_COLUMNS:
        axes.tick_params(axis="x", labelrotation=90)
    axes.set_yticks(rows, [words.removed(sparsity) for sparsity in one.sparsities], fontsize=8)
    axes.set_xlim(-0.5, len(one.epochs) - 0.5)
    axes.set_ylim(-0.5, len(one.sparsities) - 0.5)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(one.title, loc="left", fontsize=9.5)
    axes.set_xlabel(EPOCH_AXIS, fontsize=9)
    axes.set_ylabel(RATIO_AXIS, fontsize=9)
