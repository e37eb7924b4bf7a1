"""The task's own metrics on the probe examples: the signals that every peer looks at."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from earlyprune_jax.metrics import Metric
from earlyprune_jax.signals.signal import ProbeSignal


def signal(
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

    Example:
        >>> loss = Metric("loss", "nats", larger_is_better=False)
        >>> signal([loss], lambda sums: {"loss": sums["loss"] / sums["count"]}, ["loss", "count"]).columns
        ('probe_loss',)
    """
    columns = tuple(metric.column("probe") for metric in metrics)

    def batch_sums(network, params, batch, key, pass_index):
        del key, pass_index
        return network.sums(params, batch)

    def numbers(sums: Any, num_examples: int) -> dict[str, float]:
        values = measured(sums)
        return {metric.column("probe"): float(values[metric.name]) for metric in metrics}

    def zero_sums(params):
        return {name: jnp.zeros(()) for name in names}

    return ProbeSignal(
        "performance", columns, 1, zero_sums, batch_sums, numbers, needs_log_probs=False
    )
