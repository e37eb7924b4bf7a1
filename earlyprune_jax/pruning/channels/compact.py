"""A physically smaller network: the masked one without the channels that its mask removes.

The operations of the traced network run on arrays that lack these channels.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Array, Mask
from earlyprune_jax.pruning import masks
from earlyprune_jax.pruning.channels.graph import Kept, Step, Tensor, zero_slices
from earlyprune_jax.pruning.channels.trace import WITH_DERIVATIVE, Apply, Trace, trace_network
from earlyprune_jax.pruning.trees import is_weight, named_leaves, refuse, split_leaves
from earlyprune_jax.validate import expected, unexpected

AS_RETURNED = (
    "Give the variables that compact returned, or trained ones of their structure and shapes."
)

BY_POSITION = ("dynamic_slice", "gather", "pad", "slice", "split")
"""Operations that say by position which entries they take or add: they run on whole arrays, with
zeros for what is gone."""

RESULT_SHAPES = {"broadcast_in_dim": "shape", "reshape": "new_sizes"}
"""Operation -> its parameter that is the shape of the result."""


def compact(apply: Apply, variables: Any, inputs: Any, mask: Mask) -> tuple[Apply, Any]:
    """Takes the removed channels out of the arrays, and makes the function that computes the rest.

    Removed is every group of coupled channels (see `channel_groups`) with a masked slice whose
    absence cannot show: wherever the network sums over one of its channels, the mask makes one of
    the two factors zero. That holds for every group that is masked wholly, whoever made the mask,
    and whether or not statistics are masked too. It also holds for a channel whose producers
    alone, bias and norm included, or whose readers alone are masked. A channel that is masked only
    in part stays, with zeros; so does the first of a layer of which all could go.

    Guarantees: `compact_apply(compact_variables, inputs)` equals `apply(pruning.apply(mask,
    variables), inputs)` up to the order of summation, for any batch size, dtypes included;
    `variables` need not be masked before. Gradients agree on the entries that are left, products
    with the Hessian (forward over reverse) too; forward mode alone stops at calls with a derivative
    of their own, such as relu. It can be jitted, and its arrays saved like any others.

    The function traces `apply` for the unpruned shapes and runs what it finds on the smaller
    arrays, so each new shape of inputs costs a trace: wrap it in `jax.jit`. Calls marked `jit` or
    `checkpoint` inside `apply` become part of the whole. The arrays are made on the host and put
    on the default device.

    Args:
        apply: (variables, inputs) -> outputs, in evaluation mode; variables are used only through
            the argument.
        variables: any pytree of arrays.
        inputs: any pytree of arrays or shapes, as `apply` takes it.
        mask: the structure and shapes of `variables`, bool: True = kept.

    Returns:
        compact_apply, with the signature of `apply`, and compact_variables, the structure of
        `variables` with smaller arrays. Their sizes count what is left.

    Raises:
        InvalidInput: the mask does not fit; the paths are named. From compact_apply: arrays of
            other shapes than compact_variables'.

    Example:
        >>> import jax.numpy as jnp
        >>> def apply(params, x):
        ...     return jnp.maximum(x @ params["a"], 0) @ params["b"]
        >>> params = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([[1.0], [10.0]])}
        >>> mask = {"a": jnp.array([[True, False]]), "b": jnp.array([[True], [False]])}
        >>> compact_apply, smaller = compact(apply, params, jnp.ones((1, 1)), mask)
        >>> smaller["a"].shape, compact_apply(smaller, jnp.ones((2, 1))).tolist()
        ((1, 1), [[1.0], [1.0]])
    """
    masks.check(mask, variables)
    are_weights = [is_weight(leaf) for leaf in jax.tree.leaves(variables)]
    weights, merge = split_leaves(variables, are_weights)
    keeps = [np.asarray(keep) for keep in split_leaves(mask, are_weights)[0]]
    names = [name for name, leaf in named_leaves(variables) if is_weight(leaf)]
    shapes = [jax.ShapeDtypeStruct(weight.shape, weight.dtype) for weight in weights]
    zeros = [zero_slices(keep) for keep in keeps]
    trace = trace_network(apply, variables, inputs, zeros)
    kept = removable(trace)
    treedef = jax.tree.structure(variables)

    def compact_apply(variables: Any, inputs: Any) -> Any:
        if (structure := jax.tree.structure(variables)) != treedef:
            raise unexpected("structure of variables", structure, f"to be {treedef}", AS_RETURNED)
        given, merge_given = split_leaves(variables, are_weights)
        sizes = [kept.shape(tensor) for tensor in trace.weights]
        refuse(
            expected(f"shape at {name}", np.shape(leaf), f"to be {size}", AS_RETURNED)
            for name, leaf, size in zip(names, given, sizes, strict=True)
            if np.shape(leaf) != size
        )
        now = trace_network(apply, merge_given(shapes), inputs, zeros)
        kept_now = removable(now)
        remedy = "For inputs of this shape the network couples its channels in another way."
        # Both traces number the slices of the weights alike, before all others.
        refuse(
            expected("channels left at", name, "to be those compact chose", remedy)
            for name, tensor in zip(names, trace.weights, strict=True)
            if any(np.any(kept.ids[ids] != kept_now.ids[ids]) for ids in tensor.axes)
        )
        tensors, values = [*now.weights, *now.inputs], [*given, *jax.tree.leaves(inputs)]
        outputs = run(now.graph.steps, tensors, values, now.outputs, kept_now)
        return jax.tree.unflatten(now.outputs_tree, outputs)

    # On the host: an XLA program for every shape would take longer.
    masked = [np.where(k, w, np.zeros((), w.dtype)) for k, w in zip(keeps, weights, strict=True)]
    smaller = [jnp.asarray(kept.of(t, w)) for t, w in zip(trace.weights, masked, strict=True)]
    return compact_apply, merge(smaller)


def removable(trace: Trace) -> Kept:
    """Keeps all ids but those of groups with a masked slice and nothing that pins them."""
    graph = trace.graph
    labels = graph.labels()
    masked = [
        ids[zero]
        for tensor in trace.weights
        for ids, zero in zip(tensor.axes, tensor.zeros, strict=True)
    ]
    gone = graph.gone(labels, masked)
    # Neither a weight nor a convolution may become empty; other operations on nothing are sound.
    for tensor in [*trace.weights, *graph.convolved]:
        for ids in tensor.axes:
            if ids.size and gone[labels[ids]].all():
                gone[labels[ids[0]]] = False
    return Kept(~gone[labels])


def run(
    steps: Sequence[Step],
    given: Sequence[Tensor],
    values: Sequence[Array],
    wanted: Sequence[Tensor],
    kept: Kept,
) -> list[Array]:
    """Computes the wanted tensors from the given ones' smaller values.

    Args:
        steps: in order.
        given: tensors that no step makes.
        values: what is left of each.
        wanted: tensors that are given, constants, or made by the steps.
        kept: which ids are left.

    Returns:
        What is left of every wanted tensor.
    """
    known = {id(tensor): value for tensor, value in zip(given, values, strict=True)}

    def read(tensor: Tensor) -> Any:
        # What no step made is a constant.
        if id(tensor) not in known:
            known[id(tensor)] = kept.of(tensor, tensor.value)
        return known[id(tensor)]

    for step in steps:
        results = run_step(step, [read(tensor) for tensor in step.inputs], kept)
        known.update(
            (id(tensor), value) for tensor, value in zip(step.outputs, results, strict=True)
        )
    return [read(tensor) for tensor in wanted]


def run_step(step: Step, values: Sequence[Any], kept: Kept) -> list[Any]:
    """Runs one operation on smaller arrays.

    Args:
        step: the operation.
        values: what is left of its operands.
        kept: which ids are left.

    Returns:
        What is left of its results.
    """
    name = step.eqn.primitive.name
    if all(kept.shape(tensor) == tensor.shape for tensor in (*step.inputs, *step.outputs)):
        return _bind(step.eqn, values)
    if name in WITH_DERIVATIVE:
        return _call(step, values, kept)
    if not step.inputs or name in BY_POSITION:
        whole = map(kept.spread, step.inputs, values)
        return list(map(kept.of, step.outputs, _bind(step.eqn, list(whole))))
    changes = {}
    if name in RESULT_SHAPES:
        changes[RESULT_SHAPES[name]] = kept.shape(step.outputs[0])
    elif name == "conv_general_dilated" and step.eqn.params["feature_group_count"] > 1:
        # A depthwise kernel has as many groups as input channels are left.
        channels = step.eqn.params["dimension_numbers"].lhs_spec[1]
        changes["feature_group_count"] = kept.shape(step.inputs[0])[channels]
    return _bind(step.eqn, values, **changes)


def _bind(eqn: Any, values: Sequence[Any], **changes: Any) -> list[Any]:
    """Runs the operation of an equation, with some of its parameters changed."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    # Older releases of JAX return the functions inside a call beside the parameters.
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    results = eqn.primitive.bind(*functions, *values, **params | changes)
    return list(results) if eqn.primitive.multiple_results else [results]


def _call(step: Step, values: Sequence[Any], kept: Kept) -> list[Any]:
    """Runs a call with a derivative of its own, e.g. relu, which it keeps on smaller arrays.

    Its derivative takes whole arrays: what is gone is put back as zeros, and left out again.
    """

    @jax.custom_vjp
    def call(*values: Any) -> list[Any]:
        return run(step.body or (), step.inputs, values, step.outputs, kept)

    def backward(values: Sequence[Any], cotangents: Sequence[Any]) -> tuple[Any, ...]:
        whole = map(kept.spread, step.inputs, values)
        _, pull_back = jax.vjp(lambda *values: _bind(step.eqn, values), *whole)
        pulled = pull_back(list(map(kept.spread, step.outputs, cotangents)))
        return tuple(map(kept.of, step.inputs, pulled))

    call.defvjp(lambda *values: (call(*values), values), backward)
    return list(call(*values))
