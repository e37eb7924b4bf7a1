"""Forward passes against a plain numpy implementation that shares nothing with the package."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from earlyprune_jax import models
from earlyprune_jax.models.resnet import (
    NORMAL_FAN_OUT,
    UNIFORM_FAN_IN,
    Block,
    Family,
    ResNet,
    conv,
    pad_shortcut,
)

EPSILON = 1e-5


def numpy_conv(x, kernel, stride=1):
    """Zero padding of (k - 1) / 2 on every side, then a plain sum at every stride-th window."""
    size = kernel.shape[0]
    pad = (size - 1) // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = (x.shape[1] - size) // stride + 1
    columns = (x.shape[2] - size) // stride + 1
    out = np.zeros((x.shape[0], rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
            out[:, i, j] = np.tensordot(window, kernel, axes=3)
    return out


def numpy_shortcut(x, features):
    """Option A where the width doubles: every second pixel between two quarters of zeros."""
    out = np.zeros((x.shape[0], (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2, features))
    out[..., features // 4 : features // 4 + x.shape[3]] = x[:, ::2, ::2]
    return out


class NumpyNetwork:
    """The arithmetic of one forward pass on float64 copies of Linen variables.

    In training it notes the statistics that every norm should hold afterwards.
    """

    def __init__(self, variables, train):
        flat: dict[str, Any] = traverse_util.flatten_dict(variables, sep="/")
        self.arrays = {path: np.asarray(leaf, np.float64) for path, leaf in flat.items()}
        self.train = train
        self.updated = {}

    def conv(self, x, name, stride=1):
        return numpy_conv(x, self.arrays[f"params/{name}/kernel"], stride)

    def norm(self, x, name):
        mean, var = (self.arrays[f"batch_stats/{name}/{kind}"] for kind in ("mean", "var"))
        if self.train:
            batch_mean = x.mean((0, 1, 2))
            batch_var = ((x - batch_mean) ** 2).mean((0, 1, 2))
            self.updated[f"{name}/mean"] = 0.9 * mean + 0.1 * batch_mean
            self.updated[f"{name}/var"] = 0.9 * var + 0.1 * batch_var
            mean, var = batch_mean, batch_var
        scale, bias = (self.arrays[f"params/{name}/{kind}"] for kind in ("scale", "bias"))
        return (x - mean) / np.sqrt(var + EPSILON) * scale + bias

    def classifier(self, x):
        kernel, bias = (self.arrays[f"params/classifier/{kind}"] for kind in ("kernel", "bias"))
        return x.mean((1, 2)) @ kernel + bias

    def resnet8(self, x):
        x = relu(self.norm(self.conv(x, "stem_conv"), "stem_norm"))
        for stage, features in ((1, 16), (2, 32), (3, 64)):
            block = f"stage{stage}_block0"
            shortcut = x if stage == 1 else numpy_shortcut(x, features)
            x = self.conv(x, f"{block}/conv1", stride=1 if stage == 1 else 2)
            x = relu(self.norm(x, f"{block}/norm1"))
            x = self.norm(self.conv(x, f"{block}/conv2"), f"{block}/norm2")
            x = relu(x + shortcut)
        return self.classifier(x)

    def basic_block(self, x, stride):
        """With a 1x1 shortcut and its norm, as in ResNet-18."""
        residual = relu(self.norm(self.conv(x, "conv1", stride), "norm1"))
        residual = self.norm(self.conv(residual, "conv2"), "norm2")
        return relu(residual + self.norm(self.conv(x, "shortcut_conv", stride), "shortcut_norm"))

    def preactivation_block(self, x, strides, with_shortcut):
        """One stride per convolution; the shortcut takes the raw input."""
        residual = x
        for i, stride in enumerate(strides, start=1):
            residual = self.conv(relu(self.norm(residual, f"norm{i}")), f"conv{i}", stride)
        return residual + (self.conv(x, "shortcut_conv", max(strides)) if with_shortcut else x)


def relu(x):
    return np.maximum(x, 0)


def drawn_variables(module, *args, **options):
    """Variables for `module` in which no norm is an identity."""
    shapes = jax.eval_shape(functools.partial(module.init, **options), jax.random.key(0), *args)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            return rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape)
        return rng.normal(0, 0.3, leaf.shape)

    drawn = jax.tree_util.tree_map_with_path(draw, shapes)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), drawn)


@functools.cache
def random_variables(channels=3):
    module = models.build("resnet8", num_classes=10)
    return drawn_variables(module, jnp.zeros((1, 8, 8, channels)), train=False)


def random_images(size, channels=3, batch=5):
    rng = np.random.default_rng(size)
    return rng.normal(size=(batch, size, size, channels)).astype(np.float32)


@functools.cache
def jitted(train, dtype="float32") -> Any:
    module = models.build("resnet8", num_classes=10, dtype=dtype)
    mutable = ["batch_stats"] if train else False
    return jax.jit(functools.partial(module.apply, train=train, mutable=mutable))


@pytest.mark.parametrize(("size", "channels"), [(8, 3), (7, 3), (4, 3), (8, 1)])
def test_evaluation_of_resnet8_equals_plain_numpy(size, channels):
    variables, images = random_variables(channels), random_images(size, channels)
    logits = jitted(train=False)(variables, images)
    assert logits.dtype == jnp.float32
    wanted = NumpyNetwork(variables, train=False).resnet8(images.astype(np.float64))
    np.testing.assert_allclose(logits, wanted, atol=2e-5)


def test_training_pass_of_resnet8_equals_plain_numpy_in_logits_and_running_statistics():
    variables, images = random_variables(), random_images(8)
    logits, updates = jitted(train=True)(variables, images)
    network = NumpyNetwork(variables, train=True)
    np.testing.assert_allclose(logits, network.resnet8(images.astype(np.float64)), atol=5e-5)
    updated: dict[str, Any] = traverse_util.flatten_dict(updates["batch_stats"], sep="/")
    assert updated.keys() == network.updated.keys()
    for path, statistic in updated.items():
        assert statistic.dtype == jnp.float32
        np.testing.assert_allclose(
            statistic, network.updated[path], rtol=1e-5, atol=1e-5, err_msg=path
        )


def test_evaluation_changes_no_statistics_and_training_of_one_batch_depends_on_the_batch():
    variables, images = random_variables(), random_images(8)
    # Evaluation treats every image by itself; training normalises with the batch.
    alone = jitted(train=False)(variables, images[:1])
    np.testing.assert_allclose(jitted(train=False)(variables, images)[:1], alone, atol=1e-5)
    alone_in_training, _ = jitted(train=True)(variables, images[:1])
    in_a_batch, _ = jitted(train=True)(variables, images)
    assert np.abs(in_a_batch[:1] - alone_in_training).max() > 0.1


def test_bfloat16_compute_gives_float32_logits_and_statistics_near_the_float32_ones():
    variables, images = random_variables(), random_images(8)
    for train in (False, True):
        exact, rough = (
            jitted(train, dtype)(variables, images) for dtype in ("float32", "bfloat16")
        )
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(rough))
        differences = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), exact, rough)
        # bfloat16 keeps 8 bits: about 0.4 % an operation, of logits and statistics of order 1.
        assert 1e-5 < max(jax.tree.leaves(differences)) < 0.1


@pytest.mark.parametrize("size", [8, 7])
@pytest.mark.parametrize("kernel_size", [3, 1])
def test_a_strided_convolution_pads_symmetrically(size, kernel_size):
    module: nn.Conv = conv(4, kernel_size, 2, UNIFORM_FAN_IN, jnp.float32, "conv1")
    images = random_images(size)
    kernel = np.random.default_rng(3).normal(size=(kernel_size, kernel_size, 3, 4))
    out: Any = module.apply({"params": {"kernel": jnp.asarray(kernel, jnp.float32)}}, images)
    np.testing.assert_allclose(out, numpy_conv(images, kernel, stride=2), atol=1e-5)


@pytest.mark.parametrize("size", [8, 7])
def test_option_a_shortcut_keeps_every_second_pixel_between_quarters_of_zeros(size):
    x = random_images(size, channels=16)
    np.testing.assert_array_equal(
        pad_shortcut(jnp.asarray(x), 32, 2), numpy_shortcut(x, 32).astype(np.float32)
    )


def test_option_a_shortcut_puts_the_odd_channel_behind():
    x = random_images(4, channels=8)
    out = np.asarray(pad_shortcut(jnp.asarray(x), 17, 2))
    np.testing.assert_array_equal(out[..., 4:12], x[:, ::2, ::2])
    assert not out[..., :4].any()
    assert not out[..., 12:].any()
    assert out.shape == (5, 2, 2, 17)


@pytest.mark.parametrize("name", ["resnet18", "preresnet20", "preresnet44_lottery"])
@pytest.mark.parametrize("size", [4, 7])
def test_every_family_takes_small_and_odd_images_at_odd_widths(name, size):
    module = models.build(name, num_classes=7, width_multiplier=0.17)
    images = jax.ShapeDtypeStruct((2, size, size, 1), jnp.float32)
    logits, _ = jax.eval_shape(
        lambda x: module.init_with_output(jax.random.key(0), x, train=True), images
    )
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)


def assert_equals_numpy(module, x, numpy_forward):
    """In evaluation and in training, whose order (convolve, normalise, rectify) errors would
    change."""
    variables = drawn_variables(module, x, train=False)
    for train in (False, True):
        out, updates = module.apply(variables, x, train=train, mutable=["batch_stats"])
        network = NumpyNetwork(variables, train)
        np.testing.assert_allclose(out, numpy_forward(network, x.astype(np.float64)), atol=5e-5)
        updated: dict[str, Any] = traverse_util.flatten_dict(updates["batch_stats"], sep="/")
        for path, wanted in network.updated.items():
            np.testing.assert_allclose(updated[path], wanted, atol=1e-5, err_msg=path)


def test_basic_block_with_a_convolutional_shortcut_equals_plain_numpy():
    module = Block(8, 2, Family(False, "conv_norm", UNIFORM_FAN_IN, UNIFORM_FAN_IN), jnp.float32)
    x = random_images(6, channels=4)
    assert_equals_numpy(module, x, lambda network, x: network.basic_block(x, 2))


@pytest.mark.parametrize(
    ("bottleneck", "stride", "channels", "strides"),
    [
        (False, 1, 8, (1, 1)),
        (False, 2, 4, (2, 1)),
        (True, 2, 8, (1, 2, 1)),
        (True, 1, 32, (1, 1, 1)),
    ],
)
def test_preactivation_block_equals_plain_numpy(bottleneck, stride, channels, strides):
    family = Family(True, "conv", NORMAL_FAN_OUT, UNIFORM_FAN_IN, bottleneck)
    module = Block(8, stride, family, jnp.float32)
    x = random_images(5, channels)
    with_shortcut = channels != (32 if bottleneck else 8) or stride == 2
    assert_equals_numpy(
        module, x, lambda network, x: network.preactivation_block(x, strides, with_shortcut)
    )


def test_preresnet_has_a_bare_stem_and_normalises_before_the_classifier():
    # No blocks: what remains is stem, final norm, relu, mean and classifier.
    family = Family(True, "conv", NORMAL_FAN_OUT, UNIFORM_FAN_IN)
    module = ResNet(num_classes=10, widths=(6,), blocks_per_stage=0, family=family)

    def numpy_forward(network, x):
        return network.classifier(relu(network.norm(network.conv(x, "stem_conv"), "final_norm")))

    assert_equals_numpy(module, random_images(5), numpy_forward)
