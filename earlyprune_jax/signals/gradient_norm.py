"""The length of the loss's gradient over all weights."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Params
from earlyprune_jax.pruning.scores.batches import Batches
from earlyprune_jax.pruning.scores.gradients import Loss, mean_gradient, scores_like, weights_of
from earlyprune_jax.pruning.trees import map_weights, named_leaves
from earlyprune_jax.signals.signal import ProbeSignal


def gradient_norm(loss: Loss, params: Params, batches: Batches) -> float:
    """||g||_2, g the gradient of the mean loss over all examples, in evaluation mode.

    sqrt(sum over all weights of g^2): no division by the number of weights. The gradient is
    averaged over examples first, so its noise averages out too; B times the squared norm over
    batches of B examples is another signal (`fisher_trace` by `batch`). Range [0, inf).

    Cost: one training step for each batch.

    Args:
        loss: (params, batch) -> the mean loss over the batch's examples, e.g. the cross-entropy
            on the data's labels, in evaluation mode.
        params: any pytree.
        batches: pytrees of arrays with a leading example axis; consumed to the end.

    Raises:
        InvalidInput: as `scores.mean_gradient`, e.g. a loss or gradient that is not finite.

    Example:
        >>> loss = lambda params, x: jnp.mean(x @ params)
        >>> gradient_norm(loss, jnp.zeros(2), [jnp.array([[2.0, 4.0], [4.0, 4.0]])])
        5.0
    """
    return _norm(jax.device_get(jax.tree.leaves(mean_gradient(loss, params, batches))))


def signal() -> ProbeSignal:
    """||g||_2, g the gradient of the task's mean loss over the probe examples; classification's is
    in nats.

    BN in evaluation mode; over all parameters, pruned ones included (their gradient says what is
    to be gained by bringing them back). Column `gradient_norm`, and `gradient_norm_by_parameter`:
    path -> the norm of that leaf's part; the squares of the parts add up to the square of the
    whole.

    Range: [0, inf); 0 with one class. Cost: one training step for each probe batch, and memory for
    one more gradient.

    Example:
        >>> signal().columns
        ('gradient_norm',)
    """

    def batch_sums(network, params, batch, key, pass_index):
        del key, pass_index
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
    """The l2 norm of all entries, added up in float64."""
    return math.sqrt(sum(float(np.sum(np.square(np.asarray(leaf, np.float64)))) for leaf in leaves))
