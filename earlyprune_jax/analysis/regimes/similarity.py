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
from earlyprune_jax.analysis import results
from earlyprune_jax.analysis.curves import CellGrid
from earlyprune_jax.analysis.places import Place, Swept, value_of
from earlyprune_jax.analysis.regimes.transition import Convergence
from earlyprune_jax.analysis.runs import axes_of, is_number
from earlyprune_jax.analysis.stats import mean_of, spearman
from earlyprune_jax.analysis.study import read_study
from earlyprune_jax.run_records import Recorded, RunRecords
from earlyprune_jax.validate import InvalidInput, shortened, unexpected

NUMBERS = ("num_examples", "model_similarity", "model_similarity_standard_error", "disagreement")
"""The columns of the measures of this package. `model_similarity` is the mean Jensen-Shannon
divergence over examples and pairs of replicates, nats, 0 to ln 2: the larger, the LESS alike (its
name is paper B's); `disagreement` the share of examples on which two replicates predict different
classes."""
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
    """

    divergence: np.ndarray
    row_means: np.ndarray
    line: float | None


def read(workdir: str | Path, swept: Swept | None = None) -> list[dict[str, Any]]:
    """Reads the comparisons of a workdir, one per cell, sorted by cell.

    A cell that was compared again, with other replicates or by other measures, has several
    directories. A finished one counts before others, then the most replicates, the most numbers,
    the last by name.

    Args:
        workdir: an experiment's directory; one without comparisons has none.
        swept: of its runs: keys that are axes of the cells too.

    Returns:
        Rows as of comparisons.csv: the cell (a run's axes without the replicate), `replicates`
        joined by spaces, `status` (unfinished where no result has been written), every number of
        result.json, `reason`.

    Raises:
        InvalidInput: files that a finished write cannot have left; names each.

    Example:
        >>> read("no/such/workdir")
        []
    """
    # The cell, what the rank of the comparison within it is, and its row.
    compared: dict[Place, tuple[tuple[Any, ...], dict[str, Any]]] = {}
    problems: list[str] = []
    study = read_study(workdir)
    for directory in records.run_directories(Path(workdir), "comparison"):
        try:
            run = RunRecords(directory).read()
            if run.description is None:
                continue
            if study:
                study.require_own(directory, run.description)
            cell, rank, row = _read_one(directory / "run.json", run, swept or Swept())
        except InvalidInput as error:
            problems += error.problems
            continue
        if cell not in compared or rank >= compared[cell][0]:
            compared[cell] = rank, row
    if problems:
        raise InvalidInput(shortened(sorted(problems)))
    return [compared[cell][1] for cell in sorted(compared)]


def write(workdir: str | Path, comparisons: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Writes comparisons.csv, a row per ended comparison, where one has ended.

    Numbers of measures that are not known here have columns of their own, sorted by name.

    Example:
        >>> write("no/such/workdir", [])
        []
    """
    ended = [row for row in comparisons if row["status"] != "unfinished"]
    if not ended:
        return []
    names = list(ended[0])
    first = names[: names.index("status") + 1]
    others = sorted({name for row in ended for name in row} - {*first, *NUMBERS, "reason"})
    columns = [*first, *NUMBERS, *others, "reason"]
    return [results.save(Path(workdir) / results.COMPARISONS, ended, columns)]


def measure(
    grid: CellGrid, comparisons: Iterable[Mapping[str, Any]], convergence: Convergence | None
) -> Similarity:
    """Measures the divergences of a grid's cells and the line they predict.

    The rule: row means over converged columns that the rows share, in the order of sparsity, are
    split in two where the squared distances to the means of the two classes add up to least. See
    `split` for where there is none.

    Args:
        grid: the grid.
        comparisons: of `read`; those of this grid's cells that have finished are used.
        convergence: of the trunks.

    Returns:
        The similarity; NaN and None where no cell was compared.
    """
    cells: dict[tuple[int, int], list[float]] = {}
    for row in comparisons:
        value = row.get("model_similarity")
        is_inside = row["sparsity"] in grid.sparsities and row["fork_epoch"] in grid.epochs
        if value is None or not is_inside or any(row[axis] != v for axis, v in grid.place.items):
            continue
        cell = grid.sparsities.index(row["sparsity"]), grid.epochs.index(row["fork_epoch"])
        cells.setdefault(cell, []).append(value)
    divergence = np.full(grid.num_runs.shape, np.nan)
    for cell, values in cells.items():
        divergence[cell] = np.mean(values)
    late = [convergence is not None and epoch >= convergence.epoch for epoch in grid.epochs]
    has_late = np.isfinite(divergence[:, late]).any()
    row_means = shared_means(divergence[:, late] if has_late else divergence)
    known = np.flatnonzero(np.isfinite(row_means))
    place = split(row_means[known])
    line = None if place is None else grid.sparsities[known[place]]
    return Similarity(divergence, row_means, line)


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


def split(values: np.ndarray) -> int | None:
    """Finds the first place of the upper class where ordered values part into a low and a high one.

    Minimises the summed squares within the classes; the first of equals. None where no split leaves
    the upper part with the higher mean, all values are equal, or there are fewer than three.

    Example:
        >>> split(np.array([0.1, 0.1, 0.1, 0.5, 0.5]))
        3
    """
    total = float(np.sum((values - np.mean(values)) ** 2)) if len(values) else 0.0
    if len(values) < MIN_ROWS or total < 1e-24:
        return None
    splits = []
    for place in range(1, len(values)):
        low, high = values[:place], values[place:]
        if high.mean() > low.mean():
            within = sum(float(np.sum((part - part.mean()) ** 2)) for part in (low, high))
            splits.append((round(within / total, 12), place))
    return min(splits)[1] if splits else None


def agreement(
    grid: CellGrid, similarity: Similarity, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Measures how well similarity and the primary metric agree.

    `sparsity_difference` is similarity's line minus the metric's, `row_difference` the same in
    rows; None where either is missing. `same_class` counts the rows that both put on the same side
    (verdict "early" against the less similar class), of `num_classed` with the verdict early or
    converged, and a class. `row_correlation` is Spearman's, of a row's mean divergence and its
    advantage of stopping early; `sparsity_correlation` its control, with the sparsity itself in the
    divergence's place; both over `num_rows`. `cell_correlation` is Spearman's over `num_cells`, of
    divergence and loss against the row's best.

    Args:
        grid: the grid.
        similarity: of it.
        rows: of `transition.rows`.

    Returns:
        A value per name; all None where no cell was compared. Correlations over fewer than four are
        None.
    """
    own, order, line = similarity.line, grid.sparsities.index, rows[0]["transition_sparsity"]
    classed = [
        (row["verdict"] == "early") == (row["sparsity"] >= own)
        for row in rows
        if own is not None and row["verdict"] in ("early", "converged")
    ]
    known = [
        (float(mean), row["advantage_mean"], row["sparsity"])
        for mean, row in zip(similarity.row_means, rows, strict=True)
        if row["advantage_n"] and np.isfinite(mean)
    ]
    divergences, advantages, removed = zip(*known, strict=True) if known else ((), (), ())
    means, divergence = mean_of(grid.test, axis=-1), similarity.divergence
    bests = [row["best_epoch"] for row in rows]
    columns = [0 if best is None else grid.epochs.index(best) for best in bests]
    below = means[np.arange(len(columns)), columns][:, None] - means
    cells = np.isfinite(divergence) & np.isfinite(below)
    of_cells = divergence[cells].tolist(), below[cells].tolist()
    agreed = {
        "sparsity_difference": None if own is None or line is None else own - line,
        "row_difference": None if own is None or line is None else order(own) - order(line),
        "same_class": sum(classed),
        "num_classed": len(classed),
        "row_correlation": spearman(divergences, advantages, at_least=MIN_PAIRS),
        "sparsity_correlation": spearman(removed, advantages, at_least=MIN_PAIRS),
        "num_rows": len(known),
        "cell_correlation": spearman(*of_cells, at_least=MIN_PAIRS),
        "num_cells": int(cells.sum()),
    }
    return agreed if np.isfinite(divergence).any() else dict.fromkeys(agreed)


def _read_one(
    path: Path, run: Recorded, swept: Swept
) -> tuple[Place, tuple[Any, ...], dict[str, Any]]:
    """Reads the cell, the rank and the row of a comparison; of several of a cell that of the
    highest rank is kept."""
    described = run.description or {}
    axes = axes_of(swept)[:-1]
    needed = [name for name in (*axes, "replicates") if "." not in name]
    if missing := [name for name in needed if described.get(name) is None]:
        raise unexpected(str(path), sorted(described), f"to have {missing}", records.REMEDY)
    config = described.get("config") or {}
    values = (value_of(config, axis) if "." in axis else described[axis] for axis in axes)
    cell, replicates = Place.of(axes, values), described["replicates"]
    result = run.result or {"status": "unfinished"}
    status, path = result["status"], path.with_name("result.json")
    divergence = result.get("model_similarity")
    # An experiment may compare by other measures alone; a few roundings beyond the ends are no
    # damage.
    if "model_similarity" in result and not (
        is_number(divergence) and -1e-4 <= divergence <= math.log(2) + 1e-4
    ):
        allowed = "to be a divergence in nats, 0 to ln 2"
        raise unexpected(f"{path}: model_similarity", divergence, allowed, records.REMEDY)
    numbers = {name: value for name, value in result.items() if is_number(value)}
    if status == "finished" and not numbers:
        raise unexpected(str(path), result, "to hold the number of a measure", records.REMEDY)
    row = {
        **cell.named,
        "replicates": " ".join(map(str, replicates)),
        "status": status,
        **numbers,
        "reason": result.get("reason"),
    }
    return cell, (status == "finished", len(replicates), len(numbers)), row
