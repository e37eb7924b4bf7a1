"""Runs the steps of a traced network on arrays that lack the removed channels."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Array
from earlyprune_jax.pruning.channels.graph import ChannelGraph, Step, Tensor
from earlyprune_jax.pruning.channels.operations import CHANGES, SPECIAL, Kept, bind
from earlyprune_jax.pruning.channels.trace import inline
from earlyprune_jax.validate import unexpected


def run(
    steps: Sequence[Step],
    given: Sequence[Tensor],
    values: Sequence[Array],
    wanted: Sequence[Tensor],
    kept: Kept,
) -> list[Array]:
    """Computes the wanted tensors from the given ones' smaller values."""
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
    """One operation on smaller arrays."""
    name = step.eqn.primitive.name
    if all(kept.shape(tensor) == tensor.shape for tensor in (*step.inputs, *step.outputs)):
        return bind(step.eqn, values, {})
    if name in DERIVED:
        return list(DERIVED[name](step, kept)(*values))
    if name in SPECIAL:
        return [SPECIAL[name](step, values, kept)]
    return bind(step.eqn, values, CHANGES[name](step, kept) if name in CHANGES else {})


def _body(step: Step, kept: Kept) -> Callable[..., list[Any]]:
    return lambda *values: run(step.body or (), step.inputs, values, step.outputs, kept)


def _with_tangents(step: Step, kept: Kept) -> Callable[..., list[Any]]:
    """A call with a forward derivative of its own, e.g. relu, that keeps it on smaller arrays."""
    call, varied = jax.custom_jvp(_body(step, kept)), _varied(step)

    def whole_rule(values: Sequence[Any], tangents: Sequence[Any]) -> Any:
        return jax.jvp(_whole_call(step, values), _chosen(values, varied), tangents)

    def rule(values: Sequence[Any], tangents: Sequence[Any]) -> Any:
        tensors = [*step.inputs, *_chosen(step.inputs, varied)]
        return _run_rule(whole_rule, step, (list(values), _chosen(tangents, varied)), tensors, kept)

    call.defjvp(rule)
    return call


def _with_cotangents(step: Step, kept: Kept) -> Callable[..., list[Any]]:
    """The same for a reverse derivative."""
    call, varied = jax.custom_vjp(_body(step, kept)), _varied(step)

    def whole_rule(values: Sequence[Any], cotangents: Sequence[Any]) -> Any:
        _, pull_back = jax.vjp(_whole_call(step, values), *_chosen(values, varied))
        return pull_back(cotangents)

    def rule(values: Sequence[Any], cotangents: Sequence[Any]) -> Any:
        tensors = [*step.inputs, *step.outputs]
        results = _run_rule(whole_rule, step, (list(values), list(cotangents)), tensors, kept)
        known = dict(zip(varied, results, strict=True))
        return tuple(known.get(place) for place in range(len(values)))

    call.defvjp(lambda *values: (_body(step, kept)(*values), values), rule)
    return call


DERIVED = {"custom_jvp_call": _with_tangents, "custom_vjp_call": _with_cotangents}
"""Calls whose derivative is not that of their body."""


def _varied(step: Step) -> list[int]:
    """The operands that have a derivative."""
    atoms = enumerate(step.eqn.invars)
    return [place for place, atom in atoms if jnp.issubdtype(atom.aval.dtype, jnp.inexact)]


def _chosen(values: Sequence[Any], places: Sequence[int]) -> list[Any]:
    return [values[place] for place in places]


def _whole_call(step: Step, values: Sequence[Any]) -> Callable[..., list[Any]]:
    """The call on whole arrays, as a function of the operands that have a derivative."""

    def call(*varied: Any) -> list[Any]:
        filled = list(values)
        for place, value in zip(_varied(step), varied, strict=True):
            filled[place] = value
        return bind(step.eqn, filled, {})

    return call


def _run_rule(
    rule: Callable[..., Any],
    step: Step,
    args: tuple[Any, ...],
    tensors: Sequence[Tensor],
    kept: Kept,
) -> Any:
    """Traces a derivative rule for whole arrays, and runs what comes out on smaller ones."""
    values, args_tree = jax.tree.flatten(args)
    shapes = [
        jax.ShapeDtypeStruct(tensor.shape, jnp.result_type(value))
        for tensor, value in zip(tensors, values, strict=True)
    ]
    closed, results_shape = jax.make_jaxpr(rule, return_shape=True)(
        *jax.tree.unflatten(args_tree, shapes)
    )
    graph = ChannelGraph(kept.ids.size)
    # Copies, because one tensor may stand for a value and for its tangent.
    given = [dataclasses.replace(tensor) for tensor in tensors]
    wanted = inline(graph, closed.jaxpr, closed.consts, given)
    results = run(graph.steps, given, values, wanted, _extended(kept, graph, step))
    return jax.tree.unflatten(jax.tree.structure(results_shape), results)


def _extended(kept: Kept, graph: ChannelGraph, step: Step) -> Kept:
    """Removes the new ids that are joined to removed ones."""
    labels, old = graph.labels(), kept.ids.size
    gone = np.zeros(graph.num_ids, bool)
    gone[labels[:old][~kept.ids]] = True
    gone[list(graph.pin_reasons(labels))] = False
    if np.any(gone[labels[:old]] == kept.ids):
        remedy = "The network without these channels can be evaluated, not differentiated."
        name = step.eqn.primitive.name
        raise unexpected("derivative", name, "to treat every channel by itself", remedy)
    return Kept(~gone[labels])
