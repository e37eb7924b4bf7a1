"""What signals are: sums over probe batches, or functions of the weights, then numbers.

And those of probe examples that cost at most one gradient of them. `kl_uniform`: how far the
predictions are from uniform (paper A, Eq. 5). `gradient_norm`: the length of the loss's gradient.
`performance`: the task's own metrics, the signals that every peer looks at.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Array, Params, PRNGKey
from earlyprune_jax.metrics import Metric
from earlyprune_jax.models import forward
from earlyprune_jax.pruning.scores.gradients import (
    Batches,
    Loss,
    mean_gradient,
    scores_like,
    weights_of,
)
from earlyprune_jax.pruning.scores.weights import zeros
from earlyprune_jax.pruning.trees import named_leaves, refuse
from earlyprune_jax.validate import expected, unknown_choice


@dataclasses.dataclass(frozen=True)
class Network:
    """A network in evaluation mode, with everything but its parameters fixed.

    Attributes:
        apply: (variables, batch, **linen_options) -> logits [B, C], or [B, P, C] of P predictions
            an example, such as the words of a sentence. `variables` is {"params": params, **fixed}.
            Where `is_linen`, the options of a Linen module's `apply` (`mutable`, ...) are passed
            on, so that its layers can be hooked. The logits of predictions that do not count are
            constant zeros.
        fixed: the other variables, e.g. {"batch_stats": ...}.
        is_linen: whether `apply` runs a Linen module.
        sums: (params, batch) -> the sums of a task over the batch, `loss` and `count` among them,
            in evaluation mode; None where only log-probabilities are looked at.
        has_log_probs: False where the outputs of `apply` are no logits.
        counts: batch -> [B, P] bool, which predictions count; None = one an example, [B].
    """

    apply: Callable[..., Any]
    fixed: Mapping[str, Any]
    is_linen: bool
    sums: Callable[[Params, Any], Mapping[str, Array]] | None = None
    has_log_probs: bool = True
    counts: Callable[[Any], Array] | None = None

    def weights(self, batch: Any) -> Array:
        """Returns the weight of every prediction, [B] or [B, P]: that of its example in
        batch["weights"], or 0 where it does not count."""
        weights = batch["weights"]
        return weights if self.counts is None else weights[:, None] * self.counts(batch)

    def log_probs(self, params: Params, batch: Any) -> Array:
        """Computes log p(y|x), shape [B, C] or [B, P, C], natural log, float32.

        Raises:
            ValueError: the outputs are no logits.
        """
        if not self.has_log_probs:
            raise ValueError("This network has no log-probabilities.")
        logits = self.apply({"params": params, **self.fixed}, batch)
        return jax.nn.log_softmax(logits.astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class ProbeSignal:
    """A measurement of a network on probe examples, accumulated batch by batch.

    Attributes:
        name: the signal's name in configs.
        columns: what `numbers` returns that is one number (not a mapping), in order.
        num_passes: how often the probe examples are visited; `pass_index` counts from 0.
        zero_sums: params -> the pytree of float32 zeros that `batch_sums` adds to.
        batch_sums: (network, params, batch, key, pass_index) -> a pytree of sums over the batch;
            runs inside jit. `batch` is the task's, with `numbers` [B] (each example's place among
            the probe examples) and `weights` [B], with weight 0 for padding.
        numbers: (sums over everything, number of examples) -> column name -> number (None where
            it is not defined), or a mapping parameter path -> number.
        needs_log_probs: whether the network must be a classifier; otherwise its sums suffice.
    """

    name: str
    columns: tuple[str, ...]
    num_passes: int
    zero_sums: Callable[[Params], Any]
    batch_sums: Callable[[Network, Params, Any, PRNGKey, Array], Any]
    numbers: Callable[[Any, int], dict[str, Any]]
    needs_log_probs: bool = True


@dataclasses.dataclass(frozen=True)
class WeightSignal:
    """A measurement of the weights alone.

    Attributes:
        name: the signal's name in configs.
        columns: what `measure` returns.
        measure: (params, key) -> column name -> number; called outside jit, compiles what it
            needs once for a tree of given shapes.
    """

    name: str
    columns: tuple[str, ...]
    measure: Callable[[Params, PRNGKey], dict[str, float | None]]


def kept_for_modules(make: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps what a function compiles for a Linen module and equal options.

    Nothing is kept for other models: what they close over, batch statistics say, may be others at
    the next call. Neither is it for options that cannot be looked up, such as arrays.
    """
    kept = functools.lru_cache(maxsize=32, typed=True)(make)

    def get(model: Any, *options: Any) -> Any:
        try:
            hash((model, options))
        except TypeError:
            return make(model, *options)
        return (kept if forward.is_linen(model) else make)(model, *options)

    return get


def image_problems(images: Any) -> list[str]:
    """Says why these are no images: arrays of numbers with the examples along the first axis.

    Example:
        >>> image_problems(np.ones(3))[0].split(". ")[0]
        "Expected images={'': 'float64[3]'} to be arrays of floats or integers [N, ...]"
    """

    def fits(leaf: Any) -> bool:
        dtype = getattr(leaf, "dtype", np.dtype(object))
        is_number = jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
        return is_number and leaf.ndim > 1 and len(leaf) > 0

    leaves = named_leaves(images)
    sizes = {len(leaf) if fits(leaf) else None for _, leaf in leaves}
    if len(sizes) == 1 and None not in sizes:
        return []
    kinds = [(n, getattr(leaf, "dtype", type(leaf).__name__), leaf) for n, leaf in leaves]
    given = {name: f"{kind}{[*np.shape(leaf)]}" for name, kind, leaf in kinds}
    remedy = "Every array holds the same N >= 1 examples along axis 0: add it if it is missing."
    return [expected("images", given, "to be arrays of floats or integers [N, ...]", remedy)]


def label_problems(labels: Any, count: int, num_classes: int | None = None) -> list[str]:
    """Says why these are no labels of so many examples.

    Args:
        labels: integers [count], or anything else.
        count: of examples.
        num_classes: C; None where it is not known yet.

    Returns:
        A sentence, or none.

    Example:
        >>> label_problems(np.array([0, 3]), 2, num_classes=3)
        ['Expected labels[1]=3 in [0, 3), as the logits have.']
    """
    array = np.asarray(labels)
    if array.shape != (count,) or not np.issubdtype(array.dtype, np.integer):
        given = labels if labels is None else f"{array.dtype}{[*array.shape]}"
        return [expected("labels", given, f"to be [{count}] integers, one for each image")]
    outside = np.flatnonzero((array < 0) | (array >= (num_classes or np.inf)))
    if num_classes is None or not len(outside):
        return []
    more = f" and {len(outside) - 1} more" if len(outside) > 1 else ""
    allowed = f"in [0, {num_classes}), as the logits have"
    return [expected(f"labels[{outside[0]}]{more}", int(array[outside[0]]), allowed)]


UNITS = {"nats": 1.0, "bits": math.log(2)}
"""Name of a unit -> its size in nats."""


def kl_uniform(log_probs: Array, unit: str = "nats") -> Array:
    """Computes KL(uniform || p) of every example.

    -log C - (1/C) sum_c log p_c, a mean over classes. At least 0 up to rounding; 0 if and only if p
    is uniform, so always 0 with one class. There is no upper bound: it is infinite where a class
    has probability 0, and nan where log_probs are. (The other direction, KL(p || uniform), is at
    most log C.)

    Args:
        log_probs: [B, C] natural-log probabilities, whatever `unit` is; or [B, P, C].
        unit: `nats` or `bits` (paper A's plots); 1 bit = ln 2 nats.

    Returns:
        [B] float32; or [B, P].

    Raises:
        InvalidInput: an unknown unit, or log_probs of another shape, or without classes.

    Source: paper A, Eq. (5), whose expectation over images is left to the caller.

    Example:
        >>> predicted = jnp.log(jnp.array([[0.5, 0.5], [0.9, 0.1]]))
        >>> [round(float(value), 3) for value in kl_uniform(predicted)]
        [0.0, 0.511]
    """
    problems = [] if unit in UNITS else [unknown_choice("unit", unit, tuple(UNITS))]
    shape = getattr(log_probs, "shape", None)
    if not isinstance(shape, tuple) or len(shape) not in (2, 3) or not shape[-1]:
        problems.append(expected("log_probs.shape", shape, "to be [examples, classes]"))
    refuse(problems)
    mean = jnp.mean(log_probs.astype(jnp.float32), axis=-1)
    return (-math.log(log_probs.shape[-1]) - mean) / UNITS[unit]


def kl_uniform_signal() -> ProbeSignal:
    """Makes KL_uniform = KL(uniform || p), mean over the predictions for the probe examples, BN in
    evaluation mode.

    Columns: `kl_uniform_bits` and `kl_uniform_nats`, the same number in both units, and
    `kl_uniform_bits_standard_error`: the error of taking these examples for all that are like them;
    None for one example. With one prediction an example it is the sample standard deviation /
    sqrt(N). With c_n of them, k_n the sum of their KL, and m = sum k_n / sum c_n it is that of the
    ratio of two means: sqrt(N / (N - 1) sum_n (k_n - m c_n)^2) / sum_n c_n, for the predictions of
    an example are not independent.

    Range: [0, inf); 0 with one class. Cost: one forward pass over the probe examples. Source: paper
    A, Eq. (5).

    Example:
        >>> kl_uniform_signal().columns
        ('kl_uniform_bits', 'kl_uniform_nats', 'kl_uniform_bits_standard_error')
    """

    columns = ("kl_uniform_bits", "kl_uniform_nats", "kl_uniform_bits_standard_error")

    def zero_sums(params):
        return {name: jnp.zeros(()) for name in ("k", "c", "kk", "kc", "cc")}

    def batch_sums(network, params, batch, key, pass_index):
        weights = network.weights(batch)
        bits = kl_uniform(network.log_probs(params, batch), unit="bits")
        # where, not a product: what pads a batch must not count even if it is not finite.
        counted = jnp.where(weights > 0, weights * bits, 0.0)
        k, c = (jnp.sum(array.reshape(len(array), -1), axis=1) for array in (counted, weights))
        products = {"kk": k * k, "kc": k * c, "cc": c * c}
        return {name: jnp.sum(array) for name, array in {"k": k, "c": c, **products}.items()}

    def numbers(sums: Any, num_examples: int) -> dict[str, float | None]:
        k, c, kk, kc, cc = (float(sums[name]) for name in ("k", "c", "kk", "kc", "cc"))
        mean, error = k / c, None
        if num_examples > 1:
            # Rounding of the float32 sums can leave less than nothing.
            spread = max(kk - 2 * mean * kc + mean**2 * cc, 0.0)
            error = math.sqrt(num_examples / (num_examples - 1) * spread) / c
        return dict(zip(columns, (mean, mean * UNITS["bits"], error), strict=True))

    return ProbeSignal("kl_uniform", columns, 1, zero_sums, batch_sums, numbers)


def gradient_norm(loss: Loss, params: Params, batches: Batches) -> float:
    """Measures ||g||_2, g the gradient of the mean loss over all examples, in evaluation mode.

    sqrt(sum over all weights of g^2): no division by the number of weights. The gradient is
    averaged over examples first, so its noise averages out too; B times the squared norm over
    batches of B examples is another signal (`fisher_trace` by `batch`). Range [0, inf).

    Cost: one training step for each batch.

    Args:
        loss: (params, batch) -> the mean loss over the batch's examples, e.g. the cross-entropy
            on the data's labels, in evaluation mode.
        params: any pytree.
        batches: pytrees of arrays with a leading example axis; consumed to the end.

    Returns:
        The norm.

    Raises:
        InvalidInput: as `scores.mean_gradient`, e.g. a loss or gradient that is not finite.

    Example:
        >>> loss = lambda params, x: jnp.mean(x @ params)
        >>> gradient_norm(loss, jnp.zeros(2), [jnp.array([[2.0, 4.0], [4.0, 4.0]])])
        5.0
    """
    return _norm(jax.device_get(jax.tree.leaves(mean_gradient(loss, params, batches))))


def gradient_norm_signal() -> ProbeSignal:
    """Makes ||g||_2, g the gradient of the task's mean loss over the probe examples.

    Classification's is in nats. BN in evaluation mode; over all parameters, pruned ones included
    (their gradient says what is to be gained by bringing them back). Column `gradient_norm`, and
    `gradient_norm_by_parameter`: path -> the norm of that leaf's part; the squares of the parts add
    up to the square of the whole.

    Range: [0, inf); 0 with one class. Cost: one training step for each probe batch, and memory for
    one more gradient.

    Example:
        >>> gradient_norm_signal().columns
        ('gradient_norm',)
    """

    def batch_sums(network, params, batch, key, pass_index):
        weights, merge = weights_of(params)

        def loss(leaves):
            sums = network.sums(merge(leaves), batch)
            return sums["loss"], sums["count"]

        gradients, count = jax.grad(loss, has_aux=True)(weights)
        gradients = [gradient.astype(jnp.float32) for gradient in gradients]
        return {"gradients": scores_like(params, gradients), "count": count}

    def numbers(sums: Any, num_examples: int) -> dict[str, Any]:
        count = float(sums["count"])
        parts = {name: _norm([leaf]) / count for name, leaf in named_leaves(sums["gradients"])}
        return {"gradient_norm": math.hypot(*parts.values()), "gradient_norm_by_parameter": parts}

    def zero_sums(params):
        return {"gradients": zeros(params), "count": jnp.zeros(())}

    columns = ("gradient_norm",)
    return ProbeSignal(
        "gradient_norm", columns, 1, zero_sums, batch_sums, numbers, needs_log_probs=False
    )


def _norm(leaves: list[Any]) -> float:
    """Computes the l2 norm of all entries, added up in float64."""
    return math.sqrt(sum(float(np.sum(np.square(np.asarray(leaf, np.float64)))) for leaf in leaves))


def performance_signal(
    metrics: Sequence[Metric],
    measured: Callable[[Mapping[str, Any]], Mapping[str, float]],
    names: Sequence[str],
) -> ProbeSignal:
    """Measures the metrics of a task on the probe examples, which are training examples, in
    evaluation mode.

    Columns: `probe_NAME` of every metric, for classification `probe_loss`, the mean over examples
    of -log p(label | image) in nats, and `probe_accuracy`. Unlike a training loss summed along an
    epoch, they belong to one state of the weights.

    Cost: one forward pass over the probe examples.

    Args:
        metrics: of the task.
        measured: sums -> metric -> value.
        names: of the sums.

    Returns:
        The signal.

    Example:
        >>> loss = Metric("loss", "nats", larger_is_better=False)
        >>> mean = lambda sums: {"loss": sums["loss"] / sums["count"]}
        >>> performance_signal([loss], mean, ["loss", "count"]).columns
        ('probe_loss',)
    """
    columns = tuple(metric.column("probe") for metric in metrics)

    def batch_sums(network, params, batch, key, pass_index):
        return network.sums(params, batch)

    def numbers(sums: Any, num_examples: int) -> dict[str, float]:
        values = measured(sums)
        return {metric.column("probe"): float(values[metric.name]) for metric in metrics}

    def zero_sums(params):
        return {name: jnp.zeros(()) for name in names}

    return ProbeSignal(
        "performance", columns, 1, zero_sums, batch_sums, numbers, needs_log_probs=False
    )
