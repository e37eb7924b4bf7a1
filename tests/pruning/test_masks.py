"""Masks, selection and exact counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earlyprune_jax import models, pruning
from earlyprune_jax.pruning import allocation, selection
from earlyprune_jax.validate import InvalidInput


@pytest.fixture(scope="module")
def params():
    model = models.build("resnet8", num_classes=10)
    return model.init(jax.random.PRNGKey(0), jnp.zeros((1, 8, 8, 1)), train=False)["params"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.floats(0, 0.99))
def test_removes_exactly_the_first_k_of_a_stable_sort(values, sparsity):
    scores = np.array(values, np.float32)
    count = allocation.num_removed(sparsity, scores.size)
    brute = np.ones(scores.size, bool)
    brute[np.argsort(scores, kind="stable")[:count]] = False
    np.testing.assert_array_equal(allocation.keep_highest(scores, count), brute)


@pytest.mark.parametrize("sparsity", [0.0, 0.123, 0.5, 0.8, 0.97])
def test_global_pruning_of_a_resnet_removes_the_smallest_weights_exactly(params, sparsity):
    mask = pruning.prune(params, sparsity=sparsity, scope="global")
    conv = [np.asarray(leaf) for leaf in jax.tree.leaves(params) if leaf.ndim == 4]
    total = sum(leaf.size for leaf in conv)
    assert pruning.count_removed(mask) == round(sparsity * total)
    kept = np.concatenate([np.asarray(m).ravel() for m in jax.tree.leaves(mask) if m.ndim == 4])
    magnitudes = np.abs(np.concatenate([leaf.ravel() for leaf in conv]))
    if sparsity > 0:
        assert magnitudes[~kept].max() <= magnitudes[kept].min()


def test_local_pruning_removes_the_same_ratio_in_every_layer(params):
    mask = pruning.prune(params, sparsity=0.8, scope="local")
    for leaf, keep in zip(jax.tree.leaves(params), jax.tree.leaves(mask), strict=True):
        expected = round(0.8 * leaf.size) if leaf.ndim == 4 else 0
        assert np.size(keep) - np.count_nonzero(keep) == expected


def test_classifier_norms_and_biases_are_never_pruned_by_default(params):
    mask = pruning.prune(params, sparsity=0.97)
    for (path, leaf), keep in zip(jax.tree.leaves_with_path(params), jax.tree.leaves(mask), strict=True):
        if leaf.ndim != 4:
            assert np.all(keep), selection.path_name(path)


def test_sparsity_zero_is_the_all_true_mask(params):
    pruned, full = pruning.prune(params, sparsity=0.0), pruning.full(params)
    assert all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(pruned), jax.tree.leaves(full), strict=True)
    )


def test_a_regular_expression_selects_by_path(params):
    selected = pruning.select(params, "regex:stage2.*conv")
    names = [selection.path_name(path) for path, take in jax.tree.leaves_with_path(selected) if take]
    assert names
    assert all("stage2" in name and "conv" in name for name in names)


def test_achieved_sparsity_counts_prunable_weights_only(params):
    mask = pruning.prune(params, sparsity=0.5)
    prunable = pruning.select(params, "conv_kernels")
    total = sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim == 4)
    assert pruning.sparsity(mask, prunable) == round(0.5 * total) / total


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": 1.0}, "in [0, 1)"),
        ({"sparsity": -0.1}, "in [0, 1)"),
        ({"sparsity": 0.5, "scope": "locl"}, "global, local"),
        ({"sparsity": 0.5, "criterion": "magnitud"}, "Did you mean 'magnitude'?"),
        ({"sparsity": 0.5, "layers": "conv_kernel"}, "Did you mean 'conv_kernels'?"),
        ({"sparsity": 0.5, "layers": "regex:nothing"}, "to select at least one parameter"),
        ({"sparsity": 0.5, "layers": "regex:("}, "valid regular expression"),
        ({"sparsity": 0.999, "scope": "local"}, "stem_conv/kernel (144 weights)"),
    ],
)
def test_bad_options_are_refused_with_the_remedy(params, options, words):
    with pytest.raises(InvalidInput) as caught:
        pruning.prune(params, **options)
    assert words in str(caught.value)


def test_nan_scores_are_refused_by_path(params):
    broken = jax.tree.map(lambda leaf: leaf, params)
    broken["stem_conv"] = {"kernel": broken["stem_conv"]["kernel"].at[0, 0, 0, 0].set(jnp.nan)}
    with pytest.raises(InvalidInput, match="stem_conv/kernel.*1 NaN"):
        pruning.prune(broken, sparsity=0.5)


def test_applying_a_mask_leaves_exact_positive_zeros_even_of_nonfinite_values():
    tree = {"w": jnp.array([-1.0, jnp.inf, jnp.nan, 2.0])}
    masked = pruning.apply({"w": jnp.array([False, False, False, True])}, tree)["w"]
    assert masked.tolist() == [0.0, 0.0, 0.0, 2.0]
    assert not np.signbit(np.asarray(masked)).any()
