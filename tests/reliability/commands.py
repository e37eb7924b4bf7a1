"""Commands in forked processes, and what happens to these at a chosen moment.

This process imports the package once and never uses JAX, whose backend would start threads. A
command is a fork of it that does what `earlyprune` does, in a session of its own.
"""

import atexit
import contextlib
import ctypes
import itertools
import os
import resource
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

ROOT = Path(__file__).parent.parent.parent
HUNG = "hung"
STOPPING = (signal.SIGINT, signal.SIGTERM)
SECONDS_TO_END, SECONDS_TO_LEAVE = 150, 45
MOST_BYTES = 8 * 2**30
"""Of memory, for a command: what reads without end shall not take the machine with it."""
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate")
"""Audit events of what changes a folder; to open a file for writing is one more."""

Action = Callable[..., Any]


class Ended(NamedTuple):
    """A command that has ended.

    Attributes:
        code: its exit code; -9 where SIGKILL ended it; `HUNG`.
        said: on both streams.
        command: its arguments.
        orphans: processes of its session that outlived it for long.
    """

    code: int | str
    said: str
    command: str
    orphans: int = 0


class Started:
    """A command that runs."""

    def __init__(self, pid: int, log: Path, command: str):
        self.pid, self.log, self.command = pid, log, command
        self.code: int | str | None = None

    def poll(self) -> bool:
        """Tells whether it has ended."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def session(self) -> list[int]:
        """Lists the processes that it has started, and that are left; itself too, while it runs."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
                found += [int(path.parent.name)] * (int(session) == self.pid and state != "Z")
        return found

    def send(self, number: int, *, to_all: bool = False) -> None:
        """Sends it a signal, or all processes of its session, as a terminal does."""
        for pid in self.session() if to_all else [self.pid]:
            with contextlib.suppress(ProcessLookupError):
                if not self.poll() or pid != self.pid:
                    os.kill(pid, number)

    def ended(self, seconds: float = SECONDS_TO_END) -> Ended:
        """Waits for it and for what it has started; ends by force what does not end."""
        is_hung = not wait_until(self.poll, seconds)
        if is_hung:
            self.send(signal.SIGKILL)
            wait_until(self.poll, SECONDS_TO_LEAVE)
        wait_until(lambda: not self.session(), 0 if is_hung else SECONDS_TO_LEAVE)
        orphans = len(self.session())
        self.send(signal.SIGKILL, to_all=True)
        said = self.log.read_text(errors="replace")
        return Ended(HUNG if is_hung else self.code or 0, said, self.command, orphans)


def wait_until(is_so: Callable[[], bool], seconds: float = SECONDS_TO_END) -> bool:
    """Waits for something, and tells whether it has come to be."""
    deadline = time.monotonic() + seconds
    while not (so := is_so()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return so


def start(
    arguments: list[str],
    log: Path,
    *,
    first: Action = lambda: None,
    python: list[str] | None = None,
) -> Started:
    """Starts `earlyprune` with some arguments in the log's folder.

    Args:
        arguments: the command and its flags.
        log: a new file, for both streams.
        first: what its process does before.
        python: of a Python of its own, in place of a fork: what stands before the arguments.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    # A signal that comes before the command can know of signals waits until it does.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    pid = os.fork()
    if pid == 0:
        _be_command(arguments, log, first, python)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    return Started(pid, log, " ".join(arguments))


def _be_command(
    arguments: list[str], log: Path, first: Action, python: list[str] | None
) -> NoReturn:
    code: Any = 70
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
        os.chdir(log.parent)
        for target, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY | os.O_CREAT | os.O_APPEND)):
            os.dup2(os.open(log if target else os.devnull, flags), target)
        os.dup2(1, 2)
        for number in STOPPING:
            # Of the command as the first line of the package does.
            own = signal.SIG_DFL if python else lambda number, frame: os._exit(128 + number)
            signal.signal(number, own)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        if python:
            first()
            os.execv(sys.executable, [sys.executable, *python, *arguments])
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
        # Of the process that this is a fork of.
        atexit._clear()
        sys.argv = ["earlyprune", *arguments]
        from earlyprune_jax import cli, leaving

        leaving.begin()
        first()
        cli.program()
    except SystemExit as end:
        code = end.code or 0
        with contextlib.suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code if isinstance(code, int) else 1)


# What a command's process does first


def at_change(number: int, act: Action, *, and_after: bool = False) -> Action:
    """Has something happen just before the number-th change of a folder, from 1.

    Args:
        number: of the change, counted over all folders.
        act: gets the audit event's name and arguments.
        and_after: also before every later one.
    """
    count = itertools.count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if _is_change(event, arguments):
            now = next(count)
            if now == number or (and_after and now > number):
                act(event, arguments)

    return lambda: sys.addaudithook(hook)


def _is_change(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        is_change = bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR))
    else:
        is_change = event in CHANGES
    # JAX's cache of compiled programs and Python's own are no part of a study.
    return is_change and not isinstance(arguments[0], int) and "cache" not in str(arguments[0])


def signalled(number: int) -> Action:
    """Sends this process a signal."""
    return lambda *event: os.kill(os.getpid(), number)


def refused(code: int) -> Action:
    """Has the system refuse, with an error number, to open a file for writing or make a folder."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.mkdir"):
            raise OSError(code, os.strerror(code), os.fsdecode(arguments[0]))

    return refuse


def without_privileges() -> None:
    """Has the modes of files hold for root too, as they do for everybody else."""
    if os.geteuid() == 0:
        version_3, no_capabilities = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *6 * [0])
        if ctypes.CDLL(None).capset(version_3, no_capabilities):
            raise OSError("capset has failed")
