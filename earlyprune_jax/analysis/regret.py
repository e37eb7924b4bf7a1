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
from earlyprune_jax.analysis.runs import Runs
from earlyprune_jax.analysis.stats import Stats, stats
from earlyprune_jax.triggers import Firing, History, Trigger

FIXED_FRACTIONS = (0.1, 0.3, 0.5)
NO_DECISION = ("step", "epoch", "seconds", "train_seconds")
"""Numbers of a record that are no measurement of the network."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """What a replay needs of the runs of one setting.

    Attributes:
        curves: the finished forks, but for baselines beside the grid.
        histories: trunk seed -> what a trigger sees along its trunk.
        num_epochs: T, the length of a trunk.
    """

    curves: tuple[Curve, ...]
    histories: Mapping[int, History]
    num_epochs: int

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
        """What the rule says of a seed's whole trunk: the same for all curves, so it is asked
        once."""
        if (rule, trunk_seed) not in self._firings:
            self._firings[rule, trunk_seed] = self._asked(rule, trunk_seed)
        return self._firings[rule, trunk_seed]

    def _asked(self, rule: Trigger, trunk_seed: int) -> Firing | None:
        try:
            return rule(self.histories.get(trunk_seed, ()))
        except (
            Exception
        ) as error:  # it may be the user's code: the other rules are replayed all the same
            self.raised[rule] = f"{type(error).__name__}: {error}"
            return None

    @functools.cached_property
    def raised(self) -> dict[Trigger, str]:
        """Rules that raised when they were asked, and what: they count as never firing."""
        return {}

    @functools.cached_property
    def _firings(self) -> dict[tuple[Trigger, int], Firing | None]:
        return {}


@dataclasses.dataclass(frozen=True)
class Truth:
    """What the forks of one seed came to.

    Attributes:
        values: fork epoch -> sign * test metric, the mean over replicates: the larger the better.
        diverged: the fork epochs at which a fork of the seed diverged or failed.
    """

    trunk_seed: int
    values: Mapping[int, float]
    diverged: frozenset[int] = frozenset()

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
        if self.near_divergence(epoch):
            return None
        if epoch in self.values:
            return self.values[int(epoch)]
        below, above = self._neighbours(epoch)
        if below is None or above is None:
            return None
        weight = (epoch - below) / (above - below)
        return (1 - weight) * self.values[below] + weight * self.values[above]

    def near_divergence(self, epoch: float) -> bool:
        """Whether a fork diverged at this epoch, or between it and a measured neighbour."""
        below, above = (epoch, epoch) if epoch in self.values else self._neighbours(epoch)
        low, high = (-math.inf if below is None else below), (math.inf if above is None else above)
        return any(low < lost < high or lost == epoch for lost in self.diverged)

    def _neighbours(self, epoch: float) -> tuple[int | None, int | None]:
        """The measured fork epochs around one that is not."""
        below = max((known for known in self.values if known < epoch), default=None)
        above = min((known for known in self.values if known > epoch), default=None)
        return below, above


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
        """Mean and std of a number of `Choice` over the seeds that have one; None without any."""
        values = [getattr(choice, name) for choice in self.choices]
        known = [value for value in values if value is not None]
        return stats(known) if known else None

    @property
    def saved_epochs(self) -> Stats | None:
        """T less the epochs trained dense, over the seeds in which the rule fired."""
        dense = [choice.dense_epochs for choice in self.choices if choice.dense_epochs is not None]
        return stats(self.num_epochs - epochs for epochs in dense) if dense else None

    def count(self, *statuses: str) -> int:
        """How many seeds have one of these statuses."""
        return sum(choice.status in statuses for choice in self.choices)

    @property
    def num_evaluated(self) -> int:
        """How many seeds have a value."""
        return self.count("measured", "interpolated")

    @property
    def complete(self) -> bool:
        """Whether every seed has a value: means over some seeds only cannot be compared."""
        return self.num_evaluated == len(self.choices)


def grid(runs: Runs) -> Grid:
    """Gathers what a replay needs from the runs of one setting.

    Trunks are known by their seed: use `results.by_setting` first.

    Example:
        >>> from earlyprune_jax.analysis.runs import read_runs
        >>> grid(read_runs("no/such/workdir")).curves
        ()
    """
    histories = {
        seed: [records.flat(dict(entry)) for entry in entries]
        for seed, entries in runs.histories().items()
    }
    forks = curves.without_baselines(curves.fork_curves(runs), runs.config)
    return Grid(tuple(forks), histories, num_epochs(runs))


def num_epochs(runs: Runs) -> int:
    """Gives T, the length of the trunks of one setting: as planned, or that of the longest."""
    trunks = runs.of_kind("trunk")
    last = (trunks if len(trunks) else runs).frame["last_epoch"]
    is_swept = "train.num_epochs" in runs.swept.trunk
    planned = None if is_swept else runs.config.get("train", {}).get("num_epochs")
    return planned or int(last.max() if len(last) else 0)


def truths(curve: Curve) -> tuple[Truth, ...]:
    """Gives the curve's values seed by seed, by ascending seed."""
    cells: dict[int, dict[int, float]] = {}
    for epoch in curve.epochs:
        for seed, value in curves.by_seed(curve.at(epoch), curve.metric.column("test")).items():
            cells.setdefault(seed, {})[epoch] = curve.metric.sign * value
    lost = {seed: frozenset(epoch for own, epoch in curve.lost if own == seed) for seed in cells}
    return tuple(Truth(seed, cells[seed], lost[seed]) for seed in sorted(cells))


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
    """
    choose_at = functools.partial(_at, sign=curve.metric.sign)
    seeds = truths(curve)

    def outcome(trigger: str, kind: str, mode: str, choose: Callable[[Truth], Choice]) -> Outcome:
        return Outcome(curve, trigger, kind, mode, tuple(map(choose, seeds)), data.num_epochs)

    found = [
        outcome(str(rule), "rule", mode, _rule_chooser(data, rule, mode, choose_at))
        for rule in dict.fromkeys(rules)
        for mode in ("now", "rewind")[: 1 + rule.looks_back]
    ]
    for name, chooser in _baselines(data, curve, choose_at).items():
        found.append(outcome(name, "baseline", "now", chooser))
    return tuple(sorted(found, key=_order))


def _rule_chooser(
    data: Grid, rule: Trigger, mode: str, choose_at: Callable[..., Choice]
) -> Callable[[Truth], Choice]:
    def choose(truth: Truth) -> Choice:
        firing = data.firing(rule, truth.trunk_seed)
        if firing is None:
            return Choice(
                truth.trunk_seed, "never", reason=data.raised.get(rule, "the rule never fired")
            )
        return dataclasses.replace(
            choose_at(truth, firing.marked_epoch if mode == "rewind" else firing.epoch),
            fired_epoch=firing.epoch,
            marked_epoch=firing.marked_epoch,
            # The epochs up to the firing were trained dense, whatever checkpoint was gone back to.
            dense_epochs=firing.epoch,
            reason=firing.reason,
        )

    return choose


def _at(truth: Truth, epoch: int, *, sign: float) -> Choice:
    """The seed's choice if it is pruned at an epoch."""
    value = truth.at(epoch)
    if value is None:
        status = "diverged" if truth.near_divergence(epoch) else "outside"
        return Choice(truth.trunk_seed, status, epoch=epoch, dense_epochs=epoch)
    status = "measured" if epoch in truth.values else "interpolated"
    regret = max(truth.values.values()) - value
    return Choice(truth.trunk_seed, status, None, None, epoch, sign * value, regret, epoch)


def _baselines(
    data: Grid, curve: Curve, choose_at: Callable[..., Choice]
) -> dict[str, Callable[[Truth], Choice]]:
    fixed = {
        f"fixed {100 * fraction:.0f} %": lambda truth, fraction=fraction: choose_at(
            truth, int(fraction * data.num_epochs + 0.5)
        )
        for fraction in FIXED_FRACTIONS
    }
    return {
        "oracle": lambda truth: choose_at(truth, truth.best_epoch),
        "best fixed epoch": lambda truth: choose_at(truth, curve.ranking.best),
        **fixed,
        "end": lambda truth: choose_at(truth, max(truth.values)),
        "random time": lambda truth: _at_random(truth, choose_at),
    }


def _at_random(truth: Truth, choose_at: Callable[..., Choice]) -> Choice:
    """What is to be expected of an epoch drawn at random between the first and the last measured
    fork."""
    epochs = range(min(truth.values), max(truth.values) + 1)
    every = [choose_at(truth, epoch) for epoch in epochs]
    if any(choice.status == "diverged" for choice in every):
        middle = sum(epochs) / len(epochs)
        return Choice(truth.trunk_seed, "diverged", epoch=middle, dense_epochs=middle)
    test, regret, epoch = (
        sum(getattr(choice, name) for choice in every) / len(every)
        for name in ("test", "regret", "epoch")
    )
    status = "measured" if all(choice.status == "measured" for choice in every) else "interpolated"
    return Choice(truth.trunk_seed, status, None, None, epoch, test, regret, epoch)


def _order(outcome: Outcome) -> tuple[Any, ...]:
    regret, epoch = outcome.over_seeds("regret"), outcome.over_seeds("epoch")
    missing = len(outcome.choices) - outcome.num_evaluated
    # Rounded, so that the last bits of a mean decide nothing; the oracle stands before its equals.
    value = (regret is None, round(regret.mean, 12) if regret else 0.0)
    name = (outcome.trigger != "oracle", outcome.trigger, outcome.mode)
    return (missing, *value, epoch.mean if epoch else math.inf, *name)
