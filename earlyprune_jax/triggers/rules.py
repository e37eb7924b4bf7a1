"""The rules that there are.

A rule is a frozen value that maps the measured past to "now", "then", or nothing. Each makes one
pass over what was measured, and so can only know the past. A combination is a rule of rules: the
first of several to fire, or all of them.
"""

import dataclasses
import itertools
import math

from earlyprune_jax.triggers.trigger import Firing, History, Trigger, fires_at, measured, option
from earlyprune_jax.validate import InvalidInput, expected, fraction, refuse, within


@dataclasses.dataclass(frozen=True)
class Peak(Trigger, name="peak", example="peak(fisher_trace, patience=2)"):
    """A column has peaked: it was largest some measurements ago and has fallen since.

    With measurements x_1, x_2, ... (epochs without a value do not count) and s_i the mean of
    x_i and the `smoothing` - 1 before it (defined once there are so many), let p be the first
    place of the largest s so far. Fires at the first i >= p + `patience` with
    s_i <= s_p - `min_drop` |s_p|. Marks the epoch of the largest x that s_p averages. A largest
    first measurement counts as a peak: `after` skips a transient at the start.

    Attributes:
        column: what is watched.
        smoothing: measurements averaged.
        patience: measurements after the peak before it is believed; a higher one starts anew.
        min_drop: by what part of the peak's size the column must have fallen; 0 = any that is
            not higher.
        after: measurements up to this epoch are ignored.

    Example:
        >>> values = (1.0, 2.0, 9.0, 8.8, 8.7, 4.0)
        >>> history = [{"epoch": epoch, "x": x} for epoch, x in enumerate(values, start=1)]
        >>> firing = Peak("x")(history)
        >>> firing.epoch, firing.marked_epoch
        (6, 3)
    """

    column: str = option("column", dataclasses.MISSING)
    smoothing: int = option("whole number", 1, within(1))
    patience: int = option("whole number", 2, within(1))
    min_drop: float = option("number", 0.05, within(0, 1, open_high=True))
    after: int = option("whole number", 0, within(0))

    looks_back = True  # A peak is known only some epochs later.

    def __call__(self, history: History) -> Firing | None:
        points = [point for point in measured(history, self.column) if point[0] > self.after]
        count, top = self.smoothing, 0
        windows = [points[first : first + count] for first in range(len(points) - count + 1)]
        # Divided before they are added: a sum of large numbers would overflow.
        levels = [math.fsum(x / count for _, x in window) for window in windows]
        for now, level in enumerate(levels):
            highest = levels[top]
            if level > highest:
                top = now
            elif now - top >= self.patience and level <= highest - self.min_drop * abs(highest):
                epoch = windows[now][-1][0]
                marked, value = max(windows[top], key=lambda point: point[1])
                drop = f"{100 * (highest - level) / abs(highest or 1):.0f} % lower"
                reason = f"{self.column} was largest at epoch {marked} ({value:.4g}), "
                reason += f"{drop if highest else 'no higher'} at {epoch}"
                reason += f" (means of {count} measurements)" if count > 1 else ""
                return Firing(epoch, marked, reason)
        return None


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
        >>> firing = All((Peak("x"), AtEpoch(6)))(history)
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
