"""Forks that train as one batch: the numbers of the same forks alone, on one device or several."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest
from members import engine_of
from tiny import tiny_experiment

from earlyprune_jax import config, pruning
from earlyprune_jax.records import RunRecords
from earlyprune_jax.training import cohort, execution, loop, state
from earlyprune_jax.training.checkpoint import CheckpointStore
from earlyprune_jax.training.retraining import Training
from earlyprune_jax.training.steps import NEVER

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def engine(tiny_npz):
    spec = config.resolve(tiny_experiment(tiny_npz), [("signals.names", "")])
    return engine_of(spec)


def pruned(engine, seed, sparsity):
    """A fork of an untrained trunk, by magnitude."""
    dense = engine.new_state(seed)
    scores = jax.tree.map(np.abs, jax.device_get(dense.params))
    mask = pruning.allocate(scores, engine.prunable(""), sparsity=sparsity, scope="global")
    made = state.fork(dense, mask, engine.optimizer, replicate=seed, reset_momentum=True)
    return engine.place(made)


CELLS = ((0, 0.5), (1, 0.9), (2, 0.0))


def rates(engine, number):
    return np.full(engine.steps_per_epoch, 0.02 * (number + 1), np.float32)


def trained_together(engine):
    stack = cohort.make(engine, [pruned(engine, *cell) for cell in CELLS], 3)
    outcomes = [stack.train_epoch([rates(engine, number) for number in range(3)]) for _ in range(2)]
    return stack, outcomes[-1]


def test_a_batch_of_forks_trains_each_as_it_trains_alone(engine):
    stack, outcomes = trained_together(engine)
    evaluated = stack.evaluate("test")
    for number, cell in enumerate(CELLS):
        alone = cohort.make(engine, [pruned(engine, *cell)])
        alone.train_epoch([rates(engine, number)])
        (outcome,) = alone.train_epoch([rates(engine, number)])
        assert outcomes[number].means["loss"] == pytest.approx(outcome.means["loss"], rel=1e-4)
        assert outcomes[number].nonfinite_step == outcome.nonfinite_step == NEVER
        assert evaluated[number] == pytest.approx(alone.evaluate("test")[0], rel=1e-3)
        for own, other in zip(
            jax.tree.leaves(stack.state(number)), jax.tree.leaves(alone.state(0)), strict=True
        ):
            np.testing.assert_allclose(own, other, rtol=1e-3, atol=1e-4)


def test_removed_weights_of_a_batch_are_exactly_zero_and_each_fork_keeps_its_own_mask(engine):
    stack, _ = trained_together(engine)
    for number, (_, sparsity) in enumerate(CELLS):
        one = stack.state(number)
        assert pruning.sparsity(one.mask, engine.prunable("")) == pytest.approx(sparsity, abs=1e-3)
        for keep, weight in zip(
            jax.tree.leaves(one.mask), jax.tree.leaves(one.params), strict=True
        ):
            assert not np.any(np.asarray(weight)[~np.asarray(keep)])


def test_a_fork_that_diverges_in_a_batch_leaves_its_neighbours_alone(engine):
    forks = [pruned(engine, *cell) for cell in CELLS]
    stack = cohort.make(engine, forks, 3)
    wild = [rates(engine, 0), np.full(engine.steps_per_epoch, 3e38, np.float32), rates(engine, 2)]
    outcomes = stack.train_epoch(wild)
    assert [outcome.nonfinite_step == NEVER for outcome in outcomes] == [True, False, True]
    assert math.isfinite(stack.evaluate("test")[2]["loss"] or math.nan)


def test_an_absent_split_measures_nothing_for_every_fork(engine):
    stack = cohort.make(engine, [pruned(engine, *cell) for cell in CELLS], 3)
    assert stack.evaluate("validation") == [{"loss": None, "accuracy": None}] * 3


def test_the_width_doubles_while_that_pays_and_while_it_fits():
    def saturating(width):
        return max(1.0, width / 8)

    assert execution.measured_width(saturating, 100, MemoryError) == 8
    assert execution.measured_width(saturating, 5, MemoryError) == 5
    assert execution.measured_width(lambda width: 1.0, 100, MemoryError) == 100

    def small_memory(width):
        if width > 4:
            raise MemoryError
        return 1.0

    assert execution.measured_width(small_memory, 100, MemoryError) == 4
    assert execution.measured_width(saturating, 100, MemoryError, multiple_of=3) == 12


def test_on_several_devices_each_trains_its_share_to_the_same_numbers(engine, tiny_npz):
    stack, outcomes = trained_together(engine)
    here = (
        [outcome.means["loss"] for outcome in outcomes],
        [means["loss"] for means in stack.evaluate("test")],
    )
    code = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}, {str(Path(__file__).parent)!r}]
from pathlib import Path
import jax, numpy as np
from members import engine_of
from test_cohort import config, tiny_experiment, trained_together
spec = config.resolve(tiny_experiment(Path({str(tiny_npz)!r})), [("signals.names", "")])
engine = engine_of(spec, form="scan")
assert engine.fork_mesh.num_devices == 2
stack, outcomes = trained_together(engine)
losses = [outcome.means["loss"] for outcome in outcomes], [means["loss"] for means in stack.evaluate("test")]
np.testing.assert_allclose(losses, {here!r}, rtol=1e-3)
assert len(stack._states.params["classifier"]["kernel"].sharding.device_set) == 2
print("same")
"""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "same\n", done.stderr


def test_saves_on_the_way_take_their_share_of_a_runs_own_time_in_a_batch_too(
    engine, tmp_path, monkeypatch
):
    """An epoch of a batch of 4 takes 40 s, 10 s a run; a save takes 1 s, 5 % of two epochs."""
    clock, saved = [0.0], []
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def save(run, epoch, state):
        clock[0] += 1.0
        saved.append((run.records.directory.name, epoch))

    monkeypatch.setattr(loop, "_save", save)
    train_epoch = cohort._Stack.train_epoch

    def slowly(self, rates):
        clock[0] += 40.0
        return train_epoch(self, rates)

    monkeypatch.setattr(cohort._Stack, "train_epoch", slowly)
    runs = [
        loop.Run(
            Training(9, optax.constant_schedule(0.02), reset_momentum=True),
            1,
            initial=lambda seed=seed: pruned(engine, seed, 0.5),
            prunable=engine.prunable(""),
            watch=loop.NOT_WATCHED,
            save=loop.SavePolicy(0.05, frozenset()),
            records=RunRecords(tmp_path / str(seed)),
            store=CheckpointStore(tmp_path / str(seed) / "checkpoints"),
            report=lambda entry: None,
        )
        for seed in range(4)
    ]
    for one in runs:
        one.records.start({})
    loop.train(engine, runs, width=4)
    # The first guess, 0.3 s, is due after one epoch.
    assert [epoch for name, epoch in saved if name == "0"] == [2, 4, 6, 8, 10]
    assert len(saved) == 4 * 5
