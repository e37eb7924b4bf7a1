"""Which random numbers a step draws: each use its own key, a function of (run key, use, step)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from earlyprune_jax.signals import Signal
from earlyprune_jax.training import state, steps
from earlyprune_jax.training.execution import runner
from earlyprune_jax.training.state import Stream, stream_key
from earlyprune_jax.training.tasks import Task

KEY = jax.random.PRNGKey(7)
X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
ROWS = np.array([[0, 1], [2, 3], [4, 5], [1, 4]], np.int32)
RATE = 0.1
SGD = optax.identity()


def noisy_task() -> Task:
    """Inner products with inputs that a key moves by Gaussian noise: loss = mean x.w."""

    def batch(split, indices, key):
        rows = split["x"][indices]
        return {"x": rows if key is None else rows + jax.random.normal(key, rows.shape)}

    def train_loss(params, stats, examples):
        loss = jnp.mean(examples["x"] @ params["w"])
        return loss, ({"loss": loss, "correct": jnp.zeros(()), "count": jnp.ones(())}, stats)

    def log_probs(params, stats, examples):
        return examples["x"] * params["w"][None]

    def init(key):
        return {"params": {"w": jnp.ones(3)}}

    return Task(init, batch, train_loss, lambda *_: {}, log_probs)


def noise(key, size=2):
    return np.asarray(jax.random.normal(key, (size, 3)))


def begun(step: int) -> state.TrainState:
    # A copy of the key: the compiled step donates it.
    created = state.create(noisy_task().init(KEY), SGD, jnp.array(KEY))
    return dataclasses.replace(created, step=jnp.int32(step))


@pytest.mark.parametrize("first_step", [0, 5])
def test_every_train_step_augments_with_the_key_of_its_own_step(first_step):
    train = runner(steps.train_step(noisy_task(), SGD), form="loop", name="train_step")
    rates = np.full(len(ROWS), RATE, np.float32)
    final, _ = train((begun(first_step), steps.zero_train_sums()), (ROWS, rates), {"x": jnp.asarray(X)})
    w = np.ones(3)
    for step, rows in enumerate(ROWS, first_step):
        # The gradient of mean x.w is mean x: the noise of every step stays visible in w.
        w -= RATE * (X[rows] + noise(stream_key(KEY, Stream.AUGMENT, step))).mean(axis=0)
    np.testing.assert_allclose(final.params["w"], w, rtol=1e-5)


def input_sum() -> Signal:
    """The weighted sum of the inputs, which log_probs shows at w = 1, and one draw from each label key."""

    def batch_sums(log_probs, params, batch, key, pass_index):
        return {"inputs": batch["weights"] @ log_probs(params, batch), "drawn": jax.random.normal(key)}

    def zero_sums(params):
        return {"inputs": jnp.zeros(3), "drawn": jnp.zeros(())}

    return Signal("input_sum", 1, zero_sums, batch_sums, lambda sums, num: sums)


def measure(*, augment: bool):
    rows, weights = ROWS[:2], np.array([[1, 1], [1, 0]], np.float32)
    step = runner(steps.signal_step(noisy_task(), input_sum(), augment=augment), form="loop", name="signal")
    params = {"w": jnp.ones(3)}
    inputs = (rows, weights, np.arange(2, dtype=np.int32), np.zeros(2, np.int32))
    return step(input_sum().zero_sums(params), inputs, (params, {}, {"x": jnp.asarray(X)}, KEY))


def test_signals_see_the_stored_images_when_augmentation_is_off():
    np.testing.assert_allclose(measure(augment=False)["inputs"], X[[0, 1, 2]].sum(axis=0), rtol=1e-5)


def test_signals_see_images_augmented_by_their_batchs_key_when_it_is_on():
    first, second = (jax.random.split(jax.random.fold_in(KEY, number))[0] for number in (0, 1))
    added = noise(first).sum(axis=0) + noise(second)[0]
    seen = measure(augment=True)["inputs"]
    np.testing.assert_allclose(seen, X[[0, 1, 2]].sum(axis=0) + added, rtol=1e-5)


def test_labels_are_drawn_alike_with_and_without_augmentation_and_afresh_for_every_batch():
    keys = [jax.random.split(jax.random.fold_in(KEY, number))[1] for number in (0, 1)]
    expected = sum(float(jax.random.normal(key)) for key in keys)
    for augment in (False, True):
        assert float(measure(augment=augment)["drawn"]) == pytest.approx(expected, rel=1e-5)


def test_replicate_0_keeps_the_trunks_key_and_every_other_one_has_its_own():
    trunk = begun(4)
    keys = [
        state.fork(trunk, trunk.mask, SGD, replicate=replicate, reset_momentum=True).key
        for replicate in range(4)
    ]
    np.testing.assert_array_equal(keys[0], KEY)
    for replicate in (1, 2, 3):
        np.testing.assert_array_equal(keys[replicate], stream_key(KEY, Stream.REPLICATE, replicate))
    assert len({np.asarray(key).tobytes() for key in keys}) == 4


def test_no_two_uses_of_a_runs_key_share_a_stream():
    keys = [stream_key(KEY, stream, index) for stream in Stream for index in range(5)]
    assert len({np.asarray(key).tobytes() for key in [*keys, KEY]}) == 5 * len(Stream) + 1
