"""Learning-rate schedules, each per epoch or per step, built from Optax's."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from earlyprune_jax.spec import ScheduleSpec

Curve = Callable[[ScheduleSpec, float, int, int], optax.Schedule]
"""(spec, maximum, index of the last unit, units per epoch) -> unit index -> rate."""


def _exponential(spec: ScheduleSpec, maximum: float, last: int, per_epoch: int) -> optax.Schedule:
    return optax.exponential_decay(
        maximum, transition_steps=per_epoch, decay_rate=spec.exponential_decay_rate
    )


def _cosine(spec: ScheduleSpec, maximum: float, last: int, per_epoch: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(maximum, max(last, 1), alpha=spec.end_learning_rate / maximum)


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
    cosine and linear at end.

    Args:
        spec: name, unit and parameters.
        max_learning_rate: the rate of the first unit; `spec` does not hold it, because forks
            start lower than their trunk.
        num_epochs: length of the run.
        steps_per_epoch: training steps an epoch.

    Source: paper A, section 4.1.4 and the formulas of its code.

    Example:
        >>> spec = ScheduleSpec(("exponential",), "epoch", 0.97, 0.0, (), 0.1)
        >>> schedule = make(spec, max_learning_rate=0.1, num_epochs=3, steps_per_epoch=10)
        >>> [round(float(schedule(step)), 6) for step in (0, 9, 10, 29)]
        [0.1, 0.1, 0.097, 0.09409]
    """
    steps_per_unit = steps_per_epoch if spec.per == "epoch" else 1
    units_per_epoch = steps_per_epoch // steps_per_unit
    last_unit = num_epochs * units_per_epoch - 1
    curve = CURVES[spec.name](spec, max_learning_rate, last_unit, units_per_epoch)
    return lambda step: curve(jnp.asarray(step) // steps_per_unit)


def final_rate(
    spec: ScheduleSpec, *, max_learning_rate: float, num_epochs: int, steps_per_epoch: int
) -> float:
    """The rate of the last step of `make`'s schedule, in closed form and double precision.

    Example:
        >>> spec = ScheduleSpec(("exponential",), "epoch", 0.97, 0.0, (), 0.1)
        >>> round(final_rate(spec, max_learning_rate=0.1, num_epochs=3, steps_per_epoch=10), 6)
        0.09409
    """
    decay_epochs = epochs_of_decay(spec, num_epochs, steps_per_epoch)
    if spec.name == "exponential":
        return max_learning_rate * spec.exponential_decay_rate**decay_epochs
    if spec.name in ("cosine", "linear") and decay_epochs:
        return spec.end_learning_rate
    if spec.name == "step":
        passed = sum(epoch < num_epochs for epoch in spec.step_boundaries_epochs)
        return max_learning_rate * spec.step_factor**passed
    return max_learning_rate


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
