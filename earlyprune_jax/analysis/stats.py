"""Means and deviations over repeats, also of tables in which some runs are missing; larger is
better."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Stats:
    """Mean, sample standard deviation (n - 1; None for one value) and count."""

    mean: float
    std: float | None
    n: int

    def half_width(self) -> float:
        """Gives half the 95 % confidence interval of the mean, t(n-1) * std / sqrt(n); infinite for
        n = 1.

        Example:
            >>> round(Stats(0.0, 1.0, 4).half_width(), 3)
            1.591
        """
        from scipy.special import stdtrit

        if self.std is None:
            return math.inf
        return float(stdtrit(self.n - 1, 0.975)) * self.std / math.sqrt(self.n)


def stats(values: Iterable[Any]) -> Stats:
    """Takes mean and sample standard deviation of the values that are neither None nor NaN; at
    least one.

    Example:
        >>> stats([1.0, 2.0, 3.0])
        Stats(mean=2.0, std=1.0, n=3)
        >>> stats([4.0, None])
        Stats(mean=4.0, std=None, n=1)
    """
    array = np.array([value for value in values if value is not None], dtype=float)
    array = array[~np.isnan(array)]
    std = float(np.std(array, ddof=1)) if len(array) > 1 else None
    return Stats(float(np.mean(array)), std, len(array))


def spearman(first: Sequence[float], second: Sequence[float], *, at_least: int = 2) -> float | None:
    """Takes Spearman's rank correlation.

    Args:
        first: values [n].
        second: what they are paired with [n].
        at_least: pairs; fewer correlate well by chance.

    Returns:
        The coefficient; None where one side is constant, or of too few pairs.

    Example:
        >>> round(spearman([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 40.0, 30.0]), 6)
        0.8
        >>> spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
        True
    """
    import pandas as pd

    pairs = pd.DataFrame({"first": first, "second": second}, dtype=float)
    coefficient = pairs.corr("spearman", min_periods=at_least).to_numpy()[0, 1]
    return None if np.isnan(coefficient) else float(coefficient)


def columns(
    name: str, found: Stats | None, parts: Sequence[str] = ("mean", "std", "n")
) -> dict[str, Any]:
    """Gives the cells of a table: NAME_mean, NAME_std and NAME_n.

    Args:
        name: of the quantity.
        found: None where there is no value: n is 0 then.
        parts: which of the three.

    Returns:
        The value by column, None where there is none.

    Example:
        >>> columns("lead", None)
        {'lead_mean': None, 'lead_std': None, 'lead_n': 0}
    """
    values = dataclasses.asdict(found) if found else {"n": 0}
    return {f"{name}_{part}": values.get(part) for part in parts}


def of_columns(name: str, row: Mapping[str, Any]) -> Stats | None:
    """Reads what `columns` has written; None where there is no value.

    Example:
        >>> of_columns("lead", columns("lead", Stats(1.0, None, 1)))
        Stats(mean=1.0, std=None, n=1)
    """
    n = row[f"{name}_n"]
    return Stats(row[f"{name}_mean"], row[f"{name}_std"], n) if n else None


def mean_of(values: np.ndarray, *, axis: int) -> np.ndarray:
    """Takes the mean of what is not NaN along an axis; NaN where nothing is.

    Example:
        >>> mean_of(np.array([[1.0, np.nan, 3.0], [np.nan] * 3]), axis=1).tolist()
        [2.0, nan]
    """
    present = np.isfinite(values)
    count = present.sum(axis=axis)
    total = np.where(present, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def row_means(values: np.ndarray) -> np.ndarray:
    """Takes the means over repeats [E] of a row [E, R], comparable where some repeats lack some
    epochs.

    What a repeat adds to all epochs is taken off it, measured where all repeats have values, before
    the mean: a good seed that has finished the early epochs only would lift them. With a full row
    this is the plain mean.

    Example:
        >>> row_means(np.array([[0.5, 0.9], [0.6, np.nan]])).round(3).tolist()
        [0.7, 0.8]
    """
    return mean_of(centred(values), axis=1)


def centred(values: np.ndarray) -> np.ndarray:
    """Evens out the level of the repeats of a row [E, R]; unchanged where they share no epoch."""
    live = np.isfinite(values).any(axis=0)
    common = np.isfinite(values[:, live]).all(axis=1)
    if not live.any() or not common.any():
        return values
    level = values[common].mean(axis=0)
    return values - level + level[live].mean()


def pooled_std(values: np.ndarray) -> tuple[float | None, int]:
    """Takes the standard deviation of the repeats of a cell, one for all cells of a row [E, R].

    sqrt(sum of squared distances to each cell's mean / degrees of freedom), of which a cell with n
    values has n - 1.

    Returns:
        The deviation, None without a cell of two values; and the degrees of freedom.

    Example:
        >>> pooled_std(np.array([[1.0, 3.0], [2.0, 2.0], [5.0, np.nan]]))
        (1.0, 2)
    """
    present = np.isfinite(values)
    freedom = int(np.maximum(present.sum(axis=1) - 1, 0).sum())
    if not freedom:
        return None, 0
    apart = np.where(present, values - mean_of(values, axis=1)[:, None], 0.0)
    return float(np.sqrt(np.sum(np.square(apart)) / freedom)), freedom


def best_column(means: np.ndarray) -> int | None:
    """Finds the place of the highest mean, the first of equals; None where all are NaN.

    Example:
        >>> best_column(np.array([0.1, 0.3, np.nan, 0.3])), best_column(np.array([np.nan]))
        (1, None)
    """
    if not np.isfinite(means).any():
        return None
    # Equal means of the same numbers in another order may differ in their last bits.
    return int(np.argmax(np.where(np.isfinite(means), means.round(12), -np.inf)))


def best_of(chosen_on: np.ndarray, columns: Sequence[int]) -> int | None:
    """Finds the column of the highest mean among some of a row [E, R]."""
    is_kept = np.isin(np.arange(len(chosen_on)), list(columns))
    return best_column(np.where(is_kept, row_means(chosen_on), np.nan))


def plain_difference(measured: np.ndarray, first: int | None, second: int | None) -> Stats | None:
    """Takes mean and std over paired repeats of measured[first] - measured[second]; None where
    there is none.

    Both columns having been chosen on the same runs, it holds their luck.

    Args:
        measured: [E, R], NaN where a repeat lacks an epoch.
        first: a place among the E epochs.
        second: another one.

    Returns:
        The statistics over the repeats that have both, or None.
    """
    if first is None or second is None:
        return None
    paired = measured[first] - measured[second]
    paired = paired[np.isfinite(paired)]
    return stats(paired) if paired.size else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusts p-values by Holm's method: at most 5 % of families then have a false one at or below
    .05.

    The k-th smallest of m is multiplied by m - k + 1, and is at least the one before it. None stays
    None.

    Example:
        >>> holm([0.01, None, 0.04, 0.03])
        [0.03, None, 0.06, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[place] = largest
    return adjusted
