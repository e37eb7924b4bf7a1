"""How a pool takes what its workers say and how they end: scripted processes in the workers'
places."""

import dataclasses
import subprocess
import sys

import pytest
from tiny import tiny_experiment

from earlyprune_jax import config
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import SILENT
from earlyprune_jax.grid.workers import MOST_DEATHS, Pool
from earlyprune_jax.validate import InvalidInput

DIE = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
LEAVE = "pass"


def tell(message: tuple) -> str:
    return f"import pickle, sys; pickle.dump({message!r}, sys.stdout.buffer); sys.stdout.flush(); "


class Scripted(Pool):
    """A pool of one, each of whose workers runs the next of some programs."""

    def __init__(self, study: Study, programs: list[str]):
        self.said, self.started = [], 0
        self._programs = programs
        callbacks = dataclasses.replace(SILENT, say=self.said.append)
        super().__init__(study, callbacks, Options(), 0.0)

    def _start(self):  # pyright: ignore[reportIncompatibleMethodOverride]
        program = self._programs[self.started]
        self.started += 1
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe)


@pytest.fixture
def study(tiny_npz, tmp_path):
    return Study(
        config.resolve(tiny_experiment(tiny_npz), [("fork.retraining", "constant")]), tmp_path
    )


@pytest.mark.parametrize("begun", ["", tell(("do", "compiling train_step"))])
def test_a_worker_that_dies_over_and_over_is_given_up(study, begun):
    own = Scripted(study, [begun + DIE] * 20)
    own.run()
    assert own.started == MOST_DEATHS
    assert f"given up (SIGKILL, its end no. {MOST_DEATHS} in a row)" in own.said[-1]


@pytest.mark.parametrize("progress", [("report", "a fork", {"epoch": 1}), ("say", "it failed")])
def test_deaths_are_counted_anew_after_progress(study, progress):
    few = [DIE] * (MOST_DEATHS - 2)
    own = Scripted(study, [*few, tell(progress) + DIE, *few, LEAVE])
    own.run()
    assert own.started == 2 * len(few) + 2
    assert not any("given up" in sentence for sentence in own.said)


def test_a_worker_that_dies_in_the_middle_of_a_word_is_replaced(study):
    own = Scripted(study, [f"import sys; print('\\x80\\x05X', end='', flush=True); {DIE}", LEAVE])
    own.run()
    assert own.said == ["Worker 0 died (SIGKILL); another takes its place."]


def test_the_problems_of_bad_input_are_raised_once_and_the_worker_is_not_replaced(study):
    problems = tell(("problems", "one", "two", "one"))
    own = Scripted(study, [f"{problems} sys.exit(2)"])
    with pytest.raises(InvalidInput) as caught:
        own.run()
    assert caught.value.problems == ("one", "two")


def test_what_a_callback_raises_ends_the_workers(study):
    own = Scripted(study, [f"{tell(('say', 1, 2))} import time; time.sleep(600)"])
    with pytest.raises(TypeError):
        own.run()
    assert own.started == 1
