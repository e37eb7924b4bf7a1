"""KL_uniform against sums by hand."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from probing import example_batch, linear_network, measured, padded

from earlyprune_jax.signals.signal import kl_uniform, kl_uniform_signal
from earlyprune_jax.validate import InvalidInput

PROBS = np.array([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3], [0.98, 0.01, 0.01], [0.5, 0.25, 0.25]])
BY_HAND = np.array([sum((1 / 3) * np.log((1 / 3) / p) for p in row) for row in PROBS])
LOGITS_NETWORK = linear_network(lambda variables, batch: batch["images"] + variables["params"])


def test_it_follows_its_formula_in_nats_and_in_bits():
    log_probs = jnp.log(jnp.float32(PROBS))
    np.testing.assert_allclose(kl_uniform(log_probs), BY_HAND, atol=1e-6)
    np.testing.assert_allclose(kl_uniform(log_probs, unit="bits"), BY_HAND / np.log(2), atol=1e-6)


def test_one_class_gives_zero_and_a_class_of_probability_zero_gives_infinity():
    assert kl_uniform(jnp.zeros((3, 1))).tolist() == [0.0, 0.0, 0.0]
    assert kl_uniform(jnp.log(jnp.array([[1.0, 0.0]]))).tolist() == [math.inf]


def test_half_precision_is_averaged_in_single_precision():
    log_probs = jnp.log(jnp.float32(PROBS)).astype(jnp.bfloat16)
    same = kl_uniform(log_probs.astype(jnp.float32))
    assert kl_uniform(log_probs).dtype == jnp.float32
    np.testing.assert_array_equal(kl_uniform(log_probs), same)


def test_an_unknown_unit_and_a_single_example_without_its_axis_are_both_named():
    with pytest.raises(InvalidInput) as error:
        kl_uniform(jnp.zeros(3), unit="bit")
    assert len(error.value.problems) == 2
    assert "Did you mean 'bits'?" in str(error.value)
    assert "to be [examples, classes]" in str(error.value)


def test_the_signal_is_the_mean_over_images_with_the_standard_error_of_that_mean():
    batch = example_batch(np.log(PROBS), np.zeros(4))
    halves = [
        {name: leaf[part] for name, leaf in batch.items()} for part in (slice(0, 3), slice(3, 4))
    ]
    numbers = measured(
        kl_uniform_signal(), LOGITS_NETWORK, jnp.zeros((1, 3)), [padded(half, 3) for half in halves]
    )
    bits = BY_HAND / np.log(2)
    assert numbers["kl_uniform_bits"] == pytest.approx(bits.mean(), rel=1e-5)
    assert numbers["kl_uniform_nats"] == pytest.approx(BY_HAND.mean(), rel=1e-5)
    error = bits.std(ddof=1) / 2
    assert numbers["kl_uniform_bits_standard_error"] == pytest.approx(error, rel=1e-4)
    assert tuple(numbers) == kl_uniform_signal().columns


def test_the_standard_error_of_one_image_is_not_defined_and_of_equal_images_zero():
    one = example_batch(np.log(PROBS[:1]), [0])
    assert (
        measured(kl_uniform_signal(), LOGITS_NETWORK, jnp.zeros((1, 3)), [one])[
            "kl_uniform_bits_standard_error"
        ]
        is None
    )
    equal = example_batch(np.log(PROBS[[0] * 50]), np.zeros(50))
    numbers = measured(kl_uniform_signal(), LOGITS_NETWORK, jnp.zeros((1, 3)), [equal])
    assert numbers["kl_uniform_bits_standard_error"] == pytest.approx(0.0, abs=2e-4)
