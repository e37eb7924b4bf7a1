"""The trace of the Fisher information, per parameter leaf (paper A, Eqs. 3 and 4).

tr(F) = mean over images x of E_{y ~ p(y|x)} ||d log p(y|x) / d params||^2, natural log,
BN in evaluation mode. Summed over all leaves it is the full trace; paper A plots the
sum over convolution kernels.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from earlyprune_jax.array_types import Array, Params
from earlyprune_jax.pruning.scores.fisher import choose_labels
from earlyprune_jax.pruning.trees import path_name
from earlyprune_jax.signals.signal import LogProbs, Signal


def per_example_sums(log_probs: LogProbs, params: Params, batch: Any, labels: Array, weights: Array) -> Any:
    """sum_i w_i ||d log p(y_i|x_i) / d leaf||^2 for every leaf, by vmapped per-example gradients.

    Args:
        log_probs: (params, batch) -> [B, C].
        params: parameters, any pytree.
        batch: a pytree of arrays with leading axis B.
        labels: [B] int.
        weights: [B] float.

    Returns:
        The structure of `params` with scalar float32 leaves.

    Example:
        >>> log_probs = lambda params, batch: jax.nn.log_softmax(batch["x"] * params[None])
        >>> batch = {"x": jnp.array([[1.0, 0.0]])}
        >>> sums = per_example_sums(log_probs, jnp.zeros(2), batch, jnp.array([0]), jnp.ones(1))
        >>> round(float(sums), 6)      # d log p_0 = x (1[y=c] - p) = (1/2, 0)
        0.25
    """

    def gradient(example, label):
        single = jax.tree.map(lambda leaf: leaf[None], example)
        return jax.grad(lambda p: log_probs(p, single)[0, label])(params)

    gradients = jax.vmap(gradient)(batch, labels)
    return jax.tree.map(
        lambda g: jnp.dot(weights, jnp.sum(g.reshape(g.shape[0], -1) ** 2, axis=1)), gradients
    )


def batch_gradient_sums(
    log_probs: LogProbs, params: Params, batch: Any, labels: Array, weights: Array
) -> Any:
    """||sum_i w_i d log p(y_i|x_i) / d leaf||^2 for every leaf: one backward pass a batch.

    With sampled labels the cross terms have mean 0, so this has the same expectation as
    `per_example_sums`, with a larger variance; divided by the batch size it is paper A's
    B * ||gradient of the mean cross-entropy||^2. With any other labels it is biased.
    """

    def total(p):
        chosen = jnp.take_along_axis(log_probs(p, batch), labels[:, None], axis=1)[:, 0]
        return jnp.dot(weights, chosen)

    return jax.tree.map(lambda g: jnp.sum(g**2), jax.grad(total)(params))


def signal(*, estimator: str, labels: str, counted: Any, num_classes: int) -> Signal:
    """tr(F) per parameter leaf, the mean over probe images.

    Columns: `fisher_trace` (the counted leaves), `fisher_trace_all` (every leaf) and
    `fisher_trace_by_parameter` (path -> value, whose sum over any subset of leaves is the
    trace of that subset).

    Cost, in training steps of the same batch: `per_example` 1.9 and B times the gradients'
    memory, `batch` 1.0 (ResNet-20, B = 128, medians of 12 interleaved on 2 CPU cores).
    `exact` labels multiply it by C.

    Args:
        estimator: `per_example` or `batch` (sampled labels only).
        labels: `sampled`, `exact`, `argmax` or `true`.
        counted: the structure of the params with Python bools: the leaves summed into
            `fisher_trace`; paper A plots the conv kernels.
        num_classes: C.
    """
    square: Callable[..., Any] = per_example_sums if estimator == "per_example" else batch_gradient_sums

    def batch_sums(log_probs, params, batch, key, pass_index):
        predicted = jax.lax.stop_gradient(log_probs(params, batch))
        chosen, label_weights = choose_labels(labels, predicted, batch["labels"], key, pass_index)
        return square(log_probs, params, batch, chosen, batch["weights"] * label_weights)

    def numbers(sums, num_examples):
        leaves = jax.tree.leaves_with_path(sums)
        by_parameter = {path_name(path): float(value) / num_examples for path, value in leaves}
        flags = jax.tree.leaves(counted)
        return {
            "fisher_trace": sum(v for v, take in zip(by_parameter.values(), flags, strict=True) if take),
            "fisher_trace_all": sum(by_parameter.values()),
            "fisher_trace_by_parameter": by_parameter,
        }

    def zero_sums(params):
        return jax.tree.map(lambda _: jnp.zeros(()), params)

    return Signal("fisher_trace", num_classes if labels == "exact" else 1, zero_sums, batch_sums, numbers)
