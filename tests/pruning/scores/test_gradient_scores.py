"""Scores from gradients: by hand, against dense formulas, and over batches of any size."""

from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from earlyprune_jax.pruning.scores.gradients import grasp, mean_gradient, snip, taylor
from earlyprune_jax.validate import InvalidInput

SCORES = [mean_gradient, taylor, snip, grasp]


def two_layer_loss(params, batch):
    """(1/2) (b a x - y)^2 of a two-layer linear network of one unit each."""
    return jnp.mean((params["b"] * params["a"] * batch["x"] - batch["y"]) ** 2) / 2


TWO_LAYERS = {"a": jnp.array(2.0), "b": jnp.array(3.0)}
# x = 1 and 2, y = 5 and 9: residuals 1 and 3, mean of r x = 7/2; mean x^2 = 5/2.
TWO_EXAMPLES = {"x": jnp.array([1.0, 2.0]), "y": jnp.array([5.0, 9.0])}
G_A, G_B = 3 * 3.5, 2 * 3.5
H_AA, H_BB, H_AB = 9 * 2.5, 4 * 2.5, 3.5 + 2 * 3 * 2.5


def cut(batch, *edges):
    return [
        jax.tree.map(lambda leaf, a=a, b=b: leaf[a:b], batch)
        for a, b in zip(edges, edges[1:], strict=False)
    ]


@pytest.mark.parametrize(
    "batches", [[TWO_EXAMPLES], cut(TWO_EXAMPLES, 0, 1, 2)], ids=["one", "two"]
)
def test_scores_of_a_two_layer_linear_network_by_hand(batches):
    a, b = 2.0, 3.0
    by_hand = {
        mean_gradient: (G_A, G_B),
        taylor: (a * G_A, b * G_B),
        snip: (0.5, 0.5),
        grasp: (a * (H_AA * G_A + H_AB * G_B), b * (H_AB * G_A + H_BB * G_B)),
    }
    for score, (at_a, at_b) in by_hand.items():
        found = score(two_layer_loss, TWO_LAYERS, batches)
        assert float(found["a"]) == pytest.approx(at_a, rel=1e-6), score
        assert float(found["b"]) == pytest.approx(at_b, rel=1e-6), score


class Network(nn.Module):
    """Two convolutions with batch norm."""

    @nn.compact
    def __call__(self, x, *, train):
        for features, stride in ((4, 2), (3, 1)):
            x = nn.Conv(features, (3, 3), strides=stride)(x)
            x = nn.tanh(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(3)(x.mean(axis=(1, 2)))


@pytest.fixture(scope="module")
def conv_case():
    """(loss, params, batch of 7)."""
    network, rng = Network(), np.random.default_rng(0)
    batch = {"x": rng.standard_normal((7, 6, 6, 2), np.float32), "y": rng.integers(0, 3, 7)}
    shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), batch["x"])
    # Drawn by NumPy: Linen's initialisers would take longer to compile than the test.
    draw = lambda leaf: rng.uniform(-0.5, 0.5, leaf.shape).astype(np.float32)  # noqa: E731
    variables: Any = {name: jax.tree.map(draw, shapes[name]) for name in ("params", "batch_stats")}
    apply: Any = network.apply
    stats = jax.tree.map(lambda leaf: leaf + 1, variables["batch_stats"])

    def loss(params, batch):
        logits = apply({"params": params, "batch_stats": stats}, batch["x"], train=False)
        return -jnp.mean(
            jnp.take_along_axis(jax.nn.log_softmax(logits), batch["y"][:, None], axis=1)
        )

    return loss, variables["params"], batch


def test_a_conv_net_scores_as_the_plain_gradient_over_batches_of_unequal_size(conv_case):
    loss, params, batch = conv_case
    plain = jax.tree.map(lambda w, g: np.abs(w * g), params, jax.jit(jax.grad(loss))(params, batch))
    found = taylor(loss, params, cut(batch, 0, 4, 7))
    for by_hand, score in zip(jax.tree.leaves(plain), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(score, by_hand, rtol=1e-4, atol=1e-7)


def test_snip_is_each_weights_share_of_the_whole():
    params, batch = tanh_case()
    share, whole = snip(tanh_loss, params, [batch]), taylor(tanh_loss, params, [batch])
    total = sum(np.sum(leaf) for leaf in jax.tree.leaves(whole))
    np.testing.assert_allclose(share["first"], whole["first"] / total, rtol=1e-5)
    assert sum(np.sum(leaf) for leaf in jax.tree.leaves(share)) == pytest.approx(1, rel=1e-5)


def tanh_loss(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["first"])
    return jnp.mean((hidden @ params["second"] - batch["y"]) ** 2)


def tanh_case():
    keys = jax.random.split(jax.random.key(3), 4)
    params = {
        "first": jax.random.normal(keys[0], (3, 4)),
        "second": jax.random.normal(keys[1], (4,)),
    }
    return params, {"x": jax.random.normal(keys[2], (5, 3)), "y": jax.random.normal(keys[3], (5,))}


def test_grasp_is_weight_times_dense_hessian_times_gradient_of_the_whole_data():
    params, batch = tanh_case()
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    on_all = lambda vector: tanh_loss(unravel(vector), batch)  # noqa: E731
    dense = flat * (jax.jit(jax.hessian(on_all))(flat) @ jax.grad(on_all)(flat))
    found, _ = jax.flatten_util.ravel_pytree(grasp(tanh_loss, params, cut(batch, 0, 3, 5)))
    np.testing.assert_allclose(found, dense, rtol=1e-4, atol=1e-5)


def test_grasp_keeps_the_weights_whose_removal_costs_gradient_flow():
    params, batch = tanh_case()
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    flow = lambda vector: jnp.sum(jax.grad(lambda v: tanh_loss(unravel(v), batch))(vector) ** 2)  # noqa: E731
    # A small step of one weight towards zero changes the flow by -2 * score * step.
    slopes = -flat * jax.jit(jax.grad(flow))(flat) / 2
    found, _ = jax.flatten_util.ravel_pytree(grasp(tanh_loss, params, [batch]))
    np.testing.assert_allclose(-found, slopes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("score", SCORES)
def test_batches_of_unequal_size_give_the_score_of_all_examples_at_once(score):
    params, batch = tanh_case()
    whole, split = score(tanh_loss, params, [batch]), score(tanh_loss, params, cut(batch, 0, 1, 5))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(split), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("score", SCORES)
def test_bfloat16_weights_are_scored_in_float32(score):
    params, batch = tanh_case()
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    found, reference = score(tanh_loss, half, [batch] * 3), score(tanh_loss, params, [batch])
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True):
        assert one.dtype == jnp.float32
        np.testing.assert_allclose(one, other, atol=0.05 * float(jnp.abs(other).max()))


def test_sums_over_many_batches_do_not_stall_in_half_precision():
    params = {"w": jnp.ones((), jnp.bfloat16)}
    loss = lambda params, x: jnp.mean(params["w"] * x)  # noqa: E731
    # In bfloat16 a sum of ones stops growing at 256.
    assert float(mean_gradient(loss, params, [jnp.ones(1)] * 600)["w"]) == 1.0


class WithExtras(eqx.Module):
    mlp: eqx.nn.MLP
    count: int
    table: jax.Array


def test_an_equinox_module_with_functions_and_integers_is_scored_in_its_own_structure():
    model = WithExtras(eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0)), 3, jnp.arange(4))
    batch = {"x": jax.random.normal(jax.random.key(1), (5, 2)), "y": jnp.ones((5, 1))}

    def loss(model, batch):
        return model.count * jnp.mean((jax.vmap(model.mlp)(batch["x"]) - batch["y"]) ** 2)

    plain = eqx.filter_grad(loss)(model, batch)
    for score in SCORES:
        found = score(loss, model, [batch])
        assert jax.tree.structure(found) == jax.tree.structure(model)
        assert found.mlp.activation == 0
        assert found.table.tolist() == [0, 0, 0, 0]
    saliency = taylor(loss, model, cut(batch, *range(6)))
    by_hand = jnp.abs(model.mlp.layers[0].weight * plain.mlp.layers[0].weight)
    np.testing.assert_allclose(saliency.mlp.layers[0].weight, by_hand, rtol=1e-4, atol=1e-6)


def test_an_nnx_state_is_scored_in_its_own_structure():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    x = jax.random.normal(jax.random.key(0), (5, 3))
    loss = lambda params, x: jnp.mean(nnx.merge(graph, params, rest)(x) ** 2)  # noqa: E731
    found = taylor(loss, params, [x[:2], x[2:]])
    assert jax.tree.structure(found) == jax.tree.structure(params)
    kernel = model.kernel[...]  # the bias starts at 0
    gradient = jax.grad(lambda k: jnp.mean((x @ k) ** 2))(kernel)
    np.testing.assert_allclose(
        found["kernel"][...], jnp.abs(kernel * gradient), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("score", [mean_gradient, taylor, snip])
def test_a_generator_is_consumed_to_its_end_one_batch_at_a_time(score):
    seen = []

    def batches():
        for batch in cut(TWO_EXAMPLES, 0, 1, 2):
            seen.append(1)
            yield batch

    score(two_layer_loss, TWO_LAYERS, batches())
    assert len(seen) == 2


def test_grasp_refuses_an_iterator_that_only_goes_once():
    with pytest.raises(InvalidInput, match="re-iterable. Both passes need all batches"):
        grasp(two_layer_loss, TWO_LAYERS, iter([TWO_EXAMPLES]))


def test_grasp_refuses_a_second_pass_over_fewer_examples():
    class Shrinking:
        length = 3

        def __iter__(self):
            self.length -= 1
            return iter([TWO_EXAMPLES] * self.length)

    with pytest.raises(InvalidInput, match="examples in the second pass=2 to be 4"):
        grasp(two_layer_loss, TWO_LAYERS, Shrinking())


def broken(**changes):
    return {**TWO_EXAMPLES, **changes}


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([], "to give at least one batch"),
        (TWO_EXAMPLES, "Wrap a single batch in a list"),
        (jnp.ones((3, 2)), "Wrap a single batch in a list"),
        (5, "to be an iterable of batches"),
        ([{}], "examples in batch 0 (from 0)={} to be the same number of at least 1"),
        ([TWO_EXAMPLES, broken(y=jnp.ones(3))], "examples in batch 1 (from 0)={'x': 2, 'y': 3}"),
        (
            [TWO_EXAMPLES, broken(y=1.0)],
            "examples in batch 1 (from 0)={'x': 2, 'y': None} to be the same number",
        ),
        (
            [{"x": jnp.zeros(0), "y": jnp.zeros(0)}],
            "examples in batch 0 (from 0)={'x': 0, 'y': 0} to be the same number of at least 1",
        ),
        ([TWO_EXAMPLES, broken(x=jnp.array([1.0, jnp.nan]))], "gradient at a, b='not finite'"),
        ([TWO_EXAMPLES, broken(x=jnp.array([1.0, jnp.nan]))], "At batch 1 (from 0)"),
        ([broken(y=jnp.array([jnp.inf, 0.0]))], "loss='not finite'"),
    ],
)
@pytest.mark.parametrize("score", [mean_gradient, grasp])
def test_bad_batches_are_refused_by_number(score, batches, words):
    with pytest.raises(InvalidInput) as caught:
        score(two_layer_loss, TWO_LAYERS, batches)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "loss",
    [
        lambda params, batch: params["a"] * batch["x"],
        lambda params, batch: (params["a"], 1),
        lambda params, batch: jnp.array(1),
        lambda params, batch: None,
    ],
)
def test_a_loss_that_is_no_real_scalar_is_refused(loss):
    with pytest.raises(InvalidInput, match="to be one real number. Return the mean"):
        mean_gradient(loss, TWO_LAYERS, [TWO_EXAMPLES])


def test_only_the_weights_whose_gradient_is_not_finite_are_named():
    loss = lambda params, x: jnp.mean(params["a"] * x) + jnp.sqrt(params["b"])  # noqa: E731
    with pytest.raises(InvalidInput) as caught:
        mean_gradient(loss, {"a": jnp.array(1.0), "b": jnp.array(0.0)}, [jnp.ones(2)])
    assert "gradient at b=" in str(caught.value)
    assert len(caught.value.problems) == 1


def test_parameters_without_a_real_weight_are_refused():
    with pytest.raises(InvalidInput, match="at least one floating-point array"):
        taylor(lambda params, batch: jnp.zeros(()), {"n": 3}, [jnp.ones(1)])
    with pytest.raises(InvalidInput, match="params at z, its type,='complex64' to be real"):
        taylor(
            lambda params, batch: jnp.zeros(()), {"z": jnp.ones(2, jnp.complex64)}, [jnp.ones(1)]
        )


def test_snip_refuses_to_divide_by_no_sensitivity_at_all():
    with pytest.raises(InvalidInput, match="to be positive"):
        snip(two_layer_loss, {"a": jnp.zeros(()), "b": jnp.zeros(())}, [TWO_EXAMPLES])
