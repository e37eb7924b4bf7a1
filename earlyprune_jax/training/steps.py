"""The steps that are compiled: train, evaluate, predict, measure. One train step serves trunk and
forks."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from earlyprune_jax.array_types import Array
from earlyprune_jax.pruning import masks
from earlyprune_jax.signals import ProbeSignal
from earlyprune_jax.tasks import Task
from earlyprune_jax.training.execution import Step
from earlyprune_jax.training.optim import Optimizer
from earlyprune_jax.training.state import Stream, TrainState, stream_key

Sums = dict[str, Array]

NEVER = -1
"""`first_nonfinite_step` of a run whose losses were all finite."""


def zero_train_sums(names: Iterable[str]) -> Sums:
    """Sums before an epoch's first step."""
    return {**zero_sums(names), "first_nonfinite_step": jnp.full((), NEVER, jnp.int32)}


def zero_sums(names: Iterable[str]) -> Sums:
    """Sums before the first batch of an evaluation."""
    return {name: jnp.zeros(()) for name in names}


def train_step(task: Task, optimizer: Optimizer, kind: str = "") -> Step:
    """Makes a training step: ((state, sums), ((indices, weights), rate), train split) -> (state,
    sums).

    Guarantees that removed weights and their moments are exactly 0 afterwards, whatever the
    optimizer. The mask and the learning rate are arguments, so trunk and forks share it.

    Args:
        task: gives batches and the loss.
        optimizer: takes each step's learning rate.
        kind: of the batches.
    """

    def step(carry: tuple[TrainState, Sums], inputs: tuple[Any, Any], split: Any):
        state, sums = carry
        (indices, weights), learning_rate = inputs
        augment_key = stream_key(state.key, Stream.AUGMENT, state.step)
        batch = task.batching.take(kind, split, indices, weights, augment_key)

        def mean_loss(params: Any) -> tuple[Array, Any]:
            key = stream_key(state.key, Stream.DROPOUT, state.step)
            added, model_state = task.train_sums(params, state.model_state, batch, key)
            return added["loss"] / added["count"], (added, model_state)

        (loss, (added, model_state)), grads = jax.value_and_grad(mean_loss, has_aux=True)(
            state.params
        )
        grads = masks.apply(state.mask, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, learning_rate)
        new_state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=masks.apply(state.mask, optax.apply_updates(state.params, updates)),
            model_state=model_state,
            opt_state=masks.moments(state.mask, opt_state),
        )
        return new_state, _add(sums, added, loss, state.step)

    return step


def _add(sums: Sums, added: Any, loss: Array, step: Array) -> Sums:
    first = sums["first_nonfinite_step"]
    is_first = ~jnp.isfinite(loss) & (first == NEVER)
    totals = {name: sums[name] + value for name, value in added.items()}
    return {**totals, "first_nonfinite_step": jnp.where(is_first, step, first)}


def eval_step(task: Task, kind: str = "") -> Step:
    """Makes one evaluation step: (sums, (indices [B], weights [B]), (params, model_state, split))
    -> sums."""

    def step(sums: Sums, inputs: tuple[Any, Any], constants: tuple[Any, Any, Any]):
        indices, weights = inputs
        params, model_state, split = constants
        added = task.eval_sums(
            params, model_state, task.batching.take(kind, split, indices, weights, None)
        )
        return {name: sums[name] + value for name, value in added.items()}

    return step


def predict_step(task: Task, kind: str = "") -> Callable[[TrainState, Any, Any], Array]:
    """Makes a prediction: (state, (indices [B], weights [B]), split) -> log-probabilities [B, C],
    float32.

    In evaluation mode; of a task that has log-probabilities.
    """

    def step(state: TrainState, inputs: Any, split: Any) -> Array:
        indices, weights = inputs
        batch = task.batching.take(kind, split, indices, weights, None)
        return task.probe(state.model_state).log_probs(state.params, batch)

    return step


def signal_step(task: Task, signal: ProbeSignal, *, augment: bool, kind: str = "") -> Step:
    """Makes one measuring step: (sums, inputs, constants) -> sums.

    The inputs are (indices [B], weights [B], first place, number of the batch, pass), the
    constants (params, model_state, split, key). Augmentation is a function of (key, batch number),
    what a signal draws is one of (key, the example's place among the probe examples).

    Args:
        task: gives batches and the network.
        signal: what is summed.
        augment: whether examples are augmented.
        kind: of the batches.
    """

    def step(sums: Any, inputs: tuple[Any, ...], constants: tuple[Any, Any, Any, Any]):
        indices, weights, first, number, pass_index = inputs
        params, model_state, split, key = constants
        augment_key, signal_key = jax.random.split(key)
        own_key = jax.random.fold_in(augment_key, number) if augment else None
        shown = task.batching.take(kind, split, indices, weights, own_key)
        batch = {**shown, "weights": weights, "numbers": first + jnp.arange(len(indices))}
        added = signal.batch_sums(task.probe(model_state), params, batch, signal_key, pass_index)
        return jax.tree.map(jnp.add, sums, added)

    return step
