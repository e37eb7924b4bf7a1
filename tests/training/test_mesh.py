"""Batches spread over a mesh: what is refused, and that without a mesh or on one device nothing
changes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import engine_of
from tiny import tiny_experiment

from earlyprune_jax import config
from earlyprune_jax.tasks import padded_batches
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training import execution, multihost


def build(npz, mesh: Any = None, **changes: str) -> engines.Engine:
    changes = {"signals.names": "kl_uniform"} | {
        k.replace("__", "."): v for k, v in changes.items()
    }
    spec = config.resolve(tiny_experiment(npz), list(changes.items()))
    return engine_of(spec, mesh=mesh)


def test_without_a_mesh_a_step_is_left_as_it_is():
    def step(carry, inputs, constants):
        return carry

    assert execution.data_parallel(step, None) is step


def test_on_a_mesh_of_one_device_training_is_that_without(tiny_npz):
    seen = []
    for mesh in (None, execution.data_mesh()):
        engine = build(tiny_npz, mesh)
        rates = np.full(engine.steps_per_epoch, 0.05, np.float32)
        current, (outcome,) = engine.train_epoch(engine.new_state(0), rates)
        seen.append(
            (
                current,
                outcome.means,
                np.concatenate([rows for (rows,) in engine.log_probs([current], "test")]),
            )
        )
    (plain, plain_means, plain_log_probs), (meshed, means, log_probs) = seen
    assert means == pytest.approx(plain_means, rel=1e-6)
    np.testing.assert_allclose(log_probs, plain_log_probs, rtol=1e-5, atol=1e-6)
    for (path, a), b in zip(jax.tree.leaves_with_path(plain), jax.tree.leaves(meshed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7, err_msg=str(path))


def test_arrays_already_in_place_are_not_copied():
    mesh = execution.data_mesh()
    placed = execution.replicated({"a": np.arange(3.0, dtype=np.float32)}, mesh)
    assert execution.replicated(placed, mesh)["a"] is placed["a"]
    assert placed["a"].is_fully_replicated
    np.testing.assert_array_equal(placed["a"], np.arange(3.0))


@pytest.mark.parametrize("shape", [(), (4,), (3,), (4, 2), (0,)])
def test_shards_hold_the_values_they_were_cut_from(shape):
    values = jnp.arange(float(np.prod(shape))).reshape(shape)
    cut = jax.jit(lambda leaf: execution.shard_batch(leaf, execution.data_mesh()))(values)
    np.testing.assert_array_equal(cut, values)


@pytest.mark.parametrize(
    ("size", "num_devices", "near"),
    [(32, 8, None), (8, 8, None), (7, 1, None), (12, 8, "8 or 16"), (4, 8, "8")],
)
def test_a_batch_that_devices_cannot_share_is_named_with_the_nearest_that_they_can(
    tiny_npz, size, num_devices, near
):
    changes = [("train.batch_size", str(size)), ("signals.names", "")]
    found = multihost.indivisible(config.resolve(tiny_experiment(tiny_npz), changes), num_devices)
    assert len(found) == (near is not None)
    assert all(f"Nearest: {near}." in text and "train.batch_size" in text for text in found)


def test_all_indivisible_batches_are_named_at_once_but_not_those_of_evaluation(tiny_npz):
    sizes = {"train.batch_size": "8", "signals.batch_size": "6", "train.eval_batch_size": "5"}
    spec = config.resolve(tiny_experiment(tiny_npz), list(sizes.items()))
    named = [text.split("=")[0] for text in multihost.indivisible(spec, 16)]
    assert named == ["Expected train.batch_size", "Expected signals.batch_size"]


@pytest.mark.parametrize(
    ("length", "size", "multiple"), [(10, 4, 4), (10, 6, 4), (3, 100, 8), (7, 7, 1)]
)
def test_rounded_evaluation_batches_count_every_example_once(length, size, multiple):
    indices, weights = padded_batches(np.arange(length), size, multiple_of=multiple)
    assert indices.shape[1] % multiple == 0
    assert sorted(indices[weights > 0]) == list(range(length))
