"""The rules that there are.

A rule is a frozen value that maps the measured past to "now", "then", or nothing. Each makes one
pass over what was measured, and so can only know the past. A combination is a rule of rules: the
first of several to fire, or all of them.
"""

import bisect
import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence

from earlyprune_jax.triggers.trigger import (
    Firing,
    History,
    Points,
    Trigger,
    fires_at,
    measured,
    option,
)
from earlyprune_jax.validate import InvalidInput, expected, fraction, refuse, unexpected, within


@dataclasses.dataclass(frozen=True)
class Peak(Trigger, name="peak", example="peak(fisher_trace, smoothing=3)"):
    """A column has peaked: it has risen, was largest some measurements ago, and has fallen since.

    With measurements x_1, x_2, ... (epochs without a value do not count), the level s_i is the mean
    of x_i and those before it within `smoothing`, defined once the measurements span it. A level
    has risen if it lies above the lowest level so far, by at least `min_rise` of its size; with
    `min_rise` = `min_errors` = 0 every level has. Let p be the first place of the largest level
    that has risen. Fires at the first i >= p + `patience` with s_i <= s_p - `min_drop` |s_p|. Marks
    the epoch of the largest x that s_p averages.

    Rise and fall must also be at least `min_errors` standard errors of a difference of two levels,
    sigma_i sqrt(2 / n) with n measurements averaged. The noise sigma_i of one measurement is 0.61
    times the median of |x_(j-1) - 2 x_j + x_(j+1)| over the past, which slopes do not move and
    jumps hardly do (1.4826 / sqrt(6) = 0.61 for Gaussian noise). It takes 5 measurements: before
    them the rise need not exceed it, and the rule does not fire.

    The defaults were chosen on simulated curves of 20 to 200 epochs (benchmarks/peak_rule.py). A
    peak within the first `smoothing` is not seen.

    Attributes:
        column: what is watched.
        smoothing: what is averaged: a whole number of measurements, or a fraction, of the epochs
            that the run is planned for (`num_epochs` in the history), in whole epochs.
        patience: measurements after the peak before it is believed; a higher one starts anew.
        min_drop: by what part of the peak's size the column must have fallen; 0 = any that is
            not higher.
        min_rise: by what part of its own size the peak must lie above the lowest level before it,
            so that a high start is no peak; 0 = by anything.
        min_errors: how many standard errors rise and fall must have; 0 = any, and with
            `min_rise` = 0 no rise is asked for.
        after: measurements up to this epoch are ignored.

    Raises:
        InvalidInput: (when called) `smoothing` is a fraction, and the history has no `num_epochs`.

    Example:
        >>> values = (1.0, 2.0, 9.0, 8.8, 8.7, 4.0)
        >>> history = [{"epoch": epoch, "x": x} for epoch, x in enumerate(values, start=1)]
        >>> firing = Peak("x", smoothing=1, min_errors=0)(history)
        >>> firing.epoch, firing.marked_epoch
        (6, 3)
    """

    column: str = option("column", dataclasses.MISSING)
    smoothing: int | float = option("length", 0.1)
    patience: int = option("whole number", 2, within(1))
    min_drop: float = option("number", 0.05, within(0, 1, open_high=True))
    min_rise: float = option("number", 0.05, within(0, 1, open_high=True))
    min_errors: float = option("number", 4.0, within(0))
    after: int = option("whole number", 0, within(0))

    looks_back = True  # A peak is known only some epochs later.

    def __call__(self, history: History) -> Firing | None:
        points = [point for point in measured(history, self.column) if point[0] > self.after]
        windows = self._windows(history, points)
        # Before the first window there is no level; without `min_errors` noise does not matter.
        noise = _noise([x for _, x in points])[len(points) - len(windows) :]
        noise = noise if self.min_errors else [0.0] * len(noise)
        lowest, highest, top = math.inf, math.nan, None
        for now, (window, sigma) in enumerate(zip(windows, noise, strict=True)):
            # Divided before they are added: a sum of large numbers would overflow.
            level = math.fsum(x / len(window) for _, x in window)
            lowest = min(lowest, level)
            error = self.min_errors * (sigma or 0.0) * math.sqrt(2 / len(window))
            if top is None or level > highest:
                rise, asked = level - lowest, max(self.min_rise * abs(level), error)
                # A share of 0 is 0: a column of zeros, as of a dead network, would have risen.
                if rise >= asked and (rise > 0 or not (self.min_rise or self.min_errors)):
                    highest, top = level, now
            elif now - top >= self.patience and sigma is not None:
                drop = max(self.min_drop * abs(highest), error)
                if level <= highest - drop:
                    return self._firing(windows[top], highest, window, level)
        return None

    def _windows(self, history: History, points: Points) -> list[Points]:
        """Lists what each level averages, from the first that spans the smoothing."""
        if isinstance(self.smoothing, int):
            places, span = range(len(points)), self.smoothing
        else:
            places, span = [epoch for epoch, _ in points], self._planned_span(history)
        return [
            points[bisect.bisect_right(places, place - span) : now + 1]
            for now, place in enumerate(places)
            if place - places[0] >= span - 1
        ]

    def _planned_span(self, history: History) -> int:
        """Returns the smoothing in epochs, at least 1."""
        known = (entry["num_epochs"] for entry in history if entry.get("num_epochs"))
        num_epochs = next(known, None)
        if num_epochs is None and history:
            allowed = "to be a whole number of measurements where no entry has num_epochs"
            remedy = "Give smoothing=3, say, or the planned length as num_epochs in every entry."
            raise unexpected("peak(smoothing)", self.smoothing, allowed, remedy)
        return max(1, int(self.smoothing * (num_epochs or 0) + 0.5))

    def _firing(self, top: Points, highest: float, last: Points, level: float) -> Firing:
        epoch, (marked, value) = last[-1][0], max(top, key=lambda point: point[1])
        drop = f"{100 * (highest - level) / abs(highest or 1):.0f} % lower"
        reason = f"{self.column} was largest at epoch {marked} ({value:.4g}), "
        reason += f"{drop if highest else 'no higher'} at {epoch}"
        reason += f" (means of {len(last)} measurements)" if len(last) > 1 else ""
        return Firing(epoch, marked, reason)


def _noise(values: Sequence[float]) -> list[float | None]:
    """Estimates the noise of one measurement from each beginning of the values, see `Peak`.

    Returns:
        One number per value; None for those before the fifth.
    """
    noise: list[float | None] = [None] * len(values)
    bends: list[float] = []
    for last in range(2, len(values)):
        bisect.insort(bends, abs(values[last - 2] - 2 * values[last - 1] + values[last]))
        if len(bends) >= 3:
            noise[last] = 1.4826 / math.sqrt(6) * statistics.median(bends)
    return noise


@dataclasses.dataclass(frozen=True)
class EarlyBird(Trigger, name="early_bird", example="early_bird(threshold=0.1)"):
    """Early-Bird: the pruning mask has stopped changing.

    Fires at the first measurement of `column` <= `threshold`. The signal mask_distance is the
    largest normalised Hamming distance between the newest mask and each of the 4 before it, and
    has no value before there are 5 masks. (You et al., Drawing Early-Bird Tickets, ICLR 2020: a
    queue of 5 masks, threshold 0.1.)

    Attributes:
        column: the largest distance to each of the older masks.
        threshold: the distance up to which masks count as equal.

    Example:
        >>> history = [{"epoch": 5, "mask_distance": 0.2}, {"epoch": 6, "mask_distance": 0.1}]
        >>> EarlyBird()(history).epoch
        6
    """

    column: str = option("column", "mask_distance")
    threshold: float = option("number", 0.1, within(0, 1))

    def __call__(self, history: History) -> Firing | None:
        for epoch, distance in measured(history, self.column):
            if distance <= self.threshold:
                return fires_at(epoch, f"{self.column} was {distance:.4g} at epoch {epoch}")
        return None


@dataclasses.dataclass(frozen=True)
class EarlyCrop(Trigger, name="early_crop", example="early_crop(sparsity=0.9)"):
    """EarlyCroP: the weights' distance from those of epoch 1 has stopped growing fast.

    With d_t = ||w_ref - w_t|| / ||w_ref|| in `column`, fires at the first epoch whose change
    |d_t - d_(t-1)| is below (1 - `sparsity`) times the first such change. Where epochs were not
    measured, the change between measurements is divided by the epochs between them. (Rachwan et
    al., Winning the Lottery Ahead of Time, ICML 2022.)

    Attributes:
        column: d_t, the signal weight_change.
        sparsity: the fraction to be removed; a larger one waits longer. Must be given.

    Example:
        >>> pairs = enumerate((0.0, 1.0, 1.4, 1.45), start=1)  # changes 1, 0.4, 0.05
        >>> history = [{"epoch": epoch, "weight_change": distance} for epoch, distance in pairs]
        >>> EarlyCrop(sparsity=0.9)(history).epoch, EarlyCrop(sparsity=0.5)(history).epoch
        (4, 3)
    """

    column: str = option("column", "weight_change")
    sparsity: float = option("number", check=fraction(open_high=True), kw_only=True)

    def __call__(self, history: History) -> Firing | None:
        first = None
        for (before, old), (epoch, new) in itertools.pairwise(measured(history, self.column)):
            change = abs(new - old) / (epoch - before)
            first = change if first is None else first
            if change < (1 - self.sparsity) * first:
                share = f"{100 * change / first:.2g} % of its first change"
                reason = f"{self.column} changed by {change:.3g} in epoch {epoch}, {share}"
                return fires_at(epoch, reason)
        return None


@dataclasses.dataclass(frozen=True)
class Threshold(Trigger, name="threshold", example="threshold(train_accuracy, above=0.9)"):
    """A column has passed a value: fires at the first measurement above `above`, or below `below`.

    Attributes:
        column: what is watched.
        above: fires where the column is greater; exactly one of the two is given.
        below: fires where the column is smaller.

    Example:
        >>> Threshold("train_accuracy", above=0.9)([{"epoch": 3, "train_accuracy": 0.91}]).epoch
        3
    """

    column: str = option("column", dataclasses.MISSING)
    above: float | None = option("number", None)
    below: float | None = option("number", None)

    def __post_init__(self):
        super().__post_init__()
        if (self.above is None) == (self.below is None):
            thing = f"Expected threshold({self.column}, ...) to have one of above=, below="
            given = "neither" if self.above is None else "both"
            raise InvalidInput([f"{thing}; it has {given}. E.g. {self.example}."])

    def __call__(self, history: History) -> Firing | None:
        side, bound = ("below", self.below) if self.above is None else ("above", self.above)
        assert bound is not None  # `__post_init__` has seen to it
        for epoch, value in measured(history, self.column):
            if value > bound if side == "above" else value < bound:
                reason = f"{self.column} was {value:.4g} at epoch {epoch}, {side} {bound:g}"
                return fires_at(epoch, reason)
        return None


@dataclasses.dataclass(frozen=True)
class AtEpoch(Trigger, name="epoch", example="epoch(20)"):
    """A fixed epoch: fires at the first epoch of the history that is at least `n`.

    Attributes:
        n: the epoch, from 1. (Pruning before any training needs no rule.)

    Example:
        >>> AtEpoch(20)([{"epoch": 19}]) is None, str(AtEpoch(20))
        (True, 'epoch(20)')
    """

    n: int = option("whole number", check=within(1))

    def __call__(self, history: History) -> Firing | None:
        reached = (entry["epoch"] for entry in history if entry["epoch"] >= self.n)
        return next((fires_at(epoch, f"epoch {self.n} was reached") for epoch in reached), None)


@dataclasses.dataclass(frozen=True)
class Plateau(Trigger, name="plateau", example="plateau(train_loss, patience=5)"):
    """A column has stopped changing.

    Fires at the first measurement where the last `patience` + 1 measurements x satisfy
    (max x - min x) / max |x| < `min_change`, or are all equal.

    Attributes:
        column: what is watched.
        patience: measurements after the first of the window.
        min_change: the relative range that still counts as change.

    Example:
        >>> values = (4.0, 2.0, 1.0, 1.0, 0.99)
        >>> history = [{"epoch": epoch, "loss": x} for epoch, x in enumerate(values, start=1)]
        >>> Plateau("loss", patience=2)(history).epoch
        5
    """

    column: str = option("column", dataclasses.MISSING)
    patience: int = option("whole number", 5, within(1))
    min_change: float = option("number", 0.02, within(0, open_low=True))

    def __call__(self, history: History) -> Firing | None:
        points = measured(history, self.column)
        for last in range(self.patience, len(points)):
            window = [value for _, value in points[last - self.patience : last + 1]]
            change = max(window) - min(window)
            size = max(abs(value) for value in window)
            if change == 0 or (math.isfinite(change) and change < self.min_change * size):
                since, epoch = points[last - self.patience][0], points[last][0]
                share = 100 * change / size if size else 0.0
                reason = f"{self.column} varied by {share:.2g} % over epochs {since} to {epoch}"
                return fires_at(epoch, reason)
        return None


@dataclasses.dataclass(frozen=True)
class Combination(Trigger):
    """What both combinations share.

    Attributes:
        members: two rules or more.
    """

    members: tuple[Trigger, ...]

    def __post_init__(self):
        # A list would not hash, and would differ from what `parse` gives.
        object.__setattr__(self, "members", tuple(self.members))
        thing, remedy = f"member of {self.name}", f"E.g. {self.example}."
        refuse(
            expected(thing, member, "to be a rule", remedy)
            for member in self.members
            if not isinstance(member, Trigger)
        )
        if len(self.members) < 2:
            raise InvalidInput([f"Expected {self} to hold at least two rules. {remedy}"])

    @property
    def columns(self) -> tuple[str, ...]:
        """Lists the columns its members read, each once."""
        return tuple(dict.fromkeys(column for member in self.members for column in member.columns))

    @property
    def looks_back(self) -> bool:
        """Tells whether any member does."""
        return any(member.looks_back for member in self.members)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.members))})"

    @property
    def label(self) -> str:
        """Writes it for people, as `Trigger.label`."""
        return f"{self.name}({', '.join(member.label for member in self.members)})"


@dataclasses.dataclass(frozen=True)
class First(Combination, name="first", example="first(peak(fisher_trace), epoch(20))"):
    """Fires when the first of its members does, and marks what that one marks.

    Of members that fire at the same epoch the one named first counts.

    Attributes:
        members: two rules or more.

    Example:
        >>> from earlyprune_jax.triggers import AtEpoch, Threshold
        >>> trigger = First((Threshold("train_accuracy", above=0.9), AtEpoch(2)))
        >>> trigger([{"epoch": 1}, {"epoch": 2}]).epoch, str(trigger)
        (2, 'first(threshold(train_accuracy, above=0.9), epoch(2))')
    """

    def __call__(self, history: History) -> Firing | None:
        firings = [firing for member in self.members if (firing := member(history))]
        return min(firings, key=lambda firing: firing.epoch, default=None)


@dataclasses.dataclass(frozen=True)
class All(Combination, name="all", example="all(peak(fisher_trace), epoch(5))"):
    """Fires when the last of its members has fired; marks the latest epoch that a member marks.

    Attributes:
        members: two rules or more.

    Example:
        >>> from earlyprune_jax.triggers import AtEpoch, Peak
        >>> history = [{"epoch": epoch, "x": 1.0 / epoch} for epoch in range(1, 9)]
        >>> peak = Peak("x", smoothing=1, min_rise=0, min_errors=0)
        >>> firing = All((peak, AtEpoch(6)))(history)
        >>> firing.epoch, firing.reason
        (6, 'x was largest at epoch 1 (1), 67 % lower at 3; epoch 6 was reached')
    """

    def __call__(self, history: History) -> Firing | None:
        firings = [firing for member in self.members if (firing := member(history))]
        if len(firings) < len(self.members):
            return None
        reason = "; ".join(firing.reason for firing in firings)
        epoch = max(firing.epoch for firing in firings)
        return Firing(epoch, max(firing.marked_epoch for firing in firings), reason)


RULES: dict[str, type[Trigger]] = {
    rule.name: rule
    for rule in (Peak, EarlyBird, EarlyCrop, Threshold, AtEpoch, Plateau, First, All)
}
"""Every rule, by its name in a text."""
