"""Initial distributions, and refusals of images a network would misread."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from earlyprune_jax import models
from earlyprune_jax.models.resnet import uniform_bias
from earlyprune_jax.validate import InvalidInput


@functools.cache
def initial_params(name, width_multiplier):
    module = models.build(name, num_classes=100, width_multiplier=width_multiplier)
    images = jnp.zeros((1, 8, 8, 3))
    # It runs once: compiling it unoptimised takes a fifth of the time.
    options = {"xla_backend_optimization_level": 0}
    init = jax.jit(lambda key: module.init(key, images, train=False), compiler_options=options)
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(init(jax.random.key(1))["params"])
    return {path: np.asarray(leaf, np.float64) for path, leaf in flat.items()}


def kernels(params, rank):
    found = [
        (path, leaf) for path, leaf in params.items() if path[-1] == "kernel" and leaf.ndim == rank
    ]
    assert found
    return found


def assert_normal(values, std):
    """Mean, variance and tail of N(0, std^2), each within five standard errors."""
    n = values.size
    assert abs(values.mean()) < 5 * std / math.sqrt(n)
    assert abs(values.var() / std**2 - 1) < 5 * math.sqrt(2 / n)
    # 4.55 % lie beyond two standard deviations; none would, were the normal truncated there.
    assert abs(np.mean(np.abs(values) > 2 * std) - 0.0455) < 5 * math.sqrt(0.0455 * 0.9545 / n)


def assert_uniform(values, bound):
    """Bounds reached but not passed, and the variance bound^2 / 3, within five standard errors."""
    n = values.size
    assert np.abs(values).max() <= bound * (1 + 1e-6)
    assert np.abs(values).max() > bound * (1 - 10 / n)
    assert abs(values.mean()) < 5 * bound / math.sqrt(3 * n)
    assert abs(values.var() / (bound**2 / 3) - 1) < 5 * math.sqrt(0.8 / n)


def test_option_a_kernels_start_normal_with_variance_two_over_fan_in():
    params = initial_params("resnet8", 1.0)
    for _, kernel in kernels(params, 4) + kernels(params, 2):
        assert_normal(kernel, math.sqrt(2 / np.prod(kernel.shape[:-1])))


def test_resnet18_kernels_start_uniform_within_one_over_root_fan_in():
    params = initial_params("resnet18", 0.125)
    for _, kernel in kernels(params, 4) + kernels(params, 2):
        assert_uniform(kernel, 1 / math.sqrt(np.prod(kernel.shape[:-1])))


def test_preresnet_convolutions_start_normal_with_variance_two_over_fan_out():
    params = initial_params("preresnet20_rethinking", 1.0)
    for _, kernel in kernels(params, 4):
        height, width, _, channels_out = kernel.shape
        assert_normal(kernel, math.sqrt(2 / (height * width * channels_out)))
    for _, kernel in kernels(params, 2):
        assert_uniform(kernel, 1 / math.sqrt(kernel.shape[0]))


@pytest.mark.parametrize(
    ("name", "width_multiplier"),
    [("resnet8", 1.0), ("resnet18", 0.125), ("preresnet20_rethinking", 1.0)],
)
def test_norms_start_as_the_identity_and_the_classifier_bias_uniform(name, width_multiplier):
    params = initial_params(name, width_multiplier)
    for path, leaf in params.items():
        if "norm" in path[-2]:
            np.testing.assert_array_equal(leaf, 1.0 if path[-1] == "scale" else 0.0)
    bias = params["classifier", "bias"]
    assert_uniform(bias, 1 / math.sqrt(params["classifier", "kernel"].shape[0]))


def test_uniform_bias_fills_its_interval_whatever_the_number_of_outputs():
    bias = np.asarray(uniform_bias(16)(jax.random.key(0), (20_000,)))
    assert_uniform(bias.astype(np.float64), 0.25)


def test_images_without_a_batch_axis_or_of_bytes_are_refused_with_both_reasons():
    module = models.build("resnet8", num_classes=10)
    init = functools.partial(module.init, train=False)
    with pytest.raises(InvalidInput) as error:
        jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct((8, 8, 1), jnp.uint8))
    shape_problem, type_problem = error.value.problems
    assert shape_problem.startswith("Expected images.shape=(8, 8, 1) to have the four axes")
    assert type_problem.startswith("Expected images.dtype='uint8' to be a float type")
