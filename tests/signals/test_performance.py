"""Probe loss and accuracy against sums by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from probing import example_batch, linear_network, measured, padded

from earlyprune_jax.metrics import Metric
from earlyprune_jax.signals import Network
from earlyprune_jax.signals.signal import performance_signal
from earlyprune_jax.tasks.classification import ACCURACY, LOSS

NAMES = ("loss", "accuracy", "count")


def signal():
    """As a classification task makes it."""

    def means(sums):
        return {name: sums[name] / sums["count"] for name in NAMES[:2]}

    return performance_signal((LOSS, ACCURACY), means, NAMES)


LOGITS_NETWORK = linear_network(lambda variables, batch: batch["images"] + variables["params"])


def test_loss_and_accuracy_are_means_over_the_images_that_count():
    logits = np.array(
        [[2.0, 0.0, -1.0], [0.0, 0.5, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 4.0], [1.0, 0.0, 0.0]]
    )
    labels = np.array([0, 0, 1, 2, 1])
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    batch = example_batch(logits, labels)
    batches = [
        {name: leaf[:2] for name, leaf in batch.items()},
        {name: leaf[2:] for name, leaf in batch.items()},
    ]
    numbers = measured(
        signal(), LOGITS_NETWORK, jnp.zeros((1, 3)), [padded(part, 4) for part in batches]
    )
    assert numbers["probe_loss"] == pytest.approx(-log_probs[np.arange(5), labels].mean(), rel=1e-6)
    assert numbers["probe_accuracy"] == pytest.approx(3 / 5)
    assert tuple(numbers) == signal().columns


def test_one_class_is_always_right_and_ties_go_to_the_first_class():
    one_class = example_batch(np.array([[3.0], [-2.0]]), [0, 0])
    assert measured(signal(), LOGITS_NETWORK, jnp.zeros((1, 1)), [one_class]) == {
        "probe_loss": 0.0,
        "probe_accuracy": 1.0,
    }
    tied = example_batch(np.zeros((2, 2)), [0, 1])
    assert measured(signal(), LOGITS_NETWORK, jnp.zeros((1, 2)), [tied])["probe_accuracy"] == 0.5


def test_the_columns_are_the_metrics_of_the_task_made_of_the_sums_over_all_batches():
    def sums(params, batch):
        return {"squares": jnp.sum(batch["images"] ** 2 * params)}

    network = Network(lambda variables, batch: None, {}, is_linen=False, sums=sums)
    rmse = performance_signal(
        [Metric("rmse")], lambda sums: {"rmse": float(sums["squares"]) ** 0.5}, ["squares"]
    )
    batches = [example_batch(np.full((2, 2), value), [0, 0]) for value in (1.0, 2.0)]
    assert measured(rmse, network, jnp.float32(4.0), batches) == {
        "probe_rmse": pytest.approx(80**0.5)
    }
    assert rmse.columns == ("probe_rmse",)
    assert not rmse.needs_log_probs
