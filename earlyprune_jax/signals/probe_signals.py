"""Signals of probe examples that cost at most one gradient of them.

`kl_uniform`: how far the predictions are from uniform (paper A, Eq. 5). `gradient_norm`: the length
of the loss's gradient. `performance`: the task's own metrics, the signals that every peer looks at.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Array, Params
from earlyprune_jax.metrics import Metric
from earlyprune_jax.pruning.scores.gradients import (
    Batches,
    Loss,
    mean_gradient,
    scores_like,
    weights_of,
)
from earlyprune_jax.pruning.trees import map_weights, named_leaves
from earlyprune_jax.signals.signal import ProbeSignal
from earlyprune_jax.validate import InvalidInput, expected, unknown_choice

UNITS = {"nats": 1.0, "bits": math.log(2)}
"""Name of a unit -> its size in nats."""


def kl_uniform(log_probs: Array, unit: str = "nats") -> Array:
    """Computes KL(uniform || p) of every example.

    -log C - (1/C) sum_c log p_c, a mean over classes. At least 0 up to rounding; 0 if and only if p
    is uniform, so always 0 with one class. There is no upper bound: it is infinite where a class
    has probability 0, and nan where log_probs are.

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
    problems = [] if unit in UNITS else [unknown_choice("unit", unit, tuple(UNITS))]
    if log_probs.ndim != 2 or not log_probs.shape[-1]:
        problems.append(expected("log_probs.shape", log_probs.shape, "to be [examples, classes]"))
    if problems:
        raise InvalidInput(problems)
    mean = jnp.mean(log_probs.astype(jnp.float32), axis=-1)
    return (-math.log(log_probs.shape[-1]) - mean) / UNITS[unit]


def kl_uniform_signal() -> ProbeSignal:
    """Makes KL_uniform, the mean over the probe images, BN in evaluation mode.

    Columns: `kl_uniform_bits` and `kl_uniform_nats`, the same number in both units, and
    `kl_uniform_bits_standard_error`, sample standard deviation over images / sqrt(images): the
    error of taking these images for all that are like them; None for one image.

    Range: [0, inf); 0 with one class. Cost: one forward pass over the probe images. Source: paper
    A, Eq. (5).

    Example:
        >>> kl_uniform_signal().columns
        ('kl_uniform_bits', 'kl_uniform_nats', 'kl_uniform_bits_standard_error')
    """

    columns = ("kl_uniform_bits", "kl_uniform_nats", "kl_uniform_bits_standard_error")

    def zero_sums(params):
        return {"sum": jnp.float32(0.0), "sum_of_squares": jnp.float32(0.0)}

    def batch_sums(network, params, batch, key, pass_index):
        weights = batch["weights"]
        bits = kl_uniform(network.log_probs(params, batch), unit="bits")
        # where, not a product: what pads a batch must not count even if it is not finite.
        bits = jnp.where(weights > 0, bits, 0.0)
        return {"sum": jnp.sum(weights * bits), "sum_of_squares": jnp.sum(weights * bits**2)}

    def numbers(sums: Any, num_examples: int) -> dict[str, float | None]:
        mean, error = float(sums["sum"]) / num_examples, None
        if num_examples > 1:
            # Rounding of the float32 sums can leave less than nothing.
            spread = max(float(sums["sum_of_squares"]) - num_examples * mean**2, 0.0)
            error = math.sqrt(spread / (num_examples - 1) / num_examples)
        return dict(zip(columns, (mean, mean * UNITS["bits"], error), strict=True))

    return ProbeSignal("kl_uniform", columns, 1, zero_sums, batch_sums, numbers)


def gradient_norm(loss: Loss, params: Params, batches: Batches) -> float:
    """Measures ||g||_2, g the gradient of the mean loss over all examples, in evaluation mode.

    sqrt(sum over all weights of g^2): no division by the number of weights. The gradient is
    averaged over examples first, so its noise averages out too; B times the squared norm over
    batches of B examples is another signal (`fisher_trace` by `batch`). Range [0, inf).

    Cost: one training step for each batch.

    Args:
        loss: (params, batch) -> the mean loss over the batch's examples, e.g. the cross-entropy
            on the data's labels, in evaluation mode.
        params: any pytree.
        batches: pytrees of arrays with a leading example axis; consumed to the end.

    Returns:
        The norm.

    Raises:
        InvalidInput: as `scores.mean_gradient`, e.g. a loss or gradient that is not finite.

    Example:
        >>> loss = lambda params, x: jnp.mean(x @ params)
        >>> gradient_norm(loss, jnp.zeros(2), [jnp.array([[2.0, 4.0], [4.0, 4.0]])])
        5.0
    """
    return _norm(jax.device_get(jax.tree.leaves(mean_gradient(loss, params, batches))))


def gradient_norm_signal() -> ProbeSignal:
    """Makes ||g||_2, g the gradient of the task's mean loss over the probe examples.

    Classification's is in nats. BN in evaluation mode; over all parameters, pruned ones included
    (their gradient says what is to be gained by bringing them back). Column `gradient_norm`, and
    `gradient_norm_by_parameter`: path -> the norm of that leaf's part; the squares of the parts add
    up to the square of the whole.

    Range: [0, inf); 0 with one class. Cost: one training step for each probe batch, and memory for
    one more gradient.

    Example:
        >>> gradient_norm_signal().columns
        ('gradient_norm',)
    """

    def batch_sums(network, params, batch, key, pass_index):
        weights, merge = weights_of(params)

        def loss(leaves):
            sums = network.sums(merge(leaves), batch)
            return sums["loss"], sums["count"]

        gradients, count = jax.grad(loss, has_aux=True)(weights)
        gradients = [gradient.astype(jnp.float32) for gradient in gradients]
        return {"gradients": scores_like(params, gradients), "count": count}

    def numbers(sums: Any, num_examples: int) -> dict[str, Any]:
        count = float(sums["count"])
        parts = {name: _norm([leaf]) / count for name, leaf in named_leaves(sums["gradients"])}
        return {"gradient_norm": math.hypot(*parts.values()), "gradient_norm_by_parameter": parts}

    def zero_sums(params):
        zeros = map_weights(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
        return {"gradients": zeros, "count": jnp.zeros(())}

    return ProbeSignal(
        "gradient_norm",
        ("gradient_norm",),
        1,
        zero_sums,
        batch_sums,
        numbers,
        needs_log_probs=False,
    )


def _norm(leaves: list[Any]) -> float:
    """Computes the l2 norm of all entries, added up in float64."""
    return math.sqrt(sum(float(np.sum(np.square(np.asarray(leaf, np.float64)))) for leaf in leaves))


def performance_signal(
    metrics: Sequence[Metric],
    measured: Callable[[Mapping[str, Any]], Mapping[str, float]],
    names: Sequence[str],
) -> ProbeSignal:
    """Measures the metrics of a task on the probe examples, which are training examples, in
    evaluation mode.

    Columns: `probe_NAME` of every metric, for classification `probe_loss`, the mean over examples
    of -log p(label | image) in nats, and `probe_accuracy`. Unlike a training loss summed along an
    epoch, they belong to one state of the weights.

    Cost: one forward pass over the probe examples.

    Args:
        metrics: of the task.
        measured: sums -> metric -> value.
        names: of the sums.

    Returns:
        The signal.

    Example:
        >>> loss = Metric("loss", "nats", larger_is_better=False)
        >>> mean = lambda sums: {"loss": sums["loss"] / sums["count"]}
        >>> performance_signal([loss], mean, ["loss", "count"]).columns
        ('probe_loss',)
    """
    columns = tuple(metric.column("probe") for metric in metrics)

    def batch_sums(network, params, batch, key, pass_index):
        return network.sums(params, batch)

    def numbers(sums: Any, num_examples: int) -> dict[str, float]:
        values = measured(sums)
        return {metric.column("probe"): float(values[metric.name]) for metric in metrics}

    def zero_sums(params):
        return {name: jnp.zeros(()) for name in names}

    return ProbeSignal(
        "performance", columns, 1, zero_sums, batch_sums, numbers, needs_log_probs=False
    )
