"""Heat maps of a grid: accuracy, difference to each row's best (Figures 2, 3, 8), similarity (6)."""

import math
import textwrap
from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from earlyprune_jax import records
from earlyprune_jax.analysis import figures
from earlyprune_jax.analysis.regimes import best_epochs, heatmaps, words
from earlyprune_jax.analysis.regimes.findings import Findings
from earlyprune_jax.analysis.regimes.grids import mean_of
from earlyprune_jax.analysis.regimes.heatmaps import HeatMap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACCURACY = "test accuracy (%)"
DIFFERENCE = "difference to the row's best, points"
DIVERGENCE = "divergence (nats): larger = less similar"
EXTENSIONS = ("png", "svg")


def blank(width: float, height: float) -> "Figure":
    """A figure without pyplot's state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: "Figure", workdir: str | Path, stem: str) -> list[Path]:
    """Writes figures/<stem>.png and .svg, each in one step; the same figure gives the same bytes."""
    directory = Path(workdir) / "figures"
    directory.mkdir(exist_ok=True)
    paths = [directory / f"{stem}.{extension}" for extension in EXTENSIONS]
    for path in paths:
        records.replace_file(path, figures.render(figure, path.suffix[1:]))
        # The places found for the first file serve the second: finding them is half of the time.
        figure.set_layout_engine("none")
    return paths


def remove(workdir: str | Path, stems: Container[str]) -> None:
    """Removes the figures/<stem>.png and .svg that there are."""
    for path in (Path(workdir) / "figures").glob("*"):
        if path.suffix[1:] in EXTENSIONS and path.stem in stems:
            path.unlink(missing_ok=True)


def heat_maps(found: Findings) -> "Figure":
    """Accuracy above, the difference to each row's best below, the best cell of each row starred."""
    maps = [accuracy_map(found, ACCURACY), difference_map(found, DIFFERENCE)]
    rows, columns = maps[0].values.shape
    numbered = columns <= heatmaps.MAX_LABELLED_COLUMNS
    width, height = (0.43, 0.34) if numbered else (0.24, 0.24)
    figure = blank(max(6.4, 1.9 + width * columns), 2.1 + 2 * max(1.5, height * rows))
    panels = figure.subplots(2, 1, sharex=True)
    for axes, one, label in zip(panels, maps, ("%", "points"), strict=True):
        scale = heatmaps.limits([one])
        mesh = heatmaps.draw(axes, one, scale, decimals=1)
        heatmaps.colour_bar(figure, mesh, axes, label, scale)
        axes.label_outer()
    panels[0].tick_params(axis="x", labelbottom=True)
    dress(figure, found, "Two regimes of pruning", maps)
    return figure


def similarity_maps(found: Findings) -> "Figure | None":
    """The differences beside model similarity, both transition lines on both; None without comparisons."""
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
    maps = [difference_map(found, "test accuracy, to the row's best", lines=_lines(found)), alike]
    rows, columns = maps[0].values.shape
    figure = blank(min(16.0, max(9.6, 3.4 + 0.5 * columns)), 1.9 + max(1.7, 0.26 * rows))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, one, label in zip(panels, maps, (DIFFERENCE, DIVERGENCE), strict=True):
        scale = heatmaps.limits([one])
        mesh = heatmaps.draw(axes, one, scale, cramped=columns > 20)
        heatmaps.colour_bar(figure, mesh, axes, label, scale)
    panels[1].set_ylabel("")
    dress(figure, found, "Transition line by accuracy and by similarity", maps)
    return figure


def accuracy_map(found: Findings, title: str) -> HeatMap:
    """Mean test accuracy in percent."""
    return _map(found, title, 100 * mean_of(found.grid.test, axis=-1))


def difference_map(found: Findings, title: str, lines: Sequence[tuple[int, str]] = ()) -> HeatMap:
    """Mean difference to the row's best over paired repeats, in points."""
    values = np.full(found.grid.num_runs.shape, np.nan)
    for place, row in enumerate(found.rows):
        if row.best is not None:
            own = best_epochs.differences(found.grid, place, row.best.column)
            values[place] = [100 * one.mean if one else np.nan for one in own]
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
    late = [place for place, epoch in enumerate(found.grid.epochs) if epoch >= found.convergence.epoch]
    return late[0] if late else None


def _lines(found: Findings) -> list[tuple[int, str]]:
    places = {"accuracy": found.line.sparsity, "similarity": found.similarity and found.similarity.line}
    order = found.grid.sparsities.index
    return [(order(sparsity), name) for name, sparsity in places.items() if sparsity is not None]


def dress(figure: "Figure", found: Findings, title: str, maps: Sequence[HeatMap]) -> None:
    """Title with what the grid is and rests on, and legend."""
    grid = found.grid
    about = f"{words.grid_label(grid)}; {words.repeats(grid)}, {words.chosen(grid)}"
    head(figure, title, about)
    add_legend(figure, heatmaps.legend(maps))


def head(figure: "Figure", title: str, about: str) -> None:
    """A title and, in smaller letters, what is shown."""
    width = int(figure.get_size_inches()[0] * 13.5)
    lines = textwrap.wrap(about, width)
    figure.suptitle("\n".join([title, *lines]), x=0.01, ha="left", fontsize=9.5)


def add_legend(figure: "Figure", handles: Sequence[Any]) -> None:
    """A legend below everything, in as few lines as fit."""
    if not handles:
        return
    longest = max(len(handle.get_label()) for handle in handles) + 7
    per_line = max(1, int(figure.get_size_inches()[0] * 15 / longest))
    num_columns = math.ceil(len(handles) / math.ceil(len(handles) / per_line))
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=num_columns,
        frameon=False,
        fontsize=8.5,
        handlelength=2.6,
    )
