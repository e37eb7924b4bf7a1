"""Loss and accuracy on the probe images: the signals that every peer looks at."""

from typing import Any

import jax.numpy as jnp

from earlyprune_jax.signals.signal import ProbeSignal

COLUMNS = ("probe_loss", "probe_accuracy")


def signal() -> ProbeSignal:
    """Loss and accuracy on the probe images, which are training images, BN in evaluation mode.

    Columns: `probe_loss`, the mean over images of -log p(label | image) in nats, in [0, inf), and
    `probe_accuracy`, the fraction of images whose label has the highest probability (among equals
    the first class), in [0, 1]. Unlike a training loss summed along an epoch, both belong to one
    state of the weights. With one class they are 0 and 1.

    Cost: one forward pass over the probe images.

    Example:
        >>> signal().columns
        ('probe_loss', 'probe_accuracy')
    """

    def batch_sums(network, params, batch, key, pass_index):
        del key, pass_index
        log_probs, labels, weights = network.log_probs(params, batch), batch["labels"], batch["weights"]
        losses = -jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
        hits = jnp.argmax(log_probs, axis=-1) == labels
        # where, not a product: a padded example's loss must not count even if it is not finite.
        counted = jnp.where(weights > 0, weights * losses, 0.0)
        return {"probe_loss": jnp.sum(counted), "probe_accuracy": jnp.sum(weights * hits)}

    def numbers(sums: Any, num_examples: int) -> dict[str, float]:
        return {name: float(sums[name]) / num_examples for name in COLUMNS}

    def zero_sums(params):
        return {name: jnp.zeros(()) for name in COLUMNS}

    return ProbeSignal("performance", COLUMNS, 1, zero_sums, batch_sums, numbers)
