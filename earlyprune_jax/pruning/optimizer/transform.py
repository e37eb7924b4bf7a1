"""An Optax transformation that prunes by schedule and keeps removed weights at exactly 0."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType

from earlyprune_jax.array_types import Array, Mask, Params, Scores, accurate
from earlyprune_jax.pruning import masks
from earlyprune_jax.pruning.allocation.allocate import check_allocation, prunable_shapes
from earlyprune_jax.pruning.allocation.budgets import check_options
from earlyprune_jax.pruning.allocation.patterns import UNSTRUCTURED, Pattern, check_is_pattern
from earlyprune_jax.pruning.layouts import Layouts
from earlyprune_jax.pruning.optimizer.schedules import NEVER_PRUNE, Criterion, Schedule, resolve
from earlyprune_jax.pruning.optimizer.state import NEVER, PruningState
from earlyprune_jax.pruning.scores.weights import require_like
from earlyprune_jax.pruning.selection import Layers, check_layers, select
from earlyprune_jax.pruning.trees import is_weight, refuse, split_leaves
from earlyprune_jax.validate import expected, unexpected


def transform(
    inner: optax.GradientTransformation,
    schedule: Schedule = NEVER_PRUNE,
    *,
    criterion: str | Criterion | Callable[[Params], Scores] = "magnitude",
    layers: Layers = "conv_kernels",
    scope: str = "global",
    pattern: Pattern = UNSTRUCTURED,
    min_kept: int = 0,
    mask: Mask | None = None,
    wait_for_trigger: bool = False,
    layouts: Layouts | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer so that it prunes by schedule, inside jit.

    After every update, `optax.apply_updates` gives parameters whose removed weights are exactly
    +0.0, and every moment of theirs in the inner state is 0, whatever the inner chain
    (`masks.moments` says what a moment is). Nothing else has to be called. Removed weights stay
    removed. It belongs outermost: clipping, decay and learning rates inside; `MultiSteps` may be on
    either side.

    At an event after `s` updates the parameters that update `s` makes are ranked, and exactly the
    event's count is removed. An event at 0 is decided by `init`: the first update puts its weights
    to 0, or, before it, `params = pruning.apply(pruning.get_mask(state), params)`.

    A weight that is NaN or infinite already cannot be brought to 0 by adding an update. Nor can a
    sum give back every old weight of a schedule that rewinds: `rewound` says how near it comes, and
    is exact. Such a schedule makes the updates of half-precision weights float32, which
    `optax.apply_updates` rounds back to the weights' type.

    Between events it costs an element-wise select on gradients, parameters and moments; an event
    costs some 40 passes over the scores. Under `vmap` over states every update pays for an event.

    Args:
        inner: any optimizer; extra arguments (`value`, `grad`, `value_fn`, ...) reach it unchanged.
        schedule: when and how hard; by default never: only `mask`, or masks given by
            `replace_mask`.
        criterion: `magnitude`, `movement`, `random`, `taylor`, a function params -> scores, or a
            `Criterion`.
        layers: as in `select`.
        scope: as in `allocate`. `global` may empty a layer, and cannot warn inside jit.
        pattern: as in `allocate`; an `NM` schedule has one event, of the pattern's own sparsity.
        min_kept: as in `allocate`; 1 leaves every layer a weight.
        mask: what is removed from the start; None = nothing.
        wait_for_trigger: the schedule's steps count from a call of `pruning.trigger`.
        layouts: as in `select`.

    Returns:
        An Optax transformation with a `PruningState`. Its update needs `params`.

    Raises:
        InvalidInput: here for options, in `init` for what does not fit the parameters, with every
            problem found; 2^31 weights or more in one ranking without 64-bit types. NaN scores
            cannot raise inside jit: they rank highest and stay.

    Example:
        >>> from earlyprune_jax.pruning.optimizer.schedules import one_shot
        >>> optimizer = transform(optax.sgd(0.1), one_shot(0.5, at=1), layers="regex:.")
        >>> params = {"w": jnp.array([1.0, -2.0, 3.0, -4.0])}
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update({"w": jnp.zeros(4)}, state, params)
        >>> optax.apply_updates(params, updates)["w"].tolist()
        [0.0, 0.0, 3.0, -4.0]
    """
    problems = check_layers(layers) + check_is_pattern(pattern)
    ranked_by = resolve(criterion, problems)
    problems += _check_schedule(schedule, scope, min_kept, wait_for_trigger)
    if not isinstance(inner, optax.GradientTransformation):
        remedy = "Call it first: transform(optax.adam(1e-3), ...)."
        problems.append(expected("inner", inner, "to be an Optax optimizer", remedy))
    refuse(problems)
    if scope == "lamp" and ranked_by.signed:
        remedy = "It squares scores, and this criterion's may be negative: take scope global."
        raise unexpected("scope", scope, "not to be lamp", remedy)
    wrapped = optax.with_extra_args_support(inner)
    rewinds = schedule.rewind_to is not None

    def init(params: Params) -> PruningState:
        shapes = {}
        if schedule.steps:
            shapes = prunable_shapes(params, select(params, layers, layouts), layouts)
        refuse(
            problem
            for sparsity in schedule.sparsities
            for problem in check_allocation(shapes, sparsity, scope, pattern, min_kept)
        )
        # Copies of what the caller holds: a training loop may donate this state.
        first = masks.full(params) if mask is None else jax.tree.map(jnp.copy, mask)
        masks.check(first, params)
        inner_state = wrapped.init(params)
        state = PruningState(
            num_updates=jnp.zeros((), jnp.int32),
            trigger_step=jnp.asarray(NEVER if wait_for_trigger else 0, jnp.int32),
            level=jnp.zeros((), jnp.int32),
            mask=first,
            memory=ranked_by.init(params),
            snapshot=jax.tree.map(jnp.copy, (params, inner_state)) if rewinds else (),
            rewound=jnp.zeros((), bool),
            inner_state=inner_state,
        )
        return prune(state, params)

    def update(updates: Any, state: Any, params: Params = None, **extra_args: Any) -> Any:
        if params is None or not isinstance(state, PruningState):
            given = type(state).__name__, type(params).__name__
            remedy = "Call update(gradients, state, params)."
            allowed = "to be what init of this optimizer made, and parameters"
            raise unexpected("types of the state and the params", given, allowed, remedy)
        grads, masked = masks.apply(state.mask, updates), masks.apply(state.mask, params)
        if rewinds:
            # What the loop holds, not what an update was meant to make: a sum compiled elsewhere
            # may be rounded in another way.
            here = state.num_updates == schedule.rewind_to
            now = masked, state.inner_state
            state = state._replace(snapshot=_where(here, now, state.snapshot))
        memory = ranked_by.update(state.memory, masked, grads)
        updates, inner_state = wrapped.update(grads, state.inner_state, masked, **extra_args)
        state = state._replace(
            num_updates=state.num_updates + 1, memory=memory, inner_state=inner_state
        )
        proposed = optax.apply_updates(masked, updates)
        pruned = prune(state, proposed)
        due = pruned.level > state.level
        if rewinds:
            old_params, old_inner_state = pruned.snapshot
            pruned = pruned._replace(
                rewound=due, inner_state=_where(due, old_inner_state, inner_state)
            )
            back = jax.tree.map(_difference, updates, old_params, params)
            updates = _where(due, back, updates)
        inner_state = _forget_losses(due, masks.moments(pruned.mask, pruned.inner_state))
        updates = jax.tree.map(_exact_update, pruned.mask, updates, params)
        return updates, pruned._replace(inner_state=inner_state)

    def prune(state: PruningState, params: Params) -> PruningState:
        """Returns the state with the mask and the level that its number of updates asks for."""
        if not schedule.steps:
            return state
        elapsed = jnp.asarray(state.num_updates - state.trigger_step)
        level = jnp.asarray(schedule.level(elapsed), jnp.int32)
        # No event may lie ahead of a schedule that waits: NEVER makes `elapsed` negative.
        new_mask = jax.lax.cond(
            level > state.level, lambda: mask_at(state, params, level), lambda: state.mask
        )
        return state._replace(mask=new_mask, level=jnp.maximum(level, state.level))

    def mask_at(state: PruningState, params: Params, level: Array) -> Mask:
        prunable = select(params, layers, layouts)
        scores, flags = ranked_by.scores(state.memory, params), jax.tree.leaves(prunable)
        require_like(params, scores, "scores of the criterion")
        kept, merge = split_leaves(state.mask, flags)
        # Wide enough for the means of blocks, which a half-precision type would round.
        ranked = [
            jnp.where(keep, score.astype(accurate(score.dtype)), -jnp.inf)
            for keep, score in zip(kept, split_leaves(scores, flags)[0], strict=True)
        ]
        shapes = prunable_shapes(params, prunable, layouts)
        # Counted on the host: exact, because no rounding of a sparsity happens inside jit.
        table = [pattern.counts(shapes, s, scope, min_kept) for s in schedule.sparsities]
        counts = jnp.asarray(np.asarray(table, np.int64))[level - 1]
        kinds = [leaf.layout for leaf in shapes.values()]

        def rank(leaves: list[Array], removed: Array) -> Sequence[Array]:
            return pattern.masks(leaves, removed, scope, min_kept, jnp, kinds)

        made = _automatically_sharded(rank, ranked)(ranked, counts)
        # A mask from outside may have removed more than the schedule asks for: nothing comes back.
        return merge([keep & new for keep, new in zip(kept, made, strict=True)])

    return optax.GradientTransformationExtraArgs(init, update)


def _check_schedule(schedule: Any, scope: str, min_kept: int, waits: bool) -> list[str]:
    """Finds the problems of a schedule that no parameters could make right."""
    if not isinstance(schedule, Schedule):
        remedy = "Make one with one_shot, polynomial or iterative."
        return [expected("schedule", schedule, "to be a Schedule", remedy)]
    problems = []
    for sparsity in schedule.sparsities or (0.0,):
        problems += check_options(sparsity, scope, min_kept)
    if waits and not schedule.steps:
        remedy = "Without one there is nothing to trigger."
        problems.append(expected("schedule", (), "to have an event with wait_for_trigger", remedy))
    if waits and schedule.rewind_to is not None:
        remedy = "A trigger comes at a step unknown beforehand: rewind from a checkpoint of yours."
        problems.append(expected("rewind_to", schedule.rewind_to, "to be None", remedy))
    return problems


def _automatically_sharded(
    rank: Callable[..., Sequence[Array]], leaves: list[Array]
) -> Callable[..., Sequence[Array]]:
    """Makes a ranking shard its masks as the leaves are, where shardings are explicit too."""
    shardings = [jax.typeof(leaf).sharding for leaf in leaves]
    if not any(AxisType.Explicit in sharding.mesh.axis_types for sharding in shardings):
        return rank
    # A ranking crosses all shards: reshapes and cumulative sums have no explicit sharding of their
    # own.
    automatic: Any = jax.sharding.auto_axes(rank, out_sharding=shardings)
    return automatic


def _where(condition: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def _difference(update: Any, old: Any, param: Any) -> Any:
    """Makes the update that brings a weight nearest to an old one."""
    if not is_weight(update):
        return (old - param).astype(update.dtype)
    # Of all updates of its type none is nearer: it differs from the real difference by a rounding.
    wide = jnp.promote_types(accurate(update.dtype), accurate(param.dtype))
    return old.astype(wide) - param.astype(wide)


def _exact_update(keep: Array, update: Any, param: Any) -> Any:
    """Makes the update that leaves exactly +0.0 where a weight is removed: p + (-p)."""
    if not is_weight(update):
        return update
    # In the wider of both types, or -p would be rounded and p - p no longer 0.
    exact = update.astype(jnp.promote_types(update.dtype, param.dtype))
    return jnp.where(keep, exact, -param.astype(exact.dtype))


def _forget_losses(due: Array, inner_state: Any) -> Any:
    """Makes, if due, line searches compute the loss anew instead of reusing the dense network's."""

    def remembers_loss(node: Any) -> bool:
        return {"value", "grad"} <= set(getattr(node, "_fields", ()))

    def forget(node: Any) -> Any:
        if not remembers_loss(node):
            return node
        # Optax recomputes a remembered loss that is infinite.
        return node._replace(value=jnp.where(due, jnp.inf, node.value))

    return jax.tree.map(forget, inner_state, is_leaf=remembers_loss)
