"""Scores from gradients of a loss over a whole data set: Taylor, SNIP, GraSP.

`loss(params, batch)` is the mean loss over the examples of a batch. It must be in evaluation
mode: close over the batch statistics (`module.apply({"params": params, "batch_stats": stats},
batch["images"], train=False)`), or a weight's score depends on its example's neighbours.
Batches are pytrees of arrays with a leading example axis. All are consumed, and averages run
over examples: a smaller last batch counts by its size. In memory at any time: one batch's
graph and the accumulators, which are float32 whatever the weights are.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Array, Params, Scores
from earlyprune_jax.pruning.scores.batches import Batches, checked
from earlyprune_jax.pruning.trees import is_weight, map_weights, named_leaves, split_weights
from earlyprune_jax.validate import InvalidInput, expected, unexpected

Loss = Callable[[Params, Any], Array]
"""(params, batch) -> the mean loss over the batch's examples, a scalar, in evaluation mode."""


def mean_gradient(loss: Loss, params: Params, batches: Batches) -> Scores:
    """The gradient of the mean loss over all examples, in float32.

    sum_b n_b grad loss(params, batch_b) / sum_b n_b, n_b the number of examples of batch b. One
    compilation for each batch size.

    Args:
        loss: (params, batch) -> scalar mean over the batch's examples, in evaluation mode.
        params: any pytree.
        batches: pytrees of arrays with a leading example axis; consumed to the end.

    Returns:
        The structure of `params`; zeros where a leaf is no weight.

    Raises:
        InvalidInput: no batch or one without examples, leaves that disagree on their number, a
            loss that is no scalar, a loss or gradient that is not finite (with path and batch).

    Example:
        >>> loss = lambda params, x: jnp.mean(params["w"] * x)
        >>> batches = [jnp.array([1.0, 2.0]), jnp.array([6.0])]
        >>> float(mean_gradient(loss, {"w": jnp.ones(())}, batches)["w"])
        3.0
    """
    weights, merge = weights_of(params)
    objective = _objective(loss, merge)
    total, count = _sum_over_examples(jax.value_and_grad(objective), (weights,), params, batches)
    return scores_like(params, [leaf / count for leaf in total])


def taylor(loss: Loss, params: Params, batches: Batches) -> Scores:
    """|w g|: how much the loss changes, to first order, when the weight is removed.

    g is the gradient of the mean loss over all examples. Molchanov et al. square it, which
    leaves the order as it is.

    Args:
        loss: (params, batch) -> scalar mean over the batch's examples, in evaluation mode.
        params: any pytree.
        batches: pytrees of arrays with a leading example axis; consumed to the end.

    Returns:
        The structure of `params`, float32.

    Raises:
        InvalidInput: as `mean_gradient`.

    Source: Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", Eq. 8.

    Example:
        >>> loss = lambda params, x: jnp.mean((x @ params) ** 2) / 2
        >>> taylor(loss, jnp.array([1.0, -2.0]), [jnp.array([[1.0, 1.0]])]).tolist()
        [1.0, 2.0]
    """
    gradient = mean_gradient(loss, params, batches)
    return map_weights(lambda w, g: jnp.abs(w.astype(jnp.float32) * g), params, gradient)


def snip(loss: Loss, params: Params, batches: Batches) -> Scores:
    """|w g| / sum |w g|: connection sensitivity, each weight's share of the whole.

    The sum runs over all weights of the tree, also those that may not be pruned; it changes no
    order. The paper uses one batch at initialisation; here g is the mean over all batches.

    Args:
        loss: (params, batch) -> scalar mean over the batch's examples, in evaluation mode.
        params: any pytree.
        batches: pytrees of arrays with a leading example axis; consumed to the end.

    Returns:
        The structure of `params`, float32, adding up to 1.

    Raises:
        InvalidInput: as `mean_gradient`; or w g is 0 for every weight.

    Source: Lee et al. 2019, "SNIP: Single-shot Network Pruning", Eq. 6.

    Example:
        >>> loss = lambda params, x: jnp.mean((x @ params) ** 2) / 2
        >>> snip(loss, jnp.array([1.0, -3.0]), [jnp.array([[1.0, 1.0]])]).tolist()
        [0.25, 0.75]
    """
    sensitivity = taylor(loss, params, batches)
    total = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(sensitivity))
    if total == 0:
        remedy = "Score before the weights or gradients vanish: at a random initialisation."
        raise unexpected("sum |w g|", 0.0, "to be positive", remedy)
    return map_weights(lambda _, s: s / total, params, sensitivity)


def grasp(loss: Loss, params: Params, batches: Batches) -> Scores:
    """w (H g): what removing the weight takes from the gradient flow g^T g, to first order.

    Up to the factor 2: g^T g changes by -2 w_i (H g)_i. The paper's S = -w (H g) removes the
    highest; here higher = keep. Two passes over the data: g over all examples, then the mean of
    the batches' Hessian-vector products with that g, weighted by their examples, which is H g of
    the whole data set. For the authors' temperature, divide the logits by it inside `loss`.

    Args:
        loss: (params, batch) -> scalar mean over the batch's examples, in evaluation mode, twice
            differentiable.
        params: any pytree.
        batches: pytrees of arrays with a leading example axis; consumed to the end twice, so a
            list or an object that starts again, not an iterator.

    Returns:
        The structure of `params`, float32, of both signs.

    Raises:
        InvalidInput: as `mean_gradient`; `batches` is a one-shot iterator, or its second pass has
            another number of examples.

    Source: Wang et al. 2020, "Picking Winning Tickets Before Training by Preserving Gradient Flow",
    Eq. 8 and Algorithm 1.

    Example:
        >>> loss = lambda params, x: jnp.mean((x @ params) ** 2) / 2
        >>> grasp(loss, jnp.array([3.0, -1.0]), [jnp.array([[1.0, 1.0]])]).tolist()  # g = (2, 2) = Hg / 2
        [12.0, -4.0]
    """
    if isinstance(batches, Iterator):
        remedy = (
            "Both passes need all batches: give a list, or an object whose __iter__ starts again."
        )
        raise unexpected("batches", type(batches).__name__, "to be re-iterable", remedy)
    weights, merge = weights_of(params)
    value_and_gradient = jax.value_and_grad(_objective(loss, merge))

    def curvature_along(weights, direction, batch):
        _, (slope, product) = jax.jvp(
            lambda w: value_and_gradient(w, batch), (weights,), (direction,)
        )
        return slope, product

    total, count = _sum_over_examples(value_and_gradient, (weights,), params, batches)
    # jvp wants the tangents in the weights' own types.
    gradient = [(leaf / count).astype(w.dtype) for leaf, w in zip(total, weights, strict=True)]
    total, second = _sum_over_examples(curvature_along, (weights, gradient), params, batches)
    if second != count:
        remedy = "Both passes must see the same data."
        raise unexpected("examples in the second pass", second, f"to be {count}", remedy)
    product = scores_like(params, [leaf / count for leaf in total])
    return map_weights(lambda w, hg: w.astype(jnp.float32) * hg, params, product)


def weights_of(params: Params) -> tuple[list[Array], Callable[[list[Array]], Params]]:
    """`trees.split_weights`, for functions that differentiate.

    Raises:
        InvalidInput: no weights, or complex ones.
    """
    named = [(name, leaf) for name, leaf in named_leaves(params) if is_weight(leaf)]
    problems = [
        expected(
            f"params at {name}, its type,", str(leaf.dtype), "to be real", "Keep two real leaves."
        )
        for name, leaf in named
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    ]
    if not named:
        problems.append(expected("params", params, "to hold at least one floating-point array"))
    if problems:
        raise InvalidInput(problems)
    weights, merge = split_weights(params)
    return [jnp.asarray(weight) for weight in weights], merge


def scores_like(params: Params, arrays: list[Any]) -> Scores:
    """The structure of `params` with the arrays in place of its weights, zeros elsewhere."""
    _, merge = split_weights(params)
    return map_weights(lambda _, array: array, params, merge(arrays))


def scalar(value: Any) -> Array:
    """A loss that is one real number, or a named error; runs while jit traces."""
    given = [(np.shape(leaf), str(jnp.result_type(leaf))) for leaf in jax.tree.leaves(value)]
    if (
        not is_weight(value)
        or value.shape != ()
        or jnp.issubdtype(value.dtype, jnp.complexfloating)
    ):
        remedy = "Return the mean over the batch's examples alone, without auxiliary outputs."
        raise unexpected("loss(params, batch)", given, "to be one real number", remedy)
    return value


def require_finite(
    value_is_finite: Any, leaves_are_finite: Any, params: Params, number: int
) -> None:
    """Refuses what is not finite after a batch, by the paths of its leaves.

    Args:
        value_is_finite: bool, of the loss or log-probabilities.
        leaves_are_finite: [number of weights] bool.
        params: names the leaves.
        number: the batch, from 0.
    """
    names = [name for name, leaf in named_leaves(params) if is_weight(leaf)]
    bad = [
        name
        for name, finite in zip(names, np.asarray(leaves_are_finite), strict=True)
        if not finite
    ]
    remedy = (
        f"At batch {number} (from 0). Look at that batch, or score weights that have not diverged."
    )
    problems = [] if value_is_finite else [expected("loss", "not finite", "to be finite", remedy)]
    shown = ", ".join(bad[:8]) + (f" and {len(bad) - 8} more" if len(bad) > 8 else "")
    if bad:
        problems.append(
            expected(f"gradient at {shown or 'its root'}", "not finite", "to be finite", remedy)
        )
    if problems:
        raise InvalidInput(problems)


def all_finite(arrays: list[Array]) -> Array:
    """[n] bool: whether each array is finite throughout."""
    return jnp.stack([jnp.isfinite(array).all() for array in arrays])


def _objective(
    loss: Loss, merge: Callable[[list[Array]], Params]
) -> Callable[[list[Array], Any], Array]:
    return lambda weights, batch: scalar(loss(merge(weights), batch))


def _sum_over_examples(
    per_batch: Callable[..., tuple[Array, list[Array]]],
    operands: tuple[Any, ...],
    params: Params,
    batches: Batches,
) -> tuple[list[Array], int]:
    """sum_b n_b per_batch(*operands, batch_b)[1] in float32, and sum_b n_b."""

    # The operands are arguments, not closed over: jit would build them in as constants.
    @functools.partial(jax.jit, donate_argnums=0)
    def add(totals, operands, batch, size):
        value, arrays = per_batch(*operands, batch)
        totals = [t + size * a.astype(jnp.float32) for t, a in zip(totals, arrays, strict=True)]
        return totals, jnp.isfinite(value), all_finite(totals)

    totals = [jnp.zeros(weight.shape, jnp.float32) for weight in operands[0]]
    count = 0
    for number, batch, size in checked(batches):
        totals, value_is_finite, leaves_are_finite = add(totals, operands, batch, float(size))
        require_finite(value_is_finite, leaves_are_finite, params, number)
        count += size
    return totals, count
