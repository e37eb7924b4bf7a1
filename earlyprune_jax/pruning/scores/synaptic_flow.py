"""SynFlow: scores without data, and the iterated pruning that never cuts a network apart.

Synaptic flow is conserved: the scores of every layer add up to the same number, and so do those
into and out of every hidden unit. A layer with few weights left therefore has high ones; removing
few weights at a time and scoring again keeps every layer alive down to the highest
compression there is. One-shot scores do not have that property.
"""

import contextlib
import importlib
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Array, Mask, Params, Scores
from earlyprune_jax.pruning import masks
from earlyprune_jax.pruning.allocation.allocate import allocate
from earlyprune_jax.pruning.allocation.budgets import check_fraction
from earlyprune_jax.pruning.modules import in_evaluation, require_function
from earlyprune_jax.pruning.scores.gradients import scores_like, weights_of
from earlyprune_jax.pruning.scores.weights import count_problems, nonfinite_problems
from earlyprune_jax.pruning.trees import is_weight, named_leaves, refuse, split_weights
from earlyprune_jax.validate import expected, unexpected

Forward = Callable[[Params, Any], Array]
"""(params, inputs) -> outputs of any shape, in evaluation mode."""


def synflow(forward: Forward, params: Params, inputs: Any) -> Scores:
    """Computes |w| dR/d|w|, R = the sum of forward(|params|, ones), in float64.

    For a network of bias-free linear and ReLU layers, R = 1^T |W_L| ... |W_1| 1 and a weight's
    score is the sum over all paths through it of the product of their |w|. All weights are made
    positive, biases and norm scales too. R grows exponentially with depth and leaves float32; so
    all is computed with 64-bit types. A network that casts to a fixed type (`dtype=jnp.float32` in
    a Linen layer) still computes in that type.

    Args:
        forward: (params, inputs) -> outputs, in evaluation mode (close over the batch statistics:
            those of initialisation, mean 0 and variance 1, keep the theory).
        params: any pytree.
        inputs: what `forward` takes, e.g. jnp.ones((1, 32, 32, 3)). Floating-point arrays in it
            become ones of the same shape, whatever they hold; others (token ids) stay.

    Returns:
        The structure of `params` with NumPy float64 arrays, >= 0; zeros where a leaf is no weight.

    Raises:
        InvalidInput: the outputs or scores are not finite, or all scores are 0.

    Source: Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving
    synaptic flow", Eq. 2 and Algorithm 1.

    Example:
        >>> forward = lambda params, x: x @ params["first"] @ params["second"]
        >>> params = {"first": jnp.array([[1.0, -2.0]]), "second": jnp.array([[3.0], [0.5]])}
        >>> scores = synflow(forward, params, jnp.ones((1, 1)))
        >>> scores["first"].tolist(), scores["second"].tolist()      # two paths: 1 * 3 and 2 * 0.5
        ([[3.0, 1.0]], [[3.0], [1.0]])
    """
    return _flow(forward, params, inputs)(_magnitudes(params))


def synflow_mask(
    forward: Forward,
    params: Params,
    prunable: Any,
    inputs: Any,
    *,
    sparsity: float,
    rounds: int = 100,
) -> Mask:
    """Prunes by SynFlow in many small steps, scoring what is left before each.

    After round k the fraction (1 - sparsity)^(k / rounds) of the prunable weights is kept, over all
    of them together; what is removed stays removed. The final count is exact. With enough rounds no
    layer loses all its weights unless the sparsity leaves fewer weights than the network needs.

    Args:
        forward: as in `synflow`.
        params: as in `synflow`.
        inputs: as in `synflow`.
        prunable: the structure of `params` with Python bools, from `select`.
        sparsity: fraction of the prunable weights removed, in [0, 1).
        rounds: how often scores are computed; the paper's 100.

    Returns:
        The structure of `params`, bool: True = kept; all True where not prunable.

    Raises:
        InvalidInput: as `synflow` and `allocation.allocate`; `rounds` below 1; a sparsity at which
            no path through the network is left.

    Source: Tanaka et al. 2020, Algorithm 1.

    Example:
        >>> forward = lambda params, x: x @ params["first"] @ params["second"]
        >>> params = {"first": jnp.array([[1.0, -2.0]]), "second": jnp.array([[3.0], [0.5]])}
        >>> prunable = {"first": True, "second": True}
        >>> mask = synflow_mask(forward, params, prunable, jnp.ones((1, 1)), sparsity=0.5)
        >>> mask["first"].tolist(), mask["second"].tolist()
        ([[True, False]], [[True], [False]])
    """
    refuse(check_fraction(sparsity, "sparsity") + count_problems(1, rounds=rounds))
    flow, magnitudes = _flow(forward, params, inputs), _magnitudes(params)
    mask: Any = jax.tree.map(lambda leaf: np.ones(np.shape(leaf), bool), params)
    for index in range(1, rounds + 1):
        scores = flow(masks.apply(mask, magnitudes))
        # No score is below 0, so that removed weights come first and stay removed.
        ranked = jax.tree.map(lambda keep, score: np.where(keep, score, -1.0), mask, scores)
        target = sparsity if index == rounds else 1 - (1 - sparsity) ** (index / rounds)
        mask = allocate(ranked, prunable, sparsity=target, scope="global")
    flow(masks.apply(mask, magnitudes))  # refuses a cut network
    return mask


def _flow(forward: Forward, params: Params, inputs: Any) -> Callable[[Params], Scores]:
    """Makes the function from |params| in float64 to their scores, compiled once."""
    require_function("forward", forward, "(params, inputs)")
    _, merge = weights_of(params)
    names = [name for name, leaf in named_leaves(params) if is_weight(leaf)]
    like_inputs, merge_inputs = split_weights(inputs)
    ones = merge_inputs([np.ones(leaf.shape, np.float64) for leaf in like_inputs])

    def total(weights, inputs):
        outputs = forward(merge(weights), inputs)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(outputs))

    @jax.jit
    def score(weights, inputs):
        flow, gradients = jax.value_and_grad(total)(weights, inputs)
        return flow, [w * g for w, g in zip(weights, gradients, strict=True)]

    def scores(magnitudes: Params) -> Scores:
        with _sixty_four_bits(), in_evaluation():
            flow, products = score(split_weights(magnitudes)[0], ones)
            arrays = [np.asarray(leaf, np.float64) for leaf in products]
        remedy = "Give the weights finite values, the layers no fixed dtype: float32 ends at 3e38."
        problems = nonfinite_problems("synaptic flow", zip(names, arrays, strict=True), remedy)
        if not math.isfinite(flow):
            problems.append(expected("synaptic flow", float(flow), "to be finite", remedy))
        refuse(problems)
        if not any(leaf.any() for leaf in arrays):
            remedy = "Every path has a removed or zero weight. Lower the sparsity, or raise rounds."
            allowed = "to have a weight with a positive score"
            raise unexpected("synaptic flow", float(flow), allowed, remedy)
        return scores_like(params, arrays)

    return scores


def _magnitudes(params: Params) -> Params:
    """Makes the absolute values of the weights in float64, on the host; other leaves stay."""
    weights, merge = split_weights(params)
    return merge([np.abs(np.asarray(weight).astype(np.float64)) for weight in weights])


def _sixty_four_bits() -> contextlib.AbstractContextManager[Any]:
    """JAX's 64-bit types for a while, in this thread only."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    # jax < 0.8 has it elsewhere; read by name, because later ones have it there no more.
    return importlib.import_module("jax.experimental").enable_x64(True)
