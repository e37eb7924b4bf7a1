"""A run's records and checkpoints when several processes train it: process 0 alone holds the files.

The classes stand in for what they are named after: what is read reaches all processes, what is
written is written once, and an error is raised in all. Every method is called by all processes.
"""

from collections.abc import Collection
from functools import partial
from typing import Any

import jax
import numpy as np

from earlyprune_jax.records import RunRecords
from earlyprune_jax.training.checkpoint import CheckpointStore
from earlyprune_jax.training.hosts import from_primary, on_primary


class PrimaryRecords(RunRecords):
    """The records of one run directory on process 0's machine.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> records = PrimaryRecords(Path(tempfile.mkdtemp()))
        >>> records.append({"epoch": 1})
        >>> records.epochs()
        [{'epoch': 1}]
    """

    def start(self, identity: dict[str, Any]) -> None:
        """As `RunRecords.start`."""
        on_primary(partial(super().start, identity))

    def epochs(self) -> list[dict[str, Any]]:
        """As `RunRecords.epochs`."""
        return on_primary(super().epochs)

    def append(self, entry: dict[str, Any]) -> None:
        """As `RunRecords.append`, with process 0's entry."""
        on_primary(partial(super().append, entry))

    def truncate(self, num_entries: int) -> None:
        """As `RunRecords.truncate`."""
        on_primary(partial(super().truncate, num_entries))

    def result(self) -> dict[str, Any] | None:
        """As `RunRecords.result`."""
        return on_primary(super().result)

    def has_ended(self) -> bool:
        """As `RunRecords.has_ended`."""
        return on_primary(super().has_ended)

    def description(self) -> dict[str, Any] | None:
        """As `RunRecords.description`."""
        return on_primary(super().description)

    def forget_result(self) -> None:
        """As `RunRecords.forget_result`."""
        on_primary(super().forget_result)

    def finish(self, result: dict[str, Any]) -> None:
        """As `RunRecords.finish`, with process 0's result."""
        on_primary(partial(super().finish, result))


class PrimaryStore(CheckpointStore):
    """The checkpoints of one run on process 0's machine.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> store = PrimaryStore(Path(tempfile.mkdtemp()))
        >>> store.save(3, {"w": np.arange(2.0)})
        >>> store.epochs(), store.restore(3, {"w": np.zeros(2)})["w"].tolist()
        ([3], [0.0, 1.0])
    """

    def epochs(self) -> list[int]:
        """As `CheckpointStore.epochs`."""
        return on_primary(super().epochs)

    def has(self, epoch: int) -> bool:
        """As `CheckpointStore.has`."""
        return on_primary(partial(super().has, epoch))

    def save(self, epoch: int, state: Any) -> None:
        """As `CheckpointStore.save`; the state lies whole on process 0's devices."""
        on_primary(partial(super().save, epoch, state))

    def restore(self, epoch: int, like: Any) -> Any:
        """As `CheckpointStore.restore`: NumPy arrays in every process."""
        read, restore = [], super().restore
        on_primary(lambda: read.append(restore(epoch, like)))
        empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
        return from_primary(read[0] if read else empty)

    def sha256(self, epoch: int) -> str | None:
        """As `CheckpointStore.sha256`."""
        return on_primary(partial(super().sha256, epoch))

    def discard_interrupted(self) -> None:
        """As `CheckpointStore.discard_interrupted`."""
        on_primary(super().discard_interrupted)

    def keep_only(self, epochs: Collection[int]) -> None:
        """As `CheckpointStore.keep_only`."""
        on_primary(partial(super().keep_only, epochs))
