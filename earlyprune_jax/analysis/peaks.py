"""Where along the trunk a signal is largest, per trunk seed and for the mean over seeds."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from earlyprune_jax.analysis import results
from earlyprune_jax.analysis.places import SETTING
from earlyprune_jax.analysis.runs import Runs, Table

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


def headline_signals(columns: Iterable[str]) -> list[str]:
    """Lists the signals shown and described: those of `HEADLINE`, or where none is there the first
    three that stand for something: no standard errors, one column per quantity.

    Args:
        columns: of a table of signals, keys of settings and swept keys too.

    Returns:
        The signals, in order.

    Example:
        >>> headline_signals(["epoch", "mask_distance", "fisher_trace"])
        ['fisher_trace']
        >>> headline_signals(["epoch", "optim.momentum", "mask_distance", "mask_distance_std"])
        ['mask_distance']
    """
    columns = list(columns)
    keys = {*SETTING, "trunk_seed", "epoch"}
    names = [
        name
        for name in columns
        if name not in keys
        and "." not in name
        and not name.endswith(SPREADS)
        and OTHER_READINGS.get(name) not in columns
    ]
    return [name for name in HEADLINE if name in names] or names[: len(HEADLINE)]


def comparable_epochs(runs: Runs) -> Table:
    """Returns `results.signal_table` of the trunks whose signals may be averaged.

    These are the finished ones, or while none is, all going on: a trunk that stopped early would
    shift the mean curve at the epoch it stopped, which can look like a peak. Trunks that a trigger
    ended have not all reached the same epoch: the table ends where the first of them does.

    Args:
        runs: of one setting.
    """
    trunks = runs.of_kind("trunk")
    finished = trunks.where(trunks.frame["status"] == "finished")
    if not len(finished):
        return results.signal_table(trunks.where(trunks.frame["status"] == "unfinished"))
    table, frame = results.signal_table(finished), finished.frame
    ends = frame.loc[frame["end_epoch"] > frame["first_epoch"], "end_epoch"]
    return table[table["epoch"] <= ends.min()] if len(ends) else table


def mean_curve(table: Table, signal: str) -> tuple[np.ndarray, np.ndarray]:
    """Averages a signal over trunk seeds at every epoch.

    Values that are absent or not finite are ignored; an epoch without any other is left out.

    Args:
        table: of `results.signal_table`.
        signal: a column of it.

    Returns:
        Epochs [E], ascending, and means [E] in the signal's unit.

    Example:
        >>> import pandas as pd
        >>> mean_curve(pd.DataFrame({"trunk_seed": [0, 1], "epoch": [1, 1], "x": [1.0, 2.0]}), "x")
        (array([1]), array([1.5]))
    """
    values = table[signal].astype(float)
    means = values[np.isfinite(values)].groupby(table["epoch"]).mean()
    return means.index.to_numpy(dtype=int), means.to_numpy(dtype=float)


def mean_peak(table: Table, signal: str) -> Peak | None:
    """Finds the peak of the mean over trunk seeds; None where nothing finite was measured.

    Guarantees the earliest epoch where several share the maximum.

    Example:
        >>> import pandas as pd
        >>> peak = mean_peak(pd.DataFrame({"epoch": [1, 2, 3], "x": [1.0, 5.0, 5.0]}), "x")
        >>> peak.epoch, peak.value, peak.edge, peak.plateau, peak.flat
        (2, 5.0, None, (2, 3), True)
    """
    return _peak(signal, None, *mean_curve(table, signal))


def seed_peaks(table: Table, signal: str) -> list[Peak]:
    """Finds the signal's peak in each trunk seed that has a finite value, by ascending seed.

    Example:
        >>> import pandas as pd
        >>> seeds = {"trunk_seed": [0, 0, 1, 1], "epoch": [1, 2, 1, 2]}
        >>> table = pd.DataFrame({**seeds, "x": [1.0, 2.0] * 2})
        >>> [(peak.trunk_seed, peak.epoch, peak.edge) for peak in seed_peaks(table, "x")]
        [(0, 2, 'last'), (1, 2, 'last')]
    """
    groups = table.groupby("trunk_seed", sort=True)
    peaks = (_peak(signal, int(seed), *mean_curve(rows, signal)) for seed, rows in groups)
    return [peak for peak in peaks if peak is not None]


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
