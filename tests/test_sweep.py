"""A sweep trained from end to end: what is shared, what is told apart, what a larger one trains
anew."""

import csv
import io
import json

import pytest
from members import fork, trunk
from rich.console import Console
from tiny import linear_experiment

from earlyprune_jax import config, experiment
from earlyprune_jax.data import loading
from earlyprune_jax.grid import plan
from earlyprune_jax.grid.members import Fork, Trunk
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import SILENT, Trainer
from earlyprune_jax.spec import Setting

pytestmark = pytest.mark.usefixtures("empty_figures")

DECAY, LENGTH = "optim.weight_decay", "fork.length"


def resolve(npz, *changes):
    common = [
        ("train.num_epochs", "3"),
        ("fork.retraining", "custom"),
        ("fork.epochs", "1"),
        ("fork.length", "1"),
    ]
    return config.resolve(
        linear_experiment(npz), [*common, ("schedule.step_boundaries_epochs", "1"), *changes]
    )


def run(spec, workdir) -> str:
    return experiment.run(spec, workdir, Console(file=io.StringIO()))


def modified(workdir):
    return {path: path.stat().st_mtime_ns for path in workdir.glob("*/*/metrics.jsonl")}


@pytest.fixture(scope="module")
def swept(tiny_npz, tmp_path_factory):
    """Two weight decays; then, in the same workdir, a third, and two lengths of forks."""
    workdir = tmp_path_factory.mktemp("swept") / "run"
    run(resolve(tiny_npz, (f"sweep.{DECAY}", "0.0005,0.5")), workdir)
    before = modified(workdir)
    larger = resolve(tiny_npz, (f"sweep.{DECAY}", "0.0005,0.5,0.1"), (f"sweep.{LENGTH}", "1,2"))
    text = run(larger, workdir)
    return larger, workdir, before, text


def setting(**values) -> Setting:
    return Setting(
        tuple(sorted((name.replace("__", "."), value) for name, value in values.items()))
    )


def test_forks_of_swept_lengths_share_their_trunk_and_a_grown_sweep_trains_only_what_is_new(swept):
    spec, workdir, before, _ = swept
    after = modified(workdir)
    # 2 trunks, 2 forks; then 3 trunks, and 2 forks of each.
    assert (len(before), len(after)) == (2 + 2, 3 + 6)
    assert {path: after[path] for path in before} == before
    members = plan.members(spec)
    assert sum(isinstance(member, Trunk) for member in members) == 3
    assert Study(spec, workdir).statuses(members) == ["finished"] * 9


def test_every_run_of_a_sweep_is_bitwise_the_run_of_its_value_alone(swept, tiny_npz, tmp_path):
    spec, workdir, _, _ = swept
    alone = resolve(tiny_npz, (DECAY, "0.5"), (LENGTH, "2"))
    run(alone, tmp_path / "alone")
    of_it = setting(optim__weight_decay=0.5, fork__length=2)
    for single, member, epoch in (
        (trunk(), Trunk(of_it.trunk, 0), 3),
        (fork(1, "custom"), Fork(of_it, 0, 1, "magnitude", "global", 0.5, "custom", 0), 3),
    ):
        first = Study(alone, tmp_path / "alone").store(single).sha256(epoch)
        assert first == Study(spec, workdir).store(member).sha256(epoch) is not None
    other = Trunk(setting(optim__weight_decay=0.0005), 0)
    study = Study(spec, workdir)
    assert study.store(other).sha256(3) != study.store(Trunk(of_it.trunk, 0)).sha256(3)


def test_tables_tell_the_swept_values_apart_and_descriptions_hold_every_value(swept):
    spec, workdir, _, text = swept
    with (workdir / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(
        (row[DECAY], row["kind"], row["epochs_trained"]) for row in rows if row["kind"] == "fork"
    ) == [(decay, "fork", length) for decay in ("0.0005", "0.1", "0.5") for length in ("1", "2")]
    assert sorted(row[DECAY] for row in rows if row["kind"] == "trunk") == ["0.0005", "0.1", "0.5"]
    for path in workdir.glob("*/*/run.json"):
        described = json.loads(path.read_text())
        found = (
            described["config"]["optim"]["weight_decay"],
            described["config"]["fork"]["length"],
        )
        assert found[0] in (0.0005, 0.1, 0.5)
        assert "sweep" not in described["config"]
        if described["kind"] == "fork":
            assert found[1] == described["last_epoch"] - described["first_epoch"]
    assert json.loads((workdir / "config.json").read_text())["sweep"] == {
        DECAY: [0.0005, 0.5, 0.1],
        LENGTH: [1, 2],
    }
    assert "9 finished, 0 diverged, 0 skipped." in text


def test_settings_that_differ_in_fractions_share_one_reading_of_the_data(
    tiny_npz, tmp_path, monkeypatch
):
    read, times = loading.read, []
    monkeypatch.setattr(loading, "read", lambda spec: times.append(spec.name) or read(spec))
    spec = resolve(tiny_npz, ("sweep.data.train_fraction", "0.5,1"))
    trainer = Trainer(Study(spec, tmp_path / "run"), SILENT)
    trainer.read_data()
    lengths = [trainer.engine(setting).steps_per_epoch for setting in spec.settings()]
    assert times == [f"npz:{tiny_npz}"] and lengths == [2, 5]
