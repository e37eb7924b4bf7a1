"""How a process of this program ends: exit codes, signals, and standard streams that fail.

    code  meaning                                             constant
    0     done                                                DONE
    1     done, but runs diverged or failed                   FAILED
    2     input that cannot be used; nothing was written      BAD_INPUT
    3     unfinished: the same command goes on                UNFINISHED
    4     storage: a disk, quota or file system gave out      STORAGE
    130   Ctrl-C (SIGINT)                                     INTERRUPTED
    143   SIGTERM, or SIGHUP of a terminal that is closed     TERMINATED

A signal ends the process at once, whatever it is doing: importing, compiling, training, drawing. A
thread of its own waits for signals, so nothing depends on the main thread, which runs no handler
while XLA compiles, nor on an exception, which Python drops in the callback of a weak reference.
Leaving at once costs what `kill -9` costs: the epochs since the last checkpoint.

Only the program does this (`begin`). In a notebook Ctrl-C is a KeyboardInterrupt, as everywhere.
"""

import atexit
import contextlib
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import subprocess

DONE, FAILED, BAD_INPUT, UNFINISHED, STORAGE = range(5)
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM

PATIENCE_SECONDS = 0.5
"""Last words wait so long for a terminal that has been stopped, or a pipe that nobody reads."""

SHOW_CURSOR = b"\x1b[?25h"
"""A bar has hidden it."""

children: "list[subprocess.Popen[bytes]]" = []
"""Processes that leave with this one."""

advice: list[str] = []
"""Said after "Interrupted."; a command that goes on when it is called again says so here."""

farewells: list[Callable[[], None]] = []
"""Called when a signal ends this process, for `PATIENCE_SECONDS` at most."""

_actions: dict[int, Callable[[int], None]] = {}
_pipe = -1


def begin() -> None:
    """Makes this process one of the program: signals end it, and failing streams do not.

    SIGHUP that is ignored, as under nohup, stays so.
    """
    if _actions:
        return
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    on(heed, signal.SIGINT, signal.SIGTERM, *([] if is_ignored else [signal.SIGHUP]))
    keep_streams()


def on(action: Callable[[int], None], *numbers: signal.Signals) -> None:
    """Has signals call a function with their number, in a thread that does nothing else.

    Call it in the main thread. Signals that come while the function runs wait for its end.

    Args:
        action: need not return.
        numbers: of the signals; what they called before is forgotten.
    """
    if not _actions:
        _listen()
    for number in numbers:
        _actions[number] = action
        signal.signal(number, _pass_on)


def _listen() -> None:
    """Starts the thread that waits for signals."""
    global _pipe
    received, _pipe = os.pipe()
    os.set_blocking(_pipe, False)
    # The C library's part of a signal writes here, whatever Python is doing.
    signal.set_wakeup_fd(_pipe, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=_forget)
    # Registered first, it comes last, after all that may wait.
    atexit.register(_ignore)

    def act() -> None:
        while number := os.read(received, 1):
            if action := _actions.get(number[0]):
                action(number[0])

    try:
        threading.Thread(target=act, name="signals", daemon=True).start()
    except RuntimeError:
        refuse("No thread can be started. Raise the limit of processes (ulimit -u).")


def _pass_on(number: int, frame: Any) -> None:
    """Tells the thread once more: an event loop may have taken the wakeup descriptor for itself."""
    with contextlib.suppress(OSError):
        os.write(_pipe, bytes([number]))
    if _actions[number] is heed:
        # What the main thread waited for may have been broken off: it must not go on with that.
        threading.Event().wait()


def _ignore() -> None:
    """Lets no signal change the code of a process that has done everything, at the end of which
    Python takes its handlers away."""
    for number in _actions:
        signal.signal(number, signal.SIG_IGN)


def _forget() -> None:
    """Frees a forked child of signals that would end its parent."""
    signal.set_wakeup_fd(-1)
    for number in _actions:
        signal.signal(number, signal.SIG_DFL)
    children.clear()


def heed(number: int) -> NoReturn:
    """Says that a signal has come, and ends the process."""
    is_interrupt = number == signal.SIGINT
    words = " ".join(["Interrupted." if is_interrupt else "Terminated.", *advice])
    shown = os.isatty(1) and os.environ.get("TERM", "dumb") != "dumb"
    for stream, text in ((1, SHOW_CURSOR if shown else b""), (2, f"\n{words}\n".encode())):
        with contextlib.suppress(OSError):
            if text and select.select([], [stream], [], PATIENCE_SECONDS)[1]:
                os.write(stream, text)
    take_leave()
    leave(INTERRUPTED if is_interrupt else TERMINATED)


def take_leave() -> None:
    """Calls the `farewells`, and does not wait for a disk that does not answer."""

    def call() -> None:
        for farewell in farewells:
            with contextlib.suppress(Exception):  # it was not needed
                farewell()

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)


def leave(code: int) -> NoReturn:
    """Ends the process and its `children` at once.

    A normal exit would wait: for threads of a checkpoint that is being written, for other hosts.
    """
    for child in children:
        child.kill()
    os._exit(code)


def refuse(sentence: str) -> NoReturn:
    """Says why nothing can be done here, and ends the process."""
    print(f"earlyprune_jax: {sentence}", file=sys.stderr, flush=True)
    leave(BAD_INPUT)


def keep_streams() -> None:
    """Has standard output and error be lost, and no error, where they are closed, full or broken.

    What cannot be encoded is written as escapes.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Else the next file that is opened would get its number, and all that is printed.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        encoding = getattr(getattr(sys, name), "encoding", "utf-8")
        raw = io.BufferedWriter(_Lossy(number, "w", closefd=False))
        # By lines: a process that leaves at once has nothing left to write.
        text = _Open(raw, encoding, "backslashreplace", line_buffering=True)
        setattr(sys, name, text)


class _Open(io.TextIOWrapper):
    """A stream that the user's code cannot close: what is said after it is to be seen."""

    def close(self) -> None:
        self.flush()


class _Lossy(io.FileIO):
    """A file descriptor that takes whatever is written, and forgets what cannot be, but not why."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or len(data)
        except OSError as error:
            self.failure = error
            return len(data)


def output_failure() -> OSError | None:
    """Returns why standard output has lost something; None where all has been written.

    For a command whose output is its result: of the others only words are lost.
    """
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return getattr(raw, "failure", None)
