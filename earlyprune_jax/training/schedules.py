"""Learning-rate schedules, each per epoch or per step, built from Optax's."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from earlyprune_jax import references
from earlyprune_jax.spec_sections import ScheduleSpec
from earlyprune_jax.validate import problems_of, unexpected, unknown_choice

KEY = "schedule.name"

# Each maps the index of a unit, an epoch or a step, to a rate.
CURVES: dict[str, Callable[["RunSchedule"], optax.Schedule]] = {
    "exponential": lambda run: optax.exponential_decay(
        run.learning_rate, run.units_per_epoch, run.spec.exponential_decay_rate
    ),
    "cosine": lambda run: optax.cosine_decay_schedule(
        run.learning_rate, run.units_to_last, alpha=run.spec.end_learning_rate / run.learning_rate
    ),
    "linear": lambda run: optax.linear_schedule(
        run.learning_rate, run.spec.end_learning_rate, run.units_to_last
    ),
    "step": lambda run: optax.piecewise_constant_schedule(
        run.learning_rate,
        dict.fromkeys(
            [epoch * run.units_per_epoch for epoch in run.spec.step_boundaries_epochs],
            run.spec.step_factor,
        ),
    ),
    "constant": lambda run: optax.constant_schedule(run.learning_rate),
    "inverse_sqrt": lambda run: run.warmed_up,
}


@dataclasses.dataclass(frozen=True)
class RunSchedule:
    """The learning rates of a run of `num_epochs` epochs, which start at `learning_rate`.

    With u = the 0-based epoch (`per` = epoch) or step (`per` = step), and N units in the run:
    exponential max * rate^u (per step: rate^(u / steps_per_epoch)); cosine
    end + (max - end)/2 * (1 + cos(pi u / (N-1))); linear max + (end - max) u / (N-1); step
    max * factor^(boundaries <= epoch); constant max; inverse_sqrt max * min(s/W, sqrt(W/s)), where
    s, from 1, is the number of the unit's first step and W = `warmup_steps`. The first unit runs at
    max, but under inverse_sqrt, and the last of cosine and linear at end. A schedule of the user's
    is a function of some of max_learning_rate, num_epochs and steps_per_epoch that returns step ->
    rate; with `per` = epoch its rate at an epoch's first step holds for the epoch.

    Attributes:
        spec: name, unit and parameters.
        learning_rate: the rate of the first unit; `spec` does not hold it, because forks start
            lower than their trunk.
        num_epochs: length of the run.
        steps_per_epoch: training steps an epoch.

    Source: paper A, section 4.1.4 and the formulas of its code; of inverse_sqrt Vaswani et al.,
    "Attention Is All You Need", Eq. (3), where max is (width W)^-1/2.

    Example:
        >>> spec = ScheduleSpec("exponential", "epoch", 0.97, 0.0, (), 0.1, 1)
        >>> run = RunSchedule(spec, learning_rate=0.1, num_epochs=3, steps_per_epoch=10)
        >>> [round(float(run.schedule(step)), 6) for step in (0, 9, 10, 29)]
        [0.1, 0.1, 0.097, 0.09409]
        >>> round(run.final_rate, 6)
        0.09409
    """

    spec: ScheduleSpec
    learning_rate: float
    num_epochs: int
    steps_per_epoch: int

    @property
    def units_per_epoch(self) -> int:
        """How often an epoch's rate may change."""
        return 1 if self.spec.per == "epoch" else self.steps_per_epoch

    @property
    def units_to_last(self) -> int:
        """The index of the last unit, but at least 1."""
        return max(self.num_epochs * self.units_per_epoch - 1, 1)

    @property
    def epochs_of_decay(self) -> float:
        """How long after its first unit the run's last one begins, in epochs."""
        return self.num_epochs - 1 / self.units_per_epoch

    @property
    def steps_per_unit(self) -> int:
        """How many steps run at one rate."""
        return self.steps_per_epoch // self.units_per_epoch

    def warmed_up(self, unit: Any) -> Any:
        """Computes the rate of inverse_sqrt."""
        step, warm = unit * self.steps_per_unit + 1, self.spec.warmup_steps
        return self.learning_rate * jnp.minimum(step / warm, jnp.sqrt(warm / step))

    @functools.cached_property
    def schedule(self) -> optax.Schedule:
        """Maps a step, from 0, to its learning rate."""
        steps_per_unit = self.steps_per_unit
        if not is_own(self.spec):
            curve = CURVES[self.spec.name](self)
            return lambda step: curve(jnp.asarray(step) // steps_per_unit)
        function = references.load(KEY, self.spec.name, CURVES)
        given = {
            "max_learning_rate": self.learning_rate,
            "num_epochs": self.num_epochs,
            "steps_per_epoch": self.steps_per_epoch,
        }
        sizes = ", ".join(f"{key}={value:g}" for key, value in given.items())
        with references.guarded(KEY, self.spec.name, f"to give a schedule for {sizes}"):
            rate = function(**references.accepted(function, given))
        return lambda step: rate(jnp.asarray(step) // steps_per_unit * steps_per_unit)

    @property
    def ends(self) -> tuple[float, float]:
        """The rates of the first and of the last step, as the schedule gives them: float32."""
        last = self.num_epochs * self.steps_per_epoch - 1
        return rate_at(self.schedule, 0), rate_at(self.schedule, last)

    @property
    def final_rate(self) -> float:
        """The rate of the last step, of built-in schedules in closed form and double precision."""
        spec = self.spec
        if is_own(spec):
            return self.ends[1]
        if spec.name == "exponential":
            return self.learning_rate * spec.exponential_decay_rate**self.epochs_of_decay
        if spec.name in ("cosine", "linear") and self.epochs_of_decay:
            return spec.end_learning_rate
        if spec.name == "step":
            passed = sum(epoch < self.num_epochs for epoch in spec.step_boundaries_epochs)
            return self.learning_rate * spec.step_factor**passed
        if spec.name == "inverse_sqrt":
            last = (self.num_epochs * self.units_per_epoch - 1) * self.steps_per_unit + 1
            part = last / spec.warmup_steps
            return self.learning_rate * min(part, part**-0.5)
        return self.learning_rate

    def over(self, num_epochs: int, learning_rate: float) -> "RunSchedule":
        """Returns the same kind of schedule over another length, from another first rate."""
        return dataclasses.replace(self, learning_rate=learning_rate, num_epochs=num_epochs)

    def remade(self, maximum: float, num_epochs: int) -> optax.Schedule:
        """Makes the same kind of schedule from another first rate, over another length."""
        return self.over(num_epochs, maximum).schedule

    def refitted(self, maximum: float, num_epochs: int) -> optax.Schedule:
        """Makes the schedule of a shorter run that falls from `maximum` to this run's final rate.

        Exponential: the decay rate is refitted. Cosine, linear: the end value is. Step: boundaries
        move in proportion to the run's length and the factor is refitted. Inverse_sqrt: it falls
        as the inverse root from the first step, without warm-up. One of the user's is stretched to
        these ends. A run too short to change its rate trains at the final one
        throughout.
        """
        final, shorter = self.final_rate, self.over(num_epochs, maximum)
        if is_own(self.spec):
            first, last = shorter.ends
            if first == last:
                return optax.constant_schedule(final)
            scale = (maximum - final) / (first - last)
            return lambda step: final + (shorter.schedule(step) - last) * scale
        last, changes = shorter.units_to_last, {}
        if self.spec.name == "inverse_sqrt" and shorter.epochs_of_decay:
            fall = (maximum / final) ** 2 - 1

            def falling(step: Any) -> Any:
                return maximum / jnp.sqrt(1 + fall * (step // self.steps_per_unit) / last)

            return falling
        if self.spec.name == "step":
            scale = num_epochs / self.num_epochs
            moved = sorted({round(epoch * scale) for epoch in self.spec.step_boundaries_epochs})
            if boundaries := tuple(epoch for epoch in moved if 1 <= epoch < num_epochs):
                factor = (final / maximum) ** (1 / len(boundaries))
                changes = {"step_boundaries_epochs": boundaries, "step_factor": factor}
        elif shorter.epochs_of_decay and self.spec.name == "exponential":
            decay_rate = (final / maximum) ** (1 / shorter.epochs_of_decay)
            changes = {"exponential_decay_rate": decay_rate}
        elif shorter.epochs_of_decay and self.spec.name in ("cosine", "linear"):
            changes = {"end_learning_rate": final}
        if not changes:
            return optax.constant_schedule(final)
        fitted = dataclasses.replace(self.spec, **changes)
        return dataclasses.replace(shorter, spec=fitted).schedule


def is_own(spec: ScheduleSpec) -> bool:
    """Tells whether the schedule is the user's."""
    return references.is_import_path(spec.name)


def check(spec: ScheduleSpec, num_epochs: int) -> list[str]:
    """Lists the problems of a schedule's name; of the user's also whether its rates are numbers.

    Example:
        >>> spec = ScheduleSpec("cosin", "epoch", 0.97, 0.0, (), 0.1, 1)
        >>> "Did you mean 'cosine'?" in check(spec, num_epochs=2)[0]
        True
    """
    if not is_own(spec):
        problem = f"{unknown_choice(KEY, spec.name, tuple(CURVES))} Your own: module:attribute."
        return [] if spec.name in CURVES else [problem]

    def trace() -> None:
        with references.guarded(KEY, spec.name, "to map steps to rates"):
            ends = RunSchedule(spec, 0.1, num_epochs, 2).ends
        if wrong := [rate for rate in ends if not is_rate(rate)]:
            raise unexpected(KEY, spec.name, f"to give rates of at least 0, not {wrong}")

    return problems_of(trace)


def is_rate(rate: float) -> bool:
    """Tells whether a number can be a learning rate."""
    return bool(np.isfinite(rate) and rate >= 0)


def rate_at(schedule: optax.Schedule, step: int) -> float:
    """Returns the learning rate of a step, from 0."""
    return float(np.asarray(schedule(step)))


def rates_of_epoch(schedule: optax.Schedule, index: int, steps_per_epoch: int) -> np.ndarray:
    """Returns the learning rates of a run's epoch `index` (from 0), [steps_per_epoch] float32.

    Args:
        schedule: of the run: step, from 0 -> rate.
        index: of the epoch, from 0.
        steps_per_epoch: training steps an epoch.

    Returns:
        [steps_per_epoch] float32.

    Example:
        >>> rates_of_epoch(optax.linear_schedule(1.0, 0.0, 4), 1, 2).tolist()
        [0.5, 0.25]
    """
    # One shape for all epochs and runs: every operation of the schedule compiles once. Copied: the
    # rates of a run's epoch are kept, and should hold no memory of a device.
    first = index * steps_per_epoch
    return np.array(jax.vmap(schedule)(first + jnp.arange(steps_per_epoch)), np.float32)
