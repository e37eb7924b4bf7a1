"""The files of a workdir: the one place that writes, appends to, locks and deletes them.

Where one of them should be, a link is refused by name and never followed. A link of the whole
workdir is the user's way to choose a disk. Only what is ours by name is deleted. What a disk
refuses is a `StorageError`: it ends the process, for nothing else could be written down either.
"""

import contextlib
import errno
import os
import platform
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from earlyprune_jax.validate import InvalidInput, expected

_ROOM = "Make room there"
_DISK = "The disk or the way to it fails: see the system's log"
_FILES = "Raise the limit of open files (ulimit -n)"
REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: f"{_ROOM}, or have the quota raised",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "Mount it so that it can be written",
    errno.EIO: _DISK,
    errno.ESTALE: _DISK,
    errno.ENODEV: _DISK,
    errno.ENOENT: "Its folder is gone: restore it",
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
}
"""What an OSError says of the storage -> what to do about it; of any other `OTHERWISE`."""
OTHERWISE = "The system or the file system refuses it: see the system's log"

NOT_OURS = (errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.ENXIO, errno.EEXIST)
FORBIDDEN = (errno.EACCES, errno.EPERM)
SUFFIX = "earlyprune-tmp"
LEFTOVER = re.compile(rf"\..+\.(\d+)\.{SUFFIX}")
"""A temporary file: .NAME.HOST.PROCESS.earlyprune-tmp."""


class StorageError(OSError):
    """A file could not be written, whatever it was: the message says why, and what to do.

    Example:
        >>> error = StorageError.of(OSError(errno.EROFS, "Read-only file system"), Path("run"))
        >>> print(str(error).partition(";")[0])
        Could not write run: Read-only file system. Mount it so that it can be written
    """

    @classmethod
    def of(cls, error: BaseException, path: Path) -> "StorageError | None":
        """Returns the error of a file if the storage is to blame for another error; else None."""
        number = _number(error)
        if number is None or number in FORBIDDEN:
            return None
        free = ""
        if number in (errno.ENOSPC, errno.EDQUOT):
            free = f" ({free_bytes(path) / 1e6:.3f} MB free)"
        why = f"Could not write {path}: {os.strerror(number)}{free}."
        remedy = REMEDIES.get(number, OTHERWISE)
        return cls(number, f"{why} {remedy}; the same command then goes on from here.")

    def __str__(self) -> str:
        return str(self.strerror)


class UnusableFile(InvalidInput):
    """Where a file of a workdir should be is a link or a folder, or one that may not be used."""


class NotPermitted(UnusableFile):
    """The user has no right to use a file, or to write beside it."""


def _number(error: BaseException) -> int | None:
    """Finds the first errno, but for `NOT_OURS`, in an error or in what has caused it.

    Orbax and TensorStore put it into a text, or into the cause of a cause. What is not there may
    have been looked for on the way: it counts in the error itself only.
    """
    seen: list[BaseException | None] = [error]
    for each in seen:
        if each is None:
            continue
        said = re.search(r"os_error_code='(\d+)'", str(each))
        number = each.errno if isinstance(each, OSError) else said and int(said[1])
        is_way = number == errno.ENOENT and each is not error
        if number and number not in NOT_OURS and not is_way:
            return number
        chained = (*getattr(each, "exceptions", ()), each.__cause__, each.__context__)
        seen += [one for one in chained if not any(one is known for known in seen)]
    return None


@contextlib.contextmanager
def using(path: Path) -> Iterator[None]:
    """Names the file that was written or read inside when the system refuses it.

    Raises:
        StorageError: the disk, a quota or a limit is to blame.
        UnusableFile: it is a link or a folder, or the user may not use it (`NotPermitted`).
    """
    try:
        yield
    except (StorageError, InvalidInput):
        raise
    except Exception as error:  # Orbax raises many types; what is not the storage's goes on
        if problem := StorageError.of(error, path):
            raise problem from error
        if _number(error) in FORBIDDEN:
            remedy = "Give yourself the right to read and write it, or choose another workdir."
            allowed = "to be a file that you may use (permission denied)"
            raise NotPermitted([expected("file", str(path), allowed, remedy)]) from error
        if isinstance(error, OSError) and error.errno in NOT_OURS:
            raise _foreign(path) from error
        raise


def _foreign(path: Path) -> UnusableFile:
    kinds = {"a link": path.is_symlink(), "a folder": path.is_dir(), "a file": path.is_file()}
    what = next((kind for kind, is_one in kinds.items() if is_one), "no regular file")
    remedy = f"It is {what}, which is neither followed nor replaced: move it away."
    if not os.path.lexists(path):
        remedy = "What should be a folder above it is a file: move that away."
    return UnusableFile([expected("file", str(path), "to be a file or folder of its own", remedy)])


def is_there(path: Path) -> bool:
    """Tells whether there is a file, a folder or a link at a path.

    Raises:
        StorageError: the storage does not say.
    """
    with using(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(path)
        return True
    return False


def refuse_link(path: Path) -> None:
    """Raises `UnusableFile` where a path is a link; of a link above it nothing is said."""
    with using(path):
        if path.is_symlink():
            raise _foreign(path)


def refuse_foreign(path: Path) -> None:
    """Raises `UnusableFile` where a path is neither a file nor free: a link, a folder, a pipe."""
    refuse_link(path)
    with using(path):
        if path.exists() and not path.is_file():
            raise _foreign(path)


def _open(path: Path, flags: int) -> int:
    """Opens a file, and no pipe, for which it would have to wait."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _foreign(path)
    return descriptor


@contextlib.contextmanager
def _closed(descriptor: int) -> Iterator[int]:
    """Closes a file in the end: only then do some file systems say that it could not be written."""
    try:
        yield descriptor
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise
    os.close(descriptor)


def _write(descriptor: int, content: bytes) -> None:
    """Writes all of it, until it is on the disk."""
    while content:
        content = content[os.write(descriptor, content) :]
    # Without this a power cut can leave the new name on an empty file.
    os.fsync(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file so that a reader sees the old content or the new one, never a part.

    Raises:
        StorageError: it could not be written.
        UnusableFile: it is a link, or a folder.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "table.csv"
        >>> replace_file(path, b"a,b")
        >>> path.read_bytes()
        b'a,b'
    """
    # Two hosts that share a directory may run processes of the same id.
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.{SUFFIX}")
    with using(path):
        refuse_foreign(path)
        with using(temporary):
            # Of a process that had the same id: no other process has it now.
            remove(temporary)
            descriptor = _open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
        try:
            with _closed(descriptor):
                _write(descriptor, content)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def append(path: Path, text: str) -> None:
    """Adds to the end of a file, and waits until it is on the disk; all of it or nothing.

    Raises:
        StorageError: it could not be written.
        UnusableFile: it is a link, or a folder.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with using(path), _closed(_open(path, flags)) as descriptor:
        size = os.fstat(descriptor).st_size
        try:
            _write(descriptor, text.encode())
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
            raise


def read_text(path: Path) -> str | None:
    """Reads a text, as `read_bytes` does; what is no UTF-8 is replaced."""
    content = read_bytes(path)
    return None if content is None else content.decode(errors="replace")


def read_bytes(path: Path) -> bytes | None:
    """Reads a file, through links too; None if there is none.

    Raises:
        UnusableFile: it is a folder, or the user may not read it.
    """
    absent = contextlib.suppress(FileNotFoundError, NotADirectoryError)
    with using(path), absent, os.fdopen(_open(path, os.O_RDONLY), "rb") as file:
        return file.read()
    return None


def open_lock(directory: Path, *, makes: bool = True) -> IO[Any]:
    """Opens the file by whose lock a directory is held; its content says nothing, and stays.

    Args:
        directory: made if need be.
        makes: whether to make what is not there.

    Raises:
        UnusableFile: it is a link, or a folder.
    """
    path = directory / ".lock"
    with using(path):
        if makes:
            make_directory(directory)
        flags = os.O_RDWR | os.O_CREAT if makes else os.O_RDONLY
        descriptor = _open(path, flags | os.O_NOFOLLOW)
        return os.fdopen(descriptor, "r+b" if makes else "rb", buffering=0)


def make_directory(path: Path) -> None:
    """Makes a directory and those above it, unless they are there."""
    with using(path):
        path.mkdir(parents=True, exist_ok=True)


def remove(path: Path) -> None:
    """Deletes a file if it is there.

    Raises:
        UnusableFile: it is a link, or a folder.
    """
    refuse_foreign(path)
    with using(path):
        path.unlink(missing_ok=True)


def remove_directory(path: Path) -> None:
    """Deletes a directory with all that is in it; links in it are deleted, not followed.

    Raises:
        UnusableFile: it is a link.
    """
    with using(path):
        refuse_link(path)
        shutil.rmtree(path)


def set_aside(path: Path) -> None:
    """Renames a file to NAME.damaged, in place of an earlier one of that name."""
    with using(path), contextlib.suppress(FileNotFoundError):
        path.replace(path.with_name(f"{path.name}.damaged"))


def clean(directory: Path, *, is_held: bool) -> None:
    """Deletes temporary files that killed processes have left in a directory.

    Args:
        directory: of a run, or the workdir.
        is_held: whether this process holds the lock under which all files there are written. If
            not, those of other hosts and of processes that live stay.
    """
    absent = contextlib.suppress(FileNotFoundError, NotADirectoryError)
    with using(directory), absent, os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False) and _is_leftover(entry.name, is_held):
                remove(Path(entry.path))


def _is_leftover(name: str, is_held: bool) -> bool:
    found = LEFTOVER.fullmatch(name)
    if found is None:
        return False
    is_of_this_host = name.endswith(f".{platform.node()}.{found[1]}.{SUFFIX}")
    return is_held or is_of_this_host and not _is_alive(int(found[1]))


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def free_bytes(path: Path) -> int:
    """Returns what is free for this user on the disk that a path is on, or will be."""
    path = path.absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(existing).free
