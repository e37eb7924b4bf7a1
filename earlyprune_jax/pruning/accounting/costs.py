"""Multiply-accumulates of every layer, read off the traced computation: any JAX network, no
hooks."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from earlyprune_jax.array_types import Mask, Params
from earlyprune_jax.pruning.trees import is_weight, named_leaves, split_weights
from earlyprune_jax.validate import unexpected

NO_WEIGHTS = "(no weights)"
"""The entry for products of two activations, as in attention, or with a constant of the code."""

Source = frozenset[int]
"""What a value is computed from: places of weights in the list of weights, and INPUT."""

INPUT = -1
CONSTANT: Source = frozenset()
CALLS = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2") + (
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
)


def macs(apply: Callable[[Any, Any], Any], params: Params, inputs: Any) -> dict[str, int]:
    """The multiply-accumulates of one example in every weight's convolutions and matrix products.

    A product of shapes [..., k] and [k, ...] costs (elements of the result) x k; a convolution
    (elements of the result) x (kernel size) x (input channels of a group). Positions that fall on
    zero padding count in full, as is usual; a transposed convolution costs (elements of its input)
    x (kernel size) x (output channels of a group). Biases, normalisation, pooling and embedding
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
    weights, merge = split_weights(params)
    batch, static = _one_example(inputs)
    traced = jax.make_jaxpr(lambda weights, batch: apply(merge(weights), static(batch)))(
        [jax.ShapeDtypeStruct(weight.shape, weight.dtype) for weight in weights], batch
    )
    sources = [frozenset({place}) for place in range(len(weights))] + [frozenset({INPUT})] * len(
        batch
    )
    counts: Counter[Source] = Counter()
    _walk(traced.jaxpr, sources, 1, counts)
    return _by_name(
        [name for name, leaf in named_leaves(params) if is_weight(leaf)], weights, counts
    )


def macs_left(dense: Mapping[str, int], mask: Mask) -> dict[str, int]:
    """The multiply-accumulates that remain if removed weights are skipped: dense x kept fraction.

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
    kept = {
        name: (int(np.count_nonzero(leaf)), int(np.size(leaf))) for name, leaf in named_leaves(mask)
    }
    left = {}
    for name, count in dense.items():
        num_kept, size = kept.get(name, (1, 1))
        left[name] = round(count * num_kept / size) if size else count
    return left


def _one_example(inputs: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The shapes of a batch of one, and the function that puts such arrays back among other
    leaves."""
    leaves, treedef = jax.tree.flatten(inputs)
    places = [
        place
        for place, leaf in enumerate(leaves)
        if hasattr(leaf, "dtype") and hasattr(leaf, "shape")
    ]

    def merge(arrays: list[Any]) -> Any:
        filled = dict(enumerate(leaves)) | dict(zip(places, arrays, strict=True))
        return jax.tree.unflatten(treedef, list(filled.values()))

    shapes = [(1, *leaves[place].shape[1:])[: leaves[place].ndim] for place in places]
    dtypes = [leaves[place].dtype for place in places]
    return list(map(jax.ShapeDtypeStruct, shapes, dtypes)), merge


def _by_name(names: list[str], weights: list[Any], counts: Counter[Source]) -> dict[str, int]:
    totals: Counter[int] = Counter()
    for source, count in counts.items():
        totals[max(source, key=lambda place: weights[place].size, default=INPUT)] += count
    named = {names[place]: totals[place] for place in sorted(totals) if place != INPUT}
    return named | ({NO_WEIGHTS: totals[INPUT]} if INPUT in totals else {})


def _walk(
    jaxpr: Any, sources: Sequence[Source], times: int, counts: Counter[Source]
) -> list[Source]:
    """Adds the products of a jaxpr run `times` times, and follows the sources to its results."""
    known: dict[Any, Source] = dict(zip(jaxpr.invars, sources, strict=True))

    def read(atom: Any) -> Source:
        return CONSTANT if isinstance(atom, core.Literal) else known.get(atom, CONSTANT)

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        handle = _HANDLERS.get(equation.primitive.name, _elementary)
        known.update(zip(equation.outvars, handle(equation, operands, times, counts), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _elementary(
    equation: Any, operands: list[Source], times: int, counts: Counter[Source]
) -> list[Source]:
    if any(_has_product(body) for body in _bodies(equation)):
        name = equation.primitive.name
        remedy = "How often that runs is not in the program: use a scan there."
        raise unexpected("apply", name, "to hold no matrix product or convolution in it", remedy)
    return [CONSTANT.union(*operands)] * len(equation.outvars)


def _product(
    equation: Any, operands: list[Source], times: int, counts: Counter[Source]
) -> list[Source]:
    from_inputs = [INPUT in source for source in operands]
    if any(from_inputs):
        weight = CONSTANT if all(from_inputs) else operands[from_inputs.index(False)]
        cost = _dot_cost if equation.primitive.name == "dot_general" else _conv_cost
        counts[weight] += times * cost(equation)
    return [CONSTANT.union(*operands)]


def _dot_cost(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _conv_cost(equation: Any) -> int:
    inputs, kernel = (atom.aval for atom in equation.invars)
    out_axis, in_axis = equation.params["dimension_numbers"].rhs_spec[:2]
    if math.prod(equation.params["lhs_dilation"]) > 1:
        # Transposed: the zeros between the inputs are never multiplied by a sensible
        # implementation.
        groups = equation.params["feature_group_count"]
        return inputs.size * (kernel.size // kernel.shape[in_axis]) // groups
    return equation.outvars[0].aval.size * (kernel.size // kernel.shape[out_axis])


def _call(
    equation: Any, operands: list[Source], times: int, counts: Counter[Source]
) -> list[Source]:
    (body,) = _bodies(equation)
    return _walk(body, operands, times, counts)


def _scan(
    equation: Any, operands: list[Source], times: int, counts: Counter[Source]
) -> list[Source]:
    start, num_carry = equation.params["num_consts"], equation.params["num_carry"]
    carried = slice(start, start + num_carry)
    (body,) = _bodies(equation)
    while True:
        trial: Counter[Source] = Counter()
        results = _walk(body, operands, times * equation.params["length"], trial)
        merged = [old | new for old, new in zip(operands[carried], results, strict=False)]
        # A carry that starts as zeros depends on the inputs from the second iteration on.
        if merged == operands[carried]:
            counts.update(trial)
            return results
        operands[carried] = merged


def _cond(
    equation: Any, operands: list[Source], times: int, counts: Counter[Source]
) -> list[Source]:
    trials = [Counter() for _ in _bodies(equation)]
    results = [
        _walk(body, operands[1:], times, trial)
        for body, trial in zip(_bodies(equation), trials, strict=True)
    ]
    counts.update(max(trials, key=Counter.total))
    return [operands[0].union(*branches) for branches in zip(*results, strict=True)]


def _bodies(equation: Any) -> Iterator[Any]:
    for value in jax.tree.leaves(
        list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
    ):
        if hasattr(value, "eqns"):
            yield getattr(value, "jaxpr", value)


def _has_product(jaxpr: Any) -> bool:
    return any(
        equation.primitive.name in ("dot_general", "conv_general_dilated")
        or any(_has_product(body) for body in _bodies(equation))
        for equation in jaxpr.eqns
    )


_HANDLERS: dict[str, Callable[..., list[Source]]] = {
    "dot_general": _product,
    "conv_general_dilated": _product,
    "scan": _scan,
    "cond": _cond,
} | dict.fromkeys(CALLS, _call)
