"""Running a probe signal as the engine does: sums over batches, then numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.signals.signal import Network
from earlyprune_jax.tasks.classification import _sums


def linear_network(
    apply=lambda variables, batch: batch["images"] @ variables["params"]["kernel"],
) -> Network:
    """A function of the parameters alone; by default images [B, d] times a kernel [d, C]. A
    classifier."""

    def sums(params, batch):
        logits = apply({"params": params}, batch)
        return _sums(logits, batch["labels"], batch["weights"], logits.shape[-1])

    return Network(apply=apply, fixed={}, is_linen=False, sums=sums)


def example_batch(images, labels) -> dict:
    """A batch in which every example counts."""
    numbers = np.arange(len(images))
    return {
        "images": jnp.asarray(images, jnp.float32),
        "labels": jnp.asarray(labels, jnp.int32),
        "numbers": jnp.asarray(numbers),
        "weights": jnp.ones(len(images)),
    }


def measured(signal, network, params, batches) -> dict:
    """The signal's numbers over batches; what counts is what has weight 1."""
    sums = signal.zero_sums(params)
    step = jax.jit(lambda p, b, k, i: signal.batch_sums(network, p, b, k, i))
    for batch in batches:
        for index in range(signal.num_passes):
            added = step(params, batch, jax.random.PRNGKey(0), jnp.int32(index))
            sums = jax.tree.map(jnp.add, sums, added)
    count = int(sum(float(batch["weights"].sum()) for batch in batches))
    return signal.numbers(jax.device_get(sums), count)


def padded(batch, size: int) -> dict:
    """The batch filled up to a size with examples of weight 0, whose images are nan."""
    extra = size - len(batch["weights"])
    images = jnp.concatenate(
        [batch["images"], jnp.full((extra, *batch["images"].shape[1:]), jnp.nan)]
    )
    labels, numbers, weights = (
        jnp.concatenate([batch[name], jnp.zeros(extra, batch[name].dtype)])
        for name in ("labels", "numbers", "weights")
    )
    return {"images": images, "labels": labels, "numbers": numbers, "weights": weights}
