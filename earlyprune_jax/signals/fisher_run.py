"""A measurement of the Fisher information over many images, microbatch by microbatch."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax import taps
from earlyprune_jax.array_types import Array, Params
from earlyprune_jax.pruning.trees import is_weight, named_leaves
from earlyprune_jax.signals import fisher_checks
from earlyprune_jax.signals.fisher_program import compiled_step, prepared, program_of
from earlyprune_jax.signals.fisher_squares import Examples, Squares
from earlyprune_jax.signals.signal import Network

MEMORY_BYTES = 2**30
"""What the default microbatch's gradients and tapped arrays may take together, by a rough count."""

LARGEST_MICROBATCH = {"layerwise": 128, "vmap": 32, "batch": 128}


@dataclasses.dataclass(frozen=True)
class Measured:
    """Sums over all images.

    Attributes:
        names: of the weights.
        values: [weights, units] float64, labels' weights included.
        sizes: [units] images a unit holds.
        diagonal: for each weight its entries' squares, summed over units, or None.
        method: the one that ran.
        notes: what fell back to another, and why.
    """

    names: list[str]
    values: np.ndarray
    sizes: np.ndarray
    diagonal: list[Array] | None
    method: str
    notes: tuple[str, ...]


def measure(
    model: Any,
    variables: Any,
    images: Any,
    *,
    key: Any,
    estimator: str,
    method: str,
    microbatch_size: int | None,
    labels: Any,
    apply_options: Mapping[str, Any],
    with_diagonal: bool,
) -> Measured:
    """Runs the microbatches; the arguments have passed `fisher_checks.require_arguments`."""
    notes: tuple[str, ...] = ()
    if method == "layerwise" and not taps.is_linen(model):
        method, notes = "vmap", ("the whole model by vmap: only Linen modules have layers to tap",)
    if taps.is_linen(model):
        variables = {name: variables[name] for name in variables}
        apply_options = taps.evaluation_options(model, apply_options)
    program, arrays = program_of(model, variables, apply_options, estimator, method, with_diagonal)
    network, params = program.network(arrays)
    looked_at = prepared(program, arrays, images)
    num_classes = fisher_checks.require_logits(looked_at.logits, estimator, labels)
    if looked_at.covered is not None:
        notes = looked_at.covered.notes
    names = [name for name, leaf in named_leaves(params) if is_weight(leaf)]
    size = microbatch_size or default_microbatch_size(
        params, method, looked_at.covered, with_diagonal
    )
    step = compiled_step(program)
    total, values, sizes = None, [], []
    num_passes = num_classes if estimator == "exact" else 1
    for start, batch, examples in _microbatches(images, labels, size, equal=method != "batch"):
        found = np.zeros(())
        for index in range(num_passes):
            squares: Squares = step(arrays, batch, examples, key, index)
            own = np.asarray(squares.values, np.float64)
            _require_finite(squares, own, names, start, network, params, images)
            total = squares.diagonal if total is None else _added(total, squares.diagonal)
            found = found + own
        values.append(found)
        sizes.append(np.asarray(squares.sizes, np.float64))
    return Measured(names, np.concatenate(values, 1), np.concatenate(sizes), total, method, notes)


def default_microbatch_size(
    params: Params, method: str, covered: taps.Coverage | None, with_diagonal: bool
) -> int:
    """The microbatch where none is given: a power of two, or 1.

    `batch`: 128, paper A's batch size; its estimate depends on it. The others' do not: as many
    images as keep the per-example gradients that are held at once (`vmap`: all of them, twice;
    `layerwise`: the tapped inputs and outputs, the gradients of the largest layer, those left to
    vmap) within about 1 GiB; at most 32 for `vmap`, 128 for `layerwise`.
    """
    largest = LARGEST_MICROBATCH[method]
    if method == "batch":
        return largest
    leaves = [math.prod(leaf.shape) if is_weight(leaf) else 0 for leaf in jax.tree.leaves(params)]
    if covered is None:
        floats = 2 * sum(leaves)
    else:
        left = sum(size for place, size in enumerate(leaves) if place not in covered.places)
        own = covered.diagonal_floats if with_diagonal else covered.squares_floats
        floats = covered.activation_floats + own + 2 * left
    fitting = max(1, MEMORY_BYTES // (4 * max(1, floats)))
    return min(largest, 2 ** (fitting.bit_length() - 1))


@functools.partial(jax.jit, donate_argnums=0)
def _added(total: Any, more: Any) -> Any:
    return jax.tree.map(jnp.add, total, more)


def _microbatches(
    images: Any, labels: Any, size: int, *, equal: bool
) -> Iterator[tuple[int, Any, Examples]]:
    """(place of the first image, images, their examples), all of one shape.

    What is missing in the last is filled with its last image at weight 0: an input the network was
    asked to take anyway. If `equal`, the microbatches are as small as their number allows, so that
    little is missing.
    """
    count = fisher_checks.num_examples(images)
    given = np.zeros(count, np.int32) if labels is None else np.asarray(labels).astype(np.int32)
    size = min(size, count)
    number = -(-count // size)
    if equal:
        size = -(-count // number)
    for start in range(0, count, size):
        places = np.arange(start, start + size)
        inside = np.minimum(places, count - 1)
        batch = jax.tree.map(lambda leaf, taken=inside: _taken(leaf, taken), images)
        weights = (places < count).astype(np.float32)
        yield (
            start,
            batch,
            Examples(*map(jnp.asarray, (places.astype(np.int32), given[inside], weights))),
        )


def _taken(leaf: Any, places: np.ndarray) -> Any:
    if places[-1] - places[0] == len(places) - 1:
        return leaf[int(places[0]) : int(places[-1]) + 1]
    return leaf[places]


def _require_finite(
    squares: Squares,
    values: np.ndarray,
    names: list[str],
    start: int,
    network: Network,
    params: Params,
    images: Any,
) -> None:
    def one(place: int) -> Any:
        return jax.tree.map(lambda leaf: leaf[place : place + 1], images)

    def nonfinite_layer(place: int) -> str | None:
        if not network.is_linen:
            return None
        return taps.first_nonfinite(network.apply, {"params": params, **network.fixed}, one(place))

    def images_finite(place: int) -> bool:
        return all(
            np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in jax.tree.leaves(one(place))
        )

    # A microbatch is filled up with its last image.
    last = fisher_checks.num_examples(images) - start
    fisher_checks.require_finite_squares(
        np.asarray(squares.finite)[:last], values, names, start, nonfinite_layer, images_finite
    )
