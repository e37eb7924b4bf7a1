"""Starts worker processes on this machine, listens to them, and replaces those that die."""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from typing import Any

from earlyprune_jax.grid import options as running
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.scheduler import EVERYTHING, Scope
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import Callbacks
from earlyprune_jax.grid.worker import INTERRUPTED
from earlyprune_jax.validate import InvalidInput

MOST_DEATHS = 8
"""A worker that is killed so often in a row, and has finished no epoch and no member in between, is
given up.

More than `locks.MOST_ATTEMPTS`, so that a member that kills its process is recorded as failed
before that.
"""

BAD_INPUT = 2
SECONDS_TO_LEAVE = 30
EXIT = "exit"


@dataclasses.dataclass
class _Worker:
    """One of the pool's workers.

    Attributes:
        cores: to which it is bound.
        process: that works now.
        deaths: of its forerunners, in a row, without progress in between.
    """

    cores: list[int]
    process: subprocess.Popen[str]
    deaths: int = 0


class Pool:
    """The workers of one study.

    Args:
        study: what they work on.
        callbacks: who is told what they tell.
        options: their number, and more.
        deadline: the wall-clock time at which they stop.
        scope: which members, and whether to wait for others.
    """

    def __init__(
        self,
        study: Study,
        callbacks: Callbacks,
        options: Options,
        deadline: float,
        scope: Scope = EVERYTHING,
    ):
        self._study, self._callbacks, self._options = study, callbacks, options
        self._request = {
            "spec": study.spec.to_message(),
            "workdir": str(study.workdir.absolute()),
            "deadline": deadline,
            "scope": scope,
            "fork_width": options.fork_width,
        }
        self._messages: queue.Queue[tuple[int, str, Any]] = queue.Queue()
        self._workers: dict[int, _Worker] = {}
        self._problems: list[str] = []

    def run(self) -> None:
        """Works until every worker has nothing left to do, or was given up.

        Raises:
            InvalidInput: a worker could not use its input.
        """
        shares = running.shares(running.usable_cores(), self._options.num_workers)
        for index, cores in enumerate(shares):
            self._workers[index] = _Worker(cores, self._start(index, cores))
        try:
            while self._workers:
                self._hear(*self._messages.get())
        finally:
            self._stop()
        if self._problems:
            raise InvalidInput(dict.fromkeys(self._problems))

    def _start(self, index: int, cores: list[int]) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "earlyprune_jax.grid.worker"]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=environment,
        )
        arguments = (index, process, self._request | {"cores": cores})
        threading.Thread(target=self._listen, args=arguments, daemon=True).start()
        return process

    def _listen(self, index: int, process: subprocess.Popen[str], request: dict[str, Any]) -> None:
        """Passes on what a worker tells, and last of all that it has ended."""
        assert process.stdin is not None and process.stdout is not None
        try:
            # Where it died at once its exit is what counts.
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(json.dumps(request) + "\n")
            for line in process.stdout:
                self._messages.put((index, *message(line)))
        finally:
            # Whatever has come of listening: a worker whose end nobody hears of would be waited
            # for.
            process.stdout.close()
            self._messages.put((index, EXIT, process.wait()))

    def _hear(self, index: int, kind: str, what: Any) -> None:
        worker = self._workers[index]
        if kind == EXIT:
            self._replace(index, worker, what)
            return
        if kind == "epoch":
            name, entry = what
            # Without an entry it is one that an earlier process has trained.
            if entry is not None:
                worker.deaths = 0
            self._callbacks.report(name, entry)
        elif kind == "ended":
            worker.deaths = 0
        elif kind == "problems":
            self._problems += what
        elif kind == "say":
            self._callbacks.say(what)

    def _replace(self, index: int, worker: _Worker, code: int) -> None:
        """A worker that was killed is started again; one that has left, or cannot work, is not."""
        worker.deaths += 1
        was_killed = code < 0 or code == INTERRUPTED
        if was_killed and worker.deaths < MOST_DEATHS and not self._callbacks.stop():
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self._callbacks.say(f"Worker {index} died ({how}); another takes its place.")
            worker.process = self._start(index, worker.cores)
            return
        if code not in (0, BAD_INPUT) and not self._callbacks.stop():
            why = (
                f"it was killed {worker.deaths} times in a row"
                if was_killed
                else f"exit code {code}"
            )
            self._callbacks.say(
                f"Worker {index} is given up ({why}). What it printed stands above."
            )
        del self._workers[index]

    def _stop(self) -> None:
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            try:
                worker.process.wait(SECONDS_TO_LEAVE)
            except subprocess.TimeoutExpired:
                worker.process.kill()


def message(line: str) -> tuple[str, Any]:
    """Reads what a worker tells in a line: a pair of its own, or a library's words.

    Example:
        >>> message('["epoch", ["a fork", null]]'), message("42\\n"), message('["a", "b", "c"]')
        (('epoch', ['a fork', None]), ('say', '42'), ('say', '["a", "b", "c"]'))
    """
    try:
        kind, what = json.loads(line)
    except (ValueError, TypeError):
        return "say", line.rstrip()
    return (kind, what) if isinstance(kind, str) else ("say", line.rstrip())
