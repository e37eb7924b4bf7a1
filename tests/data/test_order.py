import jax
import numpy as np
import pytest

from earlyprune_jax.data.draws import epoch_order, steps_per_epoch
from earlyprune_jax.validate import InvalidInput

KEY = jax.random.PRNGKey(7)
jitted_order = jax.jit(epoch_order, static_argnames=("num_examples", "batch_size"))


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "steps"), [(50_000, 128, 390), (64, 64, 1), (7, 2, 3)]
)
def test_steps_per_epoch_counts_full_batches(num_examples, batch_size, steps):
    assert steps_per_epoch(num_examples, batch_size) == steps


@pytest.mark.parametrize("batch_size", [0, -3, 11])
def test_batch_size_without_a_full_batch_is_refused_with_the_allowed_range(batch_size):
    with pytest.raises(InvalidInput, match=rf"train\.batch_size={batch_size} in \[1, 10\]"):
        epoch_order(KEY, 0, 10, batch_size)


def test_an_epoch_without_remainder_sees_every_example_once():
    order = jitted_order(KEY, 3, 60, 12)
    assert order.shape == (5, 12) and order.dtype == np.int32
    assert np.array_equal(np.sort(np.asarray(order).ravel()), np.arange(60))


def test_the_remainder_sits_out_and_differs_from_epoch_to_epoch():
    left_out = []
    for epoch in range(6):
        seen = np.asarray(jitted_order(KEY, epoch, 23, 5)).ravel()
        assert len(np.unique(seen)) == 20 and seen.min() >= 0 and seen.max() < 23
        left_out.append(frozenset(range(23)) - frozenset(seen.tolist()))
    assert len(set(left_out)) > 1


def test_order_is_a_function_of_key_and_epoch_alone():
    third = jitted_order(KEY, 3, 60, 12)
    assert np.array_equal(third, jitted_order(KEY, 3, 60, 12))
    assert not np.array_equal(third, jitted_order(KEY, 4, 60, 12))
    assert not np.array_equal(third, jitted_order(jax.random.PRNGKey(8), 3, 60, 12))


def test_a_traced_epoch_gives_the_order_of_the_plain_one():
    assert np.array_equal(jitted_order(KEY, 3, 60, 12), epoch_order(KEY, 3, 60, 12))


def test_positions_are_uniform_over_epochs():
    orders = jax.vmap(lambda epoch: epoch_order(KEY, epoch, 8, 8))(np.arange(4000))
    first = np.bincount(np.asarray(orders)[:, 0, 0], minlength=8)
    # Binomial with 4000 draws and p = 1/8: mean 500, standard deviation 20.9.
    assert np.all(np.abs(first - 500) < 5 * 20.9)
