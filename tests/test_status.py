"""`earlyprune status`: of handwritten results under real plans."""

import fcntl
import json
import os
import platform
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest
from tiny import linear_experiment

from earlyprune_jax import cli, config, workspace
from earlyprune_jax.grid import members, plan
from earlyprune_jax.grid.locks import RunLocks, holders, is_held
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.study import Study
from earlyprune_jax.metrics import duration
from earlyprune_jax.records import write_json
from earlyprune_jax.status import reading
from earlyprune_jax.status.command import main

GRID = [("train.seeds", "0,1"), ("fork.epochs", "1,3"), ("pruning.sparsities", "0.5,0.9")]
ROW = "magnitude global 0.5 paper_a"
EPOCHS = {"trunk": 4, 1: 3, 3: 1}
"""Trained by a trunk, and by forks of epochs 1 and 3 under paper_a: T in all."""


@pytest.fixture
def begin(tiny_npz, tmp_path):
    """Makes a workdir of two trunks and eight forks, in which nothing has been trained."""

    def begun(*changes):
        study = Study(config.resolve(linear_experiment(tiny_npz), [*GRID, *changes]), tmp_path)
        workspace.describe(study, Options(), {})
        return study

    return begun


def end(study, member, *, validation=None, test=0.5, seconds=1.0, **more):
    scores = {"validation_accuracy": validation, "test_accuracy": test, "test_loss": 1 - test}
    result = {"status": "finished", "epoch": 4, "seconds": seconds, "last": scores} | more
    study.directory(member).mkdir(parents=True, exist_ok=True)
    write_json(study.directory(member) / "result.json", result)


def trunks(study):
    return [one for one in plan.members(study.spec) if isinstance(one, members.Trunk)]


def forks(study, epoch, sparsity=0.5):
    every = (one for one in plan.members(study.spec) if isinstance(one, members.Fork))
    return [one for one in every if (one.fork_epoch, one.sparsity) == (epoch, sparsity)]


def shown(study, capsys):
    assert main([str(study.workdir)]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_plan_names_every_member_of_the_grid_once(begin):
    study = begin(("fork.num_replicates", "2"), ("fork.comparisons", "disagreement"))
    listed = [path for cell in reading.read(study.workdir).cells or () for path in cell.members]
    assert sorted(listed) == sorted(
        members.directory(study.spec, member) for member in plan.members(study.spec)
    )


def test_members_are_counted_by_how_they_stand(begin, capsys):
    study = begin()
    (first, second), (lost, failed) = trunks(study), forks(study, 1)
    end(study, first)
    end(study, lost, status="diverged", epoch=2)
    end(study, failed, status="failed", reason="RuntimeError: out of memory")
    with RunLocks() as locks:
        locks.take(study.directory(second))
        study.records(second).attempt(0)
        study.directory(forks(study, 3)[0]).mkdir(parents=True)
        text = shown(study, capsys)
    assert text[:2] == [
        "trunks       1 of 2 done, 1 running",
        "forks        0 of 8 done, 1 diverged, 1 failed, 6 left (1 interrupted)",
    ]
    assert f"diverged in epoch 2: forks/{study.directory(lost).name}" in text
    assert any(line.endswith("out of memory") for line in text)
    assert shown(study, capsys)[0] == "trunks       1 of 2 done, 1 left (1 interrupted)"


def test_the_best_epoch_has_the_best_mean_on_validation_and_is_shown_on_test(begin, capsys):
    study = begin()
    for epoch, values in {1: [(0.5, 0.9), (0.7, 0.9)], 3: [(0.9, 0.4), (0.5, 0.6)]}.items():
        for fork, (validation, test) in zip(forks(study, epoch), values, strict=True):
            end(study, fork, validation=validation, test=test)
    text = shown(study, capsys)
    assert "Best so far by mean test accuracy (chosen on validation):" in text
    assert f"  {ROW}  at 3     50.00 %  (n = 2 of 2)" in text


def test_without_a_validation_split_it_is_chosen_on_test_and_says_so(begin, capsys):
    study = begin()
    for epoch, test in ((1, 0.9), (3, 0.6)):
        end(study, forks(study, epoch)[0], test=test)
    text = "\n".join(shown(study, capsys))
    assert "(chosen on the same test metric: there is no validation split)" in text
    assert f"  {ROW}  at 1     90.00 %  (n = 1 of 2)" in text


def test_of_a_metric_that_should_be_small_the_smallest_is_best(begin, capsys):
    study = begin()
    path = study.workdir / "study.json"
    write_json(path, json.loads(path.read_text()) | {"primary": "loss"})
    for epoch, test in ((1, 0.9), (3, 0.6)):
        end(study, forks(study, epoch)[0], test=test)
    assert f"  {ROW}  at 1    0.1 nats  (n = 1 of 2)" in shown(study, capsys)


def test_time_left_is_seconds_an_epoch_times_epochs_left_shared_by_processes(begin, capsys):
    study = begin()
    first, second = trunks(study)
    end(study, first, seconds=4 * 600.0)
    until = "Time left: not known until one of the forks has finished and says how long it took."
    assert shown(study, capsys)[-1] == until
    end(study, forks(study, 1)[0], seconds=3 * 1200.0)
    # The second trunk at 10 min an epoch, seven forks at 20 min: one of epoch 1 and two of epoch 3
    # in this row, two each in the other.
    minutes = 4 * 10 + 20 * (3 + 2 * 1 + 2 * 3 + 2 * 1)
    about = f"Time left: about {duration(60 * minutes)}"
    assert shown(study, capsys)[-1] == f"{about} for one process, but none is at work."
    with RunLocks() as locks:
        locks.take(study.directory(second))
        study.records(second).attempt(0)
        half = f"Time left: about {duration(60 * (minutes - 20))} for the process at work."
        assert shown(study, capsys)[-1] == half
        assert locks.take(other := study.directory(forks(study, 3)[0]))
        write_json(other / "attempts.json", {"process": "elsewhere:1"})
        shared = f"Time left: about {duration(60 * (minutes - 20 - 10) / 2)} for the 2 processes"
        text = shown(study, capsys)
        assert text[-1] == f"{shared} at work."
        own = f"{platform.node()}:{os.getpid()}"
        assert f"At work (host:process): {', '.join(sorted([own, 'elsewhere:1']))}." in text
        assert holders(study.workdir) == sorted([own, "elsewhere:1"])
    assert holders(study.workdir) == []


def test_of_a_search_only_the_most_there_may_be_is_told(begin, capsys):
    study = begin(("fork.search", "coarse_to_fine"), ("data.validation_fraction", "0.2"))
    end(study, trunks(study)[0])
    text = shown(study, capsys)
    assert text[:2] == ["trunks       1 of at most 2 done", "forks        0 of at most 8 done"]
    assert text[-1] == "Time left: unknown, because the number of runs is unknown."


def test_members_of_a_larger_grid_before_are_counted_apart(begin, capsys):
    study = begin()
    for fork in (*forks(study, 1), *forks(study, 3)):
        end(study, fork)
    text = shown(begin(("fork.epochs", "1")), capsys)
    assert text[1:3] == ["forks        2 of 4 done, 2 left", f"{'':<12} 2 more, of earlier grids"]


def test_a_trunk_that_its_trigger_has_stopped_is_not_shown_as_dense(begin, capsys):
    study = begin()
    whole, stopped = trunks(study)
    end(study, stopped, test=0.25, fired={"epoch": 2, "marked_epoch": 1, "reason": ""})
    assert not any("dense" in line for line in shown(study, capsys))
    end(study, whole, test=0.75)
    (dense,) = (line for line in shown(study, capsys) if "dense" in line)
    assert dense.split(maxsplit=1)[1] == "75.00 %  (n = 1 of 2)"


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", '{"status": "fini', "[" * 10_000])
def test_a_damaged_result_is_named_and_the_others_are_counted(begin, capsys, content):
    study = begin()
    good, bad = trunks(study)
    end(study, good)
    end(study, bad)
    (study.directory(bad) / "result.json").write_text(content)
    text = shown(study, capsys)
    assert text[0] == "trunks       1 of 2 done, 1 damaged"
    (named,) = (line for line in text if line.startswith("damaged: "))
    assert study.directory(bad).name in named and "Restore the file" in named


@pytest.mark.parametrize("content", ["{}", "[]", '{"cells": [3], "search": "all"}', "{"])
def test_a_damaged_plan_is_a_sentence_and_exit_2(begin, capsys, content):
    workdir = begin().workdir
    (workdir / "plan.json").write_text(content)
    assert main([str(workdir)]) == 2
    (problem,) = capsys.readouterr().err.splitlines()
    assert f"Expected {workdir}/plan.json=" in problem and "Delete this file" in problem


def test_it_writes_nothing_and_reads_a_copy_that_cannot_be_written(begin, capsys):
    study = begin()
    end(study, trunks(study)[0])
    study.directory(trunks(study)[1]).mkdir(parents=True)
    before = {path: path.stat().st_mtime_ns for path in study.workdir.rglob("*")}
    shown(study, capsys)
    assert {path: path.stat().st_mtime_ns for path in study.workdir.rglob("*")} == before


def test_watching_ends_when_nothing_is_left(begin, capsys):
    study = begin()
    for member in plan.members(study.spec):
        end(study, member)
    assert main([str(study.workdir), "--watch"]) == 0
    assert "trunks       2 of 2 done" in capsys.readouterr().out


def test_a_search_has_ended_when_its_session_says_so_and_not_between_two_members(begin, capsys):
    changes = [("fork.search", "coarse_to_fine"), ("fork.max_cells", "1")]
    changes += [("data.validation_fraction", "0.2")]
    study = begin(*changes)

    def has_ended():
        workspace.close(study)
        return reading.read(study.workdir).has_ended()

    for trunk in trunks(study):
        end(study, trunk)
    assert not has_ended()
    for fork in forks(study, 1):
        end(study, fork, status="diverged", epoch=2)
    assert not reading.read(study.workdir).has_ended()
    assert has_ended()
    assert shown(study, capsys)[-1] == "Time left: nothing is left to train."
    begin(*changes)
    assert not reading.read(study.workdir).has_ended()
    begin(*changes, ("train.seeds", "0,1,2"))
    assert not has_ended(), "the plan is one of a larger grid by now"


def test_a_run_that_finishes_between_two_looks_is_not_called_interrupted(begin, monkeypatch):
    study = begin()
    trunk, _ = trunks(study)
    look = fcntl.flock

    def finish_then_look(file, kind):
        end(study, trunk)
        look(file, kind)

    study.directory(trunk).mkdir(parents=True)
    (study.directory(trunk) / ".lock").touch()
    monkeypatch.setattr(fcntl, "flock", finish_then_look)
    (found,) = reading.read(study.workdir).found.values()
    assert found.state == reading.FINISHED


def test_one_leaves_watching_by_ctrl_c_and_sees_the_cursor_again(begin):
    terminal, own = pty.openpty()
    command = [sys.executable, "-m", "earlyprune_jax", "status", "--watch", str(begin().workdir)]
    process = subprocess.Popen(
        command, stdout=own, stderr=subprocess.PIPE, env=os.environ | {"TERM": "xterm"}
    )
    os.close(own)
    shown = b""
    with os.fdopen(terminal, "rb", buffering=0) as file:
        while b"2 left" not in shown:
            shown += file.read(1024)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        shown = file.read(1024)
    assert (process.returncode, said) == (130, b"\nInterrupted.\n")
    assert shown.endswith(b"\x1b[?25h")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_a_pause_must_be_above_0(begin, capsys, seconds):
    assert main([str(begin().workdir), "--watch", f"--seconds={seconds}"]) == 2
    assert "Expected --seconds=" in capsys.readouterr().err


def test_who_looks_whether_a_lock_is_held_keeps_nobody_from_taking_it(tmp_path):
    is_over = threading.Event()

    def look():
        while not is_over.is_set():
            is_held(tmp_path)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(500):
            with RunLocks() as locks:
                assert locks.take(tmp_path)
                assert is_held(tmp_path)
    finally:
        is_over.set()
        for looker in lookers:
            looker.join()


def test_a_lock_is_not_asked_for_without_a_pause_while_somebody_looks(tmp_path, monkeypatch):
    pauses = []
    reader = (tmp_path / ".lock").open("w")
    fcntl.flock(reader, fcntl.LOCK_SH)
    # Without a pause it would end too, for the test's sake.
    late = threading.Timer(300, reader.close)
    late.start()
    monkeypatch.setattr(time, "sleep", lambda seconds: (pauses.append(seconds), reader.close()))
    with RunLocks() as locks:
        assert locks.take(tmp_path)
    late.cancel()
    assert len(pauses) == 1 and pauses[0] > 0


COMMANDS = ("status", "compare", "rules", "regimes")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["absent", "file", "empty", "foreign", "notes"])
def test_what_holds_no_study_is_one_sentence_and_exit_2(tmp_path, capsys, command, kind):
    bad = tmp_path / "bad"
    if kind == "file":
        bad.write_text("x")
    elif kind != "absent":
        bad.mkdir()
    if kind in ("foreign", "notes"):
        (bad / "notes.txt").write_text("x")
    if kind == "foreign":
        (bad / "config.json").write_text('{"another": "program"}')
    assert cli.main([command, str(bad)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert captured.err.startswith(f"- Expected DIR='{bad}' to ")
