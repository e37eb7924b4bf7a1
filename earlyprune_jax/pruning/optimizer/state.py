"""The state of a pruning optimizer, and how a training loop looks at it and changes it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Array, Mask
from earlyprune_jax.pruning import masks
from earlyprune_jax.pruning.trees import named_leaves
from earlyprune_jax.validate import unexpected

NEVER = np.iinfo(np.int32).max
"""`trigger_step` of a schedule that waits."""


class PruningState(NamedTuple):
    """The state of `transform`, made of arrays only.

    Attributes:
        num_updates: scalar int32, updates done.
        trigger_step: scalar int32, the number of updates from which the schedule's steps count: 0,
            or with `wait_for_trigger` that at the call of `trigger`, `NEVER` before it.
        level: scalar int32, events of the schedule done.
        mask: True = kept.
        memory: what the criterion remembers.
        snapshot: (params, inner state) to rewind to, or ().
        inner_state: the inner transformation's.
    """

    num_updates: Array
    trigger_step: Array
    level: Array
    mask: Mask
    memory: Any
    snapshot: Any
    inner_state: Any


def get_mask(opt_state: Any, like: Any = None) -> Mask:
    """Finds the mask inside an optimizer state that has one `transform`, at any depth.

    Args:
        opt_state: with one `transform`, at any depth.
        like: a tree whose containers the mask is to have: `nnx.Optimizer` keeps variables of its
            own kind, so that its mask fits the model's state only so. None = as it is in the state.

    Returns:
        The mask, True = kept.

    Raises:
        InvalidInput: there is none, or several; or other paths than those of `like`.

    Example:
        >>> import optax
        >>> from earlyprune_jax.pruning.optimizer.transform import transform
        >>> optimizer = transform(optax.sgd(0.1), layers="all_kernels")
        >>> state = optimizer.init({"kernel": jnp.ones((1, 2))})
        >>> get_mask(state)["kernel"].tolist()
        [[True, True]]
    """
    mask = _only(opt_state).mask
    return mask if like is None else _fitted(mask, like)


def replace_mask(opt_state: Any, mask: Mask) -> Any:
    """Returns the optimizer state with another mask and the removed weights' moments at 0.

    The next update puts the weights it removes to exactly 0; to have them so before the next
    forward pass, `params = pruning.apply(mask, params)`. Weights that come back train on from 0.

    Args:
        opt_state: with one `transform`, at any depth.
        mask: the structure of the present one.

    Raises:
        InvalidInput: no pruning state or several, or a mask that does not fit, by path.
    """
    fitting = _fitted(mask, _only(opt_state).mask)

    def replaced(state: PruningState) -> PruningState:
        # A copy, because a training loop may donate the state, and the caller keeps its mask.
        copied = jax.tree.map(jnp.copy, fitting)
        return state._replace(mask=copied, inner_state=masks.moments(copied, state.inner_state))

    return _replace_states(opt_state, replaced)


def trigger(opt_state: Any, now: Any = True) -> Any:
    """Starts a schedule that waits: its steps count from here. Later calls change nothing.

    Args:
        opt_state: with one `transform` made with `wait_for_trigger=True`.
        now: bool, may be traced: nothing happens where it is False.

    Raises:
        InvalidInput: no pruning state or several.
    """
    _only(opt_state)

    def started(state: PruningState) -> PruningState:
        # Through tree.map, because nnx.Optimizer keeps each array in a variable.
        step = jax.tree.map(
            lambda step, done: jnp.where(jnp.asarray(now) & (step == NEVER), done, step),
            state.trigger_step,
            state.num_updates,
        )
        return state._replace(trigger_step=step)

    return _replace_states(opt_state, started)


def _fitted(mask: Mask, like: Any) -> Mask:
    """Puts a mask into the containers of a tree of the same paths, and checks that it fits."""
    if [name for name, _ in named_leaves(mask)] == [name for name, _ in named_leaves(like)]:
        mask = jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(mask))
    masks.check(mask, like)
    return mask


def _is_pruning_state(node: Any) -> bool:
    return isinstance(node, PruningState)


def _replace_states(opt_state: Any, change: Callable[[PruningState], PruningState]) -> Any:
    return jax.tree.map(
        lambda node: change(node) if _is_pruning_state(node) else node,
        opt_state,
        is_leaf=_is_pruning_state,
    )


def _only(opt_state: Any) -> PruningState:
    nodes = jax.tree.leaves(opt_state, is_leaf=_is_pruning_state)
    states = [node for node in nodes if _is_pruning_state(node)]
    if len(states) != 1:
        remedy = "Wrap the optimizer in pruning.transform once."
        raise unexpected("pruning states in opt_state", len(states), "to be 1", remedy)
    return states[0]
