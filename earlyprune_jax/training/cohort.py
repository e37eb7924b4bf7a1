"""Runs that train in lock-step: one alone, or several stacked into one batch of states.

A stack is one program over a leading axis of runs: on one device a `vmap`, on several devices each
trains its share of the runs and nothing is exchanged. A run's numbers do not depend on its
neighbours, but in their last bits on whether it has any.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.tasks import Task
from earlyprune_jax.training import steps
from earlyprune_jax.training.engine import Engine, EpochOutcome, Means, all_finite
from earlyprune_jax.training.execution import ForkMesh
from earlyprune_jax.training.state import TrainState


class Cohort(Protocol):
    """Runs of one engine, each at the start of one of its epochs."""

    def train_epoch(self, rates: Sequence[np.ndarray]) -> list[EpochOutcome]:
        """Trains every run for an epoch at its own rates, [steps_per_epoch] each."""
        ...

    def evaluate(self, split: str) -> list[Means]:
        """Every run's metrics over a split."""
        ...

    def state(self, index: int) -> TrainState:
        """One run's state as it is now; the next epoch may take its buffers."""
        ...


def make(engine: Engine, states: Sequence[TrainState], width: int = 1) -> Cohort:
    """The states as a cohort.

    Args:
        engine: of all of them.
        states: of one shape.
        width: of the batch they make, filled up where there are fewer: every width compiles once. 1
            = a single run, by the engine's own steps.
    """
    return (
        _Alone(engine, states[0]) if width == 1 else _Stack(engine, states, engine.fork_mesh, width)
    )


def can_stack(task: Task) -> bool:
    """Whether runs may train as one batch: not where batches come in kinds, in an order of each
    run's own."""
    return len(task.batching.kinds) == 1


def no_rates(engine: Engine) -> np.ndarray:
    """Learning rates of an epoch that changes no weight."""
    return np.zeros(engine.steps_per_epoch, np.float32)


class _Alone:
    """A single run, by the engine's own steps."""

    def __init__(self, engine: Engine, state: TrainState):
        self._engine, self._state = engine, state

    def train_epoch(self, rates: Sequence[np.ndarray]) -> list[EpochOutcome]:
        self._state, outcome = self._engine.train_epoch(self._state, rates[0])
        return [outcome]

    def evaluate(self, split: str) -> list[Means]:
        return [self._engine.evaluate(self._state, split)]

    def state(self, index: int) -> TrainState:
        return self._state


class _Stack:
    """Several runs, their states stacked along a leading axis."""

    def __init__(self, engine: Engine, states: Sequence[TrainState], mesh: ForkMesh, width: int):
        self._engine, self._mesh, self._count = engine, mesh, len(states)
        # Every device trains equally many; what is missing is filled up, and not looked at.
        width = max(width, len(states))
        filled = [*states, *[states[0]] * (width - len(states) + -width % mesh.num_devices)]
        self._states = mesh.split(jax.tree.map(lambda *leaves: jnp.stack(leaves), *filled))
        self._splits = mesh.everywhere(engine.splits)

    @property
    def _width(self) -> int:
        return len(self._states.step)

    def train_epoch(self, rates: Sequence[np.ndarray]) -> list[EpochOutcome]:
        filled = [*rates, *[rates[0]] * (self._width - len(rates))]
        num_steps, engine = len(rates[0]), self._engine
        keys, at = jax.device_get((self._states.key, self._states.step))
        orders = [
            list(engine.epoch_batches(key, int(step), num_steps))
            for key, step in zip(keys, at, strict=True)
        ]
        carry = self._mesh.split(
            (self._states, self._repeated(steps.zero_train_sums(engine.task.sum_names)))
        )
        done = 0
        # Runs of a stack have batches of one kind only: see `can_stack`.
        for every in zip(*orders, strict=True):
            indices = np.stack([batches.indices for batches in every], axis=1)
            weights = None
            if every[0].weights is not None:
                weights = np.stack([batches.weights for batches in every], axis=1)
            own = np.stack([each[done : done + len(indices)] for each in filled], axis=1)
            inputs = ((indices, weights), own)
            carry = engine.run_train_many[every[0].kind](carry, inputs, self._splits["train"])
            done += len(indices)
        self._states, sums = carry
        sums, step = jax.device_get((sums, self._states.step))
        finite = jax.device_get(jax.vmap(all_finite)(self._states))
        return [
            engine.outcome(
                jax.tree.map(lambda leaf, i=index: leaf[i], sums), step[index], finite[index]
            )
            for index in range(self._count)
        ]

    def evaluate(self, split: str) -> list[Means]:
        task, engine = self._engine.task, self._engine
        if split not in self._splits:
            return [
                dict.fromkeys(metric.name for metric in task.metrics) for _ in range(self._count)
            ]
        sums = self._mesh.split(self._repeated(steps.zero_sums(task.sum_names)))
        constants = (self._states.params, self._states.model_state, self._splits[split])
        for batches in engine.batches(split, engine.spec.train.eval_batch_size):
            inputs = (batches.indices, batches.weights)
            sums = engine.run_eval_many[batches.kind](sums, inputs, constants)
        sums = jax.device_get(sums)
        return [
            dict(task.measured(jax.tree.map(lambda leaf, i=index: leaf[i], sums)))
            for index in range(self._count)
        ]

    def state(self, index: int) -> TrainState:
        return self._engine.place(jax.tree.map(lambda leaf: leaf[index], self._states))

    def _repeated(self, sums: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (self._width, *leaf.shape)), sums)
