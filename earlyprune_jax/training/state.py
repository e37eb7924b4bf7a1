"""The training state, its random streams, and the steps that are compiled: train, evaluate,
predict, measure. One train step serves trunk and forks."""

import dataclasses
import enum
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from earlyprune_jax.array_types import Array, Mask, Params, PRNGKey, Variables
from earlyprune_jax.pruning import masks
from earlyprune_jax.pruning.trees import path_name
from earlyprune_jax.signals import ProbeSignal
from earlyprune_jax.tasks import Task, split_variables
from earlyprune_jax.training.execution import Step
from earlyprune_jax.training.optim import Optimizer
from earlyprune_jax.validate import expected

Sums = dict[str, Array]

NEVER = -1
"""`first_nonfinite_step` of a run whose losses were all finite."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a run needs to go on, as arrays only.

    `step` counts from the start of the trunk, also in forks, so that batch order and
    augmentation, functions of (key, step), never repeat what the trunk has seen. `model_state`
    holds what a network has beside parameters, such as batch statistics; {} where there is nothing.
    """

    step: Array
    params: Params
    model_state: Any
    opt_state: Any
    mask: Mask
    key: PRNGKey


class Stream(enum.IntEnum):
    """Independent uses of a run's key."""

    INIT = 0
    ORDER = 1
    AUGMENT = 2
    SIGNAL = 3
    REPLICATE = 4
    PRUNE = 5
    DROPOUT = 6


def stream_key(key: PRNGKey, stream: Stream, index: Any = 0) -> PRNGKey:
    """Derives the key of one use of randomness: a function of (run key, use, step or epoch).

    Args:
        key: of the run.
        stream: the use.
        index: the step or epoch; replicates have a number.

    Returns:
        A key, independent of those of other uses and indices.
    """
    return jax.random.fold_in(jax.random.fold_in(key, stream), index)


def create(variables: Variables, optimizer: Optimizer, key: PRNGKey) -> TrainState:
    """Makes the state of a trunk before its first step: dense, step 0.

    Args:
        variables: of a new network.
        optimizer: makes its state.
        key: of the run.

    Returns:
        The state, on the device of the variables.
    """
    params, model_state = split_variables(variables)
    step, opt_state, mask = jnp.zeros((), jnp.int32), optimizer.init(params), masks.full(params)
    return TrainState(step, params, model_state, opt_state, mask, key)


def fork(
    state: TrainState, mask: Mask, optimizer: Optimizer, replicate: int, reset_momentum: bool
) -> TrainState:
    """Prunes a trunk's state; weights, batch statistics and step carry over.

    Args:
        state: the trunk after the fork epoch.
        mask: True = kept.
        optimizer: makes the fresh optimizer state.
        replicate: 0 keeps the trunk's key; others draw their own data order and augmentation.
        reset_momentum: start with zero momentum (paper A) or carry it over, masked.

    Returns:
        A state whose removed weights and momenta are exactly 0.
    """
    params = masks.apply(mask, state.params)
    opt_state = optimizer.init(params) if reset_momentum else masks.moments(mask, state.opt_state)
    key = stream_key(state.key, Stream.REPLICATE, replicate) if replicate else state.key
    return dataclasses.replace(state, params=params, opt_state=opt_state, mask=mask, key=key)


class BrokenMask(RuntimeError):
    """A state whose mask does not hold: the message names the leaf."""


def require_mask(state: TrainState) -> None:
    """Checks what every step guarantees: masks of booleans, and removed weights that are exactly 0.

    Args:
        state: on the host.

    Raises:
        BrokenMask: names the first leaf where it is not so.

    Example:
        >>> key, weights = np.zeros(2, np.uint32), {"w": np.array([1.0, 2.0])}
        >>> mask = {"w": np.array([True, False])}
        >>> require_mask(TrainState(np.int32(0), weights, {}, (), mask, key))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        earlyprune_jax.training.state.BrokenMask: Expected w to be 0 where its mask is False. ...
    """
    for (path, kept), weights in zip(
        jax.tree.leaves_with_path(state.mask), jax.tree.leaves(state.params), strict=True
    ):
        name = path_name(path)
        if kept.dtype != bool or kept.shape != weights.shape:
            allowed = f"to be a mask of booleans of shape {weights.shape}"
            raise BrokenMask(expected(name, f"{kept.dtype}{[*kept.shape]}", allowed))
        if count := np.count_nonzero(weights[~kept]):
            raise BrokenMask(f"Expected {name} to be 0 where its mask is False. {count} are not.")


@jax.jit
def all_finite(state: TrainState) -> Array:
    """Tells whether every weight and statistic of a state, or of each in a stack, is finite."""
    leaves = jax.tree.leaves((state.params, state.model_state))
    first = state.step.ndim
    finite = [jnp.all(jnp.isfinite(leaf), axis=tuple(range(first, leaf.ndim))) for leaf in leaves]
    return jnp.all(jnp.stack(finite), axis=0)


def zero_train_sums(names: Iterable[str], shape: tuple[int, ...] = ()) -> Sums:
    """Makes the sums before an epoch's first step, of one run or, by the shape, of a stack."""
    return {**zero_sums(names, shape), "first_nonfinite_step": jnp.full(shape, NEVER, jnp.int32)}


def zero_sums(names: Iterable[str], shape: tuple[int, ...] = ()) -> Sums:
    """Makes the sums before the first batch of an evaluation; `shape` as of `zero_train_sums`."""
    return {name: jnp.zeros(shape) for name in names}


def train_step(task: Task, optimizer: Optimizer, kind: str = "") -> Step:
    """Makes a training step: ((state, sums), ((indices, weights), rate), train split) -> (state,
    sums).

    Guarantees that removed weights and their moments are exactly 0 afterwards, whatever the
    optimizer. The mask and the learning rate are arguments, so trunk and forks share it.

    Args:
        task: gives batches and the loss.
        optimizer: takes each step's learning rate.
        kind: of the batches.

    Returns:
        The step, to be compiled by `execution.runner`.
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
        first = sums["first_nonfinite_step"]
        is_first = ~jnp.isfinite(loss) & (first == NEVER)
        totals = {name: sums[name] + value for name, value in added.items()}
        return new_state, {**totals, "first_nonfinite_step": jnp.where(is_first, state.step, first)}

    return step


def eval_step(task: Task, kind: str = "") -> Step:
    """Makes one evaluation step: (sums, (indices [B], weights [B]), (params, model_state, split))
    -> sums."""

    def step(sums: Sums, inputs: tuple[Any, Any], constants: tuple[Any, Any, Any]):
        indices, weights = inputs
        params, model_state, split = constants
        batch = task.batching.take(kind, split, indices, weights, None)
        added = task.eval_sums(params, model_state, batch)
        return {name: sums[name] + value for name, value in added.items()}

    return step


def predict_step(
    task: Task, kind: str = ""
) -> Callable[[TrainState, Any, Any], tuple[Array, Array]]:
    """Makes predictions: (state, (indices [B], weights [B]), split) -> log-probabilities [B, C] or
    [B, P, C], float32, and the weights of the predictions, [B] or [B, P].

    In evaluation mode; of a task that has log-probabilities.
    """

    def step(state: TrainState, inputs: Any, split: Any) -> tuple[Array, Array]:
        indices, weights = inputs
        batch = task.batching.take(kind, split, indices, weights, None)
        network = task.probe(state.model_state)
        counted = network.weights({**batch, "weights": weights})
        return network.log_probs(state.params, batch), counted

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

    Returns:
        The step, to be compiled by `execution.runner`.
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
