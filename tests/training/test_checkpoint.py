"""Checkpoints come back bit for bit, or say why not."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from earlyprune_jax.storage import StorageError, UnusableFile
from earlyprune_jax.training.checkpoint import CheckpointError, CheckpointStore, unusable_path
from earlyprune_jax.validate import InvalidInput

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


# Of the right run and epoch


def test_a_checkpoint_of_another_epoch_or_run_is_refused_by_restore_and_by_problem(store, tmp_path):
    shutil.copytree(store.directory / "5", store.directory / "6")
    other = CheckpointStore(tmp_path / "other" / "checkpoints")
    shutil.copytree(store.directory, other.directory)
    assert store.problem(5) is None
    for place, epoch in ((store, 6), (other, 5), (other, 6)):
        with pytest.raises(CheckpointError, match=f"to be epoch {epoch} of .*; it is epoch 5 of"):
            place.restore(epoch, TREE)
        assert "it is epoch 5 of" in (place.problem(epoch) or "")


def test_a_name_that_was_changed_in_the_metadata_no_longer_matches_the_digest(store):
    shutil.copytree(store.directory / "5", store.directory / "6")
    metadata = store.directory / "6" / "_CHECKPOINT_METADATA"
    metadata.write_text(metadata.read_text().replace('"epoch": 5', '"epoch": 6'))
    with pytest.raises(CheckpointError, match="SHA-256"):
        store.restore(6, TREE)


def test_a_moved_workdir_keeps_its_checkpoints(store, tmp_path):
    moved = tmp_path / "elsewhere" / tmp_path.parent.name / tmp_path.name
    shutil.copytree(tmp_path, moved, ignore=shutil.ignore_patterns("elsewhere"))
    assert CheckpointStore(moved / "checkpoints").problem(5) is None


def test_what_the_system_or_jax_refuses_is_no_damage(store, monkeypatch):
    def refuse(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)

    with jax.default_prng_impl("rbg"), pytest.raises(InvalidInput, match="PRNG_IMPL='rbg'"):
        store.problem(5)
    monkeypatch.setattr(os, "scandir", refuse)
    for read in (store.problem, lambda epoch: store.restore(epoch, TREE)):
        with pytest.raises(StorageError, match="checkpoints/5: Too many open files. Raise the"):
            read(5)


def test_a_save_whose_parts_could_not_be_listed_is_no_checkpoint(store, monkeypatch):
    real = os.scandir

    def refuse(path="."):
        if "6.orbax" in os.fspath(path):
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match="checkpoints/6: "):
        store.save(6, TREE)


def test_devices_that_are_not_there_are_named_by_their_variable():
    code = "from earlyprune_jax.training import execution; execution.require_jax()"
    command, environment = [sys.executable, "-c", code], os.environ | {"JAX_PLATFORMS": "nowhere"}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "InvalidInput: Expected JAX_PLATFORMS='nowhere' to name devices" in told.stderr


def test_problem_names_damage_without_knowing_the_network(store):
    assert "to be readable" in (store.problem(4) or "")
    data = largest_file(store.directory / "5" / "state")
    damaged = bytearray(data.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    data.write_bytes(bytes(damaged))
    assert "delete the directory" in (store.problem(5) or "")


# Links, and what is not ours


@pytest.mark.parametrize("linked", ["", "5", "7.orbax-checkpoint-tmp"])
def test_a_link_among_checkpoints_is_refused_and_what_it_leads_to_stays(tmp_path, linked):
    outside = CheckpointStore(tmp_path / "outside" / "run" / "checkpoints")
    outside.save(5, TREE)
    (outside.directory / "9.orbax-checkpoint-tmp" / "mine").mkdir(parents=True)
    before = sorted(path.as_posix() for path in outside.directory.rglob("*"))
    place = CheckpointStore(tmp_path / "run" / "checkpoints")
    (place.directory / linked).parent.mkdir(parents=True)
    (place.directory / linked).symlink_to(outside.directory / ("5" if linked else ""))
    uses: list[Callable[[], object]] = [lambda: place.save(int(linked[:1] or 5), TREE)]
    if linked != "7.orbax-checkpoint-tmp":
        uses += [lambda: place.restore(5, TREE), lambda: place.keep_only(())]
    if linked != "5":
        uses.append(place.discard_interrupted)
    for use in uses:
        with pytest.raises(UnusableFile, match="It is a link"):
            use()
    assert sorted(path.as_posix() for path in outside.directory.rglob("*")) == before


# Where nothing can be written

LIMITED = """
    import gc, resource, sys, time
    from pathlib import Path
    import numpy as np
    from earlyprune_jax.storage import StorageError
    from earlyprune_jax.training.checkpoint import CheckpointStore
    store = CheckpointStore(Path(sys.argv[1]))
    store.save(1, {"w": np.arange(3.0)})
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    noise = np.random.default_rng(0).normal(size=(9, 20_000))
    try:
        store.save(2, dict(zip("abcdefghi", noise)))
    except StorageError as error:
        print(error)
    gc.collect()
    assert store.problem(1) is None and store.epochs() == [1]
"""


def test_a_save_that_the_disk_refuses_is_one_sentence_and_older_checkpoints_stay(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path / "checkpoints")]
    # Where it is forced, JAX would write its cache of programs at the limit too.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    told = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert told.returncode == 0 and not told.stderr, told.stderr
    (sentence,) = told.stdout.splitlines()
    assert sentence.startswith(f"Could not write {tmp_path / 'checkpoints' / '2'}: File too large.")


# Paths


@pytest.mark.parametrize(
    "name", ["a b", "ümläut 中文", "%41%2F", "~", "dots...", "new\nline", "a:"]
)
def test_checkpoints_of_a_path_with_such_a_name_come_back(tmp_path, name):
    assert not unusable_path(tmp_path / name)
    store = CheckpointStore(tmp_path / name / "checkpoints")
    store.save(1, {"w": np.arange(3.0)})
    assert store.restore(1, {"w": np.zeros(3)})["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        *((path, "none of") for path in ("[x]", "a/back\\slash", "gs:", "logs:/run", "q?", "s*")),
        ("a\0b", "no NUL"),
        ("bad\udcff", "UTF-8"),
        ("x" * 256, "255 bytes"),
        ("ü" * 128, "255 bytes"),
        ("x" * 200 + "/" + "/".join(["y" * 200] * 17), "3600"),
    ],
)
def test_a_path_below_which_checkpoints_cannot_be_is_named(path, why):
    assert why in unusable_path(Path(path))
