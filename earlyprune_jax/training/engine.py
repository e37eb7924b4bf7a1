"""The engine: a task's compiled steps with the data on the device, shared by all runs."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from earlyprune_jax import pruning
from earlyprune_jax.array_types import Array, PRNGKey
from earlyprune_jax.spec import RunSpec, content_hash, deciding
from earlyprune_jax.tasks import Batches, Task
from earlyprune_jax.training import mesh as meshes
from earlyprune_jax.training import optim, state, steps
from earlyprune_jax.training.execution import (
    ForkMesh,
    Runner,
    batched_runner,
    execution_form,
    once_options,
    runner,
)
from earlyprune_jax.training.multihost import on_primary
from earlyprune_jax.training.optim import Optimizer
from earlyprune_jax.training.state import Stream, TrainState, stream_key
from earlyprune_jax.validate import InvalidInput

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
            weights or statistics; `steps.NEVER` if neither.
    """

    means: Means
    nonfinite_step: int


@dataclasses.dataclass(frozen=True)
class Engine:
    """Everything runs share: built once, compiled at first use.

    Attributes:
        spec: of a setting; engines of settings that differ in schedules and forks only are one.
        task: what is learnt.
        optimizer: takes each step's learning rate.
        splits: name -> the task's arrays on the device; "validation" may be absent.
        probe: numbers of the training examples that signals look at.
        form: how step sequences are executed, `loop` or `scan`.
        mesh: the devices that share every batch of a run; None = one device.
        fork_mesh: the devices over which runs that train as one batch are spread.
        run_train, run_eval, run_train_many, run_eval_many, predict: kind of batches -> compiled
            steps.
    """

    spec: RunSpec
    task: Task
    optimizer: Optimizer
    splits: Mapping[str, Any]
    probe: np.ndarray
    form: str
    mesh: Mesh | None
    fork_mesh: ForkMesh
    run_train: Mapping[str, Runner]
    run_eval: Mapping[str, Runner]
    run_train_many: Mapping[str, Runner]
    run_eval_many: Mapping[str, Runner]
    predict: Mapping[str, Callable[[TrainState, Any, Any], Array]]
    make_state: Callable[[PRNGKey], TrainState]

    @property
    def num_train(self) -> int:
        """Training examples in use."""
        return self.task.batching.num_examples["train"]

    @property
    def steps_per_epoch(self) -> int:
        """Training steps an epoch."""
        return self.task.batching.steps_per_epoch

    def new_state(self, seed: int) -> TrainState:
        """The trunk's state at step 0: a function of the seed."""
        key = jax.random.PRNGKey(seed)
        return self.place(on_primary(lambda: self.make_state(key)))

    def place(self, tree: Any) -> Any:
        """Commits arrays to the engine's devices: a state from anywhere meets the same compiled
        step."""
        return meshes.replicated(tree, self.mesh)

    def state_shapes(self) -> TrainState:
        """Shapes and types of any run's state; nothing is computed."""
        return jax.eval_shape(self.make_state, jax.ShapeDtypeStruct((2,), jnp.uint32))

    def prunable(self, layers: str) -> Any:
        """The structure of the params with Python bools: `layers` as of `pruning.layers`, "" = the
        task's."""
        return _selected(self, layers)

    def train_epoch(
        self, current: TrainState, rates: np.ndarray
    ) -> tuple[TrainState, EpochOutcome]:
        """Trains one epoch; `current` is donated.

        Args:
            current: the state at an epoch's start.
            rates: [steps_per_epoch] learning rates; fewer train the epoch's first steps only.
        """
        done = 0
        carry = self.place((current, steps.zero_train_sums(self.task.sum_names)))
        for batches in self.epoch_batches(current.key, int(current.step), len(rates)):
            own = rates[done : done + len(batches.indices)]
            inputs = ((batches.indices, batches.weights), own)
            carry = self.run_train[batches.kind](carry, inputs, self.splits["train"])
            done += len(own)
        new_state, sums = carry
        return new_state, self.outcome(jax.device_get(sums), new_state.step, all_finite(new_state))

    def epoch_batches(self, key: PRNGKey, step: int, num_steps: int) -> Iterator[Batches]:
        """The first batches of an epoch, for a run's key and the step at which the epoch begins.

        Args:
            key: of the run.
            step: a multiple of `steps_per_epoch`.
            num_steps: how many batches.
        """
        epoch = step // self.steps_per_epoch
        for batches in self.task.batching.epoch(stream_key(key, Stream.ORDER), epoch):
            if num_steps > 0:
                weights = None if batches.weights is None else batches.weights[:num_steps]
                yield Batches(batches.kind, batches.indices[:num_steps], weights)
                num_steps -= len(batches.indices)

    def evaluate(self, current: TrainState, split: str) -> Means:
        """The metrics over a whole split, in evaluation mode; None each where it is absent."""
        if split not in self.splits:
            return dict.fromkeys(metric.name for metric in self.task.metrics)
        constants = (current.params, current.model_state, self.splits[split])
        sums = self.place(steps.zero_sums(self.task.sum_names))
        for batches in self.batches(split, self.spec.train.eval_batch_size):
            sums = self.run_eval[batches.kind](sums, (batches.indices, batches.weights), constants)
        return dict(self.task.measured(jax.device_get(sums)))

    def batches(
        self, split: str, batch_size: int, examples: np.ndarray | None = None
    ) -> list[Batches]:
        """Some examples of a split in batches, each once.

        Args:
            split: its name.
            batch_size: of the batches; raised to a multiple of the devices.
            examples: their numbers, ascending; None = all.
        """
        batching, multiple = self.task.batching, self.mesh.size if self.mesh else 1
        chosen = np.arange(batching.num_examples[split]) if examples is None else examples
        return list(batching.subset(split, chosen, batch_size, multiple))

    def measure_on_host(
        self, current: TrainState, epoch: int, last_epoch: int
    ) -> dict[str, float | None]:
        """The host's metrics of a state by column; None where they are not due, or the split is
        absent.

        Args:
            current: the state after `epoch`.
            epoch: counted from the trunk's start.
            last_epoch: of the run.
        """
        found: dict[str, float | None] = {}
        for one in self.task.host:
            for split in ("validation", "test"):
                is_due = split in self.splits and one.due(epoch, last_epoch)
                variables = {"params": current.params, **current.model_state}
                values = one.of(variables, split) if is_due else {}
                for metric in one.metrics:
                    found[metric.column(split)] = values[metric.name] if is_due else None
        return found

    def log_probs(self, networks: list[TrainState], split: str) -> Iterator[list[np.ndarray]]:
        """Log-probabilities of a whole split, batch by batch: [B, C] of each network, natural log,
        float32.

        Args:
            networks: states of finished runs.
            split: its name.
        """
        for batches in self.batches(split, self.spec.train.eval_batch_size):
            predict = self.predict[batches.kind]
            for indices, weights in zip(batches.indices, batches.weights, strict=True):
                made = [predict(one, (indices, weights), self.splits[split]) for one in networks]
                yield [np.asarray(jax.device_get(one))[np.asarray(weights) > 0] for one in made]

    def outcome(self, sums: Any, step: Any, is_finite: Any) -> EpochOutcome:
        """Reads the sums of one epoch.

        Args:
            sums: of one run, as numbers.
            step: of its state after the epoch.
            is_finite: whether that state is.
        """
        nonfinite_step = int(sums["first_nonfinite_step"])
        if nonfinite_step == steps.NEVER and not is_finite:
            nonfinite_step = int(step) - 1
        measured = self.task.measured({name: sums[name] for name in self.task.sum_names})
        return EpochOutcome(dict(measured), nonfinite_step)


@functools.lru_cache(maxsize=64)
def _chosen(shapes: Any, layers: str) -> Any:
    return pruning.select(jax.tree.unflatten(shapes[0], list(shapes[1])), layers)


def _selected(engine: Engine, layers: str) -> Any:
    leaves, structure = jax.tree.flatten(engine.task.shapes()["params"])
    return _chosen((structure, tuple(leaves)), layers or engine.task.layers)


@functools.lru_cache(maxsize=4096)
def engine_id(spec: RunSpec) -> str:
    """Eight hex digits of what decides an engine: settings that differ in nothing of it share one.

    Args:
        spec: of one setting.
    """
    deciding_keys = deciding(spec.to_dict(), "data", "trunk")
    own = {name: value for name, value in deciding_keys.items() if name not in NOT_SHARED}
    own = {
        name: value for name, value in own.items() if not name.startswith(("schedule.", "fork."))
    }
    return content_hash([own, spec.code])[:8]


def build(
    spec: RunSpec,
    task: Task,
    *,
    form: str | None = None,
    mesh: Mesh | None = None,
    fork_mesh: ForkMesh | None = None,
) -> Engine:
    """Puts the data on the device and prepares every step.

    Args:
        spec: the experiment, of one setting.
        task: of `tasks.build`.
        form: `loop` or `scan`; None = what the backend wants.
        mesh: devices, of one process or many, that share every batch; None = the first device.
        fork_mesh: devices for runs that train as one batch; None = all of this process.

    Raises:
        InvalidInput: the mesh cannot share the batches equally.
    """
    if mesh is not None and (problems := indivisible(spec, mesh.size)):
        raise InvalidInput(problems)
    form = form or execution_form(jax.default_backend())
    fork_mesh = fork_mesh or ForkMesh(tuple(jax.local_devices()))
    optimizer = optim.make(spec.optim, task.optimizer)
    kinds = task.batching.kinds
    train = {kind: steps.train_step(task, optimizer, kind) for kind in kinds}
    evaluate = {kind: steps.eval_step(task, kind) for kind in kinds}
    shared = functools.partial(meshes.data_parallel, mesh=mesh)

    def many(step: Any, axes: Any, name: str) -> Runner:
        return batched_runner(step, axes=axes, form=form, name=name, mesh=fork_mesh)

    return Engine(
        spec=spec,
        task=task,
        optimizer=optimizer,
        splits=meshes.replicated(dict(task.splits), mesh),
        probe=probe_indices(
            task.batching.num_examples["train"], spec.signals.num_examples, spec.data.split_seed
        ),
        form=form,
        mesh=mesh,
        fork_mesh=fork_mesh,
        run_train={
            kind: runner(shared(step), form=form, name=_named("train_step", kind))
            for kind, step in train.items()
        },
        run_eval={
            kind: runner(shared(step), form=form, name=_named("eval_step", kind))
            for kind, step in evaluate.items()
        },
        run_train_many={
            kind: many(step, (0, 0, None), _named("train_steps", kind))
            for kind, step in train.items()
        },
        run_eval_many={
            kind: many(step, (0, None, (0, 0, None)), _named("eval_steps", kind))
            for kind, step in evaluate.items()
        },
        predict={kind: jax.jit(shared(steps.predict_step(task, kind))) for kind in kinds},
        make_state=state_maker(task, optimizer),
    )


def _named(step: str, kind: str) -> str:
    return f"{step}_{kind}" if kind else step


def state_maker(task: Task, optimizer: Optimizer) -> Callable[[PRNGKey], TrainState]:
    """A compiled function key -> the state of a trunk at step 0."""

    def make(key):
        return state.create(task.init(stream_key(key, Stream.INIT)), optimizer, key)

    return jax.jit(make, compiler_options=once_options(jax.default_backend()))


def indivisible(spec: RunSpec, num_devices: int) -> list[str]:
    """A problem for every batch size of an experiment that so many devices cannot share equally."""
    # Evaluation rounds its batches up; the others' sizes decide what is drawn and learnt.
    sizes = {"train.batch_size": spec.train.batch_size}
    if spec.signals.names:
        sizes["signals.batch_size"] = spec.signals.batch_size
    return meshes.indivisible(sizes, num_devices)


def probe_indices(num_train: int, num_examples: int, seed: int) -> np.ndarray:
    """Numbers of the training examples that signals or criteria look at: a fixed random subset, or
    all if 0.

    Args:
        num_train: training examples in use.
        num_examples: how many are looked at; 0 = all.
        seed: `data.split_seed`.
    """
    count = num_examples or num_train
    # A bit generator's raw stream is the same in every NumPy; a Generator's methods need not be.
    return np.sort(np.argsort(np.random.PCG64(seed).random_raw(num_train), kind="stable")[:count])


@jax.jit
def all_finite(current: TrainState) -> Array:
    """Whether every weight and statistic of a state is a finite number."""
    leaves = jax.tree.leaves((current.params, current.model_state))
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
