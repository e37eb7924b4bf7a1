"""Bucket shapes against every possible choice, and what they promise of any lengths."""

import itertools

import numpy as np
import pytest

from earlyprune_jax.translation.buckets import Bucket, assign, choose, waste
from earlyprune_jax.validate import InvalidInput


def brute_force(sizes, num_tokens, max_waste):
    """The least cost of the fewest intervals that waste little enough, by trying all ends."""
    values = sorted(set(sizes))
    least = np.inf
    for num in range(len(values)):
        for inner in itertools.combinations(values[:-1], num):
            ends = [*inner, values[-1]]
            of_end = [min(end for end in ends if end >= size) for size in sizes]
            full = all(of_end.count(end) >= max(num_tokens // end, 1) for end in ends)
            if full or not num:
                least = min(least, sum(of_end))
        if 1 - sum(sizes) / least <= max_waste:
            return num + 1, least
    return None, least


@pytest.mark.parametrize("seed", range(12))
def test_the_fewest_buckets_and_the_least_padding_are_those_of_trying_everything(seed):
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 9, (draw.integers(1, 60), 2))
    num_tokens, max_waste = int(draw.integers(1, 40)), float(draw.uniform(0, 0.4))
    buckets = choose(lengths, num_tokens, max_waste=max_waste)
    sizes = lengths.max(axis=1).tolist()
    number, cost = brute_force(sizes, num_tokens, max_waste)
    if number is not None:
        assert len(buckets) == number
    assert waste(lengths, buckets)[0] == pytest.approx(1 - sum(sizes) / cost)


@pytest.mark.parametrize("seed", range(5))
def test_every_pair_lies_in_a_bucket_that_holds_it_and_every_bucket_has_a_full_batch(seed):
    lengths = np.random.default_rng(seed).geometric(0.1, (3000, 2))
    buckets = choose(lengths, 200, max_waste=0.1, longest=(120, 7))
    places = assign(lengths, buckets)
    for place, bucket in enumerate(buckets):
        inside = lengths[places == place]
        assert (inside <= (bucket.source, bucket.target)).all()
        assert len(inside) >= bucket.batch_size >= 1
        longest = max(bucket.source, bucket.target)
        assert bucket.batch_size * longest <= max(200, longest)
    assert buckets[-1].source >= 120
    assert assign(np.array([[120, 7]]), buckets).tolist() == [len(buckets) - 1]


def test_a_pair_that_is_longer_than_the_budget_is_a_batch_of_its_own():
    lengths = np.array([[2, 2]] * 10 + [[30, 20]])
    assert choose(lengths, 10, max_waste=0) == (Bucket(2, 2, 5), Bucket(30, 20, 1))


def test_too_few_pairs_for_a_batch_are_one_batch():
    assert choose(np.array([[3, 5], [4, 4]]), 1500) == (Bucket(4, 5, 2),)


def test_no_pairs_and_pairs_that_fit_nowhere_are_refused():
    with pytest.raises(InvalidInput, match="at least one pair"):
        choose(np.zeros((0, 2), int), 10)
    with pytest.raises(InvalidInput, match=r"lengths of a pair=\[3, 9\] to be at most .*\[8, 8\]"):
        assign(np.array([[1, 1], [3, 9]]), [Bucket(8, 8, 1)])
