"""A physically smaller network: the masked one without the channels that its mask removes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Array, Mask
from earlyprune_jax.pruning import masks
from earlyprune_jax.pruning.channels.graph import Tensor, zero_slices
from earlyprune_jax.pruning.channels.operations import Kept
from earlyprune_jax.pruning.channels.steps import run
from earlyprune_jax.pruning.channels.trace import Apply, Trace, all_steps, trace_network
from earlyprune_jax.pruning.trees import is_weight, named_leaves
from earlyprune_jax.validate import InvalidInput, expected, unexpected


def compact(apply: Apply, variables: Any, inputs: Any, mask: Mask) -> tuple[Apply, Any]:
    """Takes the removed channels out of the arrays, and gives the function that computes with the
    rest.

    Removed is every group of coupled channels (see `channel_groups`) with a masked slice whose
    absence cannot show: wherever the network sums over one of its channels, the mask makes one of
    the two factors zero. That holds for every group that is masked wholly, whoever made the mask,
    and whether or not statistics are masked too. It also holds for a channel whose producers
    alone, bias and norm included, or whose readers alone are masked. A channel that is masked only
    in part stays, with zeros; so does the first of a layer of which all could go.

    Guarantees: `compact_apply(compact_variables, inputs)` equals `apply(pruning.apply(mask,
    variables), inputs)` up to the order of summation, for any batch size, dtypes included;
    `variables` need not be masked before. Gradients agree on the entries that are left. It can be
    jitted, differentiated, and its arrays saved like any others.

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
        >>> smaller["a"].shape, smaller["b"].shape, compact_apply(smaller, jnp.ones((2, 1))).tolist()
        ((1, 1), (1, 1), [[1.0], [1.0]])
    """
    masks.check(mask, variables)
    leaves, treedef = jax.tree.flatten(variables)
    weight_places = [place for place, leaf in enumerate(leaves) if is_weight(leaf)]
    mask_leaves = jax.tree.leaves(mask)
    zeros = [zero_slices(np.asarray(mask_leaves[place])) for place in weight_places]
    shapes = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_weight(leaf) else None for leaf in leaves
    ]
    trace = trace_network(apply, variables, inputs, zeros)
    kept = removable(trace)
    chosen = _chosen(trace, kept)

    def compact_apply(variables: Any, inputs: Any) -> Any:
        _check_variables(variables, treedef, weight_places, chosen)
        given = jax.tree.leaves(variables)
        full = [leaf if shape is None else shape for leaf, shape in zip(given, shapes, strict=True)]
        trace = trace_network(apply, jax.tree.unflatten(treedef, full), inputs, zeros)
        kept = removable(trace)
        _check_same(chosen, _chosen(trace, kept), variables, weight_places)
        values = [*(given[place] for place in weight_places), *jax.tree.leaves(inputs)]
        outputs = run(
            trace.graph.steps, [*trace.weights, *trace.inputs], values, trace.outputs, kept
        )
        return jax.tree.unflatten(trace.outputs_tree, outputs)

    left = list(leaves)
    for place, tensor in zip(weight_places, trace.weights, strict=True):
        left[place] = _smaller(leaves[place], mask_leaves[place], tensor, kept)
    return compact_apply, jax.tree.unflatten(treedef, left)


def removable(trace: Trace) -> Kept:
    """Which ids stay: all but those of groups with a masked slice and nothing that pins them."""
    graph = trace.graph
    labels = graph.labels()
    gone = np.zeros(graph.num_ids, bool)
    for tensor in trace.weights:
        for ids, zero in zip(tensor.axes, tensor.zeros, strict=True):
            gone[labels[ids[zero]]] = True
    gone[list(graph.pin_reasons(labels))] = False
    # Neither a weight nor a convolution may become empty; other operations on nothing are sound.
    steps = all_steps(graph.steps)
    convolved = (step for step in steps if step.eqn.primitive.name == "conv_general_dilated")
    operands = (tensor for step in convolved for tensor in (*step.inputs, *step.outputs))
    for tensor in (*trace.weights, *operands):
        for ids in tensor.axes:
            if not isinstance(ids, str) and ids.size and gone[labels[ids]].all():
                gone[labels[ids[0]]] = False
    return Kept(~gone[labels])


def _smaller(value: Any, keep: Any, tensor: Tensor, kept: Kept) -> Array:
    # On the host: an XLA program for every shape would take longer.
    left, keep = kept.of(tensor, np.asarray(value)), kept.of(tensor, np.asarray(keep))
    return jnp.asarray(np.where(keep, left, np.zeros((), left.dtype)))


Chosen = list[tuple[np.ndarray, ...]]
"""For every weight and axis, [n] bool: what is left."""


def _chosen(trace: Trace, kept: Kept) -> Chosen:
    return [
        tuple(kept.along(tensor, place) for place in range(len(tensor.shape)))
        for tensor in trace.weights
    ]


def _check_variables(
    variables: Any, treedef: Any, weight_places: Sequence[int], chosen: Chosen
) -> None:
    remedy = (
        "Give the variables that compact returned, or trained ones of their structure and shapes."
    )
    if (structure := jax.tree.structure(variables)) != treedef:
        raise unexpected("structure of variables", structure, f"to be {treedef}", remedy)
    problems, leaves = [], named_leaves(variables)
    for place, left in zip(weight_places, chosen, strict=True):
        name, leaf = leaves[place]
        wanted = tuple(int(np.count_nonzero(stays)) for stays in left)
        if np.shape(leaf) != wanted:
            problems.append(expected(f"shape at {name}", np.shape(leaf), f"to be {wanted}", remedy))
    if problems:
        raise InvalidInput(problems)


def _check_same(chosen: Chosen, now: Chosen, variables: Any, weight_places: Sequence[int]) -> None:
    names = [name for name, _ in named_leaves(variables)]
    problems = []
    for place, before, after in zip(weight_places, chosen, now, strict=True):
        if not all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)):
            remedy = "For inputs of this shape the network couples its channels in another way."
            problems.append(
                expected("channels left at", names[place], "to be those compact chose", remedy)
            )
    if problems:
        raise InvalidInput(problems)
