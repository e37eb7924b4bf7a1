"""Checkpoints of a run, one directory an epoch, through Orbax; nothing else imports Orbax.

A checkpoint appears whole or not at all (Orbax writes beside and renames). Run, epoch and every
leaf's bytes enter a SHA-256 that is stored with it and verified on restore, because a damaged page
or a checkpoint of another place would otherwise load silently wrong.

A `checkpoints` that is a link is refused, as is one of an epoch: two runs whose links lead to one
place would delete each other's. Link the whole workdir to another disk instead.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as orbax
from orbax.checkpoint import v1 as ocp

from earlyprune_jax import storage
from earlyprune_jax.pruning.trees import path_name
from earlyprune_jax.run_records import RunRecords
from earlyprune_jax.training import execution
from earlyprune_jax.validate import expected

EPOCH = re.compile("0|[1-9][0-9]*")
"""The name of a checkpoint."""
INTERRUPTED = re.compile(rf"({EPOCH.pattern})\.orbax-checkpoint-tmp(-[0-9]+)?")
"""What Orbax calls one that it writes, with a time in its earlier versions."""
LONGEST_NAME, LONGEST_PATH = 255, 3600
"""In bytes, of a workdir: Linux allows 4096 with what a run lays below."""
LOGGERS = ("absl", "asyncio")
"""To which Orbax's threads tell their errors."""
REMEDY = "Runs go back to an older one; delete the directory of a run that has ended."


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, or of another network or run; the message says which and
    what to do."""


def unusable_path(directory: Path) -> str:
    """Says what a directory's path must be for checkpoints below it; "" if it is that.

    Orbax takes a path for a pattern of names, or for one of a cloud where it contains gs:/.

    Example:
        >>> unusable_path(Path("runs/digits"))
        ''
        >>> unusable_path(Path("runs/lr[1]"))
        'to have none of * ? [ ] \\\\ in its path, and no name that ends in gs:'
    """
    path = str(directory.absolute())
    try:
        names = [len(name) for name in path.encode().split(b"/")]
    except UnicodeEncodeError:
        return "to be a path in UTF-8"
    if "\0" in path:
        return "to have no NUL in its path"
    if max(names) > LONGEST_NAME or sum(names) + len(names) > LONGEST_PATH:
        longest = f"names of {LONGEST_NAME} bytes and a path of {LONGEST_PATH}"
        return f"to have {longest} at most"
    if re.search(r"[*?\[\]\\]|gs:/", f"{path}/"):
        return r"to have none of * ? [ ] \ in its path, and no name that ends in gs:"
    return ""


def digest(tree: Any, name: str = "") -> str:
    """Computes the SHA-256 over a name and every leaf's path, type, shape and bytes, hexadecimal.

    Example:
        >>> digest({"a": np.zeros(2)}) == digest({"a": np.zeros(2)}) != digest({"b": np.zeros(2)})
        True
    """
    total = hashlib.sha256(name.encode())
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        total.update(f"{path_name(path)} {array.dtype} {np.shape(leaf)}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


class CheckpointStore:
    """The checkpoints of one run, by epoch; the process that calls is the only one that writes.

    Args:
        directory: in that of the run, by whose name and folder, as trunks/NAME, a checkpoint knows
            whose it is.

    Example:
        >>> import tempfile
        >>> store = CheckpointStore(Path(tempfile.mkdtemp()) / "trunks" / "run" / "checkpoints")
        >>> seconds = store.save(3, {"w": np.arange(2.0)})
        >>> store.epochs(), store.restore(3, {"w": np.zeros(2)})["w"].tolist()
        ([3], [0.0, 1.0])
    """

    def __init__(self, directory: Path):
        # Orbax takes absolute paths only.
        self.directory = directory.absolute()
        self._run = "/".join(self.directory.parts[-3:-1])
        self._records = RunRecords(self.directory.parent)

    def epochs(self) -> list[int]:
        """Lists the epochs saved, ascending; interrupted saves are not among them."""
        return sorted(int(entry.name) for entry in self._entries() if EPOCH.fullmatch(entry.name))

    def has(self, epoch: int) -> bool:
        """Tells whether there is a whole checkpoint of an epoch, sound or not."""
        with storage.using(path := self._path(epoch)):
            return path.is_dir()

    def save(self, epoch: int, state: Any) -> float:
        """Writes a pytree of arrays as the checkpoint of `epoch`; replaces an older one.

        Returns:
            The seconds it took.

        Raises:
            StorageError: it could not be written; what was is deleted.
            UnusableFile: a link is in the way.
        """
        started = time.monotonic()
        tree = jax.device_get(_as_dict(state))
        path = self._own(epoch)
        storage.make_directory(self.directory)
        temporary = path.with_name(f"{path.name}.orbax-checkpoint-tmp")
        storage.refuse_link(temporary)
        about = self._about(epoch)
        try:
            with storage.using(path), _quiet():
                _write(str(path), tree, about | {"sha256": digest(tree, _name(about))})
                # Where Orbax cannot list its parts it leaves them apart, and says nothing.
                parts = path.glob("*/ocdbt.process_*")
                if not all((part.parent / "manifest.ocdbt").exists() for part in parts):
                    raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        except storage.StorageError:
            # Threads may still be at it: then it goes when the run is resumed.
            with contextlib.suppress(OSError, storage.UnusableFile):
                storage.remove_directory(temporary)
            raise
        return time.monotonic() - started

    def restore(self, epoch: int, like: Any, *, whole: bool = True) -> Any:
        """Reads a checkpoint into the structure of `like`, whose shapes and types it must have.

        Args:
            epoch: of the checkpoint.
            like: a pytree of arrays, or of their shapes and types.
            whole: False = `like` may have a part of the leaves, such as a network's variables
                without what they were trained by.

        Raises:
            CheckpointError: absent, unreadable, damaged, of another structure, epoch or run.
            StorageError: the disk, or a limit of the system, is to blame.
            UnusableFile: it is a link, or the user may not read it.
        """
        path = self._own(epoch)
        if not self.has(epoch):
            saved = f"Saved: {self.epochs()}."
            raise CheckpointError(expected("checkpoint", str(path), "to exist", saved))
        template = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in _as_dict(like).items()}
        tree = self._read(epoch, template if whole else None)
        # Orbax takes any shape.
        found = {name: np.asarray(tree[name]) for name in template if name in tree}
        if _outlines(found) != _outlines(template):
            raise _damaged(path, "to have the shapes of this network")
        return jax.tree.unflatten(jax.tree.structure(like), list(found.values()))

    def problem(self, epoch: int) -> str | None:
        """Checks a checkpoint without knowing its network: bytes, run and epoch.

        Returns:
            What is wrong with it; None if nothing is.

        Raises:
            StorageError, UnusableFile: as of `restore`.
        """
        try:
            self._read(epoch, None)
        except CheckpointError as error:
            return str(error)
        return None

    def sha256(self, epoch: int) -> str | None:
        """Reads the digest stored with a checkpoint; None if there is none to be read."""
        try:
            return _stored(self._path(epoch))["sha256"]
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def discard_interrupted(self) -> None:
        """Deletes what a save that was killed left behind, and nothing else.

        Raises:
            UnusableFile: the directory, or what goes by the name of such a save, is a link.
        """
        for entry in self.interrupted():
            storage.remove_directory(entry)

    def interrupted(self) -> list[Path]:
        """Lists what saves that were killed have left behind.

        Raises:
            UnusableFile: as of `discard_interrupted`.
        """
        storage.refuse_link(self.directory)
        found = [entry for entry in self._entries() if INTERRUPTED.fullmatch(entry.name)]
        for entry in found:
            storage.refuse_link(entry)
        return found

    def keep_only(self, epochs: Collection[int]) -> None:
        """Deletes the checkpoints of all other epochs."""
        for epoch in set(self.epochs()).difference(epochs):
            storage.remove_directory(self._own(epoch))

    def _about(self, epoch: int) -> dict[str, Any]:
        """Says whose a checkpoint is; a run of the same name may be of other data elsewhere."""
        return {"run": self._run, "epoch": epoch, "data": self._records.data() or ""}

    def _entries(self) -> list[Path]:
        with storage.using(self.directory), contextlib.suppress(FileNotFoundError):
            return list(self.directory.iterdir())
        return []

    def _path(self, epoch: int) -> Path:
        return self.directory / str(epoch)

    def _own(self, epoch: int) -> Path:
        """Returns a checkpoint's path, of which neither the last nor the last but one is a link."""
        path = self._path(epoch)
        storage.refuse_link(self.directory)
        storage.refuse_link(path)
        return path

    def _read(self, epoch: int, template: dict[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        path, about = self._own(epoch), self._about(epoch)
        execution.require_jax()  # Orbax needs it: where it fails no checkpoint is to blame.
        try:
            with storage.using(path), _alone(), _quiet():
                if not all(each.is_file() or each.is_dir() for each in path.rglob("*")):
                    raise ValueError("It holds a pipe, or a link to nothing.")
                stored = _stored(path)
                found, wanted = {name: stored.get(name) for name in about}, stored["sha256"]
                tree = ocp.load(str(path), template)
                sha256 = digest(tree, _name(about))
        except (storage.UnusableFile, storage.StorageError):
            raise
        except Exception as error:  # Orbax raises many types; the truth is often in the cause.
            problem = _damaged(path, "to be readable")
            raise CheckpointError(f"{problem} Orbax: {error.__cause__ or error}") from error
        if found != about:
            raise _damaged(path, f"to be {_name(about)}; it is {_name(found)}")
        # Orbax casts a differing type silently: then the digest is another.
        if sha256 != wanted:
            raise _damaged(path, "to match its stored SHA-256: damaged, or of another network")
        return tree


def _outlines(leaves: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: (leaf.shape, leaf.dtype) for name, leaf in leaves.items()}


def _name(about: dict[str, Any]) -> str:
    return f"epoch {about['epoch']} of {about['run']}, data {about['data'] or 'unknown'}"


def _damaged(path: Path, allowed: str) -> CheckpointError:
    return CheckpointError(expected("checkpoint", str(path), allowed, REMEDY))


def _pass_on(told: Any, others: Callable[[Any], Any] = sys.unraisablehook) -> None:
    if str(told.exc_value) != "Event loop is closed":
        others(told)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax's threads from printing, each for itself, what is raised here anyway.

    Not all have ended when it is raised, and some tell when they are collected: after an error they
    stay quiet.
    """
    levels, hook = {log: log.level for log in map(logging.getLogger, LOGGERS)}, sys.unraisablehook
    for log in levels:
        log.setLevel(logging.CRITICAL + 1)
    sys.unraisablehook = _pass_on
    try:
        yield
    except Exception:  # whatever it is, Orbax's threads may still speak of it
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        raise
    for log, level in levels.items():
        log.setLevel(level)
    sys.unraisablehook = hook


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
    held = storage.read_text(path / "_CHECKPOINT_METADATA") or ""
    return json.loads(held)["custom_metadata"]


def _as_dict(tree: Any) -> dict[str, Any]:
    """Leaves by path: readable by plain Orbax without this package's classes."""
    return {
        path_name(path).replace("/", "."): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }
