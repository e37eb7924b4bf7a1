"""Which process works on a member: a lock on its directory, which the kernel releases when its
holder dies.

No process knows of the others. Whoever takes a member's lock may train it, and nobody else can; a
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
"""So often a member may cost its process its life at one and the same epoch."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Busy(Exception):
    """What is needed is held by another process; later it may not be."""


class Claim:
    """Members held by this process, until they are released.

    Example:
        >>> import tempfile
        >>> one, other, directory = Claim(), Claim(), Path(tempfile.mkdtemp()) / "run"
        >>> one.take(directory), other.take(directory)
        (True, False)
        >>> one.release()
        >>> other.take(directory)
        True
        >>> other.release()
    """

    def __init__(self) -> None:
        self._files: list[IO[str]] = []

    def take(self, directory: Path) -> bool:
        """Locks a directory, which is made if need be; False where another process holds it."""
        file = _open(directory)
        if not _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB, directory):
            file.close()
            return False
        self._files.append(file)
        return True

    def release(self) -> None:
        """Gives up everything."""
        for file in self._files:
            file.close()
        self._files.clear()


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Holds a directory's lock, after waiting for it as long as need be."""
    with _open(directory) as file:
        _lock(file, fcntl.LOCK_EX, directory)
        yield


@contextlib.contextmanager
def held_if_free(directory: Path) -> Iterator[None]:
    """Holds a directory's lock.

    Raises:
        Busy: another process holds it.
    """
    claim = Claim()
    if not claim.take(directory):
        raise Busy(str(directory))
    try:
        yield
    finally:
        claim.release()


def has_attempts(directory: Path) -> bool:
    """Whether a process that worked on a member has left it in no orderly way, or is at it."""
    return (directory / "attempts.json").is_file()


def attempt(directory: Path, num_epochs: int) -> int:
    """Notes that a member is begun with so many epochs on record; returns how often that has
    happened there.

    A count that grows while the epochs stay the same tells of a member that kills its process.

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
    """The member was left in an orderly way."""
    (directory / "attempts.json").unlink(missing_ok=True)


def _open(directory: Path) -> IO[str]:
    directory.mkdir(parents=True, exist_ok=True)
    return (directory / ".lock").open("w")


def _lock(file: IO[str], how: int, directory: Path) -> bool:
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        remedy = "Mount it with locks (for NFS without nolock), or choose another --workdir."
        allowed = f"to be on a file system with file locks ({error.strerror})"
        raise unexpected("--workdir", str(directory), allowed, remedy) from error
    return True
