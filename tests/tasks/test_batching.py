"""Which examples make which batches: each once, each in its bucket, a function of key and epoch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from earlyprune_jax.tasks import bucketed, gather, plain
from earlyprune_jax.tasks.batching import places
from earlyprune_jax.validate import InvalidInput

KEY = jax.random.PRNGKey(3)
SIZES = {"short": 23, "middle": 9, "long": 4}
BATCH_SIZES = {"short": 4, "middle": 3, "long": 2}


def split(sizes) -> dict:
    """Arrays of another width in every bucket; `number` tells the examples of all buckets apart."""
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
    return {
        kind: {"number": np.arange(size) + starts[kind], "tokens": np.zeros((size, 2 + place))}
        for place, (kind, size) in enumerate(sizes.items())
    }


SPLITS = {"train": split(SIZES), "test": split({"short": 5, "middle": 0, "long": 3})}


@pytest.fixture(scope="module")
def batching():
    return bucketed(SPLITS, BATCH_SIZES)


def epoch(batching, number, key=KEY):
    """The kinds in their turn, and kind -> [n, B] numbers of the examples, in the order of the
    steps."""
    made = batching.epoch(key, number)
    shown = {one.kind: SPLITS["train"][one.kind]["number"][np.asarray(one.indices)] for one in made}
    return [one.kind for one in made], shown


def test_an_epoch_shows_every_example_at_most_once_and_leaves_out_remainders_only(batching):
    assert batching.steps_per_epoch == 23 // 4 + 9 // 3 + 4 // 2
    for number in range(3):
        turn, shown = epoch(batching, number)
        assert sorted(turn) == sorted(SIZES)
        assert {kind: rows.shape for kind, rows in shown.items()} == {
            "short": (5, 4),
            "middle": (3, 3),
            "long": (2, 2),
        }
        seen = np.concatenate([rows.ravel() for rows in shown.values()])
        assert len(np.unique(seen)) == len(seen) == 20 + 9 + 4
        for kind, rows in shown.items():
            assert set(rows.ravel()) <= set(SPLITS["train"][kind]["number"])


def test_orders_and_turns_change_with_the_epoch_and_the_key_and_with_nothing_else(batching):
    again = bucketed(SPLITS, BATCH_SIZES)
    orders, turns = set(), set()
    for number, key in itertools.product(range(8), (KEY, jax.random.PRNGKey(4))):
        turn, shown = epoch(batching, number, key)
        other_turn, other = epoch(again, number, key)
        assert turn == other_turn
        for kind, rows in shown.items():
            np.testing.assert_array_equal(rows, other[kind])
        orders.add(shown["short"].tobytes())
        turns.add(tuple(turn))
    assert len(orders) == 16
    assert len(turns) > 2


def test_buckets_of_one_size_are_not_in_one_order():
    same = {"train": split({"a": 12, "b": 12})}
    made = bucketed(same, {"a": 3, "b": 3}).epoch(KEY, 0)
    first, second = (np.asarray(one.indices) for one in made)
    assert not np.array_equal(first, second)


def test_a_subset_is_each_example_once_in_its_own_bucket_padded_to_full_batches(batching):
    # Of the train split: 0 ... 22 are short, 23 ... 31 middle, 32 ... 35 long.
    wanted = np.array([0, 3, 4, 21, 22, 33])
    found = list(batching.subset("train", wanted, 4, 2))
    assert [one.kind for one in found] == ["short", "long"]
    short, long = found
    np.testing.assert_array_equal(short.indices, [[0, 3, 4, 21], [22, 0, 0, 0]])
    np.testing.assert_array_equal(short.weights, [[1, 1, 1, 1], [1, 0, 0, 0]])
    np.testing.assert_array_equal(long.indices, [[1, 0]])
    np.testing.assert_array_equal(long.weights, [[1, 0]])
    # Places count through all batches: six examples.
    first, seen = places(short, 0)
    assert (first.tolist(), seen) == ([0, 4], 5)
    assert places(long, seen)[1] == 6


def test_every_example_of_a_split_is_evaluated_once_whatever_the_batch_size(batching):
    for split_name, size in itertools.product(SPLITS, (1, 3, 100)):
        num = batching.num_examples[split_name]
        seen = []
        for one in batching.subset(split_name, np.arange(num), size, 1):
            rows = SPLITS[split_name][one.kind]["number"][np.asarray(one.indices)]
            seen += rows[np.asarray(one.weights) > 0].tolist()
        assert seen == list(range(num))


def test_a_batch_is_the_rows_of_its_bucket():
    batch = gather("middle", SPLITS["train"], jnp.array([2, 0]), None, None)
    assert batch["number"].tolist() == [25, 23]
    assert batch["tokens"].shape == (2, 3)
    weighted = gather("", SPLITS["train"]["long"], jnp.array([1]), jnp.array([0.0]), None)
    assert (weighted["number"].tolist(), weighted["weights"].tolist()) == ([33], [0.0])


def test_a_bucket_without_a_full_batch_is_refused():
    with pytest.raises(InvalidInput, match="batch_size=5 in .1, 4."):
        bucketed(SPLITS, BATCH_SIZES | {"long": 5})
    with pytest.raises(InvalidInput, match="batch_size=37 in .1, 36."):
        plain({"train": {"x": np.zeros(36)}}, 37)


def test_chunks_are_the_batches_of_the_buckets_cut_up_and_shuffled():
    cut = bucketed(SPLITS, BATCH_SIZES, chunk=2)
    assert cut.steps_per_epoch == 5 + 3 + 2
    orders = set()
    for number, key in itertools.product(range(4), (KEY, jax.random.PRNGKey(4))):
        chunks = [(one.kind, np.asarray(one.indices)) for one in cut.epoch(key, number)]
        sizes = sorted((kind, len(rows)) for kind, rows in chunks)
        assert [kind for kind, _ in sizes] == ["long"] + ["middle"] * 2 + ["short"] * 3
        assert [length for _, length in sizes] == [2, 1, 2, 1, 2, 2]
        # Together they are the batches that a bucket has without chunks.
        for one in bucketed(SPLITS, BATCH_SIZES).epoch(key, number):
            of_kind = {row.tobytes() for kind, rows in chunks if kind == one.kind for row in rows}
            assert of_kind == {row.tobytes() for row in np.asarray(one.indices)}
        again = bucketed(SPLITS, BATCH_SIZES, chunk=2).epoch(key, number)
        for (kind, rows), other in zip(chunks, again, strict=True):
            assert kind == other.kind and np.array_equal(rows, other.indices)
        orders.add(tuple((kind, len(rows)) for kind, rows in chunks))
    assert len(orders) > 4


def test_without_chunks_epochs_are_the_recorded_ones_so_old_runs_can_be_repeated(batching):
    turn, shown = epoch(batching, 1)
    assert turn == ["long", "short", "middle"]
    assert shown["long"].tolist() == [[35, 32], [33, 34]]
    assert shown["short"][0].tolist() == [13, 21, 18, 22]
