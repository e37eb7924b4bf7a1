"""tr(F) and KL_uniform against explicit sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from earlyprune_jax import models, signals
from earlyprune_jax.pruning import select
from earlyprune_jax.signals import fisher
from earlyprune_jax.signals.kl_uniform import kl_uniform

NUM_CLASSES, BATCH = 3, 6


@pytest.fixture(scope="module")
def network():
    """A small trained-looking ResNet-8, its log-probabilities, and a batch."""
    model = models.build("resnet8", num_classes=NUM_CLASSES, width_multiplier=0.125)
    variables = model.init(jax.random.PRNGKey(0), jnp.zeros((1, 8, 8, 1)), train=False)
    images = jax.random.normal(jax.random.PRNGKey(1), (BATCH, 8, 8, 1))

    def log_probs(params, batch):
        logits = model.apply({**variables, "params": params}, batch["images"], train=False)
        return jax.nn.log_softmax(3 * jnp.asarray(logits))

    labels = jnp.arange(BATCH) % NUM_CLASSES
    batch = {"images": images, "labels": labels, "weights": jnp.ones(BATCH)}
    return log_probs, variables["params"], batch


@pytest.fixture(scope="module")
def gradients(network):
    """d log p(c|x_i) / d params for every example and class by plain jacobians: leaf -> [B, C, n]."""
    log_probs, params, batch = network
    jacobian = jax.jit(jax.jacrev(lambda p: log_probs(p, batch)))(params)
    return jax.tree.map(lambda j: np.asarray(j).reshape(BATCH, NUM_CLASSES, -1), jacobian)


def run(signal, network, key=0):
    log_probs, params, batch = network
    sums = signal.zero_sums(params)
    for index in range(signal.num_passes):
        added = signal.batch_sums(log_probs, params, batch, jax.random.PRNGKey(key), jnp.int32(index))
        sums = jax.tree.map(jnp.add, sums, added)
    return signal.numbers(jax.device_get(sums), BATCH)


def make(network, *, labels, estimator="per_example"):
    counted = select(network[1], "conv_kernels")
    return fisher.signal(estimator=estimator, labels=labels, counted=counted, num_classes=NUM_CLASSES)


def test_exact_trace_equals_the_explicit_sum_over_classes_leaf_by_leaf(network, gradients):
    log_probs, params, batch = network
    probs = np.exp(np.asarray(log_probs(params, batch)))
    measured = run(make(network, labels="exact"), network)["fisher_trace_by_parameter"]
    by_hand = {
        "/".join(k.key for k in path): (probs * (jac**2).sum(-1)).sum(1).mean()
        for path, jac in jax.tree.leaves_with_path(gradients)
    }
    assert measured.keys() == by_hand.keys()
    np.testing.assert_allclose(list(measured.values()), list(by_hand.values()), rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("labels", ["argmax", "true"])
def test_trace_with_fixed_labels_equals_those_labels_gradients(network, gradients, labels):
    log_probs, params, batch = network
    chosen = (
        np.asarray(log_probs(params, batch)).argmax(1) if labels == "argmax" else np.asarray(batch["labels"])
    )
    by_hand = sum((jac[np.arange(BATCH), chosen] ** 2).sum() / BATCH for jac in jax.tree.leaves(gradients))
    assert run(make(network, labels=labels), network)["fisher_trace_all"] == pytest.approx(by_hand, rel=2e-4)


@pytest.mark.parametrize("estimator", ["per_example", "batch"])
def test_sampled_labels_estimate_the_exact_trace_without_bias(network, gradients, estimator):
    exact = run(make(network, labels="exact"), network)["fisher_trace_all"]
    signal = make(network, labels="sampled", estimator=estimator)
    log_probs, params, batch = network
    keys = jax.random.split(jax.random.PRNGKey(7), 400)
    one = jax.jit(
        lambda key: (
            sum(jax.tree.leaves(signal.batch_sums(log_probs, params, batch, key, jnp.int32(0)))) / BATCH
        )
    )
    totals = np.array([float(one(key)) for key in keys])
    error = totals.std(ddof=1) / np.sqrt(len(totals))
    assert abs(totals.mean() - exact) < 4 * error
    assert error < 0.2 * exact


def test_batch_estimator_is_batch_size_times_the_squared_norm_of_the_mean_gradient(network, gradients):
    log_probs, params, batch = network
    key = jax.random.PRNGKey(3)
    drawn = np.asarray(jax.random.categorical(key, log_probs(params, batch)))
    means = [jac[np.arange(BATCH), drawn].mean(0) for jac in jax.tree.leaves(gradients)]
    by_hand = BATCH * sum((mean**2).sum() for mean in means)
    measured = run(make(network, labels="sampled", estimator="batch"), network, key=3)
    assert measured["fisher_trace_all"] == pytest.approx(by_hand, rel=2e-4)


def test_fisher_trace_sums_the_conv_kernels_and_all_sums_everything(network):
    measured = run(make(network, labels="true"), network)
    by_parameter = measured["fisher_trace_by_parameter"]
    conv = sum(value for name, value in by_parameter.items() if "conv" in name)
    assert measured["fisher_trace"] == pytest.approx(conv)
    assert measured["fisher_trace_all"] == pytest.approx(sum(by_parameter.values()))
    assert 0 < measured["fisher_trace"] < measured["fisher_trace_all"]


def test_padding_examples_of_weight_zero_do_not_count(network):
    log_probs, params, batch = network
    half = {**batch, "weights": jnp.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])}
    alone = jax.tree.map(lambda leaf: leaf[:3], batch)
    for labels in ("true", "exact"):
        signal = make(network, labels=labels)
        args = (jax.random.PRNGKey(0), jnp.int32(1))
        padded, whole = (signal.batch_sums(log_probs, params, b, *args) for b in (half, alone))
        for a, b in zip(jax.tree.leaves(padded), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_kl_uniform_follows_its_formula_in_bits():
    probs = np.array([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3], [0.98, 0.01, 0.01]])
    by_hand = [sum((1 / 3) * np.log((1 / 3) / p) for p in row) for row in probs]
    np.testing.assert_allclose(kl_uniform(jnp.log(jnp.float32(probs))), by_hand, atol=1e-6)
    signal = signals.kl.signal()
    batch = {"weights": jnp.array([1.0, 1.0, 0.0])}
    unused = (jax.random.PRNGKey(0), jnp.int32(0))
    total = signal.batch_sums(lambda params, b: jnp.log(jnp.float32(probs)), {}, batch, *unused)
    measured = signal.numbers(total, 2)["kl_uniform_bits"]
    assert measured == pytest.approx((by_hand[0] + by_hand[1]) / 2 / np.log(2), abs=1e-6)
