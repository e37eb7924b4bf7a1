"""Rules replayed over a finished grid: what each would have chosen, and what that would have cost.

The truth of a seed is the primary test metric of its forks at the epochs that were measured. A rule
sees the seed's trunk only, epoch by epoch. Between two measured forks the metric is interpolated
and marked so; outside of them there is none.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from earlyprune_jax import records
from earlyprune_jax.analysis import curves
from earlyprune_jax.analysis.curves import Curve
from earlyprune_jax.analysis.peaks import Peak, mean_peaks
from earlyprune_jax.analysis.runs import Runs, Table
from earlyprune_jax.analysis.stats import Stats, stats
from earlyprune_jax.triggers import Firing, History, Trigger

FIXED_FRACTIONS = (0.1, 0.3, 0.5)
NO_DECISION = ("step", "epoch", "seconds", "train_seconds")
"""Numbers of a record that are no measurement of the network."""


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """The runs of one setting as a replay needs them.

    Attributes:
        runs: of the setting.
        curves: the finished forks, but for baselines beside the grid.
        histories: trunk seed -> what a trigger sees along its trunk.
        num_epochs: T, the length of a trunk.
        raised: rules that raised when they were asked, and what: they count as never firing.
    """

    runs: Runs
    curves: tuple[Curve, ...]
    histories: Mapping[int, History]
    num_epochs: int
    raised: dict[Trigger, str] = dataclasses.field(default_factory=dict)
    _firings: dict[tuple[Trigger, int], Firing | None] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def dense(self) -> Table:
        """The dense runs: see `curves.dense_runs`."""
        return curves.dense_runs(self.runs)

    @functools.cached_property
    def online(self) -> list[Curve]:
        """The runs that pruned themselves."""
        return curves.fork_curves(self.runs, "online")

    @functools.cached_property
    def peaks(self) -> list[Peak]:
        """Where the signals are largest along the dense runs: see `peaks.mean_peaks`."""
        return mean_peaks(self.runs)

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """What rules may look at: every measured number but test metrics and timings."""
        entries = itertools.chain.from_iterable(self.histories.values())
        names = dict.fromkeys(
            name for entry in entries for name in entry if entry[name] is not None
        )
        return tuple(
            name for name in names if name not in NO_DECISION and not name.startswith("test_")
        )

    @functools.cached_property
    def entries(self) -> dict[int, dict[int, Mapping[str, Any]]]:
        """Trunk seed -> epoch -> what was measured after it."""
        return {
            seed: {entry["epoch"]: entry for entry in history}
            for seed, history in self.histories.items()
        }

    def firing(self, rule: Trigger, trunk_seed: int) -> Firing | None:
        """Asks a rule about a seed's whole trunk; once, as the answer is the same for all
        curves."""
        if (rule, trunk_seed) not in self._firings:
            try:
                firing = rule(self.histories.get(trunk_seed, ()))
            except Exception as error:  # the user's code: the other rules are replayed all the same
                self.raised[rule] = f"{type(error).__name__}: {error}"
                firing = None
            self._firings[rule, trunk_seed] = firing
        return self._firings[rule, trunk_seed]


@dataclasses.dataclass(frozen=True)
class Choice:
    """One seed's choice by one rule.

    Attributes:
        status: measured, interpolated, outside (of the measured forks: no value), diverged (a fork
            there, or on the way to its neighbour: no value either), or never (the rule did not
            fire).
        fired_epoch: when the rule fired; None where it never did, and for baselines.
        marked_epoch: the epoch it marked, likewise.
        epoch: the epoch whose weights are pruned.
        test: the metric of the fork there, in its own direction.
        regret: how much worse this is than the seed's best measured fork; never negative.
        dense_epochs: epochs trained dense; with a rewind up to the firing.
        reason: what the rule saw.
    """

    trunk_seed: int
    status: str
    fired_epoch: int | None = None
    marked_epoch: int | None = None
    epoch: float | None = None
    test: float | None = None
    regret: float | None = None
    dense_epochs: float | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Truth:
    """What the forks of one seed came to.

    Attributes:
        values: fork epoch -> sign * test metric, the mean over replicates: the larger the better.
        diverged: the fork epochs at which a fork of the seed diverged or failed.
        sign: of the metric.
    """

    trunk_seed: int
    values: Mapping[int, float]
    diverged: frozenset[int] = frozenset()
    sign: float = 1.0

    @property
    def best_epoch(self) -> int:
        """The best measured fork epoch; the earliest of equals."""
        return max(self.values, key=lambda epoch: (self.values[epoch], -epoch))

    def at(self, epoch: float) -> float | None:
        """Gives the value at an epoch, linear between measured forks; None outside, or where one
        diverged.

        Example:
            >>> truth = Truth(0, {4: 0.5, 8: 0.9})
            >>> truth.at(4), round(truth.at(5), 3), truth.at(9)
            (0.5, 0.6, None)
        """
        below, above = self._neighbours(epoch)
        if self.near_divergence(epoch) or below is None or above is None:
            return None
        if below == above:
            return self.values[below]
        weight = (epoch - below) / (above - below)
        return (1 - weight) * self.values[below] + weight * self.values[above]

    def near_divergence(self, epoch: float) -> bool:
        """Tells whether a fork diverged at this epoch, or between it and a measured neighbour."""
        below, above = self._neighbours(epoch)
        low, high = (-math.inf if below is None else below), (math.inf if above is None else above)
        return any(low < lost < high or lost == epoch for lost in self.diverged)

    def choose(self, epoch: float) -> Choice:
        """Says what comes of pruning the seed at an epoch."""
        value = self.at(epoch)
        if value is None:
            status = "diverged" if self.near_divergence(epoch) else "outside"
            return Choice(self.trunk_seed, status, epoch=epoch, dense_epochs=epoch)
        status = "measured" if epoch in self.values else "interpolated"
        regret = max(self.values.values()) - value
        return Choice(self.trunk_seed, status, None, None, epoch, self.sign * value, regret, epoch)

    def choose_at_random(self) -> Choice:
        """Says what to expect of an epoch drawn at random from the first to the last measured
        fork."""
        epochs = range(min(self.values), max(self.values) + 1)
        every = [self.choose(epoch) for epoch in epochs]
        if any(choice.status == "diverged" for choice in every):
            middle = sum(epochs) / len(epochs)
            return Choice(self.trunk_seed, "diverged", epoch=middle, dense_epochs=middle)
        test, regret, epoch = (
            sum(getattr(choice, name) for choice in every) / len(every)
            for name in ("test", "regret", "epoch")
        )
        is_measured = all(choice.status == "measured" for choice in every)
        status = "measured" if is_measured else "interpolated"
        return Choice(self.trunk_seed, status, None, None, epoch, test, regret, epoch)

    def _neighbours(self, epoch: float) -> tuple[int | None, int | None]:
        """Finds the measured fork epochs around an epoch; where it is measured, twice itself."""
        below = max((known for known in self.values if known <= epoch), default=None)
        above = min((known for known in self.values if known >= epoch), default=None)
        return below, above


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One rule's choices in every seed of a curve.

    Attributes:
        trigger: the rule's canonical text, or a baseline's name.
        kind: rule or baseline.
        mode: now (pruned at the firing) or rewind (at the marked epoch).
        num_epochs: T.
    """

    curve: Curve
    trigger: str
    kind: str
    mode: str
    choices: tuple[Choice, ...]
    num_epochs: int

    def over_seeds(self, name: str) -> Stats | None:
        """Takes mean and std of a number of `Choice` over the seeds that have one, or None."""
        values = [getattr(choice, name) for choice in self.choices]
        known = [value for value in values if value is not None]
        return stats(known) if known else None

    @property
    def saved_epochs(self) -> Stats | None:
        """Gives T less the epochs trained dense, over the seeds in which the rule fired."""
        dense = [choice.dense_epochs for choice in self.choices if choice.dense_epochs is not None]
        return stats(self.num_epochs - epochs for epochs in dense) if dense else None

    def count(self, *statuses: str) -> int:
        """Counts the seeds that have one of these statuses."""
        return sum(choice.status in statuses for choice in self.choices)

    @property
    def num_evaluated(self) -> int:
        """Counts the seeds that have a value."""
        return self.count("measured", "interpolated")

    @property
    def complete(self) -> bool:
        """Tells whether every seed has a value: means over some seeds only cannot be compared."""
        return self.num_evaluated == len(self.choices)


def grid(runs: Runs) -> Grid:
    """Gathers what a replay needs from the runs of one setting.

    Trunks are known by their seed: use `results.by_setting` first.

    Example:
        >>> from earlyprune_jax.analysis.runs import read_runs
        >>> grid(read_runs("no/such/workdir")).curves
        ()
    """
    trunks = runs.of_kind("trunk").frame
    histories = {
        int(seed): [records.flat(dict(entry)) for entry in runs.entries[name]]
        for seed, name in zip(trunks["trunk_seed"], trunks["name"], strict=True)
    }
    forks = curves.without_baselines(curves.fork_curves(runs), runs.config)
    return Grid(runs, tuple(forks), histories, num_epochs(runs))


def num_epochs(runs: Runs) -> int:
    """Gives T, the length of the trunks of one setting: as planned, or that of the longest."""
    trunks = runs.of_kind("trunk")
    last = (trunks if len(trunks) else runs).frame["last_epoch"]
    is_swept = "train.num_epochs" in runs.swept.trunk
    planned = None if is_swept else runs.config.get("train", {}).get("num_epochs")
    return planned or int(last.max() if len(last) else 0)


def truths(curve: Curve) -> tuple[Truth, ...]:
    """Gives the curve's values seed by seed, by ascending seed."""
    sign = curve.metric.sign
    return tuple(
        Truth(
            seed,
            {epoch: sign * value for epoch, value in values.items()},
            frozenset(epoch for own, epoch in curve.lost if own == seed),
            sign,
        )
        for seed, values in curve.test_by_seed.items()
    )


def outcomes(data: Grid, curve: Curve, rules: Iterable[Trigger]) -> tuple[Outcome, ...]:
    """Replays every rule, and every baseline, on one curve: lowest mean regret first.

    Rules that lack a value in some seed come after those that have all. A rule that looks back
    is listed twice: pruned when it fires, and rewound to the epoch it marks. The fork there had T
    less that epoch to train; a run that rewinds itself has T less the epoch of firing, and so a
    little less than what is shown.

    Baselines: oracle (each seed's best measured fork: an upper bound, chosen on the metric that is
    reported), best fixed epoch (in hindsight, the same for all seeds; chosen on validation
    where there is one), fixed 10 %, 30 % and 50 % of T (nearest epoch), end (the last
    measured fork), random time (the mean over all whole epochs between first and last measured
    fork).

    Args:
        data: of the curve's setting.
        curve: one of its curves.
        rules: each is replayed once.

    Returns:
        One outcome per rule and mode, and per baseline.
    """
    choosers: dict[tuple[str, str, str], Callable[[Truth], Choice]] = {
        (str(rule), "rule", mode): functools.partial(_ask, data, rule, mode)
        for rule in rules
        for mode in ("now", "rewind")[: 1 + rule.looks_back]
    }
    for fraction in FIXED_FRACTIONS:
        epoch = int(fraction * data.num_epochs + 0.5)
        choosers[f"fixed {100 * fraction:.0f} %", "baseline", "now"] = functools.partial(
            Truth.choose, epoch=epoch
        )
    choosers |= {
        ("oracle", "baseline", "now"): lambda truth: truth.choose(truth.best_epoch),
        ("best fixed epoch", "baseline", "now"): lambda truth: truth.choose(curve.ranking.best),
        ("end", "baseline", "now"): lambda truth: truth.choose(max(truth.values)),
        ("random time", "baseline", "now"): Truth.choose_at_random,
    }
    seeds = truths(curve)
    found = [
        Outcome(curve, *names, tuple(map(choose, seeds)), data.num_epochs)
        for names, choose in choosers.items()
    ]
    return tuple(sorted(found, key=_order))


def _ask(data: Grid, rule: Trigger, mode: str, truth: Truth) -> Choice:
    firing = data.firing(rule, truth.trunk_seed)
    if firing is None:
        reason = data.raised.get(rule, "the rule never fired")
        return Choice(truth.trunk_seed, "never", reason=reason)
    return dataclasses.replace(
        truth.choose(firing.marked_epoch if mode == "rewind" else firing.epoch),
        fired_epoch=firing.epoch,
        marked_epoch=firing.marked_epoch,
        # The epochs up to the firing were trained dense, whatever checkpoint was gone back to.
        dense_epochs=firing.epoch,
        reason=firing.reason,
    )


def _order(outcome: Outcome) -> tuple[Any, ...]:
    regret, epoch = outcome.over_seeds("regret"), outcome.over_seeds("epoch")
    missing = len(outcome.choices) - outcome.num_evaluated
    # Rounded, so that the last bits of a mean decide nothing; the oracle stands before its equals.
    value = (regret is None, round(regret.mean, 12) if regret else 0.0)
    name = (outcome.trigger != "oracle", outcome.trigger, outcome.mode)
    return (missing, *value, epoch.mean if epoch else math.inf, *name)
