"""Exact counts and ties by index, on the host and inside jit; LAMP's scores."""

import re
from typing import Any

import chex
import jax
import jax.experimental
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earlyprune_jax.pruning.allocation import ranking
from earlyprune_jax.validate import InvalidInput

SHAPES = ((4, 3), (1,), (0, 2), (5,), (2, 2, 2))
SIZES = [int(np.prod(shape)) for shape in SHAPES]
NUM_SCORES = sum(SIZES)
NARROW = (np.float32, np.float16, ml_dtypes.bfloat16)

# Compiled once a type: the count is an argument.
traced = jax.jit(ranking.keep_highest_traced)
traced_lamp = jax.jit(lambda leaf: ranking.lamp(leaf, jnp))

# Its place until JAX 0.8.
enable_x64: Any = getattr(jax if hasattr(jax, "enable_x64") else jax.experimental, "enable_x64")  # noqa: B009


def stable_sort(scores: list[np.ndarray], count: int) -> list[np.ndarray]:
    """The definition: the first `count` of a stable ascending sort go."""
    flat = np.concatenate([leaf.astype(np.float64).ravel() for leaf in scores])
    kept = np.ones(flat.size, bool)
    kept[np.argsort(flat, kind="stable")[:count]] = False
    parts = np.split(kept, np.cumsum([leaf.size for leaf in scores])[:-1])
    return [part.reshape(leaf.shape) for part, leaf in zip(parts, scores, strict=True)]


def split(values, dtype) -> list[np.ndarray]:
    with np.errstate(over="ignore"):
        flat = np.asarray(values, np.float64).astype(dtype)
    parts = np.split(flat, np.cumsum(SIZES)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, SHAPES, strict=True)]


@st.composite
def scored(draw, dtypes) -> list[np.ndarray]:
    """Leaves of one tie pattern: all equal, few values, signed zeros, infinities, subnormals,
    anything."""
    dtype = draw(st.sampled_from(dtypes))
    tiny = float(ml_dtypes.finfo(dtype).smallest_subnormal)
    width: Any = {np.float64: 64, np.float16: 16}.get(dtype, 32)
    values = draw(
        st.sampled_from(
            [
                st.just(0.25),
                st.sampled_from([-1.0, 0.0, 2.0]),
                st.sampled_from([0.0, -0.0, tiny]),
                st.sampled_from([np.inf, -np.inf, 0.0, 1.0]),
                st.integers(-3, 3).map(lambda number: number * tiny),
                st.floats(allow_nan=False, width=width),
            ]
        )
    )
    return split(draw(st.lists(values, min_size=NUM_SCORES, max_size=NUM_SCORES)), dtype)


def assert_same(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(one), other)


@settings(max_examples=150, deadline=None)
@given(scored((np.float32, np.float64, np.float16)), st.integers(0, NUM_SCORES))
def test_removes_exactly_the_first_k_of_a_stable_sort_over_all_leaves(scores, count):
    kept = ranking.keep_highest(scores, count)
    assert sum(np.count_nonzero(~keep) for keep in kept) == count
    assert_same(kept, stable_sort(scores, count))


@settings(max_examples=150, deadline=None)
@given(scored(NARROW), st.integers(0, NUM_SCORES))
def test_inside_jit_the_same_entries_go_as_on_the_host(scores, count):
    assert_same(traced(scores, count), stable_sort(scores, count))


@settings(max_examples=40, deadline=None)
@given(scored((np.float32,)), st.integers(0, NUM_SCORES))
def test_the_order_in_memory_does_not_matter(scores, count):
    transposed = [np.asfortranarray(leaf) for leaf in scores]
    assert_same(ranking.keep_highest(transposed, count), stable_sort(scores, count))
    strided = [np.repeat(leaf, 2, axis=-1)[..., ::2] for leaf in scores]
    assert_same(ranking.keep_highest(strided, count), stable_sort(scores, count))


MANY = 300_000
rng = np.random.default_rng(0)
LARGE = {
    "continuous": rng.normal(size=MANY),
    "few values": rng.integers(0, 50, MANY),
    "one value": np.ones(MANY),
    "most are zero": np.where(rng.random(MANY) < 0.7, 0, rng.normal(size=MANY)),
    "most are removed": np.where(rng.random(MANY) < 0.7, -np.inf, rng.normal(size=MANY)),
    "infinite": np.where(rng.random(MANY) < 0.01, np.inf, rng.normal(size=MANY)),
    "sorted": np.arange(MANY),
    "periodic": np.arange(MANY) % 127,
    "misleading at every 127th": np.where(np.arange(MANY) % 127 == 0, 1e6, rng.normal(size=MANY)),
}


@pytest.mark.parametrize("name", list(LARGE))
def test_of_many_scores_exactly_the_lowest_go_too(name):
    flat = LARGE[name].astype(np.float32)
    leaves = [flat[:1], flat[1:200_001].reshape(400, 500).T, flat[200_001:200_001], flat[200_001:]]
    for count in (1, 777, MANY // 2, round(0.7 * MANY), round(0.8 * MANY), MANY - 1, MANY):
        assert_same(ranking.keep_highest(leaves, count), stable_sort(leaves, count))


def test_one_compilation_serves_every_count():
    scores = split(np.arange(NUM_SCORES), np.float32)
    keep = jax.jit(chex.assert_max_traces(ranking.keep_highest_traced, n=1))
    for count in range(NUM_SCORES + 1):
        assert_same(keep(scores, count), stable_sort(scores, count))


def test_counts_can_be_mapped_over():
    scores = split(np.tile([1.0, 0.0, 2.0], NUM_SCORES)[:NUM_SCORES], np.float32)
    counts = np.array([0, 3, 11, NUM_SCORES], np.int32)
    kept = jax.jit(jax.vmap(ranking.keep_highest_traced, in_axes=(None, 0)))(scores, counts)
    for row, count in enumerate(counts.tolist()):
        assert_same([leaf[row] for leaf in kept], stable_sort(scores, count))


def test_leaves_of_different_types_are_ranked_by_value():
    scores = [np.array([1.5, -2.0, 0.25], np.float16), np.array([1.0, -3.0, 1.5, 0.5], np.float32)]
    for count in range(8):
        assert_same(traced(scores, count), stable_sort(scores, count))
        assert_same(ranking.keep_highest(scores, count), stable_sort(scores, count))


def test_with_64_bits_enabled_both_widths_are_ranked_together():
    scores = [
        np.array([1.0, -3.0, 2.0], np.float32),
        np.array([0.5, -4.0, 9.0, 1 + 1e-12], np.float64),
    ]
    with enable_x64(True):
        for count in range(8):
            kept = jax.jit(ranking.keep_highest_traced)(
                [jnp.asarray(leaf) for leaf in scores], count
            )
            assert_same(kept, stable_sort(scores, count))


@pytest.mark.parametrize("dtype", NARROW)
def test_inside_jit_nan_ranks_above_infinity_whatever_its_sign(dtype):
    scores = split(np.arange(NUM_SCORES), dtype)
    scores[0][0, 0], scores[0][1, 1], scores[3][2] = np.nan, -np.nan, np.inf
    for count in (0, 1, NUM_SCORES - 3, NUM_SCORES - 2, NUM_SCORES - 1, NUM_SCORES):
        # NumPy's sort puts NaN last too, in the order of the index.
        assert_same(traced(scores, count), stable_sort(scores, count))


@settings(max_examples=60, deadline=None)
@given(scored((np.float32,)), st.integers(0, NUM_SCORES), st.integers(0, NUM_SCORES))
def test_what_a_higher_count_keeps_a_lower_count_keeps_too(scores, one, other):
    few, many = (
        ranking.keep_highest(scores, min(one, other)),
        ranking.keep_highest(scores, max(one, other)),
    )
    assert all(
        (~kept_by_many | kept_by_few).all()
        for kept_by_few, kept_by_many in zip(few, many, strict=True)
    )


def lamp_by_definition(scores: np.ndarray) -> np.ndarray:
    """Eq. 5 with the layer's weights sorted ascending: s_u^2 / sum_{v >= u} s_v^2."""
    flat = scores.astype(np.float64).ravel()
    order = np.argsort(flat, kind="stable")
    values = np.empty(flat.size)
    for rank, place in enumerate(order):
        values[place] = flat[place] ** 2 / sum(flat[other] ** 2 for other in order[rank:])
    return values.reshape(scores.shape)


positive = st.lists(st.floats(0.0009765625, 1000, width=32), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(positive)
def test_lamp_is_the_papers_formula(values):
    scores = np.array(values, np.float32)
    np.testing.assert_allclose(ranking.lamp(scores), lamp_by_definition(scores), rtol=1e-12)


@settings(max_examples=100, deadline=None)
@given(positive)
def test_lamp_gives_each_layer_exactly_one_weight_of_value_one_and_keeps_the_order(values):
    scores = np.array(values, np.float32)
    lamp = ranking.lamp(scores)
    assert np.count_nonzero(lamp == 1) == 1
    np.testing.assert_array_equal(
        np.argsort(lamp, kind="stable"), np.argsort(scores, kind="stable")
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.0009765625, 1000, width=32), min_size=12, max_size=12))
def test_lamp_inside_jit_agrees_with_the_host_to_single_precision(values):
    scores = np.array(values, np.float32).reshape(3, 4)
    np.testing.assert_allclose(traced_lamp(scores), lamp_by_definition(scores), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1.0, 1e30, 1e200])
def test_lamp_does_not_depend_on_the_scale_of_a_layer(scale):
    scores = scale * np.array([1.0, 3.0, 2.0, 0.0])
    np.testing.assert_allclose(ranking.lamp(scores), [1 / 14, 1, 4 / 13, 0], rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_lamp_inside_jit_survives_scales_whose_squares_do_not_fit(scale):
    scores = (scale * np.array([1.0, 3.0, 2.0, 0.0])).astype(np.float32)
    np.testing.assert_allclose(traced_lamp(scores), [1 / 14, 1, 4 / 13, 0], rtol=1e-5)


def test_lamp_of_infinite_scores_keeps_their_order_without_nan():
    lamp = ranking.lamp(np.array([np.inf, 1.0, np.inf, -np.inf, 0.0]))
    np.testing.assert_array_equal(lamp, [0.5, 0, 1, -np.inf, 0])


def test_lamp_of_a_layer_of_zeros_is_zero_and_of_an_empty_layer_empty():
    np.testing.assert_array_equal(ranking.lamp(np.array([0.0, -0.0])), [0, 0])
    np.testing.assert_array_equal(ranking.lamp(np.array([0.0, -np.inf])), [0, -np.inf])
    assert ranking.lamp(np.zeros((0, 3))).shape == (0, 3)


def test_scores_that_int32_cannot_count_are_refused_inside_jit_and_counted_with_64_bits():
    most = jax.ShapeDtypeStruct((2**31 - 1,), np.float32)
    one = jax.ShapeDtypeStruct((1,), np.float32)
    count = jax.ShapeDtypeStruct((), np.int32)
    assert jax.eval_shape(ranking.keep_highest_traced, [most], count)[0].shape == most.shape
    with pytest.raises(InvalidInput, match=r"scores in one ranking=2147483648 .* 2147483647"):
        jax.eval_shape(ranking.keep_highest_traced, [most, one], count)
    with pytest.raises(InvalidInput, match=r"scores in one ranking=4294967296"):
        jax.eval_shape(lambda s: ranking.lamp(s, jnp), jax.ShapeDtypeStruct((2**32,), np.float32))
    with enable_x64(True):
        # A count that int32 does not hold, of more scores than it holds.
        many = [most, most]
        kept = jax.eval_shape(
            lambda s: ranking.keep_highest_traced(s, jnp.asarray(3 * 2**30)), many
        )
        assert [leaf.shape for leaf in kept] == [most.shape] * 2
        jaxpr = jax.make_jaxpr(lambda s: ranking.keep_highest_traced(s, jnp.asarray(3 * 2**30)))(
            many
        )
        counts = re.findall(r":(\w+)\[[\d,]*\] = (?:reduce_sum|cumsum)\b", str(jaxpr))
        assert len(counts) >= 6 and set(counts) == {"i64"}
