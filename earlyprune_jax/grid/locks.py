"""Locks that say which process works on a member; the kernel releases them when their holder dies.

No process knows of the others. Whoever takes a member's lock may train it, and nobody else can. A
holder that is killed leaves the lock free and its files sound, so the next one goes on from there.
"""

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from earlyprune_jax import records
from earlyprune_jax.validate import unexpected

MOST_ATTEMPTS = 5
"""After so many deaths of processes at one epoch of a member, the member has failed."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Locked(Exception):
    """What is needed is held by another process; later it may be free."""


class RunLocks(contextlib.ExitStack):
    """The directories that this process holds, until the `with` block ends, or `close`.

    Example:
        >>> import tempfile
        >>> mine, other, directory = RunLocks(), RunLocks(), Path(tempfile.mkdtemp()) / "run"
        >>> mine.take(directory), other.take(directory)
        (True, False)
        >>> mine.close()
        >>> other.take(directory)
        True
        >>> other.close()
    """

    def take(self, directory: Path, *, waits: bool = False) -> bool:
        """Locks a directory, and makes it if need be.

        Returns:
            False where another process holds it, unless it `waits` until it is free.

        Raises:
            InvalidInput: its file system has no locks.
        """
        directory.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            file = opened.enter_context((directory / ".lock").open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX if waits else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                remedy = "Mount it with locks (for NFS without nolock), or choose another."
                allowed = f"to be on a file system with file locks ({error.strerror})"
                raise unexpected("--workdir", str(directory), allowed, remedy) from error
            self.push(opened.pop_all())
        return True


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Holds a directory's lock, after waiting for it."""
    with RunLocks() as locks:
        locks.take(directory, waits=True)
        yield


def first_written(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """Writes JSON unless another process has done so, and returns what the file holds."""
    with held(path.parent):
        written = records.read_json(path)
        if written is None:
            records.write_json(path, value)
    return written or value


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
