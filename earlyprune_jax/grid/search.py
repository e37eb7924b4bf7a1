"""Which cells of a grid a coarse-to-fine search trains.

Paper B's question needs two things of a grid: the best epoch of every sparsity, and the sparsity at
which it moves. So rows are refined around their best epoch, and a new row is put between two whose
best epochs differ. A round depends only on the scores of the rounds before it: every process that
looks at the same results asks for the same cells.
"""

import itertools
from collections.abc import Mapping, Sequence

from earlyprune_jax.grid.plan import Cell

FEWEST = 3
"""A coarse axis has at least so many points, if it has them."""

Scores = Mapping[Cell, float | None]
"""Cell -> mean score, larger = better; None where a run came to nothing. Absent: has not ended."""


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
    stride, row_stride = _coarse(len(columns)), _coarse(len(rows))
    asked: list[Cell] = [
        (columns[column], rows[row])
        for row in _every(row_stride, len(rows))
        for column in _every(stride, len(columns))
    ]
    while all(cell in scores for cell in asked) and not 0 < max_cells <= len(asked):
        stride, row_stride = max(1, stride // 2), max(1, row_stride // 2)
        # Row -> the column of its best epoch, the earliest of equals.
        best: dict[int, int] = {}
        for row, sparsity in enumerate(rows):
            tried = {e: scores[e, sparsity] for e in columns if (e, sparsity) in asked}
            if tried:
                ranks = {e: (score is not None, score or 0.0) for e, score in tried.items()}
                best[row] = columns.index(max(ranks, key=ranks.__getitem__))
        refined = [
            (column, row)
            for row in best
            for column in (best[row] - stride, best[row] + stride)
            if 0 <= column < len(columns)
        ]
        for low, high in itertools.pairwise(best):
            if high - low > 1 and best[low] != best[high]:
                first, last = sorted((best[low], best[high]))
                between = sorted({*range(first, last, stride), last})
                refined += [(column, (low + high) // 2) for column in between]
        cells = dict.fromkeys((columns[column], rows[row]) for column, row in refined)
        new = [cell for cell in cells if cell not in asked]
        if not new and stride == row_stride == 1:
            break
        asked += new
    return asked[:max_cells] if max_cells else asked


def _coarse(count: int) -> int:
    """Returns the largest power of two that leaves `FEWEST` points of so many, the last
    included."""
    stride = 1
    while len(_every(2 * stride, count)) >= min(FEWEST, count) and 2 * stride < count:
        stride *= 2
    return stride


def _every(stride: int, count: int) -> list[int]:
    return sorted({*range(0, count, stride), count - 1})
