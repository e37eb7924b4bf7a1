"""Batch-norm statistics measured anew: what a network's own activations are, not what it has
stored."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax import layer_hooks
from earlyprune_jax.array_types import Variables
from earlyprune_jax.pruning.trees import is_weight, named_leaves, path_name
from earlyprune_jax.signals.signal import kept_for_modules
from earlyprune_jax.validate import InvalidInput, expected, shortened, unexpected

STATISTICS = "batch_stats"

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})

TrainingPass = Callable[[Variables, Any], Any]
"""(variables, images) -> the batch statistics that the pass leaves behind."""


def reestimated_statistics(
    model: Any,
    variables: Variables,
    images: Any,
    *,
    batch_size: int = 500,
    train_options: Mapping[str, Any] = NO_OPTIONS,
) -> Any:
    """The statistics of a network's activations on given images, one pass in training mode.

    For every batch-norm layer, over batches b of n_b images, N in all:

        mean = (1/N) sum_b n_b mean_b
        var  = (1/N) sum_b n_b (var_b + mean_b^2) - mean^2      (law of total variance, biased)

    No trace is left of the stored statistics, of their momentum or of the batches' order; for the
    first such layer it is the statistics of all images at once. In training mode each layer
    normalises by its batch, so what deeper layers see depends, as in training, on which images are
    together.

    A layer stores new = m old + (1 - m) batch. Running the first batch from two different `old`
    gives m, running each from old = 0 gives `batch`; exact up to rounding, about 1e-7 / (1 - m)
    relative.

    Cost: one forward pass over the images and two over their first batch.

    Args:
        model: a Linen module, or anything with its `apply(variables, images, mutable=...,
            **options)`.
        variables: {"params": ..., "batch_stats": ...}. Among the statistics a leaf `var` beside a
            leaf `mean` is a biased variance, other floating-point leaves are means, the rest is
            kept.
        images: [N, ...] as the model takes them.
        batch_size: at most that many images at once, in batches of equal size (up to one): a small
            last one would have poor statistics.
        train_options: for `model.apply`: what it needs in training mode, such as `rngs`. A Linen
            module is asked for that mode by its own argument (`train`, `use_running_average`, ...)
            anyway.

    Returns:
        The structure of `variables["batch_stats"]`.

    Raises:
        InvalidInput: statistics that training mode does not update as a moving average, or that are
            not finite (by path).

    Example:
        >>> from flax import linen as nn
        >>> model = nn.BatchNorm(momentum=0.9)
        >>> images = jnp.array([[1.0], [3.0], [5.0], [7.0]])
        >>> options = {"use_running_average": False}
        >>> variables = model.init(jax.random.key(0), images, **options)
        >>> options = {"batch_size": 2, "train_options": options}
        >>> new = reestimated_statistics(model, variables, images, **options)
        >>> new["mean"].round(4).tolist(), new["var"].round(4).tolist()
        ([4.0], [5.0])
    """
    return reestimate(training_pass(model, train_options), variables, split(images, batch_size))


def reestimate(run: TrainingPass, variables: Variables, parts: list[Any]) -> Any:
    """`reestimated_statistics` with its pass compiled and its images split."""
    stored = variables[STATISTICS]
    shares = _update_shares(lambda old: run({**variables, STATISTICS: old}, parts[0]), stored)
    from_zero = {**variables, STATISTICS: _filled(stored, {})}
    sums: dict[str, Any] = dict.fromkeys(shares, 0.0)
    for part in parts:
        updated = dict(named_leaves(run(from_zero, part)))
        batch = {
            name: np.asarray(updated[name], np.float64) / share for name, share in shares.items()
        }
        for name, value in batch.items():
            sums[name] = sums[name] + len(part) * (value + _squared_mean(name, batch))
    count = sum(len(part) for part in parts)
    return _assembled(stored, {name: total / count for name, total in sums.items()})


def training_pass(model: Any, options: Mapping[str, Any]) -> TrainingPass:
    """Compiles the training-mode pass of a model, once for equal modules and options."""
    mode = layer_hooks.training_options(model, options) if layer_hooks.is_linen(model) else options
    return _compiled_pass(model, tuple(sorted(mode.items())))


@kept_for_modules
def _compiled_pass(model: Any, options: tuple[tuple[str, Any], ...]) -> TrainingPass:
    @jax.jit
    def run(variables: Variables, images: Any) -> Any:
        _, updated = model.apply(variables, images, mutable=[STATISTICS], **dict(options))
        return updated[STATISTICS]

    return run


def split(images: Any, batch_size: int) -> list[Any]:
    """Cuts images into as few batches as the size allows, their lengths equal up to one.

    Example:
        >>> [part.tolist() for part in split(np.arange(5), 4)]
        [[0, 1, 2], [3, 4]]
    """
    return np.array_split(np.asarray(images), -(-len(images) // batch_size))


def _update_shares(run: Callable[[Any], Any], stored: Any) -> dict[str, float]:
    """Path of every floating-point statistic -> 1 - m, the part of it that one batch replaces."""
    from_zero = _float_leaves(run(_filled(stored, {})))
    if bad := [name for name, leaf in from_zero.items() if not np.isfinite(leaf).all()]:
        remedy = "Look at the images and the weights."
        raise unexpected("batch statistics at", bad, "to be finite", remedy)
    # A start much smaller than the batch's own statistics would be lost in their rounding.
    starts = {
        name: 2.0 ** math.frexp(max(1.0, np.abs(leaf).max()))[1] for name, leaf in from_zero.items()
    }
    from_start = _float_leaves(run(_filled(stored, starts)))
    kept = {name: (from_start[name] - from_zero[name]) / start for name, start in starts.items()}
    problems = [_no_average(name, part) for name, part in kept.items() if not _is_momentum(part)]
    if problems:
        raise InvalidInput(shortened(problems))
    return {name: 1 - float(part.mean()) for name, part in kept.items()}


def _is_momentum(kept: np.ndarray) -> bool:
    """Whether all entries keep the same part of what was stored, and not all of it."""
    share = 1 - kept.mean()
    return bool(1e-5 < share < 1 + 1e-5 and np.ptp(kept) < 1e-3 * share + 1e-5)


def _no_average(name: str, kept: np.ndarray) -> str:
    remedy = "Let train_options ask for training mode, or leave the statistics as they are."
    allowed = "to be one number in [0, 1) for all its entries"
    given = (round(float(kept.min()), 6), round(float(kept.max()), 6))
    return expected(f"momentum of the statistic {name}, its range", given, allowed, remedy)


def _float_leaves(statistics: Any) -> dict[str, np.ndarray]:
    leaves = named_leaves(jax.device_get(statistics))
    return {name: np.asarray(leaf, np.float64) for name, leaf in leaves if is_weight(leaf)}


def _filled(stored: Any, values: Mapping[str, float]) -> Any:
    """The stored statistics with a number in every floating-point leaf, 0 where none is given."""

    def fill(path: Any, leaf: Any) -> Any:
        if not is_weight(leaf):
            return leaf
        # Half precision would round the new statistics before they are read.
        dtype = jnp.promote_types(leaf.dtype, jnp.float32)
        return jnp.full(leaf.shape, values.get(path_name(path), 0.0), dtype)

    return jax.tree.map_with_path(fill, stored)


def _squared_mean(name: str, values: Mapping[str, Any]) -> Any:
    """The square of the mean that belongs to a variance; 0 if the name is not that of one."""
    parent, slash, last = name.rpartition("/")
    return values.get(f"{parent}{slash}mean", 0.0) ** 2 if last == "var" else 0.0


def _assembled(stored: Any, moments: Mapping[str, np.ndarray]) -> Any:
    """Means and second moments as means and variances, in the structure of the stored
    statistics."""

    def new(path: Any, old: Any) -> Any:
        name = path_name(path)
        if name not in moments:
            return old
        centred = moments[name] - _squared_mean(name, moments)
        return jnp.asarray(np.maximum(centred, 0.0) if name.endswith("var") else centred, old.dtype)

    return jax.tree.map_with_path(new, stored)
