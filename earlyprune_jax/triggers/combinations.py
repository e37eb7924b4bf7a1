"""Rules of rules: the first of several to fire, or all of them; both may hold combinations."""

import dataclasses
from typing import ClassVar

from earlyprune_jax.triggers.trigger import Firing, History, Trigger
from earlyprune_jax.validate import InvalidInput, expected


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
        remedy = f"E.g. {self.example}."
        if len(self.members) < 2:
            given = f"{self.name}({', '.join(map(str, self.members))})"
            raise InvalidInput([f"Expected {given} to hold at least two rules. {remedy}"])
        wrong = [member for member in self.members if not isinstance(member, Trigger)]
        if wrong:
            thing = f"member of {self.name}"
            raise InvalidInput([expected(thing, one, "to be a rule", remedy) for one in wrong])

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns its members read, each once."""
        return tuple(dict.fromkeys(column for member in self.members for column in member.columns))

    @property
    def looks_back(self) -> bool:
        """Whether any member does."""
        return any(member.looks_back for member in self.members)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.members))})"


@dataclasses.dataclass(frozen=True)
class First(Combination):
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

    name: ClassVar[str] = "first"
    example: ClassVar[str] = "first(peak(fisher_trace), epoch(20))"

    def __call__(self, history: History) -> Firing | None:
        firings = [firing for member in self.members if (firing := member(history))]
        return min(firings, key=lambda firing: firing.epoch, default=None)


@dataclasses.dataclass(frozen=True)
class All(Combination):
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

    name: ClassVar[str] = "all"
    example: ClassVar[str] = "all(peak(fisher_trace), epoch(5))"

    def __call__(self, history: History) -> Firing | None:
        firings = [firing for member in self.members if (firing := member(history))]
        if len(firings) < len(self.members):
            return None
        reason = "; ".join(firing.reason for firing in firings)
        return Firing(
            max(firing.epoch for firing in firings),
            max(firing.marked_epoch for firing in firings),
            reason,
        )
