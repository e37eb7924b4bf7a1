"""Forks that train as one batch: the numbers of the same forks alone, on one device or several."""

import math
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import optax
import pytest
from members import engine_of
from tiny import tiny_experiment

from earlyprune_jax import config, pruning
from earlyprune_jax.run_records import RunRecords
from earlyprune_jax.training import loop, state
from earlyprune_jax.training.checkpoint import CheckpointStore
from earlyprune_jax.training.engine import Engine
from earlyprune_jax.training.retraining import Training
from earlyprune_jax.training.state import NEVER

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


def rates(engine):
    """One row for each cell."""
    return np.outer([0.02, 0.04, 0.06], np.ones(engine.steps_per_epoch)).astype(np.float32)


def trained_together(engine):
    current = engine.stack([pruned(engine, *cell) for cell in CELLS], 3)
    for _ in range(2):
        current, outcomes = engine.train_epoch(current, rates(engine))
    return current, outcomes


@pytest.fixture(scope="module")
def together(engine):
    return trained_together(engine)


def test_a_batch_of_forks_trains_each_as_it_trains_alone(engine, together):
    stack, outcomes = together
    evaluated = engine.evaluate(stack, "test")
    for number, cell in enumerate(CELLS):
        alone = engine.stack([pruned(engine, *cell)], 1)
        for _ in range(2):
            alone, (outcome,) = engine.train_epoch(alone, rates(engine)[number])
        assert outcomes[number].means["loss"] == pytest.approx(outcome.means["loss"], rel=1e-4)
        assert outcomes[number].nonfinite_step == outcome.nonfinite_step == NEVER
        assert evaluated[number] == pytest.approx(engine.evaluate(alone, "test")[0], rel=1e-3)
        own = engine.state_of(stack, number)
        chex.assert_trees_all_close(own, engine.state_of(alone, 0), rtol=1e-3, atol=1e-4)


def test_a_stack_is_filled_up_to_its_width_and_the_filling_is_not_looked_at(engine):
    states = [pruned(engine, *cell) for cell in CELLS]
    filled, outcomes = engine.train_epoch(engine.stack(states, 4), rates(engine))
    exact, wanted = engine.train_epoch(engine.stack(states, 3), rates(engine))
    assert filled.step.shape == (4,)
    assert len(outcomes) == 3
    for number in range(3):
        assert outcomes[number].means == pytest.approx(wanted[number].means, rel=1e-5)
        own = engine.state_of(filled, number)
        chex.assert_trees_all_close(own, engine.state_of(exact, number), rtol=1e-4, atol=1e-5)


def test_removed_weights_of_a_batch_are_exactly_zero_and_each_fork_keeps_its_own_mask(
    engine, together
):
    stack, _ = together
    for number, (_, sparsity) in enumerate(CELLS):
        one = engine.state_of(stack, number)
        assert pruning.sparsity(one.mask, engine.prunable("")) == pytest.approx(sparsity, abs=1e-3)
        for keep, weight in zip(
            jax.tree.leaves(one.mask), jax.tree.leaves(one.params), strict=True
        ):
            assert not np.any(np.asarray(weight)[~np.asarray(keep)])


def test_a_fork_that_diverges_in_a_batch_leaves_its_neighbours_alone(engine):
    stack = engine.stack([pruned(engine, *cell) for cell in CELLS], 3)
    wild = rates(engine)
    wild[1] = 3e38
    stack, outcomes = engine.train_epoch(stack, wild)
    assert [outcome.nonfinite_step == NEVER for outcome in outcomes] == [True, False, True]
    assert math.isfinite(engine.evaluate(stack, "test")[2]["loss"] or math.nan)


def test_an_absent_split_measures_nothing_for_every_fork(engine):
    stack = engine.stack([pruned(engine, *cell) for cell in CELLS], 3)
    assert engine.evaluate(stack, "validation") == [{"loss": None, "accuracy": None}] * 3


def test_on_several_devices_each_trains_its_share_to_the_same_numbers(engine, together, tiny_npz):
    stack, outcomes = together
    here = (
        [outcome.means["loss"] for outcome in outcomes],
        [means["loss"] for means in engine.evaluate(stack, "test")],
    )
    code = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}, {str(Path(__file__).parent)!r}]
from pathlib import Path
import jax, numpy as np
from members import engine_of
from test_stacks import config, tiny_experiment, trained_together
spec = config.resolve(tiny_experiment(Path({str(tiny_npz)!r})), [("signals.names", "")])
engine = engine_of(spec, form="scan")
assert engine.fork_mesh.size == 2
stack, outcomes = trained_together(engine)
evaluated = engine.evaluate(stack, "test")[:3]
losses = [outcome.means["loss"] for outcome in outcomes], [means["loss"] for means in evaluated]
np.testing.assert_allclose(losses, {here!r}, rtol=1e-3)
assert len(stack.params["classifier"]["kernel"].sharding.device_set) == 2
print("same")
"""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = os.environ | {"XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "same\n", done.stderr


def test_saves_on_the_way_take_their_share_of_a_runs_own_time_in_a_batch_too(
    engine, tmp_path, monkeypatch
):
    """An epoch of a batch of 4 takes 40 s, 10 s a run; a save takes 1 s, 5 % of two epochs."""
    clock, saved = [0.0], []
    monkeypatch.setattr(loop.clock, "run_seconds", lambda: clock[0])

    def save(self, epoch, state):
        clock[0] += 1.0
        saved.append((self.directory.parent.name, epoch))
        return 1.0

    monkeypatch.setattr(CheckpointStore, "save", save)
    train_epoch = Engine.train_epoch

    def slowly(self, current, rates):
        clock[0] += 40.0
        return train_epoch(self, current, rates)

    monkeypatch.setattr(Engine, "train_epoch", slowly)
    runs = [
        loop.Run(
            engine,
            Training(9, optax.constant_schedule(0.02), reset_momentum=True),
            1,
            initial=lambda seed=seed: pruned(engine, seed, 0.5),
            prunable=engine.prunable(""),
            save_share=0.05,
            kept=frozenset(),
            records=RunRecords(tmp_path / str(seed)),
            store=CheckpointStore(tmp_path / str(seed) / "checkpoints"),
            report=lambda entry: None,
        )
        for seed in range(4)
    ]
    for one in runs:
        one.records.start({})
    loop.train(runs, width=4)
    # The first guess, 0.3 s, is due after one epoch.
    assert [epoch for name, epoch in saved if name == "0"] == [2, 4, 6, 8, 10]
    assert len(saved) == 4 * 5
