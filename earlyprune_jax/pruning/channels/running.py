"""Runs the operations of a traced network on arrays that lack the removed channels."""

from collections.abc import Sequence
from typing import Any

import jax

from earlyprune_jax.array_types import Array
from earlyprune_jax.pruning.channels.graph import Kept, Step, Tensor

WITH_DERIVATIVE = ("custom_jvp_call", "custom_vjp_call")

BY_POSITION = ("dynamic_slice", "gather", "pad", "slice", "split")
"""Operations that say by position which entries they take or add: they run on whole arrays, with
zeros for what is gone."""

RESULT_SHAPES = {"broadcast_in_dim": "shape", "reshape": "new_sizes"}
"""Operation -> its parameter that is the shape of the result."""


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
        return bind(step.eqn, values)
    if name in WITH_DERIVATIVE:
        return _call(step, values, kept)
    if not step.inputs or name in BY_POSITION:
        whole = map(kept.spread, step.inputs, values)
        return list(map(kept.of, step.outputs, bind(step.eqn, list(whole))))
    changes = {}
    if name in RESULT_SHAPES:
        result, wanted = step.outputs[0], RESULT_SHAPES[name]
        sizes = zip(step.eqn.params[wanted], result.shape, kept.shape(result), strict=True)
        # Where all is left the size stays as it is given: it may be no number yet.
        changes[wanted] = tuple(size if left == all_ else left for size, all_, left in sizes)
    elif name == "conv_general_dilated" and step.eqn.params["feature_group_count"] > 1:
        # A depthwise kernel has as many groups as input channels are left.
        channels = step.eqn.params["dimension_numbers"].lhs_spec[1]
        changes["feature_group_count"] = kept.shape(step.inputs[0])[channels]
    return bind(step.eqn, values, **changes)


def bind(eqn: Any, values: Sequence[Any], **changes: Any) -> list[Any]:
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
        _, pull_back = jax.vjp(lambda *values: bind(step.eqn, values), *whole)
        pulled = pull_back(list(map(kept.spread, step.outputs, cotangents)))
        return tuple(map(kept.of, step.inputs, pulled))

    call.defvjp(lambda *values: (call(*values), values), backward)
    return list(call(*values))
