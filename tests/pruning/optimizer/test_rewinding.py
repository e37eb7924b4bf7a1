"""What a rewind gives back, bit for bit, against a loop in NumPy with ml_dtypes."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from earlyprune_jax import pruning
from earlyprune_jax.pruning import Schedule, get_mask, iterative, replace_mask, rewound, transform
from earlyprune_jax.validate import InvalidInput

DTYPES = [np.float32, ml_dtypes.bfloat16, np.float16]
LAYERS = "regex:kernel|weight"
ROUNDS = iterative(0.5, num_rounds=2, begin=3, every=2, rewind_to=1)


def trees() -> dict[str, Any]:
    dense = nn.Dense(4).init(jax.random.key(0), jnp.zeros((1, 8)))["params"]
    linear = eqx.nn.Linear(8, 4, key=jax.random.key(0))
    return {
        "plain": [{"kernel": jnp.zeros((8, 4))}, {"bias": jnp.zeros(4)}],
        "linen": dense,
        "nnx": nnx.state(nnx.Linear(8, 4, rngs=nnx.Rngs(0)), nnx.Param),
        "equinox": eqx.filter(linear, eqx.is_array),
    }


def drawn(tree: Any, dtype: Any, seed: int, scale: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(tree)]
    # Over four powers of ten: weights that grow or shrink a lot between snapshot and event.
    sizes = [scale * 10.0 ** rng.uniform(-3, 1, shape) for shape in shapes]
    return [(size * rng.choice([-1, 1], size.shape)).astype(dtype) for size in sizes]


def bits(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array.view(f"u{array.dtype.itemsize}")


def by_hand(weights: list[np.ndarray], grads: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """The weights after each of five updates of SGD at rate 1 that rewinds at the third and fifth.

    Half of the 32 entries of the leaf with two axes go, then half of what is left.
    """
    kernel = next(index for index, leaf in enumerate(weights) if leaf.ndim == 2)
    keep = np.ones(32, bool)
    history, then = [], weights
    for update, grad in enumerate(grads, start=1):
        weights = [w - g for w, g in zip(weights, grad, strict=True)]
        if update == 1:
            then = weights
        if update in (3, 5):
            sizes = np.abs(weights[kernel].reshape(-1).astype(np.float64))
            order = np.argsort(np.where(keep, sizes, -np.inf), kind="stable")
            keep[order[: {3: 16, 5: 24}[update]]] = False
            weights = list(then)
        shaped = keep.reshape(weights[kernel].shape)
        zero = np.zeros((), weights[kernel].dtype)
        weights[kernel] = np.where(shaped, weights[kernel], zero)
        history.append(weights)
    return history


@pytest.mark.parametrize("kind", ["plain", "linen", "nnx", "equinox"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rewound_weights_are_the_old_ones_bit_for_bit(dtype, kind):
    tree = trees()[kind]
    fill = jax.tree.structure(tree).unflatten
    weights = drawn(tree, dtype, 0)
    grads = [drawn(tree, dtype, seed) for seed in range(1, 6)]
    optimizer = transform(optax.sgd(1.0), ROUNDS, layers=LAYERS)
    params = fill(map(jnp.asarray, weights))
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for grad, expected in zip(grads, by_hand(weights, grads), strict=True):
        updates, state = update(fill(map(jnp.asarray, grad)), state, params)
        params = rewound(optax.apply_updates(params, updates), state)
        for leaf, right in zip(jax.tree.leaves(params), expected, strict=True):
            assert leaf.dtype == dtype
            np.testing.assert_array_equal(bits(leaf), bits(right))


def test_an_nnx_optimizer_gives_the_old_weights_back_bit_for_bit():
    model = nnx.Linear(8, 4, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(
        model, transform(optax.sgd(1.0), ROUNDS, layers=LAYERS), wrt=nnx.Param
    )
    state = nnx.state(model, nnx.Param)
    fill = jax.tree.structure(state).unflatten
    weights = drawn(state, ml_dtypes.bfloat16, 0)
    grads = [drawn(state, ml_dtypes.bfloat16, seed) for seed in range(1, 6)]
    nnx.update(model, fill(map(jnp.asarray, weights)))
    for grad, expected in zip(grads, by_hand(weights, grads), strict=True):
        optimizer.update(model, fill(map(jnp.asarray, grad)))
        exact = rewound(nnx.state(model, nnx.Param), optimizer.opt_state)
        nnx.update(model, exact)
        for leaf, right in zip(jax.tree.leaves(exact), expected, strict=True):
            np.testing.assert_array_equal(bits(leaf), bits(right))


def added_back(old: np.ndarray, now: np.ndarray, updates_dtype: Any) -> tuple[np.ndarray, Any]:
    """The sum that `optax.apply_updates` makes of weights `now` at a rewind to `old`, and state."""
    narrow = optax.stateless(lambda u, p: jax.tree.map(lambda x: x.astype(updates_dtype), u))
    inner = optax.chain(optax.sgd(0.0), narrow)
    optimizer = transform(inner, Schedule((2,), (0.0,), rewind_to=0), layers=LAYERS)
    params = {"kernel": jnp.asarray(old)}
    state, zeros = optimizer.init(params), jax.tree.map(jnp.zeros_like, params)
    _, state = optimizer.update(zeros, state, params)
    params = {"kernel": jnp.asarray(now)}
    updates, state = jax.jit(optimizer.update)(zeros, state, params)
    moved: Any = optax.apply_updates(params, updates)
    return np.asarray(moved["kernel"]), (params, state)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_weights_come_back_from_a_plain_sum_unless_grown_a_thousandfold(dtype):
    rng = np.random.default_rng(0)
    old = (rng.choice([-1, 1], 20_000) * 10.0 ** rng.uniform(-4, 1, 20_000)).astype(dtype)
    now = (
        old.astype(float) * rng.uniform(-1, 1, 20_000) * 10.0 ** rng.uniform(-3, 3, 20_000)
    ).astype(dtype)
    result, _ = added_back(old, now, dtype)
    np.testing.assert_array_equal(bits(result), bits(old))
    # The example that was reported.
    reported = np.array([0.0123, -0.0456], dtype)
    result, _ = added_back(reported, np.array([0.31, 0.82], dtype), dtype)
    np.testing.assert_array_equal(bits(result), bits(reported))


@pytest.mark.parametrize("updates_dtype", [jnp.float32, jnp.bfloat16])
def test_float32_weights_come_back_from_a_plain_sum_to_one_unit_in_the_last_place(updates_dtype):
    rng = np.random.default_rng(0)
    old, now = (
        (rng.choice([-1, 1], 20_000) * 10.0 ** rng.uniform(-6, 2, 20_000)).astype(np.float32)
        for _ in range(2)
    )
    result, (_, state) = added_back(old, now, updates_dtype)
    largest = np.maximum(np.maximum(abs(old), abs(now)), abs(old - now))
    assert (abs(result.astype(float) - old) <= np.spacing(largest)).all()
    assert (bits(result) != bits(old)).any()  # why there is a function that is exact
    np.testing.assert_array_equal(bits(rewound({"kernel": result}, state)["kernel"]), bits(old))


def test_rewound_gives_back_negative_zero_and_what_no_sum_can():
    old = np.array([-0.0, 1.0, 2.0, 1e-30], np.float32)
    result, (params, state) = added_back(
        old, np.array([1, np.nan, np.inf, 1], np.float32), np.float32
    )
    assert np.isnan(result[1:3]).all()
    np.testing.assert_array_equal(bits(rewound(params, state)["kernel"]), bits(old))


def test_rewound_leaves_everything_else_as_it_is():
    params = {"kernel": jnp.arange(1.0, 5.0)}
    ones, other = {"kernel": jnp.ones(4)}, {"kernel": jnp.full(4, 7.0)}
    never = transform(optax.sgd(0.1), layers=LAYERS)
    assert rewound(params, never.init(params)) is params
    optimizer = optax.MultiSteps(
        transform(optax.sgd(0.1), Schedule((2,), (0.5,), rewind_to=1), layers=LAYERS), 2
    )
    state: Any = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update(ones, state, params)
        params = optax.apply_updates(params, updates)
        assert rewound(other, state)["kernel"].tolist() == [7.0] * 4
    _, state = optimizer.update(ones, state, params)
    # Now it did rewind: to the weights after one update, of which the two smallest go.
    old = np.where(
        [False, False, True, True], np.arange(1, 5, dtype=np.float32) - np.float32(0.1), 0
    )
    np.testing.assert_array_equal(rewound(other, state)["kernel"], old)
    # Micro-steps without an update change nothing, and a mask from outside ends it.
    _, waiting = optimizer.update(ones, state, params)
    np.testing.assert_array_equal(rewound(other, waiting)["kernel"], old)
    assert rewound(other, replace_mask(state, pruning.full(params)))["kernel"].tolist() == [7.0] * 4
    assert get_mask(state)["kernel"].tolist() == [False, False, True, True]
    with pytest.raises(InvalidInput, match="shape of mask at kernel"):
        rewound({"kernel": jnp.ones(3)}, state)
