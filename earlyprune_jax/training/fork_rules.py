"""What learning rates a fork trains with, by name; and the trunk's own, by the same type."""

import dataclasses

import optax

from earlyprune_jax.spec import ForkSpec, RunSpec, ScheduleSpec
from earlyprune_jax.training import schedules
from earlyprune_jax.validate import expected


@dataclasses.dataclass(frozen=True)
class Training:
    """How one run trains: for how long, at which rates, with which momentum at its start.

    `schedule` maps the run's own steps, from 0, to learning rates.
    """

    num_epochs: int
    schedule: optax.Schedule
    reset_momentum: bool


def max_learning_rate(base: float, fork_epoch: int, num_epochs: int) -> float:
    """Eq. (6) of paper A: base * (1 - 9 t / (10 T)), for a fork at epoch t of T.

    Example:
        >>> round(max_learning_rate(0.1, 60, 200), 6)
        0.073
    """
    return base * (1 - 0.9 * fork_epoch / num_epochs)


def trunk(spec: RunSpec, steps_per_epoch: int) -> Training:
    """The dense run's training."""
    schedule = schedules.make(
        spec.schedule,
        max_learning_rate=spec.optim.learning_rate,
        num_epochs=spec.train.num_epochs,
        steps_per_epoch=steps_per_epoch,
    )
    return Training(spec.train.num_epochs, schedule, reset_momentum=False)


def paper_a(spec: RunSpec, fork_epoch: int, steps_per_epoch: int) -> Training:
    """Paper A: Eq. (6)'s maximum, the schedule restarted over the remaining T - t epochs.

    The exponential schedule keeps its decay per epoch, so late forks end at higher rates than
    early ones: a confound of "early is best", which `matched_anneal` removes.
    """
    return _restarted(spec, spec.schedule, _maximum(spec, fork_epoch), fork_epoch, steps_per_epoch)


def matched_anneal(spec: RunSpec, fork_epoch: int, steps_per_epoch: int) -> Training:
    """Eq. (6)'s maximum, but the last step runs at the trunk's final learning rate.

    Exponential: the decay rate is refitted. Cosine, linear: the end value is the trunk's. Step:
    boundaries move in proportion to the fork's length and the factor is refitted. A fork too
    short to change its rate trains at the final one throughout.
    """
    maximum, final = _maximum(spec, fork_epoch), trunk_final_learning_rate(spec, steps_per_epoch)
    num_epochs = spec.train.num_epochs - fork_epoch
    fitted = _fit(spec, maximum, final, num_epochs, steps_per_epoch)
    if fitted is None:
        return Training(num_epochs, optax.constant_schedule(final), reset_momentum=True)
    return _restarted(spec, fitted, maximum, fork_epoch, steps_per_epoch)


def continued(spec: RunSpec, fork_epoch: int, steps_per_epoch: int) -> Training:
    """The trunk's schedule and momentum go on as if nothing had been pruned."""
    dense = trunk(spec, steps_per_epoch)
    offset = fork_epoch * steps_per_epoch
    return Training(
        dense.num_epochs - fork_epoch, lambda step: dense.schedule(step + offset), reset_momentum=False
    )


def constant(spec: RunSpec, fork_epoch: int, steps_per_epoch: int) -> Training:
    """Paper B: a fixed rate for a fixed number of epochs, a fresh optimizer."""
    del fork_epoch, steps_per_epoch
    schedule = optax.constant_schedule(spec.fork.constant_learning_rate)
    return Training(spec.fork.constant_num_epochs, schedule, reset_momentum=True)


def matched_budget(spec: RunSpec, fork_epoch: int, steps_per_epoch: int) -> Training:
    """The trunk's schedule goes on to its end, pruned; then come the epochs of rule `constant`.

    Dense and pruned epochs together are T + fork.constant_num_epochs, whatever t: the budget of paper
    B's forks at t = T. At t = 0 it prunes before training, at t = T it is `constant`.
    """
    remaining, tuned = spec.train.num_epochs - fork_epoch, constant(spec, fork_epoch, steps_per_epoch)
    if not remaining:
        return tuned
    before = continued(spec, fork_epoch, steps_per_epoch)
    schedule = optax.join_schedules([before.schedule, tuned.schedule], [remaining * steps_per_epoch])
    return Training(remaining + tuned.num_epochs, schedule, reset_momentum=False)


SMALLEST_RATE = 1e-30
"""Below this, ratios of rates leave the range of float32."""

RULES = {
    "paper_a": paper_a,
    "matched_anneal": matched_anneal,
    "continue": continued,
    "constant": constant,
    "matched_budget": matched_budget,
}
FIXED_LENGTH = ("constant", "matched_budget")
"""Rules whose forks go on after their trunk's last epoch."""


def trunk_final_learning_rate(spec: RunSpec, steps_per_epoch: int) -> float:
    """The rate of the trunk's last step."""
    return schedules.final_rate(
        spec.schedule,
        max_learning_rate=spec.optim.learning_rate,
        num_epochs=spec.train.num_epochs,
        steps_per_epoch=steps_per_epoch,
    )


def check_epochs(fork: ForkSpec, num_epochs: int) -> list[str]:
    """Forks that would leave after their trunk's end, or have nothing left to train."""
    if fork.when == "trigger":
        return _check_online(fork, num_epochs)
    problems = []
    for rule in fork.rules:
        latest = num_epochs if rule in FIXED_LENGTH else num_epochs - 1
        if max(fork.epochs, default=0) > latest:
            remedy = f"The trunk has train.num_epochs={num_epochs}"
            remedy += "." if rule in FIXED_LENGTH else f", and a fork of rule {rule} trains what remains."
            problems.append(expected("fork.epochs", fork.epochs, f"to have no epoch beyond {latest}", remedy))
    return problems


def _check_online(fork: ForkSpec, num_epochs: int) -> list[str]:
    problems = []
    for rule in (rule for rule in FIXED_LENGTH if rule in fork.rules):
        remedy = "It adds fork.constant_num_epochs: use another rule, or fork.when=epochs."
        allowed = f"without {rule} where fork.when=trigger, which keeps to the trunk's epochs"
        problems.append(expected("fork.rules", fork.rules, allowed, remedy))
    if num_epochs < 2:
        remedy = "A run that prunes itself needs an epoch before and one after."
        problems.append(expected("train.num_epochs", num_epochs, "to be at least 2", remedy))
    elif fork.fallback_epoch >= num_epochs:
        remedy = f"The run has train.num_epochs={num_epochs}, and needs one after pruning."
        problems.append(
            expected("fork.fallback_epoch", fork.fallback_epoch, f"to be below {num_epochs}", remedy)
        )
    return problems


def possible_epochs(spec: RunSpec) -> tuple[int, ...]:
    """Epochs at which forks may leave: those of the grid, or any where a trigger decides."""
    return spec.fork.epochs if spec.fork.when == "epochs" else tuple(range(1, spec.train.num_epochs))


def check_rates(spec: RunSpec, steps_per_epoch: int) -> list[str]:
    """Forks whose learning rate would rise instead of fall, or fall to nothing."""
    trunk_end = trunk_final_learning_rate(spec, steps_per_epoch)
    ends = {
        "matched_anneal": trunk_end,
        "paper_a": spec.schedule.end_learning_rate if spec.schedule.name in ("cosine", "linear") else 0.0,
    }
    problems = []
    for rule in sorted(ends.keys() & set(spec.fork.rules)):
        rising = [epoch for epoch in possible_epochs(spec) if _maximum(spec, epoch) < ends[rule] * (1 - 1e-6)]
        if rising:
            allowed = f"to leave Eq. (6)'s maximum above the final rate {ends[rule]:.4g} of rule {rule}"
            remedy = f"It would rise in forks at {rising}: fork earlier, end lower, or use rule continue."
            key, value = ("epochs", spec.fork.epochs) if spec.fork.when == "epochs" else ("when", "trigger")
            problems.append(expected(f"fork.{key}", value, allowed, remedy))
    by_ratio = spec.schedule.name in ("exponential", "step")
    if "matched_anneal" in spec.fork.rules and by_ratio and trunk_end < SMALLEST_RATE:
        allowed = f"to end the trunk at a rate of at least {SMALLEST_RATE} for rule matched_anneal"
        remedy = f"It ends at {trunk_end:.3g}: decay more slowly, or use rule paper_a."
        problems.append(expected("schedule.names", spec.schedule.name, allowed, remedy))
    return problems


def _maximum(spec: RunSpec, fork_epoch: int) -> float:
    return max_learning_rate(spec.optim.learning_rate, fork_epoch, spec.train.num_epochs)


def _restarted(
    spec: RunSpec, schedule: ScheduleSpec, maximum: float, fork_epoch: int, steps_per_epoch: int
) -> Training:
    num_epochs = spec.train.num_epochs - fork_epoch
    made = schedules.make(
        schedule, max_learning_rate=maximum, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch
    )
    return Training(num_epochs, made, reset_momentum=True)


def _fit(
    spec: RunSpec, maximum: float, final: float, num_epochs: int, steps_per_epoch: int
) -> ScheduleSpec | None:
    """The trunk's schedule with parameters such that it falls from `maximum` to `final`."""
    schedule = spec.schedule
    epochs_of_decay = schedules.epochs_of_decay(schedule, num_epochs, steps_per_epoch)
    if schedule.name == "exponential" and epochs_of_decay:
        return dataclasses.replace(
            schedule, exponential_decay_rate=(final / maximum) ** (1 / epochs_of_decay)
        )
    if schedule.name in ("cosine", "linear") and epochs_of_decay:
        return dataclasses.replace(schedule, end_learning_rate=final)
    if schedule.name == "step":
        scale = num_epochs / spec.train.num_epochs
        moved = {round(epoch * scale) for epoch in schedule.step_boundaries_epochs}
        boundaries = tuple(sorted(epoch for epoch in moved if 1 <= epoch < num_epochs))
        if boundaries:
            factor = (final / maximum) ** (1 / len(boundaries))
            return dataclasses.replace(schedule, step_boundaries_epochs=boundaries, step_factor=factor)
    return None
