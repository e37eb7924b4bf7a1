"""What must hold on an accelerator; run with -m gpu there."""

import io

import jax
import numpy as np
import pytest
from rich.console import Console

from earlyprune_jax import config, experiment
from earlyprune_jax.data import load
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training.execution import execution_form

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def accelerator():
    if jax.default_backend() == "cpu":
        pytest.skip("no accelerator: jax.default_backend() is cpu")


def test_chunks_of_steps_run_under_scan():
    assert execution_form(jax.default_backend()) == "scan"


def test_a_whole_experiment_runs_and_resumes(tiny_config, tmp_path):
    spec = config.resolve(tiny_config, [("fork.rules", "paper_a,continue"), ("pruning.sparsities", "0,0.5")])
    first = experiment.run(spec, tmp_path / "run", Console(file=io.StringIO()))
    assert first.failures == ()
    assert "5 finished" in first.summary
    assert experiment.run(spec, tmp_path / "run", Console(file=io.StringIO())).summary == first.summary


def test_scan_and_loop_agree_on_the_accelerator(tiny_config):
    spec = config.resolve(tiny_config)
    losses = []
    for form in ("loop", "scan"):
        engine = engines.build(spec, load(spec.data), form=form)
        current, _, _ = engine.train_epoch(engine.new_state(0), np.full(5, 0.01, np.float32))
        losses.append(engine.evaluate(current, "test")["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)
