"""How far a study is, and how long the rest of it will take."""

import contextlib
import dataclasses
import math
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

from earlyprune_jax.grid.members import Comparison, Member, Trunk, label
from earlyprune_jax.grid.study import Study
from earlyprune_jax.metrics import duration
from earlyprune_jax.validate import InvalidInput

LOOKING_SHARE = 0.05
"""The part of the time that may be spent on looking how far all members are."""


@dataclasses.dataclass
class _Run:
    """What is known of one member.

    Attributes:
        kind: "dense" or "pruned".
        planned: epochs it trains, at most.
        epochs: that are on record, or were told of.
        place: among those that will train no more, from 1; 0 = it has not ended.
    """

    kind: str
    planned: int
    epochs: set[int] = dataclasses.field(default_factory=set)
    place: int = 0

    @property
    def left(self) -> int:
        return 0 if self.place else max(self.planned - len(self.epochs), 0)


class Pace:
    """How far a study is, by this process and others, and how long the rest will take.

    An epoch of a trunk takes longer than one of a fork by what its signals take. Time left is the
    work left over the work done since the first epoch was begun, times the time since then. Epochs
    that a run will not train, because a trigger has fired or it has diverged, are neither.

    Args:
        study: whose members are looked at again and again, for other processes train them too.

    Attributes:
        num_ended: members that will train no more.
        left: epochs left to train, "dense" and "pruned"; the most there may be, where a trigger
            decides.
        done: the same, trained since this session has begun.
    """

    def __init__(self, study: Study):
        self._study, self._next_look, self._started = study, -math.inf, math.inf
        self._runs: dict[str, _Run] = {}
        self.num_ended = 0
        self._told: Counter[str] = Counter()
        self._train_seconds = self._signal_seconds = 0.0
        self._before: Counter[str] = Counter()
        self._look()
        self._before = self._trained()
        self._sum_up()

    @property
    def num_members(self) -> int:
        """Counts the members that are wanted by now."""
        return len(self._runs)

    @property
    def num_epochs(self) -> int:
        """Counts the epochs of this session, trained and left."""
        return self.done.total() + self.left.total()

    def note_epoch(self, name: str, entry: dict[str, Any]) -> None:
        """Notes an epoch that was trained.

        Args:
            name: the label of its run.
            entry: its record.
        """
        measuring = sum((entry.get("signal_seconds") or {}).values())
        self._started = min(self._started, time.monotonic() - entry["seconds"])
        self._train_seconds += entry["seconds"] - measuring
        self._signal_seconds += measuring
        run = self._run(name)
        self._told[run.kind] += 1
        run.epochs.add(entry["epoch"])
        self._look_again()

    def note_end(self, name: str) -> int:
        """Notes that a member has ended, by its label.

        Returns:
            Its place among all that have ended, from 1.
        """
        run = self._run(name)
        self._end(run)
        self._look_again()
        return run.place

    def seconds_left(self) -> float | None:
        """Estimates how long the rest will take; None before the first epoch."""
        done = self._work(self.done)
        if not done:
            return None
        return (time.monotonic() - self._started) * self._work(self.left) / done

    def _work(self, epochs: Counter[str]) -> float:
        """Returns the seconds that so many epochs would take here, one after another."""
        train = self._train_seconds / max(self._told.total(), 1)
        signals = self._signal_seconds / max(self._told["dense"], 1)
        return epochs["dense"] * (train + signals) + epochs["pruned"] * train

    def _run(self, name: str) -> _Run:
        if name not in self._runs:
            # A search wants more members from round to round.
            self._next_look = -math.inf
            self._look_again()
        return self._runs.setdefault(name, _Run("pruned", 0))

    def _end(self, run: _Run) -> None:
        if not run.place:
            self.num_ended += 1
            run.place = self.num_ended

    def _look_again(self) -> None:
        """Looks how far all members are, unless that would take too much of the time."""
        if time.monotonic() >= self._next_look:
            # What fails here is nothing that a run has done; the end will tell if it lasts.
            with contextlib.suppress(OSError, InvalidInput):
                self._look()
        self._sum_up()

    def _look(self) -> None:
        began, is_first, members = time.monotonic(), not self._runs, self._study.wanted_members()
        unended = set(self._study.unended(members))
        self._runs |= {
            label(member): self._planned(member)
            for member in members
            if label(member) not in self._runs
        }
        for member in members:
            run, has_ended = self._runs[label(member)], member not in unended
            # What had ended before this session is not read: it trains nothing in it.
            if run.planned and not run.place and not (is_first and has_ended):
                entries = self._study.records(member).epochs()
                run.epochs.update(entry["epoch"] for entry in entries)
            if has_ended:
                self._end(run)
        now = time.monotonic()
        self._next_look = now + (now - began) / LOOKING_SHARE

    def _planned(self, member: Member) -> _Run:
        kind = "dense" if isinstance(member, Trunk) else "pruned"
        if isinstance(member, Comparison):
            return _Run(kind, 0)
        return _Run(kind, member.num_epochs(self._study.at(member.setting)))

    def _trained(self) -> Counter[str]:
        return _sums((run.kind, len(run.epochs)) for run in self._runs.values())

    def _sum_up(self) -> None:
        self.left = _sums((run.kind, run.left) for run in self._runs.values())
        self.done = self._trained() - self._before


def _sums(counts: Iterable[tuple[str, int]]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for kind, count in counts:
        sums[kind] += count
    return sums


def time_left(seconds: float | None) -> str:
    """Writes an estimate, and nothing at the end.

    Example:
        >>> time_left(90), time_left(None), time_left(0)
        ('90 s left', 'time left unknown', '')
    """
    if seconds is None:
        return "time left unknown"
    return f"{duration(seconds)} left" if seconds > 0 else ""
