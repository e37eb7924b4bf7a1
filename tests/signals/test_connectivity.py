"""Errors along a line against hand-computed networks, and BN statistics against NumPy."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from earlyprune_jax import models
from earlyprune_jax.signals.connectivity import linear_mode_connectivity, reestimated_statistics
from earlyprune_jax.validate import InvalidInput


@dataclasses.dataclass(frozen=True)
class Function:
    """A model that is a function (params, images) -> logits."""

    logits: Callable[[Any, Any], Any]

    def apply(self, variables, images):
        return self.logits(variables["params"], images)


class NormNet(nn.Module):
    """Dense, BN, relu, Dense, BN, Dense: the second BN sees what the first has normalised."""

    momentum: float = 0.9
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x, train):
        def norm(name):
            return nn.BatchNorm(not train, momentum=self.momentum, epsilon=1e-5, name=name)

        x = nn.relu(norm("norm1")(nn.Dense(6, name="dense1")(x)))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return nn.Dense(3, name="head")(norm("norm2")(nn.Dense(5, name="dense2")(x)))


NUM, SIZE = 23, 8
IMAGES = 2 * np.random.default_rng(0).standard_normal((NUM, 4)).astype(np.float32) + 1
LABELS = np.random.default_rng(1).integers(0, 3, NUM)
SIGN = Function(lambda w, x: x * w[None])


def norm_net(seed):
    """Its variables, with statistics that belong to nothing."""
    variables = NormNet().init(jax.random.key(seed), IMAGES[:1], train=False)
    statistics = jax.tree.map(lambda leaf: leaf + 3.0 + seed, variables["batch_stats"])
    return {"params": variables["params"], "batch_stats": statistics}


def moments(batches):
    """Mean and biased variance of all rows together, from the batches' own by the law of total
    variance."""
    weights = np.array([len(batch) for batch in batches]) / sum(map(len, batches))
    means, variances = np.array([b.mean(0) for b in batches]), np.array([b.var(0) for b in batches])
    mean = weights @ means
    return mean, weights @ (variances + (means - mean) ** 2)


def dense(params, name, x):
    return x @ np.asarray(params[name]["kernel"], np.float64) + np.asarray(
        params[name]["bias"], np.float64
    )


def normalised(x, mean, var):
    return (x - mean) / np.sqrt(var + 1e-5)


def statistics_by_hand(params, images, batch_size):
    """name -> (mean, var), each batch normalised by its own statistics on the way."""
    batches = np.array_split(np.asarray(images, np.float64), -(-len(images) // batch_size))
    first = [dense(params, "dense1", batch) for batch in batches]
    hidden = [np.maximum(normalised(x, x.mean(0), x.var(0)), 0) for x in first]
    second = [dense(params, "dense2", x) for x in hidden]
    return {"norm1": moments(first), "norm2": moments(second)}


def error_by_hand(params, statistics):
    hidden = np.maximum(normalised(dense(params, "dense1", IMAGES), *statistics["norm1"]), 0)
    logits = dense(
        params, "head", normalised(dense(params, "dense2", hidden), *statistics["norm2"])
    )
    return np.mean(logits.argmax(1) != LABELS)


def assert_statistics(measured, by_hand):
    for name, (mean, var) in by_hand.items():
        np.testing.assert_allclose(measured[name]["mean"], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(measured[name]["var"], var, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.9, 0.0, 0.999])
def test_reestimated_statistics_are_those_of_the_images_whatever_was_stored_before(
    momentum,
):
    model, variables = NormNet(momentum), norm_net(0)
    measured = reestimated_statistics(model, variables, IMAGES, batch_size=SIZE)
    assert_statistics(measured, statistics_by_hand(variables["params"], IMAGES, SIZE))
    # The first layer's inputs depend on no other layer's: the batches leave no trace at all.
    whole = dense(variables["params"], "dense1", IMAGES)
    np.testing.assert_allclose(measured["norm1"]["mean"], whole.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(measured["norm1"]["var"], whole.var(0), rtol=1e-4)


def test_statistics_far_from_one_are_measured_as_exactly():
    variables = norm_net(0)
    images = 1e5 * IMAGES
    measured = reestimated_statistics(NormNet(0.99), variables, images, batch_size=SIZE)
    assert_statistics(measured, statistics_by_hand(variables["params"], images, SIZE))


def test_randomness_in_training_mode_is_taken_from_the_options():
    model = NormNet(dropout_rate=0.5)
    options = {"train": True, "rngs": {"dropout": jax.random.key(0)}}
    measured = reestimated_statistics(model, norm_net(0), IMAGES, train_options=options)
    without = reestimated_statistics(NormNet(), norm_net(0), IMAGES)
    np.testing.assert_allclose(measured["norm1"]["var"], without["norm1"]["var"], rtol=1e-5)
    assert not np.allclose(measured["norm2"]["var"], without["norm2"]["var"], rtol=1e-2)


def test_statistics_that_training_mode_leaves_alone_are_refused_by_path():
    with pytest.raises(
        InvalidInput, match=r"statistic norm1/mean.*\(1.0, 1.0\).*ask for training mode"
    ):
        reestimated_statistics(NormNet(), norm_net(0), IMAGES, train_options={"train": False})
    with pytest.raises(InvalidInput, match="batch statistics at=.*norm1/mean.* to be finite"):
        reestimated_statistics(NormNet(), norm_net(0), IMAGES * np.float32(np.inf))


def test_errors_along_the_line_are_those_of_interpolated_weights_with_their_own_statistics():
    first, second = norm_net(1), norm_net(2)
    measured = linear_mode_connectivity(
        NormNet(), first, second, IMAGES, LABELS, num_points=5, batch_size=SIZE
    )
    by_hand = []
    for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):
        params = jax.tree.map(
            lambda a, b, t=alpha: (1 - t) * a + t * b, first["params"], second["params"]
        )
        by_hand.append(error_by_hand(params, statistics_by_hand(params, IMAGES, SIZE)))
    assert measured.alphas == (0.0, 0.25, 0.5, 0.75, 1.0)
    np.testing.assert_allclose(measured.errors, by_hand)
    assert len(set(by_hand)) > 2
    ends = (by_hand[0] + by_hand[-1]) / 2
    farthest = int(np.argmax(np.abs(np.array(by_hand) - ends)))
    assert measured.value == pytest.approx(ends - by_hand[farthest])
    assert measured.farthest_alpha == measured.alphas[farthest]


def test_without_reestimation_the_statistics_are_interpolated_like_the_weights():
    first, second = norm_net(1), norm_net(2)
    measured = linear_mode_connectivity(
        NormNet(), first, second, IMAGES, LABELS, num_points=3, reestimate_statistics=False
    )
    by_hand = []
    for alpha in (0.0, 0.5, 1.0):
        mixed = jax.tree.map(lambda a, b, t=alpha: (1 - t) * a + t * b, first, second)
        stored = {name: (leaf["mean"], leaf["var"]) for name, leaf in mixed["batch_stats"].items()}
        by_hand.append(error_by_hand(mixed["params"], jax.tree.map(np.asarray, stored)))
    np.testing.assert_allclose(measured.errors, by_hand)


def test_two_networks_that_differ_by_swapped_units_have_a_barrier_of_known_height():
    # logits (0, |x| signed): relu(x) - relu(-x) = x for class 1. Halfway all weights cancel.
    def logits(params, x):
        hidden = jax.nn.relu(x * params["in"][None])
        return jnp.stack([jnp.zeros(len(x)), hidden @ params["out"]], axis=1)

    first = {"params": {"in": jnp.array([1.0, -1.0]), "out": jnp.array([1.0, -1.0])}}
    second = {"params": jax.tree.map(lambda leaf: leaf[::-1], first["params"])}
    images, labels = np.array([[1.0], [2.0], [-1.0], [3.0]], np.float32), np.array([1, 1, 0, 1])
    measured = linear_mode_connectivity(
        Function(logits), first, second, images, labels, num_points=3
    )
    assert measured.errors == (0.0, 0.75, 0.0)
    assert measured.value == -0.75
    assert measured.farthest_alpha == 0.5


def test_a_line_through_a_better_network_is_positive():
    # At each end one feature is read with the wrong sign, halfway none.
    first, second = {"params": jnp.array([3.0, -1.0])}, {"params": jnp.array([-1.0, 3.0])}
    images, labels = np.array([[1.0, 0.1], [0.1, 1.0]], np.float32), np.array([0, 1])
    measured = linear_mode_connectivity(SIGN, first, second, images, labels, num_points=3)
    assert measured.errors == (0.5, 0.0, 0.5)
    assert measured.value == 0.5


def test_eleven_points_by_default_and_swapped_networks_give_the_reversed_line():
    first, second = norm_net(1), norm_net(2)
    forth, back = (
        linear_mode_connectivity(NormNet(), *pair, IMAGES, LABELS)
        for pair in ((first, second), (second, first))
    )
    np.testing.assert_allclose(forth.alphas, np.linspace(0, 1, 11))
    assert forth.errors == back.errors[::-1]


def test_a_network_of_this_package_is_connected_with_itself():
    model = models.build("resnet8", num_classes=3, width_multiplier=0.125)
    images = jax.random.normal(jax.random.key(0), (12, 8, 8, 1))
    variables = jax.jit(lambda key: model.init(key, images[:1], train=False))(jax.random.key(1))
    labels = np.arange(12) % 3
    measured = linear_mode_connectivity(model, variables, variables, images, labels, num_points=2)
    assert measured.value == 0.0
    assert measured.errors[0] == measured.errors[1]
    # One batch of all images: its own statistics, and therefore training mode's predictions.
    trained = jax.jit(lambda v: model.apply(v, images, train=True, mutable=["batch_stats"])[0])
    logits = trained(variables)
    assert measured.errors[0] == np.mean(np.asarray(logits).argmax(1) != labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_points": 1}, "num_points=1 to be an integer of at least 2"),
        ({"batch_size": 0}, "batch_size=0 to be an integer of at least 1"),
        ({"images": np.zeros((0, 2)), "labels": np.zeros(0, int)}, "the same N >= 1 examples"),
        ({"labels": np.zeros(3, int)}, r"labels='int64\[3\]' to be \[2\] integers"),
        ({"labels": np.zeros(2)}, r"labels='float64\[2\]' to be \[2\] integers"),
        ({"labels": np.array([0, 2])}, r"labels\[1\]=2 in \[0, 2\), as the logits have"),
        ({"second": {"params": jnp.ones(3)}}, r"shape of second at params=\(3,\) to be \(2,\)"),
        ({"second": {"params": jnp.ones(2), "n": 1}}, "second at='n' not to be there"),
        (
            {"first": {"params": jnp.array([1.0, jnp.nan])}},
            "first at params='not finite' to be finite",
        ),
        (
            {"images": np.array([[0.0, 1.0], [1.0, np.nan]])},
            "logits of example=1 to be finite. At alpha=0",
        ),
        (
            {"model": Function(lambda w, x: x @ w)},
            r"logits='float32\[2\]' to be floats \[B, C\]",
        ),
    ],
)
def test_what_has_no_line_or_no_error_is_refused(change, message):
    given: dict[str, Any] = {
        "model": SIGN,
        "first": {"params": jnp.ones(2)},
        "second": {"params": -jnp.ones(2)},
        "images": np.ones((2, 2), np.float32),
        "labels": np.array([0, 1]),
    }
    with pytest.raises(InvalidInput, match=message):
        linear_mode_connectivity(**(given | change))


def test_leaves_that_are_no_weights_must_be_equal():
    images, labels = np.ones((2, 2), np.float32), np.array([0, 0])
    first, second = (
        {"params": jnp.ones(2), "counter": {"steps": jnp.array(steps)}} for steps in (1, 2)
    )
    with pytest.raises(InvalidInput, match="second at counter/steps=.* to equal the first's"):
        linear_mode_connectivity(SIGN, first, second, images, labels)
    assert linear_mode_connectivity(SIGN, first, first, images, labels).value == 0.0
