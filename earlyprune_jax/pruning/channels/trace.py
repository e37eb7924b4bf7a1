"""Traces a network to a list of steps with the ids of every axis: the channel functions' base."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import Literal

from earlyprune_jax.pruning.channels.graph import ChannelGraph, Step, Tensor, zero_slices
from earlyprune_jax.pruning.channels.rules import RULES, elementwise
from earlyprune_jax.pruning.trees import split_weights

Apply = Callable[[Any, Any], Any]
"""(variables, inputs) -> outputs, in evaluation mode: pure, and nothing but the outputs comes
out."""

INLINED = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2")
WITH_DERIVATIVE = ("custom_jvp_call", "custom_vjp_call")


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
