"""The engine: a task's compiled steps with the data on the device, shared by all runs.

Runs of one shape may train side by side, as a *stack*: a state whose leaves have a leading axis of
runs. On one device it is a `vmap`, on several each trains its share of the runs. A run's numbers do
not depend on its neighbours, but in their last bits on whether it has any.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from earlyprune_jax import pruning
from earlyprune_jax.array_types import PRNGKey
from earlyprune_jax.spec import RunSpec, content_hash, deciding
from earlyprune_jax.tasks import Batches, Task
from earlyprune_jax.training import execution, optim, state
from earlyprune_jax.training.checkpoint import CheckpointError, CheckpointStore
from earlyprune_jax.training.execution import FORK_AXIS, runner
from earlyprune_jax.training.optim import Optimizer
from earlyprune_jax.training.state import NEVER, BrokenMask, Stream, TrainState, stream_key

Means = dict[str, float | None]
"""Metric -> value; None where the split is absent."""

NOT_SHARED = ("optim.learning_rate", "train.num_epochs")
"""Keys of a trunk that are no part of its compiled steps; no key of section schedule is either."""


@dataclasses.dataclass(frozen=True)
class EpochOutcome:
    """What one run's epoch of training came to.

    Attributes:
        means: the metrics over the epoch's own batches, augmented and in training mode.
        nonfinite_step: the first step with a non-finite loss, or the last if it left non-finite
            weights or statistics; `state.NEVER` if neither.
        nonfinite: what was not finite: "loss", "weights", or "" if neither.
    """

    means: Means
    nonfinite_step: int
    nonfinite: str


class Engine:
    """Everything runs share: built once, compiled at first use.

    Args:
        spec: of a setting; engines of settings that differ in schedules and forks only are one.
        task: of `tasks.build`: what is learnt.
        form: how step sequences are executed, `loop` or `scan`; None = as the backend wants it.
        mesh: the devices, of one process or many, that share every batch of a run (see
            `multihost.indivisible`); None = the first device.

    Attributes:
        num_train: training examples in use.
        steps_per_epoch: training steps an epoch.
        optimizer: takes each step's learning rate.
        splits: name -> the task's arrays on the device; "validation" may be absent.
        probe: numbers of the training examples that signals look at.
        fork_mesh: the devices of this process, over which the runs of a stack are spread.
        runners: (name of a step, kind of batches) -> compiled steps: train_step and eval_step of
            one run, train_steps and eval_steps of a stack, and predict, which is a single step.
        make_state: key -> the state of a trunk at step 0.
    """

    def __init__(
        self, spec: RunSpec, task: Task, *, form: str | None = None, mesh: Mesh | None = None
    ):
        self.spec, self.task, self.mesh = spec, task, mesh
        self.form = form or execution.execution_form(jax.default_backend())
        self.num_train = task.batching.num_examples["train"]
        self.steps_per_epoch = task.batching.steps_per_epoch
        self.fork_mesh = Mesh(np.asarray(jax.local_devices()), (FORK_AXIS,))
        self.optimizer = optim.make(spec.optim, task.optimizer, task.known_layouts)
        self.splits = execution.replicated(dict(task.splits), mesh)
        num_examples, seed = spec.signals.num_examples, spec.data.split_seed
        self.probe = probe_indices(self.num_train, num_examples, seed)
        self.make_state = state_maker(task, self.optimizer)
        self.runners: dict[tuple[str, str], Callable[[Any, Any, Any], Any]] = {}
        for kind in task.batching.kinds:
            suffix = f"_{kind}" if kind else ""
            for name, step, axes in (
                ("train_step", state.train_step(task, self.optimizer, kind), (0, 0, None)),
                ("eval_step", state.eval_step(task, kind), (0, None, (0, 0, None))),
            ):
                single = runner(step, form=self.form, name=f"{name}{suffix}", mesh=mesh)
                stacked = runner(
                    step, form=self.form, name=f"{name}s{suffix}", mesh=self.fork_mesh, axes=axes
                )
                self.runners |= {(name, kind): single, (f"{name}s", kind): stacked}
            predict = execution.data_parallel(state.predict_step(task, kind), mesh)
            self.runners["predict", kind] = jax.jit(predict)

    def new_state(self, seed: int) -> TrainState:
        """Makes the trunk's state at step 0: a function of the seed."""
        return self.place(self.make_state(jax.random.PRNGKey(seed)))

    def place(self, tree: Any) -> Any:
        """Commits arrays to the engine's devices: every state meets the same compiled step."""
        return execution.replicated(tree, self.mesh)

    def state_shapes(self) -> TrainState:
        """Returns shapes and types of any run's state; nothing is computed."""
        return jax.eval_shape(self.make_state, jax.ShapeDtypeStruct((2,), jnp.uint32))

    def restored(self, store: CheckpointStore, epoch: int) -> TrainState:
        """Reads a run's checkpoint.

        Raises:
            CheckpointError: as of `store.restore`, or its mask does not hold.
        """
        restored = store.restore(epoch, self.state_shapes())
        try:
            state.require_mask(restored)
        except BrokenMask as error:
            raise CheckpointError(f"Checkpoint {store.directory}/{epoch}: {error}") from error
        return self.place(restored)

    def save(self, store: CheckpointStore, epoch: int, current: TrainState) -> float:
        """Writes a run's checkpoint, and returns the seconds it took.

        Raises:
            BrokenMask: the state's mask does not hold; nothing is written.
        """
        held = jax.device_get(current)
        state.require_mask(held)
        return store.save(epoch, held)

    def prunable(self, layers: str) -> Any:
        """Returns the structure of the params with Python bools: `layers` as of `pruning.layers`,
        "" = the task's."""
        task = self.task
        return pruning.select(task.shapes()["params"], layers or task.layers, task.known_layouts)

    def stack(self, states: Sequence[TrainState], width: int) -> TrainState:
        """Lays runs side by side.

        Args:
            states: of one shape.
            width: of the stack, filled up where there are fewer: every width compiles once. At
                width 1 there is no stack, and the one state is returned as it is.
        """
        if width == 1:
            return states[0]
        # Every device trains equally many; what only fills up is not looked at.
        width = max(width, len(states))
        missing = width - len(states) + -width % self.fork_mesh.size
        filled = [*states, *[states[0]] * missing]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *filled)
        _, put, _ = self._layout(stacked)
        return put(stacked)

    def state_of(self, current: TrainState, index: int) -> TrainState:
        """Returns one run's state out of a stack; that of a run alone is itself, not a copy."""
        if not current.step.ndim:
            return current
        return self.place(jax.tree.map(lambda leaf: leaf[index], current))

    def train_epoch(
        self, current: TrainState, rates: np.ndarray
    ) -> tuple[TrainState, list[EpochOutcome]]:
        """Trains one epoch; `current` is donated.

        Args:
            current: the state at an epoch's start, or a stack of them.
            rates: [steps_per_epoch] learning rates, or [runs, steps_per_epoch], of the runs of a
                stack that do not only fill it up; fewer train the epoch's first steps only.

        Returns:
            The state after the epoch, and the outcome of each run.
        """
        rates = np.atleast_2d(rates)
        suffix, put, splits = self._layout(current)
        sums = state.zero_train_sums(self.task.sum_names, current.step.shape)
        carry, done, missing = put((current, sums)), 0, current.step.size - len(rates)
        for batches in self._batches_of_epoch(current, rates.shape[1]):
            part = rates[:, done : done + len(batches.indices)]
            done += part.shape[1]
            # Of a stack, steps are the first axis and runs the second; the first run fills it up.
            part = np.stack([*part, *[part[0]] * missing], axis=1) if suffix else part[0]
            inputs = ((batches.indices, batches.weights), part)
            run = self.runners[f"train_step{suffix}", batches.kind]
            carry = run(carry, inputs, splits["train"])
        new_state, sums = carry
        outcomes = []
        numbers = (sums, new_state.step, state.all_finite(new_state))
        for added, step, is_finite in _of_each_run(numbers, len(rates)):
            first = int(added.pop("first_nonfinite_step"))
            what = "loss" if first != NEVER else "" if is_finite else "weights"
            first = int(step) - 1 if what == "weights" else first
            outcomes.append(EpochOutcome(dict(self.task.measured(added)), first, what))
        return new_state, outcomes

    def epoch_batches(self, key: PRNGKey, step: int, num_steps: int) -> Iterator[Batches]:
        """Yields the first batches of an epoch.

        Args:
            key: of the run.
            step: at which the epoch begins, a multiple of `steps_per_epoch`.
            num_steps: how many batches.

        Returns:
            Batches of one kind after another, as many in all.
        """
        epoch = step // self.steps_per_epoch
        for batches in self.task.batching.epoch(stream_key(key, Stream.ORDER), epoch):
            if num_steps > 0:
                weights = None if batches.weights is None else batches.weights[:num_steps]
                yield Batches(batches.kind, batches.indices[:num_steps], weights)
                num_steps -= len(batches.indices)

    def _batches_of_epoch(self, current: TrainState, num_steps: int) -> Iterator[Batches]:
        """Yields the first batches of an epoch; of a stack, each run's along a second axis."""
        if not current.step.ndim:
            yield from self.epoch_batches(current.key, int(current.step), num_steps)
            return
        keys, begins = jax.device_get((current.key, current.step))
        orders = [
            self.epoch_batches(key, int(step), num_steps)
            for key, step in zip(keys, begins, strict=True)
        ]
        # A stack has batches of one kind only: where there are several, runs train one by one.
        for every in zip(*orders, strict=True):
            rows = [(batches.indices, batches.weights) for batches in every]
            stacked = jax.tree.map(lambda *of_runs: np.stack(of_runs, axis=1), *rows)
            yield Batches(every[0].kind, *stacked)

    def evaluate(self, current: TrainState, split: str) -> list[Means]:
        """Measures the metrics over a whole split, in evaluation mode.

        Args:
            current: a state, or a stack of them.
            split: its name.

        Returns:
            Metric -> value for each run, those that only fill up included; None where the split is
            absent.
        """
        num_runs = current.step.size
        if split not in self.splits:
            return [{metric.name: None for metric in self.task.metrics} for _ in range(num_runs)]
        suffix, put, splits = self._layout(current)
        constants = (current.params, current.model_state, splits[split])
        sums = put(state.zero_sums(self.task.sum_names, current.step.shape))
        for batches in self.batches(split, self.spec.train.eval_batch_size):
            inputs = (batches.indices, batches.weights)
            sums = self.runners[f"eval_step{suffix}", batches.kind](sums, inputs, constants)
        return [dict(self.task.measured(added)) for added in _of_each_run(sums, num_runs)]

    def _layout(self, current: TrainState) -> tuple[str, Callable[[Any], Any], Mapping[str, Any]]:
        """Returns what differs for a stack: the end of its steps' names, placement, the data."""
        suffix = "s" if current.step.ndim else ""
        if not suffix or self.fork_mesh.size == 1:
            return suffix, self.place, self.splits
        by_runs = NamedSharding(self.fork_mesh, PartitionSpec(FORK_AXIS))
        return suffix, lambda tree: jax.device_put(tree, by_runs), self._splits_of_stacks

    @functools.cached_property
    def _splits_of_stacks(self) -> Mapping[str, Any]:
        return jax.device_put(self.splits, NamedSharding(self.fork_mesh, PartitionSpec()))

    def batches(
        self, split: str, batch_size: int, examples: np.ndarray | None = None
    ) -> list[Batches]:
        """Cuts some examples of a split into batches, each once.

        Args:
            split: its name.
            batch_size: of the batches; raised to a multiple of the devices.
            examples: their numbers, ascending; None = all.

        Returns:
            The batches, in ascending order within a kind.
        """
        batching, multiple = self.task.batching, self.mesh.size if self.mesh else 1
        if examples is None:
            examples = np.arange(batching.num_examples[split])
        return list(batching.subset(split, examples, batch_size, multiple))

    def measure_on_host(
        self, current: TrainState, epoch: int, last_epoch: int
    ) -> dict[str, float | None]:
        """Measures the host's metrics of one run's state.

        Args:
            current: the state after `epoch`.
            epoch: counted from the trunk's start.
            last_epoch: of the run.

        Returns:
            Column -> value; None where it is not due, or the split is absent.
        """
        columns: dict[str, float | None] = {}
        variables = {"params": current.params, **current.model_state}
        for host in self.task.host:
            for split in ("validation", "test"):
                is_due = split in self.splits and host.due(epoch, last_epoch)
                values = host.of(variables, split) if is_due else {}
                columns |= {m.column(split): values.get(m.name) for m in host.metrics}
        return columns

    def log_probs(self, networks: list[TrainState], split: str) -> Iterator[list[np.ndarray]]:
        """Yields log-probabilities of a whole split, batch by batch: [predictions, C] of each
        network, natural log, float32.

        Args:
            networks: states of finished runs.
            split: its name.
        """
        for batches in self.batches(split, self.spec.train.eval_batch_size):
            predict = self.runners["predict", batches.kind]
            for indices, weights in zip(batches.indices, batches.weights, strict=True):
                inputs, data = (indices, weights), self.splits[split]
                rows = jax.device_get([predict(network, inputs, data) for network in networks])
                yield [log_probs[counted > 0] for log_probs, counted in rows]


def _of_each_run(tree: Any, num_runs: int) -> list[Any]:
    """Fetches the numbers of a run alone, or of a stack's first ones, and divides them by run."""
    numbers = jax.tree.map(np.atleast_1d, jax.device_get(tree))
    return [jax.tree.map(lambda leaf, i=i: leaf[i], numbers) for i in range(num_runs)]


@functools.lru_cache(maxsize=4096)
def engine_id(spec: RunSpec) -> str:
    """Returns eight hex digits of what decides an engine: settings that differ in nothing of it
    share one.

    Args:
        spec: of one setting.
    """
    shared = {
        name: value
        for name, value in deciding(spec.to_dict(), "data", "trunk").items()
        if name not in NOT_SHARED and not name.startswith(("schedule.", "fork."))
    }
    return content_hash([shared, spec.code])[:8]


def state_maker(task: Task, optimizer: Optimizer) -> Callable[[PRNGKey], TrainState]:
    """Returns a compiled function key -> the state of a trunk at step 0."""

    def make(key):
        return state.create(task.init(stream_key(key, Stream.INIT)), optimizer, key)

    return jax.jit(make, compiler_options=execution.once_options(jax.default_backend()))


def probe_indices(num_train: int, num_examples: int, seed: int) -> np.ndarray:
    """Chooses the training examples that signals or criteria look at: a fixed random subset, or
    all if 0.

    Args:
        num_train: training examples in use.
        num_examples: how many are looked at; 0 = all.
        seed: `data.split_seed`.

    Returns:
        Their numbers, ascending.
    """
    count = num_examples or num_train
    # A bit generator's raw stream is the same in every NumPy; a Generator's methods need not be.
    return np.sort(np.argsort(np.random.PCG64(seed).random_raw(num_train), kind="stable")[:count])
