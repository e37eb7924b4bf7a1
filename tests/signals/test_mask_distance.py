"""Mask distances against counts by hand and their known expectations."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from earlyprune_jax.pruning import allocate, select
from earlyprune_jax.pruning.scores import magnitude, random
from earlyprune_jax.signals import early_bird_distance, mask_distance
from earlyprune_jax.validate import InvalidInput

PARAMS = {"conv": {"kernel": jnp.ones((3, 3, 20, 50))}, "norm": {"scale": jnp.ones(1000)}}
PRUNABLE = select(PARAMS, "conv_kernels")


def random_mask(seed, sparsity):
    scores = random(PARAMS, jax.random.key(seed))
    return allocate(scores, PRUNABLE, sparsity=sparsity, scope="global")


def test_it_counts_the_prunable_entries_only():
    first = {"a": np.array([True, False, True, True]), "b": np.ones(12, bool)}
    second = {"a": np.array([False, True, True, True]), "b": np.ones(12, bool)}
    assert mask_distance(first, second, {"a": True, "b": False}) == 0.5
    assert mask_distance(first, second) == 2 / 16


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.9])
def test_independent_masks_differ_by_2s_1_minus_s_and_never_by_more_than_2_min_s_1_minus_s(
    sparsity,
):
    distance = mask_distance(random_mask(0, sparsity), random_mask(1, sparsity), PRUNABLE)
    assert distance == pytest.approx(2 * sparsity * (1 - sparsity), abs=0.02)
    scores = random(PARAMS, jax.random.key(0))
    opposite = allocate(
        jax.tree.map(lambda s: 1 - s, scores), PRUNABLE, sparsity=sparsity, scope="global"
    )
    farthest = mask_distance(random_mask(0, sparsity), opposite, PRUNABLE)
    assert farthest == pytest.approx(2 * min(sparsity, 1 - sparsity), abs=1e-6)


def test_early_bird_looks_at_the_farthest_of_the_older_masks_not_at_the_last():
    newest = np.zeros(10, bool)
    older = [np.arange(10) < count for count in (1, 4, 2, 1)]
    assert early_bird_distance(newest, older) == 0.4
    assert early_bird_distance(newest, collections.deque(older)) == 0.4
    assert early_bird_distance(newest, [newest]) == 0.0


def test_masks_of_different_criteria_can_be_compared():
    params = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(3), leaf.shape), PARAMS)
    by_size = allocate(magnitude(params), PRUNABLE, sparsity=0.5, scope="local")
    distance = early_bird_distance(random_mask(0, 0.5), [by_size], PRUNABLE)
    assert distance == pytest.approx(0.5, abs=0.03)


def test_no_older_mask_one_that_is_no_list_and_one_that_does_not_fit_are_refused():
    mask = {"w": np.ones(3, bool)}
    with pytest.raises(InvalidInput, match="older=.* to be a list of at least one mask"):
        early_bird_distance(mask, [])
    with pytest.raises(InvalidInput, match="older='dict' to be a list"):
        early_bird_distance(mask, mask)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"shape of mask at w=\(4,\) to be \(3,\)"):
        early_bird_distance(mask, [{"w": np.ones(4, bool)}])
