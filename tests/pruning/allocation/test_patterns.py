"""Blocks and N:M against loops over the definition, on the host and inside jit."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earlyprune_jax import pruning
from earlyprune_jax.pruning import NM, UNSTRUCTURED, Blocks
from earlyprune_jax.validate import InvalidInput

BLOCKS = [
    ((4, 6), ()),
    ((4, 6), (3,)),
    ((4, 6), (2, 2)),
    ((4, 6), (-1, 1)),
    ((4, 6), (1, -1)),
    ((4, 6), (-1, -1)),
    ((2, 3, 4, 4), (2, 2)),
    ((2, 3, 4, 4), (-1, -1, -1, 1)),
    ((2, 3, 4, 4), (-1, -1, 1, 1)),
    ((2, 3, 4, 4), (1, 3, 2, -1)),
    ((6,), (2,)),
]


def integers(shape, seed=0, high=5) -> np.ndarray:
    """Few different values, so that block means tie and are exact in any order of summation."""
    return np.random.default_rng(seed).integers(0, high, shape).astype(np.float32)


def blocks_by_loops(scores: np.ndarray, block: tuple[int, ...], count: int) -> np.ndarray:
    extent = (1,) * (scores.ndim - len(block)) + block
    extent = tuple(
        size if one == -1 else one for one, size in zip(extent, scores.shape, strict=True)
    )
    corners = itertools.product(
        *(range(0, size, one) for size, one in zip(scores.shape, extent, strict=True))
    )
    windows = [
        tuple(slice(low, low + one) for low, one in zip(c, extent, strict=True)) for c in corners
    ]
    # sorted is stable: equal means go in the order of the blocks.
    lowest = sorted(windows, key=lambda window: scores[window].astype(np.float64).mean())[:count]
    kept = np.ones(scores.shape, bool)
    for window in lowest:
        kept[window] = False
    return kept


@pytest.mark.parametrize(("shape", "block"), BLOCKS)
def test_the_blocks_of_lowest_mean_go_whole(shape, block):
    scores = integers(shape, seed=len(block))
    num_blocks = scores.size // np.count_nonzero(~blocks_by_loops(scores, block, 1))
    for sparsity in (0.0, 0.3, 0.5, 0.75) if num_blocks > 1 else (0.0, 0.5):
        count = round(sparsity * num_blocks)
        mask = pruning.allocate(scores, True, sparsity=sparsity, pattern=Blocks(block))
        np.testing.assert_array_equal(mask, blocks_by_loops(scores, block, count))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-2, 2), min_size=24, max_size=24), st.integers(0, 5))
def test_tied_blocks_go_in_the_order_of_their_index(values, count):
    scores = np.array(values, np.float32).reshape(4, 6)
    kept = Blocks((2, 2)).masks([scores], (count,), "global", 0, np)[0]
    np.testing.assert_array_equal(kept, blocks_by_loops(scores, (2, 2), count))


def test_blocks_of_several_layers_are_ranked_together_and_counted_in_blocks():
    scores = {"a": integers((4, 4), 1), "b": integers((2, 2, 4, 2), 2)}
    mask = pruning.allocate(scores, {"a": True, "b": True}, sparsity=0.5, pattern=Blocks((2, 2)))
    # 4 blocks and 4 x 2: of 12, 6 go, 4 weights each.
    assert pruning.count_removed(mask) == 24
    tiles = [
        leaf.reshape(-1, leaf.shape[-2] // 2, 2, leaf.shape[-1] // 2, 2) for leaf in scores.values()
    ]
    flat = np.concatenate([leaf.mean((2, 4)).ravel() for leaf in tiles])
    removed = np.sort(np.argsort(flat, kind="stable")[:6])
    fate = np.concatenate(
        [np.asarray(mask["a"])[::2, ::2].ravel(), np.asarray(mask["b"])[..., ::2, ::2].ravel()]
    )
    np.testing.assert_array_equal(np.flatnonzero(~fate), removed)


def test_blocks_keep_the_minimum_in_blocks():
    scores = {"low": np.zeros((2, 8), np.float32), "high": np.ones((2, 8), np.float32)}
    pattern, both = Blocks((2, 2)), {"low": True, "high": True}
    mask = pruning.allocate(scores, both, sparsity=0.5, pattern=pattern, min_kept=1)
    assert np.asarray(mask["low"])[0].tolist() == [False] * 6 + [True] * 2
    assert np.asarray(mask["high"])[0].tolist() == [False] * 2 + [True] * 6


def nm_by_loops(scores: np.ndarray, kept_of_group: int, group: int, axis: int) -> np.ndarray:
    kept = np.ones(scores.shape, bool)
    axis %= scores.ndim
    others = [range(size) for place, size in enumerate(scores.shape) if place != axis]
    for other in itertools.product(*others):
        for start in range(0, scores.shape[axis], group):
            places = [other[:axis] + (start + offset,) + other[axis:] for offset in range(group)]
            for place in sorted(places, key=lambda place: scores[place])[: group - kept_of_group]:
                kept[place] = False
    return kept


NM_CASES = [
    (shape, axis, n, m)
    for shape, axis in [
        ((8, 3), 0),
        ((8, 3), -2),
        ((3, 8), -1),
        ((2, 3, 8, 4), -2),
        ((8, 2, 3, 2), 0),
        ((8,), -1),
    ]
    for n, m in [(1, 4), (2, 4), (4, 8)]
]


@pytest.mark.parametrize(("shape", "axis", "n", "m"), NM_CASES)
def test_of_every_m_weights_along_the_axis_the_n_highest_stay(shape, axis, n, m):
    scores, pattern = integers(shape, seed=m), NM(n, m, axis=axis)
    mask = pruning.allocate(scores, True, sparsity=pattern.sparsity, scope="local", pattern=pattern)
    np.testing.assert_array_equal(mask, nm_by_loops(scores, n, m, axis))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, 1e-45, -1e-45]),
        min_size=8,
        max_size=8,
    )
)
def test_ties_inside_a_group_go_in_the_order_of_their_index(values):
    scores = np.array(values, np.float32)
    kept = NM(2, 4, axis=0).masks([scores], (2,), "local", 0, np)[0]
    np.testing.assert_array_equal(kept, nm_by_loops(scores, 2, 4, 0))


@pytest.mark.parametrize(("n", "m"), [(1, 3), (9, 10), (2, 4), (7, 10), (3, 3)])
def test_its_sparsity_may_be_written_as_a_fraction_or_a_decimal(n, m):
    scores, pattern = integers((2 * m, 1)), NM(n, m)
    spellings: Any = (
        pattern.sparsity,
        (m - n) / m,
        round((m - n) / m, 10),
        np.float32((m - n) / m),
    )
    for sparsity in spellings:
        mask = pruning.allocate(scores, True, sparsity=sparsity, scope="local", pattern=pattern)
        assert pruning.count_removed(mask) == 2 * (m - n)


def test_sparsity_zero_keeps_every_weight_of_a_group():
    mask = pruning.allocate(integers((8, 2)), True, sparsity=0, scope="local", pattern=NM(2, 4))
    assert np.all(mask)


PATTERNS = [
    (UNSTRUCTURED, "global", (21,), 0),
    (UNSTRUCTURED, "global", (21,), 5),
    (UNSTRUCTURED, "local", (9, 13), 0),
    (Blocks((2, 2)), "global", (6,), 1),
    (Blocks((-1, 1)), "local", (2, 9), 0),
    (NM(1, 2), "local", (1, 1), 0),
    (NM(2, 4, axis=-1), "local", (2, 2), 0),
]


@pytest.mark.parametrize(("pattern", "scope", "counts", "min_kept"), PATTERNS)
def test_inside_jit_the_same_weights_go_as_on_the_host(pattern, scope, counts, min_kept):
    def masks(scores, counts, xp):
        return pattern.masks(scores, counts, scope, min_kept, xp)

    inside = jax.jit(lambda scores, counts: masks(scores, counts, jnp))
    for seed in range(5):
        scores = [integers((4, 4), seed), integers((2, 3, 2, 4), seed + 9)]
        scores[0][0, 0], scores[1][0, 0, 0, 0] = -np.inf, -0.0
        for made, wanted in zip(inside(scores, counts), masks(scores, counts, np), strict=True):
            np.testing.assert_array_equal(made, wanted)


def test_inside_jit_subnormal_scores_are_told_apart_in_groups_too():
    scores = np.array([3e-45, 0.0, -1e-45, 1e-45, 1e-40, -1e-40, -0.0, 0.0], np.float32)
    pattern = NM(2, 4, axis=0)
    inside = jax.jit(lambda leaf: pattern.masks([leaf], (2,), "local", 0, jnp)[0])
    np.testing.assert_array_equal(inside(scores), nm_by_loops(scores, 2, 4, 0))


def refusal(**options) -> str:
    scores = {"net": {"kernel": np.ones((3, 3, 6, 10), np.float32)}}
    with pytest.raises(InvalidInput) as caught:
        pruning.allocate(scores, {"net": {"kernel": True}}, **{"sparsity": 0.5, **options})
    return str(caught.value)


@pytest.mark.parametrize(
    "shape",
    [(4, 4), (7,), (0,), (-2, 1), (2, 0), (1.0,), (12,), (1, 1, 1, 1, 1), [2, 2], 2, None, ("2",)],
)
def test_a_block_that_does_not_fit_is_refused_by_path_and_shape(shape):
    words = refusal(pattern=Blocks(shape))
    assert f"block shape at net/kernel={shape!r}" in words


def test_every_leaf_that_does_not_fit_is_named():
    scores = {
        name: np.ones(shape, np.float32)
        for name, shape in {"a": (4,), "b": (5, 5), "c": (6,)}.items()
    }
    with pytest.raises(InvalidInput) as caught:
        pruning.allocate(scores, dict.fromkeys(scores, True), sparsity=0.5, pattern=Blocks((4,)))
    assert len(caught.value.problems) == 2
    assert "at b" in caught.value.problems[0]
    assert "(6,)" in caught.value.problems[1]


@pytest.mark.parametrize(
    ("pattern", "options", "words"),
    [
        (NM(2, 4), {}, "length of the input axis at net/kernel=6 to be a multiple of 4"),
        (NM(2, 4, axis=-1), {}, "length of axis -1 at net/kernel=10 to be a multiple of 4"),
        (NM(2, 4, axis=4), {}, "axis at net/kernel=4 to be an axis of its shape (3, 3, 6, 10)"),
        (NM(2, 4, axis=-5), {}, "axis at net/kernel=-5"),
        (NM(2, 4, axis=0.5), {}, "axis=0.5 to be a whole number"),  # type: ignore[arg-type]
        (NM(2, 4, axis=None), {}, "axis=None to be a whole number"),  # type: ignore[arg-type]
        (NM(0, 4), {}, "N:M='0:4' to be whole numbers with 1 <= N <= M"),
        (NM(5, 4), {}, "N:M='5:4'"),
        (NM(-1, 4), {}, "N:M='-1:4'"),
        (NM(True, 2), {}, "N:M='True:2'"),
        (NM(2, 4.0), {}, "N:M='2:4.0'"),  # type: ignore[arg-type]
        (NM(1, 0), {}, "N:M='1:0'"),
        (NM(3, 6), {"sparsity": 0.6}, "sparsity=0.6 to be that of 3:6, 0.5, or 0"),
        (NM(3, 6), {"sparsity": {"net": 0.5}}, "to be that of 3:6"),
        (NM(3, 6), {"sparsity": math.nan}, "sparsity=nan"),
        (NM(3, 6), {"sparsity": "0.5"}, "sparsity='0.5'"),
        (NM(3, 6), {"sparsity": None}, "sparsity=None"),
        (NM(3, 6), {"sparsity": False}, "sparsity=False"),
        (NM(3, 6), {"scope": "global"}, "scope='global' to be local"),
        (NM(3, 6), {"scope": "nowhere"}, "scope='nowhere' to be local"),
        (NM(3, 6), {"min_kept": 1}, "min_kept=1 to be 0"),
    ],
)
def test_wrong_n_of_m_is_refused_by_what_is_wrong(pattern, options, words):
    assert words in refusal(**{"pattern": pattern, "scope": "local", **options})


def test_all_that_is_wrong_with_n_of_m_comes_at_once():
    words = refusal(pattern=NM(3, 6), sparsity=0.1, scope="erk", min_kept=2)
    assert len(words.splitlines()) == 3
