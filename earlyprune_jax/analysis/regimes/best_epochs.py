"""The best fork epoch of a sparsity, how sure it is, and how far the other epochs lie below it."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from earlyprune_jax.analysis import curves
from earlyprune_jax.analysis.curves import Stats
from earlyprune_jax.analysis.regimes.grids import RegimeGrid, mean_of

MIN_REPEATS = 3
"""With fewer there is no interval and no test."""
MAX_ENUMERATED = 7
"""Up to so many repeats every bootstrap sample is looked at; beyond, NUM_SAMPLES are drawn."""
NUM_SAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Best:
    """A row's best epoch.

    Attributes:
        column: its place among the grid's epochs.
        interval: 95 %, of epochs; None with fewer than three repeats.
        num_repeats: that have a value in the row.
        complete: whether each of them has a value at every epoch of the grid.
    """

    epoch: int
    column: int
    interval: tuple[int, int] | None
    num_repeats: int
    complete: bool


def best(grid: RegimeGrid, row: int) -> Best | None:
    """The epoch with the highest mean of the grid's metric, and its bootstrap interval over repeats.

    The interval is the 2.5 % and 97.5 % quantile of the best epoch over samples of repeats with
    replacement: all of them for up to seven repeats, else 2000 drawn from a fixed seed. With so few
    repeats a bootstrap interval is rather too short than too long: it describes, and tests nothing.

    Args:
        grid: the grid.
        row: place of a sparsity.

    Returns:
        The best epoch, the earliest of equals; None for a row without values.
    """
    values = grid.chosen_on[row]
    column = best_column(row_means(values))
    if column is None:
        return None
    values = values[:, np.isfinite(values).any(axis=0)]
    return Best(
        epoch=grid.epochs[column],
        column=column,
        interval=_interval(values, grid.epochs) if values.shape[1] >= MIN_REPEATS else None,
        num_repeats=values.shape[1],
        complete=bool(np.isfinite(values).all()),
    )


def differences(grid: RegimeGrid, row: int, column: int) -> list[Stats | None]:
    """Each epoch's test accuracy minus that of the given one: mean and std over paired repeats.

    The given one being the best of many on the same runs, the differences look larger than new runs
    would make them.

    Args:
        grid: the grid.
        row: place of a sparsity.
        column: place of the epoch that the others are compared with.

    Returns:
        One entry an epoch; None where no repeat has both.
    """
    paired = grid.test[row] - grid.test[row, column]
    return [curves.stats(own[np.isfinite(own)]) if np.isfinite(own).any() else None for own in paired]


def row_means(values: np.ndarray) -> np.ndarray:
    """Means over repeats [E] of a row [E, R], comparable where some repeats lack some epochs.

    What a repeat adds to all epochs is taken off it, measured where all repeats have values, before
    the mean: a good seed that has finished the early epochs only would lift them. With a full row
    this is the plain mean.

    Example:
        >>> row_means(np.array([[0.5, 0.9], [0.6, np.nan]])).round(3).tolist()
        [0.7, 0.8]
    """
    return mean_of(centred(values), axis=1)


def centred(values: np.ndarray) -> np.ndarray:
    """A row [E, R] with the level of its repeats evened out; unchanged where they share no epoch."""
    live = np.isfinite(values).any(axis=0)
    common = np.isfinite(values[:, live]).all(axis=1)
    if not live.any() or not common.any():
        return values
    level = values[common].mean(axis=0)
    return values - level + level[live].mean()


def best_column(means: np.ndarray) -> int | None:
    """The place of the highest mean, the first of equals; None where all are NaN.

    Example:
        >>> best_column(np.array([0.1, 0.3, np.nan, 0.3])), best_column(np.array([np.nan]))
        (1, None)
    """
    if not np.isfinite(means).any():
        return None
    # Equal means of the same numbers in another order may differ in their last bits.
    return int(np.argmax(np.where(np.isfinite(means), means.round(12), -np.inf)))


def _interval(values: np.ndarray, epochs: Sequence[int]) -> tuple[int, int]:
    """Quantiles of the best epoch over bootstrap samples of the columns of [E, R]."""
    counts, shares = samples(values.shape[1])
    even = centred(values)
    present = np.isfinite(even)
    # [samples, E]: the weighted means; an epoch that no sampled repeat has cannot be the best.
    weight = counts @ present.T
    means = np.where(weight > 0, counts @ np.where(present, even, 0.0).T / np.maximum(weight, 1), -np.inf)
    chosen = means.round(12).argmax(axis=1)
    reached = np.cumsum(np.bincount(chosen, weights=shares, minlength=len(epochs)))
    low, high = (int(np.argmax(reached >= level - 1e-9)) for level in (0.025, 0.975))
    return epochs[low], epochs[high]


@functools.lru_cache(maxsize=32)
def samples(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap samples of `size` things: how often each is in a sample [B, size], the shares [B].

    Example:
        >>> counts, shares = samples(2)
        >>> counts.tolist(), shares.tolist()
        ([[2.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [0.25, 0.5, 0.25])
    """
    if size > MAX_ENUMERATED:
        drawn = np.random.default_rng(0).multinomial(size, [1 / size] * size, NUM_SAMPLES)
        return drawn.astype(float), np.full(NUM_SAMPLES, 1 / NUM_SAMPLES)
    bags = itertools.combinations_with_replacement(range(size), size)
    counts = np.array([np.bincount(bag, minlength=size) for bag in bags], dtype=float)
    ways = [math.factorial(size) / math.prod(math.factorial(int(c)) for c in row) for row in counts]
    return counts, np.array(ways) / size**size
