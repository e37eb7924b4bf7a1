"""The diagonal of the Fisher information: E ||d log p(y|x) / d w||^2 of every single weight.

F_ii = (1/N) sum_n E_{y ~ p(y|x_n)} [(d log p(y|x_n) / d w_i)^2], natural log, the mean over all
examples of all batches, network in evaluation mode (close over the batch statistics). With the
data's labels in place of the model's it is the empirical Fisher. Its sum over a leaf is the trace
that `signals.fisher` measures. Higher = keep; `scores.obd` turns it into w^2 F / 2.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Array, Params, PRNGKey, Scores
from earlyprune_jax.pruning.scores.batches import Batches, checked
from earlyprune_jax.pruning.scores.gradients import (
    Loss,
    all_finite,
    require_finite,
    scalar,
    scores_like,
    weights_of,
)
from earlyprune_jax.pruning.scores.weights import require_key
from earlyprune_jax.validate import InvalidInput, expected, unexpected, unknown_choice

LABELS = ("sampled", "exact", "argmax", "true")
"""What `choose_labels` knows."""

ESTIMATORS = ("per_example", "batch")

Logits = Callable[[Params, Any], Array]
"""(params, batch) -> logits [B, C], in evaluation mode."""


def fisher_diagonal(
    logits: Logits,
    params: Params,
    batches: Batches,
    *,
    key: PRNGKey,
    labels: str = "sampled",
    estimator: str = "per_example",
    microbatch_size: int = 8,
) -> Scores:
    """The Fisher diagonal, from the model's own labels.

    `per_example` squares every example's gradient and takes the mean over examples, whatever the
    batches' sizes. Memory: microbatch_size times the gradients. `exact` labels cost C passes.

    `batch` is paper A's code, one backward pass a batch: the mean over batches of
    B (gradient of the batch's mean cross-entropy)^2 with sampled labels. For unequal batches the
    mean is weighted by B: (1/N) sum_b (sum of batch b's gradients)^2. Same expectation as
    `per_example` (the cross terms have mean 0 under sampled labels, and under no others), with a
    larger variance; unlike it, it depends on how examples are grouped.

    Sampled labels are a function of (key, number of the example in the data), so that neither
    microbatch size nor batch sizes change them.

    Args:
        logits: (params, batch) -> [B, C], C >= 2, in evaluation mode; `per_example` also calls it
            with batches of one example.
        params: any pytree.
        batches: pytrees of arrays with a leading example axis; consumed to the end.
        key: a PRNG key; used by `sampled` only.
        labels: `sampled` draws y ~ p(y|x), one an example (unbiased); `exact` sums over all
            classes with weights p(y|x); `argmax` takes the predicted class.
        estimator: `per_example`, or `batch` (sampled labels only).
        microbatch_size: examples whose gradients are in memory at once.

    Returns:
        The structure of `params`, float32, >= 0; zeros where a leaf is no weight.

    Raises:
        InvalidInput: an unknown or impossible option, logits of another shape, or as
            `mean_gradient`.

    Source: paper A, Eqs. 3 and 4 (whose trace this is the diagonal of).

    Example:
        >>> logits = lambda params, x: x * params[None]
        >>> x = jnp.array([[1.0, 0.0], [3.0, 0.0]])      # p = 1/2, d log p_0 = x (1/2, 0)
        >>> fisher_diagonal(logits, jnp.zeros(2), [x], key=jax.random.key(0), labels="exact").tolist()
        [1.25, 0.0]
    """
    _check_options(key, labels, estimator, microbatch_size)
    if estimator == "batch":
        return _batch_gradient_squares(logits, params, batches, key)

    def log_likelihood(params, example, number, pass_index):
        log_probs = _log_probs(logits, params, example, 1)
        chosen, weight = _choose_one(labels, log_probs[0], key, number, pass_index)
        return log_probs[0, chosen], weight

    num_passes = (
        functools.partial(_num_classes, logits, params) if labels == "exact" else lambda _: 1
    )
    return _per_example_squares(log_likelihood, params, batches, num_passes, microbatch_size)


def empirical_fisher_diagonal(
    loss: Loss, params: Params, batches: Batches, *, microbatch_size: int = 8
) -> Scores:
    """The mean over examples of the squared gradient of each example's own loss.

    (1/N) sum_n (d loss(params, example n) / d w_i)^2. With cross-entropy on the data's labels this
    is the empirical Fisher; it is no estimate of the Fisher itself (Kunstner et al. 2019).

    Args:
        loss: (params, batch) -> scalar, in evaluation mode; called with batches of one example.
        params: any pytree.
        batches: pytrees of arrays with a leading example axis; consumed to the end.
        microbatch_size: examples whose gradients are in memory at once; does not change results.

    Returns:
        The structure of `params`, float32, >= 0; zeros where a leaf is no weight.

    Raises:
        InvalidInput: as `mean_gradient`; or a microbatch size below 1.

    Source: Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher pruning",
    before its factor w^2 / 2 (`scores.obd`).

    Example:
        >>> loss = lambda params, x: jnp.mean(params["w"] * x)
        >>> batches = [jnp.array([1.0, 2.0]), jnp.array([4.0])]
        >>> float(empirical_fisher_diagonal(loss, {"w": jnp.ones(())}, batches)["w"])
        7.0
    """
    if problems := _microbatch_problems(microbatch_size):
        raise InvalidInput(problems)

    def example_loss(params, example, number, pass_index):
        return scalar(loss(params, example)), 1.0

    return _per_example_squares(example_loss, params, batches, lambda _: 1, microbatch_size)


def choose_labels(
    rule: str, log_probs: Array, true_labels: Array, key: PRNGKey, pass_index: Array
) -> tuple[Array, Array]:
    """The labels whose gradients are squared, and each one's weight.

    Args:
        rule: `sampled` draws y ~ p(y|x), one an image (unbiased for paper A's Eq. 3); `exact` takes
            class `pass_index` with weight p(y|x), so that C passes sum to Eq. 3 itself; `argmax`
            takes the predicted label (Eq. 4 read literally); `true` the data's (empirical Fisher).
        log_probs: [B, C].
        true_labels: [B] int.
        key: used by `sampled` only.
        pass_index: scalar int, used by `exact` only.

    Returns:
        labels [B] int32 and weights [B] float32.

    Example:
        >>> log_probs, true = jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([0])
        >>> labels, weights = choose_labels("exact", log_probs, true, jax.random.key(0), jnp.array(1))
        >>> labels.tolist(), weights.tolist()
        ([1], [0.75])
    """
    ones = jnp.ones(log_probs.shape[0])
    if rule == "sampled":
        return jax.random.categorical(key, log_probs), ones
    if rule == "argmax":
        return jnp.argmax(log_probs, axis=-1), ones
    if rule == "true":
        return true_labels, ones
    labels = jnp.full(log_probs.shape[0], pass_index)
    return labels, jnp.exp(jnp.take(log_probs, pass_index, axis=-1))


def _choose_one(
    rule: str, log_probs: Array, key: PRNGKey, number: Array, pass_index: Array
) -> tuple[Array, Array]:
    """`choose_labels` for one example [C], by its number in the data; never differentiated."""
    unused = jnp.zeros(1, jnp.int32)  # the data's labels: no rule allowed here looks at them
    row = jax.lax.stop_gradient(log_probs)[None]
    labels, weights = choose_labels(rule, row, unused, jax.random.fold_in(key, number), pass_index)
    return labels[0], weights[0]


def _per_example_squares(
    objective: Callable[[Params, Any, Array, Array], tuple[Array, Any]],
    params: Params,
    batches: Batches,
    num_passes: Callable[[Any], int],
    microbatch_size: int,
) -> Scores:
    """(1/N) sum over examples and passes of weight * gradient^2.

    Args:
        objective: (params, batch of one example, its number, pass index) -> (value, weight).
        params: any pytree.
        batches: pytrees of arrays with a leading example axis.
        num_passes: first batch -> how often each example is visited.
        microbatch_size: examples a call.
    """
    weights, merge = weights_of(params)
    add = _microbatch_step(lambda weights, *rest: objective(merge(weights), *rest))
    totals = [jnp.zeros(weight.shape, jnp.float32) for weight in weights]
    passes, count = 0, 0
    for number, batch, size in checked(batches):
        passes = passes or num_passes(batch)
        finite = []
        for start in range(0, size, microbatch_size):
            places = start + np.arange(microbatch_size)
            # The last microbatch is filled up with its last example, at weight 0: one shape, one
            # compilation, and unlike zeros no input the network was not asked to take.
            examples = _take(batch, np.minimum(places, size - 1))
            counted = (places < size).astype(np.float32)
            for index in range(passes):
                totals, *flags = add(totals, weights, examples, count + places, counted, index)
                finite.append(flags)
        values, leaves = zip(*finite, strict=True)
        require_finite(np.all(values), np.all(leaves, axis=0), params, number)
        count += size
    return scores_like(params, [total / count for total in totals])


@jax.jit
def _take(batch: Any, places: Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[places], batch)


def _microbatch_step(
    objective: Callable[..., tuple[Array, Any]],
) -> Callable[..., tuple[Any, Array, Array]]:
    """Adds a microbatch's weighted squares to the totals."""

    @functools.partial(jax.jit, donate_argnums=0)
    def add(totals, weights, examples, numbers, counted, pass_index):
        def one(example, number):
            single = jax.tree.map(lambda leaf: leaf[None], example)
            differentiated = jax.value_and_grad(objective, has_aux=True)
            (value, weight), gradients = differentiated(weights, single, number, pass_index)
            return value, jnp.asarray(weight, jnp.float32), gradients

        values, label_weights, gradients = jax.vmap(one)(examples, numbers)
        factors = counted * label_weights
        totals = [t + _weighted_squares(factors, g) for t, g in zip(totals, gradients, strict=True)]
        return totals, jnp.isfinite(values).all(), all_finite(totals)

    return add


def _weighted_squares(factors: Array, gradients: Array) -> Array:
    squares = jnp.square(gradients.astype(jnp.float32))
    # An accelerator's default product rounds its operands to fewer bits.
    return jnp.tensordot(factors, squares, axes=1, precision=jax.lax.Precision.HIGHEST)


def _batch_gradient_squares(
    logits: Logits, params: Params, batches: Batches, key: PRNGKey
) -> Scores:
    """(1/N) sum over batches of (gradient of the batch's summed log-likelihood)^2."""
    weights, merge = weights_of(params)

    def draw(row, number):
        label, _ = _choose_one("sampled", row, key, number, jnp.zeros((), jnp.int32))
        return label

    def log_likelihood(weights, batch, numbers):
        log_probs = _log_probs(logits, merge(weights), batch, len(numbers))
        chosen = jax.vmap(draw)(log_probs, numbers)
        return jnp.sum(jnp.take_along_axis(log_probs, chosen[:, None], axis=1))

    @functools.partial(jax.jit, donate_argnums=0)
    def add(totals, weights, batch, numbers):
        value, gradients = jax.value_and_grad(log_likelihood)(weights, batch, numbers)
        totals = [
            t + jnp.square(g.astype(jnp.float32)) for t, g in zip(totals, gradients, strict=True)
        ]
        return totals, jnp.isfinite(value), all_finite(totals)

    totals = [jnp.zeros(weight.shape, jnp.float32) for weight in weights]
    count = 0
    for number, batch, size in checked(batches):
        totals, value_is_finite, leaves_are_finite = add(
            totals, weights, batch, count + np.arange(size)
        )
        require_finite(value_is_finite, leaves_are_finite, params, number)
        count += size
    return scores_like(params, [total / count for total in totals])


def _log_probs(logits: Logits, params: Params, batch: Any, num_examples: int) -> Array:
    """[B, C] natural log in float32, or a named error; runs while jit traces."""
    values = logits(params, batch)
    shape = getattr(values, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != num_examples or shape[1] < 2:
        given = type(values).__name__ if shape is None else shape
        allowed = f"to be [B, C] with B={num_examples}, as in the batch given, and C >= 2 classes"
        remedy = "Return the logits alone, one row for every example."
        raise unexpected("logits(params, batch), its shape,", given, allowed, remedy)
    return jax.nn.log_softmax(values.astype(jnp.float32))


def _num_classes(logits: Logits, params: Params, batch: Any) -> int:
    """C, from the shapes of the logits of one example."""
    weights, merge = weights_of(params)
    single = jax.tree.map(lambda leaf: leaf[:1], batch)
    return jax.eval_shape(lambda w, b: _log_probs(logits, merge(w), b, 1), weights, single).shape[1]


def _check_options(key: PRNGKey, labels: str, estimator: str, microbatch_size: int) -> None:
    allowed = tuple(rule for rule in LABELS if rule != "true")
    problems = _microbatch_problems(microbatch_size)
    if labels == "true":
        remedy = "For the data's labels call empirical_fisher_diagonal with the loss."
        problems.append(expected("labels", labels, f"to be one of {', '.join(allowed)}", remedy))
    elif labels not in allowed:
        problems.append(unknown_choice("labels", labels, allowed))
    if estimator not in ESTIMATORS:
        problems.append(unknown_choice("estimator", estimator, ESTIMATORS))
    elif estimator == "batch" and labels != "sampled":
        remedy = (
            "With other labels the cross terms between examples bias it; use estimator per_example."
        )
        problems.append(expected("labels", labels, "to be sampled with estimator batch", remedy))
    if problems:
        raise InvalidInput(problems)
    require_key(key)


def _microbatch_problems(size: Any) -> list[str]:
    if isinstance(size, int) and not isinstance(size, bool) and size >= 1:
        return []
    return [expected("microbatch_size", size, "to be an integer of at least 1")]
