"""The engine: a task's compiled steps with the data on the device, shared by all runs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from earlyprune_jax import data
from earlyprune_jax.array_types import Array, PRNGKey
from earlyprune_jax.data import Dataset
from earlyprune_jax.pruning import select
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.training import optim, state, steps, tasks
from earlyprune_jax.training.execution import Runner, execution_form, once_options, runner
from earlyprune_jax.training.state import Stream, TrainState, stream_key

Means = dict[str, float | None]
"""`loss` in nats and `accuracy` as a fraction; None where the split is absent."""


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
    """

    spec: RunSpec
    task: tasks.Task
    optimizer: optax.GradientTransformation
    splits: dict[str, Any]
    prunable: Any
    probe: np.ndarray
    form: str
    run_train: Runner
    run_eval: Runner
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
        return on_device(self.make_state(jax.random.PRNGKey(seed)))

    def state_shapes(self) -> TrainState:
        """Shapes and types of any run's state; nothing is computed."""
        return jax.eval_shape(self.make_state, jax.ShapeDtypeStruct((2,), jnp.uint32))

    def train_epoch(self, current: TrainState, rates: np.ndarray) -> tuple[TrainState, Means, int]:
        """Trains one epoch; `current` is donated.

        Args:
            current: the state at an epoch's start.
            rates: [steps_per_epoch] learning rates; fewer train the epoch's first steps only.

        Returns:
            The new state; the means of loss and accuracy over the epoch's augmented batches,
            in training mode; and the first step with a non-finite loss, or the last if it left
            non-finite weights or statistics, `steps.NEVER` if neither.
        """
        epoch = int(current.step) // self.steps_per_epoch
        order = self.make_order(stream_key(current.key, Stream.ORDER), epoch)[: len(rates)]
        carry = on_device((current, steps.zero_train_sums()))
        new_state, sums = self.run_train(carry, (order, rates), self.splits["train"])
        nonfinite_step = int(sums["first_nonfinite_step"])
        if nonfinite_step == steps.NEVER and not _all_finite((new_state.params, new_state.batch_stats)):
            nonfinite_step = int(new_state.step) - 1
        return new_state, _means(sums), nonfinite_step

    def evaluate(self, current: TrainState, split: str) -> Means:
        """Mean loss (nats) and accuracy over a whole split, evaluation mode; None if it is absent."""
        if split not in self.splits:
            return {"loss": None, "accuracy": None}
        arrays = self.splits[split]
        batches = padded_batches(np.arange(len(arrays["labels"])), self.spec.train.eval_batch_size)
        constants = (current.params, current.batch_stats, arrays)
        return _means(self.run_eval(on_device(steps.zero_sums()), batches, constants))


def build(spec: RunSpec, dataset: Dataset, *, form: str | None = None) -> Engine:
    """Puts the data on the device and prepares every step.

    Args:
        spec: the experiment.
        dataset: images in memory.
        form: `loop` or `scan`; None = what the backend wants.
    """
    form = form or execution_form(jax.default_backend())
    image_shape = dataset.train.images.shape[1:]
    task = tasks.classification(
        spec.data, spec.model, precision=spec.train.precision, image_shape=image_shape
    )
    params = task.shapes()["params"]
    optimizer = optim.sgd(spec.optim)
    num_train, batch_size = len(dataset.train.labels), spec.train.batch_size
    return Engine(
        spec=spec,
        task=task,
        optimizer=optimizer,
        splits=_splits_on_device(dataset),
        prunable=select(params, spec.pruning.layers),
        probe=probe_indices(num_train, spec.signals.num_examples, spec.data.split_seed),
        form=form,
        run_train=runner(steps.train_step(task, optimizer), form=form, name="train_step"),
        run_eval=runner(steps.eval_step(task), form=form, name="eval_step"),
        make_state=state_maker(task, optimizer),
        make_order=jax.jit(lambda key, epoch: data.epoch_order(key, epoch, num_train, batch_size)),
    )


def state_maker(task: tasks.Task, optimizer: optax.GradientTransformation) -> Callable[[PRNGKey], TrainState]:
    """A compiled function key -> the state of a trunk at step 0."""

    def make(key):
        return state.create(task.init(stream_key(key, Stream.INIT)), optimizer, key)

    return jax.jit(make, compiler_options=once_options(jax.default_backend()))


def on_device(tree: Any) -> Any:
    """Commits arrays to the default device: a state from anywhere meets the same compiled step."""
    return jax.device_put(tree, jax.devices()[0])


def probe_indices(num_train: int, num_examples: int, seed: int) -> np.ndarray:
    """The training images the signals are measured on: a fixed random subset, or all if 0."""
    count = num_examples or num_train
    # A bit generator's raw stream is the same in every NumPy; a Generator's methods need not be.
    return np.sort(np.argsort(np.random.PCG64(seed).random_raw(num_train), kind="stable")[:count])


def padded_batches(indices: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts indices into equal batches; the last is filled with index 0 at weight 0.

    Returns:
        indices [n, B] int32 and weights [n, B] float32, B = min(batch_size, len(indices)).

    Example:
        >>> indices, weights = padded_batches(np.arange(3), 2)
        >>> indices.tolist(), weights.tolist()
        ([[0, 1], [2, 0]], [[1.0, 1.0], [1.0, 0.0]])
    """
    batch_size = min(batch_size, len(indices))
    num_batches = -(-len(indices) // batch_size)
    filled = np.zeros(num_batches * batch_size, np.int32)
    filled[: len(indices)] = indices
    weights = (np.arange(filled.size) < len(indices)).astype(np.float32)
    return filled.reshape(num_batches, batch_size), weights.reshape(num_batches, batch_size)


def _splits_on_device(dataset: Dataset) -> dict[str, Any]:
    splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
    present = {name: split for name, split in splits.items() if split is not None}
    return on_device(
        {name: {"images": split.images, "labels": split.labels} for name, split in present.items()}
    )


@jax.jit
def _all_finite(tree: Any) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def _means(sums: Any) -> Means:
    host = jax.device_get(sums)
    return {
        name: float(host[source]) / float(host["count"])
        for name, source in (("loss", "loss"), ("accuracy", "correct"))
    }
