"""Locks that say which process works on a member; the kernel releases them when their holder dies.

No process knows of the others. Whoever takes a member's lock may train it, and nobody else can. A
holder that is killed leaves the lock free and its files sound, so the next one goes on from there.
"""

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from earlyprune_jax import records
from earlyprune_jax.validate import unexpected

MOST_ATTEMPTS = 5
"""After so many deaths of processes at one epoch of a member, the member has failed."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Locked(Exception):
    """What is needed is held by another process; later it may be free."""


class RunLocks:
    """The members that this process holds.

    Example:
        >>> import tempfile
        >>> mine, other, directory = RunLocks(), RunLocks(), Path(tempfile.mkdtemp()) / "run"
        >>> mine.take(directory), other.take(directory)
        (True, False)
        >>> mine.release()
        >>> other.take(directory)
        True
        >>> other.release()
    """

    def __init__(self) -> None:
        self._files: list[IO[str]] = []

    def take(self, directory: Path) -> bool:
        """Locks a directory, and makes it if need be; returns False where another process holds
        it."""
        file = _open(directory)
        if not _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB, directory):
            file.close()
            return False
        self._files.append(file)
        return True

    def release(self) -> None:
        """Releases all."""
        for file in self._files:
            file.close()
        self._files.clear()


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Holds a directory's lock, after waiting for it."""
    with _open(directory) as file:
        _lock(file, fcntl.LOCK_EX, directory)
        yield


@contextlib.contextmanager
def held_if_free(directory: Path) -> Iterator[None]:
    """Holds a directory's lock.

    Raises:
        Locked: another process holds it.
    """
    locks = RunLocks()
    if not locks.take(directory):
        raise Locked(str(directory))
    try:
        yield
    finally:
        locks.release()


def has_attempts(directory: Path) -> bool:
    """Tells whether a process works on a member now, or has died working on it."""
    return (directory / "attempts.json").is_file()


def attempt(directory: Path, num_epochs: int) -> int:
    """Notes that a member is begun with so many epochs on record.

    A count that grows while the epochs stay the same tells of a member that kills its process.

    Returns:
        How often it has been begun there, in a row.

    Example:
        >>> import tempfile
        >>> directory = Path(tempfile.mkdtemp())
        >>> attempt(directory, 0), attempt(directory, 0), attempt(directory, 3)
        (1, 2, 1)
    """
    file = directory / "attempts.json"
    last = records.read_json(file) or {}
    count = last.get("count", 0) + 1 if last.get("num_epochs") == num_epochs else 1
    records.write_json(file, {"num_epochs": num_epochs, "count": count})
    return count


def forget_attempts(directory: Path) -> None:
    """Notes that a member was left in an orderly way."""
    (directory / "attempts.json").unlink(missing_ok=True)


def _open(directory: Path) -> IO[str]:
    directory.mkdir(parents=True, exist_ok=True)
    return (directory / ".lock").open("w")


def _lock(file: IO[str], operation: int, directory: Path) -> bool:
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        remedy = "Mount it with locks (for NFS without nolock), or choose another --workdir."
        allowed = f"to be on a file system with file locks ({error.strerror})"
        raise unexpected("--workdir", str(directory), allowed, remedy) from error
    return True
