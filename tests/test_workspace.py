"""Whose a workdir is: of which program, version, study and code."""

import json
from pathlib import Path

import pytest
from tiny import linear_experiment, tiny_experiment

from configs import digits
from earlyprune_jax import cli, config, main, user_code, workspace
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.study import Study
from earlyprune_jax.validate import InvalidInput

READERS = ("status", "rules", "regimes", "compare", "verify")
pytestmark = pytest.mark.usefixtures("empty_figures")


@pytest.mark.parametrize(
    "name", ["regimes.csv", "regime_cells.csv", "regime_alignment.csv", "regime_baselines.csv"]
)
def test_tables_of_regimes_without_a_config_are_foreign(tmp_path, name):
    (tmp_path / name).write_text("precious")
    (problem,) = workspace.check(tmp_path, config.resolve(digits.get_config()))
    assert f"{name} without a study.json" in problem


@pytest.mark.parametrize("text", ['{"foo": 1}', '{"compilerOptions": {"strict": true}}'])
def test_a_config_of_another_program_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    (problem,) = workspace.check(tmp_path, config.resolve(digits.get_config()))
    assert "to hold none of config.json without a study.json" in problem


def test_of_two_studies_that_begin_in_a_directory_at_once_the_second_is_refused(tmp_path):
    first, second = (
        config.resolve(digits.get_config(), [("optim.momentum", value)]) for value in ("0.9", "0.5")
    )
    assert workspace.check(tmp_path, first) == workspace.check(tmp_path, second) == []
    begun(tmp_path, first)
    with pytest.raises(InvalidInput, match="optim.momentum: 0.9 there, 0.5 now"):
        begun(tmp_path, second)


def begun(workdir: Path, spec) -> None:
    """What a session leaves in a workdir before anything is trained."""
    workspace.describe(Study(spec, workdir), Options(), {})


@pytest.fixture
def resolve(tiny_npz):
    return lambda *changes: config.resolve(tiny_experiment(tiny_npz), list(changes))


DECAYS = ("sweep.optim.weight_decay", "0.0005,0.1")
GROWN = ("sweep.optim.weight_decay", "0.2,0.1,0.0005")


def test_a_sweep_may_grow_shrink_and_become_a_single_value(tmp_path, resolve):
    begun(tmp_path, resolve(DECAYS))
    for changes in (
        (GROWN,),
        (("optim.weight_decay", "0.1"),),
        (("sweep.rows", "[{'optim.weight_decay': 0.0005}]"),),
        (DECAYS, ("sweep.optim.momentum", "0.9,0.5")),
        (DECAYS, ("train.seeds", "5"), ("fork.epochs", "1"), ("pruning.criteria", "random")),
        (DECAYS, ("train.eval_batch_size", "3"), ("fork.trigger", "epoch(3)")),
    ):
        assert workspace.check(tmp_path, resolve(*changes)) == [], changes
    begun(tmp_path, resolve(GROWN))
    held = json.loads((tmp_path / "config.json").read_text())
    assert held["sweep"] == {"optim.weight_decay": [0.2, 0.1, 0.0005]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ("sweep.optim.weight_decay", "0.3,0.4"),
            "optim.weight_decay: 0.0005, 0.1 there, 0.3, 0.4 now",
        ),
        (
            ("sweep.optim.weight_decay", "0.0005,0.4"),
            "optim.weight_decay: 0.0005, 0.1 there, 0.0005, 0.4 now",
        ),
        (("fork.constant_num_epochs", "3"), "fork.constant_num_epochs: 10 there, 3 now"),
        (("sweep.optim.momentum", "0.5,0.6"), "optim.momentum: 0.9 there, 0.5, 0.6 now"),
        (("fork.when", "trigger"), 'fork.when: "epochs" there, "trigger" now'),
    ],
)
def test_another_study_is_refused_with_the_keys_that_differ(tmp_path, resolve, change, words):
    begun(tmp_path, resolve(DECAYS))
    changes = [change, ("fork.trigger", "epoch(2)")] if change[0] == "fork.when" else [change]
    spec = resolve(*([] if "weight_decay" in change[0] else [DECAYS]), *changes)
    (problem,) = workspace.check(tmp_path, spec)
    assert words in problem
    named = [line for line in problem.splitlines() if " there, " in line]
    assert len(named) == 1, problem


def test_a_session_that_was_killed_after_its_first_write_is_gone_on_with(tmp_path, resolve):
    begun(tmp_path, resolve())
    for entry in set(tmp_path.iterdir()) - {tmp_path / "study.json"}:
        entry.unlink() if entry.is_file() else entry.rmdir()
    assert workspace.check(tmp_path, resolve()) == []


def test_settings_that_neither_hold_nor_lie_in_those_there_are_refused(tmp_path, resolve):
    begun(tmp_path, resolve(DECAYS, ("sweep.optim.momentum", "0.5")))
    (problem,) = workspace.check(tmp_path, resolve(("sweep.optim.momentum", "0.5,0.9")))
    assert "combinations of swept values: optim.momentum" in problem


@pytest.mark.parametrize("study", [None, {"format": 4}, {"format": 6}])
def test_a_workdir_of_another_version_is_refused_by_name_by_all_readers(
    tmp_path, resolve, capsys, study
):
    (tmp_path / "trunks").mkdir()
    words = "study.json" if study is None else f"study.json={study['format']} to be 5, that of this"
    if study:
        (tmp_path / "study.json").write_text(json.dumps(study))
        with pytest.raises(InvalidInput, match=words):
            workspace.check(tmp_path, resolve())
    before = sorted(tmp_path.iterdir())
    run = ["run", "--config=configs/digits.py", f"--workdir={tmp_path}"]
    for command in (run, *([name, str(tmp_path)] for name in READERS)):
        assert cli.main(command) == 2
        assert words in capsys.readouterr().err, command
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture
def folder(tmp_path):
    """A folder of the user's code: a criterion that has a helper."""
    (tmp_path / "scores.py").write_text(
        "import helper\n\ndef mine(params, probe):\n    return helper.same(params)\n"
    )
    (tmp_path / "helper.py").write_text("def same(params):\n    return params\n")
    (tmp_path / "other.py").write_text("def mine(params, probe):\n    return params\n")
    yield tmp_path
    user_code.use_folder(None)


@pytest.mark.parametrize("changed", ["scores.py", "helper.py"])
def test_own_code_that_has_changed_is_refused_and_named_and_restored_it_goes_on(
    tiny_npz, folder, changed, capsys
):
    def resolved(criteria="magnitude,scores:mine"):
        return config.resolve(
            linear_experiment(tiny_npz), [("pruning.criteria", criteria)], folder=folder
        )

    workdir = folder / "run"
    begun(workdir, resolved())
    study = json.loads((workdir / "study.json").read_text())
    assert set(study["code"]) == {"own_code:Linear", "scores:mine"}
    assert study["folder"] == str(folder)
    source = (folder / changed).read_text()
    (folder / changed).write_text(source + "# another word\n")
    (problem,) = workspace.check(workdir, resolved())
    assert "code='scores:mine'" in problem
    assert f"of what they import: {changed.removesuffix('.py')}. Restore it" in problem
    # The program refuses it before it is imported.
    (folder / changed).write_text(f"{source}\nopen({str(folder / 'ran')!r}, 'w')\n")
    resumed = [f"--config={workdir / 'config.json'}", "--dry_run"]
    assert main.main(resumed) == 2
    assert f"code='scores:mine' to be the code that {workdir} was made" in capsys.readouterr().err
    assert not (folder / "ran").exists()
    # Runs of the other criteria do not look at it.
    assert workspace.check(workdir, resolved("magnitude")) == []
    (folder / changed).write_text(source)
    assert workspace.check(workdir, resolved()) == []
    assert main.main(resumed) == 0
    begun(workdir, resolved("magnitude,other:mine"))
    study = json.loads((workdir / "study.json").read_text())
    assert set(study["code"]) == {"own_code:Linear", "scores:mine", "other:mine"}


def test_a_task_of_an_array_is_known_by_both_numbers(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    assert workspace.job_id() == "9"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert workspace.job_id() == "7_3"
