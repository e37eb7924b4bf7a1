"""The examples of docs/extending.md, from a folder outside the package, through the whole
program."""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import NamedTuple

import pandas
import pytest

from earlyprune_jax import config, main, user_code

pytestmark = pytest.mark.usefixtures("empty_figures")

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", DOCUMENT, flags=re.DOTALL))

STUDY = """
from configs import digits


def get_config():
    config = digits.get_config()
    config.update_from_flattened_dict(CHANGES)
    return config
"""

BASE = {
    "data.name": "shapes:bars(num_train=60)",
    "data.num_classes": 3,
    "data.train_fraction": 1.0,
    "data.mean": (),
    "data.std": (),
    "model.name": "nets:Net(features=4)",
    "model.width_multiplier": 1.0,
    "train.seeds": (0,),
    "train.num_epochs": 4,
    "train.batch_size": 10,
    "optim.name": "training:clipped",
    "optim.momentum": 0.0,
    "optim.learning_rate": 0.02,
    "schedule.name": "training:warm_up(warm_epochs=1)",
    "schedule.per": "step",
    "schedule.step_boundaries_epochs": (2,),
    "pruning.criteria": ("magnitude", "pruned:sensitivity(power=0.5)"),
    "pruning.scopes": ("pruned:keep_one",),
    "pruning.sparsities": (0.5,),
    "fork.epochs": (2,),
    "fork.fallback_epoch": 0,
    "fork.retraining": ("continue", "retrained:half_restart"),
    "fork.trigger": "first(triggered:Halved(weight_norm, part=0.1), epoch(3))",
    "signals.names": ("measured:weight_norm", "measured:entropy", "performance"),
    "signals.batch_size": 20,
}


def write_study(folder: Path, changes: dict) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (folder / "study.py").write_text(f"CHANGES = {changes!r}\n{STUDY}")
    return folder / "study.py"


def resolve(folder: Path, changes: dict):
    return config.resolve(config.load_file(str(write_study(folder, BASE | changes))))


class Done(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    stdout: str
    stderr: str


def run(study: Path, workdir: Path, *flags: str) -> Done:
    """The command, in this process: starting another one would import JAX anew."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main.main([f"--config={study}", f"--workdir={workdir}", *flags])
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True)
def forget_folders():
    yield
    user_code.use_folder(None)


def test_every_example_is_shorter_than_30_lines():
    assert len(FILES) >= 9
    long = {name: text for name, text in FILES.items() if len(text.splitlines()) >= 30}
    assert not long


def test_everything_of_ones_own_runs_in_two_workers_and_changed_code_is_refused(tmp_path):
    study = write_study(tmp_path / "mine", BASE)
    first = run(study, tmp_path / "work", "--workers=2")
    assert first.code == 0, first.stderr
    table = pandas.read_csv(tmp_path / "work" / "results.csv")
    assert list(table["status"]) == ["finished"] * 5
    assert set(table["criterion"].dropna()) == set(BASE["pruning.criteria"])
    signals = pandas.read_csv(tmp_path / "work" / "signals.csv")
    assert float(signals["entropy"].to_numpy().min()) > 0
    assert float(signals["weight_norm"].to_numpy().min()) > 0
    # Nothing is trained again, wherever the folder lies now.
    moved = run(write_study(tmp_path / "elsewhere", BASE), tmp_path / "work")
    assert moved.code == 0 and "[1/" in first.stdout and "[1/" not in moved.stdout
    helper = study.parent / "pruned.py"
    helper.write_text(helper.read_text().replace("jnp.abs(w * g)", "jnp.abs(w + g)"))
    changed = run(study, tmp_path / "work")
    assert changed.code == 2
    assert "pruned:sensitivity" in changed.stderr
    assert "Changed since, of these or of what they import: pruned." in changed.stderr


def test_a_task_that_is_no_classification_is_compared_by_its_own_minimised_metric(tmp_path):
    changes = {
        "task.name": "regression:brightness",
        "data.crop_padding": 0,
        "model.name": "nets:Net",
        "optim.name": "",
        "schedule.name": "constant",
        "pruning.criteria": ("magnitude", "taylor"),
        "pruning.scopes": ("global",),
        "fork.retraining": ("continue",),
        "fork.epochs": (1, 2),
        "fork.trigger": "",
        "signals.names": ("gradient_norm", "performance"),
    }
    study = write_study(tmp_path / "mine", BASE | changes)
    done = run(study, tmp_path / "work")
    assert done.code == 0, done.stderr
    held = json.loads((tmp_path / "work" / "study.json").read_text())
    assert held["primary"] == "loss" and held["metrics"] == [
        {"name": "loss", "unit": "squared", "larger_is_better": False}
    ]
    assert (tmp_path / "work" / "figures" / "loss_vs_fork_epoch.png").is_file()
    assert "accuracy" not in done.stdout


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"signals.names": ("fisher_trace",)},
            "signals.names='fisher_trace' to need no log-probabilities",
        ),
        (
            {"pruning.criteria": ("fisher",)},
            "pruning.criteria='fisher' to need no log-probabilities",
        ),
        (
            {"fork.comparisons": ("model_similarity",), "fork.num_replicates": 2},
            "fork.comparisons='model_similarity' to need no log-probabilities",
        ),
        ({"fork.trigger": "peak(validation_accuracy)"}, "validation_accuracy"),
    ],
)
def test_what_needs_log_probabilities_is_refused_by_name_for_a_task_without(
    tmp_path, changes, said
):
    task = {
        "task.name": "regression:brightness",
        "model.name": "nets:Net",
        "signals.names": ("performance",),
    }
    task |= {"data.crop_padding": 0}
    with pytest.raises(Exception, match=re.escape(said)):
        resolve(tmp_path / "mine", {**task, "fork.trigger": "", **changes})


def test_an_nnx_network_comes_through_the_bridge(tmp_path):
    from earlyprune_jax import data, tasks

    spec = resolve(tmp_path / "mine", {"model.name": "nnx_nets:net"})
    task = tasks.build(spec, data.read(spec.data))
    assert set(task.shapes()) == {"params", "batch_stats"}


def test_the_config_of_the_page_resolves(tmp_path):
    write_study(tmp_path / "mine", BASE)
    (tmp_path / "mine" / "study.py").write_text(FILES["study.py"])
    assert (
        config.resolve(config.load_file(str(tmp_path / "mine" / "study.py"))).model.name
        == "nets:Net"
    )
