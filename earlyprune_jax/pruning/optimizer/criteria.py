"""Scores that an optimizer can keep up by itself: what to remember of each step, and how to rank.

Everything here runs inside jit on the parameters and gradients that the optimizer sees. Scores
that need a pass over data of their own are in `earlyprune_jax.pruning.scores`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from earlyprune_jax.array_types import Params, Scores
from earlyprune_jax.pruning.scores import weights as scores
from earlyprune_jax.pruning.trees import map_weights
from earlyprune_jax.validate import expected, nearest


@dataclasses.dataclass(frozen=True)
class Criterion:
    """A score kept up along training.

    Attributes:
        init: params -> memory, any pytree of arrays.
        update: (memory, params before the update, gradients) -> memory.
        scores: (memory, params after the update) -> scores, higher = keep.
        signed: scores may be negative; scope `lamp`, which squares them, refuses such a criterion.
    """

    init: Callable[[Params], Any]
    update: Callable[[Any, Params, Any], Any]
    scores: Callable[[Any, Params], Scores]
    signed: bool = False


def of_params(function: Callable[[Params], Scores]) -> Criterion:
    """Makes a criterion that looks at the parameters alone and remembers nothing.

    Example:
        >>> signed = of_params(lambda params: params)
        >>> signed.scores(signed.init(2.0), 2.0)
        2.0
    """
    return Criterion(
        init=lambda params: (),
        update=lambda memory, params, grads: (),
        scores=lambda memory, params: function(params),
    )


def random(seed: int = 0) -> Criterion:
    """Makes the control: scores drawn once from a seed."""
    return of_params(lambda params: scores.random(params, jax.random.key(seed)))


def movement() -> Criterion:
    """Sums -w dL/dw over the steps: high where training moves a weight away from zero.

    A step whose gradient of a weight is not finite does not count for that weight.

    Source: Sanh et al. 2020, "Movement pruning", Eq. 7, with the learning rate left out.
    """

    def update(memory: Any, params: Params, grads: Any) -> Any:
        return _where_finite(scores.movement(memory, params, grads), memory)

    return Criterion(scores.zeros, update, lambda memory, params: memory, signed=True)


def taylor() -> Criterion:
    """Ranks by |w * g|, with g the mean of the gradients of every step since training began.

    A step whose gradient of a weight is not finite does not count for that weight.

    Source: Molchanov et al. 2019, "Importance estimation for neural network pruning", Eq. 8.
    """

    def update(memory: Any, params: Params, grads: Any) -> Any:
        # The parameters say by their types which leaves are weights.
        sums = map_weights(lambda _, m, g: m + g.astype(jnp.float32), params, memory, grads)
        return _where_finite(sums, memory)

    def rank(memory: Any, params: Params) -> Scores:
        # The number of steps is the same for all weights: a sum ranks as a mean does.
        return map_weights(lambda w, total: jnp.abs(w.astype(jnp.float32) * total), params, memory)

    return Criterion(scores.zeros, update, rank)


def _where_finite(new: Any, old: Any) -> Any:
    """Takes the old memory where the new is not finite: one bad step must not spoil the rest."""
    return jax.tree.map(lambda n, o: jnp.where(jnp.isfinite(n), n, o), new, old)


CRITERIA: dict[str, Callable[[], Criterion]] = {
    "magnitude": lambda: of_params(scores.magnitude),
    "movement": movement,
    "random": random,
    "taylor": taylor,
}


def check(criterion: Any) -> list[str]:
    """Finds the problem of what is neither a name, nor a criterion, nor a function."""
    if isinstance(criterion, Criterion) or callable(criterion) or criterion in tuple(CRITERIA):
        return []
    names = f"a Criterion, a function params -> scores, or one of {', '.join(CRITERIA)}"
    return [expected("criterion", criterion, f"to be {names}", nearest(criterion, CRITERIA))]


def resolve(criterion: str | Criterion | Callable[[Params], Scores]) -> Criterion:
    """Makes a criterion of what passed `check`."""
    if isinstance(criterion, Criterion):
        return criterion
    return of_params(criterion) if callable(criterion) else CRITERIA[criterion]()
