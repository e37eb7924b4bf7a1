"""Worker processes on this machine: started, listened to, replaced when they die, stopped in the
end."""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax

from earlyprune_jax.grid import options
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import Talk
from earlyprune_jax.grid.worker import INTERRUPTED
from earlyprune_jax.validate import InvalidInput, expected

MOST_DEATHS = 8
"""A worker that is killed so often in a row, and has finished no epoch and no member in between, is
given up.

More than `claims.MOST_ATTEMPTS`, so that a member that kills its process is recorded as failed
before that.
"""

BAD_INPUT = 2
SECONDS_TO_LEAVE = 30
EXIT = "exit"


@dataclasses.dataclass
class _Worker:
    """A place in the pool, the process that fills it now, and how its forerunners there have died.

    Attributes:
        cores: of this place.
        process: the worker.
        deaths: in a row, without progress in between.
    """

    cores: list[int]
    process: subprocess.Popen[str]
    deaths: int = 0


class Pool:
    """The workers of one study.

    Args:
        study: what they work on.
        how: their number, and more.
        moment: the wall-clock time at which they stop.
        talk: who is told what they tell.
    """

    def __init__(self, study: Study, how: Options, moment: float, talk: Talk):
        self._study, self._how, self._moment, self._talk = study, how, moment, talk
        self._told: queue.Queue[tuple[int, str, Any]] = queue.Queue()
        self._workers: dict[int, _Worker] = {}
        self._problems: list[str] = []

    def run(self) -> None:
        """Returns when every worker has nothing left to do, or was given up.

        Raises:
            InvalidInput: a worker could not use its input.
        """
        for place, cores in enumerate(
            options.shares(options.usable_cores(), self._how.num_workers)
        ):
            self._workers[place] = _Worker(cores, self._start(place, cores))
        try:
            while self._workers:
                place, kind, what = self._told.get()
                self._hear(place, kind, what)
        finally:
            self._stop()
        if self._problems:
            raise InvalidInput(dict.fromkeys(self._problems))

    def _start(self, place: int, cores: list[int]) -> subprocess.Popen[str]:
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
        told = {
            "spec": self._study.spec.to_message(),
            "workdir": str(self._study.workdir.absolute()),
            "cores": cores,
            "deadline": self._moment,
            "only": list(self._how.only) or None,
            "fork_width": self._how.fork_width,
        }
        threading.Thread(target=self._listen, args=(place, process, told), daemon=True).start()
        return process

    def _listen(self, place: int, process: subprocess.Popen[str], told: dict[str, Any]) -> None:
        """Passes on what a worker tells, and last of all that it has ended."""
        assert process.stdin is not None and process.stdout is not None
        try:
            # Where it died at once its exit is what counts.
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(json.dumps(told) + "\n")
            for line in process.stdout:
                self._told.put((place, *message(line)))
        finally:
            # Whatever has come of listening: a worker whose end nobody hears of would be waited
            # for.
            process.stdout.close()
            self._told.put((place, EXIT, process.wait()))

    def _hear(self, place: int, kind: str, what: Any) -> None:
        worker = self._workers[place]
        if kind == EXIT:
            self._replace(place, worker, what)
            return
        if kind == "epoch":
            name, entry = what
            # Without an entry it is one that an earlier process has trained.
            if entry is not None:
                worker.deaths = 0
            self._talk.report(name, entry)
        elif kind == "ended":
            worker.deaths = 0
        elif kind == "problems":
            self._problems += what
        elif kind == "say":
            self._talk.say(what)

    def _replace(self, place: int, worker: _Worker, code: int) -> None:
        """A worker that was killed is started again; one that has left, or cannot work, is not."""
        worker.deaths += 1
        was_killed = code < 0 or code == INTERRUPTED
        if was_killed and worker.deaths < MOST_DEATHS and not self._talk.stop():
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self._talk.say(f"Worker {place} died ({how}); another takes its place.")
            worker.process = self._start(place, worker.cores)
            return
        if code not in (0, BAD_INPUT) and not self._talk.stop():
            why = (
                f"it was killed {worker.deaths} times in a row"
                if was_killed
                else f"exit code {code}"
            )
            self._talk.say(f"Worker {place} is given up ({why}). What it printed stands above.")
        del self._workers[place]

    def _stop(self) -> None:
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            try:
                worker.process.wait(SECONDS_TO_LEAVE)
            except subprocess.TimeoutExpired:
                worker.process.kill()


def message(line: str) -> tuple[str, Any]:
    """What a worker tells in a line: a pair of its own, or a library's words, be they a bare
    number.

    Example:
        >>> message('["epoch", ["a fork", null]]'), message("42\\n"), message('["a", "b", "c"]')
        (('epoch', ['a fork', None]), ('say', '42'), ('say', '["a", "b", "c"]'))
    """
    try:
        kind, what = json.loads(line)
    except (ValueError, TypeError):
        return "say", line.rstrip()
    return (kind, what) if isinstance(kind, str) else ("say", line.rstrip())


def num_useful(backend: Callable[[], str] = jax.default_backend) -> int:
    """How many workers make sense here: one a core, or this process alone where it has an
    accelerator."""
    return len(options.usable_cores()) if backend() == "cpu" else 1


def check(how: Options, backend: Callable[[], str] = jax.default_backend) -> list[str]:
    """Whether workers make sense here: an accelerator is driven by one process."""
    if how.num_workers == 1 or backend() == "cpu":
        return []
    remedy = (
        "One process uses all of its accelerators: leave it out, or run with JAX_PLATFORMS=cpu."
    )
    return [expected("--workers", how.num_workers, f"to be 1 on {backend()}", remedy)]
