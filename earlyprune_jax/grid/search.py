"""Coarse to fine: which cells of a lattice of fork epochs and sparsities to try next.

Paper B's question needs two things of a grid: the best epoch of every sparsity, and the sparsity at
which it moves. So rows are refined around their best epoch, and a new row is put between two whose
best epochs differ. A round is a function of the scores of the rounds before it alone: every process
that looks at the same results asks for the same cells.
"""

from collections.abc import Mapping, Sequence

from earlyprune_jax.grid.plan import Cell

FEWEST = 3
"""A coarse axis has at least so many points, if it has them."""

Scores = Mapping[Cell, float | None]
"""Cell -> mean score, larger = better; None where a run came to nothing. Absent cells have not
ended."""


def wanted(
    epochs: Sequence[int], sparsities: Sequence[float], scores: Scores, max_cells: int
) -> list[Cell]:
    """The cells of all rounds that have ended, and of the next one.

    The first round takes every 2^k-th epoch and sparsity and the last of each, k as large as leaves
    three. Each further round halves both strides: a tried row gets the epochs one stride beside its
    best; between two neighbouring tried rows whose best epochs differ comes the one in the middle,
    at their best epochs and those between. With strides of 1 rounds go on until nothing new is
    asked for.

    Args:
        epochs: fork epochs that may be tried.
        sparsities: sparsities that may be tried.
        scores: what is known.
        max_cells: how many to try at most; 0 = no limit. The earliest rounds' come first.

    Returns:
        Cells in the order of the rounds, without repetition.

    Example:
        >>> first = wanted((1, 2, 3, 4, 5), (0.5, 0.7, 0.9), {}, 0)
        >>> len(first), first[0]
        (9, (1, 0.5))
        >>> late_is_best = {cell: float(cell[0]) for cell in first}
        >>> wanted((1, 2, 3, 4, 5), (0.5, 0.7, 0.9), late_is_best, 0)[9:]
        [(4, 0.5), (4, 0.7), (4, 0.9)]
    """
    if not epochs:
        return []
    lattice = _Lattice(sorted(epochs), sorted(sparsities), scores)
    stride = (_coarse(len(epochs)), _coarse(len(sparsities)))
    asked = [
        (e, s) for s in _every(stride[1], len(sparsities)) for e in _every(stride[0], len(epochs))
    ]
    while all(lattice.has_ended(place) for place in asked):
        if max_cells and len(asked) >= max_cells:
            break
        stride = (max(1, stride[0] // 2), max(1, stride[1] // 2))
        new = [place for place in _refined(lattice, asked, stride) if place not in asked]
        if not new and stride == (1, 1):
            break
        asked += list(dict.fromkeys(new))
    return [lattice.cell(place) for place in (asked[:max_cells] if max_cells else asked)]


class _Lattice:
    """Places, pairs of indices (epoch, sparsity), and the scores of their cells."""

    def __init__(self, epochs: Sequence[int], sparsities: Sequence[float], scores: Scores):
        self.epochs, self.sparsities, self._scores = epochs, sparsities, scores

    def cell(self, place: tuple[int, int]) -> Cell:
        return self.epochs[place[0]], self.sparsities[place[1]]

    def has_ended(self, place: tuple[int, int]) -> bool:
        return self.cell(place) in self._scores

    def score(self, place: tuple[int, int]) -> float:
        known = self._scores[self.cell(place)]
        return float("-inf") if known is None else known

    def best(self, tried: Sequence[tuple[int, int]], row: int) -> int:
        """The epoch index of a row's best cell, the earliest of equals."""
        own = sorted(place for place in tried if place[1] == row)
        return max(own, key=lambda place: (self.score(place), -place[0]))[0]


def _refined(
    lattice: _Lattice, tried: Sequence[tuple[int, int]], stride: tuple[int, int]
) -> list[tuple[int, int]]:
    rows = sorted({row for _, row in tried})
    best = {row: lattice.best(tried, row) for row in rows}
    last = len(lattice.epochs) - 1
    found = [
        (epoch, row)
        for row in rows
        for epoch in (best[row] - stride[0], best[row] + stride[0])
        if 0 <= epoch <= last
    ]
    for low, high in zip(rows, rows[1:], strict=False):
        if high - low > 1 and best[low] != best[high]:
            first, end = sorted((best[low], best[high]))
            between = sorted({*range(first, end, stride[0]), end})
            found += [(epoch, (low + high) // 2) for epoch in between]
    return found


def _coarse(count: int) -> int:
    """The largest power of two that leaves `FEWEST` points of so many, the last among them."""
    stride = 1
    while len(_every(2 * stride, count)) >= min(FEWEST, count) and 2 * stride < count:
        stride *= 2
    return stride


def _every(stride: int, count: int) -> list[int]:
    return sorted({*range(0, count, stride), count - 1})
