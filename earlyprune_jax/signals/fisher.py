"""The trace of the Fisher information of a classifier, by layer, with standard errors.

F = (1/N) sum_n E_{y ~ p(y|x_n)} [g g^T], g = d log p(y|x_n) / d params, natural log, BN in
evaluation mode (paper A, Eqs. 3 and 4; Eq. 4's "predicted labels" can be read as `sampled` or
`argmax`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from earlyprune_jax import layer_hooks
from earlyprune_jax.array_types import Params, PRNGKey
from earlyprune_jax.models import forward
from earlyprune_jax.pruning import select, trees
from earlyprune_jax.pruning.modules import function_problems
from earlyprune_jax.pruning.scores.fisher import ESTIMATORS as ESTIMATORS
from earlyprune_jax.pruning.scores.fisher import (
    check_options,
    label_rule,
    most_axes,
    require_logits,
)
from earlyprune_jax.pruning.scores.gradients import Examples, microbatches, weights_of
from earlyprune_jax.pruning.scores.weights import count_problems, nonfinite_problems, require_key
from earlyprune_jax.pruning.selection import Layers
from earlyprune_jax.signals.fisher_squares import METHODS, Squares, batch_squares, standard_error
from earlyprune_jax.signals.signal import Network, image_problems, kept_for_modules, label_problems
from earlyprune_jax.validate import InvalidInput, expected, gathering, shortened, unexpected

MEMORY_BYTES = 2**30
"""What the default microbatch's gradients and hooked arrays may take together, by a rough count."""

LARGEST_MICROBATCH = {"layerwise": 128, "vmap": 32, "batch": 128}


@dataclasses.dataclass(frozen=True)
class FisherTrace:
    """tr(F), the mean over images.

    Attributes:
        total: the sum over the counted parameters.
        per_layer: path of a module ("" for the root) -> the sum over its own parameters, counted or
            not.
        per_parameter: path of a leaf -> its value, counted or not. Any set of leaves sums to its
            trace.
        standard_error: of `total`, from the spread over images: std(ddof=1) / sqrt(N) of the
            images' own traces; for `batch` the spread over microbatches, each weighted by its
            images. It holds the draw of labels and images, not that of the network. None for one
            image (one microbatch).
        num_examples: N.
        estimator, method: that ran; `method` is "vmap" where a function was given with "layerwise".
        notes: which modules fell back to vmap, and why.
    """

    total: float
    per_layer: Mapping[str, float]
    per_parameter: Mapping[str, float]
    standard_error: float | None
    num_examples: int
    estimator: str
    method: str
    notes: tuple[str, ...]


def fisher_trace(
    model: Any,
    variables: Any,
    images: Any,
    *,
    key: PRNGKey,
    estimator: str = "sampled",
    method: str = "layerwise",
    microbatch_size: int | None = None,
    labels: Any = None,
    layers: Layers | None = None,
    **apply_options: Any,
) -> FisherTrace:
    """Measures tr(F) = (1/N) sum_n E_y ||d log p(y|x_n) / d params||^2.

    A mean over images and a sum over parameters. Natural log, no division by classes or
    parameters, [0, inf). Estimators, of the expectation over y:

    - `exact`: sum_c p(c|x) ||d log p(c|x)||^2, C passes over the images.
    - `sampled`: one y ~ p(y|x) for each image, unbiased for `exact`. The label is a function of
      (key, the image's place in `images`) alone: every method and microbatch size takes the same.
    - `argmax`: the predicted class (Eq. 4 read literally). Small where the network is sure.
    - `empirical`: the data's `labels`; no estimate of the others (Kunstner et al. 2019).

    Methods:

    - `layerwise`: one backward pass a microbatch. The gradient of a layer's parameters is made of
      its input and its output's cotangent. Exact for `nn.Conv`, `nn.Dense`, `nn.DenseGeneral`,
      `nn.Embed` (`attend` too, so tied output layers), `nn.BatchNorm`, `nn.LayerNorm`,
      `nn.RMSNorm` and `nn.GroupNorm`, shared ones included. All else (subclasses, own parameters,
      layers inside `nn.scan`, parameters used outside their layer) is measured by vmap, and `notes`
      say so.
    - `vmap`: per-example gradients of everything; the reference. Any `model` will do.
    - `batch`: per microbatch, B times the squared norm of the mean gradient (paper A's code, B =
      128). Unbiased for sampled labels only, whose cross terms have mean 0; a larger variance.
      Which images share a microbatch matters.

    Cost (ResNet-20, 128 images, 2 CPU cores), in plain gradients of the same batch: layerwise 0.9
    to 1.1, vmap 1.4 to 1.8, batch 0.9 to 1.05 (benchmarks/fisher.py; it varies with what else the
    cores do); times C for `exact`. Sums over images are kept in float64. On accelerators, whose
    default products round their operands, the methods agree to 1e-5 under
    `jax.default_matmul_precision("highest")` only.

    Args:
        model: a Linen module; or a function (params, images) -> logits in evaluation mode, e.g. of
            an NNX state or an Equinox module. [B, C], or [B, P, C] of P predictions an example,
            such as the words of a sentence, whose log-probabilities are added up. No example may
            depend on another: no method could tell. A module is compiled once, a function at every
            call (what it closes over may have changed).
        variables: {"params": ..., "batch_stats": ...} for a module; the params, any pytree, for a
            function.
        images: [N, ...] array, or a pytree of them, on the host or the device.
        key: a PRNG key; used by `sampled`.
        estimator: one of `ESTIMATORS`.
        method: one of `METHODS`; `layerwise` is `vmap` where `model` is a function.
        microbatch_size: images at once; bounds memory, and but for `batch` does not change the
            result beyond rounding. None: see `default_microbatch_size` (1 GiB; 128 for
            `batch`).
        labels: [N] integers, for `empirical`; the others ignore them.
        layers: which leaves `total` sums, as `pruning.select` takes them; None: all. Paper A's
            plots: "conv_kernels".
        apply_options: further arguments of the model. A Linen module is asked for evaluation mode
            by whichever of train, training, is_training, deterministic and use_running_average it
            takes.

    Returns:
        The trace, by layer and by parameter.

    Raises:
        InvalidInput: all problems of the arguments at once; a module that is not in evaluation mode
            or misses variables; logits of another shape, or of one class; logits or gradients that
            are not finite (which image, which layer).

    Source: paper A, Eqs. 3 and 4; `batch` from its code. Layerwise norms: Goodfellow 2015,
    "Efficient per-example gradient computations"; Rochette et al. 2019 for convolutions.

    Example:
        >>> from flax import linen as nn
        >>> x = np.array([[1.0, 0.0], [3.0, 0.0]], np.float32)
        >>> zeros = {"params": {"kernel": np.zeros((2, 2), np.float32)}}       # p = 1/2
        >>> module = nn.Dense(2, use_bias=False)
        >>> trace = fisher_trace(module, zeros, x, key=jax.random.key(0), estimator="exact")
        >>> trace.total, trace.standard_error   # the mean of |x|^2 sum_c p_c (1 - p_c) = |x|^2 / 2
        (2.5, 2.0)
    """
    problems = check_options(estimator, method, METHODS) + image_problems(images)
    count = 0 if problems else len(jax.tree.leaves(images)[0])
    with gathering(problems):
        require_key(key)
    if microbatch_size is not None:
        problems += count_problems(1, microbatch_size=microbatch_size)
    if estimator == "empirical" and count:
        problems += label_problems(labels, count)
    trees.refuse(problems + _model_problems(model, variables, layers, apply_options))
    notes: tuple[str, ...] = ()
    if forward.is_linen(model):
        params, arrays, run = variables["params"], dict(variables), model
    else:
        weights, merge = trees.split_weights(variables)
        params, arrays = variables, {"params": weights}

        def run(arrays: Any, images: Any, **options: Any) -> Any:
            return model(merge(arrays["params"]), images, **options)

        if method == "layerwise":
            notes = ("the whole model by vmap: only Linen modules have layers to hook",)
            method = "vmap"
    two = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape[1:]), leaf.dtype), images)
    shapes, treedef = jax.tree.flatten((jax.eval_shape(lambda arrays: arrays, arrays), two))
    options = tuple(sorted(forward.mode(model, apply_options, train=False).items()))
    compiled = _compiled(run, options, estimator, method, treedef, tuple(shapes))
    if estimator == "empirical":
        trees.refuse(label_problems(labels, count, compiled.num_classes))
    size = microbatch_size or default_microbatch_size(params, method, compiled.covered)
    if method != "batch":
        # So that little is filled up.
        size = -(-count // -(-count // size))
    names = [name for name, leaf in trees.named_leaves(params) if trees.is_weight(leaf)]
    parts = microbatches(images, count, min(size, count), labels=labels)
    values, sizes = _sums(compiled, arrays, names, parts, key)
    means = values.sum(axis=1) / count
    counted = np.ones(len(means), bool)
    if layers is not None:
        flags = zip(jax.tree.leaves(params), jax.tree.leaves(select(params, layers)), strict=True)
        counted = np.array([take for leaf, take in flags if trees.is_weight(leaf)])
    per_layer: dict[str, float] = {}
    for name, mean in zip(names, means, strict=True):
        module = name.rpartition("/")[0]
        per_layer[module] = per_layer.get(module, 0.0) + float(mean)
    return FisherTrace(
        total=float(means[counted].sum()),
        per_layer=per_layer,
        per_parameter=dict(zip(names, map(float, means), strict=True)),
        standard_error=standard_error(values[counted].sum(axis=0), sizes),
        num_examples=count,
        estimator=estimator,
        method=method,
        notes=compiled.covered.notes if compiled.covered else notes,
    )


def default_microbatch_size(params: Params, method: str, covered: Any) -> int:
    """Chooses the microbatch where none is given: a power of two, or 1.

    `batch`: 128, paper A's batch size; its estimate depends on it. The others' do not: as many
    images as keep the per-example gradients that are held at once (`vmap`: all of them, twice;
    `layerwise`: the hooked inputs and outputs, and the gradients left to vmap) within about 1 GiB;
    at most 32 for `vmap`, 128 for `layerwise`.

    Args:
        params: the network's.
        method: one of `METHODS`.
        covered: a `layer_hooks.Coverage`, for `layerwise`, or None.

    Returns:
        Images per microbatch.
    """
    largest = LARGEST_MICROBATCH[method]
    if method == "batch":
        return largest
    hooks, places = (covered.hooks.values(), covered.places) if covered else ((), ())
    leaves = [leaf for index, leaf in enumerate(jax.tree.leaves(params)) if index not in places]
    floats = 2 * sum(math.prod(leaf.shape) for leaf in leaves if trees.is_weight(leaf))
    floats += sum(hook.activation_floats for hook in hooks)
    fitting = max(1, MEMORY_BYTES // (4 * max(1, floats)))
    return min(largest, 2 ** (fitting.bit_length() - 1))


class _Compiled(NamedTuple):
    """A network looked at through shapes alone, and its step.

    Attributes:
        apply: (arrays, images) -> logits, of a Linen module; None of a function.
        num_classes: C.
        num_passes: over each microbatch.
        covered: what hooks cover, for the layerwise method.
        step: (arrays, batch, examples, key, pass index) -> the squares of one microbatch.
    """

    apply: Callable[..., Any] | None
    num_classes: int
    num_passes: int
    covered: layer_hooks.Coverage | None
    step: Callable[..., Squares]


@kept_for_modules
def _compiled(
    model: Any,
    options: tuple[tuple[str, Any], ...],
    estimator: str,
    method: str,
    treedef: Any,
    shapes: tuple[jax.ShapeDtypeStruct, ...],
) -> _Compiled:
    """Looks at a network through shapes alone, and makes its step.

    Args:
        model: a Linen module, or a function (arrays, images) -> logits.
        options: further arguments of the model.
        estimator: one of `ESTIMATORS`.
        method: one of `METHODS`.
        treedef: of (arrays, two images).
        shapes: the leaves of that.

    Raises:
        InvalidInput: a Linen module that is not in evaluation mode, or misses variables; its
            outputs are no logits.
    """
    is_linen = forward.is_linen(model)
    apply = functools.partial(model.apply if is_linen else model, **dict(options))
    arrays, two = jax.tree.unflatten(treedef, shapes)

    def fisher_step(
        arrays: Any, batch: Any, examples: Examples, key: PRNGKey, pass_index: Any
    ) -> Squares:
        fixed = {name: values for name, values in arrays.items() if name != "params"}
        network, choose = Network(apply, fixed, is_linen), label_rule(estimator, key, pass_index)
        params = arrays["params"]
        return batch_squares(network, params, batch, examples, method=method, choose=choose)

    logits = forward.evaluated(jax.eval_shape, apply, arrays, two)
    require_logits(logits, 2, most_axes(estimator))
    covered = layer_hooks.coverage(apply, arrays, two) if method == "layerwise" else None
    step = jax.jit(fisher_step, compiler_options=memory_options(jax.default_backend()))
    num_passes = logits.shape[-1] if estimator == "exact" else 1
    return _Compiled(apply if is_linen else None, logits.shape[-1], num_passes, covered, step)


def _sums(
    compiled: _Compiled,
    arrays: Any,
    names: list[str],
    parts: Iterable[tuple[Any, Examples]],
    key: PRNGKey,
) -> tuple[np.ndarray, np.ndarray]:
    """Runs the microbatches.

    Args:
        compiled: what is measured.
        arrays: its variables.
        names: of its weights.
        parts: microbatches and what is known of their examples.
        key: for drawn labels.

    Returns:
        Each unit's squares [weights, units] and its number of images [units].

    Raises:
        InvalidInput: logits or gradients that are not finite.
    """
    values, sizes = [], []
    for batch, examples in parts:
        summed: Any = 0.0
        for index in range(compiled.num_passes):
            squares = compiled.step(arrays, batch, examples, key, index)
            # A microbatch is filled up with its last image.
            bad = np.flatnonzero(~np.asarray(squares.finite) & (examples.weights > 0))
            if len(bad):
                raise _nonfinite_logits(compiled.apply, arrays, batch, examples.numbers, bad)
            of_pass = np.asarray(squares.values, np.float64)
            rows, units = np.nonzero(~np.isfinite(of_pass))
            if len(rows):
                things = ", ".join(shortened([names[row] for row in sorted(set(rows))], at_most=8))
                first = examples.numbers[units[0] if of_pass.shape[1] > 1 else 0]
                remedy = f"First for images[{first}], or images near it; its logits are finite."
                raise unexpected(f"gradient at {things}", "not finite", "to be finite", remedy)
            summed = summed + of_pass
        values.append(summed)
        sizes.append(np.asarray(squares.sizes, np.float64))
    return np.concatenate(values, 1), np.concatenate(sizes)


def _nonfinite_logits(
    apply: Callable[..., Any] | None, arrays: Any, batch: Any, numbers: Any, bad: np.ndarray
) -> InvalidInput:
    """Makes the error of logits that are not finite, of the examples at the places `bad`."""
    image = jax.tree.map(lambda leaf: leaf[bad[0] : bad[0] + 1], batch)
    where, leaves = "No single layer could be named.", jax.tree.leaves(image)
    if not all(np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in leaves):
        where = "That image itself is not finite."
    elif apply and (layer := forward.first_nonfinite(apply, arrays, image)):
        where = f"The first output that is not finite is that of the layer {layer}."
    others = f" and of {len(bad) - 1} more near it" if len(bad) > 1 else ""
    return unexpected(
        f"logits of images[{numbers[bad[0]]}]{others}", "not finite", "to be finite", where
    )


@functools.cache
def memory_options(backend: str) -> dict[str, Any]:
    """Finds the options that keep XLA on CPU from holding all layers' arrays at once.

    It would, in order to run layers side by side. ResNet-20, 128 images: 0.22 GiB instead of 0.93
    of intermediate arrays, at the same speed.
    """
    choices: tuple[dict[str, Any], ...] = (
        {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"},
        {"xla_cpu_enable_concurrency_optimized_scheduler": False},  # its name in older releases
    )
    for options in choices if backend == "cpu" else ():
        try:
            jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
        except Exception:  # an XLA that does not have the option: nothing but memory is lost
            continue
        return options
    return {}


def _model_problems(
    model: Any, variables: Any, layers: Layers | None, apply_options: Mapping[str, Any]
) -> list[str]:
    problems, thing, params = [], "params", variables
    if forward.is_linen(model):
        problems += forward.evaluation_problems(apply_options)
        if wrong := forward.variables_problems(variables):
            return problems + wrong
        thing, params = "variables", variables["params"]
    elif not callable(model):
        allowed = "to be a Linen module or a function (params, images) -> logits"
        problems.append(expected("model", type(model).__name__, allowed))
    else:
        problems += function_problems("model", model, "(params, images)")
    with gathering(problems):
        trees.refuse(trees.repeated_paths(params))
        weights_of(params)
        if layers is not None:
            select(params, layers)
    remedy = "Measure a network that has not diverged."
    return problems + nonfinite_problems(thing, trees.named_leaves(variables), remedy)
