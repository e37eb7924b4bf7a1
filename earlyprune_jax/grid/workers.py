"""Worker processes on this machine: each bound to its share of the cores, replaced when it dies.

A worker does what any process does that shares a workdir. It gets its work on stdin, pickled, and
tells on stdout, a line of JSON at a time, what its user is to see.

python -m earlyprune_jax.grid.workers < work
"""

import contextlib
import dataclasses
import functools
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from earlyprune_jax import data, tasks
from earlyprune_jax.grid import options as running
from earlyprune_jax.grid import scheduler
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.scheduler import EVERYTHING, Scope
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import Callbacks, Trainer
from earlyprune_jax.spec import RunSpec, use_code
from earlyprune_jax.training import engine as engines
from earlyprune_jax.validate import InvalidInput

MOST_DEATHS = 8
"""A worker that is killed so often in a row, and has told nothing in between, is given up.

More than `locks.MOST_ATTEMPTS`, so that a member that kills its process is recorded as failed
before that.
"""

COMMAND = (sys.executable, "-m", "earlyprune_jax.grid.workers")
BAD_INPUT, INTERRUPTED = 2, 130
SECONDS_TO_LEAVE = 30


@dataclasses.dataclass
class _Worker:
    """One of the pool's workers.

    Attributes:
        cores: to which it is bound.
        process: that works now.
        deaths: of its forerunners, in a row, without a word in between.
    """

    cores: list[int]
    process: subprocess.Popen[bytes]
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
        self._callbacks, self._num_workers = callbacks, options.num_workers
        absolute = Study(study.spec, study.workdir.absolute())
        work = functools.partial(_work, absolute, options.fork_width, deadline, scope)
        self._request = pickle.dumps(work)
        self._messages: queue.Queue[tuple[int, str, Any]] = queue.Queue()
        self._workers: dict[int, _Worker] = {}
        self._problems: list[str] = []

    def run(self) -> None:
        """Works until every worker has nothing left to do, or was given up.

        Raises:
            InvalidInput: a worker could not use its input.
        """
        for index, cores in enumerate(running.shares(running.usable_cores(), self._num_workers)):
            self._workers[index] = _Worker(cores, self._start(index, cores))
        try:
            while self._workers:
                self._hear(*self._messages.get())
        finally:
            self._stop()
        if self._problems:
            raise InvalidInput(dict.fromkeys(self._problems))

    def _start(self, index: int, cores: list[int]) -> subprocess.Popen[bytes]:
        environment, pipe = os.environ | {"JAX_PLATFORMS": "cpu"}, subprocess.PIPE
        with _bound(cores):
            process = subprocess.Popen(COMMAND, stdin=pipe, stdout=pipe, env=environment)
        threading.Thread(target=self._listen, args=(index, process), daemon=True).start()
        return process

    def _listen(self, index: int, process: subprocess.Popen[bytes]) -> None:
        """Passes on what a worker tells, and last of all that it has ended."""
        assert process.stdin is not None and process.stdout is not None
        try:
            # Where it died at once its exit is what counts.
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(self._request)
            for line in process.stdout:
                self._messages.put((index, *message(line)))
        finally:
            # Whatever has come of listening: a worker whose end nobody hears of would be waited
            # for.
            process.stdout.close()
            self._messages.put((index, "exit", process.wait()))

    def _hear(self, index: int, kind: str, content: Any) -> None:
        if kind == "exit":
            self._replace(index, content)
            return
        if kind == "epoch":
            self._callbacks.report(*content)
        elif kind == "problems":
            self._problems += content
        else:
            self._callbacks.say(content)
        if kind != "printed":
            self._workers[index].deaths = 0

    def _replace(self, index: int, code: int) -> None:
        """Starts a worker again that was killed; one that has left, or cannot work, is not."""
        worker = self._workers[index]
        worker.deaths += 1
        if code in (0, BAD_INPUT) or self._callbacks.stop():
            del self._workers[index]
            return
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if (code < 0 or code == INTERRUPTED) and worker.deaths < MOST_DEATHS:
            self._callbacks.say(f"Worker {index} died ({how}); another takes its place.")
            worker.process = self._start(index, worker.cores)
            return
        why = f"{how}, its end no. {worker.deaths} in a row"
        self._callbacks.say(f"Worker {index} is given up ({why}). What it printed stands above.")
        del self._workers[index]

    def _stop(self) -> None:
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            try:
                worker.process.wait(SECONDS_TO_LEAVE)
            except subprocess.TimeoutExpired:
                worker.process.kill()


def step_seconds(spec: RunSpec, cores: list[int]) -> dict[str, float]:
    """Times a training step of every network in a process that may use some cores.

    Args:
        spec: of any number of settings.
        cores: numbers of these.

    Returns:
        `engine_id` -> seconds.
    """
    work = pickle.dumps(functools.partial(_time_steps, spec))
    with _bound(cores):
        done = subprocess.run(COMMAND, input=work, stdout=subprocess.PIPE, check=True)
    _, seconds = message(done.stdout.splitlines()[-1])
    return seconds


def message(line: bytes) -> tuple[str, Any]:
    """Reads what a worker tells in a line: a pair of its own, or what a library has printed.

    Example:
        >>> message(b'["say", "a word"]'), message(b"42"), message(b'["a", "b", "c"]')
        (('say', 'a word'), ('printed', '42'), ('printed', '["a", "b", "c"]'))
    """
    text = line.decode(errors="replace").rstrip()
    try:
        kind, content = json.loads(text)
    except (ValueError, TypeError):
        return "printed", text
    return (kind, content) if isinstance(kind, str) else ("printed", text)


@contextlib.contextmanager
def _bound(cores: list[int]) -> Iterator[None]:
    """Binds the processes that this thread starts: JAX has as many threads as it finds cores."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def main() -> int:
    """Does one worker's work. Returns 0, 2 for bad input, 130 if interrupted."""
    running.keep_freed_memory()
    # Slurm announces a job's limit with SIGUSR2 to every process of it.
    running.leave_on(signal.SIGTERM, signal.SIGUSR2)
    try:
        work: Callable[[], None] = pickle.load(sys.stdin.buffer)
        work()
    except InvalidInput as error:
        _tell("problems", list(error.problems))
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _work(study: Study, fork_width: int, deadline: float, scope: Scope) -> None:
    use_code(study.spec)
    callbacks = Callbacks(
        report=lambda name, entry: _tell("epoch", [name, entry]),
        say=functools.partial(_tell, "say"),
        stop=running.stop_at(deadline),
    )
    scheduler.work(Trainer(study, callbacks), asked_width=fork_width, scope=scope)


def _time_steps(spec: RunSpec) -> None:
    use_code(spec)
    seconds: dict[str, float] = {}
    for each in map(spec.at, spec.settings()):
        engine_id = engines.engine_id(each)
        if engine_id not in seconds:
            task = tasks.build(each, data.read(each.data))
            seconds[engine_id] = engines.build(each, task).step_seconds()
    _tell("seconds", seconds)


def _tell(kind: str, content: Any) -> None:
    try:
        print(json.dumps([kind, content]), flush=True)
    except BrokenPipeError:
        # Nobody listens any more: whoever started this worker is gone.
        raise KeyboardInterrupt from None


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Threads of a checkpoint that was being written would hold a normal exit for minutes.
    os._exit(code)
