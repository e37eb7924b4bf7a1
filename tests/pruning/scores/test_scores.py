"""Scores of weights alone, by hand."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from earlyprune_jax import signals
from earlyprune_jax.pruning.scores import weights as scores
from earlyprune_jax.validate import InvalidInput

PARAMS = {
    "layer": {"kernel": jnp.array([[1.0, -2.0], [0.5, 0.0]]), "bias": jnp.array([3.0, -4.0])},
    "steps": 7,
}


def tree_of(kernel, bias):
    return {"layer": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}, "steps": 7}


def assert_scores(found, kernel, bias):
    np.testing.assert_allclose(found["layer"]["kernel"], kernel, rtol=1e-6)
    np.testing.assert_allclose(found["layer"]["bias"], bias, rtol=1e-6)
    assert np.shape(found["steps"]) == ()
    assert found["steps"] == 0


def test_magnitude_is_the_absolute_value():
    assert_scores(scores.magnitude(PARAMS), [[1, 2], [0.5, 0]], [3, 4])


def test_magnitude_of_half_precision_is_exact_in_float32():
    weights = jax.random.normal(jax.random.key(0), (100,)).astype(jnp.bfloat16)
    found = scores.magnitude(weights)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, np.abs(np.asarray(weights, np.float32)))


@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_weights_of_8_bits_are_measured_as_the_same_ones_of_32(dtype):
    narrow = {"kernel": jnp.linspace(-2, 3, 24, dtype=dtype).reshape(6, 4)}
    wide = jax.tree.map(lambda w: w.astype(jnp.float32), narrow)
    for measure in (scores.magnitude, lambda w: signals.random_distance(w, key=jax.random.key(0))):
        chex.assert_trees_all_equal(measure(narrow), measure(wide))


def test_magnitude_increase_compares_with_the_initial_weights():
    initial = tree_of([[-3.0, 1.0], [0.5, 0.25]], [0.0, 5.0])
    assert_scores(scores.magnitude_increase(PARAMS, initial), [[-2, 1], [0, -0.25]], [3, -1])


def test_obd_is_half_the_curvature_times_the_squared_weight():
    diagonal = tree_of([[2.0, 3.0], [8.0, 1.0]], [0.0, 0.5])
    assert_scores(scores.obd(PARAMS, diagonal), [[1, 6], [1, 0]], [0, 4])


def test_obd_is_the_exact_loss_increase_of_a_diagonal_quadratic():
    curvature, weights = jnp.array([2.0, 5.0, 0.1]), jnp.array([1.0, -0.5, 3.0])
    loss = lambda w: jnp.sum(curvature * (w - weights) ** 2) / 2  # noqa: E731
    increases = [loss(weights.at[place].set(0.0)) for place in range(3)]
    np.testing.assert_allclose(scores.obd(weights, curvature), increases, rtol=1e-6)


def test_movement_gains_where_descent_goes_away_from_zero_and_adds_over_steps():
    first, second = (
        tree_of([[-1.0, 1.0], [1.0, 1.0]], [2.0, 0.0]),
        tree_of([[1.0, 1.0], [2.0, 9.0]], [0.0, 1.0]),
    )
    step = jax.jit(lambda s, p, g: scores.movement(s, p, g))
    accumulated = step(step(scores.zeros(PARAMS), PARAMS, first), PARAMS, second)
    assert_scores(accumulated, [[1 - 1, 2 + 2], [-0.5 - 1, 0]], [-6, 4])


def test_movement_of_bfloat16_accumulates_in_float32():
    params, grads = jnp.full(2, 1.0, jnp.bfloat16), jnp.full(2, -(2.0**-10), jnp.bfloat16)
    accumulated = jnp.full(2, 1.0)
    # In bfloat16, 1 + 2**-10 would be 1.
    assert scores.movement(accumulated, params, grads).tolist() == [1 + 2.0**-10] * 2


def test_wanda_multiplies_by_the_norm_of_the_input_that_a_weight_meets():
    found = scores.wanda(PARAMS, {"layer/kernel": np.array([[2.0], [10.0]])})
    np.testing.assert_allclose(found["layer"]["kernel"], [[2, 4], [5, 0]])
    nested = scores.wanda(PARAMS, {"layer": {"kernel": np.array([[2.0], [10.0]])}})
    np.testing.assert_array_equal(nested["layer"]["kernel"], found["layer"]["kernel"])


def test_wanda_ranks_no_weight_whose_input_is_unknown():
    found = scores.wanda(PARAMS, {"layer/kernel": np.ones((2, 1))})
    assert np.isnan(found["layer"]["bias"]).all()
    assert found["steps"] == 0


def test_random_scores_are_uniform_and_a_function_of_key_and_leaf():
    params = [jnp.zeros((100, 100)), jnp.zeros((100, 100)), jnp.tanh]
    found = scores.random(params, jax.random.key(1))
    again = scores.random([*params, jnp.zeros(5)], jax.random.key(1))
    np.testing.assert_array_equal(found[0], again[0])
    np.testing.assert_array_equal(found[1], again[1])
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], scores.random(params, jax.random.key(2))[0])
    # 10^4 draws: the standard error of the share below a quantile is at most 0.005.
    for quantile in (0.1, 0.5, 0.9):
        assert np.mean(np.asarray(found[0]) < quantile) == pytest.approx(quantile, abs=0.02)


def test_random_takes_old_keys_too():
    assert scores.random(jnp.zeros(3), jax.random.PRNGKey(0)).shape == (3,)


def test_functions_and_integers_among_an_equinox_modules_leaves_score_zero():
    model = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
    for found in (
        scores.magnitude(model),
        scores.random(model, jax.random.key(0)),
        scores.obd(model, model),
        scores.movement(scores.zeros(model), model, model),
        scores.magnitude_increase(model, model),
        scores.wanda(model, {"layers/0/weight": np.ones((1, 2))}),
    ):
        assert jax.tree.structure(found) == jax.tree.structure(model)
        assert found.activation == 0
        assert found.layers[0].weight.shape == (4, 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: scores.obd(PARAMS, {"layer": PARAMS["layer"]}),
            "hessian_diagonal at='steps' to be there",
        ),
        (
            lambda: scores.obd(PARAMS, tree_of(jnp.ones((2, 1)), [0.0, 0.0])),
            "hessian_diagonal at layer/kernel",
        ),
        (
            lambda: scores.movement(scores.zeros(PARAMS), PARAMS, {**PARAMS, "more": 1}),
            "grads at='more' not",
        ),
        (
            lambda: scores.magnitude_increase([jnp.ones(2)], (jnp.ones(2),)),
            "structure of initial_params",
        ),
        (lambda: scores.random(PARAMS, jnp.ones(2)), "to be one PRNG key. Make one"),
        (lambda: scores.random(PARAMS, jax.random.split(jax.random.key(0))), "to be one PRNG key"),
        (
            lambda: scores.wanda(PARAMS, {"layer/kernl": np.ones((2, 1))}),
            "Did you mean 'layer/kernel'?",
        ),
        (lambda: scores.wanda(PARAMS, {"steps": np.ones(())}), "to be the path of a weight"),
        (lambda: scores.wanda(PARAMS, {"layer/kernel": np.ones(2)}), "to have 2 axes"),
        (
            lambda: scores.wanda(PARAMS, {"layer/kernel": np.ones((3, 1))}),
            "each 1 or as in the weight's (2, 2)",
        ),
    ],
)
def test_trees_keys_and_norms_that_do_not_fit_are_refused_by_name(call, words):
    with pytest.raises(InvalidInput) as caught:
        call()
    assert words in str(caught.value)


def test_every_misfit_is_named_at_once():
    with pytest.raises(InvalidInput) as caught:
        scores.wanda(
            PARAMS, {"nowhere": np.ones(1), "layer/kernel": np.ones(5), "layer/bias": np.ones(3)}
        )
    assert len(caught.value.problems) == 3
