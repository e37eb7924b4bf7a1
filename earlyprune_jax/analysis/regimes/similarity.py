"""How alike networks fine-tuned from one mask are: comparisons between the replicates of a cell.

The engine writes them to comparisons/<name>/run.json and result.json; here they are read, tabled,
and give a transition line of their own, which is held against the one from the metric.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from earlyprune_jax import records
from earlyprune_jax.analysis import publish, results
from earlyprune_jax.analysis.curves import CellGrid
from earlyprune_jax.analysis.places import Place, Swept, value_of
from earlyprune_jax.analysis.regimes.transition import Convergence, Line, Row
from earlyprune_jax.analysis.runs import axes_of, is_number, with_current_names
from earlyprune_jax.analysis.stats import mean_of, spearman
from earlyprune_jax.validate import InvalidInput, shortened, unexpected

NUMBERS = ("num_examples", "model_similarity", "model_similarity_standard_error", "disagreement")
MIN_ROWS = 3
"""Two sparsities always split into two classes."""
MIN_PAIRS = 4
"""Rank correlations over fewer say nothing."""


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """The replicates of one cell against one another.

    Attributes:
        cell: what it is about: a run's axes without the replicate, for it is between replicates.
        status: finished, skipped, failed, or unfinished where no result has been written.
        numbers: every number of result.json, by name. `model_similarity` is the mean Jensen-Shannon
            divergence over examples and pairs of replicates, nats, 0 to ln 2: the larger, the LESS
            alike (its name is paper B's); `disagreement` the share of examples on which two
            replicates predict different classes.
    """

    cell: Place
    replicates: tuple[int, ...]
    status: str
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    reason: str | None = None

    @property
    def model_similarity(self) -> float | None:
        """The divergence; None unless finished, and measured."""
        return self.numbers.get("model_similarity")


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


def read(workdir: str | Path, swept: Swept | None = None) -> list[Comparison]:
    """Reads the comparisons of a workdir, one per cell, sorted by cell.

    A cell that was compared again, with other replicates or by other measures, has several
    directories. A finished one counts before others, then the most replicates, the most numbers,
    the last by name.

    Args:
        workdir: an experiment's directory; one without comparisons has none.
        swept: of its runs: keys that are axes of the cells too.

    Returns:
        The comparisons, ended or not.

    Raises:
        InvalidInput: files that a finished write cannot have left; names each.

    Example:
        >>> read("no/such/workdir")
        []
    """
    by_cell: dict[Place, list[Comparison]] = {}
    problems: list[str] = []
    for path in sorted(Path(workdir).glob("comparisons/*/run.json")):
        try:
            one = _read_one(path, swept or Swept())
            by_cell.setdefault(one.cell, []).append(one)
        except InvalidInput as error:
            problems += error.problems
    if problems:
        raise InvalidInput(shortened(sorted(problems)))
    # Of equals the last by name.
    return [max(reversed(by_cell[cell]), key=_rank) for cell in sorted(by_cell)]


def rows(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Gives the rows of comparisons.csv: one per ended comparison; replicates joined by spaces.

    Numbers of measures that are not known here have columns of their own, sorted by name.

    Example:
        >>> rows([])
        []
    """
    ended = [one for one in comparisons if one.status != "unfinished"]
    others = sorted({name for one in ended for name in one.numbers} - set(NUMBERS))
    return [
        {
            **one.cell.named,
            "replicates": " ".join(map(str, one.replicates)),
            "status": one.status,
            **{name: one.numbers.get(name) for name in (*NUMBERS, *others)},
            "reason": one.reason,
        }
        for one in ended
    ]


def write(workdir: str | Path, comparisons: Sequence[Comparison]) -> list[Path]:
    """Writes comparisons.csv where a comparison has ended.

    Example:
        >>> write("no/such/workdir", [])
        []
    """
    ended = rows(comparisons)
    return [results.save(Path(workdir) / publish.COMPARISONS, ended)] if ended else []


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
    grid: CellGrid, similarity: Similarity, rows_of_grid: Sequence[Row], line: Line
) -> Agreement:
    """Measures how well similarity and the primary metric agree.

    Args:
        grid: the grid.
        similarity: of it.
        rows_of_grid: its rows.
        line: its transition line.

    Returns:
        The agreement. Correlations over fewer than four are None.
    """
    own, sparsities = similarity.line, grid.sparsities
    in_sparsity = in_rows = None
    if own is not None and line.sparsity is not None:
        in_sparsity = own - line.sparsity
        in_rows = sparsities.index(own) - sparsities.index(line.sparsity)
    classed = [
        (row.verdict == "early") == (row.sparsity >= own)
        for row in rows_of_grid
        if own is not None and row.verdict in ("early", "converged")
    ]
    rows = [
        (float(mean), row.advantage.mean, row.sparsity)
        for mean, row in zip(similarity.row_means, rows_of_grid, strict=True)
        if row.advantage is not None and np.isfinite(mean)
    ]
    divergences, advantages, removed = zip(*rows, strict=True) if rows else ((), (), ())
    means, divergence = mean_of(grid.test, axis=-1), similarity.divergence
    columns = [row.best.column if row.best else 0 for row in rows_of_grid]
    below = means[np.arange(len(columns)), columns][:, None] - means
    cells = np.isfinite(divergence) & np.isfinite(below)
    of_cells = divergence[cells].tolist(), below[cells].tolist()
    return Agreement(
        sparsity_difference=in_sparsity,
        row_difference=in_rows,
        same_class=sum(classed),
        num_classed=len(classed),
        row_correlation=spearman(divergences, advantages, at_least=MIN_PAIRS),
        sparsity_correlation=spearman(removed, advantages, at_least=MIN_PAIRS),
        num_rows=len(rows),
        cell_correlation=spearman(*of_cells, at_least=MIN_PAIRS),
        num_cells=int(cells.sum()),
    )


def _divergences(grid: CellGrid, comparisons: Iterable[Comparison]) -> np.ndarray:
    """Averages the divergences of each cell over trunk seeds: [S, E]."""
    cells: dict[tuple[int, int], list[float]] = {}
    for one in comparisons:
        sparsity, epoch, value = one.cell["sparsity"], one.cell["fork_epoch"], one.model_similarity
        if value is not None and sparsity in grid.sparsities and epoch in grid.epochs:
            cell = grid.sparsities.index(sparsity), grid.epochs.index(epoch)
            cells.setdefault(cell, []).append(value)
    divergence = np.full(grid.num_runs.shape, np.nan)
    for cell, values in cells.items():
        divergence[cell] = np.mean(values)
    return divergence


def _rank(one: Comparison) -> tuple[bool, int, int]:
    """Orders the comparisons of one cell: that of the highest rank is kept."""
    return one.status == "finished", len(one.replicates), len(one.numbers)


def _read_one(path: Path, swept: Swept) -> Comparison:
    described = with_current_names(records.read_json(path) or {})
    axes = axes_of(swept)[:-1]
    needed = [name for name in (*axes, "replicates") if "." not in name]
    if missing := [name for name in needed if described.get(name) is None]:
        raise unexpected(str(path), sorted(described), f"to have {missing}", records.REMEDY)
    config = described.get("config") or {}
    values = (value_of(config, axis) if "." in axis else described[axis] for axis in axes)
    cell, replicates = Place.of(axes, values), tuple(described["replicates"])
    result = records.RunRecords(path.parent).result()
    if result is None:
        return Comparison(cell, replicates, "unfinished")
    _check(path.with_name("result.json"), result)
    numbers = {name: value for name, value in result.items() if is_number(value)}
    return Comparison(cell, replicates, result["status"], numbers, result.get("reason"))


def _check(path: Path, result: Mapping[str, Any]) -> None:
    divergence = result.get("model_similarity")
    # An experiment may compare by other measures alone; a few roundings beyond the ends are no
    # damage.
    if "model_similarity" in result and not (
        is_number(divergence) and -1e-4 <= divergence <= math.log(2) + 1e-4
    ):
        allowed = "to be a divergence in nats, 0 to ln 2"
        raise unexpected(f"{path}: model_similarity", divergence, allowed, records.REMEDY)
    if result["status"] == "finished" and not any(map(is_number, result.values())):
        raise unexpected(str(path), result, "to hold the number of a measure", records.REMEDY)
