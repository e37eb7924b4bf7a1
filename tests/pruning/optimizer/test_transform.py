"""The pruning optimizer against hand-written loops, and everything that can be done with its
state."""

import os
import pickle
import subprocess
import sys
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, serialization

from earlyprune_jax import pruning
from earlyprune_jax.pruning import (
    NM,
    Blocks,
    Schedule,
    get_mask,
    iterative,
    one_shot,
    polynomial,
    replace_mask,
    transform,
    trigger,
)
from earlyprune_jax.validate import InvalidInput

INPUTS = jax.random.normal(jax.random.key(1), (32, 8))
TARGETS = INPUTS @ jax.random.normal(jax.random.key(2), (8, 4)) + 0.1


def network() -> Any:
    return {"kernel": jax.random.normal(jax.random.key(0), (8, 4)), "bias": jnp.zeros(4)}


def loss(params):
    return jnp.mean((INPUTS @ params["kernel"] + params["bias"][None] - TARGETS) ** 2)


def compiled_step(optimizer) -> Any:
    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(
            grads, state, params, value=value, grad=grads, value_fn=loss
        )
        return optax.apply_updates(params, updates), state

    return step


def train(optimizer, num_updates, params=None) -> tuple[Any, Any]:
    params = network() if params is None else params
    step, state = compiled_step(optimizer), optimizer.init(params)
    for _ in range(num_updates):
        params, state = step(params, state)
    return params, state


def test_training_equals_a_numpy_loop_that_prunes_by_a_stable_sort():
    schedule = Schedule((2, 4), (0.3, 0.55))
    params, state = train(
        transform(optax.sgd(0.05, momentum=0.9), schedule, layers="all_kernels"), 7
    )
    x, y = np.asarray(INPUTS, np.float64), np.asarray(TARGETS, np.float64)
    kernel, bias = (np.asarray(network()[name], np.float64) for name in ("kernel", "bias"))
    keep, momentum, bias_momentum = np.ones((8, 4), bool), np.zeros((8, 4)), np.zeros(4)
    for update in range(1, 8):
        residual = 2 * (x @ kernel + bias - y) / y.size
        momentum = 0.9 * momentum + keep * (x.T @ residual)
        bias_momentum = 0.9 * bias_momentum + residual.sum(0)
        kernel, bias = kernel - 0.05 * momentum, bias - 0.05 * bias_momentum
        if update in (2, 4):
            order = np.argsort(np.abs(kernel).ravel(), kind="stable")
            keep.ravel()[order[: round({2: 0.3, 4: 0.55}[update] * 32)]] = False
        kernel, momentum = kernel * keep, momentum * keep
    np.testing.assert_array_equal(get_mask(state)["kernel"], keep)
    np.testing.assert_allclose(params["kernel"], kernel, atol=2e-6)
    np.testing.assert_allclose(params["bias"], bias, atol=2e-6)
    np.testing.assert_allclose(state.inner_state[0].trace["kernel"], momentum, atol=2e-6)


@pytest.mark.parametrize(
    ("sparsity", "options"),
    [
        (0.37, {"scope": "global"}),
        (0.37, {"scope": "local"}),
        (0.61, {"scope": "uniform", "min_kept": 2}),
        (0.61, {"scope": "erk"}),
        (0.61, {"scope": "lamp"}),
        (0.9, {"scope": "global", "min_kept": 3}),
        ({"first": 0.9, "second": 0.25}, {"scope": "local"}),
        (0.5, {"scope": "local", "pattern": NM(2, 4)}),
        (0.5, {"scope": "global", "pattern": Blocks((2, 2))}),
    ],
)
def test_a_mask_made_in_jit_is_the_one_that_allocate_makes_of_the_same_scores(sparsity, options):
    first, second = jax.random.split(jax.random.key(3))
    params = {
        "first": {"kernel": jax.random.normal(first, (3, 3, 4, 4)).round(1)},
        "second": {"kernel": jax.random.normal(second, (8, 4)).round(1)},
    }
    optimizer = transform(optax.sgd(0.0), one_shot(sparsity, at=1), layers="all_kernels", **options)
    zeros = jax.tree.map(jnp.zeros_like, params)
    _, state = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
    expected = pruning.prune(params, sparsity=sparsity, layers="all_kernels", **options)
    chex.assert_trees_all_equal(get_mask(state), expected)


def test_movement_and_taylor_rank_by_what_training_saw():
    for criterion, rank in (
        ("movement", lambda w, moved, total: moved),
        ("taylor", lambda w, m, t: abs(w * t)),
    ):
        optimizer = transform(
            optax.sgd(0.05), one_shot(0.5, at=3), layers="all_kernels", criterion=criterion
        )
        params, moved, total = network(), np.zeros((8, 4)), np.zeros((8, 4))
        state, step = optimizer.init(params), compiled_step(optimizer)
        plain = network()
        for _ in range(3):
            grad = jax.grad(loss)(plain)
            moved -= np.asarray(plain["kernel"] * grad["kernel"])
            total += np.asarray(grad["kernel"])
            plain = jax.tree.map(lambda w, g: w - 0.05 * g, plain, grad)
            params, state = step(params, state)
        scores = {"kernel": rank(np.asarray(plain["kernel"]), moved, total), "bias": np.zeros(4)}
        prunable = {"kernel": True, "bias": False}
        chex.assert_trees_all_equal(
            get_mask(state), pruning.allocate(scores, prunable, sparsity=0.5)
        )


def test_a_random_mask_is_nested_in_the_next_one_and_depends_on_the_seed_only():
    schedule = Schedule((1, 3), (0.3, 0.6))
    options: Any = {"layers": "all_kernels", "criterion": "random"}
    early = get_mask(train(transform(optax.sgd(0.1), schedule, **options), 1)[1])["kernel"]
    late = get_mask(train(transform(optax.sgd(0.01), schedule, **options), 3)[1])["kernel"]
    assert not np.any(np.asarray(late) & ~np.asarray(early))
    again = get_mask(train(transform(optax.adam(0.1), schedule, **options), 4)[1])["kernel"]
    np.testing.assert_array_equal(late, again)


def test_lbfgs_with_a_mask_solves_the_reduced_least_squares_problem():
    keep = np.asarray(jax.random.bernoulli(jax.random.key(4), 0.5, (8, 4)))
    mask = {"kernel": jnp.asarray(keep), "bias": jnp.ones(4, bool)}
    params = pruning.apply(mask, network())
    params, _ = train(transform(optax.lbfgs(), layers="all_kernels", mask=mask), 60, params)
    for output in range(4):
        columns = np.concatenate([np.asarray(INPUTS)[:, keep[:, output]], np.ones((32, 1))], 1)
        solution = np.linalg.lstsq(columns, np.asarray(TARGETS)[:, output], rcond=None)[0]
        np.testing.assert_allclose(
            params["kernel"][keep[:, output], output], solution[:-1], atol=1e-3
        )


def test_a_line_search_does_not_reuse_the_dense_networks_loss_after_pruning():
    optimizer = transform(optax.lbfgs(), one_shot(0.5, at=3), layers="all_kernels")
    params, state = train(optimizer, 3)
    remembered = optax.tree_utils.tree_get(state.inner_state, "value")
    assert np.isinf(remembered)
    value, _ = optax.value_and_grad_from_state(loss)(params, state=state)
    assert np.asarray(value) == pytest.approx(float(loss(params)), rel=1e-6)


def test_plateau_sees_the_loss_it_is_given():
    inner = optax.chain(
        optax.sgd(0.1), optax.contrib.reduce_on_plateau(factor=0.5, patience=1, cooldown=0)
    )
    optimizer = transform(inner, one_shot(0.5, at=1), layers="all_kernels")
    params = network()
    state: Any = optimizer.init(params)
    for _ in range(4):
        _, state = optimizer.update(jax.grad(loss)(params), state, params, value=jnp.ones(()))
    assert float(optax.tree_utils.tree_get(state, "scale")) < 1


def test_schedule_free_evaluation_parameters_are_pruned_too():
    optimizer = transform(
        optax.contrib.schedule_free_sgd(0.05), one_shot(0.5, at=3), layers="all_kernels"
    )
    params, state = train(optimizer, 8)
    evaluated = optax.contrib.schedule_free_eval_params(state.inner_state, params)
    keep = np.asarray(get_mask(state)["kernel"])
    assert (
        not np.asarray(evaluated["kernel"])[~keep].any()
        and np.asarray(evaluated["kernel"])[keep].all()
    )


def test_an_event_at_zero_is_decided_by_init():
    optimizer = transform(optax.sgd(0.1), one_shot(0.5, at=0), layers="all_kernels")
    state: Any = optimizer.init(network())
    chex.assert_trees_all_equal(
        get_mask(state), pruning.prune(network(), sparsity=0.5, layers="all_kernels")
    )
    params, _ = train(optimizer, 1)
    assert np.count_nonzero(params["kernel"]) == 16


def test_rewinding_restores_weights_and_optimizer_at_every_event():
    schedule = iterative(0.5, num_rounds=2, begin=5, every=3, rewind_to=2)
    learning_rate = optax.exponential_decay(0.05, 1, 0.9)
    optimizer = transform(optax.adam(learning_rate), schedule, layers="all_kernels")
    at_two, state_at_two = train(transform(optax.adam(learning_rate), layers="all_kernels"), 2)
    for num_updates, num_removed in ((5, 16), (8, 24)):
        params, state = train(optimizer, num_updates)
        mask = get_mask(state)
        assert pruning.count_removed(mask) == num_removed
        expected = pruning.apply(mask, at_two)
        np.testing.assert_allclose(params["kernel"], expected["kernel"], atol=1e-6)
        assert not np.asarray(params["kernel"])[~np.asarray(mask["kernel"])].any()
        rewound = pruning.moments(mask, state_at_two.inner_state)
        for now, then in zip(
            jax.tree.leaves(state.inner_state), jax.tree.leaves(rewound), strict=True
        ):
            np.testing.assert_allclose(now, then, atol=1e-7)


def test_a_schedule_that_waits_counts_from_its_trigger_inside_jit():
    optimizer = transform(
        optax.sgd(0.05), one_shot(0.5, at=2), layers="all_kernels", wait_for_trigger=True
    )
    step, params = compiled_step(optimizer), network()
    state: Any = optimizer.init(params)
    removed = []
    for update in range(8):
        # Fires once, at 3; a later firing changes nothing.
        state = jax.jit(trigger)(state, jnp.asarray(update in (3, 4)))
        params, state = step(params, state)
        removed.append(pruning.count_removed(get_mask(state)))
    assert removed == [0, 0, 0, 0, 16, 16, 16, 16]


def test_a_mask_from_outside_holds_from_the_next_update_on_and_weights_may_come_back():
    optimizer = transform(optax.adam(0.05), layers="all_kernels")
    step, (params, state) = compiled_step(optimizer), train(optimizer, 2)
    mask = pruning.prune(params, sparsity=0.5, layers="all_kernels")
    state = replace_mask(state, mask)
    gone = ~np.asarray(mask["kernel"])
    assert not np.asarray(state.inner_state[0].mu["kernel"])[gone].any()
    params, state = step(params, state)
    assert not np.asarray(params["kernel"])[gone].any()
    state = replace_mask(state, pruning.full(params))
    params, state = step(params, state)
    assert np.asarray(params["kernel"])[gone].all()


def test_a_schedule_never_gives_back_what_a_mask_from_outside_removed():
    outside = {"kernel": jnp.arange(32).reshape(8, 4) >= 20, "bias": jnp.ones(4, bool)}
    optimizer = transform(optax.sgd(0.05), one_shot(0.75, at=2), layers="all_kernels", mask=outside)
    _, state = train(optimizer, 3)
    assert pruning.count_removed(get_mask(state)) == 24
    assert not np.any(np.asarray(get_mask(state)["kernel"]) & ~np.asarray(outside["kernel"]))


def test_a_donated_state_takes_no_mask_of_the_callers_with_it():
    mask = pruning.prune(network(), sparsity=0.5, layers="all_kernels")
    optimizer = transform(optax.sgd(0.1, momentum=0.9), layers="all_kernels", mask=mask)
    step = jax.jit(compiled_step(optimizer), donate_argnums=(0, 1))
    params = network()
    state: Any = optimizer.init(params)
    params, state = step(params, state)
    params, state = step(params, replace_mask(state, mask))
    assert pruning.count_removed(mask) == 16
    assert np.count_nonzero(params["kernel"]) == 16


def test_nnx_optimizers_prune_wait_and_take_masks_from_outside():
    model = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
    wrapped = transform(
        optax.adam(0.01), one_shot(0.5, at=1), layers="all_kernels", wait_for_trigger=True
    )
    optimizer = nnx.Optimizer(model, wrapped, wrt=nnx.Param)

    def loss_of(model):
        return jnp.mean((model(INPUTS) - TARGETS) ** 2)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(loss_of)(model))

    def num_zeros():
        return int(np.sum(np.asarray(model.kernel[...]) == 0))

    step(model, optimizer)
    assert num_zeros() == 0
    optimizer.opt_state = trigger(optimizer.opt_state)
    step(model, optimizer)
    assert num_zeros() == 16
    weights = nnx.state(model, nnx.Param)
    mask = get_mask(optimizer.opt_state, like=weights)
    assert pruning.ledger(weights, mask, layers="all_kernels", requested=0.5).warnings == ()
    optimizer.opt_state = replace_mask(
        optimizer.opt_state, pruning.prune(weights, sparsity=0.75, layers="all_kernels")
    )
    step(model, optimizer)
    assert num_zeros() == 24


def test_masks_from_outside_need_no_layers():
    mask = {"w": jnp.array([True, False])}
    optimizer = transform(optax.sgd(0.1), mask=mask)
    params = {"w": jnp.ones(2)}
    updates, _ = optimizer.update({"w": jnp.zeros(2)}, optimizer.init(params), params)
    moved: Any = optax.apply_updates(params, updates)
    assert moved["w"].tolist() == [1.0, 0.0]


def test_leaves_that_are_no_weights_are_never_ranked():
    params = {"kernel": jnp.arange(1.0, 5.0), "steps": jnp.arange(8)}
    optimizer = transform(optax.set_to_zero(), one_shot(0.5, at=1), layers="regex:.")
    updates = {"kernel": jnp.zeros(4), "steps": jnp.zeros(8, int)}
    _, state = optimizer.update(updates, optimizer.init(params), params)
    assert get_mask(state)["kernel"].tolist() == [False, False, True, True]
    assert get_mask(state)["steps"].all()


def test_a_saved_state_goes_on_bitwise(tmp_path):
    optimizer = transform(
        optax.adamw(0.01), polynomial(0.8, begin=2, end=8, every=2), layers="all_kernels"
    )
    step, (params, state) = compiled_step(optimizer), train(optimizer, 4)
    (tmp_path / "state.pkl").write_bytes(pickle.dumps(jax.device_get((params, state))))
    packed = serialization.to_bytes((params, state))
    pickled = pickle.loads((tmp_path / "state.pkl").read_bytes())
    unpacked = serialization.from_bytes((network(), optimizer.init(network())), packed)
    results = []
    for start in ((params, state), pickled, unpacked):
        current = start
        for _ in range(5):
            current = step(*current)
        results.append(current)
    chex.assert_trees_all_equal(results[0], results[1])
    chex.assert_trees_all_equal(results[0], results[2])


def test_scan_gives_the_loops_masks_and_weights():
    optimizer = transform(
        optax.adam(0.02), polynomial(0.8, begin=1, end=7, every=3), layers="all_kernels"
    )
    looped, state = train(optimizer, 9)
    step = compiled_step(optimizer)
    start = (network(), optimizer.init(network()))
    (scanned, scanned_state), _ = jax.lax.scan(
        lambda carry, _: (step(*carry), None), start, length=9
    )
    chex.assert_trees_all_equal(get_mask(scanned_state), get_mask(state))
    np.testing.assert_allclose(scanned["kernel"], looped["kernel"], atol=1e-6)


def test_vmap_over_masks_equals_one_run_for_each_mask():
    optimizer = transform(optax.sgd(0.05, momentum=0.9), layers="all_kernels")
    masks = [
        pruning.prune(network(), sparsity=sparsity, layers="all_kernels")
        for sparsity in (0.2, 0.5, 0.9)
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *masks)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), network())
    state = replace_mask(jax.vmap(optimizer.init)(many), stacked)
    step = jax.vmap(compiled_step(optimizer))
    for _ in range(4):
        many, state = step(many, state)
    for index, mask in enumerate(masks):
        alone, _ = train(
            transform(optax.sgd(0.05, momentum=0.9), layers="all_kernels", mask=mask), 4
        )
        np.testing.assert_allclose(many["kernel"][index], alone["kernel"], atol=1e-6)
        assert np.count_nonzero(many["kernel"][index]) == np.count_nonzero(mask["kernel"])


def test_vmap_over_states_prunes_each_by_its_own_weights():
    optimizer = transform(optax.sgd(0.05), one_shot(0.5, at=2), layers="all_kernels")
    starts = [
        jax.tree.map(lambda leaf, scale=scale: leaf * scale, network()) for scale in (0.5, 1.0, 2.0)
    ]
    many = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    state, step = jax.vmap(optimizer.init)(many), jax.vmap(compiled_step(optimizer))
    for _ in range(3):
        many, state = step(many, state)
    for index, start in enumerate(starts):
        _, alone = train(optimizer, 3, start)
        np.testing.assert_array_equal(get_mask(state)["kernel"][index], get_mask(alone)["kernel"])


SHARDED = """
import sys
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from earlyprune_jax import pruning
from earlyprune_jax.pruning import get_mask, polynomial, transform

assert len(jax.devices()) == 4
mesh = jax.make_mesh((4,), ("model",), axis_types=(getattr(AxisType, sys.argv[1]),))
key = jax.random.key(0)
params = {
    "a": {"kernel": jax.random.normal(key, (16, 32)).round(1)},
    "b": {"kernel": jax.random.normal(key, (32, 8))},
}
grads = jax.tree.map(lambda w: 0.1 * jnp.sin(7 * w), params)
schedule = polynomial(0.9, begin=1, end=5, every=2)
optimizer = transform(optax.adam(0.01), schedule, layers="all_kernels", scope=sys.argv[2])

def train(params, grads):
    state, update = jax.jit(optimizer.init)(params), jax.jit(optimizer.update)
    for _ in range(6):
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, get_mask(state)

alone, mask = train(params, grads)
place = lambda tree: jax.device_put(tree, NamedSharding(mesh, P(None, "model")))
sharded, sharded_mask = train(place(params), place(grads))
for one, other in zip(jax.tree.leaves(mask), jax.tree.leaves(sharded_mask), strict=True):
    np.testing.assert_array_equal(one, other)
    assert len(other.sharding.device_set) == 4 and not other.sharding.is_fully_replicated
for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(sharded), strict=True):
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert other.sharding.spec == P(None, "model")
removed = pruning.count_removed(sharded_mask)
assert removed == round(0.9 * (16 * 32 + 32 * 8)), removed
assert sum(np.count_nonzero(leaf) for leaf in jax.tree.leaves(sharded)) == 768 - removed
print("same")
"""


@pytest.mark.parametrize(
    ("axis_type", "scope"),
    [
        ("Auto", "global"),
        *(pytest.param("Explicit", scope, marks=pytest.mark.slow) for scope in ("global", "lamp")),
    ],
)
def test_parameters_sharded_over_four_devices_get_the_same_masks_and_stay_sharded(axis_type, scope):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-c", SHARDED, axis_type, scope]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "same", done.stderr[-2000:]


def test_every_problem_of_the_options_is_named_before_training():
    with pytest.raises(InvalidInput, match="Did you mean 'movement'"):
        transform(optax.sgd(0.1), criterion="movment")
    with pytest.raises(InvalidInput, match="schedule=.*to have an event with wait_for_trigger"):
        transform(optax.sgd(0.1), wait_for_trigger=True)
    with pytest.raises(InvalidInput, match="rewind_to=1 to be None"):
        schedule = iterative(0.5, num_rounds=1, begin=3, every=1, rewind_to=1)
        transform(optax.sgd(0.1), schedule, wait_for_trigger=True)
    options = {"layers": "all_kernels"}
    for wrong, words in [
        ({"scope": "locl"}, "Did you mean 'local'"),
        ({"min_kept": 40}, "Lower it or min_kept"),
        (
            {"pattern": Blocks((3, 1))},
            r"block shape at kernel=\(3, 1\) to divide its shape \(8, 4\)",
        ),
        ({"pattern": NM(2, 3), "scope": "local"}, "sparsity=0.5 to be that of 2:3"),
        ({"layers": "regex:conv"}, "kernel does not match conv"),
        ({"mask": {"kernel": jnp.ones((8, 4), bool)}}, "mask at='bias' to be there"),
        (
            {"mask": jax.tree.map(jnp.ones_like, network())},
            "dtype of mask at kernel='float32' to be bool",
        ),
    ]:
        with pytest.raises(InvalidInput, match=words):
            transform(optax.sgd(0.1), one_shot(0.5, at=1), **(options | wrong)).init(network())


def test_arguments_that_nothing_could_make_right_are_named_together():
    with pytest.raises(InvalidInput) as caught:
        transform(
            optax.sgd,  # type: ignore[arg-type]
            one_shot(0.5, at=1),
            criterion="magnitud",
            layers="kernels",
            scope="bogus",
            pattern="2:4",  # type: ignore[arg-type]
            min_kept=-1,
        )
    things = (
        "layers='kernels'",
        "pattern='2:4'",
        "criterion='magnitud'",
        "inner=",
        "scope='bogus'",
        "min_kept=-1",
    )
    assert len(caught.value.problems) == len(things)
    assert all(thing in str(caught.value) for thing in things)
    with pytest.raises(InvalidInput, match="schedule=0.5 to be a Schedule"):
        transform(optax.sgd(0.1), 0.5)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="scope='bogus'"):
        transform(optax.sgd(0.1), scope="bogus")
    with pytest.raises(InvalidInput, match="scope='lamp' not to be lamp"):
        transform(optax.sgd(0.1), one_shot(0.5, at=1), criterion="movement", scope="lamp")
    state = transform(optax.sgd(0.1)).init(network())
    with pytest.raises(
        InvalidInput, match="types of the state and the params=.'tuple', 'dict'. to be what init"
    ):
        transform(optax.sgd(0.1)).update(network(), state.inner_state, network())  # type: ignore[attr-defined]


def test_a_criterion_of_another_structure_is_refused_by_path():
    optimizer = transform(
        optax.sgd(0.1),
        one_shot(0.5, at=1),
        layers="all_kernels",
        criterion=lambda p: {"kernel": p["kernel"]},
    )
    with pytest.raises(InvalidInput, match="scores of the criterion at='bias' to be there"):
        optimizer.init(network())


@pytest.mark.parametrize("criterion", ["movement", "taylor"])
def test_one_bad_gradient_does_not_spoil_what_is_remembered(criterion):
    inner = optax.apply_if_finite(optax.sgd(0.05), max_consecutive_errors=9)
    optimizer = transform(inner, one_shot(0.5, at=4), layers="all_kernels", criterion=criterion)
    params = network()
    state: Any = optimizer.init(params)
    for update in range(4):
        grads = jax.grad(loss)(params)
        grads = jax.tree.map(lambda g: g * jnp.nan, grads) if update == 1 else grads
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.memory))
    kept = np.asarray(get_mask(state)["kernel"])
    assert kept.sum() == 16 and kept.ravel()[:16].any()


def test_numbered_leaves_are_moments_only_where_the_whole_subtree_is_params_shaped():
    params = [jnp.ones((4, 4)), jnp.ones(4)]
    mask = [jnp.ones((4, 4), bool), jnp.array([True, False, True, False])]
    state: Any = jax.tree.map(jnp.ones_like, optax.sm3(0.1, momentum=0.9).init(params))
    masked: Any = pruning.moments(mask, state)
    # SM3 keeps an accumulator an axis: mu[0][1] belongs to the kernel's columns, not to the bias.
    assert all(np.asarray(leaf).all() for leaf in jax.tree.leaves(masked[0].mu))
    assert masked[0].nu[1].tolist() == [1.0, 0.0, 1.0, 0.0]
    trace: Any = jax.tree.map(jnp.ones_like, optax.trace(0.9).init(params))
    assert pruning.moments(mask, trace).trace[1].tolist() == [1.0, 0.0, 1.0, 0.0]


def test_calls_that_cannot_work_say_what_to_do():
    optimizer = transform(optax.sgd(0.1), layers="all_kernels")
    state: Any = optimizer.init(network())
    with pytest.raises(InvalidInput, match="Call update\\(gradients, state, params\\)"):
        optimizer.update(network(), state)
    with pytest.raises(InvalidInput, match="Wrap the optimizer in pruning.transform once"):
        get_mask(optax.sgd(0.1).init(network()))
    with pytest.raises(InvalidInput, match=r"shape of mask at kernel=\(2, 2\) to be \(8, 4\)"):
        replace_mask(state, {"kernel": jnp.ones((2, 2), bool), "bias": jnp.ones(4, bool)})
    with pytest.raises(InvalidInput, match="mask at='extra' not to be there"):
        replace_mask(state, {**get_mask(state), "extra": jnp.ones(1, bool)})


@pytest.mark.parametrize(
    ("scope", "pattern", "fits"),
    [
        ("global", pruning.UNSTRUCTURED, False),
        ("lamp", pruning.UNSTRUCTURED, False),
        ("global", Blocks((1, 256)), True),
        ("local", pruning.UNSTRUCTURED, True),
        ("erk", pruning.UNSTRUCTURED, True),
        ("local", NM(2, 4), True),
    ],
)
def test_more_weights_in_one_ranking_than_int32_counts_are_refused_by_init(scope, pattern, fits):
    kernel = jax.ShapeDtypeStruct((2**16, 2**14), jnp.bfloat16)  # 2^30 weights each
    params = {name: {"kernel": kernel} for name in "abcd"}
    optimizer = transform(
        optax.sgd(0.1), one_shot(0.5, at=3), layers="all_kernels", scope=scope, pattern=pattern
    )
    if fits:
        state: Any = jax.eval_shape(optimizer.init, params)
        assert state.mask["d"]["kernel"].shape == kernel.shape
        return
    with pytest.raises(
        InvalidInput, match=r"scores in one ranking=\d{10} to be at most 2147483647"
    ):
        jax.eval_shape(optimizer.init, params)
