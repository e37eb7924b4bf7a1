"""random_distance against an independent NumPy implementation, closed forms and noise floors."""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from earlyprune_jax import models
from earlyprune_jax.signals.spectral import random_distance, signal
from earlyprune_jax.validate import InvalidInput

KEY = jax.random.key(0)


def jensen_shannon_by_hand(p, q):
    """In nats, from entropies: H(m) - (H(p) + H(q)) / 2."""

    def entropy(x):
        return -sum(value * np.log(value) for value in x if value > 0)

    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


def spectrum_by_hand(matrices):
    eigenvalues = [
        value for matrix in matrices for value in np.linalg.svd(matrix.astype(np.float64))[1] ** 2
    ]
    return np.sort(eigenvalues) / np.sum(eigenvalues)


def distances_by_hand(kernel, num_permutations, seed=0):
    """sqrt(JSD) of each permutation, one matrix for each spatial position, entries shuffled inside
    it."""
    rng = np.random.default_rng(seed)
    matrices = [kernel[index] for index in np.ndindex(kernel.shape[:-2])]
    own, values = spectrum_by_hand(matrices), []
    for _ in range(num_permutations):
        shuffled = [rng.permutation(matrix.ravel()).reshape(matrix.shape) for matrix in matrices]
        values.append(np.sqrt(jensen_shannon_by_hand(own, spectrum_by_hand(shuffled))))
    return np.array(values)


def structured(shape, seed=0, strength=0.3):
    """Noise plus a common rank-one part: a layer that has learnt something."""
    rng = np.random.default_rng(seed)
    ramp = np.outer(np.linspace(-1, 1, shape[-2]), np.linspace(-1, 1, shape[-1]))
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1])) + strength * ramp).astype(
        np.float32
    )


@pytest.mark.parametrize("shape", [(3, 3, 4, 8), (12, 7), (5, 6, 6), (2, 2, 2, 3, 5)])
def test_values_are_those_of_an_independent_implementation(shape):
    kernel, num = structured(shape), 150
    theirs = distances_by_hand(kernel, num)
    ours = random_distance({"conv": {"kernel": kernel}}, key=KEY, num_permutations=num)
    spread = theirs.std(ddof=1)
    assert ours.spread == pytest.approx(spread, rel=0.35)
    error = spread * np.sqrt(2 / num)
    assert abs(ours.value - theirs.mean()) < 4 * error
    assert error < 0.05 * ours.value


@pytest.mark.parametrize(
    ("shape", "floor"), [((3, 3, 3, 16), 0.038), ((3, 3, 16, 16), 0.024), ((3, 3, 64, 64), 0.007)]
)
def test_weights_at_he_initialisation_have_the_known_noise_floor(shape, floor):
    rng = np.random.default_rng(1)
    num = 10 if shape[-1] == 64 else 150
    drawn = [rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1])) for _ in range(num)]
    params = {f"layer{index}": {"kernel": np.float32(kernel)} for index, kernel in enumerate(drawn)}
    measured = random_distance(params, key=KEY, num_permutations=4)
    error = np.std(list(measured.per_layer.values()), ddof=1) / np.sqrt(num)
    # The published floors are few draws of something whose single draws scatter by a sixth to a
    # quarter.
    assert abs(measured.value - floor) < 0.06 * floor + 4 * error
    assert error < 0.03 * floor


def test_a_shuffled_identity_takes_its_two_possible_values_as_often_as_counting_says():
    # Two ones in a 2 x 2 matrix: on a diagonal in 2 of 6 cases, p = q = (1/2, 1/2); else q = (0,
    # 1).
    num = 600
    measured = random_distance(
        {"kernel": jnp.eye(2)}, key=KEY, num_permutations=num, reading="plain"
    )
    other = jensen_shannon_by_hand(np.array([0.5, 0.5]), np.array([0.0, 1.0]))
    share = measured.value / other
    assert share == pytest.approx(2 / 3, abs=4 * np.sqrt(2 / 9 / num))
    assert measured.spread == pytest.approx(
        other * np.sqrt(share * (1 - share) * num / (num - 1)), rel=1e-4
    )


def test_matrices_that_shuffling_cannot_change_have_distance_zero():
    rng = np.random.default_rng(0)
    column, constant, single = (
        rng.standard_normal((9, 1)),
        np.full((3, 3, 4, 5), 0.3),
        np.zeros((6, 6)),
    )
    single[2, 3] = -4.0
    params = {
        name: {"kernel": np.float32(value)}
        for name, value in (("column", column), ("constant", constant), ("single", single))
    }
    measured = random_distance(params, key=KEY)
    np.testing.assert_allclose(list(measured.per_layer.values()), 0.0, atol=1e-6)


def test_the_distance_comes_near_its_maximum_and_does_not_pass_it():
    one_row = np.zeros((128, 128), np.float32)
    one_row[0] = 1.0
    measured = random_distance({"kernel": one_row}, key=KEY, num_permutations=2)
    assert 0.76 < measured.value < np.sqrt(np.log(2))
    assert measured.value == pytest.approx(distances_by_hand(one_row, 4).mean(), abs=0.01)


def test_the_model_value_is_the_plain_mean_of_layers_and_its_spread_that_of_the_means():
    params = {
        "small": {"kernel": structured((4, 4))},
        "large": {"kernel": structured((3, 3, 8, 8), seed=1)},
    }
    one_by_one = [random_distance(params, key=KEY, num_permutations=num) for num in (1, 2, 3)]
    # Permutations are numbered: more of them add to the same first ones.
    totals = [num * measured.value for num, measured in zip((1, 2, 3), one_by_one, strict=True)]
    means = np.diff([0.0, *totals])
    last = one_by_one[-1]
    assert last.value == pytest.approx(np.mean(list(last.per_layer.values())))
    assert last.spread == pytest.approx(np.std(means, ddof=1), rel=1e-6)
    assert one_by_one[0].spread is None
    assert set(one_by_one[0].per_layer_spread.values()) == {None}


def test_a_layers_value_depends_on_its_path_and_the_key_and_on_no_other_layer():
    kernel = structured((3, 3, 4, 4))
    alone = random_distance({"b": {"kernel": kernel}}, key=KEY).per_layer["b/kernel"]
    among = random_distance({"a": {"kernel": kernel}, "b": {"kernel": kernel}, "n": 3}, key=KEY)
    assert among.per_layer["b/kernel"] == alone
    assert among.per_layer["a/kernel"] != alone
    old_style = random_distance({"b": {"kernel": kernel}}, key=jax.random.PRNGKey(0))
    assert old_style.value == alone
    assert random_distance({"b": {"kernel": kernel}}, key=jax.random.key(1)).value != alone


def test_the_scale_of_the_weights_does_not_matter_even_where_squares_overflow():
    kernel = structured((6, 8))
    values = [
        random_distance({"kernel": kernel * np.float32(2.0**power)}, key=KEY).value
        for power in (0, -90, 90)
    ]
    assert values[0] == values[1] == values[2]


def test_pruned_slices_count_as_zeros_and_half_precision_as_what_it_holds():
    kernel = structured((3, 3, 6, 6))
    kernel[0] = 0.0
    kernel[:, :, 1:3] = 0.0
    measured = random_distance({"kernel": kernel}, key=KEY, num_permutations=100)
    theirs = distances_by_hand(kernel, 100)
    assert abs(measured.value - theirs.mean()) < 4 * theirs.std() * np.sqrt(2) / 10
    half = jnp.asarray(kernel, jnp.bfloat16)
    single = random_distance({"kernel": half.astype(jnp.float32)}, key=KEY).value
    assert random_distance({"kernel": half}, key=KEY).value == single


def test_both_readings_come_from_the_same_permutations():
    params = {"kernel": structured((3, 3, 4, 8))}
    one = {
        reading: random_distance(params, key=KEY, num_permutations=1, reading=reading).value
        for reading in ("sqrt", "plain")
    }
    assert one["plain"] == pytest.approx(one["sqrt"] ** 2)
    both = signal(num_permutations=3).measure(params, KEY)
    sqrt, plain = (
        random_distance(params, key=KEY, num_permutations=3, reading=r) for r in ("sqrt", "plain")
    )
    assert both == {
        "random_distance": sqrt.value,
        "random_distance_std": sqrt.spread,
        "random_distance_plain": plain.value,
    }
    assert tuple(both) == signal().columns


def test_skipped_leaves_are_named_with_the_reason():
    params = {
        "bias": {"kernel": jnp.ones(4)},
        "dead": {"kernel": jnp.zeros((3, 3))},
        "few": {"kernel": jnp.ones((2, 9))},
        "good": {"kernel": jnp.asarray(structured((9, 9)))},
    }
    measured = random_distance(params, key=KEY, layers="regex:kernel", min_eigenvalues=3)
    assert list(measured.per_layer) == ["good/kernel"]
    assert measured.skipped == {
        "bias/kernel": "has 1 axes, a matrix has 2",
        "dead/kernel": "is 0 throughout",
        "few/kernel": "has 2 eigenvalues, fewer than 3",
    }
    with pytest.raises(
        InvalidInput, match="to hold a matrix with a spectrum. dead/kernel is 0 throughout"
    ):
        random_distance({"dead": params["dead"]}, key=KEY)


def test_embeddings_count_as_matrices_if_asked_for():
    params = {"embed": {"embedding": structured((10, 4))}, "dense": {"kernel": structured((4, 4))}}
    assert list(random_distance(params, key=KEY).per_layer) == ["dense/kernel"]
    both = random_distance(params, key=KEY, layers="regex:(kernel|embedding)$")
    assert list(both.per_layer) == ["dense/kernel", "embed/embedding"]


def test_nnx_and_equinox_trees_and_a_bare_array_work():
    kernel = structured((8, 6))
    state = nnx.state(nnx.Linear(8, 6, rngs=nnx.Rngs(0)), nnx.Param)
    state["kernel"] = jax.tree.map(lambda _: jnp.asarray(kernel), state["kernel"])
    linen = random_distance({"kernel": kernel, "bias": jnp.zeros(6)}, key=KEY)
    assert random_distance(state, key=KEY).per_layer == linen.per_layer
    module = eqx.nn.MLP(4, 3, 5, 1, key=KEY)
    assert len(random_distance(module, key=KEY).per_layer) == 2
    assert random_distance(jnp.asarray(kernel), key=KEY, layers=lambda path, leaf: True).value > 0


def test_wrong_options_and_weights_that_are_not_finite_are_refused():
    with pytest.raises(InvalidInput) as error:
        random_distance(
            {"kernel": jnp.eye(2)}, key=KEY, num_permutations=0, reading="root", min_eigenvalues=-1
        )
    assert len(error.value.problems) == 3
    broken = {"a": {"kernel": jnp.eye(2)}, "b": {"kernel": jnp.array([[jnp.nan, 1.0]])}}
    with pytest.raises(InvalidInput, match="params at b/kernel='not finite'"):
        random_distance(broken, key=KEY)
    with pytest.raises(InvalidInput, match="key=3 to be one PRNG key"):
        random_distance({"kernel": jnp.eye(2)}, key=3)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="to select at least one parameter"):
        random_distance({"bias": jnp.ones(2)}, key=KEY)


@pytest.mark.slow
def test_resnet18_with_five_permutations_takes_under_20_seconds():
    model = models.build("resnet18", num_classes=10)
    variables = jax.jit(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False))(KEY)
    jax.block_until_ready(variables)
    # Of all threads together: on an idle machine not less than the wall clock's, on a busy one the
    # same.
    started = time.process_time()
    measured = random_distance(variables["params"], key=KEY)
    assert time.process_time() - started < 20
    assert len(measured.per_layer) == 21
