"""How a pruned run trains on: its length and its learning rates, by name; and the trunk's own
training.

A retraining is a length and rates; the named ones are combinations of them. One of the user's is a
function (fork_epoch, trunk) -> Training, in which `trunk` is the dense run's `RunSchedule`.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import NamedTuple

import optax

from earlyprune_jax import references
from earlyprune_jax.spec import ForkSpec, RunSpec
from earlyprune_jax.training import schedules
from earlyprune_jax.training.schedules import RunSchedule
from earlyprune_jax.validate import expected, unexpected

KEY = "fork.retraining"
ANY_STEPS = 100
"""Training steps an epoch where a user's retraining is asked for its length only."""

SMALLEST_RATE = 1e-30
"""Below this, ratios of rates leave the range of float32."""


@dataclasses.dataclass(frozen=True)
class Training:
    """How one run trains: for how long, at which rates, with which momentum at its start.

    Attributes:
        num_epochs: of the run.
        schedule: the run's own steps, from 0, -> learning rates.
        reset_momentum: whether a fork starts with a fresh optimizer, or carries the trunk's on,
            masked.
    """

    num_epochs: int
    schedule: optax.Schedule
    reset_momentum: bool = True


def trunk_schedule(spec: RunSpec, steps_per_epoch: int) -> RunSchedule:
    """Returns the learning rates of the dense run of a setting."""
    return RunSchedule(
        spec.schedule, spec.optim.learning_rate, spec.train.num_epochs, steps_per_epoch
    )


def trunk(spec: RunSpec, steps_per_epoch: int) -> Training:
    """Returns the training of the dense run of a setting."""
    dense = trunk_schedule(spec, steps_per_epoch)
    return Training(dense.num_epochs, dense.schedule, reset_momentum=False)


def max_learning_rate(base: float, fork_epoch: int, num_epochs: int) -> float:
    """Computes Eq. (6) of paper A, base * (1 - 9 t / (10 T)), for a fork at epoch t of T.

    Args:
        base: the trunk's maximum.
        fork_epoch: t.
        num_epochs: T.

    Returns:
        The fork's maximum.

    Example:
        >>> round(max_learning_rate(0.1, 60, 200), 6)
        0.073
    """
    return base * (1 - 0.9 * fork_epoch / num_epochs)


def _eq6(dense: RunSchedule, fork_epoch: int) -> float:
    return max_learning_rate(dense.learning_rate, fork_epoch, dense.num_epochs)


def _continue(dense: RunSchedule, t: int, length: int, fork: ForkSpec) -> optax.Schedule:
    return lambda step: dense.schedule(step + t * dense.steps_per_epoch)


def _constant(dense: RunSchedule, t: int, length: int, fork: ForkSpec) -> optax.Schedule:
    return optax.constant_schedule(fork.constant_learning_rate)


def _matched_budget(dense: RunSchedule, t: int, length: int, fork: ForkSpec) -> optax.Schedule:
    """The trunk's schedule goes on to its end, pruned; then come the epochs of `constant`.

    Dense and pruned epochs together are T + fork.constant_num_epochs, whatever t: the budget of
    paper B's forks at t = T. At t = 0 it prunes before training, at t = T it is `constant`.
    """
    parts = [make(dense, t, length, fork) for make in (_continue, _constant)]
    boundary = (dense.num_epochs - t) * dense.steps_per_epoch
    return optax.join_schedules(parts, [boundary]) if boundary else parts[1]


Rates = Callable[[RunSchedule, int, int, ForkSpec], optax.Schedule]
"""(trunk, fork epoch t, the fork's length in epochs, section fork) -> the fork's schedule."""

RATES: dict[str, Rates] = {
    # Paper A: the schedule restarts from Eq. (6)'s maximum, over the fork's length. The exponential
    # schedule keeps its decay per epoch, so late forks end at higher rates than early ones: a
    # confound of "early is best", which `matched_anneal` removes.
    "eq6": lambda dense, t, length, fork: dense.remade(_eq6(dense, t), length),
    # Eq. (6)'s maximum, but the last step runs at the trunk's final learning rate.
    "matched_anneal": lambda dense, t, length, fork: dense.refitted(_eq6(dense, t), length),
    # The trunk's schedule and momentum go on as if nothing had been pruned.
    "continue": _continue,
    # The trunk's schedule from its maximum, over the fork's length.
    "restart": lambda dense, t, length, fork: dense.remade(dense.learning_rate, length),
    # Paper B: a fixed rate, a fresh optimizer.
    "constant": _constant,
}
"""What `fork.rates` may be."""


class Retraining(NamedTuple):
    """A named way to retrain.

    Attributes:
        length: (section fork, epochs that remain of the trunk's) -> the fork's length in epochs.
        rates: one of `RATES`, or `matched_budget`; "" = that of fork.rates.
    """

    length: Callable[[ForkSpec, int], int]
    rates: str


RETRAININGS = {
    "paper_a": Retraining(lambda fork, remaining: remaining, "eq6"),
    "matched_anneal": Retraining(lambda fork, remaining: remaining, "matched_anneal"),
    "continue": Retraining(lambda fork, remaining: remaining, "continue"),
    "constant": Retraining(lambda fork, remaining: fork.constant_num_epochs, "constant"),
    "matched_budget": Retraining(
        lambda fork, remaining: remaining + fork.constant_num_epochs, "matched_budget"
    ),
    "custom": Retraining(lambda fork, remaining: fork.length or remaining, ""),
}


def _rates_of(fork: ForkSpec, retraining: str) -> str:
    """Names the rates of a retraining; "" for one of the user's."""
    return (RETRAININGS[retraining].rates or fork.rates) if retraining in RETRAININGS else ""


def length(spec: RunSpec, retraining: str, fork_epoch: int) -> int:
    """Returns how many epochs a fork trains; no schedule is made but by a user's function.

    Args:
        spec: of one setting.
        retraining: one of `RETRAININGS`, or module:function.
        fork_epoch: t, as of `training`.

    Returns:
        Epochs.

    Raises:
        InvalidInput: as `training`, of a user's function.
    """
    if retraining not in RETRAININGS:
        return training(spec, retraining, fork_epoch, ANY_STEPS).num_epochs
    return RETRAININGS[retraining].length(spec.fork, spec.train.num_epochs - fork_epoch)


def training(spec: RunSpec, retraining: str, fork_epoch: int, steps_per_epoch: int) -> Training:
    """Returns how a fork trains.

    Args:
        spec: of one setting.
        retraining: one of `RETRAININGS`, or module:function.
        fork_epoch: t; with a rewind the epochs that have been trained dense, which may be more.
        steps_per_epoch: of the data.

    Returns:
        Length, schedule, and whether the momentum is reset.

    Raises:
        InvalidInput: the user's function cannot be loaded, or does not give a Training.
    """
    dense = trunk_schedule(spec, steps_per_epoch)
    if retraining in RETRAININGS:
        num_epochs, rates = length(spec, retraining, fork_epoch), _rates_of(spec.fork, retraining)
        make = _matched_budget if rates == "matched_budget" else RATES[rates]
        carries_on = (
            rates == "continue" or make is _matched_budget and fork_epoch < dense.num_epochs
        )
        schedule = make(dense, fork_epoch, num_epochs, spec.fork)
        return Training(num_epochs, schedule, reset_momentum=not carries_on)
    function = references.load(KEY, retraining, RETRAININGS, ("fork_epoch", "trunk"))
    with references.guarded(KEY, retraining, f"to give a Training for a fork at {fork_epoch}"):
        made = function(fork_epoch, dense)
    if not isinstance(made, Training):
        raise unexpected(KEY, retraining, f"to give a Training, not a {type(made).__name__}")
    return made


def check_epochs(spec: RunSpec) -> list[str]:
    """Lists forks that would leave after their trunk's end, or have nothing left to train.

    Args:
        spec: of one setting, whose retrainings can be loaded.
    """
    fork, num_epochs = spec.fork, spec.train.num_epochs
    if fork.when == "trigger":
        return _check_pruning_itself(spec)
    problems = []
    for retraining in fork.retraining:
        idle = [t for t in fork.epochs if t > num_epochs or length(spec, retraining, t) < 1]
        if idle:
            latest = num_epochs - (length(spec, retraining, num_epochs) < 1)
            allowed = f"to leave {retraining} epochs to train, and to have no epoch beyond {latest}"
            remedy = f"It gives forks at {idle} none; the trunk has train.num_epochs={num_epochs}."
            problems.append(expected("fork.epochs", fork.epochs, allowed, remedy))
    return problems


def _check_pruning_itself(spec: RunSpec) -> list[str]:
    """Lists why runs that prune themselves would not keep to their trunk's epochs."""
    fork, num_epochs, problems = spec.fork, spec.train.num_epochs, []
    possible = {t for t in (1, num_epochs - 1) if 1 <= t < num_epochs}
    for retraining in fork.retraining:
        if any(length(spec, retraining, t) != num_epochs - t for t in possible):
            remedy = "Its forks have a length of their own: use another, or fork.when=epochs."
            allowed = f"without {retraining}: fork.when=trigger keeps to the trunk's epochs"
            problems.append(expected("fork.retraining", fork.retraining, allowed, remedy))
    if num_epochs < 2:
        remedy = "A run that prunes itself needs an epoch before and one after."
        problems.append(expected("train.num_epochs", num_epochs, "to be at least 2", remedy))
    elif fork.fallback_epoch >= num_epochs:
        remedy = f"The run has train.num_epochs={num_epochs}, and needs one after pruning."
        allowed = f"to be below {num_epochs}"
        problems.append(expected("fork.fallback_epoch", fork.fallback_epoch, allowed, remedy))
    return problems


def check_rates(spec: RunSpec, steps_per_epoch: int) -> list[str]:
    """Lists forks whose learning rate would rise instead of fall, or fall to nothing.

    Args:
        spec: of one setting, which `check_epochs` has passed.
        steps_per_epoch: of its data.

    Raises:
        InvalidInput: a schedule of the user's gives a fork a rate that is none.
    """
    fork, dense, kind = spec.fork, trunk_schedule(spec, steps_per_epoch), spec.schedule.name
    axis, epochs = ("fork.when", "trigger"), tuple(range(1, dense.num_epochs))
    if fork.when == "epochs":
        axis, epochs = ("fork.epochs", fork.epochs), fork.epochs
    ends = {"matched_anneal": dense.final_rate}
    if kind in ("cosine", "linear"):
        ends["eq6"] = spec.schedule.end_learning_rate
    problems = []
    for retraining in fork.retraining:
        end = ends.get(_rates_of(fork, retraining), 0.0)
        if rising := [t for t in epochs if _eq6(dense, t) < end * (1 - 1e-6)]:
            allowed = f"to leave Eq. (6)'s maximum above the final rate {end:.4g} of {retraining}"
            otherwise = "fork earlier, end lower, or use continue."
            remedy = f"It would rise in forks at {rising}: {otherwise}"
            problems.append(expected(*axis, allowed, remedy))
    if schedules.is_own(spec.schedule):
        # Forks may be too short for a schedule of the user's.
        for retraining, t in itertools.product(fork.retraining, epochs):
            rate = schedules.rate_at(training(spec, retraining, t, steps_per_epoch).schedule, 0)
            if not schedules.is_rate(rate):
                allowed = f"to give a fork at {t}, retrained by {retraining}, rates of at least 0"
                raise unexpected(schedules.KEY, rate, allowed)
    matched = "matched_anneal" in [_rates_of(fork, retraining) for retraining in fork.retraining]
    if matched and kind in ("exponential", "step") and dense.final_rate < SMALLEST_RATE:
        allowed = f"to end the trunk at a rate of at least {SMALLEST_RATE} for matched_anneal"
        remedy = f"It ends at {dense.final_rate:.3g}: decay more slowly, or use paper_a."
        problems.append(expected("schedule.name", kind, allowed, remedy))
    return problems
