"""How many forks of one shape train as one batch: as told, one on CPU, else as measured on this
device."""

import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from earlyprune_jax import records, tasks
from earlyprune_jax.grid.members import Fork
from earlyprune_jax.spec import RunSpec, Setting
from earlyprune_jax.training import execution
from earlyprune_jax.training.engine import Engine, engine_id


class Widths:
    """The widths of batches, by engine.

    Args:
        spec: of the study.
        engine: of a setting's network and data; built only where forks may train as one batch.
        asked: what the user has set; 0 = one fork where this backend trains forks one after
            another, else as many as was measured, with one epoch of throw-away runs a width.
        most: as many forks as there are.
        folder: where what has been measured is kept, by engine and device.
    """

    def __init__(
        self,
        spec: RunSpec,
        engine: Callable[[Setting], Engine],
        asked: int,
        most: int,
        folder: Path,
    ):
        self._spec, self._engine, self._asked, self._most, self._folder = (
            spec,
            engine,
            asked,
            most,
            folder,
        )
        self._narrowed: dict[str, int] = {}

    def of(self, fork: Fork) -> int:
        """With how many forks of its shape one may train, itself counted."""
        if jax.process_count() > 1:
            # All devices share the batches of one run.
            return 1
        limit = self._narrowed.get(self._engine_id(fork))
        width = self._unlimited(fork.setting)
        return width if limit is None else min(width, limit)

    def narrow(self, fork: Fork) -> int:
        """Halves the batches of a network and its data, which did not fit; returns how wide they
        are then.

        A batch has equally many forks on every device; below one on each, forks train one by one.
        """
        num_devices = self._engine(fork.setting).fork_mesh.size
        half = self.of(fork) // 2
        width = self._narrowed[self._engine_id(fork)] = max(half - half % num_devices, 1)
        return width

    def _engine_id(self, fork: Fork) -> str:
        return engine_id(self._spec.at(fork.setting))

    def _unlimited(self, setting: Setting) -> int:
        if self._asked == 1 or not (self._asked or execution.batches_forks(jax.default_backend())):
            return 1
        if len(tasks.abstract(self._spec.at(setting)).batching.kinds) > 1:
            # Each run has an order of kinds of its own.
            return 1
        if self._asked:
            return self._asked
        try:
            engine = self._engine(setting)
        except Exception:  # a network that cannot be built: the fork, trained alone, will say so
            return 1
        return measured(engine, self._most, self._folder)


def measured(engine: Engine, most: int, folder: Path) -> int:
    """The width that was measured on this device for so many forks or more, or is measured now.

    Args:
        engine: of the forks' network and data.
        most: as many forks as there are.
        folder: of the measured widths.
    """
    device = jax.devices()[0].device_kind.replace(" ", "-").replace("/", "-")
    path = folder / f"{engine_id(engine.spec)}_{device}_x{engine.fork_mesh.size}.json"
    known = records.read_json(path)
    # What was as wide as there were forks might have been wider.
    if known is None or known["width"] >= known.get("most", 0) < most:
        folder.mkdir(exist_ok=True)
        known = {"width": measure(engine, most), "most": most}
        records.write_json(path, known)
    return max(1, min(known["width"], most))


def measure(engine: Engine, most: int) -> int:
    """Tries widths on the device; see `execution.measured_width`."""
    state = engine.new_state(engine.spec.train.seeds[0])

    def seconds_of(width: int) -> float:
        # At these rates an epoch changes no weight.
        rates = np.zeros((width, engine.steps_per_epoch), np.float32)
        stack, _ = engine.train_epoch(engine.stack([state] * width, max(width, 2)), rates)
        started = time.monotonic()
        engine.train_epoch(stack, rates)
        return time.monotonic() - started

    return execution.measured_width(
        seconds_of, most, jax.errors.JaxRuntimeError, multiple_of=engine.fork_mesh.size
    )
