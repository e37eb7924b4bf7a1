"""Who works on which member: one holder at a time.

No process knows of the others. Whoever holds the lock of a member's directory may train it, and
nobody else can. The kernel frees the lock of a holder that dies; its files are sound, so the next
one goes on from there.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from earlyprune_jax import records, storage
from earlyprune_jax.run_records import RunRecords, process_name
from earlyprune_jax.validate import InvalidInput, unexpected

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
SECONDS_BETWEEN_TRIES = 0.001


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
            InvalidInput: its file system has no locks, or the lock is a link.
        """
        with storage.using(directory), contextlib.ExitStack() as opened:
            file = opened.enter_context(storage.open_lock(directory))
            try:
                if waits:
                    fcntl.flock(file, fcntl.LOCK_EX)
                # `is_held` takes a shared lock for a moment. That is not a holder.
                while not waits and not _try(file, fcntl.LOCK_EX):
                    if not _try(file, fcntl.LOCK_SH):
                        return False
                    _try(file, fcntl.LOCK_UN)
                    time.sleep(SECONDS_BETWEEN_TRIES)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                remedy = "Mount it with locks (for NFS without nolock), or choose another."
                allowed = f"to be on a file system with file locks ({error.strerror})"
                raise unexpected("--workdir", str(directory), allowed, remedy) from error
            self.push(opened.pop_all())
        return True


def is_held(directory: Path) -> bool:
    """Tells whether a process holds a directory's lock, and keeps none from taking it.

    Writes nothing. A directory without a lock, or one whose lock cannot be looked at, is not held.

    Example:
        >>> import tempfile
        >>> directory = Path(tempfile.mkdtemp())
        >>> with held(directory):
        ...     print(is_held(directory))
        True
        >>> is_held(directory)
        False
    """
    try:
        with storage.open_lock(directory, makes=False) as file:
            return not _try(file, fcntl.LOCK_SH)
    except (OSError, InvalidInput):
        return False


def holders(workdir: Path) -> list[str]:
    """Lists the processes that train members of a workdir now, HOST:PROCESS each.

    Those that hold none at the moment, because they start or draw, are not seen.
    """
    begun = (run for run in _begun(workdir) if is_held(run.directory))
    return sorted({run.holder() for run in begun} - {""})


def forget_attempts(workdir: Path, processes: Collection[int]) -> None:
    """Notes that members were left because somebody said so, not because they kill processes.

    Args:
        workdir: of the study.
        processes: of this host, that leave.
    """
    own = {process_name(process) for process in processes}
    for run in _begun(workdir):
        if run.holder() in own:
            run.forget_attempts()


def _begun(workdir: Path) -> Iterator[RunRecords]:
    """Yields the members at which a process is, or has died."""
    for folder in records.FOLDERS.values():
        absent = contextlib.suppress(FileNotFoundError, NotADirectoryError)
        with storage.using(workdir / folder), absent:
            for entry in os.scandir(workdir / folder):
                if (run := RunRecords(Path(entry.path))).has_attempts():
                    yield run


def _try(file: IO[Any], kind: int) -> bool:
    """Locks an open file unless it would have to wait."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Holds a directory's lock, after waiting for it."""
    with RunLocks() as locks:
        locks.take(directory, waits=True)
        yield
