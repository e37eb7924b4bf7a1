"""Which members a study wants by now: the whole grid, or the cells that a coarse-to-fine search
asks for.

Paper B's question needs two things of a grid: the best epoch of every sparsity, and the sparsity at
which it moves. So rows are refined around their best epoch, and a new row is put between two whose
best epochs differ. A round depends only on the scores of the rounds before it: every process that
looks at the same results asks for the same cells.
"""

import itertools
import statistics
from collections.abc import Mapping, Sequence

from earlyprune_jax.grid import plan
from earlyprune_jax.grid.members import Fork, Member
from earlyprune_jax.grid.plan import Cell, Curve
from earlyprune_jax.grid.study import Study
from earlyprune_jax.spec import Setting

FEWEST = 3
"""A coarse axis has at least so many points, if it has them."""

Scores = Mapping[Cell, float | None]
"""Cell -> mean score, larger = better; None where a run came to nothing. Absent: has not ended."""


def wanted_members(study: Study) -> list[Member]:
    """Returns the members wanted by now; a search may want more once these have ended."""
    spec = study.spec
    if spec.fork.search == "all":
        return plan.members(spec)
    curves = itertools.product(spec.settings(), plan.curves(spec))
    return plan.members(spec, {curve: _searched_cells(study, *curve) for curve in curves})


def _searched_cells(study: Study, setting: Setting, curve: Curve) -> list[Cell]:
    spec, scores = study.spec, {}
    for cell in itertools.product(spec.fork.epochs, spec.pruning.sparsities):
        forks = [
            run
            for seed in spec.train.seeds
            for run in plan.replicates(spec, setting, seed, cell, curve)
            if isinstance(run, Fork)
        ]
        if not study.unended(forks):
            scores[cell] = _mean_score(study, forks)
    return wanted_cells(spec.fork.epochs, spec.pruning.sparsities, scores, spec.fork.max_cells)


def _mean_score(study: Study, forks: Sequence[Fork]) -> float | None:
    """Averages the primary metric on validation, larger = better; None where a run came to
    nothing."""
    if set(study.statuses(forks)) != {"finished"}:
        return None
    primary = study.primary()
    column = primary.column("validation")
    values = [study.records(fork).epochs()[-1][column] for fork in forks]
    return primary.sign * statistics.fmean(values)


def wanted_cells(
    epochs: Sequence[int], sparsities: Sequence[float], scores: Scores, max_cells: int
) -> list[Cell]:
    """Returns the cells of all rounds that have ended, and of the next one.

    The first round takes every 2^k-th epoch and sparsity and the last of each, with k as large as
    leaves three. Each further round halves both strides: a row tried gets the epochs one stride
    beside its best. Between two neighbouring rows whose best epochs differ comes the one in the
    middle, at their best epochs and those between. With strides of 1, rounds go on until nothing
    new is asked for.

    Args:
        epochs: fork epochs that may be tried.
        sparsities: sparsities that may be tried.
        scores: what is known.
        max_cells: how many to try at most; 0 = no limit. The earliest rounds' come first.

    Returns:
        Cells in the order of the rounds, without repetition.

    Example:
        >>> first = wanted_cells((1, 2, 3, 4, 5), (0.5, 0.7, 0.9), {}, 0)
        >>> len(first), first[0]
        (9, (1, 0.5))
        >>> late_is_best = {cell: float(cell[0]) for cell in first}
        >>> wanted_cells((1, 2, 3, 4, 5), (0.5, 0.7, 0.9), late_is_best, 0)[9:]
        [(4, 0.5), (4, 0.7), (4, 0.9)]
    """
    if not epochs:
        return []
    columns, rows = sorted(epochs), sorted(sparsities)
    epoch_stride, row_stride = _coarse(len(columns)), _coarse(len(rows))
    asked: list[Cell] = [
        (columns[column], rows[row])
        for row in _every(row_stride, len(rows))
        for column in _every(epoch_stride, len(columns))
    ]
    while all(cell in scores for cell in asked) and not 0 < max_cells <= len(asked):
        epoch_stride, row_stride = max(1, epoch_stride // 2), max(1, row_stride // 2)
        refined = _refined(columns, rows, asked, scores, epoch_stride)
        new = [cell for cell in dict.fromkeys(refined) if cell not in asked]
        if not new and epoch_stride == row_stride == 1:
            break
        asked += new
    return asked[:max_cells] if max_cells else asked


def _refined(
    columns: Sequence[int],
    rows: Sequence[float],
    asked: Sequence[Cell],
    scores: Scores,
    stride: int,
) -> list[Cell]:
    """Returns cells beside every row's best one, and rows between those whose best epochs
    differ."""
    best = {
        row: _best_column(columns, sparsity, asked, scores)
        for row, sparsity in enumerate(rows)
        if any(cell[1] == sparsity for cell in asked)
    }
    refined: list[Cell] = [
        (columns[column], rows[row])
        for row in best
        for column in (best[row] - stride, best[row] + stride)
        if 0 <= column < len(columns)
    ]
    for low, high in itertools.pairwise(best):
        if high - low > 1 and best[low] != best[high]:
            first, last = sorted((best[low], best[high]))
            between = sorted({*range(first, last, stride), last})
            refined += [(columns[column], rows[(low + high) // 2]) for column in between]
    return refined


def _best_column(
    columns: Sequence[int], sparsity: float, asked: Sequence[Cell], scores: Scores
) -> int:
    """Returns the index of a row's best epoch, the earliest of equals."""
    row = {epoch: scores[epoch, sparsity] for epoch in columns if (epoch, sparsity) in asked}
    best = max(row, key=lambda epoch: (row[epoch] is not None, row[epoch] or 0.0))
    return columns.index(best)


def _coarse(count: int) -> int:
    """Returns the largest power of two that leaves `FEWEST` points of so many, the last
    included."""
    stride = 1
    while len(_every(2 * stride, count)) >= min(FEWEST, count) and 2 * stride < count:
        stride *= 2
    return stride


def _every(stride: int, count: int) -> list[int]:
    return sorted({*range(0, count, stride), count - 1})
