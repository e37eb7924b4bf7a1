"""A study on disk: a workdir whose members have a directory each, and say there how far they are.

Wanted by now are all members of the grid, or those of the cells that a search asks for.
"""

import contextlib
import dataclasses
import functools
import itertools
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from earlyprune_jax import storage
from earlyprune_jax.grid import members, plan
from earlyprune_jax.grid.locks import RunLocks, held
from earlyprune_jax.grid.members import Comparison, Fork, Member, Run, Trunk, trunk_of
from earlyprune_jax.grid.plan import Cell, Curve
from earlyprune_jax.grid.search import wanted_cells
from earlyprune_jax.metrics import Metric
from earlyprune_jax.records import (
    BUDGET_REMEDY,
    FOLDERS,
    STUDY,
    read_of_study,
    write_of_study,
)
from earlyprune_jax.run_records import RunRecords
from earlyprune_jax.spec import RunSpec, Setting
from earlyprune_jax.training.checkpoint import CheckpointStore
from earlyprune_jax.training.multihost import on_primary, primary_only
from earlyprune_jax.validate import problems_of

BUDGETS = "signal_budgets"
"""The folder of what signals may cost."""
MOST_ATTEMPTS = 5
"""After so many deaths of processes at one epoch of a member, the member has failed."""

AnyMember = TypeVar("AnyMember", bound=Member)


@dataclasses.dataclass(frozen=True)
class Study:
    """A spec and the workdir that holds its members, those of earlier grids among them.

    Where several processes train one run, the workdir is that of process 0.
    """

    spec: RunSpec
    workdir: Path

    def primary(self) -> Metric:
        """Returns the metric that forks are compared by, as the workdir's study.json says."""
        study = read_of_study(self.workdir, STUDY) or {}
        named = (metric for metric in study["metrics"] if metric["name"] == study["primary"])
        return Metric(**next(named))

    def at(self, setting: Setting) -> RunSpec:
        """Returns the spec of one setting."""
        return self.spec.at(setting)

    def budget(self, name: str, made: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Reads a file of signal_budgets/; what is made is written, unless another process has.

        Returns:
            What the file holds; None if there is none and nothing is made.
        """
        path = f"{BUDGETS}/{name}"
        with contextlib.nullcontext() if made is None else held(self.workdir / BUDGETS):
            written = read_of_study(self.workdir, path, remedy=BUDGET_REMEDY)
            if written is None and made is not None:
                write_of_study(self.workdir, path, made)
        return written or made

    @functools.cached_property
    def _directories(self) -> dict[Member, Path]:
        return {}

    def directory(self, member: Member) -> Path:
        """Returns the directory of a member."""
        if member not in self._directories:
            self._directories[member] = self.workdir / members.directory(self.spec, member)
        return self._directories[member]

    def wanted_members(self) -> list[Member]:
        """Lists the members wanted by now; a search may want more once these have ended."""
        spec = self.spec
        if spec.fork.search == "all":
            return plan.members(spec)
        curves = itertools.product(spec.settings(), plan.curves(spec))
        return plan.members(spec, {curve: self._searched_cells(*curve) for curve in curves})

    def _searched_cells(self, setting: Setting, curve: Curve) -> list[Cell]:
        spec, scores = self.spec, {}
        for cell in itertools.product(spec.fork.epochs, spec.pruning.sparsities):
            forks = [
                run
                for seed in spec.train.seeds
                for run in plan.replicates(spec, setting, seed, cell, curve)
                if isinstance(run, Fork)
            ]
            statuses = set(self.statuses(forks))
            if "unfinished" not in statuses:
                scores[cell] = self._mean_score(forks) if statuses == {"finished"} else None
        return wanted_cells(spec.fork.epochs, spec.pruning.sparsities, scores, spec.fork.max_cells)

    def _mean_score(self, forks: Sequence[Fork]) -> float:
        """Averages the primary metric on validation, larger = better."""
        primary = self.primary()
        column = primary.column("validation")
        values = [self.records(fork).epochs()[-1][column] for fork in forks]
        return primary.sign * statistics.fmean(values)

    def records(self, member: Member) -> RunRecords:
        """Returns what a member has written."""
        return primary_only(RunRecords(self.directory(member)))

    def store(self, run: Run) -> CheckpointStore:
        """Returns a run's checkpoints."""
        return primary_only(CheckpointStore(self.directory(run) / "checkpoints"))

    def unended(self, planned: Iterable[Member]) -> list[Member]:
        """Keeps those that have no result yet."""
        begun = self._begun_kinds()
        return [
            member
            for member in planned
            if member.kind not in begun or not self.records(member).has_ended()
        ]

    def left(self, planned: Iterable[AnyMember]) -> list[AnyMember]:
        """Keeps those that another session would work on: without a result, failed, or skipped."""
        begun = self._begun_kinds()
        return [member for member in planned if member.kind not in begun or self._is_left(member)]

    def _begun_kinds(self) -> set[str]:
        """Says of which kinds of members there are any: in a new workdir nobody need look for each
        of thousands."""

        def begun() -> set[str]:
            with storage.using(self.workdir):
                return {kind for kind, name in FOLDERS.items() if (self.workdir / name).is_dir()}

        return on_primary(begun)

    def _is_left(self, member: Member) -> bool:
        result = self.records(member).result()
        return result is None or result["status"] == "failed" or bool(result.get("for_now"))

    def statuses(self, planned: Iterable[Member]) -> list[str]:
        """Says how each has ended; unfinished where it has not."""
        begun = self._begun_kinds()
        results = (
            self.records(member).result() if member.kind in begun else None for member in planned
        )
        return ["unfinished" if result is None else result["status"] for result in results]

    def is_ready(self, member: Member) -> bool:
        """Tells whether what a member starts from is there."""
        if isinstance(member, Trunk):
            return True
        if isinstance(member, Comparison):
            return all(self.records(fork).has_ended() for fork in member.forks())
        trunk = trunk_of(member)
        if self.records(trunk).has_ended():
            return True
        # A fork need not wait for the end of its trunk, only for its checkpoint.
        return member.fork_epoch is not None and self.store(trunk).has(member.fork_epoch)

    def mend(self, member: Member, say: Callable[[str], None]) -> None:
        """Sets damaged records of a member aside, whose lock this process holds.

        The member then goes on from what is sound; see `RunRecords.mend`.
        """
        for problem in self.records(member).mend():
            say(f"{problem} Here the file is set aside, as NAME.damaged, and made again.")

    def mend_ended(self, planned: Iterable[Member], say: Callable[[str], None]) -> None:
        """Does so with members that have ended, which then have not; those of others' are left."""
        for member in planned:
            records = self.records(member)
            if records.has_ended() and problems_of(records.read):
                with RunLocks() as run_locks:
                    if run_locks.take(records.directory):
                        self.mend(member, say)

    def forget_failures(self, planned: Iterable[Member]) -> None:
        """Lets members run again that failed, or were skipped for want of one that failed.

        One that another process holds is left to it.
        """
        for member in self.left(planned):
            records = self.records(member)
            if records.has_ended():
                with RunLocks() as locks:
                    # Looked at again: another process may have finished it since.
                    if locks.take(records.directory) and self._is_left(member):
                        records.forget_result()
