"""Is one group of epochs better than another? A test that the winner's luck does not fool.

The best of many epochs looks good on the runs it was chosen on, whatever is true. So the candidate
is chosen on all repeats but one, and measured on the one left out.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from earlyprune_jax.analysis.stats import Stats, best_column, row_means, stats

MIN_REPEATS = 3
"""With fewer there is no interval and no test."""
NUM_SIMULATIONS = 20_000
LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Lead:
    """By how much candidates beat their rivals.

    Attributes:
        difference: of the left-out repeats' differences: mean, std and n.
        p: one-sided, of "the candidates are not better"; None with fewer than three repeats.
    """

    difference: Stats
    p: float | None

    @property
    def is_clear(self) -> bool:
        """Whether the lead is more than noise."""
        return self.p is not None and self.p <= LEVEL


def lead(
    chosen_on: np.ndarray, measured: np.ndarray, candidates: Sequence[int], rivals: Sequence[int]
) -> Lead | None:
    """Measures the lead of the best candidate over the best rival epoch, without the luck of
    choosing.

    For each repeat r the candidate is the epoch with the highest mean of `chosen_on` over the other
    repeats, of those that r has; the rival, the same for all, has the highest mean of `measured`
    over all repeats, r too: what luck is left in it works against the candidates. d_r =
    measured[candidate, r] - measured[rival, r], and t = mean(d) / (std(d) / sqrt(n)).

    Some runs may be missing. An epoch with fewer than `MIN_REPEATS` repeats that are less than half
    of the most complete rival's is no rival, for too little is known of it; if it looks better than
    the rival, there is no p. Where the rival has fewer than `MIN_REPEATS`, the highest
    value of any rival stands in for it in each repeat that it lacks, so that one lost run of three
    leaves the row tested. Passing the incomplete rival over would test too little: the candidates
    would have to beat the second best only.

    As the d_r share the data they were chosen on, t is larger by chance than Student's: with 14
    candidates, one rival, 10 repeats and no difference at all, a t test at 5 % fires in 12 %. So p
    is the share of `NUM_SIMULATIONS` tables of independent normal noise, of as many candidates and
    repeats against a rival known exactly, that reach t. Simulated false positives stay near 5 % or
    below also with unequal noise and with a single good rival among bad ones; where there are many
    rivals the test is strict.

    Args:
        chosen_on: [E, R], what the choice looks at; NaN where missing.
        measured: [E, R], what is compared.
        candidates: columns (places of epochs).
        rivals: columns.

    Returns:
        The lead over the repeats that allow it; None without candidates, rivals, or two repeats.
        Equal differences in all repeats (shares are multiples of 1/n) have p = 1: chance, not
        certainty.

    Example:
        >>> table = np.array([[0.90, 0.88, 0.91], [0.80, 0.81, 0.80]])
        >>> found = lead(table, table, candidates=[0], rivals=[1])
        >>> round(found.difference.mean, 3), found.difference.n, found.p < 0.05
        (0.093, 3, True)
    """
    if not len(candidates) or not len(rivals):
        return None
    rival, is_clear = _rival(measured[rivals])
    found = _left_out_differences(chosen_on[candidates], measured[candidates], rival)
    if len(found) < 2:
        return None
    difference = stats(found)
    is_tested = is_clear and len(found) >= MIN_REPEATS
    return Lead(difference, _p_value(difference, len(candidates)) if is_tested else None)


def _rival(measured: np.ndarray) -> tuple[np.ndarray, bool]:
    """What the candidates are measured against in every repeat, of rivals [E, R].

    Returns:
        [R], NaN where there is nothing; and whether no epoch of which too little is known looks
        better.
    """
    counts, means = np.isfinite(measured).sum(axis=1), row_means(measured)
    is_known = (counts >= MIN_REPEATS) | (2 * counts >= counts.max())
    highest = np.fmax.reduce(measured[is_known], axis=0)
    best = best_column(np.where(is_known, means, np.nan))
    if best is None:
        return highest, False
    is_clear = not (means[~is_known] > means[best]).any()
    present = np.isfinite(measured[best])
    rival = (
        measured[best]
        if present.sum() >= MIN_REPEATS
        else np.where(present, measured[best], highest)
    )
    return rival, is_clear


def _left_out_differences(
    chosen_on: np.ndarray, measured: np.ndarray, rival: np.ndarray
) -> list[float]:
    """d_r of every repeat that has the rival's epoch and, among the candidates, the chosen one."""
    differences = []
    for repeat in np.flatnonzero(np.isfinite(rival)):
        others = np.delete(chosen_on, repeat, axis=1)
        means = row_means(others) if others.size else np.full(len(chosen_on), np.nan)
        column = best_column(np.where(np.isfinite(measured[:, repeat]), means, np.nan))
        if column is not None:
            differences.append(float(measured[column, repeat] - rival[repeat]))
    return differences


def _p_value(difference: Stats, num_candidates: int) -> float:
    # Equal differences differ in their last bits.
    if not difference.std or difference.std < 1e-12:
        return 1.0
    t = difference.mean / (difference.std / math.sqrt(difference.n))
    null = null_statistics(difference.n, num_candidates)
    reached = len(null) - int(np.searchsorted(null, t))
    return (reached + 1) / (len(null) + 1)


@functools.lru_cache(maxsize=64)
def null_statistics(num_repeats: int, num_candidates: int) -> np.ndarray:
    """Simulates t under "no difference", ascending: candidates of pure noise against a rival known
    exactly.

    A rival with noise of its own makes the differences less dependent, and t smaller.

    Example:
        >>> # Of one candidate Student's t with 4 degrees of freedom.
        >>> float(np.quantile(null_statistics(5, 1), 0.95).round(1))
        2.1
    """
    rng = np.random.default_rng(0)
    found = []
    # In parts: a grid of 50 epochs and 20 seeds would need 160 MB at once.
    for size in [NUM_SIMULATIONS // 10] * 10:
        noise = rng.normal(size=(size, num_repeats, num_candidates))
        others = noise.sum(axis=1, keepdims=True) - noise
        chosen = np.take_along_axis(noise, others.argmax(axis=-1)[..., None], axis=-1)[..., 0]
        found.append(chosen.mean(axis=1) / (chosen.std(axis=1, ddof=1) / math.sqrt(num_repeats)))
    return np.sort(np.concatenate(found))
