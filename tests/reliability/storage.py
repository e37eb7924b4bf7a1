"""Storage that is full, over a quota or a limit, read-only, unreadable; a failing output."""

import contextlib
import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.reliability import commands
from tests.reliability.harness import BAD_INPUT, DONE, EXACT, OTHER, STORAGE, Room, Verdict

REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)
SENTENCES = {STORAGE, BAD_INPUT}


def refuse(room: Room) -> Verdict:
    """Has the storage refuse in one of many ways; mends that, and has the study go on."""
    form = room.rng.choice(("grid", "online"))
    how = room.rng.choice((_full, _full, _limit, _limit, _error, _error, _mode, _mode, _output))
    room.note(how.__name__.strip("_"))
    return how(room, form)


def _full(room: Room, form: str) -> Verdict:
    """A small file system of its own, which root may mount."""
    size = room.rng.randint(16, 600)
    room.note(f"of {size} kB")
    with _mounted(room.directory / "disk", size) as disk:
        if disk is None:
            return _limit(room, form)
        room.workdir = disk / "run"
        if fault := _said(room, room.run(*room.study(form))):
            return fault
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        return room.settled(form)


@contextlib.contextmanager
def _mounted(folder: Path, size: int) -> Iterator[Path | None]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", folder]
    if os.geteuid() or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _limit(room: Room, form: str) -> Verdict:
    """A limit of the size of files: what `ulimit -f` sets."""
    size = room.rng.choice((0, 100, 1000, 2000, 4000, 8000, 16000))
    room.note(f"{size} bytes a file")

    def limit() -> None:
        # What the command says goes to a file too, which shall not be limited.
        with subprocess.Popen("cat", stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            os.dup2(process.stdin.fileno(), 1)
            os.dup2(1, 2)
            process.returncode = 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return _said(room, room.run(*room.study(form), first=limit)) or room.settled(form)


def _error(room: Room, form: str) -> Verdict:
    """The system refuses to open a file for writing, from one moment on."""
    code = room.rng.choice(REFUSALS)
    number = room.rng.randint(1, room.lab.changes[form])
    room.note(f"{errno.errorcode[code]} from change {number} of {room.lab.changes[form]}")
    first = commands.at_change(number, commands.refused(code), and_after=True)
    return _said(room, room.run(*room.study(form), first=first)) or room.settled(form)


def _mode(room: Room, form: str) -> Verdict:
    """A folder or file of a workdir that may not be read, or not be written."""
    base = form + room.rng.choice(("", "-early", "-late"))
    room.copy(base)
    paths = [room.workdir, *sorted(room.workdir.rglob("*"))]
    path, mode = room.rng.choice(paths), room.rng.choice((0, 0o444, 0o555))
    room.note(f"{base}: mode {mode:o} of {path.relative_to(room.directory)}")
    before = path.stat().st_mode
    path.chmod(mode)
    ended = room.run(*room.study(form), first=commands.without_privileges)
    # What is damaged may have been set aside, and made again.
    if path.exists():
        path.chmod(before)
    for aside in room.directory.rglob("*.damaged"):
        aside.chmod(before)
    return _said(room, ended) or room.settled(base)


def _output(room: Room, form: str) -> Verdict:
    """Standard output is full, or closed, or nobody reads it: the study is what it would be."""

    def redirect() -> None:
        to = os.open("/dev/full", os.O_WRONLY)
        if kind == "a pipe without a reader":
            reader, to = os.pipe()
            os.close(reader)
        os.dup2(to, 1)
        if kind == "closed":
            os.close(1)

    kind = room.rng.choice(("full", "closed", "a pipe without a reader"))
    room.note(kind)
    # A Python that starts without the descriptor has no sys.stdout at all.
    python = ["-m", "earlyprune_jax"] if kind == "closed" else None
    ended = room.run(*room.study(form), first=redirect, python=python)
    if fault := room.expect(ended, DONE):
        return fault
    differing = room.differing(form, room.workdir)
    return Verdict(OTHER, f"others: {differing}") if differing else Verdict(EXACT)


def _said(room: Room, ended: commands.Ended) -> Verdict | None:
    """Finds fault with how a command took a refusal: a sentence with the right exit code."""
    if fault := room.expect(ended, DONE, *SENTENCES):
        return fault
    lines = [line for line in ended.said.splitlines() if line.strip()]
    if ended.code in SENTENCES and not any(str(room.workdir) in line for line in lines[-4:]):
        return Verdict(OTHER, "no sentence at the end names a path")
    return None
