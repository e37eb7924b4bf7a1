"""Modules of NNX and Equinox, where functions are wanted: a sentence that says what to give."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from earlyprune_jax import layer_hooks, pruning, signals
from earlyprune_jax.pruning import scores
from earlyprune_jax.validate import InvalidInput

KEY = jax.random.key(0)
ROWS = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0])


class Normed(nnx.Module):
    def __init__(self, rngs):
        self.first, self.norm = nnx.Linear(6, 5, rngs=rngs), nnx.BatchNorm(5, rngs=rngs)
        self.dropout, self.last = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))


def nnx_model() -> tuple[Any, Any]:
    model = Normed(nnx.Rngs(0))
    return model, nnx.state(model, nnx.Param)


def equinox_model() -> tuple[Any, Any]:
    model = eqx.nn.MLP(6, 3, 5, 1, key=KEY)
    return model, model


MODELS = {
    "nnx": (nnx_model, "lambda state, x: nnx.merge(graph, state, rest)(x)"),
    "equinox": (equinox_model, "lambda module, x: jax.vmap(module)(x)"),
}

WITH_A_FUNCTION = {
    "fisher_trace": lambda model, v: signals.fisher_trace(model, v, ROWS, key=KEY),
    "linear_mode_connectivity": lambda model, v: signals.linear_mode_connectivity(
        model, v, v, ROWS, LABELS
    ),
    "reestimated_statistics": lambda model, v: signals.reestimated_statistics(model, v, ROWS),
    "channel_groups": lambda model, v: pruning.channel_groups(model, v, ROWS),
    "compact": lambda model, v: pruning.compact(model, v, ROWS, pruning.full(v)),
    "macs": lambda model, v: pruning.macs(model, v, ROWS),
    "snip": lambda model, v: scores.snip(model, v, [ROWS]),
    "grasp": lambda model, v: scores.grasp(model, v, [ROWS]),
    "fisher_diagonal": lambda model, v: scores.fisher_diagonal(model, v, [ROWS], key=KEY),
    "empirical_fisher": lambda model, v: scores.empirical_fisher_diagonal(model, v, [ROWS]),
    "synflow": lambda model, v: scores.synflow(model, v, ROWS),
}


@pytest.mark.parametrize("measure", WITH_A_FUNCTION.values(), ids=WITH_A_FUNCTION)
@pytest.mark.parametrize("library", MODELS)
def test_a_module_in_place_of_a_function_is_named_and_the_function_shown(measure, library):
    make, shown = MODELS[library]
    model, variables = make()
    with pytest.raises(InvalidInput) as caught:
        measure(model, variables)
    assert f"={type(model).__name__!r} to " in str(caught.value)
    assert shown in str(caught.value)


FUNCTIONS_ONLY = ["fisher_trace", "channel_groups", "compact", "macs", "snip", "grasp"]
FUNCTIONS_ONLY += ["fisher_diagonal", "empirical_fisher", "synflow"]


@pytest.mark.parametrize("name", FUNCTIONS_ONLY)
def test_a_name_a_class_or_nothing_is_no_function(name):
    for given in ("resnet8", nn.Dense, None):
        with pytest.raises(InvalidInput, match="to be a .*function"):
            WITH_A_FUNCTION[name](given, {"kernel": np.ones((6, 3), np.float32)})


OF_A_TREE = {
    "kl_uniform": signals.kl_uniform,
    "model_similarity": lambda given: signals.model_similarity(given, given),
    "linear_cka": lambda given: signals.linear_cka(given, given),
    "magnitude": scores.magnitude,
    "ledger": lambda given: pruning.ledger(given, pruning.full(given)),
    "save_sparse": lambda given: pruning.save_sparse("a", given, pruning.full(given)),
    "save_dense": lambda given: pruning.save_dense("a", given, pruning.full(given)),
    "layers": lambda given: pruning.select({"kernel": ROWS}, given),
    "criterion": lambda given: pruning.transform(optax.sgd(0.1), criterion=given),
}


@pytest.mark.parametrize("measure", OF_A_TREE.values(), ids=OF_A_TREE)
def test_a_module_without_weights_is_neither_arrays_nor_a_choice_of_them(
    measure, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for given in (nn.Dense(3), nn.Dense):
        with pytest.raises(InvalidInput):
            measure(given)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("library", MODELS)
def test_only_linen_modules_have_layers_whose_inputs_are_hooked(library):
    with pytest.raises(InvalidInput, match="to be a Linen module"):
        model, variables = MODELS[library][0]()
        layer_hooks.input_norms(model, variables, [ROWS])


def test_a_linen_module_in_place_of_apply_is_refused_too():
    module: Any = nn.Dense(3)
    with pytest.raises(InvalidInput, match=r"lambda variables, x: module\.apply\(variables, x"):
        pruning.channel_groups(module, module.init(KEY, ROWS), ROWS)


@pytest.mark.parametrize(
    "measure",
    [
        lambda apply, v: signals.fisher_trace(apply, v, ROWS, key=KEY),
        lambda apply, v: pruning.channel_groups(apply, v, ROWS),
        lambda apply, v: pruning.macs(apply, v, ROWS),
        lambda apply, v: scores.taylor(lambda v, x: jnp.mean(apply(v, x)), v, [ROWS]),
        lambda apply, v: scores.fisher_diagonal(apply, v, [ROWS], key=KEY, estimator="exact"),
    ],
    ids=["fisher_trace", "channel_groups", "macs", "taylor", "fisher_diagonal"],
)
def test_an_nnx_model_in_training_mode_is_asked_for_evaluation(measure):
    graph, state, rest = nnx.split(Normed(nnx.Rngs(0)), nnx.Param, ...)
    with pytest.raises(InvalidInput, match=r"evaluation mode.*Call model\.eval\(\), then"):
        measure(lambda state, x: nnx.merge(graph, state, rest)(x), state)


def call(model, x):
    return model(x)


@pytest.mark.parametrize(
    "measure",
    [
        lambda v: signals.fisher_trace(call, v, ROWS, key=KEY),
        lambda v: scores.taylor(lambda v, x: jnp.mean(call(v, x)), v, [ROWS]),
        lambda v: scores.synflow(call, v, ROWS),
    ],
    ids=["fisher_trace", "taylor", "synflow"],
)
def test_a_whole_nnx_model_is_no_set_of_parameters_in_training_or_with_statistics(measure):
    model = Normed(nnx.Rngs(0))
    with pytest.raises(InvalidInput, match=r"flax\.nnx with training mode.*nnx\.split"):
        measure(model)
    model.eval()
    with pytest.raises(InvalidInput, match=r"flax\.nnx with a BatchStat.*nnx\.split"):
        measure(model)
    assert signals.fisher_trace(call, nnx.Linear(6, 3, rngs=nnx.Rngs(0)), ROWS, key=KEY).total > 0


def test_equinox_dropout_in_training_is_asked_for_inference():
    layers = eqx.nn.Sequential([eqx.nn.Linear(6, 3, key=KEY), eqx.nn.Dropout(0.5)])

    def apply(module, x):
        return jax.vmap(module)(x)

    with pytest.raises(InvalidInput, match=r"evaluation mode.*Give equinox\.nn\.inference_mode"):
        signals.fisher_trace(apply, layers, ROWS, key=KEY)
    assert signals.fisher_trace(apply, eqx.nn.inference_mode(layers), ROWS, key=KEY).total > 0


def test_the_functions_that_messages_show_are_measured():
    model, _ = nnx_model()
    model.eval()
    graph, state, rest = nnx.split(model, nnx.Param, ...)
    of_nnx = signals.fisher_trace(
        lambda state, x: nnx.merge(graph, state, rest)(x), state, ROWS, key=KEY
    )
    assert of_nnx.total > 0
    module, _ = equinox_model()
    shown = signals.fisher_trace(lambda module, x: jax.vmap(module)(x), module, ROWS, key=KEY)
    # What Equinox wraps is a module too, but a function all the same.
    wrapped = eqx.filter_jit(lambda module, x: jax.vmap(module)(x))
    assert signals.fisher_trace(wrapped, module, ROWS, key=KEY).total == pytest.approx(shown.total)
