"""The Fisher information of a classifier: its trace and diagonal, by layer, with standard errors.

F = (1/N) sum_n E_{y ~ p(y|x_n)} [g g^T], g = d log p(y|x_n) / d params, natural log, BN in
evaluation mode (paper A, Eqs. 3 and 4; Eq. 4's "predicted labels" can be read as `sampled` or
`argmax`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax import layer_hooks
from earlyprune_jax.array_types import PRNGKey
from earlyprune_jax.pruning import select
from earlyprune_jax.pruning.scores.fisher import ESTIMATORS, check_options
from earlyprune_jax.pruning.scores.gradients import weights_of
from earlyprune_jax.pruning.scores.weights import count_problems, nonfinite_problems, require_key
from earlyprune_jax.pruning.selection import Layers
from earlyprune_jax.pruning.trees import named_leaves, repeated_paths
from earlyprune_jax.signals.fisher_run import measure
from earlyprune_jax.signals.fisher_squares import METHODS, signal
from earlyprune_jax.validate import InvalidInput, expected

__all__ = [
    "ESTIMATORS",
    "METHODS",
    "FisherDiagonal",
    "FisherTrace",
    "fisher_diagonal",
    "fisher_trace",
    "signal",
]


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


@dataclasses.dataclass(frozen=True)
class FisherDiagonal(FisherTrace):
    """The diagonal of F, and the numbers of `FisherTrace`.

    Attributes:
        diagonal: the structure of the params, float32, >= 0: the mean over images of E_y [g_i^2];
            zeros where a leaf is no weight. With `layers=None` its sum is `total`.
    """

    diagonal: Any


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
      `nn.Embed`, `nn.BatchNorm`, `nn.LayerNorm`, `nn.RMSNorm` and `nn.GroupNorm`, shared ones
      included. All else (subclasses, own parameters, layers inside `nn.scan`, parameters used
      outside their layer) is measured by vmap, and `notes` say so.
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
        model: a Linen module; or a function (params, images) -> logits [B, C] in evaluation mode,
            e.g. of an NNX state or an Equinox module. No example may depend on another: no method
            could tell. A module is compiled once, a function at every call (what it closes over may
            have changed).
        variables: {"params": ..., "batch_stats": ...} for a module; the params, any pytree, for a
            function.
        images: [N, ...] array, or a pytree of them, on the host or the device.
        key: a PRNG key; used by `sampled`.
        estimator: one of `ESTIMATORS`.
        method: one of `METHODS`; `layerwise` is `vmap` where `model` is a function.
        microbatch_size: images at once; bounds memory, and but for `batch` does not change the
            result beyond rounding. None: see `fisher_run.default_microbatch_size` (1 GiB; 128 for
            `batch`).
        labels: [N] integers, for `empirical`; the others ignore them.
        layers: which leaves `total` sums, as `pruning.select` takes them; None: all. Paper A's
            plots: "conv_kernels".
        apply_options: further arguments of the model. A Linen module is asked for evaluation mode
            by whichever of train, training, is_training, deterministic and use_running_average it
            takes.

    Raises:
        InvalidInput: all problems of the arguments at once; a module that is not in evaluation mode
            or misses variables; logits of another shape, or of one class; logits or gradients that
            are not finite (which image, which layer).

    Source: paper A (Nunez et al.), Eqs. 3 and 4; the identity of `batch` from its code. Layerwise
    norms: Goodfellow 2015, "Efficient per-example gradient computations"; Rochette et al. 2019 for
    convolutions.

    Example:
        >>> from flax import linen as nn
        >>> x = np.array([[1.0, 0.0], [3.0, 0.0]], np.float32)
        >>> zeros = {"params": {"kernel": np.zeros((2, 2), np.float32)}}       # p = 1/2
        >>> module = nn.Dense(2, use_bias=False)
        >>> trace = fisher_trace(module, zeros, x, key=jax.random.key(0), estimator="exact")
        >>> trace.total, trace.standard_error   # the mean of |x|^2 sum_c p_c (1 - p_c) = |x|^2 / 2
        (2.5, 2.0)
    """
    measured = _measured(
        model,
        variables,
        images,
        with_diagonal=False,
        key=key,
        estimator=estimator,
        method=method,
        microbatch_size=microbatch_size,
        labels=labels,
        layers=layers,
        **apply_options,
    )
    return FisherTrace(**measured)


def fisher_diagonal(
    model: Any, variables: Any, images: Any, *, key: PRNGKey, **options: Any
) -> FisherDiagonal:
    """Measures F_ii = (1/N) sum_n E_y [(d log p(y|x_n) / d w_i)^2] of every weight, and tr(F).

    `layerwise` makes the per-example gradients of one layer after the other, never of the whole
    network. `pruning.scores.fisher_diagonal` is the same quantity (from any number of batches, by
    `vmap` or `batch`), as a score.

    Args:
        model: as of `fisher_trace`.
        variables: likewise.
        images: likewise.
        key: a PRNG key.
        options: the other arguments of `fisher_trace`.

    Returns:
        The diagonal, and the numbers of `fisher_trace`.

    Raises:
        InvalidInput: as `fisher_trace`.

    Example:
        >>> logits = lambda params, x: x * params[None]
        >>> x = np.array([[1.0, 0.0], [3.0, 0.0]], np.float32)   # p = 1/2, d log p_0 = x (1/2, 0)
        >>> zeros, key = np.zeros(2, np.float32), jax.random.key(0)
        >>> fisher_diagonal(logits, zeros, x, key=key, estimator="exact").diagonal.tolist()
        [1.25, 0.0]
    """
    measured = _measured(model, variables, images, with_diagonal=True, key=key, **options)
    return FisherDiagonal(**measured)


def _measured(
    model: Any,
    variables: Any,
    images: Any,
    *,
    with_diagonal: bool,
    key: PRNGKey,
    estimator: str = "sampled",
    method: str = "layerwise",
    microbatch_size: int | None = None,
    labels: Any = None,
    layers: Layers | None = None,
    **apply_options: Any,
) -> dict[str, Any]:
    """The fields of `FisherTrace` or `FisherDiagonal`; first every problem of the arguments."""
    problems = check_options(estimator, method, METHODS) + _image_problems(images)
    problems += _problems_of(lambda: require_key(key))
    if microbatch_size is not None:
        problems += count_problems(1, microbatch_size=microbatch_size)
    if estimator == "empirical" and not problems:
        problems += _label_problems(labels, len(jax.tree.leaves(images)[0]))
    problems += _model_problems(model, variables, layers, apply_options)
    if problems:
        raise InvalidInput(problems)
    options = estimator, method, with_diagonal
    microbatching = images, labels, microbatch_size
    return measure(model, variables, options, apply_options, microbatching, key, layers)


def _model_problems(
    model: Any, variables: Any, layers: Layers | None, apply_options: Mapping[str, Any]
) -> list[str]:
    problems = []
    thing, params = "params", variables
    if layer_hooks.is_linen(model):
        problems += layer_hooks.linen_problems(apply_options)
        has_params = isinstance(variables, Mapping) and "params" in variables
        if not has_params:
            given = (
                sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
            )
            allowed = 'to be {"params": ..., "batch_stats": ...}'
            remedy = "Give what module.init returned, not a part of it."
            return [*problems, expected("variables", given, allowed, remedy)]
        thing, params = "variables", variables["params"]
    elif not callable(model):
        allowed = "to be a Linen module or a function (params, images) -> logits"
        problems.append(expected("model", type(model).__name__, allowed))
    of_params = repeated_paths(params) + _problems_of(lambda: weights_of(params))
    if layers is not None and not of_params:
        of_params = _problems_of(lambda: select(params, layers))
    remedy = "Measure a network that has not diverged."
    return problems + of_params + nonfinite_problems(thing, named_leaves(variables), remedy)


def _image_problems(images: Any) -> list[str]:
    leaves = named_leaves(images)
    if not leaves:
        return [expected("images", images, "to hold at least one array")]
    problems = []
    for name, leaf in leaves:
        kind = getattr(leaf, "dtype", type(leaf).__name__)
        is_number = not isinstance(kind, str) and any(
            jnp.issubdtype(kind, numbers) for numbers in (jnp.floating, jnp.integer)
        )
        shape = np.shape(leaf)
        checks = (
            (is_number, "type", str(kind), "to be an array of floats or integers", ""),
            (len(shape) > 1, "shape", shape, "to be [N, ...]", "Axis 0 is the example; add it."),
            (shape[:1] != (0,), "shape", shape, "to hold at least 1 image", "A mean needs one."),
        )
        thing = f"images at {name}" if name else "images"
        failed = [
            expected(f"{thing}, its {what},", given, allowed, remedy)
            for is_good, what, given, allowed, remedy in checks
            if not is_good
        ]
        problems += failed[:1]
    sizes = {name or "the root": np.shape(leaf)[0] for name, leaf in leaves if np.ndim(leaf)}
    if not problems and len(set(sizes.values())) > 1:
        problems.append(expected("number of images", sizes, "to be the same in every array"))
    return problems


def _label_problems(labels: Any, size: int) -> list[str]:
    array = np.asarray(labels)
    if array.shape == (size,) and np.issubdtype(array.dtype, np.integer):
        return []
    given = labels if labels is None else f"{array.dtype}{list(array.shape)}"
    remedy = "The empirical estimator takes the data's labels."
    return [expected("labels", given, f"to be [{size}] integers, one for each image", remedy)]


def _problems_of(check: Callable[[], Any]) -> list[str]:
    try:
        check()
    except InvalidInput as error:
        return list(error.problems)
    return []
