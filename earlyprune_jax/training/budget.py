"""What signals may cost: a part of the training time, kept by looking at fewer examples or epochs.

Costs are measured once, before the first trunk of an engine, and the decision is written
down: every trunk, and every continuation, measures the same.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from earlyprune_jax import records
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.training import measurement
from earlyprune_jax.training.engine import Engine
from earlyprune_jax.training.measurement import Instrument, Sampling
from earlyprune_jax.training.multihost import on_primary
from earlyprune_jax.training.state import TrainState
from earlyprune_jax.validate import unexpected

FEWEST_MEASUREMENTS = 5
"""With fewer, a signal's course is not seen."""

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


def sampling(engine: Engine, tools: tuple[Instrument, ...], path: Path) -> dict[str, Sampling]:
    """How much of every signal is measured: what a file says has been decided, or is decided now.

    With `signals.max_overhead_fraction` 0, or where all signals fit the budget, everything is
    measured.

    Returns:
        Signal name -> Sampling; also written to the file where there is a limit.
    """
    fraction = engine.spec.signals.max_overhead_fraction
    full = measurement.full_sampling(engine, tools)
    if not tools or fraction == 0:
        return full
    decided = on_primary(lambda: _decided(path, full))
    if decided is None:
        epoch_seconds, costs = _timed(engine, tools)
        chosen = divide(costs, fraction * epoch_seconds)
        described = _described(engine, tools, fraction, epoch_seconds, costs, chosen)
        on_primary(lambda: records.write_json(path, described))
        # What process 0 has timed, not each for itself.
        decided = on_primary(lambda: described)
    own = decided["signals"]
    return {name: Sampling(own[name]["num_examples"], own[name]["every_epochs"]) for name in full}


def _decided(path: Path, full: Mapping[str, Sampling]) -> dict[str, Any] | None:
    """What an earlier session has decided; None if there was none.

    Raises:
        InvalidInput: the file does not hold a decision about these signals.
    """
    remedy = "Delete this file alone: the signals' costs are then measured, and the budget divided, anew."
    decided = records.read_json(path, remedy=remedy)
    if decided is None:
        return None
    own = decided.get("signals")
    if not isinstance(own, dict) or not all(
        _is_sampling(own.get(name), full[name]) for name in full
    ):
        allowed = f"to give num_examples and every_epochs of {', '.join(full)}"
        raise unexpected(str(path), own, allowed, remedy)
    return decided


def _is_sampling(chosen: Any, full: Sampling) -> bool:
    if not isinstance(chosen, dict):
        return False
    count, every = chosen.get("num_examples"), chosen.get("every_epochs")
    most = full.num_examples
    right_count = count is None if most is None else isinstance(count, int) and 1 <= count <= most
    return right_count and isinstance(every, int) and every >= 1


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
    shares: dict[str, float] = {}
    left, waiting = allowed_seconds, sorted(costs, key=lambda name: costs[name].seconds)
    while waiting:
        share = left / len(waiting)
        name = waiting.pop(0)
        shares[name] = min(costs[name].seconds, share)
        left -= shares[name]
    return {name: _affordable(cost, shares[name]) for name, cost in costs.items()}


def sentence(name: str, chosen: Sampling, spec: RunSpec) -> str:
    """What is left out of a signal and why, and whether what is left can show a course.

    Example:
        >>> from configs import cifar10
        >>> from earlyprune_jax import config
        >>> sentence("fisher_trace", Sampling(256, 2), config.resolve(cifar10.get_config()))
        'signals.max_overhead_fraction=0.05: fisher_trace looks at 256 examples after epochs 1, 3, ..., 199.'
    """
    does = (
        f"looks at {chosen.num_examples} examples"
        if chosen.num_examples is not None
        else "is measured"
    )
    epochs = [epoch for epoch in range(1, spec.train.num_epochs + 1) if chosen.due(epoch)]
    when = "every epoch" if chosen.every_epochs == 1 else f"epochs {_listed(epochs)}"
    limit = f"signals.max_overhead_fraction={spec.signals.max_overhead_fraction!r}"
    text = f"{limit}: {name} {does} after {when}."
    if len(epochs) >= min(FEWEST_MEASUREMENTS, spec.train.num_epochs):
        return text
    times = "once" if len(epochs) == 1 else f"{len(epochs)} times"
    remedy = "Raise the fraction, or measure fewer signals."
    return f"{text} That is {times}: too few for a peak or a trigger. {remedy}"


def _listed(epochs: list[int]) -> str:
    return ", ".join(map(str, epochs if len(epochs) <= 3 else [*epochs[:2], "...", epochs[-1]]))


def _affordable(cost: Cost, share: float) -> tuple[int, int]:
    if share >= cost.seconds:
        return cost.num_batches, 1
    batch_seconds = cost.seconds / cost.num_batches
    # A share of nothing would ask for infinitely many epochs: once in a run is then enough.
    every = math.ceil(min(batch_seconds / share, 10**6)) if share > 0 else 10**6
    return max(1, math.floor(share / batch_seconds)), max(1, every)


def _timed(engine: Engine, tools: tuple[Instrument, ...]) -> tuple[float, dict[str, Cost]]:
    """Seconds of a training epoch, and what every signal costs; compilation is not counted."""
    state = engine.new_state(engine.spec.train.seeds[0])
    batch_size = min(engine.spec.signals.batch_size, len(engine.probe))
    one_batch, num_batches = engine.probe[:batch_size], math.ceil(len(engine.probe) / batch_size)
    costs = {}
    for tool in tools:
        divisible = tool.looks_at_examples and num_batches > 1
        probe = one_batch if divisible else engine.probe
        seconds = _typical_seconds(lambda tool=tool, probe=probe: _measured(tool, state, probe))
        costs[tool.name] = (
            Cost(seconds * num_batches, num_batches) if divisible else Cost(seconds, 1)
        )
    return _epoch_seconds(engine), costs


def _measured(tool: Instrument, state: TrainState, probe: np.ndarray) -> dict[str, Any]:
    """One measurement at epoch 1, compared with itself in the place of earlier epochs."""
    observed = tool.observe(state, 1, probe)
    past = tool.lookback(1 + measurement.NUM_OLDER_MASKS, 1)
    return tool.conclude(observed, dict.fromkeys(past, observed))


def _epoch_seconds(engine: Engine) -> float:
    """Seconds of one training epoch, by a throw-away state."""
    per_epoch = engine.steps_per_epoch
    num_steps = per_epoch if engine.form == "scan" else min(NUM_TIMED_STEPS, per_epoch)
    rates = np.full(num_steps, engine.spec.optim.learning_rate, np.float32)
    # Every call takes its state's buffers.
    states = [engine.new_state(engine.spec.train.seeds[0]) for _ in range(4)]
    return _typical_seconds(lambda: engine.train_epoch(states.pop(), rates)) * per_epoch / num_steps


def _typical_seconds(function: Callable[[], Any]) -> float:
    """The median of three calls' seconds, after one that compiles."""
    jax.block_until_ready(function())
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        jax.block_until_ready(function())
        seconds.append(time.monotonic() - started)
    return statistics.median(seconds)


def _described(
    engine: Engine,
    tools: tuple[Instrument, ...],
    fraction: float,
    epoch_seconds: float,
    costs: Mapping[str, Cost],
    chosen: Mapping[str, tuple[int, int]],
) -> dict[str, Any]:
    """What the file says."""
    described = {}
    for tool in tools:
        num_batches, every_epochs = chosen[tool.name]
        num_examples = min(num_batches * engine.spec.signals.batch_size, len(engine.probe))
        described[tool.name] = {
            "num_examples": num_examples if tool.looks_at_examples else None,
            "every_epochs": every_epochs,
            "seconds_in_full": costs[tool.name].seconds,
        }
    return {
        "max_overhead_fraction": fraction,
        "train_seconds_per_epoch": epoch_seconds,
        "num_examples": len(engine.probe),
        "signals": described,
    }
