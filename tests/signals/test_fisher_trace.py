"""The Fisher trace against closed forms, explicit sums, Jacobians and one another."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from earlyprune_jax import models, pruning
from earlyprune_jax.pruning.trees import path_name
from earlyprune_jax.signals.fisher import fisher_trace

KEY = jax.random.key(3)
NUM_EXAMPLES, NUM_CLASSES = 7, 3
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((NUM_EXAMPLES, 8, 8, 1)).astype(np.float32)
LABELS = np.arange(NUM_EXAMPLES) % NUM_CLASSES
ROWS = RNG.standard_normal((NUM_EXAMPLES, 4)).astype(np.float32)
LINEAR = {
    "kernel": RNG.standard_normal((4, NUM_CLASSES)).astype(np.float32),
    "bias": RNG.standard_normal(NUM_CLASSES).astype(np.float32),
}


class Small(nn.Module):
    """Two convolutions with norms, and a classifier."""

    @nn.compact
    def __call__(self, x, *, train):
        for name, stride in (("1", 1), ("2", 2)):
            x = nn.Conv(4, (3, 3), strides=stride, use_bias=False, name=f"conv{name}")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, name=f"norm{name}")(x))
        return nn.Dense(NUM_CLASSES, name="classifier")(x.mean((1, 2)))


def like_trained(module):
    """(module, variables whose scales and statistics are like those of training)."""
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), IMAGES[:1])
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        values = rng.standard_normal(leaf.shape) / np.sqrt(max(1, np.prod(leaf.shape[:-1])))
        return (np.abs(values) + 0.5 if path[-1].key in ("var", "scale") else values).astype(
            np.float32
        )

    return module, jax.tree.map_with_path(draw, shapes)


def jacobians_of(module, variables):
    """(p [N, C], d log p(c|x_n) / d leaf for every leaf: path -> [N, C, size]), by dense
    Jacobians."""

    def log_probs(params):
        return jax.nn.log_softmax(
            module.apply({**variables, "params": params}, IMAGES, train=False)
        )

    rows = jax.jit(jax.jacrev(log_probs))(variables["params"])
    shape = (NUM_EXAMPLES, NUM_CLASSES, -1)
    named = {
        "/".join(key.key for key in path): np.asarray(leaf, np.float64).reshape(shape)
        for path, leaf in jax.tree.leaves_with_path(rows)
    }
    return np.exp(np.asarray(log_probs(variables["params"]), np.float64)), named


@pytest.fixture(scope="module")
def small():
    return like_trained(Small())


@pytest.fixture(scope="module")
def jacobians(small):
    module, variables = small
    return jacobians_of(module, variables)


def linear(params, x):
    return x @ params["kernel"] + params["bias"][None]


def trace(network, **options):
    module, variables = network
    return fisher_trace(module, variables, IMAGES, key=KEY, **options)


def close(found, wanted, rtol=1e-5):
    assert found.keys() == wanted.keys()
    scale = max(abs(value) for value in wanted.values())
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=rtol, abs=1e-6 * scale), name


@pytest.mark.parametrize("method", ["layerwise", "vmap"])
@pytest.mark.parametrize("model", [nn.Dense(NUM_CLASSES), linear])
def test_softmax_regression_has_the_closed_form(model, method):
    variables = {"params": LINEAR} if isinstance(model, nn.Module) else LINEAR
    found = fisher_trace(model, variables, ROWS, key=KEY, estimator="exact", method=method)
    logits = ROWS.astype(np.float64) @ LINEAR["kernel"] + LINEAR["bias"]
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    variance = (probs * (1 - probs)).sum(1)
    of_kernel, of_bias = (ROWS**2).sum(1) * variance, variance
    close(found.per_parameter, {"bias": of_bias.mean(), "kernel": of_kernel.mean()})
    assert found.total == pytest.approx((of_kernel + of_bias).mean(), rel=1e-5)
    wanted = (of_kernel + of_bias).std(ddof=1) / np.sqrt(NUM_EXAMPLES)
    assert found.standard_error == pytest.approx(wanted, rel=1e-5)
    assert found.per_layer == {"": pytest.approx(found.total)}
    assert found.num_examples == NUM_EXAMPLES


def test_the_exact_trace_of_a_resnet_is_the_explicit_sum_over_classes_leaf_by_leaf():
    module, variables = like_trained(
        models.build("resnet8", num_classes=NUM_CLASSES, width_multiplier=0.25)
    )
    probs, rows = jacobians_of(module, variables)
    wanted = {name: (probs * (leaf**2).sum(2)).sum(1).mean() for name, leaf in rows.items()}
    own = (probs * sum((leaf**2).sum(2) for leaf in rows.values())).sum(1)
    for method in ("layerwise", "vmap"):
        found = fisher_trace(module, variables, IMAGES, key=KEY, estimator="exact", method=method)
        close(found.per_parameter, wanted, rtol=1e-4)
        assert found.notes == ()
        norm = wanted["stage1_block0/norm1/scale"] + wanted["stage1_block0/norm1/bias"]
        assert found.per_layer["stage1_block0/norm1"] == pytest.approx(norm, rel=1e-4)
        assert found.standard_error == pytest.approx(
            own.std(ddof=1) / np.sqrt(NUM_EXAMPLES), rel=1e-4
        )


@pytest.mark.parametrize("method", ["layerwise", "vmap"])
@pytest.mark.parametrize("estimator", ["argmax", "empirical"])
def test_argmax_and_empirical_take_those_labels_gradients(small, jacobians, estimator, method):
    probs, rows = jacobians
    labels = probs.argmax(1) if estimator == "argmax" else LABELS
    found = trace(small, estimator=estimator, method=method, labels=LABELS)
    wanted = {
        name: (leaf[np.arange(NUM_EXAMPLES), labels] ** 2).sum(1).mean()
        for name, leaf in rows.items()
    }
    close(found.per_parameter, wanted, rtol=1e-4)


@pytest.mark.parametrize("estimator", ["sampled", "exact"])
def test_neither_method_nor_microbatch_size_changes_the_result(small, estimator):
    reference = trace(small, estimator=estimator, method="vmap")
    runs = [("layerwise", 3), ("layerwise", 100), ("layerwise", 1), ("vmap", 3)]
    for method, size in runs if estimator == "sampled" else runs[:2]:
        found = trace(small, estimator=estimator, method=method, microbatch_size=size)
        close(found.per_parameter, reference.per_parameter)
        assert found.standard_error == pytest.approx(reference.standard_error, rel=1e-5)


def test_a_sampled_label_depends_on_the_key_and_the_images_place_alone():
    module, variables = nn.Dense(NUM_CLASSES), {"params": LINEAR}

    def total(rows, key=KEY):
        return len(rows) * fisher_trace(module, variables, rows, key=key).total

    def share_of_image_3(before):
        return total(np.concatenate([before, ROWS[6:]])) - total(before)

    assert share_of_image_3(ROWS[:3]) == pytest.approx(share_of_image_3(ROWS[3:6]), rel=1e-4)
    assert len({total(ROWS, jax.random.key(seed)) for seed in range(4)}) > 1


@pytest.mark.parametrize(("method", "size"), [("layerwise", 7), ("batch", 4)])
def test_sampled_labels_estimate_the_exact_trace_without_bias(method, size):
    exact = fisher_trace(linear, LINEAR, ROWS, key=KEY, estimator="exact").total
    keys = jax.random.split(jax.random.key(7), 200)
    module, variables = nn.Dense(NUM_CLASSES), {"params": LINEAR}
    totals = np.array(
        [
            fisher_trace(
                module, variables, ROWS, key=key, method=method, microbatch_size=size
            ).total
            for key in keys
        ]
    )
    error = totals.std(ddof=1) / np.sqrt(len(totals))
    assert abs(totals.mean() - exact) < 4 * error
    assert error < 0.1 * exact


def test_batch_is_b_times_the_squared_norm_of_the_mean_gradient_of_every_microbatch(
    small, jacobians
):
    _, rows = jacobians
    found = trace(small, method="batch", microbatch_size=3)
    logits = small[0].apply(small[1], IMAGES, train=False)
    drawn = [
        int(jax.random.categorical(jax.random.fold_in(KEY, n), row[None])[0])
        for n, row in enumerate(jax.nn.log_softmax(logits))
    ]
    own = {name: leaf[np.arange(NUM_EXAMPLES), drawn] for name, leaf in rows.items()}
    parts = [slice(0, 3), slice(3, 6), slice(6, 7)]
    wanted = {
        name: sum(
            (leaf[part].sum(0) ** 2).sum() / len(leaf[part]) * len(leaf[part]) for part in parts
        )
        / 7
        for name, leaf in own.items()
    }
    close(found.per_parameter, wanted, rtol=1e-4)
    units = np.array(
        [sum((leaf[part].sum(0) ** 2).sum() for leaf in own.values()) for part in parts]
    )
    shares, means = np.array([3, 3, 1]) / 7, units / [3, 3, 1]
    spread = (shares**2 * (means - (shares * means).sum()) ** 2).sum()
    assert found.standard_error == pytest.approx(np.sqrt(1.5 * spread), rel=1e-4)


@pytest.mark.parametrize("method", ["vmap", "batch"])
def test_the_score_of_the_diagonal_sums_to_the_trace(small, method):
    module, variables = small

    def logits(params, batch):
        return module.apply({**variables, "params": params}, batch, train=False)

    batches = [IMAGES[:4], IMAGES[4:]] if method == "batch" else [IMAGES]
    diagonal: Any = pruning.scores.fisher_diagonal(
        logits, variables["params"], batches, key=KEY, method=method
    )
    sums = {
        path_name(path): float(leaf.sum()) for path, leaf in jax.tree.leaves_with_path(diagonal)
    }
    close(trace(small, method=method, microbatch_size=4).per_parameter, sums)


def test_layers_choose_what_total_sums(small):
    whole = trace(small)
    found = trace(small, layers="conv_kernels")
    assert found.per_parameter == whole.per_parameter
    kernels = {name: value for name, value in whole.per_parameter.items() if "conv" in name}
    assert found.total == pytest.approx(sum(kernels.values()))
    assert found.standard_error != whole.standard_error
    one = trace(small, layers=lambda path, _: path == "classifier/bias")
    assert one.total == whole.per_parameter["classifier/bias"]


class Odd(nn.Module):
    """Tied weights, an own parameter, dropout that evaluation turns off."""

    dropout: float = 0.5

    @nn.compact
    def __call__(self, x, deterministic=False):
        dense = nn.Dense(6, name="dense")
        x = jnp.tanh(dense(x)) @ dense.variables["params"]["kernel"].T
        x = nn.Dropout(self.dropout, deterministic=deterministic)(x)
        gain = self.param("gain", nn.initializers.normal(), (4,))
        return nn.Dense(NUM_CLASSES, name="head")(x * gain[None])


def test_what_cannot_be_hooked_is_measured_by_vmap_and_noted():
    module = Odd()
    variables: Any = module.init(jax.random.key(0), ROWS, deterministic=True)
    found = fisher_trace(module, variables, ROWS, key=KEY)
    assert len(found.notes) == 2
    assert "the root (gain) by vmap" in " ".join(found.notes)
    assert "dense (bias, kernel) by vmap: its parameters are also used outside it" in found.notes
    reference = fisher_trace(module, variables, ROWS, key=KEY, method="vmap")
    close(found.per_parameter, reference.per_parameter)
    assert reference.notes == ()


class Perceptron(eqx.Module):
    first: Any
    activation: Any
    second: Any
    steps: int

    def __call__(self, x):
        return jax.vmap(self.second)(self.activation(jax.vmap(self.first)(x)))


class Rectified(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, NUM_CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


def test_functions_of_any_tree_are_measured_by_vmap():
    network = Perceptron(
        eqx.nn.Linear(4, 5, key=KEY),
        jnp.tanh,
        eqx.nn.Linear(5, NUM_CLASSES, key=jax.random.key(1)),
        7,
    )
    arrays = [
        np.asarray(a)
        for layer in (network.first, network.second)
        for a in (layer.weight.T, layer.bias)
    ]

    def listed(params, x):
        return jnp.tanh(x @ params[0] + params[1][None]) @ params[2] + params[3][None]

    wanted = fisher_trace(listed, arrays, ROWS, key=KEY)
    assert list(wanted.per_parameter) == ["0", "1", "2", "3"]
    assert wanted.method == "vmap"
    assert "only Linen modules have layers to hook" in wanted.notes[0]
    of_equinox = fisher_trace(lambda model, x: model(x), network, ROWS, key=KEY)
    assert of_equinox.total == pytest.approx(wanted.total, rel=1e-5)
    assert of_equinox.per_layer.keys() == {"first", "second"}

    graph, state = nnx.split(Rectified(nnx.Rngs(0)), nnx.Param)
    named: dict[str, Any] = dict(
        zip(("first/kernel", "first/bias", "second/kernel", "second/bias"), arrays, strict=True)
    )
    state = jax.tree.map_with_path(lambda path, _: named[path_name(path)], state)
    of_nnx = fisher_trace(lambda state, x: nnx.merge(graph, state)(x), state, ROWS, key=KEY)
    assert of_nnx.total == pytest.approx(wanted.total, rel=1e-5)
    assert of_nnx.per_parameter.keys() == named.keys()


def test_a_bare_array_has_the_root_as_its_layer():
    found = fisher_trace(lambda w, x: x @ w, LINEAR["kernel"], ROWS, key=KEY, estimator="exact")
    assert found.per_parameter == {"": pytest.approx(found.total)}


def test_inputs_may_be_a_tree_and_options_reach_the_model():
    def scaled(params, inputs, *, factor):
        return linear(params, factor * (inputs["a"] + inputs["b"]))

    found = fisher_trace(scaled, LINEAR, {"a": ROWS, "b": ROWS}, key=KEY, factor=0.5)
    assert found.total == pytest.approx(fisher_trace(linear, LINEAR, ROWS, key=KEY).total, rel=1e-6)


def test_one_image_has_no_standard_error():
    found = fisher_trace(nn.Dense(NUM_CLASSES), {"params": LINEAR}, ROWS[:1], key=KEY)
    assert found.standard_error is None
    assert found.num_examples == 1


TRACES = []


class Counted(nn.Module):
    """Notes every time it is traced."""

    @nn.compact
    def __call__(self, x):
        TRACES.append(x.shape)
        return nn.Dense(NUM_CLASSES)(x)


def test_a_second_measurement_compiles_nothing():
    variables = {"params": {"Dense_0": LINEAR}}
    fisher_trace(Counted(), variables, ROWS, key=KEY)
    first = list(TRACES)
    fisher_trace(Counted(), variables, ROWS + 1, key=jax.random.key(9))
    assert TRACES == first != []


class Standardised:
    """A bound method is equal to itself whatever its object has become."""

    def __init__(self):
        self.scale = 1.0

    def logits(self, params, x):
        return self.scale * linear(params, x)


def test_a_function_is_not_remembered_with_what_it_closed_over():
    model = Standardised()
    before = fisher_trace(model.logits, LINEAR, ROWS, key=KEY, estimator="exact").total
    model.scale = 0.0
    after = fisher_trace(model.logits, LINEAR, ROWS, key=KEY, estimator="exact").total
    assert before > 0
    assert after == 0


def test_leaves_that_are_no_weights_are_used_as_they_are():
    params = {
        "w": LINEAR["kernel"],
        "scale": jnp.int32(3),
        "kept": jnp.ones(LINEAR["kernel"].shape[0], bool),
    }

    def scaled(params, x):
        return (params["scale"] * jnp.where(params["kept"][None], x, 0)) @ params["w"]

    found = fisher_trace(scaled, params, ROWS, key=KEY, estimator="exact")
    wanted = fisher_trace(
        lambda w, x: (3 * x) @ w, LINEAR["kernel"], ROWS, key=KEY, estimator="exact"
    )
    assert found.total == pytest.approx(wanted.total, rel=1e-6)
    assert found.per_parameter.keys() == {"w"}
