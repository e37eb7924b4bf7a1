"""Similarity of predictions and features against entropies, closed forms and stated invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from earlyprune_jax.signals.similarity import (
    PairwiseSimilarity,
    disagreement,
    jensen_shannon,
    linear_cka,
    model_similarity,
)
from earlyprune_jax.validate import InvalidInput

LN2 = np.log(2)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def predictions(seed, num=40, classes=5, scale=2.0):
    return softmax(scale * np.random.default_rng(seed).standard_normal((num, classes)))


def entropy(p):
    return -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0), axis=1)


def jensen_shannon_by_hand(p, q):
    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


def test_divergence_is_the_mean_over_examples_and_both_signs_are_named():
    p, q = predictions(0), predictions(1)
    by_hand = jensen_shannon_by_hand(p, q)
    measured = model_similarity(p, q)
    assert measured.divergence == pytest.approx(by_hand.mean(), rel=1e-9)
    assert measured.similarity == -measured.divergence
    assert measured.standard_error == pytest.approx(by_hand.std(ddof=1) / np.sqrt(40), rel=1e-9)
    assert measured.per_pair == {(0, 1): measured.divergence}
    assert model_similarity(q, p).divergence == measured.divergence


def test_hand_computed_cases():
    # (1/2, 1/2) and (1, 0): m = (3/4, 1/4).
    by_hand = (np.log(2 / 3) / 2 + np.log(2) / 2) / 2 + np.log(4 / 3) / 2
    measured = model_similarity([[0.5, 0.5], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]])
    assert measured.divergence == pytest.approx(by_hand / 2)
    assert model_similarity([[1.0, 0.0]], [[0.0, 1.0]]).divergence == pytest.approx(LN2)
    assert model_similarity([[1.0]], [[1.0]]).divergence == 0.0
    assert model_similarity([[1.0, 0.0]], [[0.0, 1.0]]).standard_error is None


@pytest.mark.parametrize("given", ["probabilities", "log_probabilities"])
@pytest.mark.parametrize("cuts", [(), (1,), (13, 14, 39), tuple(range(1, 40))])
def test_batch_by_batch_is_all_at_once_and_both_are_what_they_say(cuts, given):
    networks = [predictions(seed) for seed in range(3)]
    shown = networks if given == "probabilities" else [np.log(network) for network in networks]
    pairs = PairwiseSimilarity(given=given)
    for batch in zip(*(np.split(network, cuts) for network in shown), strict=True):
        pairs.add(*batch)
    found, whole = pairs.result(), model_similarity(*shown, given=given)
    numbers = [(i, j) for i in range(3) for j in range(i + 1, 3)]
    by_hand = np.stack([jensen_shannon_by_hand(networks[i], networks[j]) for i, j in numbers])
    for measured, tolerance in ((whole.divergence, 1e-12), (by_hand.mean(), 1e-9)):
        assert found.divergence == pytest.approx(measured, rel=tolerance, abs=0)
    error = by_hand.mean(axis=0).std(ddof=1) / np.sqrt(40)
    for measured, tolerance in ((whole.standard_error, 1e-12), (error, 1e-9)):
        assert found.standard_error == pytest.approx(measured, rel=tolerance, abs=0)
    for pair, values in zip(numbers, by_hand, strict=True):
        assert found.per_pair[pair] == pytest.approx(whole.per_pair[pair], rel=1e-12, abs=0)
        assert found.per_pair[pair] == pytest.approx(values.mean(), rel=1e-9)
    unlike = [disagreement(networks[i], networks[j]) for i, j in numbers]
    assert pairs.disagreement == pytest.approx(np.mean(unlike), rel=1e-12)
    assert pairs.num_examples == 40


def test_a_network_that_is_not_finite_in_a_later_batch_is_named_with_its_example():
    pairs = PairwiseSimilarity()
    pairs.add(predictions(0), predictions(1))
    broken = predictions(2)
    broken[7, 0] = np.nan
    with pytest.raises(InvalidInput, match=r"network 1 \(from 0\) at example=\[7\] to be finite"):
        pairs.add(predictions(2), broken)


def test_equal_predictions_have_divergence_zero_however_small_their_probabilities_are():
    logits = 30 * np.random.default_rng(0).standard_normal((200, 50))
    assert model_similarity(softmax(logits), softmax(logits)).divergence == pytest.approx(
        0.0, abs=1e-9
    )


def test_raising_the_mean_to_1e_minus_7_changes_less_than_classes_times_4e_minus_8():
    p, q = predictions(0, classes=100, scale=9.0), predictions(1, classes=100, scale=9.0)
    assert (p < 1e-7).mean() > 0.05
    plain, published = jensen_shannon(p, q), jensen_shannon(p, q, smallest_mean=1e-7)
    mean = np.clip((p + q) / 2, 1e-7, 1)
    by_formula = (p * np.log(p / mean) + q * np.log(q / mean)).sum(1) / 2
    np.testing.assert_allclose(published, by_formula, atol=1e-12)
    assert 0 < np.abs(published - plain).max() < 100 * 4e-8


def test_several_networks_are_compared_in_pairs():
    networks = [predictions(seed) for seed in range(3)]
    measured = model_similarity(*networks)
    pairs = {
        (i, j): model_similarity(networks[i], networks[j]).divergence
        for i, j in ((0, 1), (0, 2), (1, 2))
    }
    assert measured.per_pair == pytest.approx(pairs)
    assert measured.divergence == pytest.approx(np.mean(list(pairs.values())))
    by_example = np.mean(
        [jensen_shannon_by_hand(networks[i], networks[j]) for i, j in pairs], axis=0
    )
    assert measured.standard_error == pytest.approx(by_example.std(ddof=1) / np.sqrt(40), rel=1e-6)


def test_log_probabilities_and_jax_arrays_give_the_same_number():
    p, q = predictions(0), predictions(1)
    exact = model_similarity(p, q).divergence
    assert model_similarity(jnp.float32(p), jnp.float32(q)).divergence == pytest.approx(
        exact, abs=1e-7
    )
    logs = [jax.nn.log_softmax(jnp.log(jnp.float32(x))) for x in (p, q)]
    assert model_similarity(*logs, given="log_probabilities").divergence == pytest.approx(
        exact, abs=1e-7
    )
    impossible = [[0.0, -np.inf]], [[-np.inf, 0.0]]
    assert model_similarity(*impossible, given="log_probabilities").divergence == pytest.approx(LN2)


@pytest.mark.parametrize(
    ("first", "second", "given", "message"),
    [
        (
            [[0.5, 0.5], [0.5, 0.4]],
            [[1.0, 0.0]] * 2,
            "probabilities",
            r"to be 1. Of example 1; 1 in all",
        ),
        (
            [[0.5, 0.5]],
            [[np.nan, 1.0]],
            "probabilities",
            r"network 1 \(from 0\) at example=.0. to be finite",
        ),
        (
            [[1.5, -0.5]],
            [[1.0, 0.0]],
            "probabilities",
            "to be finite and, .* at least 0",
        ),
        ([[0.5, 0.5]], [[0.5, 0.5]], "log_probabilities", "to be 1"),
        ([[0.0, np.nan]], [[0.0, -np.inf]], "log_probabilities", "at example=.0. to be finite"),
        ([[900.0, 0.0]], [[0.0, -np.inf]], "log_probabilities", "to be 1"),
        ([[1.0]], [[0.5, 0.5]], "probabilities", "shapes=.* to be equal"),
        ([1.0], [1.0], "probabilities", "to be .examples, classes."),
        (np.zeros((0, 3)), np.zeros((0, 3)), "probabilities", "1 or more examples"),
        ([[1.0]], [[1.0]], "logits", "given='logits' to be one of"),
    ],
)
def test_what_is_no_set_of_predictions_is_refused(first, second, given, message):
    with pytest.raises(InvalidInput, match=message):
        model_similarity(first, second, given=given)


def test_one_network_alone_is_refused():
    with pytest.raises(InvalidInput, match="number of networks=1 to be at least 2"):
        model_similarity([[1.0]])


def test_disagreement_counts_different_predictions():
    first = jnp.array([[1.0, 2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    second = np.array([[0.0, 9.0, 1.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [5.0, 0.0, 0.0]])
    assert disagreement(first, second) == 0.5
    assert disagreement(first, first) == 0.0
    assert disagreement([[1.0], [2.0]], [[3.0], [-1.0]]) == 0.0
    assert disagreement([[0.0, -np.inf]], [[-np.inf, 0.0]]) == 1.0
    with pytest.raises(
        InvalidInput, match=r"second at example=\[0, 2\] to be below infinity and not nan"
    ):
        disagreement(np.zeros((3, 2)), [[np.nan, 0.0], [0.0, 1.0], [np.inf, 0.0]])
    with pytest.raises(InvalidInput, match="to be equal"):
        disagreement(np.zeros((3, 2)), np.zeros((2, 3)))


def cka_by_hand(x, y):
    """From centred Gram matrices: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))."""
    centring = np.eye(len(x)) - 1 / len(x)
    first, second = centring @ x @ x.T @ centring, centring @ y @ y.T @ centring
    return np.trace(first @ second) / np.sqrt(np.trace(first @ first) * np.trace(second @ second))


@pytest.mark.parametrize(
    ("num", "first_width", "second_width"), [(50, 4, 7), (6, 30, 3), (10, 40, 50)]
)
def test_cka_is_the_same_from_features_and_from_gram_matrices(num, first_width, second_width):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((num, first_width)) + 3
    y = rng.standard_normal((num, second_width)) + x[:, :1]
    assert linear_cka(x, y) == pytest.approx(cka_by_hand(x, y), rel=1e-10)
    assert linear_cka(y, x) == pytest.approx(linear_cka(x, y), rel=1e-10)
    assert linear_cka(jnp.float32(x), jnp.float32(y)) == pytest.approx(cka_by_hand(x, y), rel=1e-5)


def test_cka_of_hand_computed_cases():
    # Orthogonal centred features share nothing; (a, b) with (a): 1 / sqrt(1 + 1).
    a, b = np.array([[1.0], [1.0], [-1.0], [-1.0]]), np.array([[1.0], [-1.0], [1.0], [-1.0]])
    assert linear_cka(a, b) == 0.0
    assert linear_cka(np.hstack([a, b]), a) == pytest.approx(1 / np.sqrt(2))
    # [a, 2b] against [a, b]: (1 + 4) / (sqrt(1 + 16) sqrt(2)).
    assert linear_cka(np.hstack([a, 2 * b]), np.hstack([a, b])) == pytest.approx(5 / np.sqrt(34))


def test_cka_ignores_rotation_scale_and_shift_but_not_stretching():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 5))
    y = np.hstack([x[:, :2] ** 2, x])
    rotation = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    assert linear_cka(x, x @ rotation * -1e20 + 1e19) == pytest.approx(1.0)
    assert linear_cka(x @ rotation * 1e-20, y + 7) == pytest.approx(linear_cka(x, y))
    assert linear_cka(x, x * np.array([1.0, 10.0, 1.0, 1.0, 1.0])) < 0.8


def test_cka_of_many_random_features_on_few_examples_is_biased_towards_1():
    rng = np.random.default_rng(0)
    assert linear_cka(rng.standard_normal((10, 500)), rng.standard_normal((10, 500))) > 0.9
    assert linear_cka(rng.standard_normal((5000, 5)), rng.standard_normal((5000, 5))) < 0.01


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.full((4, 2), 0.1), np.eye(4), "spread of first=0.0 to be positive"),
        (np.eye(4), np.full((4, 2), 1e30), "spread of second=0.0 to be positive"),
        (np.eye(4), np.zeros((4, 1)), "spread of second=0.0 to be positive"),
        (np.eye(1), np.eye(1), "to be .examples, features., 2 or more"),
        (
            np.zeros((4, 2, 2)),
            np.eye(4),
            "shape of first=.*, features., 2 or more",
        ),
        (np.eye(4), np.eye(3), "shapes=.* to be equal"),
        (np.eye(4) * [1, 1, np.nan, 1], np.eye(4), r"first at example=\[0, 1, 2, 3\] to be finite"),
    ],
)
def test_features_that_cannot_be_aligned_are_refused(first, second, message):
    with pytest.raises(InvalidInput, match=message):
        linear_cka(first, second)
