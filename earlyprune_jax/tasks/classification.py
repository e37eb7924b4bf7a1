"""Image classification with softmax cross-entropy."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from earlyprune_jax import data
from earlyprune_jax.array_types import Array
from earlyprune_jax.metrics import Metric
from earlyprune_jax.models import forward
from earlyprune_jax.signals.signal import Network
from earlyprune_jax.tasks.batching import plain
from earlyprune_jax.tasks.task import Task
from earlyprune_jax.validate import unexpected

LOSS = Metric("loss", "nats", larger_is_better=False)
ACCURACY = Metric("accuracy", "%")


def classification(
    splits: Mapping[str, Any],
    model: Callable[..., Any],
    *,
    batch_size: int,
    precision: str,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    crop_padding: int,
    horizontal_flip: bool,
) -> Task:
    """Makes the task of telling the classes of images apart.

    Args:
        splits: name -> {"images": uint8 [N, H, W, C], "labels": int32 [N]}.
        model: (num_classes, dtype) -> a Linen module that maps images to logits.
        batch_size: examples per training step.
        precision: compute type of training and evaluation, `float32` or `bfloat16`.
        num_classes: C.
        mean: per channel, of images scaled to [0, 1].
        std: likewise.
        crop_padding: pixels of the random crop.
        horizontal_flip: whether images are flipped at random.

    Returns:
        A task with the metrics loss (nats) and accuracy (primary).

    Raises:
        InvalidInput: the splits hold no images.
    """
    train = splits["train"]
    if not isinstance(train, Mapping) or set(train) != {"images", "labels"}:
        given = sorted(train) if isinstance(train, Mapping) else type(train).__name__
        remedy = "Take another data.name, or a task of your own: docs/extending.md."
        raise unexpected("data of task classification", given, "to be images and labels", remedy)
    module = model(num_classes=num_classes, dtype=jnp.dtype(precision))
    probe = model(num_classes=num_classes, dtype=jnp.dtype("float32"))
    shape = train["images"].shape[1:]

    def init(key):
        return forward.init(module, key, jnp.zeros((1, *shape)))

    def take(kind, split, indices, weights, key):
        images = split["images"][indices]
        if key is not None:
            images = data.augment(
                key, images, crop_padding=crop_padding, horizontal_flip=horizontal_flip
            )
        batch = {"images": data.normalize(images, mean, std), "labels": split["labels"][indices]}
        return batch if weights is None else {**batch, "weights": weights}

    def train_sums(params, model_state, batch, key):
        logits, new_state = forward.train(module, params, model_state, batch["images"], key)
        weights = jnp.ones(len(batch["labels"]))
        return _sums(logits, batch["labels"], weights, num_classes), new_state

    def eval_sums(params, model_state, batch):
        logits = forward.evaluate(module, {"params": params, **model_state}, batch["images"])
        return _sums(logits, batch["labels"], batch["weights"], num_classes)

    def network(model_state):
        def apply(variables, batch, **linen_options):
            return forward.evaluate(probe, variables, batch["images"], **linen_options)

        def sums(params, batch):
            logits = apply({"params": params, **model_state}, batch)
            return _sums(logits, batch["labels"], batch["weights"], num_classes)

        return Network(apply, model_state, is_linen=True, sums=sums)

    return Task(
        splits=splits,
        batching=plain(splits, batch_size, take),
        init=init,
        train_sums=train_sums,
        eval_sums=eval_sums,
        metrics=(LOSS, ACCURACY),
        primary=ACCURACY.name,
        network=network,
        layers="conv_kernels",
        optimizer="sgd",
    )


def _sums(logits: Array, labels: Array, weights: Array, num_classes: int) -> dict[str, Array]:
    shape, wanted = getattr(logits, "shape", None), (len(labels), num_classes)
    if shape != wanted:
        thing, given = "output of the network", type(logits).__name__ if shape is None else shape
        raise unexpected(thing, given, f"to be [N, data.num_classes]={wanted}")
    log_probs = jax.nn.log_softmax(logits)
    losses = -jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
    correct = jnp.argmax(logits, axis=-1) == labels
    # where, not a product: a padded example's loss must not count even if it is nan.
    return {
        "loss": jnp.sum(jnp.where(weights > 0, weights * losses, 0.0)),
        "accuracy": jnp.sum(weights * correct),
        "count": jnp.sum(weights),
    }
