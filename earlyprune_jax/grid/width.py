"""How many forks of one shape train as one batch: as told, one on CPU, else as measured on this device."""

import time
from collections.abc import Callable
from pathlib import Path

import jax

from earlyprune_jax import records
from earlyprune_jax.grid.members import Fork
from earlyprune_jax.spec import Setting
from earlyprune_jax.training import cohort, execution
from earlyprune_jax.training.engine import Engine


class Widths:
    """The widths of batches, by network and data.

    Args:
        engine: of a setting's network and data; built only where a width has to be measured.
        asked: what the user has set; 0 = one fork where this backend trains forks one after another, else
            as many as was measured, with one epoch of throw-away runs a width.
        most: as many forks as there are.
        folder: where what has been measured is kept, by network, data and device.
    """

    def __init__(self, engine: Callable[[Setting], Engine], asked: int, most: int, folder: Path):
        self._engine, self._asked, self._most, self._folder = engine, asked, most, folder
        self._narrowed: dict[str, int] = {}

    def of(self, fork: Fork) -> int:
        """With how many forks of its shape one may train, itself counted."""
        if jax.process_count() > 1:
            # All devices share the images of one run.
            return 1
        limit = self._narrowed.get(fork.setting.network_slug)
        width = self._unlimited(fork.setting)
        return width if limit is None else min(width, limit)

    def narrow(self, fork: Fork) -> int:
        """Halves the batches of a network and its data, which did not fit; returns how wide they are then.

        A batch has equally many forks on every device; below one on each, forks train one by one.
        """
        num_devices = self._engine(fork.setting).fork_mesh.num_devices
        half = self.of(fork) // 2
        width = self._narrowed[fork.setting.network_slug] = max(half - half % num_devices, 1)
        return width

    def _unlimited(self, setting: Setting) -> int:
        if self._asked or not execution.batches_forks(jax.default_backend()):
            return self._asked or 1
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
    network = engine.spec.settings()[0].network_slug
    device = jax.devices()[0].device_kind.replace(" ", "-").replace("/", "-")
    path = folder / f"{network}_{device}_x{engine.fork_mesh.num_devices}.json"
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
