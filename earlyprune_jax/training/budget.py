"""What signals may cost: a part of the training time, kept by looking at fewer examples or epochs.

Costs are measured once, before the first trunk of an engine, and the decision is written
down: every trunk, and every continuation, measures the same.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from earlyprune_jax.training.engine import Engine, probe_indices
from earlyprune_jax.training.measurement import NUM_OLDER_MASKS, Instrument
from earlyprune_jax.training.state import TrainState

NUM_TIMED_STEPS = 4
"""Training steps that are timed where steps are called one by one; a scan is timed over an
epoch."""

ONCE = 10**6
"""A signal that is due after so many epochs only is measured once in a run, after its first."""


def decide(engine: Engine, tools: tuple[Instrument, ...]) -> dict[str, Any]:
    """Times a training step and every signal, and divides `signals.max_overhead_fraction`.

    Args:
        engine: whose training the signals accompany.
        tools: the signals, each measuring in full.

    Returns:
        The decision, plain data for a file.
    """
    spec, num_examples = engine.spec.signals, len(engine.probe)
    state, costs = engine.new_state(engine.spec.train.seeds[0]), {}
    for tool in tools:
        num_batches = 1
        if tool.probe is not None:
            num_batches = math.ceil(num_examples / spec.batch_size)
            tool = dataclasses.replace(tool, probe=engine.probe[: spec.batch_size])

        def measure(tool=tool):
            # At epoch 1, compared with itself in the place of earlier epochs.
            observed = tool.observe(state, 1, tool.probe)
            past = tool.lookback(1 + NUM_OLDER_MASKS, 1)
            return tool.conclude(observed, dict.fromkeys(past, observed))

        costs[tool.name] = typical_seconds(measure) * num_batches, num_batches
    epoch_seconds = step_seconds(engine) * engine.steps_per_epoch
    chosen = divide(costs, spec.max_overhead_fraction * epoch_seconds)
    by_name = {}
    for tool in tools:
        num_batches, every_epochs = chosen[tool.name]
        looked_at = min(num_batches * spec.batch_size, num_examples)
        by_name[tool.name] = {
            "num_examples": None if tool.probe is None else looked_at,
            "every_epochs": every_epochs,
            "seconds_in_full": costs[tool.name][0],
        }
    return {
        "max_overhead_fraction": spec.max_overhead_fraction,
        "train_seconds_per_epoch": epoch_seconds,
        "num_examples": num_examples,
        "signals": by_name,
    }


def limited(
    engine: Engine, tools: tuple[Instrument, ...], decision: Mapping[str, Any]
) -> tuple[Instrument, ...]:
    """Limits how much of every signal is measured.

    Args:
        engine: whose training the signals accompany.
        tools: the signals, each measuring in full.
        decision: of `decide`, about these signals.

    Returns:
        The signals, those that do not fit with fewer probe examples or measured at fewer epochs.
    """
    made = []
    for tool in tools:
        chosen, probe = decision["signals"][tool.name], None
        if tool.probe is not None:
            # A smaller probe is a subset of a larger one.
            seed = engine.spec.data.split_seed
            probe = probe_indices(engine.num_train, chosen["num_examples"], seed)
        every_epochs = chosen["every_epochs"]
        made.append(dataclasses.replace(tool, probe=probe, every_epochs=every_epochs))
    return tuple(made)


def divide(
    costs: Mapping[str, tuple[float, int]], allowed_seconds: float
) -> dict[str, tuple[int, int]]:
    """Shares a budget among signals: cheap ones are measured whole, dear ones share what is left.

    A signal that needs no more than an equal share of what is left gets what it needs, until only
    dearer ones are left; each of those gets an equal share, in whole batches. Where not even one
    batch fits, it is measured after fewer epochs.

    Args:
        costs: signal -> seconds on all probe examples, and the equal parts in which it takes them.
        allowed_seconds: an epoch, for all signals.

    Returns:
        Signal -> (batches measured, every how many epochs).

    Example:
        >>> divide({"cheap": (1.0, 1), "dear": (40.0, 10)}, 9.0)
        {'cheap': (1, 1), 'dear': (2, 1)}
        >>> divide({"dear": (40.0, 10)}, 1.0)
        {'dear': (1, 4)}
    """
    chosen, left = {}, allowed_seconds
    for index, name in enumerate(sorted(costs, key=lambda name: costs[name][0])):
        (seconds, num_batches), share = costs[name], left / (len(costs) - index)
        left -= min(seconds, share)
        if share >= seconds:
            chosen[name] = num_batches, 1
            continue
        batch_seconds = seconds / num_batches
        every = math.ceil(min(batch_seconds / share, ONCE)) if share > 0 else ONCE
        chosen[name] = max(1, math.floor(share / batch_seconds)), max(1, every)
    return chosen


def typical_seconds(function: Callable[[], object]) -> float:
    """Returns the median of three calls' seconds, after one that compiles."""
    seconds = []
    for _ in range(4):
        started = time.monotonic()
        jax.block_until_ready(function())
        seconds.append(time.monotonic() - started)
    return statistics.median(seconds[1:])


def step_seconds(engine: Engine) -> float:
    """Times a training step of a throw-away run, on this device."""
    num_steps = engine.steps_per_epoch
    if engine.form == "loop":
        num_steps = min(NUM_TIMED_STEPS, num_steps)
    current = engine.new_state(0)

    def train() -> TrainState:
        nonlocal current
        # At these rates no step changes a weight.
        current, _ = engine.train_epoch(current, np.zeros(num_steps, np.float32))
        return current

    return typical_seconds(train) / num_steps
