"""A physically smaller network: the masked one without the channels that its mask removes.

The operations of the traced network run on arrays that lack these channels.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import Literal

from earlyprune_jax.array_types import Array, Mask
from earlyprune_jax.pruning import masks
from earlyprune_jax.pruning.channels.graph import ChannelGraph, Kept, Step, Tensor, zero_slices
from earlyprune_jax.pruning.channels.rules import RULES, elementwise
from earlyprune_jax.pruning.trees import (
    is_weight,
    named_leaves,
    refuse,
    split_leaves,
    split_weights,
)
from earlyprune_jax.validate import expected, unexpected

Apply = Callable[[Any, Any], Any]
"""(variables, inputs) -> outputs, in evaluation mode: pure, and nothing but the outputs comes
out."""

INLINED = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2")
WITH_DERIVATIVE = ("custom_jvp_call", "custom_vjp_call")

BY_POSITION = ("dynamic_slice", "gather", "pad", "slice", "split")
"""Operations that say by position which entries they take or add: they run on whole arrays, with
zeros for what is gone."""

RESULT_SHAPES = {"broadcast_in_dim": "shape", "reshape": "new_sizes"}
"""Operation -> its parameter that is the shape of the result."""


@dataclasses.dataclass(frozen=True)
class Trace:
    """One execution of a network on abstract arrays.

    Attributes:
        graph: ids, joins, pins and steps.
        weights: one tensor for every weight of the variables, in the tree's order.
        inputs: one tensor for every leaf of the inputs.
        outputs: one tensor for every leaf of the outputs.
        outputs_tree: their structure.
    """

    graph: ChannelGraph
    weights: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    outputs_tree: Any


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
        remedy = "Give the variables that compact returned, or trained ones of their structure."
        if (structure := jax.tree.structure(variables)) != treedef:
            raise unexpected("structure of variables", structure, f"to be {treedef}", remedy)
        given, merge_given = split_leaves(variables, are_weights)
        sizes = [kept.shape(tensor) for tensor in trace.weights]
        refuse(
            expected(f"shape at {name}", np.shape(leaf), f"to be {size}", remedy)
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


def trace_network(
    apply: Apply, variables: Any, inputs: Any, zeros: Sequence[tuple[np.ndarray, ...]] | None = None
) -> Trace:
    """Traces a network without computing anything.

    Args:
        apply: (variables, inputs) -> outputs.
        variables: any pytree; of its weights the shapes are enough, other leaves are used as they
            are.
        inputs: any pytree of arrays or shapes.
        zeros: for every weight and axis, [n] bool: the slices that a mask makes zero. By default
            all of them: what holds then holds for every mask that removes whole groups.

    Returns:
        The trace.
    """
    leaves, merge = split_weights(variables)
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    closed, out_shape = jax.make_jaxpr(
        lambda weights, inputs: apply(merge(weights), inputs), return_shape=True
    )(shapes, inputs)
    graph = ChannelGraph()
    zeros = zeros or [tuple(np.ones(size, bool) for size in shape.shape) for shape in shapes]
    weights = [
        dataclasses.replace(graph.fresh(shape.shape), zeros=zero)
        for shape, zero in zip(shapes, zeros, strict=True)
    ]
    input_variables = closed.jaxpr.invars[len(weights) :]
    given = [graph.fresh(v.aval.shape, pinned="belongs to the inputs") for v in input_variables]
    outputs = inline(graph, closed.jaxpr, closed.consts, [*weights, *given])
    for tensor in outputs:
        graph.pin(tensor.axes, "belongs to the outputs")
    used = {id(tensor) for step in graph.steps for tensor in step.inputs}
    for tensor in (tensor for tensor in weights if id(tensor) not in used):
        graph.pin(tensor.axes, "is not used")
    return Trace(graph, tuple(weights), tuple(given), tuple(outputs), jax.tree.structure(out_shape))


def inline(
    graph: ChannelGraph, jaxpr: Any, consts: Sequence[Any], args: Sequence[Tensor]
) -> list[Tensor]:
    """Applies the rules to the equations that the results depend on, or that have effects.

    Args:
        graph: what grows.
        jaxpr: an open jaxpr.
        consts: its constants.
        args: its operands.

    Returns:
        Its results.
    """
    constants = [constant(graph, value) for value in consts]
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *args], strict=True))

    def read(atom: Any) -> Tensor:
        return constant(graph, atom.val) if isinstance(atom, Literal) else known[atom]

    wanted, needed = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}, []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or wanted.intersection(eqn.outvars):
            wanted.update(atom for atom in eqn.invars if not isinstance(atom, Literal))
            needed.append(eqn)
    for eqn in reversed(needed):
        results = _apply_rule(graph, eqn, [read(atom) for atom in eqn.invars])
        known.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply_rule(graph: ChannelGraph, eqn: Any, inputs: list[Tensor]) -> list[Tensor]:
    name = eqn.primitive.name
    if name in INLINED:
        return inline(graph, *body_of(eqn), inputs)
    outer, body = graph.steps, None
    if name in WITH_DERIVATIVE:
        graph.steps = []
        outputs = inline(graph, *body_of(eqn), inputs)
        graph.steps, body = outer, tuple(graph.steps)
    else:
        outputs = RULES.get(name, elementwise)(graph, eqn, inputs)
    graph.steps.append(Step(eqn, tuple(inputs), tuple(outputs), body))
    return outputs


def body_of(eqn: Any) -> tuple[Any, Sequence[Any]]:
    """Returns the jaxpr inside a call, and its constants."""
    params = eqn.params
    inner = params.get("jaxpr") or params.get("call_jaxpr") or params["fun_jaxpr"]
    return (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())


def constant(graph: ChannelGraph, value: Any) -> Tensor:
    """Makes the tensor of a constant: it may lose whatever what it meets loses."""
    shape, dtype = np.shape(value), jnp.result_type(value)
    numeric = jnp.issubdtype(dtype, jnp.number) or dtype == np.bool_
    if isinstance(value, Tracer) or not numeric:
        return graph.fresh(shape, value=value, pinned="meets a constant of unknown values")
    nonzero = np.asarray(value) != 0
    return Tensor(graph.fresh(shape).axes, zero_slices(nonzero), not nonzero.any(), value)
