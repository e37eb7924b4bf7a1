"""When a trunk's training had converged, by its metrics on the training data."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

from earlyprune_jax.analysis.runs import Runs

TOLERANCE = 0.05
"""Of the total change: what still separates a converged epoch from the end."""
TAIL = 0.1
"""Of the epochs: over these the level at the end is taken."""
WINDOW = 5
"""Epochs of the running median."""


@dataclasses.dataclass(frozen=True)
class Convergence:
    """The convergence epoch of the trunks of a setting.

    Attributes:
        epoch: the median over trunk seeds, of an even number the later one in the middle.
        by_seed: trunk seed -> its own.
        num_epochs: of the trunks.
    """

    epoch: int
    by_seed: dict[int, int]
    num_epochs: int

    @property
    def settled(self) -> bool:
        """False where it lies within the tail itself: training had then not come to rest by its
        end."""
        return self.epoch <= self.num_epochs - tail_length(self.num_epochs)


def converged_at(epochs: Sequence[int], values: Sequence[float | None]) -> int | None:
    """Finds the first epoch from which a metric stays near its final level.

    With v the running median of the values over five epochs (fewer in runs under 20), f the median
    of v over the last tenth of the epochs and v_1 its first value: the first epoch after which
    |v - f| <= 0.05 |v_1 - f| for good. The median keeps a step where it is and removes a single
    spike.

    Args:
        epochs: ascending.
        values: the metric at those epochs; not finite ones are passed over.

    Returns:
        The epoch; None without a finite value.

    Example:
        >>> converged_at(range(1, 11), [10.0, 5.0, 4.0, 3.0, 0.3, 0.1, 0.0, 0.0, 0.0, 0.0])
        5
    """
    pairs = [
        (epoch, v)
        for epoch, v in zip(epochs, values, strict=True)
        if v is not None and math.isfinite(v)
    ]
    if not pairs:
        return None
    smooth = _running_median([v for _, v in pairs])
    final = statistics.median(smooth[-tail_length(len(pairs)) :])
    reach = TOLERANCE * abs(smooth[0] - final)
    first = max((place + 1 for place, v in enumerate(smooth) if abs(v - final) > reach), default=0)
    # The last value may itself lie outside where the tail still moves.
    return pairs[min(first, len(pairs) - 1)][0]


def columns(runs: Runs) -> list[str]:
    """Lists the train metrics that were recorded along the trunks of `runs`."""
    trunks = runs.of_kind("trunk").frame["name"]
    return [
        column
        for column in (metric.column("train") for metric in runs.study.metrics)
        if any(entry.get(column) is not None for name in trunks for entry in runs.entries[name])
    ]


def of_trunks(runs: Runs) -> Convergence | None:
    """Gives the convergence epoch of a setting's trunks; None before one has been trained to its
    end.

    A trunk has converged when the last of its train metrics has: a first loss that explodes would
    make the loss look converged at once, but a share is bounded.
    """
    frame = runs.of_kind("trunk").frame
    trunks, metrics = frame[frame["complete"]].sort_values("trunk_seed"), columns(runs)
    by_seed: dict[int, int] = {}
    for name, seed in zip(trunks["name"], trunks["trunk_seed"], strict=True):
        entries = runs.entries[name]
        epochs = [entry["epoch"] for entry in entries]
        found = [
            converged_at(epochs, [entry.get(metric) for entry in entries]) for metric in metrics
        ]
        known = [epoch for epoch in found if epoch is not None]
        if known:
            by_seed[int(seed)] = max(known)
    if not by_seed:
        return None
    ordered = sorted(by_seed.values())
    return Convergence(ordered[len(ordered) // 2], by_seed, int(trunks["last_epoch"].max()))


def tail_length(num_epochs: int) -> int:
    """Gives the number of last epochs whose median is the final level."""
    return max(1, round(TAIL * num_epochs))


def _running_median(values: Sequence[float]) -> list[float]:
    """Centred medians; the window shrinks at the ends and, to an odd width, in short runs."""
    width = min(WINDOW, max(1, len(values) // 4))
    half = (width - 1) // 2
    places = range(len(values))
    # Shrunk to the same number on both sides: the first value stays the first value.
    reach = [min(half, place, len(values) - 1 - place) for place in places]
    return [
        statistics.median(values[p - r : p + r + 1]) for p, r in zip(places, reach, strict=True)
    ]
