"""How a pruned run trains on: its length and its learning rates, by name; and the trunk's own
training.

A retraining is a length and rates; the named ones are combinations of them. One of the user's is a
function (fork_epoch, trunk) -> Training, in which `trunk` is the dense run's `RunSchedule`.
"""

import dataclasses
import itertools

import optax

from earlyprune_jax import references
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.training import schedules
from earlyprune_jax.training.schedules import RunSchedule
from earlyprune_jax.validate import expected, shown, unexpected

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


RATES = ("eq6", "matched_anneal", "continue", "restart", "constant")
"""What `fork.rates` may be.

    eq6             paper A: the schedule restarts from Eq. (6)'s maximum, over the fork's length.
                    The exponential schedule keeps its decay per epoch, so late forks end at higher
                    rates than early ones: a confound of "early is best"
    matched_anneal  Eq. (6)'s maximum, but the last step runs at the trunk's final learning rate
    continue        the trunk's schedule and momentum go on as if nothing had been pruned
    restart         the trunk's schedule from its maximum, over the fork's length
    constant        paper B: a fixed rate, a fresh optimizer
"""

RETRAININGS = {
    "paper_a": "eq6",
    "matched_anneal": "matched_anneal",
    "continue": "continue",
    "constant": "constant",
    # The trunk's schedule goes on to its end, pruned; then come the epochs of `constant`. Dense and
    # pruned epochs together are T + fork.constant_num_epochs, whatever t: the budget of paper B's
    # forks at t = T. At t = 0 it prunes before training, at t = T it is `constant`.
    "matched_budget": "matched_budget",
    "custom": "",
}
"""Name -> rates, `RATES` or `matched_budget`; "" = those of fork.rates."""


def _rates_of(spec: RunSpec, retraining: str) -> str:
    """Names the rates of a retraining; "" for one of the user's."""
    return (RETRAININGS[retraining] or spec.fork.rates) if retraining in RETRAININGS else ""


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
    remaining, constant = spec.train.num_epochs - fork_epoch, spec.fork.constant_num_epochs
    lengths = {"constant": constant, "matched_budget": remaining + constant}
    lengths["custom"] = spec.fork.length or remaining
    return lengths.get(retraining, remaining)


def _schedule(
    rates: str, dense: RunSchedule, t: int, num_epochs: int, constant: optax.Schedule
) -> optax.Schedule:
    """Makes a fork's schedule from the trunk's."""
    maximum = max_learning_rate(dense.learning_rate, t, dense.num_epochs)
    match rates:
        case "eq6":
            return dense.remade(maximum, num_epochs)
        case "matched_anneal":
            return dense.refitted(maximum, num_epochs)
        case "restart":
            return dense.remade(dense.learning_rate, num_epochs)
        case "constant":
            return constant

    def rest(step):
        return dense.schedule(step + t * dense.steps_per_epoch)

    if rates == "continue":
        return rest
    return optax.join_schedules([rest, constant], [(dense.num_epochs - t) * dense.steps_per_epoch])


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
    if rates := _rates_of(spec, retraining):
        if rates == "matched_budget" and fork_epoch == dense.num_epochs:
            rates = "constant"
        num_epochs = length(spec, retraining, fork_epoch)
        constant = optax.constant_schedule(spec.fork.constant_learning_rate)
        schedule = _schedule(rates, dense, fork_epoch, num_epochs, constant)
        return Training(num_epochs, schedule, rates not in ("continue", "matched_budget"))
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
    problems = []
    if fork.when == "trigger":
        return _check_pruning_itself(spec)
    for retraining in fork.retraining:
        idle = [t for t in fork.epochs if t > num_epochs or length(spec, retraining, t) < 1]
        if idle:
            latest = num_epochs - (length(spec, retraining, num_epochs) < 1)
            allowed = f"to leave {retraining} epochs to train, and to have no epoch beyond {latest}"
            dense = f"the trunk has train.num_epochs={num_epochs}"
            remedy = f"It gives forks at {shown(idle)} none; {dense}."
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
    if num_epochs <= (latest := max(1, fork.fallback_epoch)):
        allowed = f"to be above {latest}, with fork.fallback_epoch={fork.fallback_epoch}"
        remedy = "A run that prunes itself needs an epoch before and one after."
        problems.append(expected("train.num_epochs", num_epochs, allowed, remedy))
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
    epochs = fork.epochs if fork.when == "epochs" else tuple(range(1, dense.num_epochs))
    maxima = {t: max_learning_rate(dense.learning_rate, t, dense.num_epochs) for t in epochs}
    ends = {"matched_anneal": dense.final_rate}
    if kind in ("cosine", "linear"):
        ends["eq6"] = spec.schedule.end_learning_rate
    problems = []
    for retraining in fork.retraining:
        end = ends.get(_rates_of(spec, retraining), 0.0)
        if rising := [t for t, maximum in maxima.items() if maximum < end * (1 - 1e-6)]:
            allowed = f"to leave Eq. (6)'s maximum above the final rate {end:.4g}"
            otherwise = "fork earlier, end lower, or use continue."
            remedy = f"It would rise in forks at {rising}: {otherwise}"
            problems.append(expected("fork.retraining", retraining, allowed, remedy))
    if schedules.is_own(spec.schedule):
        # Forks may be too short for a schedule of the user's.
        for retraining, t in itertools.product(fork.retraining, epochs):
            rate = schedules.rate_at(training(spec, retraining, t, steps_per_epoch).schedule, 0)
            if not schedules.is_rate(rate):
                allowed = f"to give a fork at {t}, retrained by {retraining}, rates of at least 0"
                raise unexpected(schedules.KEY, rate, allowed)
    matched = "matched_anneal" in [_rates_of(spec, retraining) for retraining in fork.retraining]
    if matched and kind in ("exponential", "step") and dense.final_rate < SMALLEST_RATE:
        allowed = f"to end the trunk at a rate of at least {SMALLEST_RATE} for matched_anneal"
        remedy = f"It ends at {dense.final_rate:.3g}: decay more slowly, or use paper_a."
        problems.append(expected("schedule.name", kind, allowed, remedy))
    return problems
