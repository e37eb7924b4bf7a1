"""The train step against SGD written out in numpy, on a linear model."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from earlyprune_jax.spec_sections import OptimSpec
from earlyprune_jax.tasks import Metric, Task, plain
from earlyprune_jax.training import optim, state
from earlyprune_jax.training.execution import runner

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4)).astype(np.float32)
Y = RNG.normal(size=12).astype(np.float32)
ORDER = RNG.permutation(12).reshape(4, 3).astype(np.int32)
RATES = np.array([0.1, 0.2, 0.05, 0.1], np.float32)
MASK = np.array([True, False, True, True])


def linear_task() -> Task:
    """Least squares: loss = mean (x.kernel + bias - y)^2 / 2."""

    def init(key):
        return {"params": {"kernel": jnp.ones(4), "bias": jnp.full((), 0.5)}}

    def sums(params, batch):
        errors = batch["x"] @ params["kernel"] + params["bias"] - batch["y"]
        return {"loss": jnp.sum(errors**2) / 2, "count": jnp.float32(len(errors))}

    splits = {"train": {"x": X, "y": Y}, "test": {"x": X, "y": Y}}
    return Task(
        splits=splits,
        batching=plain(splits, 3),
        init=init,
        train_sums=lambda params, model_state, batch, key: (sums(params, batch), model_state),
        eval_sums=lambda params, model_state, batch: sums(params, batch),
        metrics=(Metric("loss", larger_is_better=False),),
        primary="loss",
    )


def run(optimizer, *, form="loop", mask=MASK):
    task = linear_task()
    begun = state.create(task.init(jax.random.PRNGKey(0)), optimizer, jax.random.PRNGKey(0))
    full_mask = {"kernel": jnp.asarray(mask), "bias": jnp.asarray(True)}
    begun = state.fork(begun, full_mask, optimizer, replicate=0, reset_momentum=True)
    train = runner(state.train_step(task, optimizer), form=form, name="train_step")
    split = {"x": jnp.asarray(X), "y": jnp.asarray(Y)}
    return train((begun, state.zero_train_sums(task.sum_names)), ((ORDER, None), RATES), split)


def by_hand(*, momentum, nesterov, decay, decay_bias):
    """torch.optim.SGD's definition, with the mask applied to weights and gradients."""
    w, b, vw, vb = np.ones(4) * MASK, 0.5, np.zeros(4), 0.0
    loss = 0.0
    for rows, rate in zip(ORDER, RATES, strict=True):
        errors = X[rows] @ w + b - Y[rows]
        loss += (errors**2).sum() / 2
        gw = (X[rows].T @ errors / 3 + decay * w) * MASK
        gb = errors.mean() + decay_bias * b
        vw, vb = momentum * vw + gw, momentum * vb + gb
        w = w - rate * (gw + momentum * vw if nesterov else vw)
        b = b - rate * (gb + momentum * vb if nesterov else vb)
    return w, b, vw, loss


@pytest.mark.parametrize("decay_on", ["all", "kernels"])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_follows_its_definition_under_a_mask(momentum, nesterov, decay_on):
    optimizer = optim.make(OptimSpec("sgd", 0.1, momentum, nesterov, 0.05, decay_on))
    final, sums = run(optimizer)
    w, b, _, loss = by_hand(
        momentum=momentum,
        nesterov=nesterov,
        decay=0.05,
        decay_bias=0.05 if decay_on == "all" else 0.0,
    )
    np.testing.assert_allclose(final.params["kernel"], w, rtol=1e-5)
    np.testing.assert_allclose(final.params["bias"], b, rtol=1e-5)
    assert float(sums["loss"]) == pytest.approx(loss, rel=1e-5)
    assert int(final.step) == 4


# What an optimizer makes of every step's own rate does not matter here: a chain ignores it.
OPTIMIZERS = {
    "sgd": optax.chain(optax.add_decayed_weights(0.1), optax.trace(0.9), optax.scale(-1.0)),
    "adamw": optax.adamw(1.0, weight_decay=0.1),
    "lion": optax.lion(1.0, weight_decay=0.1),
    "clipped adam": optax.chain(optax.clip_by_global_norm(0.5), optax.scale_by_adam()),
    "ema": optax.chain(optax.scale_by_rms(), optax.ema(0.9)),
}
NAMED = {
    "by name: adam": OptimSpec("adam(b1=0.8)", 0.1, 0.0, False, 0.1, "all"),
    "by name: adamw": OptimSpec("adamw", 0.1, 0.0, False, 0.1, "kernels"),
    "by path: lion": OptimSpec("optax:lion", 0.1, 0.0, False, 0.1, "all"),
    "by path: rmsprop": OptimSpec("optax:rmsprop(momentum=0.9)", 0.1, 0.0, False, 0.0, "all"),
    "by path: a direction": OptimSpec("optax:scale_by_adam", 0.1, 0.0, False, 0.0, "all"),
}


def ignoring_rates(chain: optax.GradientTransformation) -> optim.Optimizer:
    return optim.Optimizer(
        chain.init, lambda grads, state, params, rate: chain.update(grads, state, params)
    )


@pytest.mark.parametrize("name", [*OPTIMIZERS, *NAMED])
def test_removed_weights_and_moments_are_exactly_zero_under_any_chain(name):
    final, _ = run(
        ignoring_rates(OPTIMIZERS[name]) if name in OPTIMIZERS else optim.make(NAMED[name])
    )
    assert final.params["kernel"][1] == 0.0
    moments = [leaf for leaf in jax.tree.leaves(final.opt_state) if np.shape(leaf) == (4,)]
    assert moments
    for moment in moments:
        assert moment[1] == 0.0
        assert np.any(np.asarray(moment) != 0.0)


def test_scan_and_loop_forms_agree():
    optimizer = optim.make(OptimSpec("sgd", 0.1, 0.9, False, 0.01, "all"))
    (loop, loop_sums), (scan, scan_sums) = run(optimizer), run(optimizer, form="scan")
    chex.assert_trees_all_close((loop, loop_sums), (scan, scan_sums), rtol=1e-6)


def test_the_first_nonfinite_step_is_remembered():
    optimizer = optim.make(OptimSpec("sgd", 0.1, 0.0, False, 0.0, "all"))
    task = linear_task()
    begun = state.create(task.init(jax.random.PRNGKey(0)), optimizer, jax.random.PRNGKey(0))
    begun = dataclasses.replace(begun, step=jnp.int32(100))
    poisoned = X.copy()
    poisoned[ORDER[2, 1]] = np.inf
    split = {"x": jnp.asarray(poisoned), "y": jnp.asarray(Y)}
    train = runner(state.train_step(task, optimizer), form="loop", name="train_step")
    _, sums = train((begun, state.zero_train_sums(task.sum_names)), ((ORDER, None), RATES), split)
    assert int(sums["first_nonfinite_step"]) == 102


def test_a_fork_carries_or_resets_its_momentum_and_keeps_or_changes_its_key():
    optimizer = optim.make(OptimSpec("sgd", 0.1, 0.9, False, 0.0, "all"))
    trained, _ = run(optimizer, mask=np.ones(4, bool))
    mask = {"kernel": jnp.asarray(MASK), "bias": jnp.asarray(True)}
    momentum = lambda s: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(s.opt_state)])  # noqa: E731
    reset = state.fork(trained, mask, optimizer, replicate=0, reset_momentum=True)
    carried = state.fork(trained, mask, optimizer, replicate=1, reset_momentum=False)
    assert not momentum(reset).any()
    expected = momentum(trained).copy()
    expected[2] = 0.0  # leaves are ordered bias, kernel: index 2 is kernel[1]
    np.testing.assert_array_equal(momentum(carried), expected)
    np.testing.assert_array_equal(reset.key, trained.key)
    assert not np.array_equal(carried.key, trained.key)
    assert int(reset.step) == int(trained.step) == 4
