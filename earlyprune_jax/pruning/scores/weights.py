"""Scores that rank weights, higher = keep: those that need no data, or data already averaged.

Each is a pure function of pytrees that can run inside jit. Results have the structure of the
parameters; leaves that are no weights (integers, functions, numbers) get zeros. Which of the
weights may be removed is not decided here: scores cover biases and norm scales too.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Array, Params, PRNGKey, Scores, accurate
from earlyprune_jax.pruning import trees
from earlyprune_jax.validate import expected, nearest, shortened, unexpected


def magnitude(params: Params) -> Scores:
    """Scores by the absolute value of every weight, |w|.

    Half-precision weights are scored in float32, which is exact; wider types keep their own.

    Args:
        params: any pytree.

    Returns:
        The structure of `params`.

    Source: Han et al. 2015, "Learning both weights and connections"; paper A, section 3.

    Example:
        >>> magnitude({"w": jnp.array([-2.0, 1.0]), "steps": 3})
        {'steps': array(0., dtype=float32), 'w': Array([2., 1.], dtype=float32)}
    """

    sizes = trees.map_weights(jnp.abs, params)
    return trees.map_weights(lambda w: w.astype(accurate(w.dtype)), sizes)


def magnitude_increase(params: Params, initial_params: Params) -> Scores:
    """Scores by how much farther from zero a weight is than it was: |w| - |w_0|, in float32.

    Args:
        params: the weights now, any pytree.
        initial_params: the weights at initialisation (or any earlier time), the same structure.

    Returns:
        The structure of `params`; negative for weights that shrank.

    Raises:
        InvalidInput: the trees differ in structure or shapes.

    Source: Zhou et al. 2019, "Deconstructing Lottery Tickets" (mask criterion "magnitude
    increase").

    Example:
        >>> now, then = {"w": jnp.array([-2.0, 1.0])}, {"w": jnp.array([0.5, -3.0])}
        >>> magnitude_increase(now, then)["w"].tolist()
        [1.5, -2.0]
    """
    require_like(params, initial_params, "initial_params")
    return trees.map_weights(
        lambda w, w0: _float32(jnp.abs(w)) - _float32(jnp.abs(w0)), params, initial_params
    )


def random(params: Params, key: PRNGKey) -> Scores:
    """Draws independent uniform numbers in [0, 1): the control every criterion has to beat.

    A function of (key, place of the leaf in the tree, shape of the leaf): adding a leaf at the end
    changes no other leaf's scores. A uniform float32 takes 2**23 values, so that large layers
    hold some ties.

    Args:
        params: any pytree; only shapes matter.
        key: a PRNG key.

    Returns:
        The structure of `params`, float32.

    Raises:
        InvalidInput: `key` is not one PRNG key.

    Example:
        >>> scores = random({"w": jnp.zeros(3)}, jax.random.key(0))["w"]
        >>> bool(((0 <= scores) & (scores < 1)).all())
        True
    """
    require_key(key)
    treedef = jax.tree.structure(params)

    def draw(weight: Any, index: int) -> Array:
        return jax.random.uniform(jax.random.fold_in(key, index), weight.shape, jnp.float32)

    return trees.map_weights(draw, params, treedef.unflatten(range(treedef.num_leaves)))


def zeros(params: Params) -> Scores:
    """Makes a zero for every weight, float32: what `movement` starts from.

    Example:
        >>> zeros({"w": jnp.ones(2)})["w"].tolist()
        [0.0, 0.0]
    """
    return trees.map_weights(lambda w: jnp.zeros(w.shape, jnp.float32), params)


def movement(accumulated: Scores, params: Params, grads: Params) -> Scores:
    """Makes one training step of movement pruning: S <- S - w g, in float32.

    Weights that gradient descent moves away from zero gain, those it moves towards zero lose:
    after T steps S = -sum_t w_t g_t, the scores of Sanh et al. up to their learning rate, which
    leaves the order as it is.

    Args:
        accumulated: the scores so far; `zeros(params)` before the first step.
        params: the weights before the step.
        grads: the gradient of the training loss at `params`.

    Returns:
        The structure of `params`, float32.

    Raises:
        InvalidInput: the trees differ in structure or shapes.

    Source: Sanh et al. 2020, "Movement Pruning: Adaptive Sparsity by Fine-Tuning".

    Example:
        >>> params, grads = {"w": jnp.array([2.0, 2.0])}, {"w": jnp.array([-1.0, 0.5])}
        >>> movement(zeros(params), params, grads)["w"].tolist()
        [2.0, -1.0]
    """
    require_like(params, accumulated, "accumulated")
    require_like(params, grads, "grads")
    return trees.map_weights(
        lambda w, s, g: _float32(s) - _float32(w) * _float32(g), params, accumulated, grads
    )


def obd(params: Params, hessian_diagonal: Params) -> Scores:
    """Scores by the loss that removing a weight adds (Optimal Brain Damage): w^2 H / 2, in float32.

    Exact where the loss is quadratic, at a minimum of it, with a diagonal Hessian. With the
    Fisher diagonal as H (they agree in expectation at a minimum of the negative log-likelihood)
    it is never negative.

    Args:
        params: any pytree.
        hessian_diagonal: the structure of `params`: H_ii, e.g. from
            `fisher_diagonal`.

    Returns:
        The structure of `params`, float32.

    Raises:
        InvalidInput: the trees differ in structure or shapes.

    Source: LeCun et al. 1990, "Optimal Brain Damage".

    Example:
        >>> obd({"w": jnp.array([2.0, -1.0])}, {"w": jnp.array([0.5, 4.0])})["w"].tolist()
        [1.0, 2.0]
    """
    require_like(params, hessian_diagonal, "hessian_diagonal")
    return trees.map_weights(
        lambda w, h: _float32(w) ** 2 * _float32(h) / 2, params, hessian_diagonal
    )


def wanda(params: Params, input_norms: Mapping[str, Array] | Params) -> Scores:
    """Scores by |w| times the l2 norm of the input that the weight multiplies, in float32.

    For a dense kernel [in, out]: |w_ij| ||X_i||, X_i all values of input feature i over the
    examples. The paper then compares weights that share an output; that is for the allocation.

    Args:
        params: any pytree.
        input_norms: name of a weight (`stem_conv/kernel`) -> array with as many axes as the weight,
            each of the weight's length or 1, e.g. [in, 1] or [height, width, in, 1], as
            `layer_hooks.input_norms` makes it; or a nested tree of such arrays.

    Returns:
        The structure of `params`, float32. Weights without a norm (biases, norm scales) get NaN,
        not a number that would rank them: allocation refuses NaN by path if they are prunable.

    Raises:
        InvalidInput: a name that is no weight of `params`, or a shape that does not fit.

    Source: Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models",
    Eq. 1.

    Example:
        >>> params = {"dense": {"kernel": jnp.array([[1.0, -2.0], [3.0, 0.5]])}}
        >>> wanda(params, {"dense/kernel": jnp.array([[4.0], [1.0]])})["dense"]["kernel"].tolist()
        [[4.0, 8.0], [3.0, 0.5]]
    """
    norms = dict(trees.named_leaves(input_norms))
    shapes = {
        name: leaf.shape for name, leaf in trees.named_leaves(params) if trees.is_weight(leaf)
    }
    problems = []
    for name, norm in norms.items():
        if name not in shapes:
            hint = nearest(name, shapes) or f"The weights are {', '.join(list(shapes)[:8])}."
            problems.append(expected("input_norms key", name, "to be the path of a weight", hint))
            continue
        shape, given = shapes[name], np.shape(norm)
        pairs = zip(given, shape, strict=False)
        if len(given) != len(shape) or any(n not in (1, size) for n, size in pairs):
            allowed = f"to have {len(shape)} axes, each 1 or as in the weight's {shape}"
            problems.append(expected(f"input_norms[{name!r}].shape", given, allowed))
    trees.refuse(problems)

    def score(path: Any, w: Any) -> Any:
        if not trees.is_weight(w):
            return np.zeros(np.shape(w), np.float32)
        # Made by NumPy, so that jax_debug_nans does not take it for an accident.
        missing = np.full(w.shape, np.nan, np.float32)
        norm = norms.get(trees.path_name(path))
        return missing if norm is None else _float32(jnp.abs(w)) * _float32(norm)

    return jax.tree.map_with_path(score, params)


def require_like(params: Params, tree: Any, thing: str) -> None:
    """Refuses a tree that has not the structure of `params`, or not its leaves' shapes.

    Args:
        params: the parameters.
        tree: what should be like them.
        thing: what the tree is called in the error.

    Raises:
        InvalidInput: naming every leaf that is missing, not expected, or of another shape.
    """
    trees.refuse(trees.likeness_problems(thing, tree, params))


def require_key(key: PRNGKey) -> None:
    """Refuses what is not a single PRNG key, old style or new.

    Raises:
        InvalidInput: it is something else.
    """
    dtype = getattr(key, "dtype", np.dtype(object))
    typed = jnp.issubdtype(dtype, jax.dtypes.prng_key) and key.shape == ()
    if not typed and not (dtype == np.uint32 and np.ndim(key) == 1):
        allowed = "to be one PRNG key"
        raise unexpected("key", key, allowed, "Make one with jax.random.key(seed).")


def nonfinite_problems(thing: str, named: Iterable[tuple[str, Any]], remedy: str = "") -> list[str]:
    """Lists the weights that are not finite, by name; looked at on the host.

    Args:
        thing: what the leaves belong to.
        named: (name, leaf) of leaves, of which those that are no weights are left out.
        remedy: what to do about it.

    Returns:
        The problems, a sentence for each leaf.

    Example:
        >>> nonfinite_problems("params", [("kernel", np.array([np.nan])), ("steps", 3)])
        ["Expected params at kernel='not finite' to be finite."]
    """
    broken = [n for n, a in named if trees.is_weight(a) and not np.isfinite(np.asarray(a)).all()]
    things = [f"{thing} at {name or 'the root'}" for name in broken]
    return shortened([expected(it, "not finite", "to be finite", remedy) for it in things])


def count_problems(at_least: int, **values: Any) -> list[str]:
    """Lists the values that are no integers of at least so much, by their names.

    Example:
        >>> count_problems(1, rounds=0, batch_size=2)
        ['Expected rounds=0 to be an integer of at least 1.']
    """
    return [
        expected(name, value, f"to be an integer of at least {at_least}")
        for name, value in values.items()
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < at_least
    ]


def _float32(array: Any) -> Array:
    return jnp.asarray(array).astype(jnp.float32)
