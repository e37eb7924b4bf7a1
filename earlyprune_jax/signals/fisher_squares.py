"""Squared gradients of log p(y|x) on one batch, by the three methods; everything here runs inside
jit."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax import taps
from earlyprune_jax.array_types import Array, Params, PRNGKey
from earlyprune_jax.pruning.scores.fisher import choose_labels
from earlyprune_jax.pruning.trees import is_weight, split_weights
from earlyprune_jax.signals.signal import Network
from earlyprune_jax.taps.gradients import Explicit, Gradient

ESTIMATORS = ("exact", "sampled", "argmax", "empirical")
METHODS = ("vmap", "layerwise", "batch")

Choose = Callable[[Array, Array, Array], tuple[Array, Array]]
"""(log-probabilities [B, C], numbers [B], the data's labels [B]) -> labels [B] and their weights
[B]."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """A batch of N examples beside what the network takes.

    Attributes:
        numbers: [B] each example's place among all of them: what drawn labels depend on.
        labels: [B] the data's labels; looked at by the empirical estimator only.
        weights: [B] 1, or 0 for padding.
    """

    numbers: Array
    labels: Array
    weights: Array


@dataclasses.dataclass(frozen=True)
class Squares:
    """Squared gradients of one batch, summed over each unit: an example, or for `batch` the batch.

    Attributes:
        values: [weights of the tree, units] float32, the labels' weights included; 0 for padding.
        sizes: [units] how many examples a unit holds: 0 for padding.
        diagonal: for each weight the sum over units of its entries' squares, or None.
        finite: [B] whether the logits of each example are.
    """

    values: Array
    sizes: Array
    diagonal: list[Array] | None
    finite: Array


jax.tree_util.register_dataclass(Examples, ["numbers", "labels", "weights"], [])
jax.tree_util.register_dataclass(Squares, ["values", "sizes", "diagonal", "finite"], [])


def label_rule(estimator: str, key: PRNGKey, pass_index: Array) -> Choose:
    """The labels an estimator takes; drawn ones are a function of (key, example's number) alone."""

    def choose(log_probs: Array, numbers: Array, labels: Array) -> tuple[Array, Array]:
        if estimator != "sampled":
            rule = "true" if estimator == "empirical" else estimator
            return choose_labels(rule, log_probs, labels, key, pass_index)

        def draw(row: Array, number: Array) -> Array:
            own_key = jax.random.fold_in(key, number)
            return choose_labels("sampled", row[None], labels, own_key, pass_index)[0][0]

        return jax.vmap(draw)(log_probs, numbers), jnp.ones(log_probs.shape[0])

    return choose


def batch_squares(
    network: Network,
    params: Params,
    batch: Any,
    examples: Examples,
    *,
    method: str,
    choose: Choose,
    with_diagonal: bool = False,
) -> Squares:
    """Squared gradients of log p(y|x) of every weight.

    Args:
        network: in evaluation mode.
        params: its parameters, any pytree.
        batch: what it is applied to; arrays with a leading axis B.
        examples: their numbers, labels, weights.
        method: one of `METHODS`; `layerwise` is `vmap` where the network is no Linen module.
        choose: whose log-probability is differentiated.
        with_diagonal: whether the squares of single entries are wanted too.
    """
    if method == "batch":
        return _of_the_batch(network, params, batch, examples, choose, with_diagonal)
    make = _layerwise if method == "layerwise" and network.is_linen else _by_vmap
    gradients, factors, finite = make(network, params, batch, examples, choose)
    factors = factors * examples.weights

    def counted(squares: Array) -> Array:
        # where, not a product: padding must not count even if it is nan.
        return jnp.where(examples.weights > 0, factors * squares, 0.0)

    values = jnp.stack([counted(gradient.squares().astype(jnp.float32)) for gradient in gradients])
    diagonal = [gradient.diagonal(factors) for gradient in gradients] if with_diagonal else None
    return Squares(values, examples.weights, diagonal, finite)


Made = tuple[list[Gradient], Array, Array]
"""Per-example gradients of each weight, the labels' weights [B], whether the logits are finite
[B]."""


def _by_vmap(
    network: Network, params: Params, batch: Any, examples: Examples, choose: Choose
) -> Made:
    """Every example's gradients, by one backward pass each."""
    weights, merge = split_weights(params)

    def gradient(example: Any, number: Array, label: Array) -> Any:
        single = jax.tree.map(lambda leaf: leaf[None], example)

        def objective(weights: list[Array]) -> tuple[Array, tuple[Array, Array]]:
            log_probs = network.log_probs(merge(weights), single)
            fixed = jax.lax.stop_gradient(log_probs)
            labels, factors = choose(fixed, number[None], label[None])
            return log_probs[0, labels[0]], (factors[0], jnp.isfinite(fixed).all())

        return jax.grad(objective, has_aux=True)(weights)

    gradients, (factors, finite) = jax.vmap(gradient)(batch, examples.numbers, examples.labels)
    return [Explicit(_accurate(leaf)) for leaf in gradients], factors, finite


def _layerwise(
    network: Network, params: Params, batch: Any, examples: Examples, choose: Choose
) -> Made:
    """The tapped layers' gradients from one backward pass; the other weights' by vmap."""
    variables = {"params": params, **network.fixed}
    covered = taps.coverage(network.apply, variables, batch)
    run = taps.tapped_pass(network.apply, variables, batch, covered)
    log_probs = jax.nn.log_softmax(run.logits.astype(jnp.float32))
    labels, factors = choose(log_probs, examples.numbers, examples.labels)
    # d log p_y / d logits = onehot(y) - p.
    cotangent = jax.nn.one_hot(labels, log_probs.shape[1]) - jnp.exp(log_probs)
    found = run.gradients(cotangent)
    leaves, treedef = jax.tree.flatten(params)
    left = [place for place, leaf in enumerate(leaves) if is_weight(leaf) and place not in found]
    if left:
        found |= _left_over(network, leaves, treedef, left, batch, examples, labels)
    gradients = [found[place] for place, leaf in enumerate(leaves) if is_weight(leaf)]
    return gradients, factors, jnp.isfinite(log_probs).all(axis=1)


def _left_over(
    network: Network,
    leaves: list[Any],
    treedef: Any,
    left: list[int],
    batch: Any,
    examples: Examples,
    labels: Array,
) -> dict[int, Gradient]:
    """The gradients of some leaves by vmap, of the labels given."""

    def merge(some: list[Array]) -> Params:
        filled = list(leaves)
        for place, leaf in zip(left, some, strict=True):
            filled[place] = leaf
        return jax.tree.unflatten(treedef, filled)

    partial = Network(
        lambda variables, batch: network.apply(
            {**network.fixed, "params": merge(variables["params"])}, batch
        ),
        {},
        is_linen=False,
    )
    given = dataclasses.replace(examples, labels=labels)
    rule = label_rule("empirical", jnp.zeros(2, jnp.uint32), jnp.zeros((), jnp.int32))
    gradients, _, _ = _by_vmap(partial, [leaves[place] for place in left], batch, given, rule)
    return dict(zip(left, gradients, strict=True))


def _of_the_batch(
    network: Network,
    params: Params,
    batch: Any,
    examples: Examples,
    choose: Choose,
    with_diagonal: bool,
) -> Squares:
    """One unit: the square of the gradient of the batch's summed log-probability."""
    weights, merge = split_weights(params)

    def objective(weights: list[Array]) -> tuple[Array, Array]:
        log_probs = network.log_probs(merge(weights), batch)
        fixed = jax.lax.stop_gradient(log_probs)
        labels, _ = choose(fixed, examples.numbers, examples.labels)
        chosen = jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
        finite = jnp.isfinite(fixed).all(axis=1)
        return jnp.sum(jnp.where(examples.weights > 0, chosen, 0.0)), finite

    gradients, finite = jax.grad(objective, has_aux=True)(weights)
    squares = [jnp.square(_accurate(gradient)) for gradient in gradients]
    values = jnp.stack([jnp.sum(square).astype(jnp.float32) for square in squares])
    return Squares(
        values[:, None], jnp.sum(examples.weights)[None], squares if with_diagonal else None, finite
    )


def _accurate(gradient: Array) -> Array:
    return gradient.astype(jnp.promote_types(gradient.dtype, jnp.float32))


def standard_error(values: Any, sizes: Any) -> float | None:
    """The standard error of sum(values) / sum(sizes), from the spread of values / sizes.

    sqrt(K / (K - 1) sum_k (n_k / N)^2 (x_k - mean)^2), x_k = values_k / n_k, over the K units of
    n_k > 0 examples. For units of one size it is std(x, ddof=1) / sqrt(K).

    Returns:
        None where K < 2.

    Example:
        >>> standard_error([1.0, 2.0, 3.0, 4.0, 5.0, 0.0], [1, 1, 1, 1, 1, 0])       # sqrt(2.5 / 5)
        0.7071067811865476
    """
    held = np.asarray(sizes, np.float64) > 0
    values, sizes = (np.asarray(array, np.float64)[held] for array in (values, sizes))
    if len(sizes) < 2:
        return None
    mean, shares = values.sum() / sizes.sum(), sizes / sizes.sum()
    spread = np.sum(np.square(shares * (values / sizes - mean)))
    return float(np.sqrt(spread * len(sizes) / (len(sizes) - 1)))
