"""Tasks: all the engine knows of data and models, as a bundle of pure functions."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from earlyprune_jax import data, models
from earlyprune_jax.array_types import Array, Params, PRNGKey, Variables
from earlyprune_jax.signals import Network
from earlyprune_jax.spec import DataSpec, ModelSpec

Sums = dict[str, Array]
"""Sums over examples: `loss` (nats), `correct`, `count`."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learnt, by pure functions that run inside jit.

    Attributes:
        init: key -> variables of a new network.
        batch: (split, indices [B], key or None) -> batch; a key augments it.
        train_loss: (params, batch_stats, batch) -> (mean loss, (sums, new batch_stats)).
        eval_sums: (params, batch_stats, batch, weights [B]) -> sums, BN in evaluation mode.
        network: batch_stats -> the network that signals look at: evaluation mode, float32
            throughout whatever the compute type of training is.
    """

    init: Callable[[PRNGKey], Variables]
    batch: Callable[[Any, Array, PRNGKey | None], Any]
    train_loss: Callable[[Params, Any, Any], tuple[Array, tuple[Sums, Any]]]
    eval_sums: Callable[[Params, Any, Any, Array], Sums]
    network: Callable[[Any], Network]

    def shapes(self) -> Any:
        """The shapes and types of a network's variables; nothing is computed or compiled."""
        return jax.eval_shape(self.init, jax.ShapeDtypeStruct((2,), jnp.uint32))


def classification(
    data_spec: DataSpec, model_spec: ModelSpec, *, precision: str, image_shape: tuple[int, int, int]
) -> Task:
    """Image classification with softmax cross-entropy.

    Args:
        data_spec: augmentation, normalisation and the number of classes.
        model_spec: which network.
        precision: compute type of training and evaluation, `float32` or `bfloat16`.
        image_shape: (height, width, channels).
    """

    def build(dtype):
        width = model_spec.width_multiplier
        return models.build(
            model_spec.name, num_classes=data_spec.num_classes, width_multiplier=width, dtype=dtype
        )

    model, probe = build(jnp.dtype(precision)), build(jnp.float32)
    # Typed as Any: Linen's annotation of apply covers every combination of its options.
    forward: Any = model.apply
    probe_forward: Any = probe.apply

    def init(key):
        return model.init(key, jnp.zeros((1, *image_shape)), train=False)

    def batch(split, indices, key):
        images = split["images"][indices]
        if key is not None:
            images = data.augment(
                key, images, crop_padding=data_spec.crop_padding, horizontal_flip=data_spec.horizontal_flip
            )
        normalized = data.normalize(images, data_spec.mean, data_spec.std)
        return {"images": normalized, "labels": split["labels"][indices]}

    def train_loss(params, batch_stats, examples):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = forward(variables, examples["images"], train=True, mutable=["batch_stats"])
        sums = _sums(logits, examples["labels"], jnp.ones(logits.shape[0]))
        return sums["loss"] / logits.shape[0], (sums, updated.get("batch_stats", {}))

    def eval_sums(params, batch_stats, examples, weights):
        variables = {"params": params, "batch_stats": batch_stats}
        return _sums(forward(variables, examples["images"], train=False), examples["labels"], weights)

    def apply_probe(variables, examples, **linen_options):
        return probe_forward(variables, examples["images"], train=False, **linen_options)

    def network(batch_stats):
        return Network(apply_probe, {"batch_stats": batch_stats}, is_linen=True)

    return Task(init, batch, train_loss, eval_sums, network)


def _sums(logits: Array, labels: Array, weights: Array) -> Sums:
    log_probs = jax.nn.log_softmax(logits)
    losses = -jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
    correct = jnp.argmax(logits, axis=-1) == labels
    # where, not a product: a padded example's loss must not count even if it is nan.
    return {
        "loss": jnp.sum(jnp.where(weights > 0, weights * losses, 0.0)),
        "correct": jnp.sum(weights * correct),
        "count": jnp.sum(weights),
    }
