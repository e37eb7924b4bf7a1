"""Squared gradients of log p(y|x), example by example, and the Fisher diagonal made of them.

F_ii = (1/N) sum_n E_{y ~ p(y|x_n)} [(d log p(y|x_n) / d w_i)^2], natural log, the mean over all
examples, network in evaluation mode (close over the batch statistics). With the data's labels in
place of the model's it is the empirical Fisher. Its sum over a leaf is the trace that
`signals.fisher_trace` measures, from the same squares. Higher = keep; `scores.obd` turns it into
w^2 F / 2.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from earlyprune_jax.array_types import Array, Params, PRNGKey, Scores
from earlyprune_jax.pruning.modules import function_problems, in_evaluation
from earlyprune_jax.pruning.scores.gradients import (
    Batches,
    Examples,
    Loss,
    microbatches,
    scalar,
    scores_like,
    sum_over_batches,
    weights_of,
)
from earlyprune_jax.pruning.scores.weights import count_problems, require_key
from earlyprune_jax.pruning.trees import is_weight, refuse, split_weights
from earlyprune_jax.validate import expected, unexpected, unknown_choice

ESTIMATORS = ("exact", "sampled", "argmax", "empirical")
"""Whose labels: the expectation over p(y|x), one draw from it, the predicted class, the data's."""

METHODS = ("vmap", "batch")
"""How squares are computed: of every example's gradient, or of a whole batch's (paper A's code)."""

LogProbs = Callable[[Params, Any], Array]
"""(params, batch) -> log-probabilities [B, C], natural log; `fisher_diagonal` takes logits too.
[B, P, C] are those of P predictions an example: log p(y|x) is then their sum, and what does not
count has the same log-probabilities whatever the weights are."""

Choose = Callable[[Array, Array, Array], tuple[Array, Array]]
"""(log-probabilities [B, ..., C], numbers [B], the data's labels [B, ...]) -> labels, and weights
of the examples [B]."""


def fisher_diagonal(
    logits: LogProbs,
    params: Params,
    batches: Batches,
    *,
    key: PRNGKey,
    estimator: str = "sampled",
    method: str = "vmap",
    microbatch_size: int = 8,
) -> Scores:
    """Estimates the Fisher diagonal, from the model's own labels.

    `vmap` squares every example's gradient and takes the mean over examples, whatever the batches'
    sizes. Memory: microbatch_size times the gradients. The `exact` estimator costs C passes.

    `batch` is paper A's code, one backward pass a batch: the mean over batches of
    B (gradient of the batch's mean cross-entropy)^2 with sampled labels. For unequal batches the
    mean is weighted by B: (1/N) sum_b (sum of batch b's gradients)^2. Same expectation as `vmap`
    (the cross terms have mean 0 under sampled labels, and under no others), with a larger variance;
    unlike it, it depends on how examples are grouped.

    Sampled labels are a function of (key, number of the example in the data), so that neither
    microbatch size nor batch sizes change them.

    Args:
        logits: (params, batch) -> [B, C], C >= 2, or [B, P, C] as of `LogProbs`, in evaluation
            mode; `vmap` also calls it with batches of one example.
        params: any pytree.
        batches: pytrees of arrays with a leading example axis; consumed to the end.
        key: a PRNG key; used by `sampled` only.
        estimator: `sampled` draws y ~ p(y|x), one for each example (unbiased); `exact` sums over
            all classes with weights p(y|x); `argmax` takes the predicted class.
        method: `vmap`, or `batch` (sampled labels only).
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
        >>> options = {"key": jax.random.key(0), "estimator": "exact"}
        >>> fisher_diagonal(logits, jnp.zeros(2), [x], **options).tolist()
        [1.25, 0.0]
    """
    problems = check_options(estimator, method) + count_problems(1, microbatch_size=microbatch_size)
    if estimator == "empirical":
        remedy = "For the data's labels call empirical_fisher_diagonal with the loss."
        problems.append(expected("estimator", estimator, "to take the model's labels", remedy))
    refuse(problems + function_problems("logits", logits, "(params, batch)"))
    require_key(key)

    def log_probs(params: Params, batch: Any) -> Array:
        values = logits(params, batch)
        require_logits(values, len(jax.tree.leaves(batch)[0]), most_axes(estimator))
        return jax.nn.log_softmax(values.astype(jnp.float32))

    return _mean_squares(log_probs, params, batches, estimator, method, key, microbatch_size)


def empirical_fisher_diagonal(
    loss: Loss, params: Params, batches: Batches, *, microbatch_size: int = 8
) -> Scores:
    """Computes the mean over examples of the squared gradient of each example's own loss.

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
    problems = count_problems(1, microbatch_size=microbatch_size)
    refuse(problems + function_problems("loss", loss, "(params, batch)"))

    def log_probs(params: Params, batch: Any) -> Array:
        # The loss stands for the log-probability of a single class: squares have no sign.
        return scalar(loss(params, batch)).reshape(1, 1)

    key = jnp.zeros(2, jnp.uint32)
    return _mean_squares(log_probs, params, batches, "empirical", "vmap", key, microbatch_size)


def _mean_squares(
    log_probs: LogProbs,
    params: Params,
    batches: Batches,
    estimator: str,
    method: str,
    key: PRNGKey,
    microbatch_size: int,
) -> Scores:
    """Averages, over examples (or batches), the label's weight * gradient^2 of all passes."""
    weights, merge = weights_of(params)

    def of_weights(weights: list[Array], batch: Any) -> Array:
        return log_probs(merge(weights), batch)

    def squares(
        weights: list[Array], batch: Any, examples: Examples, pass_index: Array
    ) -> tuple[Array, list[Array]]:
        choose = label_rule(estimator, key, pass_index)
        if method == "batch":
            gradients, values = batch_gradient(of_weights, weights, batch, examples, choose)
            added = [jnp.square(gradient.astype(jnp.float32)) for gradient in gradients]
        else:
            gradients, factors, values = example_gradients(
                of_weights, weights, batch, examples, choose
            )
            factors = examples.weights * factors
            squared = (jnp.square(leaf.astype(jnp.float32)) for leaf in gradients)
            # An accelerator's default product rounds its operands to fewer bits.
            highest = jax.lax.Precision.HIGHEST
            added = [jnp.tensordot(factors, leaf, axes=1, precision=highest) for leaf in squared]
        # A class may be impossible, with log-probability -inf; not all of them.
        return jnp.max(values, axis=-1), added

    num_passes = 1

    def pieces(batch: Any, size: int, first: int) -> Iterator[tuple[Any, Examples, int]]:
        nonlocal num_passes
        if estimator == "exact" and first == 0:
            single = jax.tree.map(lambda leaf: leaf[:1], batch)
            with in_evaluation():
                num_passes = jax.eval_shape(of_weights, weights, single).shape[-1]
        at_once = size if method == "batch" else microbatch_size
        for part, examples in microbatches(batch, size, at_once, first=first):
            for index in range(num_passes):
                yield part, examples, index

    totals, count = sum_over_batches(squares, (weights,), params, batches, pieces)
    return scores_like(params, [total / count for total in totals])


def label_rule(estimator: str, key: PRNGKey, pass_index: Any) -> Choose:
    """Makes the function that chooses the labels whose gradients are squared, with their weights.

    Args:
        estimator: `sampled` draws y ~ p(y|x), one for each example (unbiased for paper A's Eq. 3),
            as a function of (key, the example's number) alone; `exact` takes class `pass_index`
            with weight p(y|x), so that C passes sum to Eq. 3 itself; `argmax` takes the predicted
            label (Eq. 4 read literally); `empirical` the data's.
        key: used by `sampled` only.
        pass_index: scalar int, used by `exact` only.

    Returns:
        As `Choose`.

    Example:
        >>> log_probs, unused = jnp.log(jnp.array([[0.25, 0.75]])), jnp.array([0])
        >>> labels, weights = label_rule("exact", jax.random.key(0), 1)(log_probs, unused, unused)
        >>> labels.tolist(), weights.tolist()
        ([1], [0.75])
    """

    def choose(log_probs: Array, numbers: Array, labels: Array) -> tuple[Array, Array]:
        ones = jnp.ones(log_probs.shape[0])
        if estimator == "empirical":
            return labels, ones
        if estimator == "argmax":
            return jnp.argmax(log_probs, axis=-1), ones
        if estimator == "exact":
            weights = jnp.exp(jnp.take(log_probs, pass_index, axis=-1))
            return jnp.full(log_probs.shape[:-1], pass_index), weights

        def draw(row: Array, number: Array) -> Array:
            return jax.random.categorical(jax.random.fold_in(key, number), row[None])[0]

        return jax.vmap(draw)(log_probs, numbers), ones

    return choose


def example_gradients(
    log_probs: LogProbs, params: Params, batch: Any, examples: Examples, choose: Choose
) -> tuple[list[Array], Array, Array]:
    """Differentiates every example's log p(y|x), by one backward pass each; runs inside jit.

    Args:
        log_probs: (params, batch of one example) -> [1, ..., C].
        params: any pytree.
        batch: arrays with a leading axis B.
        examples: their numbers and labels.
        choose: whose log-probability is differentiated.

    Returns:
        Each weight's gradients [B, *its shape], the labels' weights [B], log-probabilities [B, ...,
        C].
    """
    weights, merge = split_weights(params)

    def gradient(example: Any, number: Array, label: Array) -> Any:
        single = jax.tree.map(lambda leaf: leaf[None], example)

        def objective(weights: list[Array]) -> tuple[Array, tuple[Array, Array]]:
            values = log_probs(merge(weights), single)
            fixed = jax.lax.stop_gradient(values)
            labels, factors = choose(fixed, number[None], label[None])
            return jnp.sum(_chosen(values, labels)), (factors[0], fixed[0])

        return jax.grad(objective, has_aux=True)(weights)

    gradients, aux = jax.vmap(gradient)(batch, examples.numbers, examples.labels)
    return gradients, *aux


def batch_gradient(
    log_probs: LogProbs, params: Params, batch: Any, examples: Examples, choose: Choose
) -> tuple[list[Array], Array]:
    """Differentiates the sum of log p(y|x) over a batch; runs inside jit.

    Args:
        log_probs: (params, batch) -> [B, ..., C].
        params: any pytree.
        batch: arrays with a leading axis B.
        examples: their numbers, labels and weights; those of weight 0 are left out.
        choose: whose log-probability is differentiated.

    Returns:
        Each weight's gradient, and the log-probabilities [B, ..., C].
    """
    weights, merge = split_weights(params)

    def objective(weights: list[Array]) -> tuple[Array, Array]:
        values = log_probs(merge(weights), batch)
        fixed = jax.lax.stop_gradient(values)
        labels, _ = choose(fixed, examples.numbers, examples.labels)
        chosen = _chosen(values, labels)
        is_counted = jnp.expand_dims(examples.weights > 0, tuple(range(1, chosen.ndim)))
        return jnp.sum(jnp.where(is_counted, chosen, 0.0)), fixed

    return jax.grad(objective, has_aux=True)(weights)


def _chosen(log_probs: Array, labels: Array) -> Array:
    """Takes the log-probabilities of the labels, [B, ...]."""
    return jnp.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]


def check_options(
    estimator: str, method: str, methods: Sequence[str] = METHODS, *, where: str = ""
) -> list[str]:
    """Lists the problems of an estimator and a method; none if they go together.

    Args:
        estimator: should be one of `ESTIMATORS`.
        method: should be one of `methods`.
        methods: that there are.
        where: put behind the names in the messages, such as " of pruning.criteria".

    Returns:
        The problems.

    Example:
        >>> check_options("sampled", "batch"), check_options("exact", "vmap")
        ([], [])
        >>> check_options("exact", "batch")[0].split(". ")[0]
        "Expected estimator='exact' to be sampled with method batch"
    """
    problems = []
    if estimator not in ESTIMATORS:
        problems.append(unknown_choice(f"estimator{where}", estimator, ESTIMATORS))
    if method not in methods:
        problems.append(unknown_choice(f"method{where}", method, methods))
    if method == "batch" and estimator in ESTIMATORS and estimator != "sampled":
        remedy = f"Only labels drawn from the model are unbiased there. Use method {methods[0]}."
        allowed = "to be sampled with method batch"
        problems.append(expected(f"estimator{where}", estimator, allowed, remedy))
    return problems


def most_axes(estimator: str) -> int:
    """Returns how many axes logits may have: C passes are exact for one prediction an example."""
    return 2 if estimator == "exact" else 3


def require_logits(logits: Any, num_examples: int, most_axes: int = 2) -> None:
    """Refuses what are no logits, by their shape and type; runs while jit traces.

    Raises:
        InvalidInput: they are not [num_examples, C] with C >= 2, nor, with three axes at most,
            [num_examples, P, C], or no floats.
    """
    is_real = is_weight(logits) and not jnp.iscomplexobj(logits)
    fits = is_real and 2 <= logits.ndim <= most_axes
    if not fits or logits.shape[0] != num_examples or logits.shape[-1] < 2:
        given = jax.tree.map(lambda leaf: f"{leaf.dtype}{[*leaf.shape]}", logits)
        allowed = f"to be floats [B, C], B={num_examples} as in the batch, and C >= 2 classes"
        remedy = "Return the logits alone, a row for an example."
        if is_real and logits.ndim > most_axes:
            remedy = "Here an example has one prediction: sampled labels, say, may have several."
        raise unexpected("logits", given, allowed, remedy)
