"""SynFlow against the product formula, its conservation laws, and against layer collapse."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from earlyprune_jax import models
from earlyprune_jax.pruning.allocation.allocate import PruningWarning, allocate
from earlyprune_jax.pruning.scores.gradients import snip
from earlyprune_jax.pruning.scores.synaptic_flow import synflow, synflow_mask
from earlyprune_jax.pruning.scores.weights import magnitude
from earlyprune_jax.validate import InvalidInput


def mlp(widths, seed=0):
    """Matrices [in, out] with He's variance."""
    rng = np.random.default_rng(seed)
    return [
        (rng.standard_normal((m, n)) * np.sqrt(2 / m)).astype(np.float32)
        for m, n in zip(widths, widths[1:], strict=False)
    ]


def forward(matrices, x):
    for matrix in matrices[:-1]:
        x = jax.nn.relu(x @ matrix)
    return x @ matrices[-1]


def closed_form(matrices):
    """|W| times (paths into its row) times (paths out of its column), in NumPy float64."""
    magnitudes = [np.abs(np.asarray(matrix, np.float64)) for matrix in matrices]
    into = [np.ones(len(magnitudes[0]))]
    for matrix in magnitudes[:-1]:
        into.append(into[-1] @ matrix)
    out = [np.ones(magnitudes[-1].shape[1])]
    for matrix in magnitudes[:0:-1]:
        out.append(matrix @ out[-1])
    return [a[:, None] * m * b[None] for a, m, b in zip(into, magnitudes, out[::-1], strict=True)]


def test_scores_of_an_mlp_are_the_sums_over_paths_of_the_products_of_magnitudes():
    matrices = mlp([3, 5, 4, 2])
    for found, wanted in zip(
        synflow(forward, matrices, jnp.ones((1, 3))), closed_form(matrices), strict=True
    ):
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_every_layer_has_the_same_sum_and_every_unit_as_much_in_as_out():
    matrices = mlp([3, 50, 4, 20, 2])
    found = synflow(forward, matrices, jnp.ones((1, 3)))
    products = np.linalg.multi_dot(
        [
            np.ones((1, 3)),
            *np.abs(np.float64(matrices[0]))[None],
            *[np.abs(np.float64(matrix)) for matrix in matrices[1:]],
            np.ones((2, 1)),
        ]
    )
    for scores in found:
        assert scores.sum() == pytest.approx(products.item(), rel=1e-12)
    for before, after in zip(found, found[1:], strict=False):
        np.testing.assert_allclose(before.sum(axis=0), after.sum(axis=1), rtol=1e-12)


def test_what_leaves_float32_is_scored_in_float64():
    matrices = [1e4 * matrix for matrix in mlp([10] + [20] * 9 + [10])]
    wanted = closed_form(matrices)
    assert wanted[0].sum() > np.finfo(np.float32).max
    for found, exact in zip(synflow(forward, matrices, jnp.ones((1, 10))), wanted, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-9)


def test_the_session_keeps_its_32_bit_types():
    synflow(forward, mlp([2, 2]), jnp.ones((1, 2)))
    assert jnp.ones(1).dtype == jnp.float32
    assert not jax.config.read("jax_enable_x64")


def test_inputs_are_ones_whatever_they_hold():
    matrices = mlp([3, 4, 2])
    one, other = (
        synflow(forward, matrices, jnp.ones((2, 3))),
        synflow(forward, matrices, jnp.full((2, 3), -7.0)),
    )
    np.testing.assert_array_equal(one[0], other[0])


def test_bfloat16_weights_are_scored_from_their_exact_values():
    matrices = [jnp.asarray(matrix, jnp.bfloat16) for matrix in mlp([3, 4, 2])]
    wanted = closed_form([np.asarray(matrix, np.float64) for matrix in matrices])
    np.testing.assert_allclose(
        synflow(forward, matrices, jnp.ones((1, 3)))[0], wanted[0], rtol=1e-12
    )


def test_a_linen_conv_net_conserves_flow_through_batch_norm():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            for features in (4, 3):
                x = nn.Conv(features, (3, 3), use_bias=False)(x)
                x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
            return nn.Dense(2, use_bias=False)(x.mean(axis=(1, 2)))

    module, images = Network(), jnp.ones((1, 6, 6, 2))
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    rng = np.random.default_rng(0)
    params = jax.tree.map_with_path(
        lambda path, leaf: rng.standard_normal(leaf.shape) * (path[-1].key != "bias"),
        shapes["params"],
    )
    stats = jax.tree.map_with_path(
        lambda path, leaf: np.full(leaf.shape, float(path[-1].key == "var")), shapes["batch_stats"]
    )
    apply: Any = module.apply
    run = lambda params, x: apply({"params": params, "batch_stats": stats}, x, train=False)  # noqa: E731
    found = synflow(run, params, images)
    sums = [leaf.sum() for leaf in jax.tree.leaves(found) if leaf.ndim > 1]
    assert len(sums) == 3
    np.testing.assert_allclose(sums, sums[0], rtol=1e-6)


def test_functions_and_integers_among_the_leaves_score_zero():
    model = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0), use_bias=False)
    run = lambda model, x: jax.vmap(model)(x)  # noqa: E731
    found = synflow(run, model, jnp.ones((1, 3)))
    assert jax.tree.structure(found) == jax.tree.structure(model)
    assert found.activation == 0
    wanted = closed_form([model.layers[0].weight.T, model.layers[1].weight.T])
    np.testing.assert_allclose(found.layers[0].weight, wanted[0].T, rtol=1e-12)
    prunable = jax.tree.map(eqx.is_inexact_array, model)
    mask = synflow_mask(run, model, prunable, jnp.ones((1, 3)), sparsity=0.5, rounds=5)
    assert jax.tree.structure(mask) == jax.tree.structure(model)
    assert bool(mask.activation)


def by_brute_force(matrices, sparsity, rounds):
    """The iteration in NumPy: what is removed is taken out of the ranking for good."""
    sizes = [matrix.size for matrix in matrices]
    alive = np.ones(sum(sizes), bool)
    for index in range(1, rounds + 1):
        split = np.split(alive, np.cumsum(sizes)[:-1])
        masked = [
            np.where(keep.reshape(m.shape), m, 0) for keep, m in zip(split, matrices, strict=True)
        ]
        scores = np.concatenate([leaf.ravel() for leaf in closed_form(masked)])
        removed = round((1 - (1 - sparsity) ** (index / rounds)) * sum(sizes))
        order = [place for place in np.argsort(scores, kind="stable") if alive[place]]
        alive[order[: removed - np.count_nonzero(~alive)]] = False
    return np.split(alive, np.cumsum(sizes)[:-1])


@pytest.mark.parametrize(("rounds", "sparsity"), [(1, 0.8), (2, 0.8), (7, 0.8), (40, 0.9)])
def test_the_mask_is_that_of_the_iteration_written_out(rounds, sparsity):
    matrices = mlp([4, 9, 6, 3])
    mask = synflow_mask(
        forward, matrices, [True] * 3, jnp.ones((1, 4)), sparsity=sparsity, rounds=rounds
    )
    for keep, wanted in zip(mask, by_brute_force(matrices, sparsity, rounds), strict=True):
        np.testing.assert_array_equal(np.ravel(keep), wanted)


def num_kept(mask):
    return [int(np.count_nonzero(leaf)) for leaf in mask]


def test_no_layer_of_a_deep_mlp_collapses_where_magnitude_snip_and_one_shot_synflow_collapse():
    widths = [8, 16, 200, 200, 16, 16, 200, 200, 16, 4]
    matrices, ones = mlp(widths), jnp.ones((1, 8))
    prunable, total = [True] * len(matrices), sum(matrix.size for matrix in matrices)
    kept = 60
    sparsity = 1 - kept / total
    batch = {"x": jax.random.normal(jax.random.key(0), (32, 8)), "y": jnp.arange(32) % 4}

    def loss(matrices, batch):
        log_probs = jax.nn.log_softmax(forward(matrices, batch["x"]))
        return -jnp.mean(jnp.take_along_axis(log_probs, batch["y"][:, None], axis=1))

    for scores in (
        magnitude(matrices),
        snip(loss, matrices, [batch]),
        synflow(forward, matrices, ones),
    ):
        collapsed = allocate_without_checks(scores, kept)
        assert min(collapsed) == 0
    mask = synflow_mask(forward, matrices, prunable, ones, sparsity=sparsity)
    assert sum(num_kept(mask)) == kept
    assert min(num_kept(mask)) > 0
    left = [np.where(keep, matrix, 0) for keep, matrix in zip(mask, matrices, strict=True)]
    assert closed_form(left)[0].sum() > 0, "a path from input to output is left"


def allocate_without_checks(scores, kept):
    """Weights each layer keeps of the `kept` highest of all."""
    flat = np.concatenate([np.ravel(leaf) for leaf in scores])
    threshold = np.sort(flat)[-kept]
    return [int(np.count_nonzero(np.asarray(leaf) >= threshold)) for leaf in scores]


def test_compression_reaches_one_path_which_is_the_critical_one():
    matrices = mlp([4, 30, 30, 30, 3])
    total = sum(matrix.size for matrix in matrices)
    mask = synflow_mask(
        forward, matrices, [True] * 4, jnp.ones((1, 4)), sparsity=1 - 4 / total, rounds=300
    )
    assert num_kept(mask) == [1, 1, 1, 1]


def test_leaves_that_are_not_prunable_are_kept_and_the_count_is_exact():
    matrices = mlp([4, 30, 20, 3])
    mask = synflow_mask(forward, matrices, [True, True, False], jnp.ones((1, 4)), sparsity=0.9)
    assert np.all(mask[2])
    assert sum(num_kept(mask[:2])) == 720 - round(0.9 * 720)
    wanted = allocate(list(magnitude(matrices)), [True, True, False], sparsity=0.0, scope="global")
    unpruned = synflow_mask(
        forward, matrices, [True, True, False], jnp.ones((1, 4)), sparsity=0.0, rounds=2
    )
    assert num_kept(unpruned) == num_kept(wanted) == [120, 600, 60]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": 1.0}, "sparsity=1.0 in [0, 1)"),
        ({"sparsity": 1.2}, "sparsity=1.2 in [0, 1)"),
        ({"sparsity": 0.5, "rounds": 0}, "rounds=0 to be an integer of at least 1"),
        ({"sparsity": 0.5, "rounds": 2.5}, "rounds=2.5"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(InvalidInput) as caught:
        synflow_mask(forward, mlp([3, 4, 2]), [True] * 2, jnp.ones((1, 3)), **options)
    assert words in str(caught.value)


def test_weights_that_are_not_finite_are_named():
    matrices = mlp([3, 4, 2])
    matrices[1][0, 0] = np.nan
    with pytest.raises(InvalidInput, match="synaptic flow at 0='not finite'"):
        synflow(forward, matrices, jnp.ones((1, 3)))


def test_a_network_that_insists_on_float32_and_overflows_is_refused():
    matrices = [1e4 * matrix for matrix in mlp([10] + [20] * 9 + [10])]

    def narrow(matrices, x):
        return forward([m.astype(jnp.float32) for m in matrices], x.astype(jnp.float32))

    with pytest.raises(InvalidInput, match="no fixed dtype: float32 ends"):
        synflow(narrow, matrices, jnp.ones((1, 10)))


def test_a_sparsity_that_cuts_every_path_is_refused():
    matrices = mlp([4, 30, 30, 30, 3])
    total = sum(matrix.size for matrix in matrices)
    with pytest.warns(PruningWarning), pytest.raises(InvalidInput, match="Lower the sparsity"):
        synflow_mask(
            forward, matrices, [True] * 4, jnp.ones((1, 4)), sparsity=1 - 3 / total, rounds=300
        )


@pytest.mark.slow
def test_a_deep_residual_network_is_scored_where_float32_would_overflow():
    images = jnp.zeros((1, 8, 8, 3))
    initial = models.build("resnet44", num_classes=10)
    variables = jax.jit(lambda key: initial.init(key, images, train=False))(jax.random.key(0))
    wide: Any = models.build("resnet44", num_classes=10, dtype="float64")

    def forward(params, inputs):
        return wide.apply({**variables, "params": params}, inputs, train=False)

    found = synflow(forward, variables["params"], jnp.ones((1, 8, 8, 3)))
    highest = max(leaf.max() for leaf in jax.tree.leaves(found))
    assert np.finfo(np.float32).max < highest < np.inf
