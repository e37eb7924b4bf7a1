"""Which random numbers a step draws: each use its own key, a function of (run key, use, step)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from earlyprune_jax.signals import Network, ProbeSignal
from earlyprune_jax.spec_sections import OptimSpec
from earlyprune_jax.tasks import Metric, Task, plain
from earlyprune_jax.training import optim, state
from earlyprune_jax.training.execution import runner
from earlyprune_jax.training.state import Stream, stream_key

KEY = jax.random.PRNGKey(7)
X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
ROWS = np.array([[0, 1], [2, 3], [4, 5], [1, 4]], np.int32)
RATE = 0.1
SGD = optim.make(OptimSpec("sgd", RATE, 0.0, False, 0.0, "all"))


def noisy_task(*, drops: bool = False) -> Task:
    """Inner products with inputs that a key moves by Gaussian noise: loss = mean x.w.

    With `drops` the loss itself draws: + n.w, n Gaussian.
    """

    def take(kind, split, indices, weights, key):
        rows = split["x"][indices]
        return {"x": rows if key is None else rows + jax.random.normal(key, rows.shape)}

    def train_sums(params, model_state, examples, key):
        own = jax.random.normal(key, (3,)) if drops else jnp.zeros(3)
        return {
            "loss": jnp.mean(examples["x"] @ params["w"]) + own @ params["w"],
            "count": jnp.ones(()),
        }, model_state

    def logits(variables, examples):
        return examples["x"] * variables["params"]["w"][None]

    def network(model_state):
        return Network(logits, model_state, is_linen=False)

    def init(key):
        return {"params": {"w": jnp.ones(3)}}

    splits = {"train": {"x": X}, "test": {"x": X}}
    return Task(
        splits=splits,
        batching=plain(splits, 2, take),
        init=init,
        train_sums=train_sums,
        eval_sums=lambda params, model_state, examples: {},
        metrics=(Metric("loss", larger_is_better=False),),
        primary="loss",
        network=network,
    )


def noise(key, size=2):
    return np.asarray(jax.random.normal(key, (size, 3)))


def begun(step: int) -> state.TrainState:
    # A copy of the key: the compiled step donates it.
    created = state.create(noisy_task().init(KEY), SGD, jnp.array(KEY))
    return dataclasses.replace(created, step=jnp.int32(step))


@pytest.mark.parametrize("first_step", [0, 5])
def test_every_train_step_augments_with_the_key_of_its_own_step(first_step):
    train = runner(state.train_step(noisy_task(), SGD), form="loop", name="train_step")
    rates = np.full(len(ROWS), RATE, np.float32)
    begin = (begun(first_step), state.zero_train_sums(("loss", "count")))
    final, _ = train(begin, ((ROWS, None), rates), {"x": jnp.asarray(X)})
    w = np.ones(3)
    for step, rows in enumerate(ROWS, first_step):
        # The gradient of mean x.w is mean x: the noise of every step stays visible in w.
        w -= RATE * (X[rows] + noise(stream_key(KEY, Stream.AUGMENT, step))).mean(axis=0)
    np.testing.assert_allclose(final.params["w"], w, rtol=1e-5)


@pytest.mark.parametrize("first_step", [0, 5])
def test_what_a_loss_draws_is_of_a_stream_of_its_own_and_of_its_step(first_step):
    train = runner(state.train_step(noisy_task(drops=True), SGD), form="loop", name="train_step")
    rates = np.full(len(ROWS), RATE, np.float32)
    begin = (begun(first_step), state.zero_train_sums(("loss", "count")))
    final, _ = train(begin, ((ROWS, None), rates), {"x": jnp.asarray(X)})
    w = np.ones(3)
    for step, rows in enumerate(ROWS, first_step):
        moved = X[rows] + noise(stream_key(KEY, Stream.AUGMENT, step))
        dropped = np.asarray(jax.random.normal(stream_key(KEY, Stream.DROPOUT, step), (3,)))
        w -= RATE * (moved.mean(axis=0) + dropped)
    np.testing.assert_allclose(final.params["w"], w, rtol=1e-5)


def input_sum() -> ProbeSignal:
    """The weighted sums of the inputs (the logits at w = 1) and of the places; a draw from each
    key."""

    def batch_sums(network, params, batch, key, pass_index):
        inputs = batch["weights"] @ network.apply({"params": params, **network.fixed}, batch)
        places = batch["weights"] @ batch["numbers"]
        return {"inputs": inputs, "drawn": jax.random.normal(key), "places": places}

    def zero_sums(params):
        return {"inputs": jnp.zeros(3), "drawn": jnp.zeros(()), "places": jnp.zeros(())}

    return ProbeSignal("input_sum", (), 1, zero_sums, batch_sums, lambda sums, num: sums)


def measure(*, augment: bool):
    rows, weights = ROWS[:2], np.array([[1, 1], [1, 0]], np.float32)
    step = runner(
        state.signal_step(noisy_task(), input_sum(), augment=augment), form="loop", name="signal"
    )
    params = {"w": jnp.ones(3)}
    first, number = np.array([0, 2], np.int32), np.arange(2, dtype=np.int32)
    inputs = (rows, weights, first, number, np.zeros(2, np.int32))
    return step(input_sum().zero_sums(params), inputs, (params, {}, {"x": jnp.asarray(X)}, KEY))


def test_signals_see_the_stored_images_when_augmentation_is_off():
    np.testing.assert_allclose(
        measure(augment=False)["inputs"], X[[0, 1, 2]].sum(axis=0), rtol=1e-5
    )


def test_signals_see_images_augmented_by_their_batchs_key_when_it_is_on():
    first, second = (jax.random.fold_in(jax.random.split(KEY)[0], number) for number in (0, 1))
    added = noise(first).sum(axis=0) + noise(second)[0]
    seen = measure(augment=True)["inputs"]
    np.testing.assert_allclose(seen, X[[0, 1, 2]].sum(axis=0) + added, rtol=1e-5)


def test_every_batch_gets_the_same_key_and_its_images_their_places_so_draws_follow_images():
    drawn = 2 * float(jax.random.normal(jax.random.split(KEY)[1]))
    for augment in (False, True):
        sums = measure(augment=augment)
        assert float(sums["drawn"]) == pytest.approx(drawn, rel=1e-5)
        assert float(sums["places"]) == 0 + 1 + 2


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
