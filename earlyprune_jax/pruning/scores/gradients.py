"""Scores from gradients of a loss over a whole data set: Taylor, SNIP, GraSP.

`loss(params, batch)` is the mean loss over the examples of a batch. It must be in evaluation
mode: close over the batch statistics (`module.apply({"params": params, "batch_stats": stats},
batch["images"], train=False)`), or a weight's score depends on its example's neighbours.
Batches are pytrees of arrays with a leading example axis. All are consumed, and averages run
over examples: a smaller last batch counts by its size. In memory at any time: one batch's
graph and the accumulators, which are float32 whatever the weights are.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Array, Params, Scores
from earlyprune_jax.pruning.modules import in_evaluation, require_function, whole_model_problems
from earlyprune_jax.pruning.trees import is_weight, map_weights, named_leaves, refuse, split_weights
from earlyprune_jax.validate import expected, shortened, unexpected

Batches = Iterable[Any]
"""Pytrees of arrays with a leading example axis."""

Loss = Callable[[Params, Any], Array]
"""(params, batch) -> the mean loss over the batch's examples, a scalar, in evaluation mode."""


class Examples(NamedTuple):
    """What is known of a batch of B examples beside what the network takes.

    Attributes:
        numbers: [B] each example's place among all of them: what drawn labels depend on.
        labels: [B] the data's labels; looked at by the empirical estimator only.
        weights: [B] 1, or 0 for padding.
    """

    numbers: Any
    labels: Any
    weights: Any


def mean_gradient(loss: Loss, params: Params, batches: Batches) -> Scores:
    """Computes the gradient of the mean loss over all examples, in float32.

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
    terms = _gradient_terms(loss, merge)
    total, count = sum_over_batches(terms, (weights,), params, batches, _whole)
    return scores_like(params, [leaf / count for leaf in total])


def taylor(loss: Loss, params: Params, batches: Batches) -> Scores:
    """Scores by |w g|: how much the loss changes, to first order, when the weight is removed.

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
    """Scores by |w g| / sum |w g|: connection sensitivity, each weight's share of the whole.

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
    """Scores by w (H g): what removing a weight takes from the gradient flow, to first order.

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
        >>> batches = [jnp.array([[1.0, 1.0]])]                         # g = (2, 2) = H g / 2
        >>> grasp(loss, jnp.array([3.0, -1.0]), batches).tolist()
        [12.0, -4.0]
    """
    if isinstance(batches, Iterator):
        remedy = "Both passes need all batches: give a list, or make an iterable class."
        raise unexpected("batches", type(batches).__name__, "to be re-iterable", remedy)
    weights, merge = weights_of(params)
    gradient_terms = _gradient_terms(loss, merge)

    def curvature_terms(weights, direction, batch, size):
        return jax.jvp(lambda w: gradient_terms(w, batch, size), (weights,), (direction,))[1]

    total, count = sum_over_batches(gradient_terms, (weights,), params, batches, _whole)
    # jvp wants the tangents in the weights' own types.
    gradient = [(leaf / count).astype(w.dtype) for leaf, w in zip(total, weights, strict=True)]
    both = weights, gradient
    total, second = sum_over_batches(curvature_terms, both, params, batches, _whole)
    if second != count:
        remedy = "Both passes must see the same data."
        raise unexpected("examples in the second pass", second, f"to be {count}", remedy)
    product = scores_like(params, [leaf / count for leaf in total])
    return map_weights(lambda w, hg: w.astype(jnp.float32) * hg, params, product)


def weights_of(params: Params) -> tuple[list[Array], Callable[[list[Array]], Params]]:
    """Splits off the weights as `trees.split_weights` does, for functions that differentiate.

    Raises:
        InvalidInput: no weights, or complex ones; a whole NNX model that is more than parameters.
    """
    refuse(whole_model_problems("params", params))
    named = [(name, leaf) for name, leaf in named_leaves(params) if is_weight(leaf)]
    if not named:
        raise unexpected("params", params, "to hold at least one floating-point array")
    refuse(
        expected(f"params at {n}, its type,", str(w.dtype), "to be real", "Keep two real leaves.")
        for n, w in named
        if jnp.iscomplexobj(w)
    )
    weights, merge = split_weights(params)
    return [jnp.asarray(weight) for weight in weights], merge


def scores_like(params: Params, arrays: list[Any]) -> Scores:
    """Makes the structure of `params` with arrays in place of its weights, zeros elsewhere."""
    _, merge = split_weights(params)
    return map_weights(lambda _, array: array, params, merge(arrays))


def scalar(value: Any) -> Array:
    """Returns a loss that is one real number, or raises a named error; runs while jit traces."""
    if is_weight(value) and value.shape == () and not jnp.iscomplexobj(value):
        return value
    given = [(np.shape(leaf), str(jnp.result_type(leaf))) for leaf in jax.tree.leaves(value)]
    remedy = "Return the mean over the batch's examples alone, without auxiliary outputs."
    raise unexpected("loss(params, batch)", given, "to be one real number", remedy)


def sum_over_batches(
    terms: Callable[..., tuple[Array, list[Array]]],
    operands: tuple[Any, ...],
    params: Params,
    batches: Batches,
    pieces: Callable[[Any, int, int], Iterable[tuple[Any, ...]]],
) -> tuple[list[Array], int]:
    """Adds up over all batches, in float32, what a compiled function gives for their pieces.

    Args:
        terms: (*operands, *piece) -> (a loss or losses, an array for each weight).
        operands: the first is the list of weights.
        params: names the weights in errors.
        batches: pytrees of arrays with a leading example axis; consumed to the end.
        pieces: (batch, its number of examples, number of those before it) -> the arguments of each
            call of `terms`.

    Returns:
        The sums, and the number of examples.

    Raises:
        InvalidInput: bad batches; a loss or a sum that is not finite (with path and batch).
    """

    # The operands are arguments, not closed over: jit would build them in as constants.
    @functools.partial(jax.jit, donate_argnums=0)
    def add(totals, operands, *piece):
        losses, arrays = terms(*operands, *piece)
        totals = [total + array for total, array in zip(totals, arrays, strict=True)]
        finite = jnp.stack([jnp.isfinite(total).all() for total in totals])
        return totals, jnp.isfinite(losses).all(), finite

    names = [name for name, leaf in named_leaves(params) if is_weight(leaf)]
    totals = [jnp.zeros(weight.shape, jnp.float32) for weight in operands[0]]
    count = 0
    for number, batch, size in checked(batches):
        losses_finite = []
        totals_finite: Any = ()
        for piece in pieces(batch, size, count):
            with in_evaluation():
                totals, loss_finite, totals_finite = add(totals, operands, *piece)
            losses_finite.append(loss_finite)
        things = [] if np.all(losses_finite) else ["loss"]
        pairs = zip(names, np.asarray(totals_finite), strict=True)
        if broken := [name for name, good in pairs if not good]:
            things.append(f"gradient at {', '.join(shortened(broken, at_most=8)) or 'its root'}")
        remedy = f"At batch {number} (from 0). Look at it, or score weights that have not diverged."
        refuse(expected(thing, "not finite", "to be finite", remedy) for thing in things)
        count += size
    return totals, count


def _gradient_terms(loss: Loss, merge: Callable[[list[Array]], Params]) -> Callable[..., Any]:
    """Makes the function of a loss and its gradient, times the number of a batch's examples."""
    require_function("loss", loss, "(params, batch)")
    value_and_gradient = jax.value_and_grad(lambda w, batch: scalar(loss(merge(w), batch)))

    def terms(weights: list[Array], batch: Any, size: Array) -> tuple[Array, list[Array]]:
        value, gradient = value_and_gradient(weights, batch)
        return value, [size * leaf.astype(jnp.float32) for leaf in gradient]

    return terms


def _whole(batch: Any, size: int, first: int) -> list[tuple[Any, ...]]:
    return [(batch, float(size))]


def checked(batches: Batches) -> Iterator[tuple[int, Any, int]]:
    """Yields (number from 0, batch, number of examples) of every batch: what averages run over.

    Raises:
        InvalidInput: not an iterable of batches, empty, or a batch without one common number of
            examples of at least 1.
    """
    # A dict's keys or an array's rows would be taken for batches.
    is_batch = isinstance(batches, Mapping | str) or hasattr(batches, "ndim")
    if is_batch or not isinstance(batches, Iterable):
        remedy = "Wrap a single batch in a list."
        raise unexpected("batches", type(batches).__name__, "to be an iterable of batches", remedy)
    number = -1
    for number, batch in enumerate(batches):
        sizes = {n or "its root": (*np.shape(leaf), None)[0] for n, leaf in named_leaves(batch)}
        size = next(iter(sizes.values()), None)
        if not size or set(sizes.values()) != {size}:
            allowed = "to be the same number of at least 1 in all its arrays"
            remedy = "Every array has a leading axis, over the same examples."
            raise unexpected(f"examples in batch {number} (from 0)", sizes, allowed, remedy)
        yield number, batch, size
    if number < 0:
        remedy = "An iterator that has been used up gives none: make it again."
        raise unexpected("batches", batches, "to give at least one batch", remedy)


def microbatches(
    batch: Any, count: int, size: int, *, labels: Any = None, first: int = 0
) -> Iterator[tuple[Any, Examples]]:
    """Cuts a batch into parts of one shape.

    What is missing in the last is filled with its last example at weight 0: one compilation, and
    unlike zeros no input that the network was not asked to take.

    Args:
        batch: arrays with a leading axis of `count` examples.
        count: of the batch's examples.
        size: of a part.
        labels: [count] of the data, where they are looked at.
        first: the number of the batch's first example in the data.

    Returns:
        Each part, and what is known of its examples.
    """
    given = np.zeros(count, np.int32) if labels is None else np.asarray(labels).astype(np.int32)
    for start in range(0, count, size):
        places = np.arange(start, start + size)
        inside = np.minimum(places, count - 1)
        part = jax.tree.map(lambda leaf, taken=inside: leaf[taken], batch)
        numbers, weights = (first + places).astype(np.int32), (places < count).astype(np.float32)
        yield part, Examples(numbers, given[inside], weights)
