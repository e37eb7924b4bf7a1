"""The Fisher diagonal against explicit Jacobians, and its estimators against their formulas."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from earlyprune_jax.pruning.scores.fisher import empirical_fisher_diagonal, fisher_diagonal
from earlyprune_jax.validate import InvalidInput

KEY = jax.random.key(11)


class Network(nn.Module):
    """Two convolutions with batch norm."""

    @nn.compact
    def __call__(self, x, *, train):
        for features, stride in ((4, 2), (3, 1)):
            x = nn.Conv(features, (3, 3), strides=stride)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(3)(x.mean(axis=(1, 2)))


@pytest.fixture(scope="module")
def case():
    """(logits, params, batch of 7, its Jacobians of log p [7, C, ...], p [7, C])."""
    network, rng = Network(), np.random.default_rng(0)
    batch = {"x": rng.standard_normal((7, 6, 6, 2), np.float32), "y": rng.integers(0, 3, 7)}
    shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), batch["x"])
    # Drawn by NumPy: Linen's initialisers would take longer to compile than the test.
    draw = lambda leaf: rng.uniform(-1, 1, leaf.shape).astype(np.float32)  # noqa: E731
    variables: Any = {name: jax.tree.map(draw, shapes[name]) for name in ("params", "batch_stats")}
    apply: Any = network.apply
    stats = jax.tree.map(lambda leaf: leaf + 1.1, variables["batch_stats"])

    def outputs(params, batch):
        return apply({"params": params, "batch_stats": stats}, batch["x"], train=False)

    params = variables["params"]
    first = np.asarray(outputs(params, batch))
    centre, spread = first.mean(axis=0, keepdims=True), first.std(axis=0, keepdims=True)
    # So that the examples differ in their likeliest class.
    logits = lambda params, batch: 1.5 * (outputs(params, batch) - centre) / spread  # noqa: E731
    jacobians = jax.jit(jax.jacrev(lambda p: jax.nn.log_softmax(logits(p, batch))))(params)
    return logits, params, batch, jacobians, np.asarray(jax.nn.softmax(logits(params, batch)))


def loss_of(logits):
    def loss(params, batch):
        log_probs = jax.nn.log_softmax(logits(params, batch))
        return -jnp.mean(jnp.take_along_axis(log_probs, batch["y"][:, None], axis=1))

    return loss


def cut(batch, *edges):
    return [
        jax.tree.map(lambda leaf, a=a, b=b: leaf[a:b], batch)
        for a, b in zip(edges, edges[1:], strict=False)
    ]


def assert_close(found, wanted, rtol=2e-4):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(
            one, other, rtol=rtol, atol=1e-6 * float(np.abs(other).max()) + 1e-9
        )


def squares(jacobians, weights):
    """(1/N) sum_n sum_c weights_nc J_nc^2 of every leaf."""
    return jax.tree.map(
        lambda j: np.tensordot(weights, np.asarray(j) ** 2, 2) / len(weights), jacobians
    )


def test_a_two_parameter_softmax_by_hand():
    logits = lambda params, x: x * params[None]  # noqa: E731
    # log p_0 of logits (w_0 x_0, w_1 x_1) at w = (log 3, 0), x = (1, 2): p = (3/4, 1/4);
    # gradients: y=0: (x_0 / 4, -x_1 / 4), y=1: (-3 x_0 / 4, 3 x_1 / 4).
    params, x = jnp.array([jnp.log(3.0), 0.0]), jnp.array([[1.0, 2.0]])
    exact = fisher_diagonal(logits, params, [x], key=KEY, estimator="exact")
    np.testing.assert_allclose(exact, [3 / 16, 12 / 16], rtol=1e-5)
    argmax = fisher_diagonal(logits, params, [x], key=KEY, estimator="argmax")
    np.testing.assert_allclose(argmax, [1 / 16, 4 / 16], rtol=1e-5)


def test_exact_labels_give_the_class_weighted_squared_jacobian_of_a_conv_net(case):
    logits, params, batch, jacobians, probabilities = case
    found = fisher_diagonal(
        logits, params, cut(batch, 0, 4, 7), key=KEY, estimator="exact", microbatch_size=3
    )
    assert_close(found, squares(jacobians, probabilities))


def test_argmax_labels_give_the_squared_jacobian_of_the_predicted_class(case):
    logits, params, batch, jacobians, probabilities = case
    found = fisher_diagonal(logits, params, [batch], key=KEY, estimator="argmax")
    assert_close(found, squares(jacobians, np.eye(3)[probabilities.argmax(axis=1)]))
    assert len(set(probabilities.argmax(axis=1))) > 1


def labels_drawn(probabilities):
    draw = lambda number, row: jax.random.categorical(jax.random.fold_in(KEY, number), jnp.log(row))  # noqa: E731
    return np.array([draw(number, row) for number, row in enumerate(probabilities)])


def test_sampled_labels_are_a_function_of_key_and_example_number(case):
    logits, params, batch, jacobians, probabilities = case
    labels = labels_drawn(probabilities)
    assert len(set(labels)) > 1, "labels that are all equal would show nothing"
    wanted = squares(jacobians, np.eye(3)[labels])
    for edges, size in (((0, 7), 8), (tuple(range(8)), 3)):
        found = fisher_diagonal(logits, params, cut(batch, *edges), key=KEY, microbatch_size=size)
        assert_close(found, wanted)


def test_sampled_labels_estimate_the_exact_fisher_within_four_standard_errors(case):
    logits, params, batch, jacobians, probabilities = case
    tiles = 60
    many = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * tiles), batch)
    found = fisher_diagonal(logits, params, [many], key=KEY, microbatch_size=70)
    for leaf, estimate in zip(jax.tree.leaves(jacobians), jax.tree.leaves(found), strict=True):
        norms = (np.asarray(leaf) ** 2).reshape(7, 3, -1).sum(axis=-1)
        mean = (probabilities * norms).sum(axis=1)
        variance = (probabilities * norms**2).sum(axis=1) - mean**2
        error = np.sqrt(variance.sum() / tiles) / 7
        assert abs(float(estimate.sum()) - mean.mean()) < 4 * error


@pytest.mark.parametrize("edges", [pytest.param((0, 7), marks=pytest.mark.slow), (0, 4, 7)])
def test_the_batch_estimator_is_paper_as_squared_mean_gradient_times_batch_size(case, edges):
    logits, params, batch, _, probabilities = case
    labelled = {**batch, "y": jnp.asarray(labels_drawn(probabilities))}
    terms = []
    for part in cut(labelled, *edges):
        gradient, size = jax.jit(jax.grad(loss_of(logits)))(params, part), len(part["y"])
        terms.append(jax.tree.map(lambda g, size=size: size * (size * g**2), gradient))
    wanted = jax.tree.map(lambda *parts: sum(parts) / 7, *terms)
    found = fisher_diagonal(logits, params, cut(batch, *edges), key=KEY, method="batch")
    assert_close(found, wanted)


def test_batches_of_one_make_both_estimators_equal(case):
    logits, params, batch, _, _ = case
    ones = cut(batch, *range(8))
    per_example = fisher_diagonal(logits, params, [batch], key=KEY)
    assert_close(fisher_diagonal(logits, params, ones, key=KEY, method="batch"), per_example)


@pytest.fixture(scope="module")
def singles(case):
    """The gradient of each example's loss."""
    logits, params, batch, _, _ = case
    gradient = jax.jit(jax.grad(loss_of(logits)))
    return [gradient(params, single) for single in cut(batch, *range(8))]


@pytest.mark.parametrize(
    ("size", "edges"),
    [
        pytest.param(1, (0, 7), marks=pytest.mark.slow),
        (3, (0, 4, 7)),
        pytest.param(8, (0, 7), marks=pytest.mark.slow),
    ],
)
def test_the_empirical_fisher_is_a_loop_of_squared_single_example_gradients(
    case, singles, size, edges
):
    logits, params, batch, _, _ = case
    wanted = jax.tree.map(lambda *g: sum(leaf**2 for leaf in g) / 7, *singles)
    found = empirical_fisher_diagonal(
        loss_of(logits), params, cut(batch, *edges), microbatch_size=size
    )
    assert_close(found, wanted)


def test_batches_of_many_sizes_compile_once():
    traces = []

    def loss(params, x):
        traces.append(x.shape)
        return jnp.mean(params * x)

    batches = [jnp.ones(size) for size in (5, 3, 9, 1, 4)]
    assert float(empirical_fisher_diagonal(loss, jnp.ones(()), batches, microbatch_size=4)) == 1.0
    assert traces == [(1,)]


def test_bfloat16_gradients_are_squared_and_summed_in_float32():
    params = {"w": jnp.ones((), jnp.bfloat16)}
    loss = lambda params, x: jnp.mean(params["w"] * x.astype(jnp.bfloat16))  # noqa: E731
    value = float(jnp.bfloat16(1.0078125))
    # 1.0078125^2 and the sum over 600 examples both need more than bfloat16's 8 bits.
    found = empirical_fisher_diagonal(loss, params, [jnp.full(300, value)] * 2)["w"]
    assert found.dtype == jnp.float32
    assert float(found) == pytest.approx(value**2, rel=1e-5)


def test_an_equinox_module_is_scored_in_its_own_structure():
    model = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (5, 2))
    logits = lambda model, x: jax.vmap(model)(x)  # noqa: E731
    found = fisher_diagonal(logits, model, [x], key=KEY, estimator="exact", microbatch_size=2)
    assert jax.tree.structure(found) == jax.tree.structure(model)
    assert found.activation == 0
    params, static = eqx.partition(model, eqx.is_inexact_array)
    log_probs = lambda p: jax.nn.log_softmax(jax.vmap(eqx.combine(p, static))(x))  # noqa: E731
    jacobian = jax.jacrev(log_probs)(params).layers[0].weight
    wanted = jnp.tensordot(jnp.exp(log_probs(params)), jacobian**2, 2) / 5
    np.testing.assert_allclose(found.layers[0].weight, wanted, rtol=1e-4, atol=1e-7)


def linear_logits(params, x):
    return x * params[None]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"estimator": "smpled"}, "Did you mean 'sampled'?"),
        ({"estimator": "empirical"}, "call empirical_fisher_diagonal"),
        ({"method": "batches"}, "to be one of vmap, batch"),
        ({"method": "batch", "estimator": "exact"}, "to be sampled with method batch"),
        ({"microbatch_size": 0}, "microbatch_size=0 to be an integer of at least 1"),
        ({"microbatch_size": True}, "microbatch_size=True"),
        ({"key": 3}, "to be one PRNG key"),
    ],
)
def test_bad_options_are_refused_with_the_remedy(options, words):
    with pytest.raises(InvalidInput) as caught:
        fisher_diagonal(linear_logits, jnp.ones(2), [jnp.ones((1, 2))], **{"key": KEY, **options})
    assert words in str(caught.value)


@pytest.mark.parametrize("method", ["vmap", "batch"])
@pytest.mark.parametrize(
    "logits",
    [
        lambda params, x: (x * params[None]).sum(axis=1),
        lambda params, x: (x * params[None])[:, :1],
        lambda params, x: (x * params[None]).sum(axis=0, keepdims=True)[:0],
        lambda params, x: (x * params[None], None),
    ],
)
def test_logits_of_another_shape_are_refused(logits, method):
    with pytest.raises(InvalidInput, match=r"logits=.* to be floats \[B, C\], .*C >= 2 classes"):
        fisher_diagonal(logits, jnp.ones(2), [jnp.ones((3, 2))], key=KEY, method=method)


def test_a_class_may_be_impossible():
    x = jnp.array([[1.0, 2.0], [3.0, -1.0]])
    masked = lambda params, x: jnp.pad(x * params[None], ((0, 0), (0, 1)), constant_values=-jnp.inf)  # noqa: E731
    for method in ("vmap", "batch"):
        found = fisher_diagonal(masked, jnp.ones(2), [x], key=KEY, method=method)
        wanted = fisher_diagonal(linear_logits, jnp.ones(2), [x], key=KEY, method=method)
        assert jnp.isfinite(found).all() and found.shape == wanted.shape


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "to give at least one batch"),
        (
            [jnp.ones((2, 2)), jnp.zeros((0, 2))],
            "examples in batch 1 (from 0)={'its root': 0} to be the same number of at least 1",
        ),
        ([{"x": jnp.ones((2, 2)), "y": jnp.ones(3)}], "to be the same number"),
        ([jnp.ones((2, 2)), jnp.array([[1.0, 1.0], [jnp.nan, 1.0]])], "At batch 1 (from 0)"),
        ([jnp.array([[1e30, 1.0]])], "gradient at its root='not finite'"),
    ],
)
def test_bad_batches_are_refused_by_number(batches, words):
    loss = lambda params, x: jnp.mean(x * params[None])  # noqa: E731
    for estimate in (
        lambda: empirical_fisher_diagonal(loss, jnp.ones(2), batches),
        lambda: fisher_diagonal(linear_logits, jnp.zeros(2), batches, key=KEY),
        lambda: fisher_diagonal(linear_logits, jnp.zeros(2), batches, key=KEY, method="batch"),
    ):
        with pytest.raises(InvalidInput) as caught:
            estimate()
        assert words in str(caught.value)


def test_a_loss_that_is_no_scalar_is_refused():
    with pytest.raises(InvalidInput, match="to be one real number"):
        empirical_fisher_diagonal(lambda params, x: params * x, jnp.ones(()), [jnp.ones(3)])
