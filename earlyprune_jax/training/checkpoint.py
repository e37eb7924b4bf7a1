"""Checkpoints of a run, one directory an epoch, through Orbax; nothing else imports Orbax.

A checkpoint appears whole or not at all (Orbax writes beside and renames). Every leaf's
bytes enter a SHA-256 that is stored with it and verified on restore, because a damaged page
would otherwise load silently wrong.
"""

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as orbax
from orbax.checkpoint import v1 as ocp

from earlyprune_jax.pruning.trees import path_name
from earlyprune_jax.validate import expected


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or of another network; the message says which and what to
    do."""


def digest(tree: Any) -> str:
    """Computes the SHA-256 over every leaf's path, type, shape and bytes, hexadecimal.

    Example:
        >>> digest({"a": np.zeros(2)}) == digest({"a": np.zeros(2)}) != digest({"b": np.zeros(2)})
        True
    """
    total = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        total.update(f"{path_name(path)} {array.dtype} {np.shape(leaf)}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


class CheckpointStore:
    """The checkpoints of one run, by epoch; the process that calls is the only one that writes.

    Example:
        >>> import tempfile
        >>> store = CheckpointStore(Path(tempfile.mkdtemp()))
        >>> seconds = store.save(3, {"w": np.arange(2.0)})
        >>> store.epochs(), store.restore(3, {"w": np.zeros(2)})["w"].tolist()
        ([3], [0.0, 1.0])
    """

    def __init__(self, directory: Path):
        # Orbax takes absolute paths only.
        self.directory = directory.absolute()

    def epochs(self) -> list[int]:
        """Lists the epochs saved, ascending; interrupted saves are not among them."""
        names = (entry.name for entry in self.directory.glob("*"))
        return sorted(int(name) for name in names if name.isdigit())

    def has(self, epoch: int) -> bool:
        """Tells whether there is a whole checkpoint of an epoch, sound or not."""
        return self._path(epoch).is_dir()

    def save(self, epoch: int, state: Any) -> float:
        """Writes a pytree of arrays as the checkpoint of `epoch`; replaces an older one.

        Returns:
            The seconds it took.
        """
        started = time.monotonic()
        tree = jax.device_get(_as_dict(state))
        self.directory.mkdir(parents=True, exist_ok=True)
        _write(str(self._path(epoch)), tree, {"sha256": digest(tree)})
        return time.monotonic() - started

    def restore(self, epoch: int, like: Any) -> Any:
        """Reads a checkpoint into the structure of `like`, whose shapes and types it must have.

        Raises:
            CheckpointError: absent, unreadable, damaged, or of another structure.
        """
        path = self._path(epoch)
        if not path.is_dir():
            saved = f"Saved: {self.epochs()}."
            raise CheckpointError(expected("checkpoint", str(path), "to exist", saved))
        template = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in _as_dict(like).items()}
        tree = _read(path, template)
        return jax.tree.unflatten(jax.tree.structure(like), [tree[name] for name in template])

    def sha256(self, epoch: int) -> str | None:
        """Reads the digest stored with a checkpoint; None if there is none to be read."""
        try:
            return _stored(self._path(epoch))["sha256"]
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def discard_interrupted(self) -> None:
        """Deletes what a save that was killed left behind."""
        for entry in self.directory.glob("*"):
            if not entry.name.isdigit():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def keep_only(self, epochs: Collection[int]) -> None:
        """Deletes the checkpoints of all other epochs."""
        for epoch in set(self.epochs()).difference(epochs):
            shutil.rmtree(self._path(epoch))

    def _path(self, epoch: int) -> Path:
        return self.directory / str(epoch)


def _write(path: str, tree: dict[str, np.ndarray], custom_metadata: dict[str, Any]) -> None:
    if jax.process_count() == 1:
        ocp.save(path, tree, overwrite=True, custom_metadata=custom_metadata)
        return
    # Orbax v1 has all processes compare their paths whatever its options say; the older interface,
    # whose checkpoints v1 reads, leaves the others alone.
    options = orbax.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"process_{jax.process_index()}",
    )
    state = orbax.PyTreeCheckpointHandler(multiprocessing_options=options)
    handler = orbax.CompositeCheckpointHandler(
        composite_options=orbax.CompositeOptions(multiprocessing_options=options), state=state
    )
    checkpointer = orbax.Checkpointer(handler, multiprocessing_options=options)
    with contextlib.closing(checkpointer):
        arguments = orbax.args.Composite(state=orbax.args.PyTreeSave(tree))
        checkpointer.save(path, arguments, force=True, custom_metadata=custom_metadata)


def _alone() -> contextlib.AbstractContextManager[Any]:
    """Within it Orbax v1 waits for no other process."""
    if jax.process_count() == 1:
        return contextlib.nullcontext()
    context = ocp.Context()
    context.multiprocessing.primary_host = jax.process_index()
    context.multiprocessing.active_processes = {jax.process_index()}
    context.multiprocessing.barrier_sync_key_prefix = f"process_{jax.process_index()}"
    return context


def _stored(path: Path) -> dict[str, Any]:
    """What `save` has stored beside the arrays, from the file in which Orbax keeps it.

    Orbax's own `metadata` opens every array, and loses a megabyte of memory each time.
    """
    return json.loads((path / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]


def _read(path: Path, template: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    remedy = "Runs go back to an older one; delete the directory of a run that has ended."
    try:
        wanted = _stored(path)["sha256"]
        with _alone():
            tree = ocp.load(str(path), template)
    except Exception as error:  # Orbax raises many types; the truth is often in the cause.
        problem = expected("checkpoint", str(path), "to be readable", remedy)
        raise CheckpointError(f"{problem} Orbax: {error.__cause__ or error}") from error
    # Orbax casts a differing type silently: then the digest is another. It takes any shape.
    shapes = {name: leaf.shape for name, leaf in template.items()}
    if digest(tree) != wanted or {name: np.shape(leaf) for name, leaf in tree.items()} != shapes:
        allowed = "to match its stored SHA-256: it is damaged, or of another network"
        raise CheckpointError(expected("checkpoint", str(path), allowed, remedy))
    return tree


def _as_dict(tree: Any) -> dict[str, Any]:
    """Leaves by path: readable by plain Orbax without this package's classes."""
    return {
        path_name(path).replace("/", "."): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }
