"""Signals of networks that make several predictions an example, such as the words of a sentence."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from earlyprune_jax.pruning import scores
from earlyprune_jax.pruning.scores.fisher import label_rule
from earlyprune_jax.pruning.scores.gradients import Examples
from earlyprune_jax.signals import Network, fisher_trace, kl_uniform_signal
from earlyprune_jax.signals.fisher_squares import batch_squares
from earlyprune_jax.validate import InvalidInput

NUM_WORDS, NUM_CLASSES = 3, 4


class Tagger(nn.Module):
    """Tags every word of a sentence; 0 is no word."""

    @nn.compact
    def __call__(self, sentences):
        words = nn.Embed(6, 5)(sentences)
        # A word's tag depends on the other words too.
        words = nn.Dense(5)(words + jnp.mean(words, axis=1, keepdims=True))
        logits = nn.Dense(NUM_CLASSES)(jnp.tanh(words))
        return jnp.where((sentences > 0)[..., None], logits, 0.0)


SENTENCES = np.array([[1, 2, 5], [3, 0, 0], [4, 1, 0]])
MODULE = Tagger()
VARIABLES = MODULE.init(jax.random.key(0), SENTENCES)


def logits_of(params, sentences) -> jax.Array:
    logits = MODULE.apply({"params": params}, sentences)
    assert isinstance(logits, jax.Array)
    return logits


def gradient(labels, sentence):
    """The gradient of the sum of a sentence's log-probabilities, flat."""

    def total(params):
        log_probs = jax.nn.log_softmax(logits_of(params, sentence[None]))[0]
        return sum(log_probs[p, y] for p, y in enumerate(labels) if sentence[p])

    leaves = jax.tree.leaves(jax.grad(total)(VARIABLES["params"]))
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])


@pytest.mark.parametrize("method", ["vmap", "layerwise"])
def test_squares_of_given_labels_are_those_of_the_sum_over_the_words(method):
    labels = np.array([[0, 3, 1], [2, 2, 2], [1, 0, 3]])
    examples = Examples(jnp.arange(3), jnp.asarray(labels), jnp.array([1.0, 1.0, 0.0]))
    network = Network(MODULE.apply, {}, is_linen=True)
    squares = batch_squares(
        network,
        VARIABLES["params"],
        jnp.asarray(SENTENCES),
        examples,
        method=method,
        choose=label_rule("empirical", jax.random.key(0), 0),
    )
    wanted = [np.sum(gradient(labels[n], SENTENCES[n]) ** 2) for n in range(2)]
    assert squares.values.sum(axis=0).tolist() == pytest.approx([*wanted, 0.0], rel=1e-5)


@pytest.mark.parametrize("method", ["vmap", "layerwise", "batch"])
def test_the_sampled_trace_has_the_expectation_over_all_labellings(method):
    wanted = 0.0
    for sentence in SENTENCES:
        probs = jax.nn.softmax(logits_of(VARIABLES["params"], sentence[None]))[0]
        length = int(np.sum(sentence > 0))
        for labels in itertools.product(range(NUM_CLASSES), repeat=length):
            chance = np.prod([probs[p, y] for p, y in enumerate(labels)])
            wanted += chance * np.sum(gradient(labels, sentence) ** 2) / len(SENTENCES)
    drawn = [
        fisher_trace(MODULE, VARIABLES, SENTENCES, key=jax.random.key(k), method=method).total
        for k in range(400)
    ]
    error = np.std(drawn, ddof=1) / np.sqrt(len(drawn))
    assert abs(np.mean(drawn) - wanted) < 4 * error and error < 0.1 * wanted


def test_the_fisher_diagonal_sums_to_the_trace_of_the_same_labels():
    key = jax.random.key(3)

    diagonal = scores.fisher_diagonal(logits_of, VARIABLES["params"], [SENTENCES], key=key)
    trace = fisher_trace(MODULE, VARIABLES, SENTENCES, key=key)
    total = sum(float(jnp.sum(leaf)) for leaf in jax.tree.leaves(diagonal))
    assert total == pytest.approx(trace.total, rel=1e-5)


def test_a_sum_over_classes_would_not_be_the_expectation_and_is_refused():
    with pytest.raises(InvalidInput, match="Here an example has one prediction"):
        fisher_trace(MODULE, VARIABLES, SENTENCES, key=jax.random.key(0), estimator="exact")


def test_kl_uniform_is_the_mean_over_words_and_its_error_that_of_a_ratio():
    network = Network(
        lambda variables, batch: MODULE.apply(variables, batch["x"]),
        {},
        is_linen=False,
        counts=lambda batch: batch["x"] > 0,
    )
    signal = kl_uniform_signal()
    sums = signal.zero_sums(VARIABLES["params"])
    for rows, weights in ((SENTENCES[:2], [1.0, 1.0]), (SENTENCES[1:], [0.0, 1.0])):
        batch = {"x": jnp.asarray(rows), "weights": jnp.array(weights)}
        added = signal.batch_sums(
            network, VARIABLES["params"], batch, jax.random.key(0), jnp.int32(0)
        )
        sums = jax.tree.map(jnp.add, sums, added)
    log_probs = np.asarray(
        jax.nn.log_softmax(logits_of(VARIABLES["params"], SENTENCES)), np.float64
    )
    divergence = -np.log(NUM_CLASSES) - log_probs.mean(axis=-1)
    is_word = SENTENCES > 0
    k, c = (divergence * is_word).sum(axis=1), is_word.sum(axis=1)
    mean = k.sum() / c.sum()
    error = np.sqrt(3 / 2 * np.sum((k - mean * c) ** 2)) / c.sum() / np.log(2)
    measured = signal.numbers(sums, 3)
    assert measured["kl_uniform_nats"] == pytest.approx(mean, rel=1e-5)
    assert measured["kl_uniform_bits_standard_error"] == pytest.approx(error, rel=1e-4)
