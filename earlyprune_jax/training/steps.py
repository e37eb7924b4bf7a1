"""The three steps that are compiled: train, evaluate, measure. One train step serves trunk and forks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from earlyprune_jax.pruning import masks
from earlyprune_jax.signals import ProbeSignal
from earlyprune_jax.training.execution import Step
from earlyprune_jax.training.state import Stream, TrainState, stream_key
from earlyprune_jax.training.tasks import Sums, Task

NEVER = -1
"""`first_nonfinite_step` of a run whose losses were all finite."""


def zero_train_sums() -> Sums:
    """Sums before an epoch's first step."""
    return {**zero_sums(), "first_nonfinite_step": jnp.full((), NEVER, jnp.int32)}


def zero_sums() -> Sums:
    """Sums before the first batch of an evaluation."""
    return {name: jnp.zeros(()) for name in ("loss", "correct", "count")}


def train_step(task: Task, optimizer: optax.GradientTransformation) -> Step:
    """One step: ((state, sums), (indices [B], learning rate), train split) -> (state, sums).

    Guarantees that removed weights and their momenta are exactly 0 afterwards, whatever the
    optimizer. The mask and the learning rate are arguments, so trunk and forks share it.
    """

    def step(carry: tuple[TrainState, Sums], inputs: tuple[Any, Any], split: Any):
        state, sums = carry
        indices, learning_rate = inputs
        batch = task.batch(split, indices, stream_key(state.key, Stream.AUGMENT, state.step))
        gradient = jax.value_and_grad(task.train_loss, has_aux=True)
        (loss, (added, batch_stats)), grads = gradient(state.params, state.batch_stats, batch)
        updates, opt_state = optimizer.update(masks.apply(state.mask, grads), state.opt_state, state.params)
        updates = jax.tree.map(lambda update: -learning_rate * update, updates)
        new_state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=masks.apply(state.mask, optax.apply_updates(state.params, updates)),
            batch_stats=batch_stats,
            opt_state=masks.moments(state.mask, opt_state),
        )
        return new_state, _add(sums, added, loss, state.step)

    return step


def _add(sums: Sums, added: Sums, loss: jax.Array, step: jax.Array) -> Sums:
    first = sums["first_nonfinite_step"]
    is_first = ~jnp.isfinite(loss) & (first == NEVER)
    totals = {name: sums[name] + value for name, value in added.items()}
    return {**totals, "first_nonfinite_step": jnp.where(is_first, step, first)}


def eval_step(task: Task) -> Step:
    """One batch: (sums, (indices [B], weights [B]), (params, batch_stats, split)) -> sums."""

    def step(sums: Sums, inputs: tuple[Any, Any], constants: tuple[Any, Any, Any]):
        indices, weights = inputs
        params, batch_stats, split = constants
        added = task.eval_sums(params, batch_stats, task.batch(split, indices, None), weights)
        return {name: sums[name] + value for name, value in added.items()}

    return step


def predict_step(task: Task) -> Callable[[TrainState, jax.Array, Any], jax.Array]:
    """One batch: (state, indices [B], split) -> log-probabilities [B, C], evaluation mode, float32."""

    def step(state: TrainState, indices: jax.Array, split: Any) -> jax.Array:
        return task.network(state.batch_stats).log_probs(state.params, task.batch(split, indices, None))

    return step


def signal_step(task: Task, signal: ProbeSignal, *, augment: bool) -> Step:
    """One probe batch: (sums, (indices [B], weights [B], number, pass), constants) -> sums.

    The constants are (params, batch_stats, split, key). Augmentation is a function of (key, batch
    number), labels that are drawn are one of (key, the image's place among the probe images).
    """

    def step(sums: Any, inputs: tuple[Any, Any, Any, Any], constants: tuple[Any, Any, Any, Any]):
        indices, weights, number, pass_index = inputs
        params, batch_stats, split, key = constants
        augment_key, signal_key = jax.random.split(key)
        shown = task.batch(split, indices, jax.random.fold_in(augment_key, number) if augment else None)
        places = number * len(indices) + jnp.arange(len(indices))
        batch = {**shown, "weights": weights, "numbers": places}
        added = signal.batch_sums(task.network(batch_stats), params, batch, signal_key, pass_index)
        return jax.tree.map(jnp.add, sums, added)

    return step
