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
from earlyprune_jax.pruning.channels.running import WITH_DERIVATIVE, bind, run
from earlyprune_jax.pruning.channels.symbolic import (
    is_unknown,
    numbers,
    unknown_axes,
    with_numbers,
)
from earlyprune_jax.pruning.modules import in_evaluation, require_function
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

LARGEST_INDEX = 4096
"""Constants of whole numbers are computed while tracing up to so many entries."""


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
    of their own, such as relu. It can be jitted, exported by `jax.export` with a symbolic batch
    size, and pickled where `apply` can; its arrays are saved like any others.

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
    shapes = [jax.ShapeDtypeStruct(weight.shape, weight.dtype) for weight in weights]
    zeros = [zero_slices(keep) for keep in keeps]
    trace = trace_network(apply, variables, inputs, zeros)
    kept = removable(trace)
    # On the host: an XLA program for every shape would take longer.
    masked = [np.where(k, w, np.zeros((), w.dtype)) for k, w in zip(keeps, weights, strict=True)]
    smaller = [jnp.asarray(kept.of(t, w)) for t, w in zip(trace.weights, masked, strict=True)]
    # Other leaves, such as functions, are those of the variables that are given.
    like_weights = iter(shapes)
    whole = jax.tree.unflatten(
        jax.tree.structure(variables), [is_w and next(like_weights) for is_w in are_weights]
    )
    return CompactNetwork(apply, whole, zeros, left_slices(trace, kept)), merge(smaller)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CompactNetwork:
    """The function that `compact` makes: (variables, inputs) -> outputs.

    Attributes:
        apply: the unpruned network's.
        whole: the unpruned variables with shapes for weights, and False for what else there is.
        zeros: for every weight and axis, [n] bool: the slices that the mask makes zero.
        left: likewise, those that are left.
    """

    apply: Apply
    whole: Any
    zeros: Sequence[tuple[np.ndarray, ...]]
    left: Sequence[tuple[np.ndarray, ...]]

    def __call__(self, variables: Any, inputs: Any) -> Any:
        """Traces the unpruned network for these inputs, and runs it without what is gone."""
        given, merge = self._split(variables)
        now = trace_network(self.apply, merge(split_weights(self.whole)[0]), inputs, self.zeros)
        kept = removable(now)
        remedy = "For inputs of this shape the network couples its channels in another way."
        pairs = zip(self._names(), self.left, left_slices(now, kept), strict=True)
        refuse(
            expected("channels left at", name, "to be those compact chose", remedy)
            for name, before, after in pairs
            if not all(map(np.array_equal, before, after))
        )
        tensors, values = [*now.weights, *now.inputs], [*given, *jax.tree.leaves(inputs)]
        outputs = run(now.graph.steps, tensors, values, now.outputs, kept)
        return jax.tree.unflatten(now.outputs_tree, outputs)

    def _names(self) -> list[str]:
        return [name for name, leaf in named_leaves(self.whole) if is_weight(leaf)]

    def _split(self, variables: Any) -> tuple[list[Array], Callable[[Sequence[Any]], Any]]:
        """Splits the weights off variables that have the structure and the sizes that are left."""
        remedy = "Give the variables that compact returned, or trained ones of their structure."
        structure, wanted = jax.tree.structure(variables), jax.tree.structure(self.whole)
        if structure != wanted:
            raise unexpected("structure of variables", structure, f"to be {wanted}", remedy)
        given, merge = split_leaves(variables, map(is_weight, jax.tree.leaves(self.whole)))
        sizes = [tuple(int(np.count_nonzero(left)) for left in axes) for axes in self.left]
        refuse(
            expected(f"shape at {name}", np.shape(leaf), f"to be {size}", remedy)
            for name, leaf, size in zip(self._names(), given, sizes, strict=True)
            if np.shape(leaf) != size
        )
        return given, merge


def left_slices(trace: Trace, kept: Kept) -> list[tuple[np.ndarray, ...]]:
    """Marks for every weight and axis, [n] bool, the slices that are left."""
    return [tuple(kept.ids[ids] for ids in tensor.axes) for tensor in trace.weights]


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
    require_function("apply", apply)
    leaves, merge = split_weights(variables)
    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    with in_evaluation():
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
    sizes = [numbers(tuple(variable.aval.shape)) for variable in input_variables]
    given = [graph.fresh(shape, pinned="belongs to the inputs") for shape in sizes]
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
    if (index := _known_index(eqn, inputs)) is not None:
        return [constant(graph, index)]
    outer, body = graph.steps, None
    if name in WITH_DERIVATIVE:
        graph.steps = []
        outputs = inline(graph, *body_of(eqn), inputs)
        graph.steps, body = outer, tuple(graph.steps)
    else:
        outputs = RULES.get(name, elementwise)(graph, with_numbers(eqn), inputs)
    for variable, tensor in zip(eqn.outvars, outputs, strict=True):
        graph.pin(tensor.select(unknown_axes(variable)).axes, "has a size that is not known yet")
    graph.steps.append(Step(eqn, tuple(inputs), tuple(outputs), body))
    return outputs


def _known_index(eqn: Any, inputs: Sequence[Tensor]) -> Any:
    """Computes whole numbers that depend on constants alone, such as what a slice takes."""
    values = [tensor.value for tensor in inputs]
    if eqn.effects or len(eqn.outvars) != 1 or eqn.primitive.name in WITH_DERIVATIVE:
        return None
    if any(value is None or isinstance(value, Tracer) for value in values):
        return None
    result, sizes = eqn.outvars[0].aval, jax.tree.leaves(eqn.params)
    is_index = jnp.issubdtype(result.dtype, jnp.integer) and not any(map(is_unknown, sizes))
    if not is_index or result.size > LARGEST_INDEX:
        return None
    with jax.ensure_compile_time_eval():
        return np.asarray(bind(eqn, values)[0])


def body_of(eqn: Any) -> tuple[Any, Sequence[Any]]:
    """Returns the jaxpr inside a call, and its constants."""
    params = eqn.params
    inner = params.get("jaxpr") or params.get("call_jaxpr") or params["fun_jaxpr"]
    return (inner.jaxpr, inner.consts) if hasattr(inner, "consts") else (inner, ())


def constant(graph: ChannelGraph, value: Any) -> Tensor:
    """Makes the tensor of a constant: it may lose whatever what it meets loses."""
    shape, dtype = numbers(np.shape(value)), jnp.result_type(value)
    numeric = jnp.issubdtype(dtype, jnp.number) or dtype == np.bool_
    if isinstance(value, Tracer) or not numeric:
        return graph.fresh(shape, value=value, pinned="meets a constant of unknown values")
    nonzero = np.asarray(value) != 0
    return Tensor(graph.fresh(shape).axes, zero_slices(nonzero), not nonzero.any(), value)
