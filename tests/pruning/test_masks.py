"""Masks: applied exactly, checked against a tree, counted."""

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from earlyprune_jax import models, pruning
from earlyprune_jax.validate import InvalidInput


@pytest.fixture(scope="module")
def params():
    model = models.build("resnet8", num_classes=10)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False)
    )
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes["params"]
    )


def test_achieved_sparsity_counts_prunable_weights_only(params):
    mask = pruning.prune(params, sparsity=0.5)
    prunable = pruning.select(params, "conv_kernels")
    total = sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim == 4)
    assert pruning.sparsity(mask, prunable) == round(0.5 * total) / total


def test_sparsity_of_nothing_is_refused():
    mask = {"w": jnp.ones(2, bool)}
    with pytest.raises(InvalidInput, match="prunable='no weight'"):
        pruning.sparsity(mask, {"w": False})


def test_applying_a_mask_leaves_exact_positive_zeros_even_of_nonfinite_values():
    tree = {"w": jnp.array([-1.0, jnp.inf, jnp.nan, 2.0])}
    masked = pruning.apply({"w": jnp.array([False, False, False, True])}, tree)["w"]
    assert masked.tolist() == [0.0, 0.0, 0.0, 2.0]
    assert not np.signbit(np.asarray(masked)).any()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_kept_numbers_keep_every_bit_and_removed_ones_lose_all(dtype):
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    numbers = every[~np.isnan(every.astype(np.float32))]
    keep = np.random.default_rng(0).random(numbers.size) < 0.5
    masked = np.asarray(pruning.apply(keep, numbers)).view(np.uint16)
    np.testing.assert_array_equal(masked, np.where(keep, numbers.view(np.uint16), 0))


def test_applying_works_inside_jit_and_twice_is_once(params):
    mask = pruning.prune(params, sparsity=0.7)
    once = jax.jit(pruning.apply)(mask, params)
    chex.assert_trees_all_equal(once, pruning.apply(mask, params))
    chex.assert_trees_all_equal(once, pruning.apply(mask, once))


def test_the_full_mask_is_true_everywhere_and_made_of_shapes_too(params):
    for tree in (
        params,
        jax.eval_shape(lambda: params),
        {"f": jnp.tanh, "k": jax.random.key(0), "n": 3},
    ):
        mask = pruning.full(tree)
        assert jax.tree.structure(mask) == jax.tree.structure(tree)
        assert pruning.count_removed(mask) == 0
        assert all(keep.dtype == bool for keep in jax.tree.leaves(mask))
        pruning.check(mask, tree)


def problems(mask, tree) -> tuple[str, ...]:
    for function in (pruning.check, pruning.apply):
        with pytest.raises(InvalidInput) as caught:
            function(mask, tree)
    return caught.value.problems


TREE = {"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "head": jnp.ones(4), "n": 3}


def test_a_mask_of_other_dtypes_and_shapes_is_refused_leaf_by_leaf():
    mask = pruning.full(TREE) | {"a": {"kernel": jnp.ones((3, 2), bool), "bias": jnp.ones(3)}}
    found = problems(mask | {"head": jnp.ones(5, jnp.int8)}, TREE)
    assert len(found) == 4
    assert "shape of mask at a/kernel=(3, 2) to be (2, 3)" in found[0]
    assert "shape of mask at head=(5,) to be (4,)" in found[1]
    assert "dtype of mask at a/bias='float32' to be bool" in found[2]
    assert "dtype of mask at head='int8'" in found[3]


def test_missing_and_unexpected_leaves_are_named_and_the_others_still_checked():
    mask = {"a": {"kernel": jnp.ones((2, 3)), "gain": jnp.ones(3, bool)}, "n": jnp.array(True)}
    found = "\n".join(problems(mask, TREE))
    assert len(found.splitlines()) == 4
    assert "mask at='a/bias' to be there" in found
    assert "mask at='head' to be there" in found
    assert "mask at='a/gain' not to be there" in found
    assert "dtype of mask at a/kernel='float32'" in found


@pytest.mark.parametrize(
    ("mask", "tree"),
    [
        ([jnp.ones(2, bool)], (jnp.ones(2),)),
        ({"a": (jnp.ones(2, bool),)}, {"a": [jnp.ones(2)]}),
    ],
)
def test_other_containers_with_equal_paths_are_refused(mask, tree):
    (problem,) = problems(mask, tree)
    assert "The paths agree." in problem


def test_a_mask_for_another_model_names_every_leaf_that_differs(params):
    mask = pruning.full(
        {name: leaf for name, leaf in params.items() if not name.startswith("stage2")}
    )
    found = problems(mask, params)
    assert len(found) == len(
        jax.tree.leaves({n: p for n, p in params.items() if n.startswith("stage2")})
    )
    assert all("stage2" in problem for problem in found)


def test_none_is_no_mask():
    assert problems({"a": {"kernel": None, "bias": None}, "head": None, "n": None}, TREE)
    assert problems(None, TREE)


def test_moments_are_zero_where_weights_are_removed_and_untouched_elsewhere(params):
    mask = pruning.prune(params, sparsity=0.6, layers="all_kernels")
    state = optax.chain(optax.clip(1.0), optax.adam(1e-3)).init(params)
    ones = jax.tree.map(jnp.ones_like, state)
    adam = pruning.moments(mask, ones)[1][0]
    for moment in (adam.mu, adam.nu):
        jax.tree.map(
            lambda leaf, keep: np.testing.assert_array_equal(leaf, np.asarray(keep) * 1.0),
            moment,
            mask,
        )
    assert adam.count == 1


def test_a_numpy_float64_tree_stays_float64_to_the_last_bit():
    tree = {"w": np.array([1 / 3, 2 / 3])}
    masked = pruning.apply({"w": jnp.array([True, False])}, tree)["w"]
    assert masked.dtype == np.float64
    assert masked.tolist() == [1 / 3, 0.0]
