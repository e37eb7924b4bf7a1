"""The Fisher information of a classifier: its trace and diagonal, by layer, with standard errors.

F = (1/N) sum_n E_{y ~ p(y|x_n)} [g g^T], g = d log p(y|x_n) / d params, natural log, BN in
evaluation mode (paper A, Eqs. 3 and 4; Eq. 4's "predicted labels" can be read as `sampled` or
`argmax`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from earlyprune_jax.array_types import Params, PRNGKey
from earlyprune_jax.pruning import select
from earlyprune_jax.pruning.scores.gradients import scores_like
from earlyprune_jax.pruning.selection import Layers
from earlyprune_jax.pruning.trees import is_weight
from earlyprune_jax.signals import fisher_run
from earlyprune_jax.signals.fisher_checks import check_options, require_arguments
from earlyprune_jax.signals.fisher_run import Measured
from earlyprune_jax.signals.fisher_signal import signal
from earlyprune_jax.signals.fisher_squares import ESTIMATORS, METHODS, standard_error
from earlyprune_jax.taps import is_linen

__all__ = [
    "ESTIMATORS",
    "METHODS",
    "FisherDiagonal",
    "FisherTrace",
    "check_options",
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
    """tr(F) = (1/N) sum_n E_y ||d log p(y|x_n) / d params||^2: a mean over images, a sum over
    parameters.

    Natural log, no division by classes or parameters, [0, inf). Estimators, of the expectation over
    y:

    - `exact`: sum_c p(c|x) ||d log p(c|x)||^2, C passes over the images.
    - `sampled`: one y ~ p(y|x) an image, unbiased for `exact`. The label is a function of (key, the
      image's place in `images`) alone: every method and microbatch size takes the same ones.
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
        >>> found = fisher_trace(module, zeros, x, key=jax.random.key(0), estimator="exact")
        >>> found.total, found.standard_error     # the mean of |x|^2 sum_c p_c (1 - p_c) = |x|^2 / 2
        (2.5, 2.0)
    """
    options = {"estimator": estimator, "method": method, "labels": labels, "layers": layers}
    measured = _measured(
        model, variables, images, key, microbatch_size, options, apply_options, with_diagonal=False
    )
    params = variables["params"] if is_linen(model) else variables
    return FisherTrace(**_numbers(measured, params, layers, estimator))


def fisher_diagonal(
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
) -> FisherDiagonal:
    """F_ii = (1/N) sum_n E_y [(d log p(y|x_n) / d w_i)^2] of every weight w_i, and its trace.

    Estimators, methods, arguments and errors are those of `fisher_trace`. `layerwise` makes the
    per-example gradients of one layer after the other, never of the whole network.

    `pruning.scores.fisher_diagonal` is the same quantity (from any number of batches, by vmap), as
    a score.

    Example:
        >>> logits = lambda params, x: x * params[None]
        >>> x = np.array([[1.0, 0.0], [3.0, 0.0]], np.float32)        # p = 1/2, d log p_0 = x (1/2, 0)
        >>> zeros, key = np.zeros(2, np.float32), jax.random.key(0)
        >>> fisher_diagonal(logits, zeros, x, key=key, estimator="exact").diagonal.tolist()
        [1.25, 0.0]
    """
    options = {"estimator": estimator, "method": method, "labels": labels, "layers": layers}
    measured = _measured(
        model, variables, images, key, microbatch_size, options, apply_options, with_diagonal=True
    )
    params = variables["params"] if is_linen(model) else variables
    numbers = _numbers(measured, params, layers, estimator)
    means = [
        np.asarray(leaf, np.float32) / numbers["num_examples"] for leaf in measured.diagonal or []
    ]
    return FisherDiagonal(**numbers, diagonal=scores_like(params, means))


def _measured(
    model: Any,
    variables: Any,
    images: Any,
    key: PRNGKey,
    microbatch_size: int | None,
    options: dict[str, Any],
    apply_options: dict[str, Any],
    *,
    with_diagonal: bool,
) -> Measured:
    given = {"key": key, "microbatch_size": microbatch_size, "apply_options": apply_options}
    require_arguments(model, variables, images, **given, **options)
    wanted = {name: options[name] for name in ("estimator", "method", "labels")}
    return fisher_run.measure(
        model, variables, images, **given, **wanted, with_diagonal=with_diagonal
    )


def _numbers(
    measured: Measured, params: Params, layers: Layers | None, estimator: str
) -> dict[str, Any]:
    """The fields of `FisherTrace`."""
    size = int(measured.sizes.sum())
    means = measured.values.sum(axis=1) / size
    counted = np.ones(len(means), bool)
    if layers is not None:
        flags = zip(jax.tree.leaves(params), jax.tree.leaves(select(params, layers)), strict=True)
        counted = np.array([take for leaf, take in flags if is_weight(leaf)])
    per_layer: dict[str, float] = {}
    for name, mean in zip(measured.names, means, strict=True):
        module = name.rpartition("/")[0]
        per_layer[module] = per_layer.get(module, 0.0) + float(mean)
    return {
        "total": float(means[counted].sum()),
        "per_layer": per_layer,
        "per_parameter": dict(zip(measured.names, map(float, means), strict=True)),
        "standard_error": standard_error(measured.values[counted].sum(axis=0), measured.sizes),
        "num_examples": size,
        "estimator": estimator,
        "method": measured.method,
        "notes": measured.notes,
    }
