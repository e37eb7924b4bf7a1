"""When a trunk's training had converged, by its train loss and train accuracy."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from earlyprune_jax.analysis.results import Run

METRICS = ("train_loss", "train_accuracy")
TOLERANCE = 0.05
"""Of the total change: what still separates a converged epoch from the end."""
TAIL = 0.1
"""Of the epochs: over these the level at the end is taken."""
WINDOW = 5
"""Epochs of the running median."""
DEFINITION = (
    "the first epoch from which train loss and train accuracy (running medians) stay within 5 % of their "
    "total change from their final level"
)


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
        """False where it lies within the tail itself: training had then not come to rest by its end."""
        return self.epoch <= self.num_epochs - tail_length(self.num_epochs)


def converged_at(epochs: Sequence[int], values: Sequence[float | None]) -> int | None:
    """The first epoch from which a metric stays near its final level.

    With v the running median of the values over five epochs (fewer in runs under 20), f the median of v
    over the last tenth of the epochs and v_1 its first value: the first epoch after which
    |v - f| <= 0.05 |v_1 - f| for good. The median keeps a step where it is and removes a single spike.

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
        (epoch, v) for epoch, v in zip(epochs, values, strict=True) if v is not None and math.isfinite(v)
    ]
    if not pairs:
        return None
    smooth = _running_median([v for _, v in pairs])
    final = statistics.median(smooth[-tail_length(len(pairs)) :])
    reach = TOLERANCE * abs(smooth[0] - final)
    first = max((place + 1 for place, v in enumerate(smooth) if abs(v - final) > reach), default=0)
    # The last value may itself lie outside where the tail still moves.
    return pairs[min(first, len(pairs) - 1)][0]


def of_trunk(run: Run) -> int | None:
    """The later of the convergence epochs of train loss and train accuracy; None without either.

    A first loss that explodes would make the loss look converged at once; the accuracy is bounded.
    """
    epochs = [record["epoch"] for record in run.records]
    found = [converged_at(epochs, [record.get(name) for record in run.records]) for name in METRICS]
    return max((epoch for epoch in found if epoch is not None), default=None)


def of_trunks(runs: Iterable[Run]) -> Convergence | None:
    """The convergence epoch of a setting's trunks; None before one has been trained to its end.

    Example:
        >>> of_trunks([]) is None
        True
    """
    trunks = [run for run in runs if run.kind == "trunk" and run.complete]
    found: dict[int, Any] = {run.trunk_seed: of_trunk(run) for run in trunks}
    by_seed = {seed: epoch for seed, epoch in sorted(found.items()) if epoch is not None}
    if not by_seed:
        return None
    ordered = sorted(by_seed.values())
    return Convergence(ordered[len(ordered) // 2], by_seed, max(run.last_epoch for run in trunks))


def tail_length(num_epochs: int) -> int:
    """The number of last epochs whose median is the final level."""
    return max(1, round(TAIL * num_epochs))


def _running_median(values: Sequence[float]) -> list[float]:
    """Centred medians; the window shrinks at the ends and, to an odd width, in short runs."""
    width = min(WINDOW, max(1, len(values) // 4))
    half = (width - 1) // 2
    places = range(len(values))
    # Shrunk to the same number on both sides: the first value stays the first value.
    reach = [min(half, place, len(values) - 1 - place) for place in places]
    return [statistics.median(values[p - r : p + r + 1]) for p, r in zip(places, reach, strict=True)]
