"""Multiply-accumulates against closed forms, and against convolutions of ones."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from earlyprune_jax import models
from earlyprune_jax.pruning.costs import NO_WEIGHTS, macs, macs_left
from earlyprune_jax.validate import InvalidInput


def linen_macs(name, batch_size=2):
    module = models.build(name, num_classes=10)
    images = jnp.zeros((batch_size, 32, 32, 3))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))
    statistics = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes["batch_stats"])

    def apply(params, images):
        return module.apply({"params": params, "batch_stats": statistics}, images, train=False)

    return macs(apply, shapes["params"], images)


def test_resnet20_costs_the_sum_over_its_layers_of_positions_x_kernel_x_channels():
    counts = linen_macs("resnet20")
    convs, channels = {"stem_conv/kernel": 32 * 32 * 3 * 3 * 3 * 16}, 16
    for stage, (width, size) in enumerate(((16, 32), (32, 16), (64, 8)), start=1):
        for block in range(3):
            name = f"stage{stage}_block{block}"
            convs[f"{name}/conv1/kernel"] = size * size * 9 * channels * width
            convs[f"{name}/conv2/kernel"] = size * size * 9 * width * width
            channels = width
    assert list(counts.values()) and sum(counts.values()) == 40_551_040
    classifier = {name: count for name, count in counts.items() if "conv" not in name}
    assert list(classifier.values()) == [64 * 10]
    assert sorted(v for k, v in counts.items() if "conv" in k) == sorted(convs.values())
    assert counts["stem_conv/kernel"] == convs["stem_conv/kernel"]


def test_resnet18_costs_its_closed_form_with_the_1x1_shortcuts():
    expected, channels = 32 * 32 * 9 * 3 * 64 + 512 * 10, 64
    for width, size in ((64, 32), (128, 16), (256, 8), (512, 4)):
        for _ in range(2):
            shortcut = size * size * channels * width if channels != width else 0
            expected += size * size * 9 * (channels * width + width * width) + shortcut
            channels = width
    assert sum(linen_macs("resnet18").values()) == expected == 555_422_720


def test_the_cost_is_of_one_example_whatever_the_batch():
    assert linen_macs("resnet8", batch_size=1) == linen_macs("resnet8", batch_size=7)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_convolution_costs_as_many_products_as_a_convolution_of_ones_sums(data):
    groups = data.draw(st.sampled_from([1, 2, 3]))
    channels, features = (
        groups * data.draw(st.integers(1, 2)),
        groups * data.draw(st.integers(1, 2)),
    )
    kernel = jax.ShapeDtypeStruct(
        (*data.draw(st.sampled_from([(1, 1), (3, 2)])), channels // groups, features), "f4"
    )
    strides, dilation = (
        data.draw(st.sampled_from([(1, 1), (2, 3)])),
        data.draw(st.sampled_from([(1, 1), (2, 1)])),
    )

    def apply(kernel, images):
        return jax.lax.conv_general_dilated(
            images,
            kernel,
            strides,
            "VALID",
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    sizes = data.draw(st.sampled_from([(6, 7), (9, 5)]))
    ones = np.ones(kernel.shape, np.float32), np.ones((1, *sizes, channels), np.float32)
    assert macs(apply, kernel, ones[1]) == {"": int(np.sum(apply(*ones)))}


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_transposed_convolution_costs_no_products_with_zeros_between_or_around_inputs(
    stride,
):
    module = nn.ConvTranspose(5, (3, 3), strides=(stride, stride), padding="VALID", use_bias=False)
    params, images = (
        {"kernel": np.ones((3, 3, 4, 5), np.float32)},
        np.ones((1, 6, 7, 4), np.float32),
    )

    def apply(params, images) -> Any:
        return module.apply({"params": params}, images)

    assert macs(apply, params, images) == {"kernel": int(jnp.sum(apply(params, images)))}


def test_a_grouped_transposed_convolution_multiplies_each_input_by_its_own_group_only():
    def apply(kernel, images):
        return jax.lax.conv_general_dilated(
            images,
            kernel,
            window_strides=(1, 1),
            padding=((2, 2), (2, 2)),
            lhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        )

    kernel, images = np.ones((3, 3, 2, 6), np.float32), np.ones((1, 5, 4, 4), np.float32)
    assert (
        macs(apply, kernel, images)
        == {"": int(jnp.sum(apply(kernel, images)))}
        == {"": 20 * 4 * 9 * 3}
    )


class EquinoxNet(eqx.Module):
    conv: eqx.nn.Conv2d
    head: eqx.nn.Linear
    activation: Callable[[jax.Array], jax.Array]
    steps: jax.Array

    def __call__(self, image):
        hidden = self.activation(self.conv(image))
        return self.head(hidden.mean(axis=(1, 2)))


def test_an_equinox_model_with_functions_and_integers_as_leaves_is_counted_under_vmap():
    keys = jax.random.split(jax.random.key(0))
    conv = eqx.nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, key=keys[0])
    model = EquinoxNet(conv, eqx.nn.Linear(6, 10, key=keys[1]), jax.nn.gelu, jnp.arange(3))
    counts = macs(lambda model, images: jax.vmap(model)(images), model, jnp.zeros((5, 4, 8, 8)))
    assert counts == {"conv/weight": 4 * 4 * 9 * 2 * 6, "head/weight": 60}


def test_an_nnx_model_is_counted_through_split_and_merge():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(4, 8, (3, 3), feature_group_count=4, padding="VALID", rngs=rngs)
            self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
            self.head = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, images):
            return self.head(nnx.relu(self.norm(self.conv(images))).mean(axis=(1, 2)))

    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)
    counts = macs(
        lambda params, x: nnx.merge(graph, params, rest)(x), params, jnp.zeros((2, 6, 6, 4))
    )
    assert counts == {"conv/kernel": 4 * 4 * 9 * 1 * 8, "head/kernel": 24}


def test_attention_has_its_projections_by_name_and_its_two_products_under_no_weights():
    length, width = 7, 12
    module = nn.MultiHeadDotProductAttention(num_heads=3, qkv_features=width)
    tokens = jnp.zeros((2, length, width))
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), tokens))["params"]
    counts = macs(lambda params, x: module.apply({"params": params}, x), params, tokens)
    projections = {
        f"{name}/kernel": length * width * width for name in ("key", "out", "query", "value")
    }
    assert counts == {**projections, NO_WEIGHTS: 2 * length * length * width}


def test_a_weight_used_twice_adds_and_a_lookup_is_free():
    def tied(params, tokens):
        hidden = params["embedding"][tokens]
        return hidden @ params["embedding"].T

    assert macs(tied, {"embedding": np.ones((11, 4))}, np.zeros((2, 5), int)) == {
        "embedding": 5 * 11 * 4
    }
    twice = macs(lambda w, x: jnp.tanh(x @ w) @ w, np.ones((6, 6)), np.zeros((1, 6)))
    assert twice == {"": 72}


def test_the_weight_is_found_behind_masks_casts_transposes_and_normalisation():
    keep = np.tril(np.ones((4, 6), bool))

    def apply(params, x):
        kernel = jnp.where(keep, params["kernel"], 0).astype(jnp.bfloat16)
        normalised = params["v"] / jnp.linalg.norm(params["v"], axis=0, keepdims=True) * params["g"]
        hidden = (kernel.reshape(2, 2, 6).reshape(4, 6).T @ x.T.astype(jnp.bfloat16)).T
        return jax.checkpoint(jax.jit(lambda h, w: h @ w))(hidden.astype(jnp.float32), normalised)

    params = {
        "g": np.ones((1, 5), "f4"),
        "kernel": np.ones((4, 6), "f4"),
        "v": np.ones((6, 5), "f4"),
    }
    assert macs(apply, params, np.zeros((3, 4), "f4")) == {"kernel": 24, "v": 30}


def test_work_that_depends_on_no_input_is_not_counted_per_example():
    counts = macs(
        lambda p, x: x @ (p["a"] @ p["b"]),
        {"a": np.ones((4, 2)), "b": np.ones((2, 9))},
        np.ones((1, 4)),
    )
    assert counts == {"b": 36}


def test_a_recurrence_under_scan_counts_every_step_even_from_a_constant_start():
    def apply(params, sequence):
        def step(hidden, x):
            return jnp.tanh(x @ params["inputs"] + hidden @ params["hidden"]), None

        return jax.lax.scan(step, jnp.zeros((1, 8)), sequence.swapaxes(0, 1))[0]

    params = {"hidden": np.ones((8, 8), "f4"), "inputs": np.ones((3, 8), "f4")}
    assert macs(apply, params, np.zeros((4, 5, 3), "f4")) == {"hidden": 5 * 64, "inputs": 5 * 24}


def test_layers_stacked_for_a_scan_are_counted_under_their_one_leaf():
    def apply(stack, x):
        return jax.lax.scan(lambda hidden, kernel: (hidden @ kernel, None), x, stack)[0]

    assert macs(apply, np.ones((3, 4, 4)), np.zeros((2, 4))) == {"": 3 * 16}


def test_loops_of_known_length_and_functions_with_their_own_gradient_are_counted():
    @jax.custom_vjp
    def product(x, kernel):
        return x @ kernel

    product.defvjp(lambda x, kernel: (x @ kernel, None), lambda _, gradient: (gradient, gradient))

    def apply(kernel, x):
        looped = jax.lax.fori_loop(0, 3, lambda _, hidden: hidden @ kernel, x)
        return jax.lax.map(lambda row: row @ kernel, product(looped, kernel))

    assert macs(apply, np.ones((4, 4), "f4"), np.zeros((2, 4), "f4")) == {"": 5 * 16}


def test_the_costliest_branch_of_a_condition_counts():
    def apply(params, x):
        return jax.lax.cond(
            x.sum() > 0, lambda: x @ params["a"] @ params["b"], lambda: x @ params["b"].T
        )

    params = {"a": np.ones((4, 4), "f4"), "b": np.ones((4, 4), "f4")}
    assert macs(apply, params, np.zeros((2, 4), "f4")) == {"a": 16, "b": 16}


def test_a_product_in_a_loop_of_unknown_length_is_refused_and_other_while_loops_are_not():
    def unbounded(w, x):
        return jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y @ w, x)

    with pytest.raises(InvalidInput, match="'while' to hold no matrix product.*scan"):
        macs(unbounded, np.ones((4, 4), "f4"), np.zeros((2, 4), "f4"))

    def bounded(w, x):
        return jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: y + 1, x) @ w

    assert macs(bounded, np.ones((4, 4), "f4"), np.zeros((2, 4), "f4")) == {"": 16}


def test_what_is_left_is_the_kept_fraction_exactly_and_products_without_weights_stay():
    keep = np.zeros((3, 3, 4, 5), bool)
    keep[0, 0, 0, :2] = True
    dense = {"conv/kernel": 64 * keep.size, NO_WEIGHTS: 50}
    assert macs_left(dense, {"conv": {"kernel": keep, "bias": np.ones(5, bool)}}) == {
        "conv/kernel": 64 * 2,
        NO_WEIGHTS: 50,
    }


def test_costs_beyond_64_bit_floats_are_exact():
    kernel = jax.ShapeDtypeStruct((2**20, 2**20), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, 2**16 + 1, 2**20), jnp.float32)
    counted = macs(lambda p, x: x @ p["kernel"], {"kernel": kernel}, tokens)
    assert counted == {"kernel": (2**16 + 1) * 2**40}
    mask = {"kernel": np.array([True, True, False])}
    assert macs_left({"kernel": 3 * (2**60 + 1)}, mask) == {"kernel": 2 * (2**60 + 1)}
