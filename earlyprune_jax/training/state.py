"""The training state, and the random streams derived from its key."""

import dataclasses
import enum
from typing import Any

import jax
import jax.numpy as jnp

from earlyprune_jax.array_types import Array, Mask, Params, PRNGKey, Variables
from earlyprune_jax.pruning import masks
from earlyprune_jax.tasks import split_variables
from earlyprune_jax.training.optim import Optimizer


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
    """The key of one use of randomness: a function of (run key, use, step or epoch)."""
    return jax.random.fold_in(jax.random.fold_in(key, stream), index)


def create(variables: Variables, optimizer: Optimizer, key: PRNGKey) -> TrainState:
    """The state of a trunk before its first step: dense, step 0."""
    params, model_state = split_variables(variables)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=optimizer.init(params),
        mask=masks.full(params),
        key=key,
    )


def fork(
    state: TrainState,
    mask: Mask,
    optimizer: Optimizer,
    *,
    replicate: int,
    reset_momentum: bool,
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
