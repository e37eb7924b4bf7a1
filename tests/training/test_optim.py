"""Optimizers by name and by import path against Optax's own, with learning rates that change every
step."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from earlyprune_jax.spec_sections import OptimSpec
from earlyprune_jax.training import optim
from earlyprune_jax.validate import InvalidInput

RATES = np.array([0.1, 0.02, 0.3, 0.05, 0.2], np.float32)
RNG = np.random.default_rng(0)
PARAMS = {
    "dense": {"kernel": jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32), "bias": jnp.ones(2)},
    "norm": {"scale": jnp.full(2, 0.5)},
}
GRADIENTS = [
    jax.tree.map(lambda leaf: jnp.asarray(RNG.normal(size=leaf.shape), jnp.float32), PARAMS)
    for _ in RATES
]
KERNELS = {"dense": {"kernel": True, "bias": False}, "norm": {"scale": False}}


def spec(name: str, decay: float = 0.0, decay_on: str = "all", **momentum) -> OptimSpec:
    return OptimSpec(
        name, 0.1, momentum.get("momentum", 0.0), momentum.get("nesterov", False), decay, decay_on
    )


def schedule(step):
    return jnp.asarray(RATES)[step]


def trained(chosen: OptimSpec) -> Any:
    """The params after five steps by `optim.make`, each given its rate."""
    optimizer = optim.make(chosen)
    update, state, params = jax.jit(optimizer.update), optimizer.init(PARAMS), PARAMS
    for gradient, rate in zip(GRADIENTS, RATES, strict=True):
        updates, state = update(gradient, state, params, jnp.float32(rate))
        params = optax.apply_updates(params, updates)
    return params


def trained_by_optax(chain: optax.GradientTransformation) -> Any:
    """Likewise by Optax, whose schedule gives the rates."""
    update, state, params = jax.jit(chain.update), chain.init(PARAMS), PARAMS
    for gradient in GRADIENTS:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize(
    ("chosen", "chain"),
    [
        (spec("adam"), optax.adam(schedule)),
        (spec("adam(b1=0.8, eps=1e-4)"), optax.adam(schedule, b1=0.8, eps=1e-4)),
        (spec("adam", 0.1), optax.chain(optax.add_decayed_weights(0.1), optax.adam(schedule))),
        (spec("adamw", 0.1), optax.adamw(schedule, weight_decay=0.1)),
        (
            spec("adamw(b2=0.9)", 0.2, "kernels"),
            optax.adamw(schedule, b2=0.9, weight_decay=0.2, mask=KERNELS),
        ),
        (
            spec("sgd", 0.1, "kernels", momentum=0.9, nesterov=True),
            optax.chain(
                optax.add_decayed_weights(0.1, KERNELS), optax.sgd(schedule, 0.9, nesterov=True)
            ),
        ),
        (spec("optax:lion"), optax.lion(schedule, weight_decay=0.0)),
        (
            spec("optax:lion(b1=0.5)", 0.1, "kernels"),
            optax.lion(schedule, b1=0.5, weight_decay=0.1, mask=KERNELS),
        ),
        (spec("optax:rmsprop(momentum=0.9)"), optax.rmsprop(schedule, momentum=0.9)),
        (
            spec("optax:scale_by_adam(b1=0.7)"),
            optax.chain(optax.scale_by_adam(b1=0.7), optax.scale_by_learning_rate(schedule)),
        ),
    ],
    ids=lambda value: f"{value.name} {value.weight_decay}" if isinstance(value, OptimSpec) else "",
)
def test_five_steps_at_rates_that_change_are_those_of_optax(chosen, chain):
    found = trained(chosen)
    chex.assert_trees_all_close(found, trained_by_optax(chain), rtol=1e-6, atol=1e-6)
    # At one rate throughout they would not be.
    at_one_rate = optax.chain(chain, optax.scale(1.5))
    assert not np.allclose(
        found["dense"]["kernel"], trained_by_optax(at_one_rate)["dense"]["kernel"], atol=1e-3
    )


def test_an_empty_name_is_the_tasks_optimizer():
    optimizer = optim.make(spec("", momentum=0.9), default="sgd")
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    chex.assert_trees_all_equal(optimizer.init(PARAMS)[0].trace, zeros)
    (state,) = (
        part for part in optim.make(spec(""), default="adam").init(PARAMS) if hasattr(part, "mu")
    )
    assert state.nu.keys() == PARAMS.keys()


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (spec("adam", momentum=0.9), "optim.momentum=0.9 to be 0.0 with optim.name=adam"),
        (spec("adamw", nesterov=True), "optim.nesterov=True to be False with optim.name=adamw"),
        (
            spec("optax:lion", momentum=0.9),
            "optim.momentum=0.9 to be 0.0 with optim.name=optax:lion",
        ),
        (
            spec("optax:rmsprop", 0.1),
            "optim.weight_decay=0.1 to be 0 with optim.name=optax:rmsprop",
        ),
        (spec("adm"), "Did you mean 'adam'?"),
        (spec("optax:lio"), "Did you mean 'lion'?"),
        (spec("adam(beta=0.9)"), "beta"),
        (spec("optax:apply_updates"), "optim.name='optax:apply_updates'"),
        (spec("optax:cosine_decay_schedule(1.0, 5)"), "to make an Optax transformation"),
    ],
    ids=lambda value: value.name if isinstance(value, OptimSpec) else "",
)
def test_what_an_optimizer_does_not_take_is_refused_by_its_key(chosen, words):
    with pytest.raises(InvalidInput) as caught:
        optim.make(chosen)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "name", ["optax:sgd(learning_rate=0.1)", "optax:sgd(0.1)", "optax:adamw(1e-3)"]
)
def test_a_learning_rate_of_its_own_is_refused_for_the_schedule_gives_it(name):
    with pytest.raises(InvalidInput, match="optim.learning_rate"):
        optim.make(spec(name, momentum=0.0))


def test_a_state_that_cannot_be_saved_is_refused():
    shapes = {"w": jax.ShapeDtypeStruct((2,), jnp.float32)}
    (problem,) = optim.check(spec("optax:noisy_sgd(key=0)", momentum=0.0), "sgd", shapes)
    assert "random key" in problem


def test_arguments_of_a_built_in_are_tried():
    with pytest.raises(InvalidInput, match="to make updates"):
        optim.check(
            spec("adam(b1='0.9')", momentum=0.0),
            "sgd",
            {"w": jax.ShapeDtypeStruct((2,), jnp.float32)},
        )


def test_weight_decay_on_kernels_asks_the_layouts_of_the_task():
    chosen = spec("sgd", 0.1, "kernels")
    no_gradient, rate = jax.tree.map(jnp.zeros_like, PARAMS), jnp.float32(1)
    for said, decayed in ((None, 0.1), ({"dense/kernel": "norm"}, 0)):
        optimizer = optim.make(chosen, layouts=said)
        updates, _ = optimizer.update(no_gradient, optimizer.init(PARAMS), PARAMS, rate)
        wanted = -decayed * PARAMS["dense"]["kernel"]
        np.testing.assert_allclose(updates["dense"]["kernel"], wanted, rtol=1e-6)
        assert not updates["norm"]["scale"].any()
