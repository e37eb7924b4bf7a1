"""A study on disk: a workdir whose members have a directory each, and say there how far they
are."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from earlyprune_jax.grid import claims, identity, plan
from earlyprune_jax.grid.claims import Busy
from earlyprune_jax.grid.members import Comparison, Fork, Member, Run, Trunk, trunk_of
from earlyprune_jax.metrics import Metric
from earlyprune_jax.records import RunRecords, read_json
from earlyprune_jax.spec import RunSpec, Setting
from earlyprune_jax.training.checkpoint import CheckpointStore
from earlyprune_jax.training.primary_files import PrimaryRecords, PrimaryStore
from earlyprune_jax.validate import expected, shortened

AnyMember = TypeVar("AnyMember", bound=Member)


@dataclasses.dataclass(frozen=True)
class Study:
    """A spec and the workdir that holds its members, those of earlier grids among them.

    Where several processes train one run, the workdir is process 0's, and every method is called by
    all of them, or within `hosts.on_primary`.
    """

    spec: RunSpec
    workdir: Path

    def primary(self) -> Metric:
        """The metric that forks are compared by, as the workdir's study.json says."""
        held = read_json(self.workdir / "study.json") or {}
        named = (metric for metric in held.get("metrics", ()) if metric["name"] == held["primary"])
        return Metric.from_json(next(named))

    def at(self, setting: Setting) -> RunSpec:
        """The spec of one setting."""
        return self.spec.at(setting)

    def records(self, member: Member) -> RunRecords:
        """What a member has written."""
        return PrimaryRecords(self.workdir / identity.directory(self.spec, member))

    def store(self, run: Run) -> CheckpointStore:
        """A run's checkpoints."""
        return PrimaryStore(self.workdir / identity.directory(self.spec, run) / "checkpoints")

    def unended(self, members: Iterable[Member]) -> list[Member]:
        """Those that have no result yet."""
        return [member for member in members if not self.records(member).has_ended()]

    def left(self, members: Iterable[AnyMember]) -> list[AnyMember]:
        """Those that another session would work on: without a result, or with one to be
        forgotten."""
        return [member for member in members if self._is_left(member)]

    def _is_left(self, member: Member) -> bool:
        result = self.records(member).result()
        return result is None or result["status"] == "failed" or bool(result.get("for_now"))

    def statuses(self, members: Iterable[Member]) -> list[str]:
        """How each has ended; unfinished where it has not."""
        results = (self.records(member).result() for member in members)
        return ["unfinished" if result is None else result["status"] for result in results]

    def is_ready(self, member: Member) -> bool:
        """Whether what a member starts from is there."""
        if isinstance(member, Trunk):
            return True
        if isinstance(member, Comparison):
            return all(self.records(fork).has_ended() for fork in member.forks())
        trunk = trunk_of(member)
        if self.records(trunk).has_ended():
            return True
        # A fork need not wait for the end of its trunk, only for its checkpoint.
        return isinstance(member, Fork) and self.store(trunk).has(member.fork_epoch)

    def forget_failures(self, members: Iterable[Member]) -> None:
        """Lets members run again that failed, or were skipped for want of one that failed.

        One that another process holds is left to it.
        """
        for member in self.left(members):
            records = self.records(member)
            if records.has_ended():
                with contextlib.suppress(Busy), claims.held_if_free(records.directory):
                    # Looked at again: it may have been tried, and finished, by another process
                    # since.
                    if self._is_left(member):
                        records.forget_result()

    def check(self) -> list[str]:
        """Forks from epochs that a finished trunk of an earlier, smaller grid did not keep."""
        if self.spec.fork.when == "trigger":
            return []
        problems = []
        trunks = {trunk_of(member) for member in plan.members(self.spec)}
        for trunk in sorted(trunks, key=lambda one: identity.directory(self.spec, one)):
            lost = self._lost_epochs(trunk)
            if lost:
                where = self.workdir / identity.directory(self.spec, trunk)
                allowed = f"to be among the checkpoints that {where} kept"
                remedy = (
                    f"Kept: {self.store(trunk).epochs()}. Fork there, or delete that directory and set "
                    "train.keep_checkpoints=all: the trunk is then trained again."
                )
                problems.append(expected("fork.epochs", tuple(lost), allowed, remedy))
        return shortened(problems)

    def _lost_epochs(self, trunk: Trunk) -> list[int]:
        records = self.records(trunk)
        described = records.description()
        kept = described.get("kept_epochs") if described else None
        if kept is None:
            return []
        on_disk, reached = set(self.store(trunk).epochs()), len(records.epochs())
        # The state before training is a function of the seed.
        on_disk.add(0)
        lost = set(range(reached)) - on_disk - set(kept)
        return sorted(lost & self._fork_epochs_left(trunk)) if lost else []

    def _fork_epochs_left(self, trunk: Trunk) -> set[int]:
        """From which epochs of a trunk forks are still to start."""
        forks = (
            one
            for one in plan.members(self.spec)
            if isinstance(one, Fork) and trunk_of(one) == trunk
        )
        epochs: set[int] = set()
        for fork in forks:
            if fork.fork_epoch not in epochs and self._is_left(fork):
                epochs.add(fork.fork_epoch)
        return epochs


def free_bytes(workdir: Path) -> int:
    """What is free on the disk that a workdir is on, or will be."""
    existing = next(
        path for path in (workdir.absolute(), *workdir.absolute().parents) if path.exists()
    )
    return shutil.disk_usage(existing).free


def described_trunk(
    spec: RunSpec, trunk: Trunk, num_epochs: int, of_data: Mapping[str, Any], budget_file: str
) -> dict[str, Any]:
    """What run.json says of a trunk: checkpoints that stay, data, and the signals' budget, beside
    the rest.

    Args:
        spec: of the study.
        trunk: of one setting and seed.
        num_epochs: it trains.
        of_data: the digest of its source, `data_sha256`, and what was computed from it.
        budget_file: where it says how much of each signal is measured, relative to the workdir.
    """
    kept = plan.kept_epochs(spec)
    return identity.described(spec, trunk, 0, num_epochs) | {
        "kept_epochs": None if kept is None else sorted(kept),
        **of_data,
        "signal_budget": budget_file,
    }
