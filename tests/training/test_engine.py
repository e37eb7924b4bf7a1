"""The engine and the loop against numpy: order, evaluation, the probe, what a crash leaves
behind."""

import copy
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import engine_of, trunk
from tiny import tiny_experiment

from earlyprune_jax import config, data
from earlyprune_jax.grid import members as grid_members
from earlyprune_jax.run_records import RunRecords
from earlyprune_jax.spec_sections import OptimSpec
from earlyprune_jax.tasks import Metric, Task, plain
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training import loop, measurement, optim, retraining, state
from earlyprune_jax.training.checkpoint import CheckpointError, CheckpointStore
from earlyprune_jax.training.execution import runner
from earlyprune_jax.training.state import Stream, stream_key

NUM_TRAIN, BATCH, STEPS, PROBE = 40, 12, 3, 12
NOTHING = optim.make(OptimSpec("sgd", 0.1, 0.0, False, 0.0, "all"))


def build(npz, augment: str) -> engines.Engine:
    """The tiny experiment with a batch size that leaves 4 of its 40 images out of every epoch."""
    changes = [
        ("train.batch_size", str(BATCH)),
        ("signals.names", "kl_uniform"),
        ("signals.augment", augment),
    ]
    spec = config.resolve(tiny_experiment(npz), changes)
    return engine_of(spec)


@pytest.fixture(scope="module")
def engine(tiny_npz):
    return build(tiny_npz, "false")


@pytest.fixture(scope="module")
def trained(engine):
    """A state after one epoch: BN statistics and predictions are no longer those of a new
    network."""
    return engine.train_epoch(engine.new_state(0), np.full(STEPS, 0.05, np.float32))[0]


@pytest.fixture(scope="module")
def log_probs(engine, trained) -> dict[str, np.ndarray]:
    """Split -> [N, C] of the trained state: the stored images, normalised here, as one batch."""
    spec, splits = engine.spec.data, ("train", "test")
    images = np.concatenate([engine.splits[split]["images"] for split in splits])
    batch = {"images": jnp.asarray((images / 255.0 - spec.mean) / spec.std, jnp.float32)}
    rows = jax.jit(engine.task.probe(trained.model_state).log_probs)(trained.params, batch)
    return dict(zip(splits, np.split(np.asarray(rows, np.float64), [NUM_TRAIN]), strict=True))


# The probe


def measure(engine, current, epoch):
    (tool,) = measurement.instruments(engine)
    return tool.conclude(tool.observe(current, epoch, tool.probe), {})


@pytest.mark.parametrize(("num_examples", "count"), [(12, 12), (1, 1), (40, 40), (0, 40)])
def test_the_probe_is_that_many_different_images_in_ascending_order(num_examples, count):
    probe = engines.probe_indices(NUM_TRAIN, num_examples, seed=3)
    assert len(probe) == count
    assert np.all(np.diff(probe) > 0)
    assert probe[0] >= 0
    assert probe[-1] < NUM_TRAIN


def test_the_probe_is_a_function_of_its_seed_and_not_the_first_images():
    probes = {tuple(engines.probe_indices(NUM_TRAIN, PROBE, seed)) for seed in (0, 1, 2, 0)}
    assert len(probes) == 3
    assert tuple(range(PROBE)) not in probes


@pytest.fixture(scope="module")
def stored_bits(engine, log_probs) -> float:
    """KL_uniform (paper A, Eq. 5) in bits, the mean over the probe's stored images."""
    rows = log_probs["train"][engine.probe]
    return float(np.mean(-math.log(2) - rows.mean(axis=1)) / math.log(2))


def test_a_signal_is_the_mean_over_exactly_the_probe_images(engine, trained, stored_bits):
    assert len(engine.probe) == PROBE
    measured = measure(engine, trained, 1)["kl_uniform_bits"]
    assert measured == pytest.approx(stored_bits, rel=1e-5)
    assert measure(engine, trained, 2)["kl_uniform_bits"] == measured


def test_a_signal_measured_with_augmentation_differs_and_changes_with_the_epoch(
    tiny_npz, trained, stored_bits
):
    augmented = build(tiny_npz, "true")
    values = [measure(augmented, trained, epoch)["kl_uniform_bits"] for epoch in (1, 2, 1)]
    assert values[0] == values[2]
    assert abs(values[0] - values[1]) > 1e-3 * stored_bits
    assert min(abs(value - stored_bits) for value in values) > 1e-3 * stored_bits


# Evaluation


@pytest.mark.parametrize("batch_size", [7, 16, 100])
@pytest.mark.parametrize("split", ["test", "train"])
def test_evaluation_counts_every_image_once_whatever_the_batch_size(
    engine, trained, log_probs, split, batch_size
):
    train = dataclasses.replace(engine.spec.train, eval_batch_size=batch_size)
    cut = copy.copy(engine)
    cut.spec = dataclasses.replace(engine.spec, train=train)
    rows, labels = log_probs[split], np.asarray(engine.splits[split]["labels"])
    (measured,) = cut.evaluate(trained, split)
    assert measured["loss"] == pytest.approx(-rows[np.arange(len(labels)), labels].mean(), rel=1e-5)
    assert measured["accuracy"] == pytest.approx((rows.argmax(axis=1) == labels).mean(), abs=1e-6)


def test_an_absent_split_measures_nothing(engine, trained):
    assert engine.evaluate(trained, "validation") == [{"loss": None, "accuracy": None}]


# Order


def recording(engine: engines.Engine, num_epochs: int) -> tuple[engines.Engine, Task]:
    """The engine with a task that learns nothing and keeps in model_state the rows of every
    step."""

    def init(key):
        seen = {"rows": jnp.full((num_epochs * STEPS, BATCH), -1), "next": jnp.zeros((), jnp.int32)}
        return {"params": {"w": jnp.zeros(())}, "seen": seen}

    def train_sums(params, model_state, rows, key):
        own = model_state["seen"]
        seen = {"rows": own["rows"].at[own["next"]].set(rows), "next": own["next"] + 1}
        return {"loss": params["w"], "count": jnp.ones(())}, {"seen": seen}

    task = Task(
        splits=engine.task.splits,
        batching=plain(
            engine.task.splits, BATCH, lambda kind, split, indices, weights, key: indices
        ),
        init=init,
        train_sums=train_sums,
        eval_sums=engine.task.eval_sums,
        metrics=(Metric("loss", larger_is_better=False),),
        primary="loss",
    )
    train = runner(state.train_step(task, NOTHING), form="loop", name="train_step")
    runners = {("train_step", ""): train}
    recorder = copy.copy(engine)
    recorder.task, recorder.optimizer, recorder.runners = task, NOTHING, runners
    return recorder, task


def rows_seen(engine, num_epochs: int, key, first_epoch: int = 0) -> np.ndarray:
    """[num_epochs, STEPS, BATCH] rows of the training split, in the order of the steps."""
    recorder, task = recording(engine, num_epochs)
    # A copy of the key: the compiled step donates it.
    current = state.create(task.init(key), NOTHING, jnp.array(key))
    current = dataclasses.replace(current, step=jnp.int32(first_epoch * STEPS))
    for _ in range(num_epochs):
        current, _ = recorder.train_epoch(current, np.full(STEPS, 0.1, np.float32))
    assert int(current.step) == (first_epoch + num_epochs) * STEPS
    return np.asarray(current.model_state["seen"]["rows"]).reshape(num_epochs, STEPS, BATCH)


def test_every_epoch_sees_its_own_order_and_each_image_at_most_once(engine):
    key = jax.random.PRNGKey(5)
    seen = rows_seen(engine, 3, key)
    for epoch, rows in enumerate(seen):
        expected = data.epoch_order(stream_key(key, Stream.ORDER), epoch, NUM_TRAIN, BATCH)
        np.testing.assert_array_equal(rows, expected)
        assert len(np.unique(rows)) == STEPS * BATCH
        assert rows.min() >= 0
        assert rows.max() < NUM_TRAIN
    assert len({rows.tobytes() for rows in seen}) == 3


def test_a_run_that_starts_in_a_later_epoch_goes_on_in_the_order_of_that_epoch(engine):
    key = jax.random.PRNGKey(5)
    np.testing.assert_array_equal(
        rows_seen(engine, 1, key, first_epoch=2), rows_seen(engine, 3, key)[2:]
    )


# What a crash leaves behind


def leave_interrupted_save(store: CheckpointStore, epoch: int):
    """What a save killed half way leaves: a directory of another name, with files."""
    leftover = store.directory / f"{epoch}.orbax-checkpoint-tmp"
    (leftover / "d").mkdir(parents=True)
    (leftover / "d" / "part").write_bytes(b"\0" * 100)


def test_an_interrupted_save_is_discarded_and_whole_checkpoints_stay(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    store.discard_interrupted()
    assert not store.directory.exists()
    tree = {"w": np.arange(3.0)}
    for epoch in (0, 10):
        store.save(epoch, tree)
    leave_interrupted_save(store, 3)
    leave_interrupted_save(store, 4)
    (store.directory / "4.orbax-checkpoint-tmp").rename(
        store.directory / "4.orbax-checkpoint-tmp-1700000000"
    )
    for foreign in ("notes.txt", "007", "5.orbax-checkpoint-tmp.bak", "mine.orbax-checkpoint-tmp"):
        (store.directory / foreign / "backup").mkdir(parents=True)
    assert store.epochs() == [0, 10]
    store.discard_interrupted()
    assert sorted(entry.name for entry in store.directory.iterdir()) == [
        *("0", "007", "10", "5.orbax-checkpoint-tmp.bak", "mine.orbax-checkpoint-tmp", "notes.txt")
    ]
    for epoch in (0, 10):
        np.testing.assert_array_equal(store.restore(epoch, tree)["w"], tree["w"])


class Crash(Exception):
    """Stands for a power failure after an epoch."""


def test_a_resumed_run_removes_interrupted_saves_and_keeps_its_checkpoints(engine, tmp_path):
    records, store = RunRecords(tmp_path / "run"), CheckpointStore(tmp_path / "run" / "checkpoints")
    records.start(grid_members.described(engine.spec, trunk(), 0, 4))
    training = retraining.trunk(engine.spec, engine.steps_per_epoch)

    def run(report):
        return loop.Run(
            engine,
            training,
            0,
            initial=functools.partial(engine.new_state, 0),
            prunable=engine.prunable(""),
            records=records,
            store=store,
            report=report,
        )

    def crash(entry):
        if entry["epoch"] == 2:
            raise Crash

    with pytest.raises(Crash):
        loop.train([run(crash)])
    # One of an epoch that will be saved again, one that no later save would replace.
    leave_interrupted_save(store, 3)
    leave_interrupted_save(store, 9)
    before = {epoch: (store.directory / str(epoch)).stat().st_mtime_ns for epoch in store.epochs()}
    assert sorted(before) == [0, 1, 2]
    loop.train([run(lambda entry: None)])
    assert sorted(entry.name for entry in store.directory.iterdir()) == ["0", "1", "2", "3", "4"]
    assert {e: (store.directory / str(e)).stat().st_mtime_ns for e in before} == before


# Masks


def with_first_weight(trained: state.TrainState, value: float) -> state.TrainState:
    """The state with the first weight of the stem removed, and of that value."""

    def changed(leaf, tree):
        tree = jax.tree.map(np.array, tree)
        tree["stem_conv"]["kernel"].flat[0] = leaf
        return tree

    mask, params = changed(False, trained.mask), changed(value, trained.params)
    return dataclasses.replace(trained, mask=mask, params=params)


def test_a_removed_weight_that_is_not_0_is_neither_saved_nor_restored(engine, trained, tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    sound, broken = with_first_weight(trained, 0.0), with_first_weight(trained, 1e-30)
    engine.save(store, 1, sound)
    np.testing.assert_array_equal(engine.restored(store, 1).mask["stem_conv"]["kernel"].sum(), 17)
    said = "stem_conv/kernel to be 0 where its mask is False. 1 are not"
    with pytest.raises(state.BrokenMask, match=said):
        engine.save(store, 2, broken)
    assert store.epochs() == [1]
    # One whose bytes are what was written: it was written by something else.
    store.save(2, broken)
    with pytest.raises(CheckpointError, match=f"checkpoints/2: Expected {said}"):
        engine.restored(store, 2)


def test_a_mask_that_is_not_of_booleans_is_named(trained):
    integers = jax.tree.map(lambda leaf: np.asarray(leaf, np.int8), trained.mask)
    with pytest.raises(state.BrokenMask, match="='int8.* to be a mask of booleans of shape"):
        state.require_mask(dataclasses.replace(trained, mask=integers))


def test_a_run_whose_sparsity_has_changed_is_not_saved(engine, trained, tmp_path):
    records, store = RunRecords(tmp_path / "run"), CheckpointStore(tmp_path / "run" / "checkpoints")
    run = loop.Run(
        engine,
        retraining.trunk(engine.spec, engine.steps_per_epoch),
        0,
        initial=functools.partial(engine.new_state, 0),
        prunable=engine.prunable(""),
        records=records,
        store=store,
        report=lambda entry: None,
    )
    records.start(grid_members.described(engine.spec, trunk(), 0, 4))
    run.resume()
    fine = engines.EpochOutcome({}, state.NEVER, "")
    with pytest.raises(state.BrokenMask, match="achieved sparsity=0.0.* to stay 0.0, as the run"):
        run.record(lambda: with_first_weight(trained, 0.0), fine, {"compile_seconds": 0.0}, 0.0)
    assert store.epochs() == [0]
