"""KL_uniform: how far the predictions are from uniform, without gradients (paper A, Eq. 5)."""

import math
from typing import Any

import jax.numpy as jnp

from earlyprune_jax import validate
from earlyprune_jax.array_types import Array
from earlyprune_jax.signals.signal import ProbeSignal
from earlyprune_jax.validate import InvalidInput, expected

UNITS = {"nats": 1.0, "bits": math.log(2)}
"""Name of a unit -> its size in nats."""


def kl_uniform(log_probs: Array, unit: str = "nats") -> Array:
    """KL(uniform || p) of every example: -log C - (1/C) sum_c log p_c, a mean over classes.

    At least 0 up to rounding; 0 if and only if p is uniform, so always 0 with one class. There is
    no upper bound: it is infinite where a class has probability 0, and nan where log_probs are.

    Args:
        log_probs: [B, C] natural-log probabilities, whatever `unit` is.
        unit: `nats` or `bits` (paper A's plots); 1 bit = ln 2 nats.

    Returns:
        [B] float32.

    Raises:
        InvalidInput: an unknown unit, or log_probs that are not [B, C] with C >= 1.

    Source: paper A, Eq. (5), whose expectation over images is left to the caller.

    Example:
        >>> predicted = jnp.log(jnp.array([[0.5, 0.5], [0.9, 0.1]]))
        >>> [round(float(value), 3) for value in kl_uniform(predicted)]
        [0.0, 0.511]
    """
    problems = [] if unit in UNITS else [validate.unknown_choice("unit", unit, tuple(UNITS))]
    if log_probs.ndim != 2 or not log_probs.shape[-1]:
        problems.append(expected("log_probs.shape", log_probs.shape, "to be [examples, classes]"))
    if problems:
        raise InvalidInput(problems)
    mean = jnp.mean(log_probs.astype(jnp.float32), axis=-1)
    return (-math.log(log_probs.shape[-1]) - mean) / UNITS[unit]


def signal() -> ProbeSignal:
    """KL_uniform, the mean over the probe images, BN in evaluation mode.

    Columns: `kl_uniform_bits` and `kl_uniform_nats`, the same number in both units, and
    `kl_uniform_bits_standard_error`, sample standard deviation over images / sqrt(images): the
    error of taking these images for all that are like them; None for one image.

    Range: [0, inf); 0 with one class. Cost: one forward pass over the probe images. Source: paper
    A, Eq. (5).

    Example:
        >>> signal().columns
        ('kl_uniform_bits', 'kl_uniform_nats', 'kl_uniform_bits_standard_error')
    """

    def batch_sums(network, params, batch, key, pass_index):
        del key, pass_index
        weights = batch["weights"]
        # where, not a product: what pads a batch must not count even if it is not finite.
        bits = jnp.where(
            weights > 0, kl_uniform(network.log_probs(params, batch), unit="bits"), 0.0
        )
        return {"sum": jnp.sum(weights * bits), "sum_of_squares": jnp.sum(weights * bits**2)}

    def numbers(sums: Any, num_examples: int) -> dict[str, float | None]:
        mean = float(sums["sum"]) / num_examples
        return {
            "kl_uniform_bits": mean,
            "kl_uniform_nats": mean * UNITS["bits"],
            "kl_uniform_bits_standard_error": _standard_error(
                mean, sums["sum_of_squares"], num_examples
            ),
        }

    columns = ("kl_uniform_bits", "kl_uniform_nats", "kl_uniform_bits_standard_error")
    zeros = {"sum": 0.0, "sum_of_squares": 0.0}
    return ProbeSignal(
        "kl_uniform",
        columns,
        1,
        lambda params: {name: jnp.float32(zero) for name, zero in zeros.items()},
        batch_sums,
        numbers,
    )


def _standard_error(mean: float, sum_of_squares: Any, num_examples: int) -> float | None:
    """sqrt(sample variance / n) from float32 sums, whose rounding can leave less than nothing."""
    if num_examples < 2:
        return None
    variance = max(float(sum_of_squares) - num_examples * mean**2, 0.0) / (num_examples - 1)
    return math.sqrt(variance / num_examples)
