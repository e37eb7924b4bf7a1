"""What is compiled for a measurement of the Fisher information, and kept between measurements."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from earlyprune_jax import taps
from earlyprune_jax.array_types import Array, Params
from earlyprune_jax.signals.fisher_squares import Examples, Squares, batch_squares, label_rule
from earlyprune_jax.signals.signal import Network


@dataclasses.dataclass(frozen=True)
class Program:
    """What decides which function is compiled: everything but arrays.

    Attributes:
        model: a Linen module or a function (params, images) -> logits.
        options: further arguments of the model, sorted.
        estimator, method, with_diagonal: as `fisher_squares` takes them.
        treedef: of the variables (of the params, for a function).
        others: its leaves that are no arrays, None where they are.
    """

    model: Any
    options: tuple[tuple[str, Any], ...]
    estimator: str
    method: str
    with_diagonal: bool
    treedef: Any
    others: tuple[Any, ...]

    def network(self, arrays: list[Any]) -> tuple[Network, Params]:
        """The network, and its parameters, from the variables' arrays."""
        filled = iter(arrays)
        leaves = [next(filled) if other is None else other for other in self.others]
        variables = jax.tree.unflatten(self.treedef, leaves)
        options = dict(self.options)
        if not taps.is_linen(self.model):
            return Network(
                lambda variables, images: self.model(variables["params"], images, **options),
                {},
                is_linen=False,
            ), variables
        fixed = {name: values for name, values in variables.items() if name != "params"}
        return Network(
            functools.partial(_apply_linen, self.model, options), fixed, True
        ), variables["params"]


def _apply_linen(
    module: Any, options: Mapping[str, Any], variables: Any, images: Any, **linen: Any
) -> Any:
    return module.apply(variables, images, **options, **linen)


def program_of(
    model: Any,
    variables: Any,
    options: Mapping[str, Any],
    estimator: str,
    method: str,
    with_diagonal: bool,
) -> tuple[Program, list[Any]]:
    """The program, and the arrays that `Program.network` takes."""
    leaves, treedef = jax.tree.flatten(variables)
    is_array = [hasattr(leaf, "dtype") and hasattr(leaf, "shape") for leaf in leaves]
    arrays = [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]
    others = tuple(None if array else leaf for leaf, array in zip(leaves, is_array, strict=True))
    named = tuple(sorted(options.items()))
    return Program(model, named, estimator, method, with_diagonal, treedef, others), arrays


def _kept_for_modules(make: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps what is made of a program (and shapes) of a Linen module.

    Not of a function: what it closes over, batch statistics say, may be others at the next call.
    """
    kept = functools.lru_cache(maxsize=32)(make)

    def get(program: Program, *shapes: Any) -> Any:
        try:
            hash(program)
        except TypeError:  # options or attributes that cannot be compared: arrays, lists
            return make(program, *shapes)
        return kept(program, *shapes) if taps.is_linen(program.model) else make(program, *shapes)

    return get


@_kept_for_modules
def compiled_step(program: Program) -> Callable[..., Squares]:
    """The compiled measurement of one microbatch."""

    def fisher_step(
        arrays: list[Any], batch: Any, examples: Examples, key: Any, pass_index: Array
    ) -> Squares:
        network, params = program.network(arrays)
        return batch_squares(
            network,
            params,
            batch,
            examples,
            method=program.method,
            choose=label_rule(program.estimator, key, pass_index),
            with_diagonal=program.with_diagonal,
        )

    return jax.jit(fisher_step, compiler_options=memory_options(jax.default_backend()))


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What is known of a network before it runs.

    Attributes:
        logits: the shape and type of the logits of two images.
        covered: what can be tapped, for the layerwise method.
    """

    logits: Any
    covered: taps.Coverage | None


def prepared(program: Program, arrays: list[Any], images: Any) -> Prepared:
    """What the program's network looks like, for arrays and images of these shapes.

    Raises:
        InvalidInput: a Linen module that is not in evaluation mode, or misses variables.
    """
    leaves, treedef = jax.tree.flatten(images)
    own = tuple((leaf.shape, leaf.dtype) for leaf in arrays)
    return _prepared_for(
        program, own, treedef, tuple((leaf.shape[1:], leaf.dtype) for leaf in leaves)
    )


@_kept_for_modules
def _prepared_for(program: Program, own: Any, treedef: Any, images: Any) -> Prepared:
    """Looks at a network through shapes alone; refuses one that is not in evaluation mode."""
    network, params = program.network([jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in own])
    variables = {"params": params, **network.fixed}
    two = [jax.ShapeDtypeStruct((2, *shape), dtype) for shape, dtype in images]
    batch = jax.tree.unflatten(treedef, two)
    covered = None
    if program.method == "layerwise":
        covered = taps.coverage(network.apply, variables, batch)
    return Prepared(taps.evaluated(_logits_shape, network, variables, batch), covered)


def _logits_shape(network: Network, variables: Any, batch: Any) -> Any:
    """`jax.eval_shape` where some leaves may be no arrays: those are used as they are."""
    leaves, treedef = jax.tree.flatten(variables)
    is_array = [isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves]

    def logits(arrays: list[Any], batch: Any) -> Any:
        filled = iter(arrays)
        merged = [
            next(filled) if array else leaf for leaf, array in zip(leaves, is_array, strict=True)
        ]
        return network.apply(jax.tree.unflatten(treedef, merged), batch)

    arrays = [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]
    return jax.eval_shape(logits, arrays, batch)


@functools.cache
def memory_options(backend: str) -> dict[str, Any]:
    """Keeps XLA on CPU from holding all layers' arrays at once in order to run layers side by side.

    ResNet-20, 128 images: 0.22 GiB instead of 0.93 of intermediate arrays, at the same speed.
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
