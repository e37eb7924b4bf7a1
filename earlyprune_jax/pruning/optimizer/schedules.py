"""When to prune, how hard, and by which scores: what `transform` is told.

A step counts updates done, so a weight removed "at step 100" was trained by 100 updates. Every
schedule is a table of events known beforehand, which makes counts exact inside jit: the number
of weights each event removes is worked out on the host.

A criterion is a score that an optimizer can keep up by itself: what to remember of each step, and
how to rank, inside jit, from the parameters and gradients that the optimizer sees. Scores that need
a pass over data of their own are in `earlyprune_jax.pruning.scores`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Params, Scores
from earlyprune_jax.pruning.allocation.budgets import Sparsity, check_fraction, is_number
from earlyprune_jax.pruning.modules import function_problems
from earlyprune_jax.pruning.scores import weights as scores
from earlyprune_jax.pruning.scores.weights import count_problems
from earlyprune_jax.pruning.trees import map_weights, refuse
from earlyprune_jax.validate import expected, nearest, percent_hint, unexpected

LAST_STEP = np.iinfo(np.int32).max - 1
"""The last step that an optimizer's state can count to."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Piecewise constant: after `steps[i]` updates the sparsity is `sparsities[i]`; before the
    first, 0.

    Attributes:
        steps: increasing, from 0; none = never prune.
        sparsities: one per step, never falling; each a fraction in [0, 1) or a mapping from regular
            expressions to fractions.
        rewind_to: where the weights and the optimizer state go back to at every event: their values
            after this many updates; None = they stay as they are.

    Raises:
        InvalidInput: with every problem found.

    Example:
        >>> schedule = Schedule((10, 20), (0.5, 0.75))
        >>> [schedule(step) for step in (9, 10, 19, 20, 99)]
        [0.0, 0.5, 0.5, 0.75, 0.75]
    """

    steps: tuple[int, ...]
    sparsities: tuple[Sparsity, ...]
    rewind_to: int | None = None

    def __post_init__(self):
        steps, sparsities, rewind_to = self.steps, self.sparsities, self.rewind_to
        both_tuples = isinstance(steps, tuple) and isinstance(sparsities, tuple)
        if not both_tuples or len(steps) != len(sparsities):
            thing, allowed = "steps and sparsities", "to be tuples of one length"
            raise unexpected(thing, (steps, sparsities), allowed)
        bad_steps = [text for step in steps for text in _step_problems(step=step)]
        bad_fractions = _check_fractions(sparsities)
        problems = bad_steps + bad_fractions
        if not bad_steps and list(steps) != sorted(set(steps)):
            problems.append(expected("steps", steps, "to increase"))
        if len({tuple(s) if isinstance(s, Mapping) else None for s in sparsities}) > 1:
            allowed = "to be all numbers, or mappings of the same patterns"
            problems.append(expected("sparsities", sparsities, allowed))
        elif not bad_fractions and np.any(np.diff([_values(s) for s in sparsities], axis=0) < 0):
            remedy = "A removed weight stays removed."
            problems.append(expected("sparsities", sparsities, "never to fall", remedy))
        wrong = [] if rewind_to is None else _step_problems(rewind_to=rewind_to)
        if rewind_to is not None and not wrong + bad_steps and rewind_to >= min(steps, default=0):
            allowed = f"to be before the first pruning, at {steps[:1]}"
            wrong = [expected("rewind_to", rewind_to, allowed)]
        refuse(problems + wrong)

    def __call__(self, step: Any) -> Any:
        """Returns the sparsity wanted after `step` updates."""
        return (0.0, *self.sparsities)[int(self.level(step))]

    def level(self, step: Any) -> Any:
        """Counts the events that lie at or before `step`."""
        xp = jnp if isinstance(step, jax.Array) else np
        # A comparison, not a search: a handful of events, and no copy of the table in a loop.
        return xp.sum(xp.asarray(self.steps, np.int32) <= step).astype(np.int32)


def one_shot(sparsity: Sparsity, *, at: float, steps_per_epoch: int | None = None) -> Schedule:
    """Makes the schedule that prunes once.

    Args:
        sparsity: fraction removed, or one for every regular expression.
        at: the step; with `steps_per_epoch`, the epoch: 10 means after 10 whole epochs.
        steps_per_epoch: None = durations are steps.

    Returns:
        Steps, and the sparsity that each prunes to.

    Raises:
        InvalidInput: with every problem found.

    Example:
        >>> one_shot(0.8, at=10, steps_per_epoch=390).steps
        (3900,)
    """
    (step,) = _in_steps(_check_fractions((sparsity,)), steps_per_epoch, at=at)
    return Schedule((step,), (sparsity,))


def polynomial(
    sparsity: Sparsity,
    *,
    begin: float,
    end: float,
    every: float,
    initial: float = 0.0,
    power: float = 3.0,
    steps_per_epoch: int | None = None,
) -> Schedule:
    """Prunes gradually: s(t) = s_f + (s_i - s_f) (1 - (t - begin) / (end - begin))^power.

    Events at begin, begin + every, ..., and at `end`, where the final sparsity is reached exactly.

    Args:
        sparsity: s_f, reached at `end`; a mapping gives every layer its own.
        begin: first event; steps, or epochs with `steps_per_epoch`.
        end: last event.
        every: distance between events.
        initial: s_i, the sparsity at `begin`.
        power: 3 in the source; 1 removes the same amount each time.
        steps_per_epoch: None = durations are steps.

    Returns:
        Steps, and the sparsity that each prunes to.

    Raises:
        InvalidInput: with every problem found.

    Source: Zhu and Gupta 2017, "To prune, or not to prune", Eq. 1.

    Example:
        >>> schedule = polynomial(0.8, begin=0, end=4, every=2)
        >>> schedule.steps, [round(value, 6) for value in schedule.sparsities]
        ((0, 2, 4), [0.0, 0.7, 0.8])
    """
    problems = _check_fractions((sparsity, initial))
    if not (is_number(power) and power > 0):  # nan is refused too
        problems.append(expected("power", power, "to be above 0"))
    durations = {"begin": begin, "end": end, "every": every}
    first, last, gap = _in_steps(problems, steps_per_epoch, **durations)
    steps = (*range(first, last, gap), last)
    left = [(1 - (step - first) / (last - first)) ** power for step in steps]
    return Schedule(steps, tuple(_scale(sparsity, initial, fraction) for fraction in left))


def iterative(
    fraction: float,
    *,
    num_rounds: int,
    begin: float,
    every: float,
    rewind_to: float | None = None,
    steps_per_epoch: int | None = None,
) -> Schedule:
    """Removes a fraction of what remains, round after round: s_k = 1 - (1 - fraction)^k.

    With `rewind_to`, every round ends by putting the kept weights and the optimizer's state,
    learning-rate schedules included, back to where they were then: weights bit for bit with
    `pruning.rewound`, which says how near they come without. Batch statistics, the data's order and
    what a criterion remembers are not the optimizer's and stay. Later rounds are as long as the
    first if every = begin - rewind_to; the last round needs as many updates after its event.

    Args:
        fraction: of the remaining weights, removed in each round, in (0, 1).
        num_rounds: how many.
        begin: the first round's end; steps, or epochs with `steps_per_epoch`.
        every: from one round's end to the next.
        rewind_to: as in `Schedule`, before `begin`; None = train on from where each round ended.
        steps_per_epoch: None = durations are steps.

    Returns:
        Steps, and the sparsity that each prunes to.

    Raises:
        InvalidInput: with every problem found.

    Source: Frankle et al. 2020, "Linear mode connectivity and the lottery ticket hypothesis".

    Example:
        >>> iterative(0.5, num_rounds=3, begin=100, every=100, rewind_to=10).sparsities
        (0.5, 0.75, 0.875)
    """
    problems = count_problems(1, num_rounds=num_rounds)
    if not is_number(fraction) or not 0 < fraction < 1:
        hint = percent_hint(fraction) if is_number(fraction) else ""
        problems.append(expected("fraction", fraction, f"in (0, 1){hint}"))
    back = 0 if rewind_to is None else rewind_to
    durations = {"begin": begin, "every": every, "rewind_to": back}
    first, gap, back = _in_steps(problems, steps_per_epoch, **durations)
    steps = tuple(first + number * gap for number in range(num_rounds))
    sparsities = tuple(1 - (1 - fraction) ** number for number in range(1, num_rounds + 1))
    return Schedule(steps, sparsities, None if rewind_to is None else back)


def _step_problems(**step: Any) -> list[str]:
    remedy = "Steps are counted in int32."
    allowed = f"to be below {LAST_STEP + 1}"
    return count_problems(0, **step) or [
        expected(name, value, allowed, remedy) for name, value in step.items() if value > LAST_STEP
    ]


def _scale(sparsity: Any, initial: float, left: float) -> Any:
    """Goes from `initial` to `sparsity`, but for the fraction `left` of the way."""
    if isinstance(sparsity, Mapping):
        return {pattern: _scale(value, initial, left) for pattern, value in sparsity.items()}
    # Written so that nothing left gives `sparsity` itself, to the last bit.
    return sparsity + (initial - sparsity) * left


def _values(sparsity: Sparsity) -> list[float]:
    return list(sparsity.values()) if isinstance(sparsity, Mapping) else [sparsity]


def _in_steps(problems: list[str], steps_per_epoch: int | None, **durations: float) -> list[int]:
    """Converts durations to steps; refuses their problems, together with those given."""
    in_epochs, steps = steps_per_epoch is not None, {}
    wrong = count_problems(1, steps_per_epoch=steps_per_epoch) if in_epochs else []
    problems = problems + wrong
    for name, value in durations.items():
        if not is_number(value) or not 0 <= value < np.inf:
            problems.append(expected(name, value, "to be 0 or more"))
        elif not in_epochs and value != int(value):
            remedy = "Durations are steps unless steps_per_epoch is given."
            problems.append(expected(name, value, "to be a whole number of steps", remedy))
        elif not wrong:
            steps[name] = round(value * (steps_per_epoch or 1))
    if steps.get("every") == 0:  # two events may not fall on one step
        problems.append(expected("every", durations["every"], "to be at least one step"))
    if steps.get("end", np.inf) <= steps.get("begin", -1):
        allowed = f"to be after begin={durations['begin']}"
        problems.append(expected("end", durations["end"], allowed))
    refuse(problems)
    return list(steps.values())


def _check_fractions(sparsities: tuple[Sparsity, ...]) -> list[str]:
    values = [value for sparsity in sparsities for value in _values(sparsity)]
    return [problem for value in values for problem in check_fraction(value, "sparsity")]


NEVER_PRUNE = Schedule((), ())


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


def resolve(criterion: Any, problems: list[str]) -> Criterion:
    """Makes a criterion of a name, a function or a criterion; adds the problem of anything else."""
    if isinstance(criterion, Criterion):
        return criterion
    if callable(criterion):
        problems += function_problems("criterion", criterion, "(params)")
        return of_params(criterion)
    if criterion not in tuple(CRITERIA):
        names = f"a Criterion, a function params -> scores, or one of {', '.join(CRITERIA)}"
        hint = nearest(criterion, CRITERIA)
        problems.append(expected("criterion", criterion, f"to be {names}", hint))
    return CRITERIA.get(str(criterion), random)()
