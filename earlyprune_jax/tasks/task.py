"""A task: all that training knows of data and network, as a frozen bundle of pure functions."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax import assets, references
from earlyprune_jax.array_types import Array, Params, PRNGKey, Variables
from earlyprune_jax.metrics import Metric
from earlyprune_jax.pruning.module_layouts import exactly, said_at_init
from earlyprune_jax.signals.signal import Network
from earlyprune_jax.tasks.batching import Batches, Batching, shapes_of
from earlyprune_jax.validate import expected, gathering, unexpected

Sums = Mapping[str, Array]
"""Sums over examples, float32 scalars: `loss`, `count` (what the loss is divided by), and more."""

Values = Mapping[str, float]
"""Metric -> value."""


@dataclasses.dataclass(frozen=True)
class HostMeasurement:
    """Metrics that are measured outside of compiled code, after some epochs and after a run's last.

    Attributes:
        metrics: their names, units and directions; columns validation_NAME and test_NAME.
        measure: (variables, name of the split) -> metric -> value. `variables` is what the network
            applies, {"params": ..., **model_state}, of one run.
        every_epochs: measured after every so many epochs of a run, counted from the trunk's start.
    """

    metrics: tuple[Metric, ...]
    measure: Callable[[Variables, str], Values]
    every_epochs: int = 1

    def __post_init__(self):
        if not isinstance(self.every_epochs, int) or self.every_epochs < 1:
            allowed = "to be a whole number of at least 1"
            raise unexpected("every_epochs of HostMeasurement", self.every_epochs, allowed)

    def of(self, variables: Variables, split: str) -> dict[str, float]:
        """Returns what is measured, of all metrics.

        Raises:
            InvalidInput: `measure` gives other names.
        """
        measured = self.measure(variables, split)
        return _as_numbers("what the host measures", measured, self.metrics)

    def due(self, epoch: int, last_epoch: int) -> bool:
        """Tells whether it is measured after this epoch of a run that ends with `last_epoch`."""
        return epoch == last_epoch or epoch % self.every_epochs == 0


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What is learnt. Functions run inside jit unless it says otherwise.

    Attributes:
        splits: "train", "test", and "validation" if examples are held out: a pytree of arrays each,
            of any names and shapes; they are put on the device once.
        batching: which examples make which batches, and how a batch is taken from a split.
        init: key -> variables of a new network: {"params": ..., and other collections}.
        train_sums: (params, model_state, batch, key) -> (sums, new model_state). The training loss
            is sums["loss"] / sums["count"]; `key` is for dropout and the like; `model_state` holds
            the network's other collections, {} if it has none.
        eval_sums: (params, model_state, batch) -> sums of the same names, in evaluation mode. What
            has weight 0 in batch["weights"] must not count.
        metrics: what is made of the sums.
        primary: the metric that forks are compared by; one of `metrics` or of `host`.
        sums: names of the sums; None = loss, count and the metrics.
        values: (on the host) sums as numbers -> value of every metric; None = sums[NAME] /
            sums["count"].
        network: model_state -> the network whose log-probabilities signals, criteria and
            comparisons look at: evaluation mode, float32 throughout; None where the task has none:
            those that need them are then refused by name. Its batches hold `labels` [B] where
            "empirical" labels are asked for.
        host: measurements outside of compiled code.
        layers: the prunable weights by default, as `pruning.layers`.
        optimizer: the optimizer by default, as `optim.name`.
        layouts: what leaves are, as in `pruning.select`, where a network is not of Linen and its
            kernels lie otherwise than `pruning.layouts.find` says; Linen's layers are asked.
        assets: name of a file -> bytes: what is needed besides weights to use a trained network.
            The workdir keeps it, and each run's record names it.
        remarks: sentences that are said once a study has read its data; of a task that is made
            from shapes alone they cannot depend on them.

    Example:
        See docs/extending.md.
    """

    splits: Mapping[str, Any]
    batching: Batching
    init: Callable[[PRNGKey], Variables]
    train_sums: Callable[[Params, Any, Any, PRNGKey], tuple[Sums, Any]]
    eval_sums: Callable[[Params, Any, Any], Sums]
    metrics: tuple[Metric, ...]
    primary: str
    sums: tuple[str, ...] | None = None
    values: Callable[[Values], Values] | None = None
    network: Callable[[Any], Network] | None = None
    host: tuple[HostMeasurement, ...] = ()
    layers: str = "all_kernels"
    optimizer: str = "sgd"
    layouts: Mapping[str, str] | None = None
    assets: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def all_metrics(self) -> tuple[Metric, ...]:
        """Lists the metrics of the sums, then those measured on the host."""
        return sum((measurement.metrics for measurement in self.host), self.metrics)

    @property
    def sum_names(self) -> tuple[str, ...]:
        """Lists the names of the sums, each once."""
        named = ("loss", "count", *(metric.name for metric in self.metrics))
        return tuple(dict.fromkeys(self.sums or named))

    @functools.cached_property
    def num_outputs(self) -> int:
        """Counts the log-probabilities of an example, C; 0 where the task has none. Nothing is
        computed."""
        if self.network is None:
            return 0

        def predict(variables, split):
            params, model_state = split_variables(variables)
            return self.probe(model_state).log_probs(params, self.one_batch(split))

        train = shapes_of(self.splits["train"])
        return jax.eval_shape(predict, self.shapes(), train).shape[-1]

    def one_batch(self, split: Any) -> Any:
        """Takes one training example as a batch, of the train split or of its tracers."""
        first = next(iter(self.batching.subset("train", np.arange(1), 1, 1)))
        return self.batching.take(first.kind, split, first.indices[0], first.weights[0], None)

    def shapes(self) -> Any:
        """Returns the shapes and types of a network's variables; nothing is computed."""
        return self._traced[0]

    @property
    def known_layouts(self) -> dict[str, str]:
        """Returns the layouts, with what the network's Linen layers say of their kernels."""
        return {**(self.layouts or {}), **exactly(self._traced[1])}

    @functools.cached_property
    def _traced(self) -> tuple[Any, dict[str, str]]:
        return said_at_init(self.init, jax.ShapeDtypeStruct((2,), jnp.uint32))

    def measured(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Returns the metrics of summed examples, as numbers."""
        numbers = {name: float(value) for name, value in sums.items()}
        if self.values is not None:
            return _as_numbers("names of task.values", self.values(numbers), self.metrics)
        return {metric.name: numbers[metric.name] / numbers["count"] for metric in self.metrics}

    def probe(self, model_state: Any) -> Network:
        """Returns what signals look at: the task's network, or one that has only sums."""
        if self.network is not None:
            return self.network(model_state)

        def sums(params: Params, batch: Any) -> Sums:
            return self.eval_sums(params, model_state, batch)

        return Network(
            lambda variables, batch: None, {}, is_linen=False, sums=sums, has_log_probs=False
        )

    def decidable_columns(self) -> tuple[str, ...]:
        """Lists the metrics that a trigger may watch."""
        splits = [split for split in ("train", "validation") if split in self.splits]
        columns = [metric.column(split) for split in splits for metric in self.metrics]
        if "validation" in self.splits:
            on_host = self.all_metrics[len(self.metrics) :]
            columns += [metric.column("validation") for metric in on_host]
        return tuple(columns)


def _as_numbers(thing: str, values: Values, metrics: tuple[Metric, ...]) -> dict[str, float]:
    names = sorted(metric.name for metric in metrics)
    if sorted(values) != names:
        raise unexpected(thing, sorted(values), f"to be {names}")
    return {name: float(value) for name, value in values.items()}


def split_variables(variables: Variables) -> tuple[Params, dict[str, Any]]:
    """Splits a network's variables into its parameters and other collections, the model state.

    Example:
        >>> split_variables({"params": {"w": 1}, "batch_stats": {"mean": 0}})
        ({'w': 1}, {'batch_stats': {'mean': 0}})
    """
    model_state = dict(variables)
    return model_state.pop("params"), model_state


def check(task: Any) -> list[str]:
    """Finds why an object cannot be trained as a task; its functions are traced, no network is
    compiled."""
    if not isinstance(task, Task):
        remedy = "Return earlyprune_jax.tasks.Task(...)."
        return [expected("task", type(task).__name__, "to be a Task", remedy)]
    problems = [
        expected("task.splits", tuple(task.splits), f"to hold {name}")
        for name in ("train", "test")
        if name not in task.splits
    ]
    problems += assets.problems(task.assets)
    names = [metric.name for metric in task.all_metrics]
    if len(set(names)) < len(names):
        problems.append(expected("task.metrics", names, "to have no name twice"))
    if task.primary not in names:
        allowed, remedy = f"to be one of {', '.join(names)}", "Forks are compared by it."
        problems.append(expected("task.primary", task.primary, allowed, remedy))
    if problems:
        return problems
    with gathering(problems):
        with references.guarded("task", "init", "to make variables"):
            split_variables(task.shapes())
        with references.guarded("task", "sums of a batch", "to be traceable"):
            epoch = list(task.batching.epoch(jax.random.PRNGKey(0), 0))
            # By shapes alone, on the first training batch of every kind.
            for batches in {batches.kind: batches for batches in reversed(epoch)}.values():
                problems += _check_sums(task, batches)
            steps, num_steps = task.batching.steps_per_epoch, sum(len(b.indices) for b in epoch)
            if steps != num_steps or not steps:
                allowed = f"to be the number of batches in an epoch, {num_steps}, and at least 1"
                problems.append(expected("task.batching.steps_per_epoch", steps, allowed))
    return list(dict.fromkeys(problems))


def _check_sums(task: Task, batches: Batches) -> list[str]:
    params, model_state = split_variables(task.shapes())
    indices = batches.indices[0]
    weights = None if batches.weights is None else batches.weights[0]
    ones = jnp.ones(len(indices)) if weights is None else weights

    def train(params, model_state, split, key):
        batch = task.batching.take(batches.kind, split, indices, weights, key)
        return task.train_sums(params, model_state, batch, key)

    def evaluate(params, model_state, split):
        batch = task.batching.take(batches.kind, split, indices, ones, None)
        return task.eval_sums(params, model_state, batch)

    key, splits = jax.ShapeDtypeStruct((2,), jnp.uint32), shapes_of(dict(task.splits))
    trained, new_state = jax.eval_shape(train, params, model_state, splits["train"], key)
    evaluated = jax.eval_shape(evaluate, params, model_state, splits["test"])
    problems = _wrong_sums("train_sums", trained, task) + _wrong_sums("eval_sums", evaluated, task)
    before, after = jax.tree.structure(model_state), jax.tree.structure(new_state)
    if before != after:
        allowed = f"to be like that of init, {before}"
        problems.append(expected("model_state of train_sums", after, allowed))
    return problems


def _wrong_sums(name: str, sums: Any, task: Task) -> list[str]:
    if not isinstance(sums, Mapping):
        allowed = "to return a mapping name -> number"
        return [expected(name, type(sums).__name__, allowed, "E.g. loss and count.")]
    allowed = "to be one floating-point number"
    wrong = [
        expected(f"{name}[{key!r}]", f"{value.dtype}{list(value.shape)}", allowed)
        for key, value in sums.items()
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating)
    ]
    if not wrong and sorted(sums) != sorted(task.sum_names):
        allowed = f"to be {sorted(task.sum_names)}"
        remedy = "Name all in Task(sums=...), and say in Task(values=...) how they make metrics."
        wrong = [expected(f"names of {name}", sorted(sums), allowed, remedy)]
    return wrong
