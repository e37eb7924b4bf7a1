"""The gradient's norm against the closed form of softmax regression."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probing import example_batch, linear_network, measured, padded

from earlyprune_jax.signals.signal import gradient_norm, gradient_norm_signal
from earlyprune_jax.validate import InvalidInput


def softmax_regression(num=7, seed=0):
    """Images, labels, parameters, and the gradient X' (p - y) / N of their mean cross-entropy."""
    rng = np.random.default_rng(seed)
    images, labels = rng.standard_normal((num, 4)), rng.integers(0, 3, num)
    kernel = rng.standard_normal((4, 3))
    probs = np.exp(images @ kernel)
    probs /= probs.sum(1, keepdims=True)
    gradient = images.T @ (probs - np.eye(3)[labels]) / num
    return images, labels, {"kernel": jnp.float32(kernel)}, gradient


def mean_loss(params, batch):
    log_probs = jax.nn.log_softmax(batch["images"] @ params["kernel"])
    return -jnp.mean(jnp.take_along_axis(log_probs, batch["labels"][:, None], axis=1))


def test_it_is_the_norm_of_the_mean_gradient_whatever_the_batches():
    images, labels, params, gradient = softmax_regression()
    batch = {"images": jnp.float32(images), "labels": jnp.asarray(labels)}
    parts = [
        {name: leaf[part] for name, leaf in batch.items()} for part in (slice(0, 5), slice(5, 7))
    ]
    expected = np.linalg.norm(gradient)
    assert gradient_norm(mean_loss, params, [batch]) == pytest.approx(expected, rel=1e-5)
    assert gradient_norm(mean_loss, params, parts) == pytest.approx(expected, rel=1e-5)


def test_the_signal_equals_the_function_and_padding_does_not_count():
    images, labels, params, gradient = softmax_regression()
    # A leaf that is no weight and one without a gradient: neither adds anything.
    params = {**params, "steps": 3, "unused": jnp.ones(2)}
    batch = example_batch(images, labels)
    parts = [
        {name: leaf[part] for name, leaf in batch.items()} for part in (slice(0, 5), slice(5, 7))
    ]
    parts[1] = {name: jnp.concatenate([leaf, leaf[:1]]) for name, leaf in parts[1].items()}
    parts[1]["weights"] = jnp.array([1.0, 1.0, 0.0])
    numbers = measured(gradient_norm_signal(), linear_network(), params, parts)
    assert numbers["gradient_norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
    by_parameter = numbers["gradient_norm_by_parameter"]
    assert by_parameter["kernel"] == pytest.approx(numbers["gradient_norm"])
    assert by_parameter["unused"] == by_parameter["steps"] == 0.0


def test_one_class_has_no_gradient():
    batch = example_batch(np.ones((2, 4)), [0, 0])
    assert (
        measured(gradient_norm_signal(), linear_network(), {"kernel": jnp.ones((4, 1))}, [batch])[
            "gradient_norm"
        ]
        == 0.0
    )


def test_half_precision_weights_are_summed_in_single_precision():
    images, labels, params, _ = softmax_regression()
    half = {"kernel": params["kernel"].astype(jnp.bfloat16)}
    rounded = {"kernel": half["kernel"].astype(jnp.float32)}
    batch = example_batch(images, labels)
    norms = [
        measured(gradient_norm_signal(), linear_network(), p, [padded(batch, 7)])["gradient_norm"]
        for p in (half, rounded)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=2e-2)


def test_a_gradient_that_is_not_finite_is_refused_by_path():
    batch = {"images": jnp.array([[jnp.nan] * 4]), "labels": jnp.array([0])}
    with pytest.raises(InvalidInput, match="gradient at kernel='not finite' to be finite"):
        gradient_norm(mean_loss, {"kernel": jnp.ones((4, 3))}, [batch])
