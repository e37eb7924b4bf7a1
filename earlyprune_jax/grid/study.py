"""A study on disk: a workdir whose members have a directory each, and say there how far they
are."""

import dataclasses
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from earlyprune_jax.grid import members
from earlyprune_jax.grid.locks import RunLocks
from earlyprune_jax.grid.members import Comparison, Member, Run, Trunk, trunk_of
from earlyprune_jax.metrics import Metric
from earlyprune_jax.records import RunRecords, read_json
from earlyprune_jax.spec import RunSpec, Setting
from earlyprune_jax.training.checkpoint import CheckpointStore
from earlyprune_jax.training.multihost import primary_only

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
        held = read_json(self.workdir / "study.json") or {}
        named = (metric for metric in held.get("metrics", ()) if metric["name"] == held["primary"])
        return Metric(**next(named))

    def at(self, setting: Setting) -> RunSpec:
        """Returns the spec of one setting."""
        return self.spec.at(setting)

    def directory(self, member: Member) -> Path:
        """Returns the directory of a member."""
        return self.workdir / members.directory(self.spec, member)

    def records(self, member: Member) -> RunRecords:
        """Returns what a member has written."""
        return primary_only(RunRecords(self.directory(member)))

    def store(self, run: Run) -> CheckpointStore:
        """Returns a run's checkpoints."""
        return primary_only(CheckpointStore(self.directory(run) / "checkpoints"))

    def unended(self, planned: Iterable[Member]) -> list[Member]:
        """Keeps those that have no result yet."""
        return [member for member in planned if not self.records(member).has_ended()]

    def left(self, planned: Iterable[AnyMember]) -> list[AnyMember]:
        """Keeps those that another session would work on: without a result, failed, or skipped."""
        return [member for member in planned if self._is_left(member)]

    def _is_left(self, member: Member) -> bool:
        result = self.records(member).result()
        return result is None or result["status"] == "failed" or bool(result.get("for_now"))

    def statuses(self, planned: Iterable[Member]) -> list[str]:
        """Says how each has ended; unfinished where it has not."""
        results = (self.records(member).result() for member in planned)
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


def free_bytes(workdir: Path) -> int:
    """Returns what is free on the disk that a workdir is on, or will be."""
    path = workdir.absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(existing).free
