"""What is damaged is found and named, record or checkpoint; what is sound is said to be."""

import os
import shutil

import pytest

from earlyprune_jax import config, experiment, verify
from earlyprune_jax.analysis.runs import read_runs
from earlyprune_jax.run_records import RunRecords
from earlyprune_jax.validate import InvalidInput
from tests.tiny import tiny_experiment


@pytest.fixture(scope="module")
def finished(tiny_npz, tmp_path_factory):
    """A trunk of four epochs and a fork."""
    workdir = tmp_path_factory.mktemp("verified") / "run"
    spec = config.resolve(tiny_experiment(tiny_npz), [("fork.epochs", "2")])
    experiment.run(spec, workdir)
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def test_a_sound_study_is_said_to_be_and_nothing_is_written(finished, capsys):
    os.utime(finished, (0, 0))
    assert verify.main([str(finished)]) == 0
    assert "2 runs" in (said := capsys.readouterr().out)
    assert said.endswith("All are sound.\n") and finished.stat().st_mtime == 0


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "study.json",
        "plan.json",
        "env.json",
        "trunks/*/run.json",
        "trunks/*/metrics.jsonl",
        "forks/*/result.json",
    ],
)
def test_a_damaged_record_is_named(workdir, capsys, name):
    (path,) = workdir.glob(name)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    code = verify.main([str(workdir)])
    said = capsys.readouterr()
    # Without study.json nobody can tell whether it is of this version.
    assert code == (2 if name == "study.json" else 1) and path.name in said.out + said.err


def test_damaged_and_exchanged_checkpoints_are_named(workdir, capsys):
    (checkpoints,) = workdir.glob("trunks/*/checkpoints")
    shutil.rmtree(checkpoints / "3")
    shutil.copytree(checkpoints / "4", checkpoints / "3")
    files = (path for path in (checkpoints / "1").rglob("*") if path.is_file())
    biggest = max(files, key=lambda path: path.stat().st_size)
    biggest.write_bytes(biggest.read_bytes()[:-9])
    assert verify.main([str(workdir)]) == 1
    said = capsys.readouterr().out
    assert said.count("\n- ") + said.startswith("- ") == 2
    assert "/checkpoints/1" in said and "/checkpoints/3" in said


def test_a_fork_that_started_from_other_weights_than_its_trunk_has_is_named(workdir, capsys):
    (directory,) = workdir.glob("forks/*/")
    run = RunRecords(directory)
    run.start((run.description() or {}) | {"parent_sha256": "0" * 64})
    assert verify.main([str(workdir)]) == 1
    assert "from which forks started" in capsys.readouterr().out


def test_a_lost_run_is_counted_and_an_earlier_version_refused(workdir, capsys):
    (directory,) = workdir.glob("forks/*/")
    shutil.rmtree(directory)
    assert verify.main([str(workdir)]) == 0
    assert "Of the planned runs 1 are not there" in capsys.readouterr().out
    (workdir / "study.json").unlink()
    assert verify.main([str(workdir)]) == 2
    assert "study.json' to exist" in capsys.readouterr().err
    (workdir / "study.json").write_text('{"format": 3}')
    assert verify.main([str(workdir)]) == 2
    assert "study.json=3 to be 5, that of this version" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_stands_in_place_of_the_checkpoints_is_named_and_the_rest_is_checked(
    workdir, capsys, kind
):
    store = next(workdir.glob("trunks/*/checkpoints"))
    whole = store.rename(workdir / "elsewhere")
    if kind == "file":
        store.write_text("x")
    else:
        store.symlink_to(whole)
    assert verify.main([str(workdir)]) == 1
    said = capsys.readouterr().out
    assert f"file='{store}' to be a file or folder of its own. It is a {kind}" in said
    assert "2 runs" in said


def test_a_run_of_another_study_of_the_same_data_is_named(workdir, capsys):
    (directory,) = workdir.glob("trunks/*/")
    run, other = RunRecords(directory).read(), RunRecords(directory.with_name("another"))
    assert run.description and run.result
    run.description["config"]["optim"]["momentum"] = 0.5
    other.start(run.description)
    for entry in run.epochs:
        other.append(entry)
    other.finish(run.result)
    with pytest.raises(InvalidInput, match=r"trunks/another.* has no optim.momentum=0.5"):
        read_runs(workdir)
    assert verify.main([str(workdir)]) == 1
    assert "to be of this study, which has no optim.momentum=0.5" in capsys.readouterr().out
