"""How many forks of one shape train as one batch: as asked, one on CPU, else as measured here."""

import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from earlyprune_jax import records, tasks
from earlyprune_jax.grid.members import Member
from earlyprune_jax.spec import RunSpec, Setting
from earlyprune_jax.training import execution
from earlyprune_jax.training.engine import Engine, engine_id


class ForksPerBatch:
    """The widths of batches, by engine.

    Args:
        spec: of the study.
        engine: of a setting's network and data; built only where forks may train as one batch.
        asked: what the user has set. 0 = one fork where this backend trains forks one after
            another, else as many as was measured, with one epoch of throw-away runs per width.
        most: how many forks there are.
        folder: where measured widths are kept, by engine and device.
    """

    def __init__(
        self,
        spec: RunSpec,
        engine: Callable[[Setting], Engine],
        asked: int,
        most: int,
        folder: Path,
    ):
        self._spec, self._engine, self._asked = spec, engine, asked
        self._most, self._folder = most, folder
        self._narrowed: dict[str, int] = {}

    def of(self, fork: Member) -> int:
        """Returns with how many forks of its shape one may train, itself counted."""
        # Several processes share the batches of one run.
        if self._asked == 1 or jax.process_count() > 1:
            return 1
        spec = self._spec.at(fork.setting)
        if not (self._asked or execution.batches_forks(jax.default_backend())):
            return 1
        # Where batches come in kinds, each run has an order of kinds of its own.
        if len(tasks.abstract(spec).batching.kinds) > 1:
            return 1
        width = self._asked or self._measured(fork.setting)
        return min(width, self._narrowed.get(engine_id(spec), width))

    def narrow(self, fork: Member) -> int:
        """Halves the batches of a network that did not fit, and returns their new width.

        A batch has equally many forks on every device; below one on each, forks train one by one.
        """
        num_devices = self._engine(fork.setting).fork_mesh.size
        half = self.of(fork) // 2
        width = max(half - half % num_devices, 1)
        self._narrowed[engine_id(self._spec.at(fork.setting))] = width
        return width

    def _measured(self, setting: Setting) -> int:
        try:
            engine = self._engine(setting)
        except Exception:  # a network that cannot be built: the fork, trained alone, will say so
            return 1
        return measured_width(engine, self._most, self._folder)


def measured_width(engine: Engine, most: int, folder: Path) -> int:
    """Returns the width measured on this device for so many forks or more, or measures it now.

    Args:
        engine: of the forks' network and data.
        most: how many forks there are.
        folder: of the measured widths.

    Returns:
        The width, in [1, most].
    """
    device = jax.devices()[0].device_kind.replace(" ", "-").replace("/", "-")
    path = folder / f"{engine_id(engine.spec)}_{device}_x{engine.fork_mesh.size}.json"
    known = records.read_json(path)
    # What was as wide as there were forks might have been wider.
    if known is None or known["width"] >= known.get("most", 0) < most:
        folder.mkdir(exist_ok=True)
        known = {"width": measure_width(engine, most), "most": most}
        records.write_json(path, known)
    return max(1, min(known["width"], most))


def measure_width(engine: Engine, most: int) -> int:
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
