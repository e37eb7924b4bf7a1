"""What holds after every update, whatever the optimizer: removed weights and their moments are
0."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earlyprune_jax import pruning
from earlyprune_jax.pruning import get_mask, one_shot, polynomial, transform

INPUTS = jax.random.normal(jax.random.key(1), (24, 6))
TARGETS = jax.random.normal(jax.random.key(2), (24, 3))
NUM_WEIGHTS = 6 * 5 + 5 * 3
MOMENTS = (
    "trace",
    "mu",
    "nu",
    "ema",
    "acc_grads",
    "z",
    "v",
    "sum_of_squares",
    "diff_params_memory",
    "grad",
)


def network(dtype=jnp.float32) -> Any:
    first, second = jax.random.split(jax.random.key(0))
    return {
        "hidden": {"kernel": jax.random.normal(first, (6, 5), dtype), "bias": jnp.zeros(5, dtype)},
        "out": {"kernel": jax.random.normal(second, (5, 3), dtype)},
    }


def loss(params):
    hidden = jnp.tanh(INPUTS @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    return jnp.mean((hidden @ params["out"]["kernel"] - TARGETS) ** 2).astype(jnp.float32)


def compiled_step(optimizer) -> Any:
    # Compiling takes longer than running here.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(
            grads, state, params, value=value, grad=grads, value_fn=loss
        )
        return optax.apply_updates(params, updates), state

    return step


def removed_entries(mask, tree):
    """Every entry of a params-shaped tree that the mask removes, as one vector."""
    picked = []
    for keep, leaf in zip(jax.tree.leaves(mask), jax.tree.leaves(tree), strict=True):
        gone = (
            np.broadcast_to(~np.asarray(keep), np.shape(leaf))
            if np.ndim(leaf) >= np.ndim(keep)
            else []
        )
        picked.append(np.asarray(leaf, np.float32)[gone] if np.size(gone) else np.zeros(0))
    return np.concatenate(picked)


def moments_of(state):
    """Trees of moments, found by the names Optax gives them, not by their paths or shapes."""
    wanted = jax.tree.structure(network())
    found = [
        tree for name in MOMENTS for _, tree in optax.tree_utils.tree_get_all_with_path(state, name)
    ]
    return [tree for tree in found if jax.tree.structure(tree) == wanted]


def assert_invariants(params, state, num_removed):
    mask = get_mask(state)
    assert pruning.count_removed(mask) == num_removed
    weights = removed_entries(mask, params)
    assert weights.size == num_removed
    assert not weights.any() and not np.signbit(weights).any()
    for tree in moments_of(state):
        fits = jax.tree.map(
            lambda keep, leaf: keep.shape == leaf.shape[leaf.ndim - keep.ndim :], mask, tree
        )
        if all(jax.tree.leaves(fits)):
            assert not removed_entries(mask, tree).any()


OPTIMIZERS = {
    "momentum": (optax.sgd(0.1, momentum=0.9, nesterov=True), 1),
    "adamw": (optax.adamw(1e-2, weight_decay=0.1), 2),
    "decay of kernels only": (
        optax.adamw(1e-2, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)), 2
    ),
    "lion": (optax.lion(1e-2), 1),
    "adafactor": (optax.adafactor(1e-2, momentum=0.9), 1),
    "factored adafactor": (optax.adafactor(1e-2, min_dim_size_to_factor=2), 0),
    "rmsprop": (optax.rmsprop(1e-2, momentum=0.9), 2),
    "adagrad": (optax.adagrad(1e-1), 1),
    "ema and clipping": (
        optax.chain(optax.clip_by_global_norm(1.0), optax.ema(0.9), optax.adam(1e-2)), 3),
    "injected hyperparameters": (optax.inject_hyperparams(optax.adam)(learning_rate=1e-2), 2),
    "plateau": (optax.chain(optax.adam(1e-2), optax.contrib.reduce_on_plateau(patience=1)), 2),
    "schedule-free": (optax.contrib.schedule_free_adamw(1e-2), 2),
    "l-bfgs": (optax.lbfgs(), 1),
}  # fmt: skip


HALF = ("momentum", "adamw", "lion", "schedule-free")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, jnp.float32) for name in OPTIMIZERS] + [(name, jnp.bfloat16) for name in HALF],
)
def test_removed_weights_and_moments_are_exactly_zero_after_every_update(name, dtype):
    inner, num_moments = OPTIMIZERS[name]
    optimizer = transform(inner, polynomial(0.7, begin=1, end=5, every=2), layers="all_kernels")
    step, params = compiled_step(optimizer), network(dtype)
    state: Any = optimizer.init(params)
    assert len(moments_of(state)) >= num_moments
    for update in range(1, 9):
        params, state = step(params, state)
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(params))
        wanted = {1: 0.0, 2: 0.0, 3: 0.7 * (1 - 0.5**3), 4: 0.7 * (1 - 0.5**3)}.get(update, 0.7)
        assert_invariants(params, state, round(wanted * NUM_WEIGHTS))
    assert np.isfinite(float(loss(params)))


def test_multi_steps_inside_prunes_by_its_own_count_of_updates():
    multi = optax.MultiSteps(optax.adam(1e-2), 3).gradient_transformation()
    optimizer = transform(multi, one_shot(0.6, at=2), layers="all_kernels", scope="local")
    step, params = compiled_step(optimizer), network()
    state: Any = optimizer.init(params)
    for update in range(1, 8):
        params, state = step(params, state)
        assert_invariants(params, state, 18 + 9 if update >= 2 else 0)


def test_multi_steps_outside_prunes_by_the_count_of_applied_updates():
    inner = transform(optax.adam(1e-2), one_shot(0.6, at=2), layers="all_kernels", scope="local")
    optimizer = optax.MultiSteps(inner, 3).gradient_transformation()
    step, params = compiled_step(optimizer), network()
    state: Any = optimizer.init(params)
    for update in range(1, 10):
        params, state = step(params, state)
        # What MultiSteps gathers outside are gradients, not moments: it is looked at inside only.
        assert_invariants(params, state.inner_opt_state, 18 + 9 if update >= 6 else 0)


def test_different_optimizers_for_different_leaves_keep_the_invariant():
    labels = {"hidden": {"kernel": "adam", "bias": "sgd"}, "out": {"kernel": "sgd"}}
    inner = optax.multi_transform(
        {"adam": optax.adam(1e-2), "sgd": optax.sgd(0.1, momentum=0.9)}, labels
    )
    optimizer = transform(inner, one_shot(0.5, at=1), layers="all_kernels", scope="uniform")
    step, params = compiled_step(optimizer), network()
    state: Any = optimizer.init(params)
    for _ in range(3):
        params, state = step(params, state)
    mask = get_mask(state)
    adam = state.inner_state.inner_states["adam"].inner_state[0]
    momentum = state.inner_state.inner_states["sgd"].inner_state[0].trace
    assert pruning.count_removed(mask) == round(0.5 * NUM_WEIGHTS)
    for moment in (adam.mu, adam.nu):
        assert np.asarray(moment["hidden"]["kernel"])[np.asarray(mask["hidden"]["kernel"])].all()
        assert not np.asarray(moment["hidden"]["kernel"])[
            ~np.asarray(mask["hidden"]["kernel"])
        ].any()
    assert not np.asarray(momentum["out"]["kernel"])[~np.asarray(mask["out"]["kernel"])].any()
    assert not removed_entries(mask, params).any()


def kernels_only(tree):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)


LINKS = {
    "clip": lambda: optax.clip_by_global_norm(0.5),
    "decay": lambda: optax.add_decayed_weights(0.1),
    "ema": lambda: optax.ema(0.9),
    "momentum": lambda: optax.trace(0.9, nesterov=True),
    "adam": lambda: optax.scale_by_adam(),
    "lion": lambda: optax.scale_by_lion(),
    "rms": lambda: optax.scale_by_rms(),
    "trust": lambda: optax.scale_by_trust_ratio(),
    "noise": lambda: optax.add_noise(0.1, 0.55, 0),
    "every": lambda: optax.apply_every(2),
    "injected": lambda: optax.inject_hyperparams(optax.scale)(step_size=0.5),
    "masked": lambda: optax.masked(
        optax.scale_by_adam(), lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)
    ),
    "factored": lambda: optax.scale_by_factored_rms(min_dim_size_to_factor=4),
    "nothing": optax.identity,
}


@settings(max_examples=6, deadline=None)
@given(
    links=st.lists(st.sampled_from(sorted(LINKS)), min_size=1, max_size=4),
    sparsity=st.floats(0, 0.9),
    at=st.integers(0, 3),
    scope=st.sampled_from(["global", "uniform", "erk", "lamp"]),
    criterion=st.sampled_from(["magnitude", "movement", "random", "taylor"]),
)
def test_random_chains_keep_the_invariants(links, sparsity, at, scope, criterion):
    scope = "global" if criterion == "movement" and scope == "lamp" else scope
    inner = optax.chain(*(LINKS[link]() for link in links), optax.scale(-0.05))
    schedule = one_shot(sparsity, at=at)
    optimizer = transform(inner, schedule, layers="all_kernels", scope=scope, criterion=criterion)
    step, params = compiled_step(optimizer), network()
    state: Any = optimizer.init(params)
    for update in range(1, 5):
        params, state = step(params, state)
        assert_invariants(params, state, round(sparsity * NUM_WEIGHTS) if update >= at else 0)


def test_updates_of_a_narrower_type_than_the_weights_still_zero_them():
    narrow = optax.stateless(
        lambda updates, params: jax.tree.map(lambda u: u.astype(jnp.bfloat16), updates)
    )
    optimizer = transform(
        optax.chain(optax.sgd(0.1), narrow), one_shot(0.5, at=1), layers="all_kernels"
    )
    params = network()
    state: Any = optimizer.init(params)
    params, state = compiled_step(optimizer)(params, state)
    assert_invariants(params, state, round(0.5 * NUM_WEIGHTS))
