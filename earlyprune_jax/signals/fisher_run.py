"""A measurement of the Fisher information over many images, microbatch by microbatch."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax import layer_hooks
from earlyprune_jax.array_types import Array, Params
from earlyprune_jax.pruning.scores.fisher import (
    label_rule,
    require_logits,
)
from earlyprune_jax.pruning.scores.gradients import Examples, microbatches, scores_like
from earlyprune_jax.pruning.selection import Layers, select
from earlyprune_jax.pruning.trees import is_weight, named_leaves, split_weights
from earlyprune_jax.signals.fisher_squares import Squares, batch_squares, standard_error
from earlyprune_jax.signals.signal import Network, kept_for_modules
from earlyprune_jax.validate import shortened, unexpected

MEMORY_BYTES = 2**30
"""What the default microbatch's gradients and hooked arrays may take together, by a rough count."""

LARGEST_MICROBATCH = {"layerwise": 128, "vmap": 32, "batch": 128}


def measure(
    model: Any,
    variables: Any,
    options: tuple[str, str, bool],
    apply_options: Mapping[str, Any],
    microbatching: tuple[Any, Any, int | None],
    key: Any,
    layers: Layers | None,
) -> dict[str, Any]:
    """Runs the microbatches of a measurement whose arguments have been checked.

    Args:
        model: as of `fisher_trace`.
        variables: likewise.
        options: estimator, method, whether the diagonal is wanted.
        apply_options: further arguments of the model.
        microbatching: images, their labels, how many at once or None.
        key: a PRNG key.
        layers: which leaves are counted.

    Returns:
        The fields of `FisherTrace`, and `diagonal` if it is wanted.
    """
    estimator, method, with_diagonal = options
    images, labels, size = microbatching
    prepared, arrays = _prepared_for(model, variables, images, options, apply_options)
    if estimator == "empirical":
        _require_labels(np.asarray(labels), prepared.num_classes)
    network, params = prepared.network_of(arrays)
    names = [name for name, leaf in named_leaves(params) if is_weight(leaf)]
    count = len(jax.tree.leaves(images)[0])
    size = size or default_microbatch_size(params, prepared.method, prepared.covered, with_diagonal)
    if method != "batch":
        # As small as the number of microbatches allows, so that little is filled up.
        size = -(-count // -(-count // size))
    total, values, sizes = None, [], []
    for batch, examples in microbatches(images, count, min(size, count), labels=labels):
        summed = np.zeros(())
        for index in range(prepared.num_classes if estimator == "exact" else 1):
            squares: Squares = prepared.step(arrays, batch, examples, key, index)
            of_pass = np.asarray(squares.values, np.float64)
            _require_finite(squares, of_pass, names, examples, network, params, batch)
            total = squares.diagonal if total is None else _added(total, squares.diagonal)
            summed = summed + of_pass
        values.append(summed)
        sizes.append(np.asarray(squares.sizes, np.float64))
    fields = _fields(params, names, layers, np.concatenate(values, 1), np.concatenate(sizes))
    fields |= {"estimator": estimator, "method": prepared.method, "notes": prepared.notes}
    if with_diagonal:
        means = [np.asarray(leaf, np.float32) / count for leaf in total or []]
        fields["diagonal"] = scores_like(params, means)
    return fields


def _fields(
    params: Params, names: list[str], layers: Layers | None, values: np.ndarray, sizes: np.ndarray
) -> dict[str, Any]:
    """The numbers of `FisherTrace`.

    Args:
        params: of the network.
        names: of its weights.
        layers: which are counted.
        values: [weights, units] float64, labels' weights included.
        sizes: [units] images a unit holds.
    """
    size = int(sizes.sum())
    means = values.sum(axis=1) / size
    counted = np.ones(len(means), bool)
    if layers is not None:
        flags = zip(jax.tree.leaves(params), jax.tree.leaves(select(params, layers)), strict=True)
        counted = np.array([take for leaf, take in flags if is_weight(leaf)])
    per_layer: dict[str, float] = {}
    for name, mean in zip(names, means, strict=True):
        module = name.rpartition("/")[0]
        per_layer[module] = per_layer.get(module, 0.0) + float(mean)
    return {
        "total": float(means[counted].sum()),
        "per_layer": per_layer,
        "per_parameter": dict(zip(names, map(float, means), strict=True)),
        "standard_error": standard_error(values[counted].sum(axis=0), sizes),
        "num_examples": size,
    }


def default_microbatch_size(
    params: Params, method: str, covered: layer_hooks.Coverage | None, with_diagonal: bool
) -> int:
    """Chooses the microbatch where none is given: a power of two, or 1.

    `batch`: 128, paper A's batch size; its estimate depends on it. The others' do not: as many
    images as keep the per-example gradients that are held at once (`vmap`: all of them, twice;
    `layerwise`: the hooked inputs and outputs, the gradients of the largest layer, those left to
    vmap) within about 1 GiB; at most 32 for `vmap`, 128 for `layerwise`.

    Args:
        params: the network's.
        method: one of `fisher_squares.METHODS`.
        covered: what can be hooked, for `layerwise`.
        with_diagonal: whether the squares of single entries are wanted.
    """
    largest = LARGEST_MICROBATCH[method]
    if method == "batch":
        return largest
    leaves = [math.prod(leaf.shape) if is_weight(leaf) else 0 for leaf in jax.tree.leaves(params)]
    if covered is None:
        floats = 2 * sum(leaves)
    else:
        left = sum(size for place, size in enumerate(leaves) if place not in covered.places)
        floats = covered.floats(diagonal=with_diagonal) + 2 * left
    fitting = max(1, MEMORY_BYTES // (4 * max(1, floats)))
    return min(largest, 2 ** (fitting.bit_length() - 1))


@dataclasses.dataclass(frozen=True)
class _Prepared:
    """What is known of a network before it runs, and its compiled measurement.

    Attributes:
        method: that runs.
        network_of: arrays -> the network and its parameters.
        num_classes: C.
        covered: what can be hooked, for the layerwise method.
        step: (arrays, batch, examples, key, pass index) -> the squares of one microbatch.
        notes: what falls back to another method, and why.
    """

    method: str
    network_of: Callable[[Any], tuple[Network, Params]]
    num_classes: int
    covered: layer_hooks.Coverage | None
    step: Callable[..., Squares]
    notes: tuple[str, ...]


def _prepared_for(
    model: Any,
    variables: Any,
    images: Any,
    options: tuple[str, str, bool],
    apply_options: Mapping[str, Any],
) -> tuple[_Prepared, Any]:
    """A network prepared, and the arrays that it is run with."""
    if layer_hooks.is_linen(model):
        arrays, merge = {name: variables[name] for name in variables}, _as_it_is
        apply_options = layer_hooks.evaluation_options(model, apply_options)
    else:
        arrays, merge = split_weights(variables)
    two = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape[1:]), leaf.dtype), images)
    leaves, treedef = jax.tree.flatten((jax.tree.map(_shape, arrays), two))
    named = tuple(sorted(apply_options.items()))
    return _prepared(model, named, options, treedef, tuple(leaves), merge), arrays


@kept_for_modules
def _prepared(
    model: Any,
    options: tuple[tuple[str, Any], ...],
    how: tuple[str, str, bool],
    treedef: Any,
    shapes: tuple[jax.ShapeDtypeStruct, ...],
    merge: Callable[[Any], Any],
) -> _Prepared:
    """Looks at a network through shapes alone, and makes its step.

    Args:
        model: a Linen module or a function (params, images) -> logits.
        options: further arguments of the model.
        how: estimator, method, whether the diagonal is wanted.
        treedef: of (arrays, two images).
        shapes: the leaves of that.
        merge: arrays -> the variables of a module, the params of a function.

    Raises:
        InvalidInput: a Linen module that is not in evaluation mode, or misses variables; its
            outputs are no logits.
    """
    estimator, method, with_diagonal = how
    notes: tuple[str, ...] = ()
    if method == "layerwise" and not layer_hooks.is_linen(model):
        method, notes = (
            "vmap",
            ("the whole model by vmap: only Linen modules have layers to hook",),
        )
    arrays, two = jax.tree.unflatten(treedef, shapes)

    def apply(variables: Any, images: Any, **linen_options: Any) -> Any:
        if layer_hooks.is_linen(model):
            return model.apply(variables, images, **dict(options), **linen_options)
        return model(variables["params"], images, **dict(options))

    def network_of(arrays: Any) -> tuple[Network, Params]:
        if not layer_hooks.is_linen(model):
            return Network(apply, {}, is_linen=False), merge(arrays)
        fixed = {name: values for name, values in arrays.items() if name != "params"}
        return Network(apply, fixed, is_linen=True), arrays["params"]

    def logits_of(arrays: Any, images: Any) -> Any:
        network, params = network_of(arrays)
        return network.apply({"params": params, **network.fixed}, images)

    def fisher_step(
        arrays: Any, batch: Any, examples: Examples, key: Any, pass_index: Array
    ) -> Squares:
        return batch_squares(
            *network_of(arrays),
            batch,
            examples,
            method=method,
            choose=label_rule(estimator, key, pass_index),
            with_diagonal=with_diagonal,
        )

    logits = layer_hooks.evaluated(jax.eval_shape, logits_of, arrays, two)
    require_logits(logits, 2)
    covered = layer_hooks.coverage(apply, arrays, two) if method == "layerwise" else None
    step = jax.jit(fisher_step, compiler_options=memory_options(jax.default_backend()))
    notes = covered.notes if covered else notes
    return _Prepared(method, network_of, logits.shape[1], covered, step, notes)


def _require_labels(labels: np.ndarray, num_classes: int) -> None:
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        more = f" and {len(outside) - 1} more" if len(outside) > 1 else ""
        allowed = f"in [0, {num_classes}), as the logits have"
        raise unexpected(f"labels[{outside[0]}]{more}", int(labels[outside[0]]), allowed)


def _as_it_is(variables: Any) -> Any:
    return variables


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    array = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


@functools.partial(jax.jit, donate_argnums=0)
def _added(total: Any, more: Any) -> Any:
    return jax.tree.map(jnp.add, total, more)


def _require_finite(
    squares: Squares,
    values: np.ndarray,
    names: list[str],
    examples: Examples,
    network: Network,
    params: Params,
    batch: Any,
) -> None:
    """Refuses logits or gradients of a microbatch that are not finite, saying where."""
    # A microbatch is filled up with its last image.
    bad = np.flatnonzero(~np.asarray(squares.finite) & (examples.weights > 0))
    if len(bad):
        image = jax.tree.map(lambda leaf: leaf[bad[0] : bad[0] + 1], batch)
        variables = {"params": params, **network.fixed}
        if not all(
            np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in jax.tree.leaves(image)
        ):
            where = "That image itself is not finite."
        elif network.is_linen and (
            layer := layer_hooks.first_nonfinite(network.apply, variables, image)
        ):
            where = f"The first output that is not finite is that of the layer {layer}."
        else:
            where = "No single layer could be named: it is in nn.scan, or no Linen module's."
        others = f" and of {len(bad) - 1} more near it" if len(bad) > 1 else ""
        thing = f"logits of images[{examples.numbers[bad[0]]}]{others}"
        raise unexpected(thing, "not finite", "to be finite", where)
    rows, units = np.nonzero(~np.isfinite(values))
    if len(rows):
        shown = shortened([names[row] for row in sorted(set(rows))], at_most=8)
        first = examples.numbers[units[0] if values.shape[1] > 1 else 0]
        remedy = f"First for images[{first}], or with images near it; its logits are finite."
        raise unexpected(f"gradient at {', '.join(shown)}", "not finite", "to be finite", remedy)


@functools.cache
def memory_options(backend: str) -> dict[str, Any]:
    """Finds the options that keep XLA on CPU from holding all layers' arrays at once.

    It would, in order to run layers side by side. ResNet-20, 128 images: 0.22 GiB instead of 0.93
    of intermediate arrays, at the same speed.
    """
    for options in _MEMORY_OPTIONS if backend == "cpu" else ():
        try:
            jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
        except Exception:  # an XLA that does not have the option: nothing but memory is lost
            continue
        return options
    return {}


_MEMORY_OPTIONS: tuple[dict[str, Any], ...] = (
    {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"},
    {"xla_cpu_enable_concurrency_optimized_scheduler": False},  # its name in older releases
)
