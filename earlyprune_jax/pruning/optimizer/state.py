"""What the optimizer state of `transform` holds, and what a training loop asks of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Array, Mask, Params
from earlyprune_jax.pruning import masks
from earlyprune_jax.pruning.trees import is_weight, named_leaves
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
        rewound: scalar bool, whether the last update put back the snapshot.
        inner_state: the inner transformation's.
    """

    num_updates: Array
    trigger_step: Array
    level: Array
    mask: Mask
    memory: Any
    snapshot: Any
    rewound: Array
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
        >>> from earlyprune_jax import pruning
        >>> optimizer = pruning.transform(optax.sgd(0.1), layers="all_kernels")
        >>> state = optimizer.init({"kernel": jnp.ones((1, 2))})
        >>> get_mask(state)["kernel"].tolist()
        [[True, True]]
    """
    state, _ = _only(opt_state)
    return state.mask if like is None else _fitted(state.mask, like)


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
    state, put = _only(opt_state)
    # A copy, because a training loop may donate the state, and the caller keeps its mask.
    copied = jax.tree.map(jnp.copy, _fitted(mask, state.mask))
    inner_state = masks.moments(copied, state.inner_state)
    # A rewind is over, or it would give back the old weights where the new mask keeps more.
    over = jax.tree.map(jnp.zeros_like, state.rewound)
    return put(state._replace(mask=copied, rewound=over, inner_state=inner_state))


def rewound(params: Params, opt_state: Any) -> Params:
    """Returns the parameters, which after an update that rewound are the old ones, bit for bit.

    After such an update `optax.apply_updates` comes as near to them as a sum can. Half-precision
    weights are the old ones where they had not grown more than a thousandfold since; wider ones
    differ by at most one unit in the last place of the largest of the old weight, the present one
    and their difference. Removed weights are 0 either way. After other updates, and with a schedule
    that does not rewind, the parameters come back as they are.

    Args:
        params: what `apply_updates` made, also inside jit.
        opt_state: what the same update returned, with one `transform`, at any depth.

    Returns:
        The structure of `params`.

    Raises:
        InvalidInput: no pruning state or several; or other paths or shapes than the state's.

    Example:
        >>> import optax
        >>> from earlyprune_jax import pruning
        >>> schedule = pruning.iterative(0.5, num_rounds=1, begin=1, every=1, rewind_to=0)
        >>> optimizer = pruning.transform(optax.sgd(1.0), schedule, layers="regex:.")
        >>> params = {"w": jnp.array([1e-9, 2.0])}
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update({"w": jnp.array([-9.0, 1.0])}, state, params)
        >>> rewound(optax.apply_updates(params, updates), state)["w"].tolist() == [
        ...     float(np.float32(1e-9)), 0.0]
        True
    """
    state, _ = _only(opt_state)
    mask = _fitted(state.mask, params)
    if not state.snapshot:
        return params
    old = masks.apply(
        mask, jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(state.snapshot[0]))
    )
    (is_due,) = jax.tree.leaves(state.rewound)

    def put_back(then: Any, now: Any) -> Any:
        return jnp.where(is_due, then, now).astype(then.dtype) if is_weight(then) else now

    return jax.tree.map(put_back, old, params)


def trigger(opt_state: Any, now: Any = True) -> Any:
    """Starts a schedule that waits: its steps count from here. Later calls change nothing.

    Args:
        opt_state: with one `transform` made with `wait_for_trigger=True`.
        now: bool, may be traced: nothing happens where it is False.

    Raises:
        InvalidInput: no pruning state or several.
    """
    state, put = _only(opt_state)
    # Through tree.map, because nnx.Optimizer keeps each array in a variable.
    step = jax.tree.map(
        lambda step, done: jnp.where(jnp.asarray(now) & (step == NEVER), done, step),
        state.trigger_step,
        state.num_updates,
    )
    return put(state._replace(trigger_step=step))


def _fitted(mask: Mask, like: Any) -> Mask:
    """Puts a mask into the containers of a tree of the same paths, and checks that it fits."""
    if [name for name, _ in named_leaves(mask)] == [name for name, _ in named_leaves(like)]:
        mask = jax.tree.unflatten(jax.tree.structure(like), jax.tree.leaves(mask))
    masks.check(mask, like)
    return mask


def _only(opt_state: Any) -> tuple[PruningState, Callable[[PruningState], Any]]:
    """Finds the one pruning state, and the function that puts another in its place."""

    def is_state(node: Any) -> bool:
        return isinstance(node, PruningState)

    nodes, treedef = jax.tree.flatten(opt_state, is_leaf=is_state)
    states = [node for node in nodes if is_state(node)]
    if len(states) != 1:
        remedy = "Wrap the optimizer in pruning.transform once."
        raise unexpected("pruning states in opt_state", len(states), "to be 1", remedy)
    return states[0], lambda new: treedef.unflatten(new if is_state(n) else n for n in nodes)
