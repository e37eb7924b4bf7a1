"""Worker processes on this machine: each bound to its share of the cores, replaced when it dies.

A worker does what any process does that shares a workdir. It gets its work on stdin and tells on
stdout, a pickle at a time, what its user is to see. The pool has a thread for each.

python -m earlyprune_jax.grid.workers < work
"""

import contextlib
import functools
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from earlyprune_jax import data, tasks
from earlyprune_jax.grid import options as running
from earlyprune_jax.grid import scheduler
from earlyprune_jax.grid.scheduler import EVERYTHING, Scope
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import Callbacks, Trainer
from earlyprune_jax.spec import RunSpec, use_code
from earlyprune_jax.storage import EXIT_CODE, StorageError
from earlyprune_jax.training import budget
from earlyprune_jax.training import engine as engines
from earlyprune_jax.validate import BAD_INPUT, InvalidInput, refuse
from earlyprune_jax.xla_flags import avoid_miscompilation

MOST_DEATHS = 8
"""A worker that is killed so often in a row, and has told nothing in between, is given up.

More than `study.MOST_ATTEMPTS`, so that a member that kills its process is recorded as failed
before that.
"""

TOLD = ("report", "say", "end", "do")
"""The callbacks of a worker that its pool's user hears."""

COMMAND = (sys.executable, "-m", "earlyprune_jax.grid.workers")
INTERRUPTED = 130
SECONDS_TO_LEAVE = 30


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
            deaths = 1 if self._listen(process) else deaths + 1
            code = process.wait()
            if code in (0, BAD_INPUT) or self._is_stopping or self._callbacks.stop():
                return
            end = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            if not (code < 0 or code == INTERRUPTED) or deaths == MOST_DEATHS:
                why = f"{end}, its end no. {deaths} in a row"
                self._callbacks.say(f"Worker {index} is given up ({why}); see above.")
                return
            self._callbacks.say(f"Worker {index} died ({end}); another takes its place.")

    def _start(self) -> subprocess.Popen[bytes]:
        environment, pipe = os.environ | {"JAX_PLATFORMS": "cpu"}, subprocess.PIPE
        return subprocess.Popen(COMMAND, stdin=pipe, stdout=pipe, env=environment)

    def _listen(self, process: subprocess.Popen[bytes]) -> int:
        """Gives a worker its work, passes on what it tells, and counts that."""
        assert process.stdin is not None and process.stdout is not None
        count = 0
        # Where it died at once, or in the middle of a word, its exit is what counts.
        died = contextlib.suppress(BrokenPipeError, EOFError, pickle.UnpicklingError)
        with process.stdout, died:
            with process.stdin:
                process.stdin.write(self._request)
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
            process.terminate()
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_LEAVE)
            process.kill()


def step_seconds(spec: RunSpec, cores: list[int]) -> dict[str, float]:
    """Times a training step of every network in a process that may use some cores.

    Args:
        spec: of any number of settings.
        cores: numbers of these.

    Returns:
        `engine_id` -> seconds.
    """
    work = pickle.dumps(functools.partial(_time_steps, spec))
    time_steps = functools.partial(subprocess.run, COMMAND, input=work, stdout=subprocess.PIPE)
    with ThreadPoolExecutor(1, initializer=_bind, initargs=(cores,)) as thread:
        (seconds,) = pickle.loads(thread.submit(time_steps, check=True).result().stdout)
    return seconds


def _bind(cores: list[int]) -> None:
    """Binds this thread, and the processes that it starts: JAX has a thread for each of a process's
    cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def main() -> int:
    """Does one worker's work. Returns 0, 2 for bad input, 130 if interrupted."""
    running.keep_freed_memory()
    avoid_miscompilation()
    # Slurm announces a job's limit with SIGUSR2 to every process of it.
    running.leave_on(signal.SIGTERM, signal.SIGUSR2)
    sink = os.fdopen(os.dup(1), "wb")
    # What a library prints must not come between the pickles: it goes to standard error.
    os.dup2(2, 1)

    def tell(*message: Any) -> None:
        try:
            pickle.dump(message, sink)
            sink.flush()
        except BrokenPipeError:
            # Nobody listens any more: whoever started this worker is gone.
            raise KeyboardInterrupt from None

    try:
        pickle.load(sys.stdin.buffer)(tell)
    except InvalidInput as error:
        tell("problems", *error.problems)
        return BAD_INPUT
    except StorageError as error:
        tell("storage", error)
        return EXIT_CODE
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


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


if __name__ == "__main__":
    running.leave(main())
