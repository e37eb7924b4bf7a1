"""How a pruned run trains on: its length and its learning rates, by name; and the trunk's own
training.

A rule is a length and rates; today's names are combinations of them. A rule of the user's is a
function (fork_epoch, trunk) -> Training.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import optax

from earlyprune_jax import references
from earlyprune_jax.spec import ForkSpec, RunSpec
from earlyprune_jax.training import schedules
from earlyprune_jax.validate import expected, unexpected

KEY = "fork.rules"
ANY_STEPS = 100
"""Training steps an epoch where a rule is asked for its length only."""


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


@dataclasses.dataclass(frozen=True)
class TrunkSchedule:
    """How the dense run trains, as retraining rules see it.

    Attributes:
        num_epochs: T.
        steps_per_epoch: of both, trunk and forks.
        learning_rate: the maximum, `optim.learning_rate`.
        schedule: step -> rate, over T epochs.
        final_rate: that of the last step.
        remade: (maximum, num_epochs) -> the same kind of schedule over another length.
        refitted: (maximum, num_epochs) -> likewise, with parameters such that it ends at
            `final_rate`.
    """

    num_epochs: int
    steps_per_epoch: int
    learning_rate: float
    schedule: optax.Schedule
    final_rate: float
    remade: Callable[[float, int], optax.Schedule]
    refitted: Callable[[float, int], optax.Schedule]


def trunk_schedule(spec: RunSpec, steps_per_epoch: int) -> TrunkSchedule:
    """The dense run's schedule.

    Args:
        spec: of one setting.
        steps_per_epoch: of its data.
    """
    num_epochs, rate = spec.train.num_epochs, spec.optim.learning_rate
    final = schedules.final_rate(
        spec.schedule,
        max_learning_rate=rate,
        num_epochs=num_epochs,
        steps_per_epoch=steps_per_epoch,
    )

    def remade(maximum: float, length: int) -> optax.Schedule:
        return schedules.make(
            spec.schedule,
            max_learning_rate=maximum,
            num_epochs=length,
            steps_per_epoch=steps_per_epoch,
        )

    def refitted(maximum: float, length: int) -> optax.Schedule:
        return schedules.refitted(
            spec.schedule,
            maximum=maximum,
            final=final,
            num_epochs=length,
            of_epochs=num_epochs,
            steps_per_epoch=steps_per_epoch,
        )

    return TrunkSchedule(
        num_epochs, steps_per_epoch, rate, remade(rate, num_epochs), final, remade, refitted
    )


def trunk(spec: RunSpec, steps_per_epoch: int) -> Training:
    """The dense run's training."""
    dense = trunk_schedule(spec, steps_per_epoch)
    return Training(dense.num_epochs, dense.schedule, reset_momentum=False)


def max_learning_rate(base: float, fork_epoch: int, num_epochs: int) -> float:
    """Eq. (6) of paper A: base * (1 - 9 t / (10 T)), for a fork at epoch t of T.

    Example:
        >>> round(max_learning_rate(0.1, 60, 200), 6)
        0.073
    """
    return base * (1 - 0.9 * fork_epoch / num_epochs)


Rates = Callable[[TrunkSchedule, int, int, float], tuple[optax.Schedule, bool]]
"""(trunk, fork epoch, length, constant rate) -> the fork's schedule, whether its momentum starts
anew."""


def _eq6(
    dense: TrunkSchedule, fork_epoch: int, length: int, rate: float
) -> tuple[optax.Schedule, bool]:
    """Paper A: the schedule restarts from Eq. (6)'s maximum, over the fork's length.

    The exponential schedule keeps its decay per epoch, so late forks end at higher rates than
    early ones: a confound of "early is best", which `matched_anneal` removes.
    """
    maximum = max_learning_rate(dense.learning_rate, fork_epoch, dense.num_epochs)
    return dense.remade(maximum, length), True


def _matched_anneal(
    dense: TrunkSchedule, fork_epoch: int, length: int, rate: float
) -> tuple[optax.Schedule, bool]:
    """Eq. (6)'s maximum, but the last step runs at the trunk's final learning rate."""
    maximum = max_learning_rate(dense.learning_rate, fork_epoch, dense.num_epochs)
    return dense.refitted(maximum, length), True


def _continue(
    dense: TrunkSchedule, fork_epoch: int, length: int, rate: float
) -> tuple[optax.Schedule, bool]:
    """The trunk's schedule and momentum go on as if nothing had been pruned."""
    offset = fork_epoch * dense.steps_per_epoch
    return (lambda step: dense.schedule(step + offset)), False


def _restart(
    dense: TrunkSchedule, fork_epoch: int, length: int, rate: float
) -> tuple[optax.Schedule, bool]:
    """The trunk's schedule from its maximum, over the fork's length."""
    return dense.remade(dense.learning_rate, length), True


def _constant(
    dense: TrunkSchedule, fork_epoch: int, length: int, rate: float
) -> tuple[optax.Schedule, bool]:
    """Paper B: a fixed rate, a fresh optimizer."""
    return optax.constant_schedule(rate), True


RATES: dict[str, Rates] = {
    "eq6": _eq6,
    "matched_anneal": _matched_anneal,
    "continue": _continue,
    "restart": _restart,
    "constant": _constant,
}
"""What `fork.rates` may be."""


def _combined(
    length: Callable[[ForkSpec], int],
    rates: Callable[[ForkSpec], str],
    spec: RunSpec,
    t: int,
    steps: int,
) -> Training:
    """A rule made of a length, in which 0 stands for what remains of the trunk, and of rates."""
    dense = trunk_schedule(spec, steps)
    num_epochs = length(spec.fork) or dense.num_epochs - t
    made = RATES[rates(spec.fork)](dense, t, num_epochs, spec.fork.constant_learning_rate)
    return Training(num_epochs, *made)


def _remaining(fork: ForkSpec) -> int:
    return 0


def _fixed(fork: ForkSpec) -> int:
    return fork.constant_num_epochs


def _matched_budget(spec: RunSpec, fork_epoch: int, steps_per_epoch: int) -> Training:
    """The trunk's schedule goes on to its end, pruned; then come the epochs of rule `constant`.

    Dense and pruned epochs together are T + fork.constant_num_epochs, whatever t: the budget of
    paper B's forks at t = T. At t = 0 it prunes before training, at t = T it is `constant`.
    """
    tuned = RULES["constant"](spec, fork_epoch, steps_per_epoch)
    if fork_epoch == spec.train.num_epochs:
        return tuned
    before = RULES["continue"](spec, fork_epoch, steps_per_epoch)
    boundary = before.num_epochs * steps_per_epoch
    schedule = optax.join_schedules([before.schedule, tuned.schedule], [boundary])
    return Training(before.num_epochs + tuned.num_epochs, schedule, reset_momentum=False)


RULES: dict[str, Callable[[RunSpec, int, int], Training]] = {
    "paper_a": functools.partial(_combined, _remaining, lambda fork: "eq6"),
    "matched_anneal": functools.partial(_combined, _remaining, lambda fork: "matched_anneal"),
    "continue": functools.partial(_combined, _remaining, lambda fork: "continue"),
    "constant": functools.partial(_combined, _fixed, lambda fork: "constant"),
    "matched_budget": _matched_budget,
    "custom": functools.partial(_combined, lambda fork: fork.length, lambda fork: fork.rates),
}
"""Rule -> (spec of one setting, fork epoch, steps an epoch) -> the fork's training."""


def length(spec: RunSpec, rule: str, fork_epoch: int) -> int:
    """How long a fork trains; no schedule is made but by a rule of the user's.

    Args:
        spec: of one setting.
        rule: one of `RULES`, or module:function.
        fork_epoch: t, as of `training`.
    """
    left, fixed = spec.train.num_epochs - fork_epoch, spec.fork.constant_num_epochs
    if rule not in RULES:
        return training(spec, rule, fork_epoch, ANY_STEPS).num_epochs
    named = {"constant": fixed, "matched_budget": left + fixed, "custom": spec.fork.length or left}
    return named.get(rule, left)


def training(spec: RunSpec, rule: str, fork_epoch: int, steps_per_epoch: int) -> Training:
    """How a fork trains.

    Args:
        spec: of one setting.
        rule: one of `RULES`, or module:function.
        fork_epoch: t; with a rewind the epochs that have been trained dense, which may be more.
        steps_per_epoch: of the data.

    Raises:
        InvalidInput: the rule cannot be loaded, or does not give a Training.
    """
    if rule in RULES:
        return RULES[rule](spec, fork_epoch, steps_per_epoch)
    function = references.load(KEY, rule, RULES, ("fork_epoch", "trunk"))
    with references.guarded(KEY, rule, f"to give a Training for a fork at {fork_epoch}"):
        made = function(fork_epoch, trunk_schedule(spec, steps_per_epoch))
    if not isinstance(made, Training):
        raise unexpected(KEY, rule, f"to give a Training, not a {type(made).__name__}")
    return made


SMALLEST_RATE = 1e-30
"""Below this, ratios of rates leave the range of float32."""


def check_epochs(spec: RunSpec) -> list[str]:
    """Forks that would leave after their trunk's end, or have nothing left to train.

    Args:
        spec: of one setting, whose rules can be loaded.
    """
    fork, num_epochs = spec.fork, spec.train.num_epochs
    if fork.when == "trigger":
        return _check_online(spec)
    problems = []
    for rule in fork.rules:
        late = [
            t
            for t in fork.epochs
            if t > num_epochs or (t == num_epochs and not _trains_after(spec, rule))
        ]
        if late:
            latest = num_epochs if _trains_after(spec, rule) else num_epochs - 1
            remedy = f"The trunk has train.num_epochs={num_epochs}"
            remedy += (
                "." if latest == num_epochs else f", and a fork of rule {rule} trains what remains."
            )
            problems.append(
                expected("fork.epochs", fork.epochs, f"to have no epoch beyond {latest}", remedy)
            )
        elif references.is_import_path(rule):
            idle = [t for t in fork.epochs if length(spec, rule, t) < 1]
            remedy = f"It gives forks at {idle} none."
            problems += [expected(KEY, rule, "to train at least 1 epoch", remedy)] if idle else []
    return problems


def _trains_after(spec: RunSpec, rule: str) -> bool:
    """Whether a fork at the trunk's last epoch has epochs to train."""
    return length(spec, rule, spec.train.num_epochs) >= 1


def _check_online(spec: RunSpec) -> list[str]:
    fork, num_epochs, problems = spec.fork, spec.train.num_epochs, []
    for rule in fork.rules:
        ends = {1, num_epochs - 1} if num_epochs > 1 else set()
        if any(length(spec, rule, t) != num_epochs - t for t in ends):
            remedy = "Its forks have a length of their own: use another rule, or fork.when=epochs."
            allowed = f"without {rule} where fork.when=trigger, which keeps to the trunk's epochs"
            problems.append(expected("fork.rules", fork.rules, allowed, remedy))
    if num_epochs < 2:
        remedy = "A run that prunes itself needs an epoch before and one after."
        problems.append(expected("train.num_epochs", num_epochs, "to be at least 2", remedy))
    elif fork.fallback_epoch >= num_epochs:
        remedy = f"The run has train.num_epochs={num_epochs}, and needs one after pruning."
        problems.append(
            expected(
                "fork.fallback_epoch", fork.fallback_epoch, f"to be below {num_epochs}", remedy
            )
        )
    return problems


def possible_epochs(spec: RunSpec) -> tuple[int, ...]:
    """Epochs at which forks may leave: those of the grid, or any where a trigger decides."""
    return (
        spec.fork.epochs if spec.fork.when == "epochs" else tuple(range(1, spec.train.num_epochs))
    )


def check_rates(spec: RunSpec, steps_per_epoch: int) -> list[str]:
    """Forks whose learning rate would rise instead of fall, or fall to nothing."""
    trunk_end = trunk_schedule(spec, steps_per_epoch).final_rate
    ends = {
        "matched_anneal": trunk_end,
        "eq6": spec.schedule.end_learning_rate
        if spec.schedule.name in ("cosine", "linear")
        else 0.0,
    }
    named = {"paper_a": "eq6", "matched_anneal": "matched_anneal", "custom": spec.fork.rates}
    problems = []
    for rule in (rule for rule in sorted(named) if rule in spec.fork.rules and named[rule] in ends):
        end = ends[named[rule]]
        rising = [
            epoch for epoch in possible_epochs(spec) if _maximum(spec, epoch) < end * (1 - 1e-6)
        ]
        if rising:
            allowed = f"to leave Eq. (6)'s maximum above the final rate {end:.4g} of rule {rule}"
            remedy = f"It would rise in forks at {rising}: fork earlier, end lower, or use rule continue."
            key, value = (
                ("epochs", spec.fork.epochs) if spec.fork.when == "epochs" else ("when", "trigger")
            )
            problems.append(expected(f"fork.{key}", value, allowed, remedy))
    if schedules.is_own(spec.schedule):
        # Forks may be too short for a schedule of the user's.
        for rule, t in itertools.product(spec.fork.rules, possible_epochs(spec)):
            made = training(spec, rule, t, steps_per_epoch)
            schedules.check_rate(made.schedule, f"a fork at {t}, rule {rule}")
    by_ratio = spec.schedule.name in ("exponential", "step")
    matches = any(named.get(rule) == "matched_anneal" for rule in spec.fork.rules)
    if matches and by_ratio and trunk_end < SMALLEST_RATE:
        allowed = f"to end the trunk at a rate of at least {SMALLEST_RATE} for rule matched_anneal"
        remedy = f"It ends at {trunk_end:.3g}: decay more slowly, or use rule paper_a."
        problems.append(expected("schedule.name", spec.schedule.name, allowed, remedy))
    return problems


def _maximum(spec: RunSpec, fork_epoch: int) -> float:
    return max_learning_rate(spec.optim.learning_rate, fork_epoch, spec.train.num_epochs)
