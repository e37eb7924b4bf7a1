"""Waiting for what a test needs, never for time: machines may be busy."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LAST_RESORT_SECONDS = 600


def wait_until(
    reached: Callable[[], Any], *processes: subprocess.Popen[Any], seconds: float = 0.01
) -> None:
    """Looks again and again, while the processes live."""
    deadline = time.monotonic() + LAST_RESORT_SECONDS
    while not reached():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(seconds)


class Gate:
    """A gate of `own_code.pass_gate` that so many calls pass."""

    def __init__(self, file: Path, count: int):
        self._file, self._count = file, count
        self.environment = os.environ | {"GATE": f"{count}:{file}"}

    def num_held(self) -> int:
        """Calls that wait, or waited in a process that has died."""
        return self._file.stat().st_size - self._count if self._file.exists() else -self._count
