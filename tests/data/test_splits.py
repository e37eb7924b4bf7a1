import numpy as np
import pytest

from earlyprune_jax.data.draws import class_shares, stratified_split


def test_shares_follow_largest_remainders_worked_by_hand():
    # N = 17, m = round(0.4 * 17) = 7; quotas 7*8/17 = 3.29, 7*6/17 = 2.47, 7*3/17 = 1.24.
    assert class_shares([8, 6, 3], 0.4).tolist() == [3, 3, 1]


def test_equal_remainders_go_to_the_lower_classes():
    assert class_shares([10, 10, 10, 10], 0.55).tolist() == [6, 6, 5, 5]


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.05, 0.1, 1 / 3, 0.999, 1.0])
def test_total_is_exact_and_every_class_within_one_of_its_quota(fraction):
    counts = np.random.default_rng(3).integers(0, 400, 23)
    shares = class_shares(counts, fraction)
    total = round(fraction * counts.sum())
    assert shares.sum() == total
    assert np.all(np.abs(shares - total * counts / counts.sum()) < 1)
    assert np.all((shares >= 0) & (shares <= counts))


def test_split_parts_are_ascending_disjoint_and_complete_with_the_shares_of_each_class():
    labels = np.random.default_rng(0).integers(0, 7, 500)
    drawn, rest = stratified_split(labels, 0.3, seed=5)
    assert len(drawn) == 150
    assert np.array_equal(np.sort(np.concatenate([drawn, rest])), np.arange(500))
    assert np.all(np.diff(drawn) > 0) and np.all(np.diff(rest) > 0)
    shares = class_shares(np.bincount(labels), 0.3)
    assert np.array_equal(np.bincount(labels[drawn], minlength=7), shares)


def test_split_repeats_with_its_seed_and_changes_with_another():
    labels = np.arange(200) % 4
    first = stratified_split(labels, 0.5, seed=1)[0]
    assert np.array_equal(first, stratified_split(labels.astype(np.int32), 0.5, seed=1)[0])
    assert not np.array_equal(first, stratified_split(labels, 0.5, seed=2)[0])
    assert not np.array_equal(first, stratified_split(labels, 0.5, seed=(1, 1))[0])


def test_split_is_the_recorded_one_so_old_runs_can_be_repeated():
    drawn, _ = stratified_split(np.arange(20) % 2, 0.3, seed=0)
    assert drawn.tolist() == [2, 3, 8, 11, 13, 18]


def test_every_example_is_equally_likely_to_be_drawn():
    labels = np.arange(40) % 4
    times = np.zeros(40)
    for seed in range(2000):
        times[stratified_split(labels, 0.3, seed)[0]] += 1
    # 3 of 10 in each class: binomial, 2000 draws, standard deviation 20.5.
    assert np.all(np.abs(times - 600) < 5 * 20.5)


@pytest.mark.parametrize(("fraction", "num_drawn"), [(0.0, 0), (1.0, 9)])
def test_none_and_all_can_be_drawn(fraction, num_drawn):
    drawn, rest = stratified_split(np.zeros(9, np.int32), fraction, seed=0)
    assert (len(drawn), len(rest)) == (num_drawn, 9 - num_drawn)


def test_nothing_to_split_gives_nothing():
    drawn, rest = stratified_split(np.zeros(0, np.int32), 0.5, seed=0)
    assert (len(drawn), len(rest)) == (0, 0)
