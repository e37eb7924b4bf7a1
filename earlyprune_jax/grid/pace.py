"""How far a study is, and how long the rest of it will take."""

import contextlib
import math
import time
from collections import Counter
from typing import Any

from earlyprune_jax.grid.members import Comparison, Trunk
from earlyprune_jax.grid.study import Study
from earlyprune_jax.metrics import duration
from earlyprune_jax.validate import InvalidInput

COUNTING_SHARE = 0.05
"""The part of the time that may be spent on looking how far all members are."""


class Pace:
    """How far a study is, by this process and others, and how long the rest will take.

    An epoch of a trunk takes longer than one of a fork by what its signals take. Time left is the
    work left over the work done since the first epoch was begun, times the time since then.

    Args:
        study: whose members are looked at again and again, for other processes train them too.

    Attributes:
        num_members: wanted by now.
        num_ended: of these.
        left: epochs left to train, "dense" and "pruned"; the most there may be, where a trigger
            decides.
        total: the same, as it was at the start of this session.
    """

    def __init__(self, study: Study):
        self._study, self._next_count, self._started = study, -math.inf, math.inf
        self._epochs = Counter(dense=0, pruned=0)
        self._train_seconds = self._signal_seconds = 0.0
        self._count()
        self._before = difference(self._planned, self.left)

    @property
    def total(self) -> Counter[str]:
        return difference(self._planned, self._before)

    def note_epoch(self, entry: dict[str, Any]) -> None:
        """Notes an epoch that was trained here, by its record."""
        signals = entry.get("signal_seconds")
        kind = "pruned" if signals is None else "dense"
        measuring = sum((signals or {}).values())
        self._started = min(self._started, time.monotonic() - entry["seconds"])
        self._train_seconds += entry["seconds"] - measuring
        self._signal_seconds += measuring
        self._epochs[kind] += 1
        self.left[kind] -= 1
        self._recount()

    def note_end(self, result: dict[str, Any]) -> None:
        """Notes how a member has ended."""
        self.num_ended += 1
        expected = self.left
        self._recount()
        if result["status"] != "finished" or "fired" in result:
            # Its other epochs will not be trained: they are not done, but gone.
            self._before.update(difference(expected, self.left))

    def seconds_left(self) -> float | None:
        """Estimates how long the rest will take; None before the first epoch."""
        if not self._epochs.total():
            return None
        done = self._work(difference(self.total, self.left))
        elapsed = time.monotonic() - self._started
        return elapsed * self._work(self.left) / done if done > 0 else None

    def _work(self, epochs: Counter[str]) -> float:
        train = self._train_seconds / self._epochs.total()
        signals = self._signal_seconds / max(self._epochs["dense"], 1)
        return epochs["dense"] * (train + signals) + epochs["pruned"] * train

    def _recount(self) -> None:
        """Looks how far all members are, unless that would take too much of the time."""
        if time.monotonic() >= self._next_count:
            # What fails here is nothing that a run has done; the end will tell if it lasts.
            with contextlib.suppress(OSError, InvalidInput):
                self._count()

    def _count(self) -> None:
        began, study = time.monotonic(), self._study
        members = study.wanted_members()
        unended = set(study.unended(members))
        planned, left = Counter(dense=0, pruned=0), Counter(dense=0, pruned=0)
        for member in members:
            if not isinstance(member, Comparison):
                kind = "dense" if isinstance(member, Trunk) else "pruned"
                num_epochs = member.num_epochs(study.at(member.setting))
                planned[kind] += num_epochs
                if member in unended:
                    left[kind] += num_epochs - len(study.records(member).epochs())
        self._planned, self.left = planned, left
        self.num_members, self.num_ended = len(members), len(members) - len(unended)
        now = time.monotonic()
        self._next_count = now + (now - began) / COUNTING_SHARE


def difference(first: Counter[str], second: Counter[str]) -> Counter[str]:
    """Subtracts counts; unlike `-` it keeps those that are not positive."""
    return Counter({kind: first[kind] - second[kind] for kind in first})


def time_left(seconds: float | None) -> str:
    """Writes an estimate, and nothing at the end.

    Example:
        >>> time_left(90), time_left(None), time_left(0)
        ('90 s left', 'time left unknown', '')
    """
    if seconds is None:
        return "time left unknown"
    return f"{duration(seconds)} left" if seconds > 0 else ""
