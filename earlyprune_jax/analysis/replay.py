"""Rules replayed over a finished grid: what each would have chosen, and what that would have cost.

The truth of a seed is the primary test metric of its forks at the epochs that were measured. A rule
sees the seed's trunk only, epoch by epoch. Between two measured forks the metric is interpolated
and marked so; outside of them there is none.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from earlyprune_jax import triggers
from earlyprune_jax.analysis import peaks
from earlyprune_jax.analysis.curves import Curve, Setting
from earlyprune_jax.analysis.stats import Stats, spearman, stats
from earlyprune_jax.triggers import Firing, Trigger

FIXED_FRACTIONS = (0.1, 0.3, 0.5)
MIN_EPOCHS = 3
"""Two epochs correlate perfectly whatever they hold."""
NEVER = "the rule never fired"
Ask = Callable[[Trigger, int], Firing | str]


@dataclasses.dataclass
class Choice:
    """One seed's choice by one rule; the fields are columns of rule_choices.csv.

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
        dense_epochs_saved: T less these; known where T is.
        reason: what the rule saw; where it did not fire `NEVER`, or what it raised.
    """

    trunk_seed: int
    status: str
    fired_epoch: int | None = None
    marked_epoch: int | None = None
    epoch: float | None = None
    test: float | None = None
    regret: float | None = None
    dense_epochs: float | None = None
    dense_epochs_saved: float | None = None
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Truth:
    """What the forks of one seed came to.

    Attributes:
        values: fork epoch, ascending -> sign * test metric, the mean over replicates: the larger
            the better.
        lost: the fork epochs at which a fork of the seed diverged or failed.
        sign: of the metric.
    """

    trunk_seed: int
    values: Mapping[int, float]
    lost: frozenset[int] = frozenset()
    sign: float = 1.0

    def choose(self, epoch: float) -> Choice:
        """Says what comes of pruning the seed at an epoch, linear between measured forks.

        Example:
            >>> truth = Truth(0, {4: 0.5, 8: 0.9})
            >>> truth.choose(4).test, round(truth.choose(5).test, 3), truth.choose(9).status
            (0.5, 0.6, 'outside')
        """
        below = max((known for known in self.values if known <= epoch), default=None)
        above = min((known for known in self.values if known >= epoch), default=None)
        low, high = (-math.inf if below is None else below), (math.inf if above is None else above)
        choice = functools.partial(Choice, self.trunk_seed, epoch=epoch, dense_epochs=epoch)
        if any(low < lost < high or lost == epoch for lost in self.lost):
            return choice("diverged")
        if below is None or above is None:
            return choice("outside")
        weight = (epoch - below) / (above - below) if below != above else 0.0
        value = (1 - weight) * self.values[below] + weight * self.values[above]
        status = "measured" if epoch in self.values else "interpolated"
        regret = max(self.values.values()) - value
        return choice(status, test=self.sign * value, regret=regret)

    def follow(self, firing: Firing | str, mode: str) -> Choice:
        """Says what comes of pruning the seed as a rule says.

        Args:
            firing: of the rule; or why there is none, such as `NEVER`.
            mode: now (pruned at the firing) or rewind (at the marked epoch).

        Returns:
            The choice.
        """
        if isinstance(firing, str):
            return Choice(self.trunk_seed, "never", reason=firing)
        return dataclasses.replace(
            self.choose(firing.marked_epoch if mode == "rewind" else firing.epoch),
            fired_epoch=firing.epoch,
            marked_epoch=firing.marked_epoch,
            # The epochs up to the firing were trained dense, whatever checkpoint was gone back to.
            dense_epochs=firing.epoch,
            reason=firing.reason,
        )

    def choose_at_random(self) -> Choice:
        """Says what to expect of an epoch drawn at random from the first to the last measured
        fork."""
        epochs = range(min(self.values), max(self.values) + 1)
        choices = [self.choose(epoch) for epoch in epochs]
        middle = sum(epochs) / len(epochs)
        # The worst of them, which is also the order of the alphabet.
        status = min(choice.status for choice in choices)
        mean = Choice(self.trunk_seed, status, epoch=middle, dense_epochs=middle)
        if status != "diverged":
            mean.test = sum(choice.test or 0.0 for choice in choices) / len(choices)
            mean.regret = sum(choice.regret or 0.0 for choice in choices) / len(choices)
        return mean


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One rule's choices in every seed of a curve.

    Attributes:
        trigger: the rule's canonical text, or a baseline's name.
        kind: rule or baseline.
        mode: now (pruned at the firing) or rewind (at the marked epoch).
    """

    curve: Curve
    trigger: str
    kind: str
    mode: str
    choices: tuple[Choice, ...]

    @functools.cached_property
    def label(self) -> str:
        """The rule's text without options at their defaults, for people; of a baseline its name."""
        return triggers.label(self.trigger) if self.kind == "rule" else self.trigger

    def over_seeds(self, name: str) -> Stats | None:
        """Takes mean and std of a number of `Choice` over the seeds that have one, or None."""
        known = [getattr(one, name) for one in self.choices if getattr(one, name) is not None]
        return stats(known) if known else None

    @property
    def epochs(self) -> list[int]:
        """The whole epochs that the seeds chose, ascending."""
        return sorted({round(one.epoch) for one in self.choices if one.epoch is not None})

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


@dataclasses.dataclass(frozen=True)
class Correlation:
    """One signal against the quality of one curve's forks: Spearman's rank correlation.

    Attributes:
        signal: a column of the trunk's records.
        over_seeds: of the seeds' coefficients; None where no seed has one. 1 says that forks are
            the better the larger the column, whatever the metric's direction.
        epoch_itself: the same for the epoch number in the signal's place, over the same forks:
            whatever rises or falls all along says no more than that.
        num_epochs: the fewest fork epochs that a seed's coefficient rests on.
    """

    curve: Curve
    signal: str
    over_seeds: Stats | None
    epoch_itself: Stats | None
    num_epochs: int


@functools.lru_cache(maxsize=1)
def truths(curve: Curve) -> tuple[Truth, ...]:
    """Returns the curve's values seed by seed, by ascending seed."""
    sign, column = curve.metric.sign, curve.metric.column("test")
    means = curve.runs.groupby(["trunk_seed", "fork_epoch"])[column].mean()
    return tuple(
        Truth(
            int(seed),
            {int(epoch): sign * float(value) for (_, epoch), value in values.items()},
            frozenset(epoch for own, epoch in curve.lost if own == seed),
            sign,
        )
        for seed, values in means.groupby(level=0)
    )


@functools.lru_cache(maxsize=1)
def asker(setting: Setting) -> Ask:
    """Makes what asks a rule about a trunk seed's whole trunk: once for all curves and modes.

    It returns the rule's firing, or why there is none: `NEVER`, or what the rule raised.
    """

    @functools.cache
    def ask(rule: Trigger, trunk_seed: int) -> Firing | str:
        try:
            return rule(setting.histories.get(trunk_seed, ())) or NEVER
        except Exception as error:  # the user's code: the other rules are replayed all the same
            return f"{type(error).__name__}: {error}"

    return ask


def outcomes(curve: Curve, rules: Iterable[Trigger]) -> tuple[Outcome, ...]:
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
        curve: of a grid.
        rules: each is replayed once.

    Returns:
        One outcome per rule and mode, and per baseline.
    """
    seeds, num_epochs, replayed = truths(curve), curve.setting.num_epochs, []
    ask = asker(curve.setting)

    def choose_by(rule: Trigger, mode: str, truth: Truth) -> Choice:
        return truth.follow(ask(rule, truth.trunk_seed), mode)

    choosers: dict[tuple[str, str, str], Callable[[Truth], Choice]] = {
        (str(rule), "rule", mode): functools.partial(choose_by, rule, mode)
        for rule in rules
        for mode in ("now", "rewind")[: 1 + rule.looks_back]
    }
    fixed = {f"fixed {100 * part:.0f} %": int(part * num_epochs + 0.5) for part in FIXED_FRACTIONS}
    fixed["best fixed epoch"] = curve.ranking.best
    baselines: dict[str, Callable[[Truth], Choice]] = {
        "oracle": lambda truth: truth.choose(max(truth.values, key=truth.values.__getitem__)),
        "end": lambda truth: truth.choose(max(truth.values)),
        "random time": Truth.choose_at_random,
        **{name: functools.partial(Truth.choose, epoch=epoch) for name, epoch in fixed.items()},
    }
    choosers |= {(name, "baseline", "now"): choose for name, choose in baselines.items()}
    for names, choose in choosers.items():
        choices = [choose(truth) for truth in seeds]
        for choice in choices:
            if choice.dense_epochs is not None:
                choice.dense_epochs_saved = num_epochs - choice.dense_epochs
        replayed.append(Outcome(curve, *names, tuple(choices)))
    return tuple(sorted(replayed, key=_order))


def baseline(outcomes: Sequence[Outcome], trigger: str) -> Outcome | None:
    """Finds the baseline of that name if it has a value in every seed."""
    return next((one for one in outcomes if one.trigger == trigger and one.complete), None)


def correlations(curve: Curve) -> list[Correlation]:
    """Correlates every column that was measured along the trunks, largest mean magnitude first.

    Standard errors and the learning rate are left out.
    """
    computed = [
        correlation(curve, name)
        for name in curve.setting.columns
        if not name.endswith(peaks.SPREADS) and name != "learning_rate"
    ]
    return sorted(
        computed, key=lambda one: -round(abs(one.over_seeds.mean), 12) if one.over_seeds else 1.0
    )


def correlation(curve: Curve, signal: str) -> Correlation:
    """Correlates one column with the quality of the curve's forks, and the epoch number beside it.

    A seed's coefficient is over the fork epochs at which the column was measured, at least three.

    Returns:
        The coefficients over seeds; None in it where no seed has one.
    """
    coefficients, control, sizes = [], [], []
    for truth in truths(curve):
        history = curve.setting.histories.get(truth.trunk_seed, ())
        measured: dict[Any, Any] = {entry["epoch"]: entry.get(signal) for entry in history}
        epochs = [epoch for epoch in truth.values if measured.get(epoch) is not None]
        qualities = [truth.values[epoch] for epoch in epochs]
        values = [float(measured[epoch]) for epoch in epochs]
        coefficient = spearman(values, qualities, at_least=MIN_EPOCHS)
        if coefficient is not None:
            sizes.append(len(epochs))
            coefficients.append(coefficient)
            control.append(spearman(epochs, qualities))
    if not sizes:
        return Correlation(curve, signal, None, None, 0)
    return Correlation(curve, signal, stats(coefficients), stats(control), min(sizes))


def _order(outcome: Outcome) -> tuple[Any, ...]:
    regret, epoch = outcome.over_seeds("regret"), outcome.over_seeds("epoch")
    missing = len(outcome.choices) - outcome.num_evaluated
    # Rounded, so that the last bits of a mean decide nothing; the oracle stands before its equals.
    value = (regret is None, round(regret.mean, 12) if regret else 0.0)
    name = (outcome.trigger != "oracle", outcome.trigger, outcome.mode)
    return (missing, *value, epoch.mean if epoch else math.inf, *name)
