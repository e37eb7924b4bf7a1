"""Measuring a run along its epochs: the configured signals as instruments, and one run's watcher.

An instrument observes a state and concludes numbers from what it has just observed and from what it
observed some epochs earlier. Most need no earlier epoch; those that do (distances between masks,
the way the weights have gone) find the states again in the run's checkpoints after an interruption,
so that an interrupted run measures what an uninterrupted one does.
"""

import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from earlyprune_jax import pruning, references, signals
from earlyprune_jax.array_types import Params
from earlyprune_jax.signals import ProbeSignal, WeightSignal
from earlyprune_jax.signals.fisher_run import memory_options
from earlyprune_jax.signals.probe_signals import performance_signal
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.tasks import Task
from earlyprune_jax.tasks.batching import places
from earlyprune_jax.training import criteria, steps
from earlyprune_jax.training.engine import Engine, probe_indices
from earlyprune_jax.training.execution import Runner, runner
from earlyprune_jax.training.mesh import data_parallel
from earlyprune_jax.training.state import Stream, TrainState, stream_key
from earlyprune_jax.validate import InvalidInput, expected, unexpected, unknown_choice

KEY = "signals.names"
RECORDED = (
    "epoch",
    "step",
    "learning_rate",
    "seconds",
    "train_seconds",
    "signals",
    "signal_seconds",
    "trunk_seed",
)
SPLITS = ("train_", "validation_", "test_")
"""What columns of signals may not be called, or begin with."""

NUM_OLDER_MASKS = 4
"""A mask is compared with that many older ones (Early-Bird's queue holds five)."""

REFERENCE_EPOCH = 1
"""The epoch whose weights EarlyCroP measures distances from."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How much of a signal is measured.

    Attributes:
        num_examples: probe examples looked at; None for a signal of the weights alone.
        every_epochs: measured after epochs 1, 1 + every_epochs, ...
    """

    num_examples: int | None
    every_epochs: int

    def due(self, epoch: int) -> bool:
        """Whether the signal is measured after this epoch."""
        return (epoch - 1) % self.every_epochs == 0


@dataclasses.dataclass(frozen=True)
class Instrument:
    """A configured signal, bound to the engine's data and compiled at first use.

    Attributes:
        name: the signal's name in configs.
        columns: its numbers, None at epochs where it is not measured.
        looks_at_examples: whether fewer examples make it cheaper.
        observe: (state, epoch, probe indices) -> what is kept of that epoch.
        lookback: (epoch, every_epochs) -> the earlier epochs that `conclude` needs.
        conclude: (this epoch's observation, epoch -> earlier observation) -> column -> number,
            or a mapping parameter path -> number.
    """

    name: str
    columns: tuple[str, ...]
    looks_at_examples: bool
    observe: Callable[[TrainState, int, np.ndarray], Any]
    lookback: Callable[[int, int], tuple[int, ...]]
    conclude: Callable[[Any, Mapping[int, Any]], dict[str, Any]]


def instruments(engine: Engine) -> tuple[Instrument, ...]:
    """The configured signals, in the order of `signals.names`."""
    made = []
    for name in engine.spec.signals.names:
        if name in TRAJECTORIES:
            made.append(TRAJECTORIES[name](engine))
            continue
        signal = _signal(name, engine.spec, engine.task, num_examples=len(engine.probe))
        made.append(
            _of_examples(engine, signal) if isinstance(signal, ProbeSignal) else _of_weights(signal)
        )
    return tuple(made)


def _signal(
    name: str, spec: RunSpec, task: Task, *, num_examples: int
) -> ProbeSignal | WeightSignal:
    """A signal of one state: a built-in, or what a function of the user's gives.

    Raises:
        InvalidInput: it cannot be loaded, or is none.
    """
    if references.is_import_path(name):
        function = references.load(KEY, name, {}, ())
        with references.guarded(KEY, name, "to give a signal"):
            made = function()
        if not isinstance(made, ProbeSignal | WeightSignal):
            allowed = f"to give a ProbeSignal or a WeightSignal, not a {type(made).__name__}"
            raise unexpected(KEY, name, allowed)
        return dataclasses.replace(made, name=name)
    if name == "performance":
        return performance_signal(task.metrics, task.measured, task.sum_names)
    layers = spec.signals.fisher_layers or task.layers
    counted = pruning.select(task.shapes()["params"], layers) if name == "fisher_trace" else None
    return signals.build(
        name, spec.signals, counted=counted, num_outputs=task.num_outputs, num_examples=num_examples
    )


def check(spec: RunSpec, task: Task) -> list[str]:
    """The problems of the signals' names, and of signals that need what the task does not have.

    Args:
        spec: of one setting.
        task: of `tasks.abstract`.
    """
    problems = []
    columns: dict[str, str] = {}
    for name in spec.signals.names:
        if name in TRAJECTORIES:
            own: tuple[str, ...] = (name,)
        elif name not in NAMES and not references.is_import_path(name):
            problems.append(unknown_choice(KEY, name, NAMES) + " Your own: module:function.")
            continue
        else:
            try:
                signal = _signal(name, spec, task, num_examples=1)
            except InvalidInput as error:
                problems += error.problems
                continue
            own = signal.columns
            if isinstance(signal, ProbeSignal) and signal.needs_log_probs and task.network is None:
                remedy = f"{spec.task.name} has none: leave it out, or give Task(network=...)."
                problems.append(expected(KEY, name, "to need no log-probabilities", remedy))
        problems += [
            expected(KEY, name, f"to have no column {column}, which {columns[column]} has")
            for column in own
            if column in columns
        ]
        problems += [
            expected(
                KEY, name, f"to have no column {column}, which records have for something else"
            )
            for column in own
            if column in RECORDED or column.startswith(SPLITS)
        ]
        columns |= dict.fromkeys(own, name)
    return problems


def full_sampling(engine: Engine, tools: tuple[Instrument, ...]) -> dict[str, Sampling]:
    """Every signal after every epoch, on all probe examples."""
    return {
        tool.name: Sampling(len(engine.probe) if tool.looks_at_examples else None, 1)
        for tool in tools
    }


class Watcher:
    """Measures one run after each of its epochs, in ascending order.

    Args:
        engine: whose data are looked at.
        tools: the instruments.
        sampling: name -> how much of it is measured.
        state_after: epoch -> the run's state then; asked for epochs seen before an interruption.
    """

    def __init__(
        self,
        engine: Engine,
        tools: tuple[Instrument, ...],
        sampling: Mapping[str, Sampling],
        state_after: Callable[[int], TrainState],
    ):
        self._tools, self._sampling, self._state_after = tools, sampling, state_after
        self._probes = {name: _probe(engine, own.num_examples) for name, own in sampling.items()}
        self._seen: dict[str, dict[int, Any]] = {tool.name: {} for tool in tools}

    def measure(self, state: TrainState, epoch: int) -> tuple[dict[str, Any], dict[str, float]]:
        """Column -> number (None where a signal is not due), and signal -> seconds it took."""
        numbers: dict[str, Any] = {}
        seconds: dict[str, float] = {}
        for tool in self._tools:
            if not self._sampling[tool.name].due(epoch):
                numbers |= dict.fromkeys(tool.columns)
                continue
            started = time.monotonic()
            numbers |= self._measure_one(tool, state, epoch)
            seconds[tool.name] = time.monotonic() - started
        return numbers, seconds

    def _measure_one(self, tool: Instrument, state: TrainState, epoch: int) -> dict[str, Any]:
        seen, every = self._seen[tool.name], self._sampling[tool.name].every_epochs
        earlier = tool.lookback(epoch, every)
        for missing in (past for past in earlier if past not in seen):
            seen[missing] = tool.observe(
                self._state_after(missing), missing, self._probes[tool.name]
            )
        current = tool.observe(state, epoch, self._probes[tool.name])
        numbers = tool.conclude(current, {past: seen[past] for past in earlier})
        needed = tool.lookback(epoch + every, every)
        known = {**seen, epoch: current}
        self._seen[tool.name] = {past: known[past] for past in needed if past in known}
        return numbers


def epochs_needed_after(
    epoch: int, tools: tuple[Instrument, ...], sampling: Mapping[str, Sampling]
) -> frozenset[int]:
    """Epochs up to this one that a later measurement compares with: their checkpoints must stay."""
    needed: set[int] = set()
    for tool in tools:
        every = sampling[tool.name].every_epochs
        following = epoch + every - (epoch - 1) % every
        needed |= {past for past in tool.lookback(following, every) if past <= epoch}
    return frozenset(needed)


def _probe(engine: Engine, num_examples: int | None) -> np.ndarray:
    if num_examples is None or num_examples == len(engine.probe):
        return engine.probe
    # A smaller probe is a subset of a larger one.
    return probe_indices(engine.num_train, num_examples, engine.spec.data.split_seed)


def _of_examples(engine: Engine, signal: ProbeSignal) -> Instrument:
    options = memory_options(jax.default_backend())

    def compiled(kind: str) -> Runner:
        plain = steps.signal_step(
            engine.task, signal, augment=engine.spec.signals.augment, kind=kind
        )
        step, name = data_parallel(plain, engine.mesh), f"{slug(signal.name)}_step"
        return runner(step, form=engine.form, name=name, compiler_options=options)

    runs = {kind: compiled(kind) for kind in engine.task.batching.kinds}

    def observe(state: TrainState, epoch: int, probe: np.ndarray) -> dict[str, Any]:
        key = stream_key(state.key, Stream.SIGNAL, epoch)
        constants = (state.params, state.model_state, engine.splits["train"], key)
        sums = engine.place(signal.zero_sums(state.params))
        for kind, inputs in _probe_inputs(engine, probe, signal.num_passes):
            sums = runs[kind](sums, inputs, constants)
        return _as_declared(signal, signal.numbers(jax.device_get(sums), len(probe)))

    return Instrument(signal.name, signal.columns, True, observe, _no_lookback, _as_observed)


def _of_weights(signal: WeightSignal) -> Instrument:
    def observe(state: TrainState, epoch: int, probe: np.ndarray) -> dict[str, Any]:
        key = stream_key(state.key, Stream.SIGNAL, epoch)
        return _as_declared(signal, dict(signal.measure(state.params, key)))

    return Instrument(signal.name, signal.columns, False, observe, _no_lookback, _as_observed)


def _as_declared(signal: ProbeSignal | WeightSignal, numbers: dict[str, Any]) -> dict[str, Any]:
    """The numbers, which must be those of the signal's columns; mappings by parameter are free.

    Raises:
        InvalidInput: they are not.
    """
    single = {name for name, value in numbers.items() if not isinstance(value, Mapping)}
    if single != set(signal.columns):
        allowed = f"to give its columns, {', '.join(signal.columns)}"
        raise unexpected(f"numbers of {signal.name}", sorted(single), allowed)
    return numbers


def _mask_distance(engine: Engine) -> Instrument:
    """Early-Bird's distance between the masks of signals.mask_criterion, mask_scope and
    mask_sparsity."""
    asked = engine.spec.signals
    prunable = engine.prunable(asked.weight_layers)
    examples = criteria.Examples(engine, engine.probe, asked.batch_size)

    def observe(state: TrainState, epoch: int, probe: np.ndarray) -> Any:
        mask = criteria.make_mask(
            engine,
            state,
            criterion=asked.mask_criterion,
            scope=asked.mask_scope,
            sparsity=asked.mask_sparsity,
            prunable=prunable,
            examples=examples,
        )
        return jax.block_until_ready(mask)

    def lookback(epoch: int, every: int) -> tuple[int, ...]:
        older = (epoch - every * (index + 1) for index in range(NUM_OLDER_MASKS))
        return tuple(past for past in older if past >= 1)

    def conclude(mask: Any, earlier: Mapping[int, Any]) -> dict[str, Any]:
        if len(earlier) < NUM_OLDER_MASKS:
            return {"mask_distance": None}
        older = list(earlier.values())
        return {"mask_distance": signals.early_bird_distance(mask, older, prunable)}

    return Instrument("mask_distance", ("mask_distance",), False, observe, lookback, conclude)


def _weight_change(engine: Engine) -> Instrument:
    """How far the weights of signals.weight_layers have moved since epoch 1, relative to those
    then."""
    prunable = engine.prunable(engine.spec.signals.weight_layers)

    def observe(state: TrainState, epoch: int, probe: np.ndarray) -> Params:
        # A copy: the next training step takes the state's own buffers.
        return jax.device_get(state.params)

    def lookback(epoch: int, every: int) -> tuple[int, ...]:
        return (REFERENCE_EPOCH,) if epoch > REFERENCE_EPOCH else ()

    def conclude(params: Params, earlier: Mapping[int, Any]) -> dict[str, Any]:
        reference = earlier.get(REFERENCE_EPOCH, params)
        return {"weight_change": signals.weight_change(reference, params, layers=prunable)}

    return Instrument("weight_change", ("weight_change",), False, observe, lookback, conclude)


TRAJECTORIES: dict[str, Callable[[Engine], Instrument]] = {
    "mask_distance": _mask_distance,
    "weight_change": _weight_change,
}
"""Signals that compare epochs; each has one column, of its own name."""

NAMES = (*signals.NAMES, "performance", *TRAJECTORIES)
"""What `signals.names` may hold."""


def columns(spec: RunSpec, task: Task, names: Sequence[str]) -> tuple[str, ...]:
    """The columns of some signals; nothing is computed.

    Args:
        spec: of one setting.
        task: of `tasks.abstract`.
        names: of signals, built-in or own.
    """
    found: list[str] = []
    for name in names:
        found += (
            (name,) if name in TRAJECTORIES else _signal(name, spec, task, num_examples=1).columns
        )
    return tuple(found)


def _no_lookback(epoch: int, every: int) -> tuple[int, ...]:
    return ()


def _as_observed(observation: dict[str, Any], earlier: Mapping[int, Any]) -> dict[str, Any]:
    return observation


def _probe_inputs(
    engine: Engine, probe: np.ndarray, num_passes: int
) -> Iterator[tuple[str, tuple[np.ndarray, ...]]]:
    """Kind of batches -> rows of (indices, weights, first place, number of the batch, pass)."""
    num_batches, num_seen = 0, 0
    for batches in engine.batches("train", engine.spec.signals.batch_size, probe):
        first, num_seen = places(batches, num_seen)
        rows, passes = np.meshgrid(np.arange(len(first)), np.arange(num_passes), indexing="ij")
        rows, passes = rows.ravel(), passes.ravel().astype(np.int32)
        indices, weights = np.asarray(batches.indices), np.asarray(batches.weights)
        numbers = (num_batches + rows).astype(np.int32)
        yield batches.kind, (indices[rows], weights[rows], first[rows], numbers, passes)
        num_batches += len(first)


def slug(name: str) -> str:
    """A name as a part of an identifier."""
    return re.sub(r"\W+", "_", name).strip("_")
