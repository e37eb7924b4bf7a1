"""Linear mode connectivity: the error along the straight line between two trained networks.

Its batch-norm statistics are measured anew at every point: what a network's own activations are,
not what it has stored.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Variables, accurate
from earlyprune_jax.models import forward
from earlyprune_jax.pruning import trees
from earlyprune_jax.pruning.modules import FUNCTIONS, library_of
from earlyprune_jax.pruning.scores.fisher import require_logits
from earlyprune_jax.pruning.scores.weights import count_problems, nonfinite_problems
from earlyprune_jax.signals.signal import image_problems, kept_for_modules, label_problems
from earlyprune_jax.validate import expected, shortened, unexpected

STATISTICS = "batch_stats"

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})

Pass = Callable[[Variables, Any], Any]
"""(variables, images) -> what one compiled pass over a batch gives."""


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
    """Measures the train error at equally spaced points (1 - a) w1 + a w2 between two networks.

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

    Returns:
        The errors, and the value made of them.

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
    _require_apply(model)
    for thing, network in (("first", first), ("second", second)):
        _require_mapping(thing, network)
    first, second, labels = dict(first), dict(second), np.asarray(labels)
    problems = count_problems(2, num_points=num_points) + count_problems(1, batch_size=batch_size)
    problems += image_problems(images) or label_problems(labels, len(images))
    if unlike := trees.likeness_problems("second", second, first):
        trees.refuse(problems + unlike)
    for (name, a), b in zip(trees.named_leaves(first), jax.tree.leaves(second), strict=True):
        if not trees.is_weight(a) and not np.array_equal(a, b):
            problems.append(expected(f"second at {name}", b, "to equal the first's"))
    problems += nonfinite_problems("first", trees.named_leaves(first))
    trees.refuse(problems + nonfinite_problems("second", trees.named_leaves(second)))
    (weights, merge), (others, _) = trees.split_weights(first), trees.split_weights(second)
    parts = _split(images, batch_size)
    run_train = _pass(_statistics, model, train_options, train=True)
    run_eval = _pass(_predictions, model, eval_options, train=False)
    alphas = tuple(number / (num_points - 1) for number in range(num_points))
    wrong = []
    for alpha in alphas:
        variables = merge(_line(weights, others, alpha))
        if reestimate_statistics and variables.get(STATISTICS):
            variables = {**variables, STATISTICS: _reestimated(run_train, variables, parts)}
        wrong.append(_num_wrong(run_eval, variables, parts, labels, alpha))
    # In whole numbers, so that rounding decides no tie.
    twice_above_mean = [2 * count - wrong[0] - wrong[-1] for count in wrong]
    farthest = max(range(num_points), key=lambda point: abs(twice_above_mean[point]))
    return LinearModeConnectivity(
        value=-twice_above_mean[farthest] / (2 * len(labels)),
        alphas=alphas,
        errors=tuple(count / len(labels) for count in wrong),
        farthest_alpha=alphas[farthest],
    )


def reestimated_statistics(
    model: Any,
    variables: Variables,
    images: Any,
    *,
    batch_size: int = 500,
    train_options: Mapping[str, Any] = NO_OPTIONS,
) -> Any:
    """Measures the statistics of a network's activations on images, one pass in training mode.

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
    _require_apply(model)
    _require_mapping("variables", variables, STATISTICS)
    run = _pass(_statistics, model, train_options, train=True)
    return _reestimated(run, variables, _split(images, batch_size))


def _require_apply(model: Any) -> None:
    if hasattr(model, "apply"):
        return
    remedy = (
        "Give a Linen module, or an object whose apply takes {'params': ...} and images, e.g. "
        "types.SimpleNamespace(apply=lambda variables, x: function(variables['params'], x))."
    )
    if library := library_of(model):
        remedy += f" The function, of a module of {library}: {FUNCTIONS[library]}"
    raise unexpected("model", type(model).__name__, "to have a method apply", remedy)


def _require_mapping(thing: str, variables: Any, *names: str) -> None:
    """Refuses variables that are no dict, or lack one of these collections."""
    if not isinstance(variables, Mapping) or not variables.keys() >= set(names):
        allowed = f"to be a dict of collections{''.join(f', {name} among them' for name in names)}"
        remedy = "Give {'params': ..., 'batch_stats': ...}, as a Linen module's init returns it."
        raise unexpected(thing, type(variables).__name__, allowed, remedy)


@jax.jit
def _line(first: list[Any], second: list[Any], alpha: Any) -> list[Any]:
    mixed = [(1 - alpha) * a + alpha * b for a, b in zip(first, second, strict=True)]
    return [leaf.astype(like.dtype) for leaf, like in zip(mixed, first, strict=True)]


def _num_wrong(
    run: Pass, variables: Variables, parts: list[Any], labels: np.ndarray, alpha: float
) -> int:
    """Counts the images that are misclassified."""
    outputs = [jax.device_get(forward.evaluated(run, variables, part)) for part in parts]
    predictions = np.concatenate([output[0] for output in outputs])
    finite = np.concatenate([output[1] for output in outputs])
    problems = label_problems(labels, len(labels), int(outputs[0][2]))
    if not finite.all():
        remedy = f"At alpha={alpha:.3g}; {int((~finite).sum())} such examples in all."
        number = int(np.argmin(finite))
        problems.append(expected("logits of example", number, "to be finite", remedy))
    trees.refuse(problems)
    return int(np.sum(predictions != labels))


def _split(images: Any, batch_size: int) -> list[Any]:
    """Cuts images into as few batches as the size allows, their lengths equal up to one.

    Example:
        >>> [part.tolist() for part in _split(np.arange(5), 4)]
        [[0, 1, 2], [3, 4]]
    """
    return np.array_split(np.asarray(images), -(-len(images) // batch_size))


def _statistics(model: Any, variables: Variables, images: Any, **options: Any) -> Any:
    """Returns the batch statistics that a pass in training mode leaves behind."""
    _, updated = model.apply(variables, images, mutable=[STATISTICS], **options)
    return updated[STATISTICS]


def _predictions(model: Any, variables: Variables, images: Any, **options: Any) -> Any:
    """Returns classes [B], whether the logits are finite [B], and the number of classes."""
    logits = model.apply(variables, images, **options)
    require_logits(logits, len(images))
    return jnp.argmax(logits, axis=1), jnp.isfinite(logits).all(axis=1), logits.shape[1]


def _pass(run: Callable[..., Any], model: Any, options: Mapping[str, Any], *, train: bool) -> Pass:
    """Compiles `_statistics` or `_predictions` of a model, once for equal modules and options."""
    mode = forward.mode(model, options, train=train)
    return _compiled(model, run, tuple(sorted(mode.items())))


@kept_for_modules
def _compiled(model: Any, run: Callable[..., Any], options: tuple[tuple[str, Any], ...]) -> Pass:
    return jax.jit(lambda variables, images: run(model, variables, images, **dict(options)))


def _reestimated(run: Pass, variables: Variables, parts: list[Any]) -> Any:
    """Computes `reestimated_statistics` with its pass compiled and its images split."""
    stored = variables[STATISTICS]
    shares = _update_shares(lambda old: run({**variables, STATISTICS: old}, parts[0]), stored)
    from_zero = {**variables, STATISTICS: _filled(stored, {})}
    sums: dict[str, Any] = dict.fromkeys(shares, 0.0)
    for part in parts:
        updated = _float_leaves(run(from_zero, part))
        batch = {name: updated[name] / share for name, share in shares.items()}
        for name, value in batch.items():
            sums[name] = sums[name] + len(part) * (value + _squared_mean(name, batch))
    count = sum(len(part) for part in parts)
    moments = {name: total / count for name, total in sums.items()}

    def new(path: Any, old: Any) -> Any:
        name = trees.path_name(path)
        if name not in moments:
            return old
        centred = moments[name] - _squared_mean(name, moments)
        return jnp.asarray(np.maximum(centred, 0.0) if name.endswith("var") else centred, old.dtype)

    return jax.tree.map_with_path(new, stored)


def _squared_mean(name: str, values: Mapping[str, Any]) -> Any:
    """Squares the mean that belongs to a variance; 0 if the name is not that of one."""
    parent, slash, last = name.rpartition("/")
    return values.get(f"{parent}{slash}mean", 0.0) ** 2 if last == "var" else 0.0


def _update_shares(run: Callable[[Any], Any], stored: Any) -> dict[str, float]:
    """Finds 1 - m of every floating-point statistic by path: what part of it a batch replaces."""
    from_zero = _float_leaves(run(_filled(stored, {})))
    if bad := [name for name, leaf in from_zero.items() if not np.isfinite(leaf).all()]:
        remedy = "Look at the images and the weights."
        raise unexpected("batch statistics at", bad, "to be finite", remedy)
    # A start much smaller than the batch's own statistics would be lost in their rounding.
    largest = {name: max(1.0, np.abs(leaf).max()) for name, leaf in from_zero.items()}
    starts = {name: 2.0 ** math.frexp(size)[1] for name, size in largest.items()}
    from_start = _float_leaves(run(_filled(stored, starts)))
    kept = {name: (from_start[name] - from_zero[name]) / start for name, start in starts.items()}
    problems = []
    for name, part in kept.items():
        share = 1 - part.mean()
        # All entries keep the same part of what was stored, and not all of it.
        if not (1e-5 < share < 1 + 1e-5 and np.ptp(part) < 1e-3 * share + 1e-5):
            thing = f"momentum of the statistic {name}, its range"
            given = (round(float(part.min()), 6), round(float(part.max()), 6))
            remedy = "Let train_options ask for training mode, or leave the statistics as they are."
            allowed = "to be one number in [0, 1) for all its entries"
            problems.append(expected(thing, given, allowed, remedy))
    trees.refuse(shortened(problems))
    return {name: 1 - float(part.mean()) for name, part in kept.items()}


def _float_leaves(statistics: Any) -> dict[str, np.ndarray]:
    leaves = trees.named_leaves(jax.device_get(statistics))
    return {name: np.asarray(leaf, np.float64) for name, leaf in leaves if trees.is_weight(leaf)}


def _filled(stored: Any, values: Mapping[str, float]) -> Any:
    """Puts a number into every floating-point leaf, 0 where none is given."""

    def fill(path: Any, leaf: Any) -> Any:
        if not trees.is_weight(leaf):
            return leaf
        # Half precision would round the new statistics before they are read.
        dtype = accurate(leaf.dtype)
        return jnp.full(leaf.shape, values.get(trees.path_name(path), 0.0), dtype)

    return jax.tree.map_with_path(fill, stored)
