"""EarlyCroP's relative weight change against norms by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from earlyprune_jax.pruning import select
from earlyprune_jax.signals.trajectories import weight_change
from earlyprune_jax.validate import InvalidInput


def trees(seed=0):
    rng = np.random.default_rng(seed)

    def tree():
        return {
            "conv": {"kernel": rng.standard_normal((3, 3, 2, 4)).astype(np.float32)},
            "dense": {
                "kernel": rng.standard_normal((5, 6)).astype(np.float32),
                "bias": np.ones(6, np.float32),
            },
        }

    return tree(), tree()


def test_it_is_the_distance_over_the_length_of_all_chosen_weights_together():
    then, now = trees()
    flat = [
        np.concatenate([t["conv"]["kernel"].ravel(), t["dense"]["kernel"].ravel()])
        for t in (then, now)
    ]
    by_hand = np.linalg.norm(flat[1] - flat[0]) / np.linalg.norm(flat[0])
    assert weight_change(then, now) == pytest.approx(by_hand, rel=1e-6)
    conv = np.linalg.norm(now["conv"]["kernel"] - then["conv"]["kernel"]) / np.linalg.norm(
        then["conv"]["kernel"]
    )
    assert weight_change(then, now, layers="conv_kernels") == pytest.approx(conv, rel=1e-6)
    assert weight_change(then, now, layers=select(now, "conv_kernels")) == pytest.approx(
        conv, rel=1e-6
    )


def test_nothing_moved_is_0_all_weights_gone_is_1_and_doubled_is_1():
    then, _ = trees()
    assert weight_change(then, then) == 0.0
    assert weight_change(then, jax.tree.map(lambda leaf: 0 * leaf, then)) == 1.0
    assert weight_change(then, jax.tree.map(lambda leaf: 2 * leaf, then)) == 1.0


def test_a_tiny_change_of_large_weights_is_not_lost():
    then = {"kernel": np.full((1000, 1000), 1000.0, np.float32)}
    now = {"kernel": then["kernel"] + np.float32(2**-13)}
    assert weight_change(then, now) == pytest.approx(2**-13 / 1000, rel=1e-9)


def test_half_precision_nnx_and_equinox_trees_work():
    half = {"kernel": jnp.full((2, 2), 2.0, jnp.bfloat16)}
    assert weight_change(half, {"kernel": half["kernel"] * 1.5}) == 0.5
    state = nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param)
    assert weight_change(state, jax.tree.map(lambda leaf: leaf * 1.5, state)) == pytest.approx(0.5)
    module = eqx.nn.MLP(2, 2, 3, 1, key=jax.random.key(0))
    other = jax.tree.map(lambda leaf: leaf * 1.5 if eqx.is_array(leaf) else leaf, module)
    assert weight_change(module, other) == pytest.approx(0.5)
    assert weight_change(module, other, layers=select(module, "all_kernels")) == pytest.approx(0.5)


def test_what_cannot_be_measured_is_refused():
    then, now = trees()
    zero = jax.tree.map(lambda leaf: 0 * leaf, then)
    with pytest.raises(InvalidInput, match="reference.*to be positive"):
        weight_change(zero, now)
    broken = {**now, "conv": {"kernel": now["conv"]["kernel"] * np.inf}}
    with pytest.raises(InvalidInput, match="params at conv/kernel='not finite'"):
        weight_change(then, broken)
    with pytest.raises(InvalidInput, match="reference at='dense/bias' to be there"):
        weight_change({**then, "dense": {"kernel": then["dense"]["kernel"]}}, now)
    with pytest.raises(InvalidInput, match="to choose at least one leaf"):
        weight_change(then, now, layers=jax.tree.map(lambda _: False, now))
