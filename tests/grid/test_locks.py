"""Locks on members: one holder at a time, free again when it dies."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from members import trunk

from configs import digits
from earlyprune_jax import config
from earlyprune_jax.grid.locks import RunLocks, forget_attempts, held
from earlyprune_jax.grid.study import Study
from earlyprune_jax.records import write_json
from earlyprune_jax.storage import StorageError
from earlyprune_jax.validate import InvalidInput

HOLDER = """
    import sys, time
    from pathlib import Path
    from earlyprune_jax.grid.locks import RunLocks
    claim = RunLocks()
    print(claim.take(Path(sys.argv[1])), flush=True)
    time.sleep(600)
"""


def start_holder(directory):
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_another_process_cannot_take_what_is_held_until_its_holder_is_killed(tmp_path):
    process, took = start_holder(tmp_path / "run")
    try:
        assert took == "True"
        own = RunLocks()
        assert not own.take(tmp_path / "run")
        assert own.take(tmp_path / "other")
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert own.take(tmp_path / "run")
        own.close()
    finally:
        process.kill()
        if process.stdout:
            process.stdout.close()


def test_waiting_for_a_lock_ends_when_it_is_released(tmp_path):
    with held(tmp_path):
        pass
    with held(tmp_path):
        assert not RunLocks().take(tmp_path)


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.ENOLCK, InvalidInput, "to be on a file system with file locks"),
        (errno.ETIMEDOUT, StorageError, "timed out"),
    ],
)
def test_a_lock_that_the_file_system_refuses_is_named(tmp_path, monkeypatch, code, kind, words):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(kind, match=words):
        RunLocks().take(tmp_path)


def test_a_process_that_is_told_to_leave_has_not_died_and_others_attempts_stay(tmp_path):
    study = Study(config.resolve(digits.get_config()), tmp_path)
    own, other = trunk(), trunk(1)
    for member in (own, other):
        study.directory(member).mkdir(parents=True)
    study.records(own).attempt(0)
    write_json(study.directory(other) / "attempts.json", {"process": "elsewhere:1"})
    forget_attempts(tmp_path, {os.getpid() + 1})
    assert study.records(own).has_attempts()
    forget_attempts(tmp_path, {os.getpid()})
    assert not study.records(own).has_attempts() and study.records(other).has_attempts()


def test_attempts_count_only_those_that_got_nowhere(tmp_path):
    study, member = Study(config.resolve(digits.get_config()), tmp_path), trunk()
    study.directory(member).mkdir(parents=True)
    assert [study.records(member).attempt(epochs) for epochs in (0, 0, 2, 2, 2)] == [1, 2, 1, 2, 3]
    assert study.records(member).has_attempts()
    study.records(member).forget_attempts()
    assert study.records(member).attempt(2) == 1
    study.records(member).forget_attempts()
    study.records(member).forget_attempts()
    assert not study.records(member).has_attempts()
