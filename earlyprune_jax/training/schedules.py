"""Learning-rate schedules, each per epoch or per step, built from Optax's."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from earlyprune_jax import references
from earlyprune_jax.spec import ScheduleSpec
from earlyprune_jax.validate import InvalidInput, expected, unexpected

KEY = "schedule.name"

Curve = Callable[[ScheduleSpec, float, int, int], optax.Schedule]
"""(spec, maximum, index of the last unit, units per epoch) -> unit index -> rate."""


def _exponential(spec: ScheduleSpec, maximum: float, last: int, per_epoch: int) -> optax.Schedule:
    return optax.exponential_decay(
        maximum, transition_steps=per_epoch, decay_rate=spec.exponential_decay_rate
    )


def _cosine(spec: ScheduleSpec, maximum: float, last: int, per_epoch: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(
        maximum, max(last, 1), alpha=spec.end_learning_rate / maximum
    )


def _linear(spec: ScheduleSpec, maximum: float, last: int, per_epoch: int) -> optax.Schedule:
    return optax.linear_schedule(maximum, spec.end_learning_rate, max(last, 1))


def _step(spec: ScheduleSpec, maximum: float, last: int, per_epoch: int) -> optax.Schedule:
    boundaries = {epoch * per_epoch: spec.step_factor for epoch in spec.step_boundaries_epochs}
    return optax.piecewise_constant_schedule(maximum, boundaries)


def _constant(spec: ScheduleSpec, maximum: float, last: int, per_epoch: int) -> optax.Schedule:
    return optax.constant_schedule(maximum)


CURVES: dict[str, Curve] = {
    "exponential": _exponential,
    "cosine": _cosine,
    "linear": _linear,
    "step": _step,
    "constant": _constant,
}


def make(
    spec: ScheduleSpec, *, max_learning_rate: float, num_epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """The schedule of a run of `num_epochs` epochs: step (from 0) -> learning rate.

    With u = the 0-based epoch (`per` = epoch) or step (`per` = step), and N units in the run:
    exponential max * rate^u (per step: rate^(u / steps_per_epoch)); cosine
    end + (max - end)/2 * (1 + cos(pi u / (N-1))); linear max + (end - max) u / (N-1); step
    max * factor^(boundaries <= epoch); constant max. The first unit runs at max, the last of
    cosine and linear at end. A schedule of the user's is a function of some of max_learning_rate,
    num_epochs and steps_per_epoch that returns step -> rate; with `per` = epoch its rate at an
    epoch's first step holds for the epoch.

    Args:
        spec: name, unit and parameters.
        max_learning_rate: the rate of the first unit; `spec` does not hold it, because forks
            start lower than their trunk.
        num_epochs: length of the run.
        steps_per_epoch: training steps an epoch.

    Source: paper A, section 4.1.4 and the formulas of its code.

    Example:
        >>> spec = ScheduleSpec("exponential", "epoch", 0.97, 0.0, (), 0.1)
        >>> schedule = make(spec, max_learning_rate=0.1, num_epochs=3, steps_per_epoch=10)
        >>> [round(float(schedule(step)), 6) for step in (0, 9, 10, 29)]
        [0.1, 0.1, 0.097, 0.09409]
    """
    steps_per_unit = steps_per_epoch if spec.per == "epoch" else 1
    if is_own(spec):
        given = {
            "max_learning_rate": max_learning_rate,
            "num_epochs": num_epochs,
            "steps_per_epoch": steps_per_epoch,
        }
        own = _own(spec.name, given)
        return lambda step: own(jnp.asarray(step) // steps_per_unit * steps_per_unit)
    units_per_epoch = steps_per_epoch // steps_per_unit
    last_unit = num_epochs * units_per_epoch - 1
    curve = CURVES[spec.name](spec, max_learning_rate, last_unit, units_per_epoch)
    return lambda step: curve(jnp.asarray(step) // steps_per_unit)


def is_own(spec: ScheduleSpec) -> bool:
    """Whether the schedule is the user's."""
    return references.is_import_path(spec.name)


def check(spec: ScheduleSpec, num_epochs: int) -> list[str]:
    """The problems of a schedule's name; of the user's also whether its rates are numbers.

    Example:
        >>> "Did you mean 'cosine'?" in check(ScheduleSpec("cosin", "epoch", 0.97, 0.0, (), 0.1), 2)[0]
        True
    """
    if not is_own(spec):
        return references.check(KEY, spec.name, CURVES)
    try:
        with references.guarded(KEY, spec.name, "to map steps to rates"):
            made = make(spec, max_learning_rate=0.1, num_epochs=num_epochs, steps_per_epoch=2)
            ends = [_rate(made, step) for step in (0, 2 * num_epochs - 1)]
    except InvalidInput as error:
        return list(error.problems)
    wrong = [rate for rate in ends if not (np.isfinite(rate) and rate >= 0)]
    return (
        [expected(KEY, spec.name, f"to give rates of at least 0, not {wrong[0]}")] if wrong else []
    )


def check_rate(schedule: optax.Schedule, where: str) -> None:
    """Sees that a schedule's first rate is a number.

    Raises:
        InvalidInput: it is none.
    """
    rate = _rate(schedule, 0)
    if not (np.isfinite(rate) and rate >= 0):
        raise unexpected(KEY, rate, f"to give {where} rates of at least 0")


def _rate(schedule: optax.Schedule, step: int) -> float:
    return float(np.asarray(schedule(step)))


def _own(name: str, given: dict[str, float]) -> optax.Schedule:
    function = references.load(KEY, name, CURVES)
    sizes = ", ".join(f"{key}={value:g}" for key, value in given.items())
    with references.guarded(KEY, name, f"to give a schedule for {sizes}"):
        return function(**references.accepted(function, given))


def final_rate(
    spec: ScheduleSpec, *, max_learning_rate: float, num_epochs: int, steps_per_epoch: int
) -> float:
    """The rate of the last step of `make`'s schedule, in closed form and double precision.

    Example:
        >>> spec = ScheduleSpec("exponential", "epoch", 0.97, 0.0, (), 0.1)
        >>> round(final_rate(spec, max_learning_rate=0.1, num_epochs=3, steps_per_epoch=10), 6)
        0.09409
    """
    if is_own(spec):
        made = make(
            spec,
            max_learning_rate=max_learning_rate,
            num_epochs=num_epochs,
            steps_per_epoch=steps_per_epoch,
        )
        return _rate(made, num_epochs * steps_per_epoch - 1)
    decay_epochs = epochs_of_decay(spec, num_epochs, steps_per_epoch)
    if spec.name == "exponential":
        return max_learning_rate * spec.exponential_decay_rate**decay_epochs
    if spec.name in ("cosine", "linear") and decay_epochs:
        return spec.end_learning_rate
    if spec.name == "step":
        passed = sum(epoch < num_epochs for epoch in spec.step_boundaries_epochs)
        return max_learning_rate * spec.step_factor**passed
    return max_learning_rate


def refitted(
    spec: ScheduleSpec,
    *,
    maximum: float,
    final: float,
    num_epochs: int,
    of_epochs: int,
    steps_per_epoch: int,
) -> optax.Schedule:
    """The schedule of a shorter run with parameters such that it falls from `maximum` to `final`.

    Exponential: the decay rate is refitted. Cosine, linear: the end value is. Step: boundaries move
    in proportion to the run's length and the factor is refitted. One of the user's is stretched to
    these ends. A run too short to change its rate trains at the final one throughout.

    Args:
        spec: of the longer run.
        maximum: the first rate.
        final: the last.
        num_epochs: of the shorter run.
        of_epochs: of the longer one.
        steps_per_epoch: of both.
    """
    sizes = {"num_epochs": num_epochs, "steps_per_epoch": steps_per_epoch}
    if is_own(spec):
        made = make(spec, max_learning_rate=maximum, **sizes)
        first, last = _rate(made, 0), _rate(made, num_epochs * steps_per_epoch - 1)
        if first == last:
            return optax.constant_schedule(final)
        return lambda step: final + (made(step) - last) * ((maximum - final) / (first - last))
    fitted = _fit(spec, maximum, final, num_epochs, of_epochs, steps_per_epoch)
    return (
        make(fitted, max_learning_rate=maximum, **sizes)
        if fitted
        else optax.constant_schedule(final)
    )


def _fit(
    spec: ScheduleSpec,
    maximum: float,
    final: float,
    num_epochs: int,
    of_epochs: int,
    steps_per_epoch: int,
) -> ScheduleSpec | None:
    decay_epochs = epochs_of_decay(spec, num_epochs, steps_per_epoch)
    if spec.name == "exponential" and decay_epochs:
        return dataclasses.replace(
            spec, exponential_decay_rate=(final / maximum) ** (1 / decay_epochs)
        )
    if spec.name in ("cosine", "linear") and decay_epochs:
        return dataclasses.replace(spec, end_learning_rate=final)
    if spec.name == "step":
        scale = num_epochs / of_epochs
        moved = {round(epoch * scale) for epoch in spec.step_boundaries_epochs}
        boundaries = tuple(sorted(epoch for epoch in moved if 1 <= epoch < num_epochs))
        if boundaries:
            factor = (final / maximum) ** (1 / len(boundaries))
            return dataclasses.replace(spec, step_boundaries_epochs=boundaries, step_factor=factor)
    return None


def epochs_of_decay(spec: ScheduleSpec, num_epochs: int, steps_per_epoch: int) -> float:
    """How long after its first unit a run's last one begins, in epochs."""
    return num_epochs - (1 if spec.per == "epoch" else 1 / steps_per_epoch)


def rates_of_epoch(schedule: optax.Schedule, index: int, steps_per_epoch: int) -> np.ndarray:
    """The learning rates of a run's epoch `index` (from 0), [steps_per_epoch] float32.

    Example:
        >>> rates_of_epoch(optax.linear_schedule(1.0, 0.0, 4), 1, 2).tolist()
        [0.5, 0.25]
    """
    # One shape for all epochs and runs: every operation of the schedule compiles once.
    first = index * steps_per_epoch
    return np.asarray(jax.vmap(schedule)(first + jnp.arange(steps_per_epoch)), np.float32)
