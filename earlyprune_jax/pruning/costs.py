"""Multiply-accumulates of every layer, read off the traced computation: any JAX network, no
hooks."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import jax
import numpy as np
from jax.extend import core

from earlyprune_jax.array_types import Mask, Params
from earlyprune_jax.pruning.modules import in_evaluation, require_function
from earlyprune_jax.pruning.trees import is_weight, named_leaves, split_leaves, split_weights
from earlyprune_jax.validate import unexpected

NO_WEIGHTS = "(no weights)"
"""The entry for products of two activations, as in attention, or with a constant of the code."""

Source = frozenset[int]
"""What a value is computed from: indices of weights in the list of weights, and INPUT."""

Sources = list[Source]
Counts = Counter[Source]

INPUT = -1
CONSTANT: Source = frozenset()


def macs(apply: Callable[[Any, Any], Any], params: Params, inputs: Any) -> dict[str, int]:
    """Counts the multiply-accumulates of one example in every weight's products and convolutions.

    A product of shapes [..., k] and [k, ...] costs (elements of the result) x k; a convolution
    (elements of the result) x (kernel size) x (input channels of a group), where positions on zero
    padding count in full, as is usual; or (elements of its input) x (kernel size) x (output
    channels of a group) if that is less, as in a transposed one, between and around whose inputs
    are zeros that nobody multiplies. Biases, normalisation, pooling and embedding
    look-ups cost nothing here. One multiply-accumulate is two FLOPs.

    The function is traced with abstract values at batch size 1, never run: this takes as long as
    tracing, needs no memory, and `params` may be shapes. The weight behind an operand is found
    through any chain of operations that involve no input (casts, transposes, masks, weight
    normalisation; of several weights the largest counts). A weight used twice adds. What depends
    on no input is not paid per example and not counted. Loops count per iteration; of the
    branches of a condition the costliest counts.

    Args:
        apply: (params, inputs) -> anything, in evaluation mode; all other state closed over.
        params: any pytree.
        inputs: an array or a tree of arrays whose first axis runs over examples, or their shapes.

    Returns:
        Path -> multiply-accumulates of one example, for weights that take part in any product;
        then NO_WEIGHTS, if there are products without one.

    Raises:
        InvalidInput: products inside a while loop or a primitive whose repetitions are unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"kernel": jnp.ones((3, 5)), "bias": jnp.ones(5)}
        >>> macs(lambda p, x: x @ p["kernel"] + p["bias"][None], params, jnp.ones((8, 3)))
        {'kernel': 15}
    """
    require_function("apply", apply, "(params, inputs)")
    weights, merge = split_weights(params)
    leaves = jax.tree.leaves(inputs)
    are_arrays = [hasattr(leaf, "dtype") and hasattr(leaf, "shape") for leaf in leaves]
    batches, merge_inputs = split_leaves(inputs, are_arrays)
    one_example = [
        jax.ShapeDtypeStruct((1, *batch.shape[1:])[: batch.ndim], batch.dtype) for batch in batches
    ]
    shapes = [jax.ShapeDtypeStruct(weight.shape, weight.dtype) for weight in weights]
    with in_evaluation():
        traced = jax.make_jaxpr(lambda weights, batch: apply(merge(weights), merge_inputs(batch)))(
            shapes, one_example
        )
    sources = [frozenset({index}) for index in range(len(weights))]
    counts: Counts = Counter()
    _walk(traced.jaxpr, sources + [frozenset({INPUT})] * len(batches), 1, counts)
    # Of several weights behind an operand the largest counts.
    totals: Counter[int] = Counter()
    for source, count in counts.items():
        totals[max(source, key=lambda index: weights[index].size, default=INPUT)] += count
    names = [name for name, leaf in named_leaves(params) if is_weight(leaf)]
    named = {names[index]: totals[index] for index in sorted(totals) if index != INPUT}
    return named | ({NO_WEIGHTS: totals[INPUT]} if INPUT in totals else {})


def macs_left(dense: Mapping[str, int], mask: Mask) -> dict[str, int]:
    """Counts the multiply-accumulates left if removed weights are skipped: dense x kept fraction.

    Exact, because every weight of a leaf takes part equally often (for convolutions with the
    positions on zero padding counted, as `macs` does). Entries without a weight stay as they are.
    Dense hardware skips nothing: this is what a sparse kernel could save at most.

    Args:
        dense: from `macs`.
        mask: bool leaves.

    Example:
        >>> macs_left({"kernel": 40}, {"kernel": np.array([[True, False], [False, False]])})
        {'kernel': 10}
    """
    left = dict(dense)
    for name, leaf in named_leaves(mask):
        if name in dense and np.size(leaf):
            left[name] = round(Fraction(dense[name] * int(np.count_nonzero(leaf)), np.size(leaf)))
    return left


def _walk(jaxpr: Any, sources: Sequence[Source], times: int, counts: Counts) -> Sources:
    """Adds the products of a jaxpr run `times` times, and follows the sources to its results."""
    known: dict[Any, Source] = dict(zip(jaxpr.invars, sources, strict=True))

    def read(atom: Any) -> Source:
        return CONSTANT if isinstance(atom, core.Literal) else known.get(atom, CONSTANT)

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        results = _results(eqn, operands, times, counts)
        known.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _results(eqn: Any, operands: Sources, times: int, counts: Counts) -> Sources:
    """Adds the products of an equation, and finds the sources of its results."""
    name, everything = eqn.primitive.name, CONSTANT.union(*operands)
    if name in ("dot_general", "conv_general_dilated"):
        from_inputs = [INPUT in source for source in operands]
        if any(from_inputs):
            weight = CONSTANT if all(from_inputs) else operands[from_inputs.index(False)]
            counts[weight] += times * (_dot_cost if name == "dot_general" else _conv_cost)(eqn)
        return [everything]
    values = jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns"))
    bodies = [getattr(value, "jaxpr", value) for value in values if hasattr(value, "eqns")]
    if name == "cond":
        trials = [Counter() for _ in bodies]
        pairs = zip(bodies, trials, strict=True)
        results = [_walk(body, operands[1:], times, trial) for body, trial in pairs]
        counts.update(max(trials, key=Counter.total))
        return [operands[0].union(*branches) for branches in zip(*results, strict=True)]
    if name == "scan":
        start, num_carry = eqn.params["num_consts"], eqn.params["num_carry"]
        carried = slice(start, start + num_carry)
        while True:
            trial: Counts = Counter()
            results = _walk(bodies[0], operands, times * eqn.params["length"], trial)
            merged = [old | new for old, new in zip(operands[carried], results, strict=False)]
            # A carry that starts as zeros depends on the inputs from the second iteration on.
            if merged == operands[carried]:
                counts.update(trial)
                return results
            operands[carried] = merged
    if len(bodies) == 1 and len(bodies[0].invars) == len(operands):
        return _walk(bodies[0], operands, times, counts)
    trial = Counter()
    for body in bodies:
        _walk(body, [everything] * len(body.invars), 1, trial)
    if trial:
        remedy = "How often that runs is not in the program: use a scan there."
        raise unexpected("apply", name, "to hold no matrix product or convolution in it", remedy)
    return [everything] * len(eqn.outvars)


def _dot_cost(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = eqn.invars[0].aval.shape
    return eqn.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _conv_cost(eqn: Any) -> int:
    inputs, kernel = (atom.aval for atom in eqn.invars)
    out_axis, in_axis = eqn.params["dimension_numbers"].rhs_spec[:2]
    by_inputs = inputs.size * kernel.size // kernel.shape[in_axis]
    by_outputs = eqn.outvars[0].aval.size * kernel.size // kernel.shape[out_axis]
    return min(by_inputs // eqn.params["feature_group_count"], by_outputs)
