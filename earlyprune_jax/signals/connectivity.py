"""Linear mode connectivity: the error along the straight line between two trained networks."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax import layer_hooks
from earlyprune_jax.array_types import Variables
from earlyprune_jax.pruning.scores.weights import count_problems, nonfinite_problems, require_like
from earlyprune_jax.pruning.trees import is_weight, named_leaves, split_weights
from earlyprune_jax.signals.batch_statistics import (
    NO_OPTIONS,
    STATISTICS,
    reestimate,
    split,
    training_pass,
)
from earlyprune_jax.signals.signal import kept_for_modules
from earlyprune_jax.validate import InvalidInput, expected, unexpected


@dataclasses.dataclass(frozen=True)
class LinearModeConnectivity:
    """Errors along a line, and what they say about it.

    Attributes:
        value: the mean of the errors at both ends - the error farthest from that mean; in [-1, 1].
            Negative: a barrier lies between the networks. Positive: the line passes through better
            networks than its ends. Near 0: they are linearly connected.
        alphas: [num_points] from 0 (the first network) to 1 (the second).
        errors: [num_points] fraction of the images that is misclassified.
        farthest_alpha: where the error is farthest from the mean of the ends; the first of equals.
    """

    value: float
    alphas: tuple[float, ...]
    errors: tuple[float, ...]
    farthest_alpha: float


def linear_mode_connectivity(
    model: Any,
    first: Variables,
    second: Variables,
    images: Any,
    labels: Any,
    *,
    num_points: int = 11,
    batch_size: int = 500,
    reestimate_statistics: bool = True,
    train_options: Mapping[str, Any] = NO_OPTIONS,
    eval_options: Mapping[str, Any] = NO_OPTIONS,
) -> LinearModeConnectivity:
    """The train error at equally spaced points (1 - a) w1 + a w2, BN statistics measured anew at
    each.

    Batch-norm statistics of two networks, averaged, belong to neither: at every point, the ends
    included, they come from the point's own activations on `images` (`reestimated_statistics`). The
    error is then taken on the same images in evaluation mode.

    The ends count among the points: if no other error is farther from their mean, `value` is half
    the difference of their errors, positive if the first is the better one. Swapping the networks
    reverses the points.

    Cost: 2 forward passes over the images at each point, 1 without re-estimation; compiled once,
    also for later calls with an equal model, options and shapes.

    Args:
        model: a Linen module, or anything with its `apply(variables, images, **options)` -> [B, C].
        first: {"params": ..., "batch_stats": ...} and whatever else the model needs.
        second: the same structure and shapes; what is no floating-point array must be equal.
        images: [N, ...] as the model takes them: un-augmented training images.
        labels: [N] whole numbers in [0, C).
        num_points: at least 2.
        batch_size: at most that many images at once, in batches of equal size (up to one).
        reestimate_statistics: False interpolates the statistics like the weights. A model without
            "batch_stats" has none to measure, whatever is asked.
        train_options, eval_options: for `model.apply` in either mode, such as `rngs`. A Linen
            module is asked for the mode by its own argument (`train`, `use_running_average`, ...)
            anyway.

    Raises:
        InvalidInput: options out of range; networks, images and labels that do not fit (by path);
            weights or logits that are not finite (by path, or by point and example); statistics
            that training mode does not update as a moving average.

    Source: Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis"; the
    value as in Yang et al. 2021, "Taxonomizing local versus global structure in neural network loss
    landscapes".

    Example:
        >>> import collections
        >>> def apply(variables, images):
        ...     return images * variables["params"][None]
        >>> model = collections.namedtuple("Model", "apply")(apply)
        >>> ends = {"params": jnp.array([1.0, 1.0])}, {"params": jnp.array([1.0, -1.0])}
        >>> images, labels = jnp.array([[2.0, 1.0], [-1.0, 1.0]]), jnp.array([0, 1])
        >>> measured = linear_mode_connectivity(model, *ends, images, labels, num_points=5)
        >>> measured.errors, measured.value
        ((0.0, 0.0, 0.0, 0.0, 0.5), 0.25)
    """
    if not hasattr(model, "apply"):
        remedy = "Give a Linen module, or an object whose apply takes {'params': ...} and images."
        raise unexpected("model", type(model).__name__, "to have a method apply", remedy)
    labels = _checked(first, second, images, labels, num_points, batch_size)
    parts = split(images, batch_size)
    run_train, run_eval = training_pass(model, train_options), _evaluation(model, eval_options)
    alphas = [number / (num_points - 1) for number in range(num_points)]
    wrong = []
    for alpha in alphas:
        variables = _between(first, second, alpha)
        if reestimate_statistics and variables.get(STATISTICS):
            variables = {**variables, STATISTICS: reestimate(run_train, variables, parts)}
        wrong.append(_num_wrong(run_eval, variables, parts, labels, alpha))
    return _summary(alphas, wrong, len(labels))


def _summary(alphas: list[float], wrong: list[int], num_examples: int) -> LinearModeConnectivity:
    # In whole numbers, so that rounding decides no tie.
    twice_above_mean = [2 * count - wrong[0] - wrong[-1] for count in wrong]
    farthest = max(range(len(wrong)), key=lambda point: abs(twice_above_mean[point]))
    return LinearModeConnectivity(
        value=-twice_above_mean[farthest] / (2 * num_examples),
        alphas=tuple(alphas),
        errors=tuple(count / num_examples for count in wrong),
        farthest_alpha=alphas[farthest],
    )


@jax.jit
def _line(first: list[Any], second: list[Any], alpha: Any) -> list[Any]:
    mixed = [(1 - alpha) * a + alpha * b for a, b in zip(first, second, strict=True)]
    return [leaf.astype(like.dtype) for leaf, like in zip(mixed, first, strict=True)]


def _between(first: Variables, second: Variables, alpha: float) -> dict[str, Any]:
    """Every floating-point leaf at (1 - alpha) first + alpha second; the others as in the first."""
    weights, merge = split_weights(dict(first))
    others, _ = split_weights(dict(second))
    return merge(_line(weights, others, alpha))


Evaluation = Callable[[Variables, Any], tuple[Any, Any, Any]]
"""(variables, images) -> predicted classes [B], whether logits are finite [B], number of
classes."""


def _evaluation(model: Any, options: Mapping[str, Any]) -> Evaluation:
    mode = (
        layer_hooks.evaluation_options(model, options) if layer_hooks.is_linen(model) else options
    )
    return _compiled_evaluation(model, tuple(sorted(mode.items())))


@kept_for_modules
def _compiled_evaluation(model: Any, options: tuple[tuple[str, Any], ...]) -> Evaluation:
    @jax.jit
    def run(variables: Variables, images: Any) -> tuple[Any, Any, Any]:
        logits = model.apply(variables, images, **dict(options))
        if getattr(logits, "ndim", None) != 2:
            given = jax.tree.map(jnp.shape, logits)
            raise unexpected("shape of the model's output", given, "to be [batch, classes]")
        return jnp.argmax(logits, axis=1), jnp.isfinite(logits).all(axis=1), logits.shape[1]

    return run


def _num_wrong(
    run: Evaluation, variables: Variables, parts: list[Any], labels: Any, alpha: float
) -> int:
    """How many images are misclassified."""
    outputs = [jax.device_get(layer_hooks.evaluated(run, variables, part)) for part in parts]
    predictions = np.concatenate([output[0] for output in outputs])
    finite = np.concatenate([output[1] for output in outputs])
    problems = []
    if not finite.all():
        remedy = f"At alpha={alpha:.3g}; {int((~finite).sum())} such examples in all."
        problems.append(
            expected("logits of example", int(np.argmin(finite)), "to be finite", remedy)
        )
    num_classes = int(outputs[0][2])
    if labels.min() < 0 or labels.max() >= num_classes:
        given = (int(labels.min()), int(labels.max()))
        problems.append(expected("range of labels", given, f"to be in [0, {num_classes - 1}]"))
    if problems:
        raise InvalidInput(problems)
    return int(np.sum(predictions != labels))


def _checked(
    first: Variables, second: Variables, images: Any, labels: Any, num_points: int, batch_size: int
) -> np.ndarray:
    """The labels as a host array, once everything fits together."""
    labels = np.asarray(labels)
    problems = count_problems(2, num_points=num_points) + count_problems(1, batch_size=batch_size)
    if not np.ndim(images) or not np.shape(images)[0]:
        problems.append(expected("images.shape", np.shape(images), "to hold at least one image"))
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != np.shape(images)[:1]:
        given, allowed = (labels.shape, str(labels.dtype)), "to be one whole number for each image"
        problems.append(expected("labels, their shape and type,", given, allowed))
    problems += _variables_problems(first, second)
    if problems:
        raise InvalidInput(problems)
    return labels


def _variables_problems(first: Variables, second: Variables) -> list[str]:
    """Why no line can be drawn between two networks, by path."""
    try:
        require_like(dict(first), dict(second), "second")
    except InvalidInput as error:
        return list(error.problems)
    leaves = zip(named_leaves(dict(first)), jax.tree.leaves(dict(second)), strict=True)
    problems = [
        expected(f"second at {name}", b, "to equal the first's", "It is no weight.")
        for (name, a), b in leaves
        if not is_weight(a) and not np.array_equal(a, b)
    ]
    for thing, variables in (("first", first), ("second", second)):
        problems += nonfinite_problems(thing, named_leaves(dict(variables)))
    return problems
