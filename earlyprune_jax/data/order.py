"""Which examples a step sees: a function of (key, epoch), nothing carried along."""

import jax
import jax.numpy as jnp

from earlyprune_jax.array_types import Array, PRNGKey
from earlyprune_jax.validate import unexpected


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """num_examples // batch_size: only full batches are trained on.

    Raises:
        InvalidInput: there is no full batch, or `batch_size` is below 1.

    Example:
        >>> steps_per_epoch(50_000, 128)
        390
    """
    if not 1 <= batch_size <= num_examples:
        raise unexpected(
            "train.batch_size",
            batch_size,
            f"in [1, {num_examples}]",
            f"There are {num_examples} training examples and a step takes a full batch.",
        )
    return num_examples // batch_size


def epoch_order(key: PRNGKey, epoch: Array | int, num_examples: int, batch_size: int) -> Array:
    """Row indices of every batch of one epoch: a fresh permutation, cut into full batches.

    A function of (key, epoch) alone, so a run that starts again in epoch e needs no
    earlier epoch. No index occurs twice in an epoch. The num_examples % batch_size
    indices at the end of the permutation sit the epoch out, others each time (PyTorch's
    `drop_last=True`): one batch shape means one compilation.

    Args:
        key: of the run's data order.
        epoch: 0-based; may be traced.
        num_examples: static.
        batch_size: static, at most `num_examples`.

    Returns:
        int32 [steps_per_epoch, batch_size], in [0, num_examples).

    Raises:
        InvalidInput: there is no full batch.

    Example:
        >>> epoch_order(jax.random.PRNGKey(0), 3, num_examples=10, batch_size=4).shape
        (2, 4)
    """
    num_steps = steps_per_epoch(num_examples, batch_size)
    permutation = jax.random.permutation(jax.random.fold_in(key, epoch), num_examples)
    return permutation[: num_steps * batch_size].reshape(num_steps, batch_size).astype(jnp.int32)
