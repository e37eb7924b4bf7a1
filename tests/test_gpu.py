"""What must hold on an accelerator; run with -m gpu there."""

import io
import shutil

import jax
import numpy as np
import pytest
from members import engine_of, fork, locate
from rich.console import Console

from earlyprune_jax import config, experiment
from earlyprune_jax.run_records import RunRecords
from earlyprune_jax.training.execution import execution_form

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def accelerator():
    if jax.default_backend() == "cpu":
        pytest.skip("no accelerator: jax.default_backend() is cpu")


def test_chunks_of_steps_run_under_scan():
    assert execution_form(jax.default_backend()) == "scan"


def test_a_fork_whose_files_are_gone_is_trained_again_to_the_same_accuracy(tiny_config, tmp_path):
    spec = config.resolve(
        tiny_config, [("fork.retraining", "paper_a,continue"), ("pruning.sparsities", "0,0.5")]
    )
    workdir, quiet = tmp_path / "run", Console(file=io.StringIO())
    assert "5 finished, 0 diverged, 0 skipped" in experiment.run(spec, workdir, quiet)
    lost = locate(workdir, fork(2))
    first = RunRecords(lost).epochs()
    others = {
        path: path.stat().st_mtime_ns
        for path in workdir.rglob("metrics.jsonl")
        if lost != path.parent
    }
    assert len(others) == 4
    for name in ("result.json", "metrics.jsonl"):
        (lost / name).unlink()
    shutil.rmtree(lost / "checkpoints")
    assert "5 finished, 0 diverged, 0 skipped" in experiment.run(spec, workdir, quiet)
    again = RunRecords(lost).epochs()
    assert [entry["epoch"] for entry in again] == [entry["epoch"] for entry in first] == [3, 4]
    # Kernels may add in another order: the loss agrees closely, the accuracy but for 1 of 16
    # images.
    assert again[-1]["test_loss"] == pytest.approx(first[-1]["test_loss"], rel=1e-2)
    assert again[-1]["test_accuracy"] == pytest.approx(
        first[-1]["test_accuracy"], abs=1 / 16 + 1e-6
    )
    assert {path: path.stat().st_mtime_ns for path in others} == others


def test_scan_and_loop_agree_on_the_accelerator(tiny_config):
    spec = config.resolve(tiny_config)
    losses = []
    for form in ("loop", "scan"):
        engine = engine_of(spec, form=form)
        current, _ = engine.train_epoch(engine.new_state(0), np.full(5, 0.01, np.float32))
        losses.append(engine.evaluate(current, "test")[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
