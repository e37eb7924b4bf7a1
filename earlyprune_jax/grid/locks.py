"""Who works on which member: one holder at a time.

No process knows of the others. Whoever holds the lock of a member's directory may train it, and
nobody else can. The kernel frees the lock of a holder that dies; its files are sound, so the next
one goes on from there.
"""

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from earlyprune_jax.records import read_json, write_json
from earlyprune_jax.validate import unexpected

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
        written = read_json(path)
        if written is None:
            write_json(path, value)
    return written or value
