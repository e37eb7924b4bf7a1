"""Squared gradients of log p(y|x) on one batch, by the three methods; the grid's signal of them.

Everything runs inside jit but `signal` itself and `standard_error`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax import layer_hooks
from earlyprune_jax.array_types import Array, Params, PRNGKey, accurate
from earlyprune_jax.layer_hooks.gradients import Explicit, Gradient
from earlyprune_jax.pruning.scores.fisher import (
    Choose,
    batch_gradient,
    check_options,
    example_gradients,
    label_rule,
)
from earlyprune_jax.pruning.scores.gradients import Examples
from earlyprune_jax.pruning.trees import is_weight, named_leaves, refuse, split_leaves
from earlyprune_jax.signals.signal import Network, ProbeSignal

METHODS = ("vmap", "layerwise", "batch")

COLUMNS = (
    "fisher_trace",
    "fisher_trace_standard_error",
    "fisher_trace_all",
    "fisher_trace_all_standard_error",
)


class Squares(NamedTuple):
    """Squared gradients of one batch, summed over each unit: an example, or for `batch` the batch.

    Attributes:
        values: [weights of the tree, units] float32, the labels' weights included; 0 for padding.
        sizes: [units] how many examples a unit holds: 0 for padding.
        finite: [B] whether the logits of each example are.
    """

    values: Array
    sizes: Array
    finite: Array


def batch_squares(
    network: Network, params: Params, batch: Any, examples: Examples, *, method: str, choose: Choose
) -> Squares:
    """Squares the gradients of log p(y|x) with respect to every weight.

    Args:
        network: in evaluation mode.
        params: its parameters, any pytree.
        batch: what it is applied to; arrays with a leading axis B.
        examples: their numbers, labels, weights.
        method: one of `METHODS`; `layerwise` is `vmap` where the network is no Linen module.
        choose: whose log-probability is differentiated.

    Returns:
        The sums of every unit.
    """
    if method == "batch":
        gradients, log_probs = batch_gradient(network.log_probs, params, batch, examples, choose)
        sums = [jnp.sum(jnp.square(_accurate(gradient))) for gradient in gradients]
        values = jnp.stack([total.astype(jnp.float32) for total in sums])[:, None]
        sizes = jnp.sum(examples.weights)[None]
    else:
        if method == "layerwise" and network.is_linen:
            gradients, factors, log_probs = _layerwise(network, params, batch, examples, choose)
        else:
            of_vmap = example_gradients(network.log_probs, params, batch, examples, choose)
            gradients, factors, log_probs = _explicit(of_vmap[0]), *of_vmap[1:]
        factors, sizes = factors * examples.weights, examples.weights
        sums = jnp.stack([leaf.squares().astype(jnp.float32) for leaf in gradients])
        # where, not a product: padding must not count even if it is nan.
        values = jnp.where((examples.weights > 0)[None], factors[None] * sums, 0.0)
    return Squares(values, sizes, jnp.isfinite(log_probs).all(axis=tuple(range(1, log_probs.ndim))))


def _layerwise(
    network: Network, params: Params, batch: Any, examples: Examples, choose: Choose
) -> tuple[list[Gradient], Array, Array]:
    """Makes each weight's gradients, the labels' weights [B] and log-probabilities [B, ..., C].

    By one backward pass for the hooked layers, and by vmap for the other weights.
    """
    variables = {"params": params, **network.fixed}
    covered = layer_hooks.coverage(network.apply, variables, batch)
    logits, backward = layer_hooks.hooked_pass(network.apply, variables, batch, covered)
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    labels, factors = choose(log_probs, examples.numbers, examples.labels)
    # d log p_y / d logits = onehot(y) - p.
    gradients = backward(jax.nn.one_hot(labels, log_probs.shape[-1]) - jnp.exp(log_probs))
    leaves = jax.tree.leaves(params)
    weights = [index for index, leaf in enumerate(leaves) if is_weight(leaf)]
    if left := [index for index in weights if index not in gradients]:
        own, merge = split_leaves(params, (index in left for index in range(len(leaves))))

        def of_left(some: list[Array], batch: Any) -> Array:
            return network.log_probs(merge(some), batch)

        chosen = examples._replace(labels=labels)
        as_chosen = label_rule("empirical", jnp.zeros(2, jnp.uint32), 0)
        made, _, _ = example_gradients(of_left, own, batch, chosen, as_chosen)
        gradients |= zip(left, _explicit(made), strict=True)
    return [gradients[index] for index in weights], factors, log_probs


def _accurate(gradient: Array) -> Array:
    return gradient.astype(accurate(gradient.dtype))


def _explicit(gradients: list[Array]) -> list[Gradient]:
    return [Explicit(_accurate(gradient)) for gradient in gradients]


def standard_error(values: Any, sizes: Any) -> float | None:
    """Estimates the standard error of sum(values) / sum(sizes), from the spread of values / sizes.

    sqrt(K / (K - 1) sum_k (n_k / N)^2 (x_k - mean)^2), x_k = values_k / n_k, over the K units of
    n_k > 0 examples. For units of one size it is std(x, ddof=1) / sqrt(K).

    Returns:
        None where K < 2.

    Example:
        >>> standard_error([1.0, 2.0, 3.0, 4.0, 5.0, 0.0], [1, 1, 1, 1, 1, 0])       # sqrt(2.5 / 5)
        0.7071067811865476
    """
    is_unit = np.asarray(sizes, np.float64) > 0
    values, sizes = (np.asarray(array, np.float64)[is_unit] for array in (values, sizes))
    if len(sizes) < 2:
        return None
    mean, shares = values.sum() / sizes.sum(), sizes / sizes.sum()
    spread = np.sum(np.square(shares * (values / sizes - mean)))
    return float(np.sqrt(spread * len(sizes) / (len(sizes) - 1)))


def signal(
    estimator: str, method: str, counted: Any, num_classes: int, num_examples: int
) -> ProbeSignal:
    """Makes tr(F), the mean over probe examples, as a signal of the grid.

    Of an example with several predictions, such as a sentence, log p(y|x) is the sum over them.

    Columns: `fisher_trace` (the counted leaves), `fisher_trace_all` (every leaf), each with its
    standard error (None where there are fewer than two units, which are examples, or the batches
    for method `batch`), and the mapping `fisher_trace_by_parameter` (path -> value, whose sum over
    any subset of leaves is the trace of that subset).

    Cost: see `fisher_trace`; `exact` visits the probe images C times.

    Args:
        estimator, method: as `fisher_trace`; `layerwise` is `vmap` where the network is no Linen
            module.
        counted: the structure of the params with Python bools: the leaves summed into
            `fisher_trace`; paper A plots the conv kernels.
        num_classes: C.
        num_examples: the most probe images there can be; their `numbers` are below it, or they are
            padding. Every image has its own place in the sums, because the squares of its labels
            are added up over passes before their spread is taken.

    Returns:
        The signal.

    Raises:
        InvalidInput: an estimator and a method that do not go together.
    """
    refuse(check_options(estimator, method, METHODS))

    def zero_sums(params: Params) -> Any:
        leaves = {name: jnp.zeros(()) for name, leaf in named_leaves(params) if is_weight(leaf)}
        units = {name: jnp.zeros(num_examples) for name in ("sizes", "counted", "all")}
        return {"leaves": leaves, "units": units}

    def batch_sums(
        network: Network, params: Params, batch: Any, key: PRNGKey, pass_index: Array
    ) -> Any:
        # Only the empirical estimator looks at the data's labels.
        labels = batch.get("labels", jnp.zeros_like(batch["numbers"]))
        examples = Examples(batch["numbers"], labels, batch["weights"])
        choose = label_rule(estimator, key, pass_index)
        squares = batch_squares(network, params, batch, examples, method=method, choose=choose)
        flags = zip(named_leaves(params), jax.tree.leaves(counted), strict=True)
        weights = {name: float(flag) for (name, leaf), flag in flags if is_weight(leaf)}
        is_counted = jnp.array(list(weights.values()))
        values = squares.values
        totals = {
            "sizes": squares.sizes * (pass_index == 0),
            "counted": jnp.sum(values * is_counted[:, None], axis=0),
            "all": jnp.sum(values, axis=0),
        }
        # A batch that is one unit is entered at its first image, which is never padding.
        places = batch["numbers"][: values.shape[1]]
        units = {
            name: jnp.zeros(num_examples).at[places].add(total, mode="drop")
            for name, total in totals.items()
        }
        return {"leaves": dict(zip(weights, jnp.sum(values, axis=1), strict=True)), "units": units}

    def numbers(sums: Any, size: int) -> dict[str, Any]:
        units = {name: np.asarray(total, np.float64) for name, total in sums["units"].items()}
        measured: dict[str, Any] = {}
        for column, name in (("fisher_trace", "counted"), ("fisher_trace_all", "all")):
            measured[column] = float(units[name].sum()) / size
            measured[f"{column}_standard_error"] = standard_error(units[name], units["sizes"])
        by_parameter = {name: float(leaf) / size for name, leaf in sums["leaves"].items()}
        return measured | {"fisher_trace_by_parameter": by_parameter}

    num_passes = num_classes if estimator == "exact" else 1
    return ProbeSignal("fisher_trace", COLUMNS, num_passes, zero_sums, batch_sums, numbers)
