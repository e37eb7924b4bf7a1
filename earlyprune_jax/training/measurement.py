"""Measuring a run along its epochs: the configured signals as instruments, and one run's watcher;
and, at its end, how alike replicates have become.

An instrument observes a state and concludes numbers from what it has just observed and from what it
observed some epochs earlier. Most need no earlier epoch; those that do (distances between masks,
the way the weights have gone) find the states again in the run's checkpoints after an interruption,
so that an interrupted run measures what an uninterrupted one does.
"""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from earlyprune_jax import layer_hooks, pruning, references, signals
from earlyprune_jax.array_types import Params
from earlyprune_jax.signals import ProbeSignal, WeightSignal
from earlyprune_jax.signals.fisher import memory_options
from earlyprune_jax.signals.signal import performance_signal
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.tasks import Task, split_variables
from earlyprune_jax.tasks.batching import places, shapes_of
from earlyprune_jax.training import clock, criteria
from earlyprune_jax.training.engine import Engine
from earlyprune_jax.training.execution import runner
from earlyprune_jax.training.state import Stream, TrainState, signal_step, stream_key
from earlyprune_jax.validate import InvalidInput, expected, gathering, unexpected, unknown_choice

KEY = "signals.names"
RECORDED = ("epoch", "num_epochs", "step", "learning_rate", "trunk_seed", "signals")
RECORDED += ("seconds", "train_seconds", "compile_seconds", "signal_seconds")
SPLITS = ("train_", "validation_", "test_")
"""What columns of signals may not be called, or begin with."""

NUM_OLDER_MASKS = 4
"""A mask is compared with that many older ones (Early-Bird's queue holds five)."""

REFERENCE_EPOCH = 1
"""The epoch whose weights EarlyCroP measures distances from."""


@dataclasses.dataclass(frozen=True, eq=False)
class Instrument:
    """A configured signal, bound to the engine's data and compiled at first use.

    Attributes:
        name: the signal's name in configs.
        columns: its numbers, None at epochs where it is not measured.
        observe: (state, epoch, probe) -> what is kept of that epoch.
        lookback: (epoch, every_epochs) -> the earlier epochs that `conclude` needs.
        conclude: (this epoch's observation, epoch -> earlier observation) -> column -> number,
            or a mapping parameter path -> number.
        probe: numbers of the training examples looked at, of which fewer make it cheaper; None for
            a signal of the weights alone.
        every_epochs: measured after epochs 1, 1 + every_epochs, ...
    """

    name: str
    columns: tuple[str, ...]
    observe: Callable[[TrainState, int, Any], Any]
    lookback: Callable[[int, int], tuple[int, ...]] = lambda epoch, every: ()
    conclude: Callable[[Any, Mapping[int, Any]], dict[str, Any]] = lambda observed, earlier: (
        observed
    )
    probe: np.ndarray | None = None
    every_epochs: int = 1


def instruments(engine: Engine) -> tuple[Instrument, ...]:
    """Makes the configured signals, in the order of `signals.names`; each measures in full."""
    return tuple(
        TRAJECTORIES[name](engine) if name in TRAJECTORIES else _instrument(engine, name)
        for name in engine.spec.signals.names
    )


def _signal(
    name: str, spec: RunSpec, task: Task, *, num_examples: int
) -> ProbeSignal | WeightSignal:
    """Makes a signal of one state: a built-in, or what a function of the user's gives.

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
    layers, counted = spec.signals.fisher_layers or task.layers, None
    if name == "fisher_trace":
        counted = pruning.select(task.shapes()["params"], layers, task.known_layouts)
    return signals.build(
        name,
        spec.signals,
        counted=counted,
        num_outputs=task.num_outputs,
        num_examples=num_examples,
        layouts=task.known_layouts,
    )


def check(spec: RunSpec, task: Task) -> list[str]:
    """Lists the problems of the signals' names, and of signals that need what the task lacks.

    Args:
        spec: of one setting.
        task: of `tasks.abstract`.
    """
    problems = []
    owners: dict[str, str] = dict.fromkeys(RECORDED, "the record of an epoch")
    for name in spec.signals.names:
        declared: tuple[str, ...] = ()
        with gathering(problems):
            declared = _columns_of(name, spec, task)
        for column in declared:
            if column in owners or column.startswith(SPLITS):
                owner = owners.get(column, "a metric of the task")
                allowed = f"to have no column {column}, which {owner} has"
                problems.append(expected(KEY, name, allowed))
        owners |= dict.fromkeys(declared, name)
    return problems


def columns(spec: RunSpec, task: Task, names: Sequence[str]) -> tuple[str, ...]:
    """Returns the columns of some signals; nothing is computed.

    Args:
        spec: of one setting.
        task: of `tasks.abstract`.
        names: of signals, built-in or own; those that `check` refuses have none.

    Returns:
        Names of columns, in the order of the signals.
    """
    declared: list[str] = []
    for name in names:
        with contextlib.suppress(InvalidInput):
            declared += _columns_of(name, spec, task)
    return tuple(declared)


def _columns_of(name: str, spec: RunSpec, task: Task) -> tuple[str, ...]:
    """Returns a signal's columns.

    Raises:
        InvalidInput: there is no such signal, one of the user's cannot be made, or it needs what
            the task lacks.
    """
    if name in TRAJECTORIES:
        return (name,)
    if name not in NAMES and not references.is_import_path(name):
        raise InvalidInput([f"{unknown_choice(KEY, name, NAMES)} Your own: module:function."])
    signal = _signal(name, spec, task, num_examples=1)
    if task.network is None and isinstance(signal, ProbeSignal) and signal.needs_log_probs:
        remedy = f"{spec.task.name} has none: leave it out, or give Task(network=...)."
        raise unexpected(KEY, name, "to need no log-probabilities", remedy)
    return signal.columns


def left_to_vmap(spec: RunSpec, task: Task) -> tuple[str, ...]:
    """Says which layers tr(F) leaves to vmap where it is measured by layers, and why.

    Args:
        spec: of one setting.
        task: of `tasks.abstract`; nothing is computed.

    Returns:
        As `layer_hooks.Coverage.notes`; empty where nothing is left, or nothing measured by layers.
    """
    asked = spec.signals
    if "fisher_trace" not in asked.names or asked.fisher_method != "layerwise":
        return ()
    notes: list[str] = []

    def look(variables: Any, split: Any) -> int:
        params, model_state = split_variables(variables)
        network = task.probe(model_state)
        of_network = network.apply, {"params": params, **network.fixed}, task.one_batch(split)
        covered = layer_hooks.coverage(*of_network) if network.is_linen else None
        notes.extend(covered.notes if covered else ("the network by vmap: it is no Linen module",))
        return 0

    jax.eval_shape(look, task.shapes(), shapes_of(task.splits["train"]))
    return tuple(notes)


class Watcher:
    """Measures one run after each of its epochs, in ascending order.

    Args:
        tools: the instruments.
        state_after: epoch -> the run's state then; asked for epochs seen before an interruption.
    """

    def __init__(
        self, tools: tuple[Instrument, ...], state_after: Callable[[int], TrainState]
    ) -> None:
        self._tools, self._state_after = tools, state_after
        self._seen: dict[str, dict[int, Any]] = {tool.name: {} for tool in tools}

    def measure(self, state: TrainState, epoch: int) -> tuple[dict[str, Any], dict[str, float]]:
        """Measures what is due.

        Args:
            state: the run's, after the epoch.
            epoch: counted from the trunk's start.

        Returns:
            Column -> number (None where a signal is not due), and signal -> seconds it took.
        """
        numbers: dict[str, Any] = {}
        seconds: dict[str, float] = {}
        for tool in self._tools:
            seen, every = self._seen[tool.name], tool.every_epochs
            if (epoch - 1) % every:
                numbers |= dict.fromkeys(tool.columns)
                continue
            started = clock.run_seconds()
            earlier = tool.lookback(epoch, every)
            for past in earlier:
                if past not in seen:
                    seen[past] = tool.observe(self._state_after(past), past, tool.probe)
            seen[epoch] = tool.observe(state, epoch, tool.probe)
            numbers |= tool.conclude(seen[epoch], {past: seen[past] for past in earlier})
            for past in set(seen).difference(tool.lookback(epoch + every, every)):
                del seen[past]
            seconds[tool.name] = clock.run_seconds() - started
        return numbers, seconds


def epochs_needed_after(epoch: int, tools: tuple[Instrument, ...]) -> frozenset[int]:
    """Finds the epochs up to this one that a later measurement compares with: their checkpoints
    must stay."""
    needed: set[int] = set()
    for tool in tools:
        following = epoch + tool.every_epochs - (epoch - 1) % tool.every_epochs
        needed |= {past for past in tool.lookback(following, tool.every_epochs) if past <= epoch}
    return frozenset(needed)


def _instrument(engine: Engine, name: str) -> Instrument:
    """Binds a signal of one state to the engine's data."""
    signal = _signal(name, engine.spec, engine.task, num_examples=len(engine.probe))
    runs = {
        kind: runner(
            signal_step(engine.task, signal, augment=engine.spec.signals.augment, kind=kind),
            form=engine.form,
            name=re.sub(r"\W+", "_", signal.name).strip("_") + "_step",
            mesh=engine.mesh,
            compiler_options=memory_options(jax.default_backend()),
        )
        for kind in engine.task.batching.kinds
        if isinstance(signal, ProbeSignal)
    }

    def observe(state: TrainState, epoch: int, probe: np.ndarray) -> dict[str, Any]:
        key = stream_key(state.key, Stream.SIGNAL, epoch)
        if isinstance(signal, WeightSignal):
            numbers = dict(signal.measure(state.params, key))
        else:
            constants = (state.params, state.model_state, engine.splits["train"], key)
            sums = engine.place(signal.zero_sums(state.params))
            for kind, inputs in _probe_inputs(engine, probe, signal.num_passes):
                sums = runs[kind](sums, inputs, constants)
            numbers = signal.numbers(jax.device_get(sums), len(probe))
        # Numbers by parameter are free.
        single = {name for name, value in numbers.items() if not isinstance(value, Mapping)}
        if single != set(signal.columns):
            allowed = f"to give its columns, {', '.join(signal.columns)}"
            raise unexpected(f"numbers of {signal.name}", sorted(single), allowed)
        return numbers

    probe = engine.probe if runs else None
    return Instrument(signal.name, signal.columns, observe, probe=probe)


def _mask_distance(engine: Engine) -> Instrument:
    """Early-Bird's distance between the masks of signals.mask_criterion, mask_scope and
    mask_sparsity."""
    asked = engine.spec.signals
    prunable = engine.prunable(asked.weight_layers)
    examples = criteria.Examples(engine, engine.probe, asked.batch_size)

    def observe(state: TrainState, epoch: int, probe: None) -> Any:
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
        return {"mask_distance": signals.early_bird_distance(mask, [*earlier.values()], prunable)}

    return Instrument("mask_distance", ("mask_distance",), observe, lookback, conclude)


def _weight_change(engine: Engine) -> Instrument:
    """How far the weights of signals.weight_layers have moved since epoch 1, relative to those
    then."""
    prunable = engine.prunable(engine.spec.signals.weight_layers)

    def observe(state: TrainState, epoch: int, probe: None) -> Params:
        # A copy: the next training step takes the state's own buffers.
        return jax.device_get(state.params)

    def lookback(epoch: int, every: int) -> tuple[int, ...]:
        return (REFERENCE_EPOCH,) if epoch > REFERENCE_EPOCH else ()

    def conclude(params: Params, earlier: Mapping[int, Any]) -> dict[str, Any]:
        reference = earlier.get(REFERENCE_EPOCH, params)
        return {"weight_change": signals.weight_change(reference, params, layers=prunable)}

    return Instrument("weight_change", ("weight_change",), observe, lookback, conclude)


TRAJECTORIES: dict[str, Callable[[Engine], Instrument]] = {
    "mask_distance": _mask_distance,
    "weight_change": _weight_change,
}
"""Signals that compare epochs; each has one column, of its own name."""

NAMES = (*signals.NAMES, "performance", *TRAJECTORIES)
"""What `signals.names` may hold."""

COMPARISONS = ("model_similarity", "disagreement")
"""What `fork.comparisons` may hold; all of them need log-probabilities."""


def compare(names: Sequence[str], batches: Iterable[Sequence[np.ndarray]]) -> dict[str, Any]:
    """Measures how alike the replicates of a pruned cell are, on the same examples.

    Predictions come batch by batch from networks held side by side, so that [examples, classes]
    never stands in memory at once.

    Args:
        names: of `COMPARISONS`.
        batches: for each batch of examples the networks' log-probabilities, [predictions, C] each,
            natural log.

    Returns:
        Column -> number, means over all pairs; and `num_examples`, which counts predictions.

    Raises:
        InvalidInput: what is given are no log-probabilities: a network is not finite.

    Example:
        >>> same = np.log([[0.5, 0.5]])
        >>> compare(("model_similarity", "disagreement"), [[same, same]])["disagreement"]
        0.0
    """
    pairs = signals.PairwiseSimilarity(given="log_probabilities")
    for batch in batches:
        pairs.add(*batch)
    measured: dict[str, Any] = {"num_examples": pairs.num_examples}
    if "model_similarity" in names:
        similarity = pairs.result()
        measured["model_similarity"] = similarity.divergence
        measured["model_similarity_standard_error"] = similarity.standard_error
    if "disagreement" in names:
        measured["disagreement"] = pairs.disagreement
    return measured


def _probe_inputs(
    engine: Engine, probe: np.ndarray, num_passes: int
) -> Iterator[tuple[str, tuple[np.ndarray, ...]]]:
    """Yields kinds of batches, and rows of (indices, weights, first place, batch, pass)."""
    num_batches, num_seen = 0, 0
    for batches in engine.batches("train", engine.spec.signals.batch_size, probe):
        first, num_seen = places(batches, num_seen)
        rows, passes = np.meshgrid(np.arange(len(first)), np.arange(num_passes), indexing="ij")
        rows, passes = rows.ravel(), passes.ravel().astype(np.int32)
        indices, weights = np.asarray(batches.indices), np.asarray(batches.weights)
        numbers = (num_batches + rows).astype(np.int32)
        yield batches.kind, (indices[rows], weights[rows], first[rows], numbers, passes)
        num_batches += len(first)
