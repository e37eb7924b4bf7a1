"""Checkpoints come back bit for bit, or say why not."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from earlyprune_jax.training.checkpoint import CheckpointError, CheckpointStore

TREE = {
    "params": {"b": {"z": jnp.linspace(0, 1, 7), "a": jnp.ones((2, 3))}, "a": jnp.float32(0.1)},
    "mask": jnp.array([True, False]),
    "step": jnp.int32(3),
    "opt": ((), [jnp.arange(4)]),
}


@pytest.fixture
def store(tmp_path) -> CheckpointStore:
    saved = CheckpointStore(tmp_path / "checkpoints")
    saved.save(5, TREE)
    return saved


def test_every_leaf_returns_bit_for_bit_in_its_place(store):
    restored = store.restore(5, jax.tree.map(jnp.zeros_like, TREE))
    assert jax.tree.structure(restored) == jax.tree.structure(TREE)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(TREE), jax.tree.leaves(restored), strict=True
    ):
        assert a.dtype == b.dtype, path
        np.testing.assert_array_equal(a, b, err_msg=str(path))


def test_saving_again_replaces_and_keep_only_deletes(store):
    store.save(5, jax.tree.map(jnp.zeros_like, TREE))
    store.save(6, TREE)
    assert not np.any(store.restore(5, TREE)["params"]["b"]["a"])
    store.keep_only({6})
    assert store.epochs() == [6]


def test_an_absent_epoch_is_named_with_those_there(store):
    with pytest.raises(CheckpointError, match=r"to exist. Saved: \[5\]"):
        store.restore(4, TREE)


@pytest.mark.parametrize(
    "change",
    [{"step": jnp.float32(0)}, {"extra": jnp.ones(2)}, {"mask": jnp.ones(3, bool)}],
)
def test_another_networks_state_is_refused(store, change):
    with pytest.raises(CheckpointError, match="delete the directory"):
        store.restore(5, {**TREE, **change})


def largest_file(directory: Path) -> Path:
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_damage_anywhere_in_the_data_never_loads_silently(tmp_path):
    tree = {"w": jnp.asarray(np.random.default_rng(0).normal(size=4000).astype(np.float32))}
    store = CheckpointStore(tmp_path / "c")
    store.save(1, tree)
    data = largest_file(store.directory / "1")
    original = data.read_bytes()
    for offset in np.linspace(0, len(original) - 1, 12).astype(int):
        damaged = bytearray(original)
        damaged[offset] ^= 1
        data.write_bytes(bytes(damaged))
        try:
            restored = store.restore(1, tree)
        except CheckpointError as error:
            assert "delete the directory" in str(error)
        else:  # a byte that carries no data
            np.testing.assert_array_equal(restored["w"], tree["w"])


def test_a_truncated_file_is_refused(store):
    data = largest_file(store.directory / "5")
    original = data.read_bytes()
    data.write_bytes(original[: len(original) // 2])
    with pytest.raises(CheckpointError, match="delete the directory"):
        store.restore(5, TREE)
