"""Which fork epoch is best, and how sure that is: one answer for the summary, the rules and the
regimes.

The best of many epochs looks good on the runs it was chosen on, whatever is true. So
`selection_test` chooses the candidate on all repeats but one, and measures it on the one left out.
Larger is better throughout: metrics are multiplied by their sign.

A *repeat* is what noise is measured over: a trunk seed, its value in a cell being the mean over
replicates; or with a single trunk seed a replicate, which holds the noise of fine-tuning only.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from earlyprune_jax.analysis.stats import Stats, best_column, centred, row_means, stats

MIN_REPEATS = 3
"""With fewer there is no interval and no test."""
NUM_SIMULATIONS = 20_000
LEVEL = 0.05
MAX_ENUMERATED = 7
"""Up to so many repeats every bootstrap sample is looked at; beyond, NUM_SAMPLES are drawn."""
NUM_SAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Lead:
    """By how much candidates beat their rivals.

    Attributes:
        difference: of the left-out repeats' differences: mean, std and n.
        num_candidates: among which was chosen.
        is_tested: whether there are repeats enough, at least three, to test anything.
    """

    difference: Stats
    num_candidates: int
    is_tested: bool

    @functools.cached_property
    def p(self) -> float | None:
        """One-sided p of "the candidates are not better"; None where nothing is tested."""
        return self.p_below(0.0)

    def p_below(self, margin: float) -> float | None:
        """Gives the one-sided p of "the candidates are worse by the margin, or by more".

        A candidate that is better by the margin than it is would then be no better than the rival:
        the same test, of differences that are larger by the margin.
        """
        if not self.is_tested:
            return None
        return _p_value(self.difference, self.num_candidates, margin)

    @property
    def is_clear(self) -> bool:
        """Whether the lead is more than noise."""
        return self.p is not None and self.p <= LEVEL


@dataclasses.dataclass(frozen=True)
class Best:
    """The best epoch of a sparsity.

    Attributes:
        column: its place among the epochs.
        interval: 95 %, of epochs; None with fewer than three repeats.
        num_repeats: that have a value.
        complete: whether each of them has a value at every epoch.
    """

    epoch: int
    column: int
    interval: tuple[int, int] | None
    num_repeats: int
    complete: bool


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The epochs of a sparsity, best first, and which of them may be the best.

    Attributes:
        epochs: best first; the earlier of equals first.
        leads: epoch -> the lead of all others over it, or None. The epochs that nothing clearly
            beats are a 95 % confidence set: the epoch that is truly best is among them with that
            probability, as only a lead over it that is no more than chance could drop it.
        num_repeats: that have a value.
    """

    epochs: tuple[int, ...]
    leads: dict[int, Lead | None]
    num_repeats: int

    @property
    def best(self) -> int:
        """The best epoch."""
        return self.epochs[0]

    @property
    def rivals(self) -> tuple[int, ...]:
        """The others that may be the best too: that nothing clearly beats."""
        leads = ((epoch, self.leads[epoch]) for epoch in self.epochs[1:])
        return tuple(epoch for epoch, lead in leads if lead is None or not lead.is_clear)

    @property
    def is_tested(self) -> bool:
        """Whether there are repeats enough to tell any epoch from the best."""
        return any(lead and lead.p is not None for lead in self.leads.values())

    @property
    def edge(self) -> str | None:
        """Names the end of the epochs tried at which the best lies: earliest or latest; else
        None."""
        if len(self.epochs) == 1 or self.best not in (min(self.epochs), max(self.epochs)):
            return None
        return "earliest" if self.best == min(self.epochs) else "latest"


def selection_test(
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
        >>> found = selection_test(table, table, candidates=[0], rivals=[1])
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
    return Lead(difference, len(candidates), is_clear and len(found) >= MIN_REPEATS)


def rank(epochs: Sequence[int], values: np.ndarray) -> Ranking:
    """Ranks epochs by their means over repeats, and tests which of them may be the best.

    Both look at what epochs are chosen on. Every epoch is tested as the only rival of all others by
    `selection_test`.

    Example:
        >>> found = rank((4, 8), np.array([[0.80, 0.81, 0.80], [0.90, 0.88, 0.91]]))
        >>> found.epochs, found.rivals, found.edge
        ((8, 4), (), 'latest')
    """
    # Equal means of the same numbers in another order may differ in their last bits.
    means = row_means(values).round(12)
    columns = sorted(np.flatnonzero(np.isfinite(means)).tolist(), key=lambda column: -means[column])
    others = {column: [one for one in columns if one != column] for column in columns}
    return Ranking(
        epochs=tuple(epochs[column] for column in columns),
        leads={
            epochs[column]: selection_test(values, values, others[column], [column])
            for column in columns
        },
        num_repeats=int(np.isfinite(values).any(axis=0).sum()),
    )


def best(epochs: Sequence[int], values: np.ndarray) -> Best | None:
    """Finds the epoch with the highest mean, and its bootstrap interval over repeats.

    The interval is the 2.5 % and 97.5 % quantile of the best epoch over samples of repeats with
    replacement: all of them for up to seven repeats, else 2000 drawn from a fixed seed. With so few
    repeats a bootstrap interval is rather too short than too long: it describes, and tests nothing.

    Args:
        epochs: fork epochs, ascending.
        values: [E, R] what they are chosen on; NaN where no run has finished.

    Returns:
        The best epoch, the earliest of equals; None without values.

    Example:
        >>> best((4, 8), np.array([[0.8], [0.9]])).epoch
        8
    """
    column = best_column(row_means(values))
    if column is None:
        return None
    values = values[:, np.isfinite(values).any(axis=0)]
    return Best(
        epoch=epochs[column],
        column=column,
        interval=_interval(values, epochs) if values.shape[1] >= MIN_REPEATS else None,
        num_repeats=values.shape[1],
        complete=bool(np.isfinite(values).all()),
    )


def _interval(values: np.ndarray, epochs: Sequence[int]) -> tuple[int, int]:
    """Quantiles of the best epoch over bootstrap samples of the columns of [E, R]."""
    counts, shares = samples(values.shape[1])
    even = centred(values)
    present = np.isfinite(even)
    # [samples, E]: the weighted means; an epoch that no sampled repeat has cannot be the best.
    weight = counts @ present.T
    means = np.where(
        weight > 0, counts @ np.where(present, even, 0.0).T / np.maximum(weight, 1), -np.inf
    )
    chosen = means.round(12).argmax(axis=1)
    reached = np.cumsum(np.bincount(chosen, weights=shares, minlength=len(epochs)))
    low, high = (int(np.argmax(reached >= level - 1e-9)) for level in (0.025, 0.975))
    return epochs[low], epochs[high]


@functools.lru_cache(maxsize=32)
def samples(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Lists bootstrap samples of `size` things: how often each is in a sample [B, size], the shares
    [B].

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
    if present.sum() >= MIN_REPEATS:
        return measured[best], is_clear
    return np.where(present, measured[best], highest), is_clear


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


def _p_value(difference: Stats, num_candidates: int, margin: float) -> float:
    # Equal differences differ in their last bits.
    if not difference.std or difference.std < 1e-12:
        return 1.0
    t = (difference.mean + margin) / (difference.std / math.sqrt(difference.n))
    null = null_statistics(difference.n, num_candidates)
    reached = len(null) - int(np.searchsorted(null, t))
    return (reached + 1) / (len(null) + 1)
