"""KL_uniform: how far the predictions are from uniform, without gradients (paper A, Eq. 5)."""

import math

import jax.numpy as jnp

from earlyprune_jax.array_types import Array
from earlyprune_jax.signals.signal import Signal


def kl_uniform(log_probs: Array) -> Array:
    """KL(uniform || p) per example: -ln C - (1/C) sum_c ln p_c, in nats; 0 when p is uniform.

    Args:
        log_probs: [B, C] natural-log probabilities.

    Returns:
        [B] float32, >= 0 up to rounding.

    Source: paper A, Eq. (5); its plots show bits (divide by ln 2) and the mean over images.

    Example:
        >>> kl_uniform(jnp.log(jnp.array([[0.5, 0.5]]))).tolist()
        [0.0]
    """
    num_classes = log_probs.shape[-1]
    return -math.log(num_classes) - jnp.mean(log_probs, axis=-1)


def signal() -> Signal:
    """The mean of KL_uniform over the probe images, in bits: column `kl_uniform_bits`.

    Cost: one forward pass over the probe images.
    """

    def batch_sums(log_probs, params, batch, key, pass_index):
        del key, pass_index
        return jnp.sum(batch["weights"] * kl_uniform(log_probs(params, batch)))

    def numbers(total, num_examples):
        return {"kl_uniform_bits": float(total) / num_examples / math.log(2)}

    return Signal("kl_uniform", 1, lambda params: jnp.zeros(()), batch_sums, numbers)
