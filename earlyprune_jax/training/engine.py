"""The engine: a task's compiled steps with the data on the device, shared by all runs."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from earlyprune_jax import data
from earlyprune_jax.array_types import Array, PRNGKey
from earlyprune_jax.data import Dataset
from earlyprune_jax.pruning import select
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.training import mesh as meshes
from earlyprune_jax.training import optim, state, steps, tasks
from earlyprune_jax.training.execution import (
    ForkMesh,
    Runner,
    batched_runner,
    execution_form,
    once_options,
    runner,
)
from earlyprune_jax.training.hosts import from_primary
from earlyprune_jax.training.state import Stream, TrainState, stream_key
from earlyprune_jax.validate import InvalidInput

Means = dict[str, float | None]
"""`loss` in nats and `accuracy` as a fraction; None where the split is absent."""

ABSENT: Means = {"loss": None, "accuracy": None}


@dataclasses.dataclass(frozen=True)
class EpochOutcome:
    """What one run's epoch of training came to.

    Attributes:
        means: of loss and accuracy over the epoch's augmented batches, in training mode.
        nonfinite_step: the first step with a non-finite loss, or the last if it left non-finite weights or
            statistics; `steps.NEVER` if neither.
    """

    means: Means
    nonfinite_step: int


@dataclasses.dataclass(frozen=True)
class Engine:
    """Everything runs share: built once, compiled at first use.

    Attributes:
        task: what is learnt.
        optimizer: SGD without its learning rate.
        splits: name -> {"images", "labels"} on the device; "validation" may be absent.
        prunable: params structure with Python bools.
        probe: indices of the training images that signals and data-driven scores look at.
        form: how step sequences are executed, `loop` or `scan`.
        mesh: the devices that share every batch of a run's images; None = one device.
        fork_mesh: the devices over which runs that train as one batch are spread.
    """

    spec: RunSpec
    task: tasks.Task
    optimizer: optax.GradientTransformation
    splits: dict[str, Any]
    prunable: Any
    probe: np.ndarray
    form: str
    mesh: Mesh | None
    fork_mesh: ForkMesh
    run_train: Runner
    run_eval: Runner
    run_train_many: Runner
    run_eval_many: Runner
    predict: Callable[[TrainState, Array, Any], Array]
    make_order: Callable[[PRNGKey, int], Array]
    make_state: Callable[[PRNGKey], TrainState]

    @property
    def num_train(self) -> int:
        """Training images in use."""
        return len(self.splits["train"]["labels"])

    @property
    def steps_per_epoch(self) -> int:
        """Training steps an epoch."""
        return data.steps_per_epoch(self.num_train, self.spec.train.batch_size)

    def new_state(self, seed: int) -> TrainState:
        """The trunk's state at step 0: a function of the seed."""
        return self.place(from_primary(self.make_state(jax.random.PRNGKey(seed))))

    def place(self, tree: Any) -> Any:
        """Commits arrays to the engine's devices: a state from anywhere meets the same compiled step."""
        return meshes.replicated(tree, self.mesh)

    def state_shapes(self) -> TrainState:
        """Shapes and types of any run's state; nothing is computed."""
        return jax.eval_shape(self.make_state, jax.ShapeDtypeStruct((2,), jnp.uint32))

    def train_epoch(self, current: TrainState, rates: np.ndarray) -> tuple[TrainState, EpochOutcome]:
        """Trains one epoch; `current` is donated.

        Args:
            current: the state at an epoch's start.
            rates: [steps_per_epoch] learning rates; fewer train the epoch's first steps only.
        """
        order = self.order(current.key, int(current.step), len(rates))
        carry = self.place((current, steps.zero_train_sums()))
        new_state, sums = self.run_train(carry, (order, rates), self.splits["train"])
        return new_state, epoch_outcome(jax.device_get(sums), new_state.step, all_finite(new_state))

    def order(self, key: PRNGKey, step: int, num_steps: int) -> Array:
        """The images of an epoch's first batches, [num_steps, batch_size], for a run's key and step."""
        epoch = step // self.steps_per_epoch
        return self.make_order(stream_key(key, Stream.ORDER), epoch)[:num_steps]

    def evaluate(self, current: TrainState, split: str) -> Means:
        """Mean loss (nats) and accuracy over a whole split, evaluation mode; None if it is absent."""
        if split not in self.splits:
            return ABSENT
        constants = (current.params, current.batch_stats, self.splits[split])
        sums = self.run_eval(self.place(steps.zero_sums()), self.batches(split), constants)
        return means(jax.device_get(sums))

    def batches(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Indices and weights of a whole split's evaluation batches, [n, B] each."""
        indices = np.arange(len(self.splits[split]["labels"]))
        multiple = self.mesh.size if self.mesh else 1
        return padded_batches(indices, self.spec.train.eval_batch_size, multiple_of=multiple)

    def log_probs(self, current: TrainState, split: str) -> np.ndarray:
        """The network's log-probabilities of a whole split, [N, C], natural log; evaluation mode, float32."""
        indices, weights = self.batches(split)
        made = [jax.device_get(self.predict(current, batch, self.splits[split])) for batch in indices]
        return np.concatenate(made)[weights.ravel() > 0]


def build(
    spec: RunSpec,
    dataset: Dataset,
    *,
    form: str | None = None,
    mesh: Mesh | None = None,
    fork_mesh: ForkMesh | None = None,
) -> Engine:
    """Puts the data on the device and prepares every step.

    Args:
        spec: the experiment, of one setting.
        dataset: images in memory.
        form: `loop` or `scan`; None = what the backend wants.
        mesh: devices, of one process or many, that share every batch of images; None = the first device.
        fork_mesh: devices for runs that train as one batch; None = all of this process.

    Raises:
        InvalidInput: the mesh cannot share the batches equally.
    """
    if mesh is not None and (problems := indivisible(spec, mesh.size)):
        raise InvalidInput(problems)
    form = form or execution_form(jax.default_backend())
    fork_mesh = fork_mesh or ForkMesh(tuple(jax.local_devices()))
    image_shape = dataset.train.images.shape[1:]
    task = tasks.classification(
        spec.data, spec.model, precision=spec.train.precision, image_shape=image_shape
    )
    params = task.shapes()["params"]
    optimizer = optim.sgd(spec.optim)
    train_step, eval_step = steps.train_step(task, optimizer), steps.eval_step(task)
    shared = functools.partial(meshes.data_parallel, mesh=mesh)
    batched = functools.partial(batched_runner, form=form, mesh=fork_mesh)
    num_train, batch_size = len(dataset.train.labels), spec.train.batch_size
    return Engine(
        spec=spec,
        task=task,
        optimizer=optimizer,
        splits=meshes.replicated(_arrays(dataset), mesh),
        prunable=select(params, spec.pruning.layers),
        probe=probe_indices(num_train, spec.signals.num_examples, spec.data.split_seed),
        form=form,
        mesh=mesh,
        fork_mesh=fork_mesh,
        run_train=runner(shared(train_step), form=form, name="train_step"),
        run_eval=runner(shared(eval_step), form=form, name="eval_step"),
        run_train_many=batched(train_step, axes=(0, 0, None), name="train_steps"),
        run_eval_many=batched(eval_step, axes=(0, None, (0, 0, None)), name="eval_steps"),
        predict=jax.jit(shared(steps.predict_step(task))),
        make_state=state_maker(task, optimizer),
        make_order=jax.jit(lambda key, epoch: data.epoch_order(key, epoch, num_train, batch_size)),
    )


def state_maker(task: tasks.Task, optimizer: optax.GradientTransformation) -> Callable[[PRNGKey], TrainState]:
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
    """The training images the signals are measured on: a fixed random subset, or all if 0."""
    count = num_examples or num_train
    # A bit generator's raw stream is the same in every NumPy; a Generator's methods need not be.
    return np.sort(np.argsort(np.random.PCG64(seed).random_raw(num_train), kind="stable")[:count])


def padded_batches(
    indices: np.ndarray, batch_size: int, *, multiple_of: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts indices into equal batches; the last is filled with index 0 at weight 0.

    Returns:
        indices [n, B] int32 and weights [n, B] float32, B = min(batch_size, len(indices)), raised
        to a multiple of `multiple_of`.

    Example:
        >>> indices, weights = padded_batches(np.arange(3), 2)
        >>> indices.tolist(), weights.tolist()
        ([[0, 1], [2, 0]], [[1.0, 1.0], [1.0, 0.0]])
    """
    batch_size = -(-min(batch_size, len(indices)) // multiple_of) * multiple_of
    num_batches = -(-len(indices) // batch_size)
    filled = np.zeros(num_batches * batch_size, np.int32)
    filled[: len(indices)] = indices
    weights = (np.arange(filled.size) < len(indices)).astype(np.float32)
    return filled.reshape(num_batches, batch_size), weights.reshape(num_batches, batch_size)


def _arrays(dataset: Dataset) -> dict[str, Any]:
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    present = {name: split for name, split in splits.items() if split is not None}
    return {name: {"images": split.images, "labels": split.labels} for name, split in present.items()}


@jax.jit
def all_finite(current: TrainState) -> Array:
    """Whether every weight and statistic of a state is a finite number."""
    leaves = jax.tree.leaves((current.params, current.batch_stats))
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def epoch_outcome(sums: Any, step: Any, is_finite: Any) -> EpochOutcome:
    """Reads the sums of one epoch: `step` is the state's after it, `is_finite` whether that is finite."""
    nonfinite_step = int(sums["first_nonfinite_step"])
    if nonfinite_step == steps.NEVER and not is_finite:
        nonfinite_step = int(step) - 1
    return EpochOutcome(means(sums), nonfinite_step)


def means(sums: Any) -> Means:
    """Sums over examples, divided by their count."""
    return {
        name: float(sums[source]) / float(sums["count"])
        for name, source in (("loss", "loss"), ("accuracy", "correct"))
    }
