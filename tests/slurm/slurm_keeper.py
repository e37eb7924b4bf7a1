"""The program that all processes of a test's Slurm cluster descend from, and end with.

    python slurm_keeper.py DIRECTORY

starts munged, slurmctld and slurmd as DIRECTORY's files tell, and ends them at SIGTERM or at the
end of its stdin, so also when whoever started it is killed. What slurmd detaches (its step daemons
and with them the jobs' tasks) falls to the keeper as an orphan and is killed with the rest.
"""

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

NODE = "node0"
STARTED = "started"  # the file that says that the daemons answer
START_SECONDS = 300.0
ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h


def becomes_true(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition comes to hold within some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def descendants(pid: int) -> set[int]:
    """All processes below `pid` that are not yet dead."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:  # gone since the listing
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found: set[int] = set()
    todo = [pid]
    while todo:
        new = children.get(todo.pop(), [])
        found.update(new)
        todo.extend(new)
    return found


def _keep(directory: Path) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(ADOPT_ORPHANS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        _start_daemons(directory)
        (directory / STARTED).touch()
        sys.stdin.buffer.read()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_descendants()


def _end_descendants() -> None:
    """Kills and buries until no child is left, and, orphans being children here, no descendant."""
    while True:
        for pid in descendants(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # daemons too: nothing of theirs is needed again
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(0.02)


def _start_daemons(directory: Path) -> None:
    settings = (directory / "slurm.conf").read_text()
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed"}
    munged = [f"--{option}={directory}/munge.{ending}" for option, ending in files.items()]
    # --force: the directories of tests are closed to others, which munged takes for a mistake.
    _start(["munged", "--foreground", "--force", *munged], (directory / "munge.socket").is_socket)
    for command, port in (
        (["slurmctld", "-D"], "SlurmctldPort"),
        (["slurmd", "-D", "-N", NODE], "SlurmdPort"),
    ):
        number = re.search(rf"^{port}=(\d+)$", settings, re.MULTILINE)
        assert number is not None, port
        _start(command, partial(_answers, int(number[1])))


def _start(command: list[str], ready: Callable[[], bool]) -> None:
    daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    becomes_true(lambda: daemon.poll() is not None or ready(), START_SECONDS)
    if daemon.poll() is not None or not ready():
        sys.exit(f"{command[0]} did not start (exit status: {daemon.poll()})")


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    _keep(Path(sys.argv[1]))
