"""The transition line from model similarity alone, and how well it agrees with the one from the
metric."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from earlyprune_jax.analysis.cells import CellGrid
from earlyprune_jax.analysis.comparisons import Comparison
from earlyprune_jax.analysis.correlation import spearman
from earlyprune_jax.analysis.regimes.transition import Convergence, Line, Row
from earlyprune_jax.analysis.stats import mean_of

MIN_ROWS = 3
"""Two sparsities always split into two classes."""
MIN_PAIRS = 4
"""Rank correlations over fewer say nothing."""


@dataclasses.dataclass(frozen=True, eq=False)
class Similarity:
    """The divergence between replicates over a grid, and the split of its rows.

    Attributes:
        divergence: [S, E] mean Jensen-Shannon divergence over trunk seeds, nats; NaN where none.
        row_means: [S] its mean over the converged columns (all columns where none is converged)
            that the rows have in common; NaN for a row that lacks one of them.
        line: the smallest sparsity of the less similar class; None with fewer than three rows.
        explained: share of the variance between rows that the two classes explain.
        ramp_explained: the same share for a straight ramp over as many rows: what no break looks
            like.
    """

    divergence: np.ndarray
    row_means: np.ndarray
    line: float | None
    explained: float | None
    ramp_explained: float | None


@dataclasses.dataclass(frozen=True)
class Agreement:
    """The line from similarity against the line from the primary metric.

    Attributes:
        sparsity_difference: similarity's line minus the metric's; None where either is missing.
        row_difference: the same in rows.
        same_class: rows that both put on the same side: verdict "early" against the less similar
            class.
        num_classed: rows with the verdict early or converged, and a class.
        row_correlation: Spearman's, of a row's mean divergence and its early-stopping advantage.
        sparsity_correlation: its control: the sparsity itself in the divergence's place.
        num_rows: behind these two.
        cell_correlation: Spearman's over cells, of divergence and loss against the row's best.
        num_cells: behind it.
    """

    sparsity_difference: float | None
    row_difference: int | None
    same_class: int
    num_classed: int
    row_correlation: float | None
    sparsity_correlation: float | None
    num_rows: int
    cell_correlation: float | None
    num_cells: int


def measure(
    grid: CellGrid, comparisons: Iterable[Comparison], convergence: Convergence | None
) -> Similarity | None:
    """Measures the divergences of a grid's cells and the line they predict.

    The rule: row means over converged columns that the rows share, in the order of sparsity, are
    split in two where the squared distances to the means of the two classes add up to least. A
    straight ramp is split too; `explained` against `ramp_explained` says how abrupt the split is.
    See `split` for where there is none.

    Args:
        grid: the grid.
        comparisons: of this grid's cells; those that have finished are used.
        convergence: of the trunks.

    Returns:
        The similarity; None where no cell was compared.
    """
    divergence = _divergences(grid, comparisons)
    if not np.isfinite(divergence).any():
        return None
    late = [convergence is not None and epoch >= convergence.epoch for epoch in grid.epochs]
    has_late = np.isfinite(divergence[:, late]).any()
    row_means = shared_means(divergence[:, late] if has_late else divergence)
    known = np.flatnonzero(np.isfinite(row_means))
    place, explained = split(row_means[known])
    return Similarity(
        divergence=divergence,
        row_means=row_means,
        line=None if place is None else grid.sparsities[known[place]],
        explained=explained,
        ramp_explained=split(np.arange(len(known), dtype=float))[1],
    )


def shared_means(values: np.ndarray) -> np.ndarray:
    """Takes means of rows [S] over the columns that they share; the divergence also depends on the
    column.

    Where no column is common to all rows with values, the columns are those of the largest group
    that shares one, and rows outside that group have no mean.

    Args:
        values: [S, E]; NaN where missing.

    Example:
        >>> shared_means(np.array([[1.0, 3.0], [np.nan, 4.0], [np.nan, np.nan]])).tolist()
        [3.0, 4.0, nan]
    """
    present = np.isfinite(values)
    if not present.any():
        return np.full(len(values), np.nan)
    group = present[:, int(np.argmax(present.sum(axis=0)))]
    columns = present[group].all(axis=0)
    return np.where(group, mean_of(values[:, columns], axis=1), np.nan)


def split(values: np.ndarray) -> tuple[int | None, float | None]:
    """Finds where ordered values part into a low and a high class, and how much variance that
    explains.

    Minimises the summed squares within the classes; the first of equals. None where no split leaves
    the upper part with the higher mean, all values are equal, or there are fewer than three.

    Returns:
        The first place of the upper class, and 1 - within / total.

    Example:
        >>> split(np.array([0.1, 0.1, 0.1, 0.5, 0.5]))
        (3, 1.0)
    """
    total = float(np.sum((values - np.mean(values)) ** 2)) if len(values) else 0.0
    if len(values) < MIN_ROWS or total < 1e-24:
        return None, None
    splits = []
    for place in range(1, len(values)):
        low, high = values[:place], values[place:]
        if high.mean() > low.mean():
            within = sum(float(np.sum((part - part.mean()) ** 2)) for part in (low, high))
            splits.append((round(within / total, 12), place, within))
    if not splits:
        return None, None
    _, best, within = min(splits)
    return best, 1 - within / total


def agreement(
    grid: CellGrid, similarity: Similarity, found: Sequence[Row], line: Line
) -> Agreement:
    """Measures how well similarity and the primary metric agree.

    Args:
        grid: the grid.
        similarity: of it.
        found: its rows.
        line: its transition line.

    Returns:
        The agreement. Correlations over fewer than four are None.
    """
    own, measured, order = similarity.line, line.sparsity, grid.sparsities.index
    apart = None
    if own is not None and measured is not None:
        apart = own - measured, order(own) - order(measured)
    classed = [
        (row.verdict == "early") == (row.sparsity >= own)
        for row in found
        if own is not None and row.verdict in ("early", "converged")
    ]
    rows = [
        (float(mean), row.advantage.mean, row.sparsity)
        for mean, row in zip(similarity.row_means, found, strict=True)
        if row.advantage is not None and np.isfinite(mean)
    ]
    means, divergence = mean_of(grid.test, axis=-1), similarity.divergence
    columns = [row.best.column if row.best else 0 for row in found]
    below = means[np.arange(len(found)), columns][:, None] - means
    cells = np.isfinite(divergence) & np.isfinite(below)
    return Agreement(
        sparsity_difference=apart[0] if apart else None,
        row_difference=apart[1] if apart else None,
        same_class=sum(classed),
        num_classed=len(classed),
        row_correlation=_spearman([row[0] for row in rows], [row[1] for row in rows]),
        sparsity_correlation=_spearman([row[2] for row in rows], [row[1] for row in rows]),
        num_rows=len(rows),
        cell_correlation=_spearman(divergence[cells].tolist(), below[cells].tolist()),
        num_cells=int(cells.sum()),
    )


def _divergences(grid: CellGrid, comparisons: Iterable[Comparison]) -> np.ndarray:
    """Averages the divergences of each cell over trunk seeds: [S, E]."""
    seeds: dict[tuple[int, int], list[float]] = {}
    for one in comparisons:
        sparsity, epoch, value = one.cell["sparsity"], one.cell["fork_epoch"], one.model_similarity
        if value is not None and sparsity in grid.sparsities and epoch in grid.epochs:
            place = grid.sparsities.index(sparsity), grid.epochs.index(epoch)
            seeds.setdefault(place, []).append(value)
    divergence = np.full((len(grid.sparsities), len(grid.epochs)), np.nan)
    for place, values in seeds.items():
        divergence[place] = np.mean(values)
    return divergence


def _spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    return spearman(first, second) if len(first) >= MIN_PAIRS else None
