"""What signals may cost: a part of the training time, kept by looking at fewer examples or epochs.

Costs are measured once, before the first trunk of an engine, and the decision is written
down: every trunk, and every continuation, measures the same.
"""

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from earlyprune_jax import records
from earlyprune_jax.training import measurement
from earlyprune_jax.training.engine import Engine, probe_indices
from earlyprune_jax.training.measurement import Instrument
from earlyprune_jax.training.multihost import on_primary
from earlyprune_jax.training.state import TrainState
from earlyprune_jax.validate import unexpected

FEWEST_MEASUREMENTS = 5
"""With fewer, a signal's course is not seen."""

ONCE = 10**6
"""A signal that is due after so many epochs only is measured once in a run, after its first."""

REMEDY = (
    "Delete this file alone: the signals' costs are then measured, and the budget divided, anew."
)

NUM_TIMED_STEPS = 4
"""Training steps that are timed where steps are called one by one; a scan is timed over an
epoch."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What measuring a signal once takes.

    Attributes:
        seconds: on all probe examples.
        num_batches: it takes this in as many equal parts; 1 where it cannot be divided.
    """

    seconds: float
    num_batches: int


def limited(engine: Engine, tools: tuple[Instrument, ...], path: Path) -> tuple[Instrument, ...]:
    """Limits how much of every signal is measured, as a file has decided, or it is decided now.

    With `signals.max_overhead_fraction` 0, or where all signals fit the budget, everything is
    measured.

    Args:
        engine: whose training the signals accompany.
        tools: the signals, each measuring in full.
        path: of the decision, which is written where there is a limit.

    Returns:
        The signals, those that do not fit with fewer probe examples or measured at fewer epochs.

    Raises:
        InvalidInput: the file does not hold a decision about these signals.
    """
    if not tools or engine.spec.signals.max_overhead_fraction == 0:
        return tools
    decision = on_primary(lambda: records.read_json(path, remedy=REMEDY))
    if decision is None:
        measured = _decision(engine, tools)
        on_primary(lambda: records.write_json(path, measured))
        # What process 0 has timed, not each for itself.
        decision = on_primary(lambda: measured)
    return tuple(_obeying(engine, tool, decision, path) for tool in tools)


def _obeying(engine: Engine, tool: Instrument, decision: dict[str, Any], path: Path) -> Instrument:
    by_name = decision.get("signals")
    chosen = by_name.get(tool.name) if isinstance(by_name, dict) else None
    chosen = chosen if isinstance(chosen, dict) else {}
    every, count = chosen.get("every_epochs"), chosen.get("num_examples")
    most = 0 if tool.probe is None else len(tool.probe)
    right_count = (isinstance(count, int) and 1 <= count <= most) if most else count is None
    if not (isinstance(every, int) and every >= 1 and right_count):
        allowed = f"to give num_examples and every_epochs of {tool.name}"
        raise unexpected(str(path), by_name, allowed, REMEDY)
    # A smaller probe is a subset of a larger one.
    seed = engine.spec.data.split_seed
    probe = probe_indices(engine.num_train, count, seed) if count else None
    return dataclasses.replace(tool, probe=probe, every_epochs=every)


def divide(costs: Mapping[str, Cost], allowed_seconds: float) -> dict[str, tuple[int, int]]:
    """Shares a budget among signals: cheap ones are measured whole, dear ones share what is left.

    A signal that needs no more than an equal share of what is left gets what it needs, until only
    dearer ones are left; each of those gets an equal share, in whole batches. Where not even one
    batch fits, it is measured after fewer epochs.

    Args:
        costs: signal -> what it takes.
        allowed_seconds: an epoch, for all signals.

    Returns:
        Signal -> (batches measured, every how many epochs).

    Example:
        >>> divide({"cheap": Cost(1.0, 1), "dear": Cost(40.0, 10)}, 9.0)
        {'cheap': (1, 1), 'dear': (2, 1)}
        >>> divide({"dear": Cost(40.0, 10)}, 1.0)
        {'dear': (1, 4)}
    """
    chosen, left = {}, allowed_seconds
    cheapest_first = sorted(costs, key=lambda name: costs[name].seconds)
    for index, name in enumerate(cheapest_first):
        cost, share = costs[name], left / (len(costs) - index)
        left -= min(cost.seconds, share)
        if share >= cost.seconds:
            chosen[name] = cost.num_batches, 1
            continue
        batch_seconds = cost.seconds / cost.num_batches
        every = math.ceil(min(batch_seconds / share, ONCE)) if share > 0 else ONCE
        chosen[name] = max(1, math.floor(share / batch_seconds)), max(1, every)
    return chosen


def sentences(engine: Engine, tools: tuple[Instrument, ...]) -> list[str]:
    """Says what is left out of every limited signal, and for which runs what is left is too little.

    Args:
        engine: of the signals.
        tools: what `limited` has returned.
    """
    fraction, said = engine.spec.signals.max_overhead_fraction, []
    for tool in tools:
        every, looked_at = tool.every_epochs, "is measured"
        if tool.probe is not None:
            looked_at = f"looks at {len(tool.probe)} examples"
        when, remark = "every epoch", ""
        if every > 1:
            when, shortest = f"one epoch in {every}", 1 + every * (FEWEST_MEASUREMENTS - 1)
            remark = (
                f" In runs of fewer than {shortest} epochs that is too seldom for a peak or a "
                "trigger: raise the fraction, or measure fewer signals."
            )
        if every > 1 or tool.probe is not None and len(tool.probe) < len(engine.probe):
            limit = f"signals.max_overhead_fraction={fraction!r}"
            said.append(f"{limit}: {tool.name} {looked_at} after {when}.{remark}")
    return said


def _decision(engine: Engine, tools: tuple[Instrument, ...]) -> dict[str, Any]:
    """Times a training epoch and every signal, and divides the budget: what the file says."""
    spec, num_examples = engine.spec.signals, len(engine.probe)
    num_batches = math.ceil(num_examples / spec.batch_size)
    state, costs = engine.new_state(engine.spec.train.seeds[0]), {}
    for tool in tools:
        parts, timed = 1, tool
        if tool.probe is not None:
            parts = num_batches
            timed = dataclasses.replace(tool, probe=engine.probe[: spec.batch_size])
        seconds = _typical_seconds(functools.partial(_measured, timed, state))
        costs[tool.name] = Cost(seconds * parts, parts)
    epoch_seconds = _epoch_seconds(engine)
    chosen = divide(costs, spec.max_overhead_fraction * epoch_seconds)
    by_name = {}
    for tool in tools:
        num_batches, every_epochs = chosen[tool.name]
        looked_at = min(num_batches * spec.batch_size, num_examples)
        by_name[tool.name] = {
            "num_examples": None if tool.probe is None else looked_at,
            "every_epochs": every_epochs,
            "seconds_in_full": costs[tool.name].seconds,
        }
    return {
        "max_overhead_fraction": spec.max_overhead_fraction,
        "train_seconds_per_epoch": epoch_seconds,
        "num_examples": num_examples,
        "signals": by_name,
    }


def _measured(tool: Instrument, state: TrainState) -> dict[str, Any]:
    """Measures once, at epoch 1, compared with itself in the place of earlier epochs."""
    observed = tool.observe(state, 1, tool.probe)
    past = tool.lookback(1 + measurement.NUM_OLDER_MASKS, 1)
    return tool.conclude(observed, dict.fromkeys(past, observed))


def _epoch_seconds(engine: Engine) -> float:
    """Times one training epoch, by a throw-away state."""
    per_epoch = engine.steps_per_epoch
    num_steps = per_epoch if engine.form == "scan" else min(NUM_TIMED_STEPS, per_epoch)
    rates = np.full(num_steps, engine.spec.optim.learning_rate, np.float32)
    # Every call takes its state's buffers.
    states = [engine.new_state(engine.spec.train.seeds[0]) for _ in range(4)]
    return _typical_seconds(lambda: engine.train_epoch(states.pop(), rates)) * per_epoch / num_steps


def _typical_seconds(function: Callable[[], Any]) -> float:
    """Returns the median of three calls' seconds, after one that compiles."""
    jax.block_until_ready(function())
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        jax.block_until_ready(function())
        seconds.append(time.monotonic() - started)
    return statistics.median(seconds)
