"""Where along the trunk a signal is largest, per trunk seed and for the mean over seeds."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from earlyprune_jax.analysis import results
from earlyprune_jax.analysis.runs import Run

PLATEAU_FRACTION = 0.02
"""Epochs whose value lies within this fraction of the maximum belong to its plateau."""
HEADLINE = ("fisher_trace", "kl_uniform_bits", "random_distance")
"""The signals of the two papers: what the figure shows and the summary describes."""
SPREADS = ("_standard_error", "_std")
OTHER_READINGS = {
    "fisher_trace_all": "fisher_trace",
    "kl_uniform_nats": "kl_uniform_bits",
    "random_distance_plain": "random_distance",
}
"""Columns that say nothing that another, where it is there, does not say."""
FLAT_SHARE = 0.25
"""A plateau over at least this share of the measured epochs makes the maximum flat."""


@dataclasses.dataclass(frozen=True)
class Peak:
    """The maximum of one signal along the trunk.

    `trunk_seed` is None for the mean over seeds. `edge` is 'first' or 'last' where the maximum
    lies at an end of the measured epochs: the signal then has no interior peak, and the true
    maximum may lie outside. `plateau` is the first and the last epoch whose value lies within 2 %
    of the maximum; `flat` says that these span a quarter of all epochs or more: the epoch of the
    maximum is then an accident.
    """

    signal: str
    trunk_seed: int | None
    epoch: int
    value: float
    edge: str | None
    plateau: tuple[int, int]
    flat: bool


def signal_names(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The signals of `results.signal_rows`, in column order.

    Example:
        >>> signal_names([{"trunk_seed": 0, "epoch": 1, "fisher_trace": 3.0}])
        ['fisher_trace']
    """
    return [name for name in (rows[0] if rows else {}) if name not in results.SIGNAL_KEYS]


def main_signals(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The signals that stand for something: no standard errors, one column a quantity.

    Example:
        >>> main_signals([{"trunk_seed": 0, "epoch": 1, "fisher_trace": 3.0, "fisher_trace_all": 4.0}])
        ['fisher_trace']
    """
    names = signal_names(rows)
    values = [name for name in names if not name.endswith(SPREADS)]
    return [name for name in values if OTHER_READINGS.get(name) not in names]


def headline_signals(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The signals shown and described: those of `HEADLINE`, or where none is there the first three.

    Example:
        >>> headline_signals([{"trunk_seed": 0, "epoch": 1, "mask_distance": 0.1, "fisher_trace": 3.0}])
        ['fisher_trace']
    """
    names = main_signals(rows)
    return [name for name in HEADLINE if name in names] or names[: len(HEADLINE)]


def comparable_trunks(runs: Sequence[Run]) -> list[Run]:
    """The trunks whose signals may be averaged: the finished ones, or while none is, all going on.

    A trunk that stopped early would shift the mean curve at the epoch it stopped, which can
    look like a peak.

    Example:
        >>> comparable_trunks([])
        []
    """
    trunks = [run for run in runs if run.kind == "trunk"]
    finished = [run for run in trunks if run.status == "finished"]
    return finished or [run for run in trunks if run.status == "unfinished"]


def comparable_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The rows of `results.signal_rows` of the comparable trunks, up to the epoch all have reached.

    Trunks that a trigger ended have not all reached the same; unfinished ones keep all they have.

    Example:
        >>> comparable_rows([])
        []
    """
    trunks = comparable_trunks(runs)
    rows = results.signal_rows(trunks)
    ends = [run.epochs.last["epoch"] for run in trunks if run.status == "finished" and run.records]
    return [row for row in rows if not ends or row["epoch"] <= min(ends)]


def mean_curve(rows: Sequence[dict[str, Any]], signal: str) -> tuple[np.ndarray, np.ndarray]:
    """The signal's mean over trunk seeds at every epoch.

    Values that are absent or not finite are ignored; an epoch without any other is left out.

    Args:
        rows: Rows of `results.signal_rows`.
        signal: A column of theirs.

    Returns:
        Epochs [E], ascending, and means [E] in the signal's unit.

    Example:
        >>> rows = [{"trunk_seed": s, "epoch": 1, "x": x} for s, x in ((0, 1.0), (1, 2.0))]
        >>> mean_curve(rows, "x")
        (array([1]), array([1.5]))
    """
    by_epoch: dict[int, list[float]] = {}
    for row in rows:
        if row[signal] is not None and np.isfinite(row[signal]):
            by_epoch.setdefault(row["epoch"], []).append(row[signal])
    epochs = sorted(by_epoch)
    return np.array(epochs, dtype=int), np.array([np.mean(by_epoch[epoch]) for epoch in epochs])


def mean_peak(rows: Sequence[dict[str, Any]], signal: str) -> Peak | None:
    """The peak of the mean over trunk seeds; None where nothing finite was measured.

    Guarantees the earliest epoch where several share the maximum.

    Example:
        >>> rows = [{"trunk_seed": 0, "epoch": e, "x": x} for e, x in ((1, 1.0), (2, 5.0), (3, 5.0))]
        >>> peak = mean_peak(rows, "x")
        >>> peak.epoch, peak.value, peak.edge, peak.plateau, peak.flat
        (2, 5.0, None, (2, 3), True)
    """
    return _peak(signal, None, *mean_curve(rows, signal))


def seed_peaks(rows: Sequence[dict[str, Any]], signal: str) -> list[Peak]:
    """The signal's peak in each trunk seed that has a finite value, by ascending seed.

    Example:
        >>> rows = [{"trunk_seed": s, "epoch": e, "x": float(e - s)} for s in (0, 1) for e in (1, 2)]
        >>> [(peak.trunk_seed, peak.epoch, peak.edge) for peak in seed_peaks(rows, "x")]
        [(0, 2, 'last'), (1, 2, 'last')]
    """
    seeds = sorted({row["trunk_seed"] for row in rows})
    by_seed = ([row for row in rows if row["trunk_seed"] == seed] for seed in seeds)
    found = (_peak(signal, seed, *mean_curve(own, signal)) for seed, own in zip(seeds, by_seed, strict=True))
    return [peak for peak in found if peak is not None]


def _peak(signal: str, seed: int | None, epochs: np.ndarray, values: np.ndarray) -> Peak | None:
    if not values.size:
        return None
    top = int(np.argmax(values))
    near = np.flatnonzero(values >= values[top] - PLATEAU_FRACTION * abs(values[top]))
    start, stop = int(near[0]), int(near[-1])
    edge = "first" if top == 0 else "last" if top == len(values) - 1 else None
    plateau = (int(epochs[start]), int(epochs[stop]))
    # A single epoch is no plateau, however few epochs there are.
    flat = stop > start and stop - start + 1 >= FLAT_SHARE * len(values)
    return Peak(signal, seed, int(epochs[top]), float(values[top]), edge, plateau, flat)
