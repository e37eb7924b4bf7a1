"""Overlap and distance of masks against sets, and the conversions against each other."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earlyprune_jax.pruning.masks import (
    compression,
    density,
    from_compression,
    from_density,
    hamming,
    overlap,
)
from earlyprune_jax.validate import InvalidInput


def random_mask(generator, sparsity=None):
    def leaf(*shape):
        return generator.random(shape) >= (generator.random() if sparsity is None else sparsity)

    return {"a": {"kernel": leaf(3, 4), "bias": leaf(4)}, "b": [leaf(5), leaf(0)]}


def indices(mask):
    flat = {
        "a/bias": mask["a"]["bias"],
        "a/kernel": mask["a"]["kernel"],
        "b/0": mask["b"][0],
        "b/1": mask["b"][1],
    }
    kept = {(name, int(i)) for name, leaf in flat.items() for i in np.flatnonzero(leaf)}
    removed = {(name, int(i)) for name, leaf in flat.items() for i in np.flatnonzero(~leaf)}
    return kept, removed


def jaccard(a, b):
    return len(a & b) / len(a | b) if a | b else 1.0


@given(st.integers(0, 2**32))
def test_overlaps_are_intersection_over_union_of_the_sets_in_total_and_per_leaf(seed):
    generator = np.random.default_rng(seed)
    first, second = random_mask(generator), random_mask(generator)
    (kept_a, removed_a), (kept_b, removed_b) = indices(first), indices(second)
    found = overlap(first, second)
    assert found.kept == jaccard(kept_a, kept_b)
    assert found.removed == jaccard(removed_a, removed_b)
    for name in ("a/bias", "a/kernel", "b/0", "b/1"):
        of_leaf = [{i for i in s if i[0] == name} for s in (kept_a, kept_b, removed_a, removed_b)]
        assert found.kept_per_leaf[name] == jaccard(*of_leaf[:2])
        assert found.removed_per_leaf[name] == jaccard(*of_leaf[2:])


@given(st.integers(0, 2**32))
def test_hamming_is_the_symmetric_difference_over_all_entries(seed):
    generator = np.random.default_rng(seed)
    first, second = random_mask(generator), random_mask(generator)
    kept_a, kept_b = indices(first)[0], indices(second)[0]
    assert hamming(first, second) == len(kept_a ^ kept_b) / 21
    assert hamming(first, second) == hamming(second, first)
    assert hamming(first, first) == 0
    inverse = {"a": {k: ~v for k, v in first["a"].items()}, "b": [~leaf for leaf in first["b"]]}
    assert hamming(first, inverse) == 1
    assert overlap(first, first).kept == overlap(first, first).removed == 1


@given(st.integers(1, 60), st.floats(0, 1), st.integers(0, 2**32))
def test_hamming_at_equal_sparsity_s_is_at_most_twice_min_s_and_1_minus_s(size, sparsity, seed):
    removed = round(sparsity * size)
    generator = np.random.default_rng(seed)
    first, second = (generator.permutation(np.arange(size) >= removed) for _ in range(2))
    assert hamming(first, second) <= 2 * min(removed, size - removed) / size
    # The bound is reached by masks that remove from opposite ends.
    opposite = np.arange(size) >= removed, np.arange(size) < size - removed
    assert hamming(*opposite) == 2 * min(removed, size - removed) / size


def test_leaves_that_cannot_be_pruned_are_left_out_on_request():
    first = {"bias": np.ones(8, bool), "kernel": np.array([True, False, True, False])}
    second = {"bias": np.ones(8, bool), "kernel": np.array([True, True, False, False])}
    prunable = {"bias": False, "kernel": True}
    assert hamming(first, second) == 2 / 12
    assert hamming(first, second, prunable) == 2 / 4
    assert overlap(first, second).kept == 9 / 11
    assert overlap(first, second, prunable).kept == 1 / 3
    assert list(overlap(first, second, prunable).kept_per_leaf) == ["kernel"]


def test_independent_masks_come_near_the_values_the_docstrings_give():
    generator = np.random.default_rng(0)
    first, second = (generator.random(200_000) >= 0.8 for _ in range(2))
    assert overlap(first, second).kept == pytest.approx((1 - 0.8) / (1 + 0.8), abs=5e-3)
    assert overlap(first, second).removed == pytest.approx(0.8 / (2 - 0.8), abs=5e-3)
    assert hamming(first, second) == pytest.approx(2 * 0.8 * 0.2, abs=5e-3)


@pytest.mark.parametrize("compare", [overlap, hamming])
def test_masks_that_do_not_fit_together_are_refused_by_path(compare):
    mask = {"conv": {"kernel": np.ones((2, 3), bool)}}
    with pytest.raises(InvalidInput, match="conv/kernel.*3, 2"):
        compare(mask, {"conv": {"kernel": np.ones((3, 2), bool)}})
    with pytest.raises(InvalidInput, match="conv/kernel.*float64"):
        compare({"conv": {"kernel": np.ones((2, 3))}}, mask)
    with pytest.raises(InvalidInput, match="conv/weight"):
        compare(mask, {"conv": {"weight": np.ones((2, 3), bool)}})
    with pytest.raises(InvalidInput, match="prunable.*conv"):
        compare(mask, mask, {"conv": True})


def test_a_distance_over_no_entries_is_refused():
    with pytest.raises(InvalidInput, match="at least one to compare"):
        hamming({"w": np.ones(3, bool)}, {"w": np.ones(3, bool)}, {"w": False})


@settings(max_examples=300)
@given(st.floats(0, 1))
def test_density_and_sparsity_are_each_others_inverse(value):
    assert from_density(density(value)) == pytest.approx(value, abs=1e-15)
    assert density(value) + value == pytest.approx(1, abs=1e-15)


@settings(max_examples=300)
@given(st.floats(0, 0.9999))
def test_compression_is_one_over_density_and_inverted(sparsity):
    assert compression(sparsity) == 1 / density(sparsity)
    assert from_compression(compression(sparsity)) == pytest.approx(sparsity, abs=1e-15)


@pytest.mark.parametrize(
    ("convert", "value", "words"),
    [
        (density, 1.1, "sparsity=1.1 in [0, 1]"),
        (density, math.nan, "sparsity=nan in [0, 1]"),
        (from_density, -0.1, "density=-0.1 in [0, 1]"),
        (compression, 1.0, "sparsity=1.0 in [0, 1)"),
        (from_compression, 0.5, "compression=0.5 in [1, inf)"),
        (from_compression, math.inf, "compression=inf in [1, inf)"),
        (density, "0.5", "to be a number"),
        (density, True, "to be a number"),
    ],
)
def test_rates_outside_their_range_are_refused(convert, value, words):
    with pytest.raises(InvalidInput) as caught:
        convert(value)
    assert words in str(caught.value)


def test_a_mask_in_place_of_its_sparsity_is_refused_in_one_line():
    mask = {f"layer{number}": np.ones((64, 64), bool) for number in range(30)}
    with pytest.raises(
        InvalidInput, match=r"sparsity=\{'layer0'.* … .*\} to be a number"
    ) as caught:
        density(mask)  # pyright: ignore[reportArgumentType]
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
