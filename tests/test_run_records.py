"""Every change of a record is found; what is sound before it is kept."""

import json
import shutil

import pytest

from earlyprune_jax import records
from earlyprune_jax.run_records import RunRecords
from earlyprune_jax.validate import InvalidInput


@pytest.fixture
def run(tmp_path):
    """A finished run of six epochs that starts after epoch 10, and another one beside it."""
    for name in ("one", "other"):
        made = RunRecords(tmp_path / "forks" / name)
        made.start({"kind": "fork", "first_epoch": 10, "sparsity": 0.5})
        for epoch in range(11, 17):
            made.append({"epoch": epoch, "test_accuracy": epoch / 100 + 0.001 * len(name)})
        made.finish({"status": "finished", "epoch": 16})
    return RunRecords(tmp_path / "forks" / "one")


def edited_lines(edit):
    def change(path):
        lines = path.read_text().splitlines(keepends=True)
        edit(lines)
        path.write_text("".join(lines))

    return change


def replaced(old, new):
    return lambda path: path.write_text(path.read_text().replace(old, new, 1))


def of_the_other(path):
    shutil.copy(path.parent.parent / "other" / path.name, path)


def unsealed(path):
    """Rewritten by a program that does not know the checksums."""
    value = json.loads(path.read_text())
    del value["checksum"]
    path.write_text(json.dumps(value))


CHANGES = {
    "a line lost in the middle": ("metrics.jsonl", edited_lines(lambda lines: lines.pop(2))),
    "the first line lost": ("metrics.jsonl", edited_lines(lambda lines: lines.pop(0))),
    "the last line lost": ("metrics.jsonl", edited_lines(lambda lines: lines.pop())),
    "a line doubled": ("metrics.jsonl", edited_lines(lambda lines: lines.insert(2, lines[2]))),
    "the last line doubled": ("metrics.jsonl", edited_lines(lambda lines: lines.append(lines[5]))),
    "lines swapped": ("metrics.jsonl", edited_lines(lambda lines: lines.insert(1, lines.pop(3)))),
    "a digit": ("metrics.jsonl", replaced("0.13", "0.18")),
    "an epoch's number": ("metrics.jsonl", replaced('"epoch": 13', '"epoch": 14')),
    "NaN": ("metrics.jsonl", replaced("0.133", "NaN")),
    "a checksum's digit": ("metrics.jsonl", replaced('"checksum": "', '"checksum": "0')),
    "a key behind a line's checksum": (
        "metrics.jsonl",
        edited_lines(lambda lines: lines.append(lines.pop()[:-2] + ', "test_accuracy": 0.9}\n')),
    ),
    "a key behind a checksum": ("result.json", replaced("\n}", ',\n  "status": "diverged"\n}')),
    "a line without checksum": (
        "metrics.jsonl",
        edited_lines(lambda lines: lines.append('{"epoch": 17}\n')),
    ),
    "all lines of another run": ("metrics.jsonl", of_the_other),
    "no metrics": ("metrics.jsonl", lambda path: path.unlink()),
    "empty metrics": ("metrics.jsonl", lambda path: path.write_text("")),
    "a result of another run": ("result.json", of_the_other),
    "another status": ("result.json", replaced("finished", "diverged")),
    "a result without checksum": ("result.json", unsealed),
    "half a result": ("result.json", lambda path: path.write_text(path.read_text()[:20])),
    "a result that is a list": ("result.json", lambda path: path.write_text("[]")),
    "a description of another run": ("run.json", of_the_other),
    "another sparsity": ("run.json", replaced("0.5", "0.9")),
    "no description": ("run.json", lambda path: path.unlink()),
    "a deep description": ("run.json", lambda path: path.write_text("[" * 100_000)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_found_set_aside_and_what_is_before_it_kept(run, name):
    before, (file, change) = run.epochs(), CHANGES[name]
    change(run.directory / file)
    run = RunRecords(run.directory)
    with pytest.raises(InvalidInput, match=file):
        run.read()
    (problem, *_) = run.mend()
    assert file in problem
    again = RunRecords(run.directory)
    sound = again.epochs()
    # All that comes before the first change, and nothing else.
    assert sound == before[: len(sound)]
    # A result stays that was written after just these.
    assert (again.result() is not None) == (file == "metrics.jsonl" and len(sound) == 6)
    # The run can be described, go on, and end as if nothing had been.
    again.start({"kind": "fork", "first_epoch": 10, "sparsity": 0.5})
    for entry in before[len(sound) :]:
        again.append(entry)
    again.finish({"status": "finished", "epoch": 16})
    assert again.mend() == [] and again.read().epochs == before


def test_the_last_line_of_a_finished_run_is_that_of_its_result(run):
    lines = (run.directory / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run.directory / "metrics.jsonl").write_text("".join(lines[:-1]))
    # What is left is sound by itself.
    assert len(RunRecords(run.directory).epochs()) == 5
    with pytest.raises(InvalidInput, match="after which result.json was written"):
        RunRecords(run.directory).read()


def test_a_torn_last_line_is_a_crash_and_no_damage(run):
    run.forget_result()
    with (run.directory / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 17')
    assert RunRecords(run.directory).mend() == []
    assert len(RunRecords(run.directory).read().epochs) == 6


def test_a_workdir_that_was_moved_is_sound(run, tmp_path):
    shutil.copytree(tmp_path / "forks", tmp_path / "elsewhere" / "forks")
    assert len(RunRecords(tmp_path / "elsewhere" / "forks" / "one").read().epochs) == 6


def test_a_record_that_is_no_file_is_refused_and_not_set_aside(run):
    (run.directory / "result.json").unlink()
    (run.directory / "result.json").mkdir()
    with pytest.raises(InvalidInput, match="result.json"):
        run.mend()


def test_a_study_record_may_be_moved_but_stands_for_no_other(tmp_path):
    records.write_json(tmp_path / "plan.json", {"cells": []})
    shutil.copy(tmp_path / "plan.json", tmp_path / "env.json")
    with pytest.raises(InvalidInput, match=r"env.json.* checksum"):
        records.read_json(tmp_path / "env.json")
    (tmp_path / "forks" / "deep").mkdir(parents=True)
    moved = (tmp_path / "plan.json").rename(tmp_path / "forks" / "deep" / "plan.json")
    assert records.read_json(moved) == {"cells": []}


def of_data(directory, digest, accuracy):
    made = RunRecords(directory)
    made.start({"kind": "fork", "first_epoch": 0, "data_sha256": digest})
    made.append({"epoch": 1, "test_accuracy": accuracy})
    made.append({"epoch": 2, "test_accuracy": accuracy})
    made.finish({"status": "finished", "epoch": 2})
    return made


def test_records_of_a_run_of_the_same_name_on_other_data_are_found(tmp_path):
    ours = of_data(tmp_path / "a" / "forks" / "run", "aa", 0.5)
    theirs = of_data(tmp_path / "b" / "forks" / "run", "bb", 0.9)
    assert [entry["test_accuracy"] for entry in ours.read().epochs] == [0.5, 0.5]
    for name in ("metrics.jsonl", "result.json"):
        shutil.copy(theirs.directory / name, ours.directory)
    with pytest.raises(InvalidInput, match="to be of the data that run.json names"):
        RunRecords(ours.directory).read()
    assert RunRecords(ours.directory).mend()
    assert RunRecords(ours.directory).read().epochs == []
    # Without epochs, such as a comparison: the result alone says it.
    for run in (ours, theirs):
        (run.directory / "metrics.jsonl").unlink(missing_ok=True)
        RunRecords(run.directory).finish({"status": "finished"})
    shutil.copy(theirs.directory / "result.json", ours.directory)
    with pytest.raises(InvalidInput, match="to be of the data that run.json names"):
        RunRecords(ours.directory).read()
