"""How long a training step takes here, measured in a process bound to the cores that a worker would
have.

python -m earlyprune_jax.grid.step_time < request.json
"""

import json
import os
import subprocess
import sys
import time
from typing import Any

from earlyprune_jax.grid import worker

NUM_TIMED_STEPS = 12


def measured(spec: Any, cores: list[int]) -> dict[str, float]:
    """Seconds of a step, by `engine_id`: the mean of a few, after those that compile.

    Args:
        spec: a RunSpec.
        cores: that the measuring process may use.
    """
    told = json.dumps({"spec": spec.to_message(), "cores": cores})
    command = [sys.executable, "-m", "earlyprune_jax.grid.step_time"]
    done = subprocess.run(command, input=told, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures what it is told on stdin, and prints one line of JSON."""
    told = json.loads(sys.stdin.read())
    # Before JAX is imported: its threads are as many as there are cores then.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, told["cores"])
    worker.keep_freed_memory()
    from earlyprune_jax import data, tasks
    from earlyprune_jax import spec as specs
    from earlyprune_jax.training import engine as engines

    spec, seconds = specs.from_message(told["spec"]), {}
    specs.use_code(spec)
    for setting in spec.settings():
        own = spec.at(setting)
        engine_id = engines.engine_id(own)
        if engine_id not in seconds:
            task = tasks.build(own, data.read(own.data))
            seconds[engine_id] = _step_seconds(engines.build(own, task))
    print(json.dumps(seconds))


def _step_seconds(engine: Any) -> float:
    import jax
    import numpy as np

    num_steps = engine.steps_per_epoch
    if engine.form == "loop":
        num_steps = min(NUM_TIMED_STEPS, num_steps)
    rates, seconds = np.zeros(num_steps, np.float32), 0.0
    for _ in range(2):
        state = jax.block_until_ready(engine.new_state(0))
        started = time.monotonic()
        engine.train_epoch(state, rates)
        seconds = time.monotonic() - started
    return seconds / num_steps


if __name__ == "__main__":
    main()
