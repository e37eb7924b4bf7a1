"""A task that is no classification runs through the whole engine, and is told in its own metric."""

import csv
import json
import math
import re
from pathlib import Path

import pytest

from configs import digits
from earlyprune_jax import config, data, experiment, tasks
from earlyprune_jax.training import engine as engines
from earlyprune_jax.validate import InvalidInput

pytestmark = pytest.mark.usefixtures("empty_figures")

CHANGES = {
    "data.name": "sequences:waves",
    "data.num_classes": 0,
    "data.train_fraction": 1.0,
    "data.validation_fraction": 0.25,
    "data.crop_padding": 0,
    "data.mean": (),
    "data.std": (),
    "model.name": "sequences:Denoiser(width=6)",
    "model.width_multiplier": 1.0,
    "task.name": "sequences:denoising",
    "train.seeds": (0, 1),
    "train.num_epochs": 6,
    "train.batch_size": 8,
    "optim.name": "",
    "optim.learning_rate": 0.01,
    "optim.momentum": 0.0,
    "optim.weight_decay": 0.0,
    "schedule.step_boundaries_epochs": (2,),
    "pruning.criteria": ("magnitude",),
    "pruning.scopes": ("local",),
    "pruning.sparsities": (0.6,),
    "pruning.layers": "",
    "fork.epochs": (1, 4),
    "fork.retraining": ("continue",),
    "fork.trigger": "plateau(validation_rmse, patience=1, min_change=0.9)",
    "fork.fallback_epoch": 4,
    "signals.names": ("gradient_norm", "performance", "mask_distance"),
    "signals.batch_size": 8,
    "signals.mask_scope": "local",
    "signals.mask_sparsity": 0.5,
    "signals.fisher_layers": "",
    "signals.weight_layers": "",
}


def resolve(overrides=(), **changes):
    made = digits.get_config()
    made.update_from_flattened_dict(CHANGES | changes)
    return config.resolve(made, overrides, folder=Path(__file__).parent)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sequences")
    return workdir, experiment.run(resolve(), workdir)


def records(workdir, pattern):
    (path,) = workdir.glob(pattern)
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def engine():
    spec = resolve()
    return engines.Engine(spec, tasks.build(spec, data.read(spec.data)))


def test_batches_of_two_shapes_train_as_two_compiled_steps_and_reach_every_example(engine):
    assert {kind for _, kind in engine.runners} == {"short", "long"}
    batches = list(engine.epoch_batches(engine.new_state(0).key, 0, engine.steps_per_epoch))
    shapes = {batch.kind: batch.indices.shape[1] for batch in batches}
    assert shapes == {"short": 8, "long": 4}
    assert sum(len(batch.indices) for batch in batches) == engine.steps_per_epoch


def test_the_engines_loss_is_that_of_plain_numpy(engine):
    state = engine.new_state(0)
    measured = engine.evaluate(state, "test")[0]["loss"]
    on_host = engine.measure_on_host(state, 2, 6)["test_rmse"]
    assert measured is not None and on_host is not None
    assert measured == pytest.approx(on_host**2, rel=1e-5)


def test_the_host_measures_at_its_epochs_and_at_the_end(finished):
    workdir, _ = finished
    found = [entry["test_rmse"] for entry in records(workdir, "trunks/*seed-0-*/metrics.jsonl")]
    assert [value is None for value in found] == [True, False, True, False, True, False]


def test_tables_figure_and_summary_speak_of_the_tasks_own_metric(finished):
    workdir, summary = finished
    with (workdir / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"test_rmse", "test_loss", "best_test_rmse"} <= set(rows[0])
    assert not [name for name in rows[0] if "accuracy" in name]
    for row in rows:
        last, best = float(row["test_rmse"]), float(row["best_test_rmse"])
        assert math.isfinite(last) and best <= last
    assert (workdir / "figures" / "rmse_vs_fork_epoch.png").is_file()
    assert "rmse" in summary and "accuracy" not in summary


def test_the_best_fork_epoch_is_that_of_the_smallest_error(finished):
    workdir, summary = finished
    with (workdir / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "fork"]
    means = {
        epoch: sum(float(row["validation_rmse"]) for row in rows if row["fork_epoch"] == epoch) / 2
        for epoch in {row["fork_epoch"] for row in rows}
    }
    best = min(means, key=means.__getitem__)
    # Of two epochs the best is the earliest or the latest.
    assert re.search(rf"^  \S.* {best} \((earliest|latest)\) ", summary, re.MULTILINE)


def test_a_run_prunes_itself_by_a_host_measurement_on_validation(tmp_path):
    spec = resolve(**{"fork.when": "trigger", "train.seeds": (0,), "pruning.criteria": ("taylor",)})
    experiment.run(spec, tmp_path)
    (described,) = [json.loads(path.read_text()) for path in tmp_path.glob("online/*/run.json")]
    assert described["fork_epoch"] == 4 and "validation_rmse" in described["reason"]


def test_a_test_metric_is_no_trigger():
    with pytest.raises(Exception, match="test metric"):
        resolve(**{"fork.trigger": "threshold(test_rmse, below=0.1)"})


def test_the_source_of_the_task_is_part_of_the_spec():
    assert dict(resolve().code).keys() == {
        "sequences:waves",
        "sequences:Denoiser",
        "sequences:denoising",
    }


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            {"sweep.task.name": "sequences:denoising,sequences:denoising(primary='loss')"},
            "to have the same metrics, and the same primary, in all settings",
        ),
        (
            {"sweep.task.name": "sequences:denoising, sequences:denoising( )"},
            "to have no value twice",
        ),
        ({"sweep.fork.rates": "eq6,continue"}, "to be read by one of fork.retraining"),
        ({"signals.names": "sequences:steals('epoch')"}, "to have no column epoch"),
        ({"signals.names": "sequences:steals('num_epochs')"}, "to have no column num_epochs"),
        ({"signals.names": "sequences:steals('compile_seconds')"}, "no column compile_seconds"),
        ({"signals.names": "sequences:steals('test_rmse')"}, "to have no column test_rmse"),
        ({"train.precision": "bfloat16"}, "sequences:denoising does not take it"),
        ({"task.name": "sequences:denoising(every_epochs=0)"}, "every_epochs of HostMeasurement=0"),
    ],
)
def test_what_would_pass_silently_is_refused(overrides, said):
    with pytest.raises(InvalidInput, match=re.escape(said)):
        resolve(list(overrides.items()))


def test_a_key_swept_twice_on_the_command_line_is_refused():
    twice = [("sweep.optim.weight_decay", "0.1,0.2"), ("sweep.optim.weight_decay", "0.3")]
    both = [("sweep.optim.weight_decay", "0.1,0.2"), ("optim.weight_decay", "1")]
    with pytest.raises(InvalidInput, match="optim.weight_decay='twice' to be swept once"):
        resolve(twice)
    with pytest.raises(InvalidInput, match="to be among the values of sweep.optim.weight_decay"):
        resolve(both)
