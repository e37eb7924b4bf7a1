"""How a pool takes what its workers say and how they end: scripted processes in the workers'
places."""

import subprocess
import sys
import threading

import pytest
from tiny import tiny_experiment

from earlyprune_jax import config
from earlyprune_jax.grid import workers
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import Callbacks
from earlyprune_jax.grid.workers import MOST_DEATHS, Pool

DIE = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
LEAVE = "pass"


def tell(line: str) -> str:
    return f"print({line!r}, flush=True); {DIE}"


class Scripted(Pool):
    """A pool of one, each of whose workers runs the next of some programs."""

    def __init__(self, study: Study, programs: list[str]):
        self.said, self.started = [], 0
        self._programs = programs
        callbacks = Callbacks(lambda name, entry: None, self.said.append, lambda: False)
        super().__init__(study, callbacks, Options(), 0.0)

    def _start(self, place, cores):
        program = self._programs[self.started]
        self.started += 1
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=pipe,
            stdout=pipe,
        )
        threading.Thread(target=self._listen, args=(place, process), daemon=True).start()
        return process


@pytest.fixture
def study(tiny_npz, tmp_path):
    return Study(
        config.resolve(tiny_experiment(tiny_npz), [("fork.retraining", "constant")]), tmp_path
    )


def test_a_worker_that_dies_over_and_over_is_given_up(study):
    own = Scripted(study, [DIE] * 20)
    own.run()
    assert own.started == MOST_DEATHS
    assert f"given up (SIGKILL, its end no. {MOST_DEATHS} in a row)" in own.said[-1]


def test_what_a_library_prints_is_no_progress(study):
    own = Scripted(study, [tell("a warning")] * 20)
    own.run()
    assert own.started == MOST_DEATHS


@pytest.mark.parametrize(
    "progress", ['["epoch", ["a fork", {"epoch": 1}]]', '["say", "it failed"]']
)
def test_deaths_are_counted_anew_after_progress(study, progress):
    few = [DIE] * (MOST_DEATHS - 2)
    own = Scripted(study, [*few, tell(progress), *few, LEAVE])
    own.run()
    assert own.started == 2 * len(few) + 2
    assert not any("given up" in sentence for sentence in own.said)


def test_a_librarys_own_words_are_passed_on_whatever_they_are(study):
    program = r"import sys; sys.stdout.buffer.write(b'42\n\xff\n[1, 2]\nnull\n')"
    own = Scripted(study, [program])
    own.run()
    assert own.said == ["42", "\ufffd", "[1, 2]", "null"]


def test_the_end_of_a_worker_is_heard_of_though_listening_fails(study, monkeypatch):
    def fail(line):
        raise ValueError(line)

    monkeypatch.setattr(workers, "message", fail)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    own = Scripted(study, ["print('x')"])
    own.run()
    assert own.started == 1
