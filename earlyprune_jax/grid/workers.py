"""Worker processes on this machine: each bound to its share of the cores, replaced when it dies.

A worker does what any process does that shares a workdir. It gets its work on stdin and tells on
stdout, a pickle at a time, what its user is to see. The pool has a thread for each. Stdin stays
open as long as the parent lives, and a worker never outlives that.
"""

import contextlib
import functools
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NoReturn

from earlyprune_jax import data, leaving, tasks
from earlyprune_jax.grid import options as running
from earlyprune_jax.grid import scheduler
from earlyprune_jax.grid.scheduler import EVERYTHING, Scope
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import Callbacks, Trainer
from earlyprune_jax.leaving import BAD_INPUT
from earlyprune_jax.spec import RunSpec, use_code
from earlyprune_jax.storage import StorageError
from earlyprune_jax.training import budget
from earlyprune_jax.training import engine as engines
from earlyprune_jax.validate import InvalidInput, refuse
from earlyprune_jax.xla_flags import avoid_miscompilation

MOST_DEATHS = 8
"""A worker that is killed so often in a row, and has told nothing in between, is given up.

More than `study.MOST_ATTEMPTS`, so that a member that kills its process is recorded as failed
before that.
"""

TOLD = ("report", "say", "end", "do")
"""The callbacks of a worker that its pool's user hears."""

COMMAND = (sys.executable, "-c", "import earlyprune_jax.grid.workers as own; own.main()")
HELD_BACK = (signal.SIGINT, signal.SIGUSR2)
"""Go to every process of a terminal or a Slurm job. A worker leaves them to its parent, which takes
it along."""


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
        options: running.Options,
        deadline: float,
        scope: Scope = EVERYTHING,
    ):
        self._callbacks, self._num_workers = callbacks, options.num_workers
        study = Study(study.spec, study.workdir.absolute())
        work = functools.partial(_work, study, options.fork_width, deadline, scope)
        self._request = pickle.dumps(work)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._problems: list[str] = []
        self._lock, self._is_stopping = threading.Lock(), False

    def run(self) -> None:
        """Works until every worker has nothing left to do, or was given up.

        Raises:
            InvalidInput: a worker could not use its input.
            StorageError: a worker could not write.
        """
        parts = running.shares(running.usable_cores(), self._num_workers)
        with ThreadPoolExecutor(len(parts)) as threads:
            try:
                workers = [threads.submit(self._keep, *each) for each in enumerate(parts)]
                for ended in as_completed(workers):
                    ended.result()
            finally:
                self._stop()
        refuse(self._problems)

    def _keep(self, index: int, cores: list[int]) -> None:
        """Has a worker, and another if it was killed, until one has left or cannot work."""
        _bind(cores)
        deaths = 0
        while True:
            with self._lock:
                if self._is_stopping:
                    return
                process = self._processes[index] = self._start()
            with _leash(process):
                deaths = 1 if self._listen(process) else deaths + 1
                code = process.wait()
            if code in (0, BAD_INPUT) or self._is_stopping or self._callbacks.stop():
                return
            end = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            if code >= 0 or deaths == MOST_DEATHS:
                why = f"{end}, its end no. {deaths} in a row"
                self._callbacks.say(f"Worker {index} is given up ({why}); see above.")
                return
            self._callbacks.say(f"Worker {index} died ({end}); another takes its place.")

    @staticmethod
    def _start() -> subprocess.Popen[bytes]:
        environment, pipe = os.environ | {"JAX_PLATFORMS": "cpu"}, subprocess.PIPE
        process = subprocess.Popen(COMMAND, stdin=pipe, stdout=pipe, env=environment)
        leaving.children.append(process)
        return process

    def _listen(self, process: subprocess.Popen[bytes]) -> int:
        """Gives a worker its work, passes on what it tells, and counts that."""
        assert process.stdin is not None and process.stdout is not None
        count = 0
        # Where it died at once, or in the middle of a word, its exit is what counts.
        died = contextlib.suppress(BrokenPipeError, EOFError, pickle.UnpicklingError)
        with process.stdout, died:
            process.stdin.write(self._request)
            process.stdin.flush()
            while True:
                kind, *content = pickle.load(process.stdout)
                # Begun is not done.
                count += kind != "do"
                with self._lock:
                    if kind == "problems":
                        self._problems += content
                    elif kind == "storage":
                        raise content[0]
                    else:
                        getattr(self._callbacks, kind)(*content)
        return count

    def _stop(self) -> None:
        with self._lock:
            self._is_stopping = True
        for process in self._processes.values():
            process.kill()
            process.wait()


def step_seconds(spec: RunSpec, cores: list[int]) -> dict[str, float]:
    """Times a training step of every network in a process that may use some cores.

    Args:
        spec: of any number of settings.
        cores: numbers of these.

    Returns:
        `engine_id` -> seconds.
    """
    with ThreadPoolExecutor(1, initializer=_bind, initargs=(cores,)) as thread:
        process = thread.submit(Pool._start).result()
    assert process.stdin is not None and process.stdout is not None
    with _leash(process), process.stdout:
        pickle.dump(functools.partial(_time_steps, spec), process.stdin)
        process.stdin.flush()
        (seconds,) = pickle.load(process.stdout)
        process.wait()
    return seconds


@contextlib.contextmanager
def _leash(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Closes a worker's stdin in the end, at which it leaves if it has not."""
    try:
        yield
    finally:
        leaving.children[:] = [child for child in leaving.children if child is not process]
        # What a dead one has not read cannot be written any more.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]


def _bind(cores: list[int]) -> None:
    """Binds this thread, and the processes that it starts, which also take over what it holds back:
    JAX has a thread for each of a process's cores."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def main() -> NoReturn:
    """Does one worker's work, and ends the process: code 0, or 2 for bad input."""
    running.keep_freed_memory()
    avoid_miscompilation()
    sink = os.fdopen(os.dup(1), "wb")
    # What a library prints must not come between the pickles: it goes to standard error.
    os.dup2(2, 1)
    leaving.keep_streams()
    threading.Thread(target=_leave_with_parent, daemon=True).start()

    def tell(*message: Any) -> None:
        try:
            pickle.dump(message, sink)
            sink.flush()
        except BrokenPipeError:
            leaving.leave(leaving.TERMINATED)  # Nobody listens any more.

    try:
        work = pickle.load(sys.stdin.buffer)
    except (EOFError, pickle.UnpicklingError):
        leaving.leave(leaving.TERMINATED)  # The parent has left before it had said all.
    try:
        work(tell)
    except InvalidInput as error:
        tell("problems", *error.problems)
        leaving.leave(BAD_INPUT)
    except StorageError as error:
        tell("storage", error)
        leaving.leave(leaving.STORAGE)
    leaving.leave(leaving.DONE)


def _leave_with_parent() -> None:
    """Waits until nobody holds the other end of stdin, and ends the process."""
    parent = select.poll()
    # No events: what there is to be read is of no interest, and a hang-up is always told.
    parent.register(0, 0)
    parent.poll()
    leaving.leave(leaving.TERMINATED)


def _work(
    study: Study, fork_width: int, deadline: float, scope: Scope, tell: Callable[..., None]
) -> None:
    use_code(study.spec)
    report, say, end, do = (functools.partial(tell, kind) for kind in TOLD)
    callbacks = Callbacks(report, say, running.stop_at(deadline), end, do)
    scheduler.work(Trainer(study, callbacks), asked_width=fork_width, scope=scope)


def _time_steps(spec: RunSpec, tell: Callable[..., None]) -> None:
    use_code(spec)
    seconds: dict[str, float] = {}
    for each in map(spec.at, spec.settings()):
        if (engine_id := engines.engine_id(each)) not in seconds:
            task = tasks.build(each, data.read(each.data))
            seconds[engine_id] = budget.step_seconds(engines.Engine(each, task))
    tell(seconds)
