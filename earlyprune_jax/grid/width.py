"""How many forks of one shape train as one batch: as told, one on CPU, else as measured on this device."""

import time
from pathlib import Path

import jax

from earlyprune_jax import records
from earlyprune_jax.training import cohort, execution
from earlyprune_jax.training.engine import Engine


def fork_width(engine: Engine, asked: int, most: int, folder: Path) -> int:
    """The width of a batch of forks.

    Args:
        engine: of the forks' network and data.
        asked: what the user has set; 0 = measure.
        most: as many forks as there are.
        folder: where what has been measured is kept, by network, data and device.

    Returns:
        `asked`; or 1 where forks of this backend train one after another; or what was measured, with one
        epoch of throw-away runs a width.
    """
    if asked or not execution.batches_forks(jax.default_backend()):
        return asked or 1
    network = engine.spec.settings()[0].network_slug
    device = jax.devices()[0].device_kind.replace(" ", "-").replace("/", "-")
    path = folder / f"{network}_{device}_x{engine.fork_mesh.num_devices}.json"
    known = records.read_json(path)
    if known is None:
        folder.mkdir(exist_ok=True)
        known = {"width": measure(engine, most)}
        records.write_json(path, known)
    return max(1, min(known["width"], most))


def measure(engine: Engine, most: int) -> int:
    """Tries widths on the device; see `execution.measured_width`."""
    state = engine.new_state(engine.spec.train.seeds[0])
    rates = cohort.no_rates(engine)

    def seconds_of(width: int) -> float:
        stack = cohort.make(engine, [state] * width, max(width, 2))
        stack.train_epoch([rates] * width)
        started = time.monotonic()
        stack.train_epoch([rates] * width)
        return time.monotonic() - started

    return execution.measured_width(
        seconds_of, most, jax.errors.JaxRuntimeError, multiple_of=engine.fork_mesh.num_devices
    )
