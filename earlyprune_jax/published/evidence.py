"""What a workdir has that can speak to a claim, and how p-values become a verdict.

A claim is `HELD` where all that contradicts it is rejected at 5 %; `NOT_HELD` where it is rejected
itself, at 5 % after Holm's adjustment over the curves asked; `NOT_SETTLED` where the test allows
both; `NOT_TESTED` where there are too few repeats for a test, or nothing to compare.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from earlyprune_jax import records
from earlyprune_jax.analysis import formatting, peaks, regimes, results
from earlyprune_jax.analysis.best_epoch import LEVEL, MIN_REPEATS, Ranking, selection_test
from earlyprune_jax.analysis.curves import CellGrid, Curve, Setting, settings_of
from earlyprune_jax.analysis.places import Place, varying
from earlyprune_jax.analysis.regimes import Findings
from earlyprune_jax.analysis.runs import Runs
from earlyprune_jax.analysis.stats import Stats, best_column, holm, stats
from earlyprune_jax.validate import unexpected

HELD, NOT_HELD, NOT_SETTLED, NOT_TESTED = "held", "not held", "not settled", "not tested"
NEAR = 0.1
"""Of training: how far from a peak is near. Published fork epochs lie so far apart."""
PROTOCOLS = {"A": ("paper_a",), "B": ("constant", "custom")}
"""Paper -> the retrainings of its forks."""
Placed = TypeVar("Placed", Curve, Setting)
ALWAYS = ("model", "sparsity")
"""Axes that tell readers which curve it is, where they vary or not."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one curve, or several compared, says of a claim.

    Attributes:
        where: which curves.
        ours: the numbers, mean +- standard deviation over repeats.
        n: how many repeats, and of what.
        verdict: held, not held, not settled or not tested.
        reason: why it was not tested.
        p: what decided, or failed to; None where nothing was tested.
        chosen_on: the split on which best epochs were chosen; empty where none was.
    """

    where: str
    ours: str
    n: str
    verdict: str
    reason: str = ""
    p: float | None = None
    chosen_on: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A workdir's runs.

    Attributes:
        name: of the workdir.
        whole: all runs.
        runs: without forks that were pruned before training: those are a control of their own.
    """

    name: str
    whole: Runs
    runs: Runs

    @functools.cached_property
    def settings(self) -> list[Setting]:
        """The settings."""
        return settings_of(self.runs)

    @functools.cached_property
    def regimes(self) -> tuple[Findings, ...]:
        """What each grid of paper B's protocol shows."""
        analysed = regimes.analyse(self.name, self.runs)
        return tuple(one for one in analysed if of_protocol(one.grid.place, PROTOCOLS["B"]))

    @property
    def is_translation(self) -> bool:
        """Tells whether sentences are translated, rather than images classified."""
        return str(self.runs.config.get("task", {}).get("name", "")).startswith("translation")

    def curves(
        self, retrainings: Sequence[str] = PROTOCOLS["A"], criterion: str = "magnitude"
    ) -> list[Curve]:
        """Lists the curves of forks of a protocol."""
        every = [curve for setting in self.settings for curve in setting.forks]
        return [curve for curve in every if of_protocol(curve.place, retrainings, criterion)]

    @functools.cached_property
    def _axes(self) -> set[str]:
        return {*ALWAYS, *varying(c.place for one in self.settings for c in one.forks)}

    def where(self, place: Place, *, without: Sequence[str] = ()) -> str:
        """Names a place by what tells it from the others of the workdir."""
        axes = self._axes - {*without, "data.num_classes", "data.split_seed"}
        return formatting.label(place, axes) or "all"


@dataclasses.dataclass(frozen=True)
class Region:
    """Epochs among which a claim puts the best one, where they are known with some error.

    Attributes:
        inside: tells whether an epoch lies inside, whatever the error.
        outside: tells whether it lies outside, whatever the error.
    """

    inside: Callable[[int], bool]
    outside: Callable[[int], bool]


def read(workdir: str | Path) -> Source:
    """Reads a workdir.

    Raises:
        InvalidInput: it is none, is damaged, or has no finished forks.

    Example:
        >>> read("none")                    # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        earlyprune_jax.validate.InvalidInput: Expected DIR='none' to be a directory. There ...
    """
    records.require_workdir(workdir)
    runs = results.read_runs(workdir)
    if not any(setting.forks for setting in settings_of(runs)):
        raise unexpected("DIR", str(workdir), "to hold finished forks", "Claims are about forks.")
    is_before_training = runs.frame["fork_epoch"].eq(0).fillna(False).astype(bool)
    return Source(str(workdir), runs, runs.where(~is_before_training))


def of_protocol(place: Place, retrainings: Sequence[str], criterion: str = "magnitude") -> bool:
    """Tells whether forks were pruned and retrained so."""
    return place["criterion"] == criterion and place["retraining"] in retrainings


def groups(members: Iterable[Placed], axis: str) -> list[list[Placed]]:
    """Groups curves, or settings, that differ in one axis alone; at least two of each."""
    made: dict[Place, list[Placed]] = {}
    for member in members:
        if member.place.named.get(axis) is not None:
            made.setdefault(member.place.without(axis), []).append(member)
    return [group for group in made.values() if len(group) > 1]


def decide(
    p_for: Sequence[float | None], p_against: Sequence[float | None]
) -> tuple[str, float | None]:
    """Turns p-values into a verdict.

    Args:
        p_for: one-sided p of each part of "the claim is false"; all must be rejected.
        p_against: of each part of "the claim is true"; one is enough, after Holm's adjustment.

    Returns:
        The verdict, and the p that decided: the largest of the first, the smallest of the second.

    Example:
        >>> decide([0.01, 0.04], [0.9, 0.8]), decide([0.9, 0.5], [0.01, 0.8])
        (('held', 0.04), ('not held', 0.02))
        >>> decide([0.2], [0.6]), decide([None, 0.01], [None, 0.9])
        (('not settled', 0.2), ('not tested', None))
    """
    contrary = [p for p in holm(p_against) if p is not None]
    if contrary and min(contrary) <= LEVEL:
        return NOT_HELD, min(contrary)
    known = [p for p in p_for if p is not None]
    if not known or len(known) < len(p_for):
        return NOT_TESTED, None
    return (HELD if max(known) <= LEVEL else NOT_SETTLED), max(known)


def p_outside(ranking: Ranking, inside: Callable[[int], bool]) -> float | None:
    """Gives the p of "the best epoch lies outside": the largest of the tests of each epoch there.

    At most 5 % where the 95 % confidence set of `Ranking` has no epoch outside.

    Returns:
        The p; None where no epoch outside was tried, or one could not be tested.
    """
    leads = [ranking.leads[epoch] for epoch in ranking.epochs if not inside(epoch)]
    known = [lead.p for lead in leads if lead is not None and lead.p is not None]
    return max(known) if known and len(known) == len(leads) else None


def p_larger(first: Mapping[int, float], second: Mapping[int, float]) -> float | None:
    """Gives the one-sided p of "the first is not larger", paired over common seeds.

    With one candidate `selection_test` is Student's paired test.

    Example:
        >>> p_larger({0: 0.5, 1: 0.6, 2: 0.7}, {0: 0.1, 1: 0.21, 2: 0.28}) < 0.01
        True
        >>> p_larger({0: 0.5, 1: 0.6}, {0: 0.1, 1: 0.2}) is None
        True
    """
    seeds = sorted(first.keys() & second.keys())
    table = np.array([[side[seed] for seed in seeds] for side in (first, second)])
    lead = selection_test(table, table, [0], [1]) if seeds else None
    return lead and lead.p


def p_against(
    grid: CellGrid, row: int, chosen_on: np.ndarray, test: np.ndarray, margin: float = 0.0
) -> tuple[float | None, float | None]:
    """Tests a grid's best fork against something else, paired over repeats.

    Args:
        grid: of the forks.
        row: of the grid.
        chosen_on: [R] of the other, as of `CellGrid`; NaN where a repeat lacks it.
        test: [R] likewise.
        margin: how much the fork may be worse.

    Returns:
        The one-sided p of "it is worse by the margin or more", and of "it is not worse by more";
        None where nothing could be tested.
    """
    forks, other = range(len(grid.epochs)), len(grid.epochs)
    tables = np.vstack([grid.chosen_on[row], chosen_on]), np.vstack([grid.test[row], test])
    ahead = selection_test(*tables, forks, [other])
    behind = selection_test(*tables, [other], forks)
    return ahead and ahead.p_below(margin), behind and behind.p_below(-margin)


def p_before(first: Curve, second: Curve) -> float | None:
    """Gives the p of "the first curve's best epoch is not earlier than the second's".

    It is earlier where an epoch parts them: the first's best lies before it, the second's does not.
    Twice the larger p of these two, at the epoch that parts them best: both confidence sets are of
    97.5 % where p is 5 %.

    Returns:
        The p; None where the noise of trunks is not known, or nothing could be tested.
    """
    if {first.grid.repeat_kind, second.grid.repeat_kind} != {"seed"}:
        return None
    parted = [
        (p_outside(first.ranking, epoch.__gt__), p_outside(second.ranking, epoch.__le__))
        for epoch in {*first.epochs, *second.epochs}
    ]
    known = [max(a, b) for a, b in parted if a is not None and b is not None]
    return min(1.0, 2 * min(known)) if known else None


def region_of_peak(curve: Curve, signal: str) -> Region | str | None:
    """Finds the epochs near a signal's peak.

    The peak is known to its 95 % interval over seeds (Student's t); of one trunk with replicates it
    is that trunk's own.

    Returns:
        The region; why there is none; None where the signal was not measured.
    """
    measured = peaks_of(curve.setting, signal)
    if not measured:
        return None
    if edges := [peak for peak in measured if peak.edge]:
        share = f"{len(edges)} of {formatting.plural(len(measured), 'seed')}"
        return f"largest at the {edges[0].edge} epoch measured in {share}: no peak"
    peak, whole = stats(one.epoch for one in measured), curve.setting.num_epochs
    if peak.n == 1 and curve.grid.repeat_kind == "seed":
        return too_few(1)
    reach = 0.0 if peak.n == 1 else peak.half_width()
    margin = NEAR * whole + 1e-9
    return Region(
        inside=lambda epoch: abs(epoch - peak.mean) <= margin - reach,
        outside=lambda epoch: abs(epoch - peak.mean) > margin + reach,
    )


def peaks_of(setting: Setting, signal: str) -> list[peaks.Peak]:
    """Finds a signal's peak in each seed; empty where it was not measured."""
    return peaks.seed_peaks(setting.signals, signal) if signal in setting.signals else []


def best_parts(grid: CellGrid, row: int, num_epochs: int) -> dict[int, float]:
    """Finds the best fork epoch of each trunk seed in a row of a grid, as a part of training."""
    chosen = zip(grid.seeds, map(best_column, grid.by_seed[row].T), strict=True)
    return {seed: grid.epochs[at] / num_epochs for seed, at in chosen if at is not None}


def best_text(curve: Curve) -> str:
    """Writes the best fork epoch, and the range of those that may be the best."""
    ranking, whole = curve.ranking, curve.setting.num_epochs
    spread = stats(best_parts(curve.grid, 0, whole).values()).std
    text = f"best at {parts(Stats(ranking.best / whole, spread, ranking.num_repeats))}"
    if not ranking.is_tested:
        return text
    ends = sorted((ranking.best, *ranking.rivals))
    return f"{text}, may be {formatting.span([f'{end / whole:.2f}' for end in ends])}"


def too_few(num: int, kind: str = "seed") -> str:
    """Says that so many repeats are too few."""
    if num == 1 and kind == "seed":
        return "1 seed: no test"
    return f"{formatting.plural(num, kind)}: the test needs {MIN_REPEATS}"


def unsettled(verdict: str, p: float | None, num_seeds: int) -> str:
    """Says why a paired test over seeds has not decided, where that is not the noise."""
    if verdict == NOT_TESTED and num_seeds < MIN_REPEATS:
        return too_few(num_seeds)
    return "the same in all seeds: no spread to test by" if p == 1.0 else ""


def repeats(grid: CellGrid) -> str:
    """Counts the repeats of a grid, and says what they are."""
    number = formatting.plural(len(grid.repeats), grid.repeat_kind)
    return f"{number} of one trunk" if grid.repeat_kind == "replicate" else number


def joined(texts: Iterable[str]) -> str:
    """Joins different texts."""
    return "; ".join(dict.fromkeys(filter(None, texts)))


def parts(found: Stats | Iterable[float]) -> str:
    """Writes parts of training, mean +- standard deviation.

    Example:
        >>> parts([0.2, 0.4])
        '0.30 +- 0.14'
    """
    return formatting.amount(found if isinstance(found, Stats) else stats(found), decimals=2)
