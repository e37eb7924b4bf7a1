"""Does a signal rank the fork epochs as their forks' metric does? Spearman's rank correlation, per
seed."""

import dataclasses
from collections.abc import Sequence

from earlyprune_jax.analysis import peaks
from earlyprune_jax.analysis.curves import Curve
from earlyprune_jax.analysis.regret import Grid, truths
from earlyprune_jax.analysis.stats import Stats, stats

MIN_EPOCHS = 3
"""Two epochs correlate perfectly whatever they hold."""


@dataclasses.dataclass(frozen=True)
class Correlation:
    """One signal against the quality of one curve's forks.

    Attributes:
        signal: a column of the trunk's records.
        over_seeds: of the seeds' coefficients; None where no seed has one. 1 says that forks are
            the better the larger the column, whatever the metric's direction.
        epoch_itself: the same for the epoch number in the signal's place, over the same forks:
            whatever rises or falls all along says no more than that.
        num_epochs: the fewest fork epochs that a seed's coefficient rests on.
    """

    curve: Curve
    signal: str
    over_seeds: Stats | None
    epoch_itself: Stats | None
    num_epochs: int


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Takes Spearman's rank correlation; None where one side is constant.

    Example:
        >>> round(spearman([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 40.0, 30.0]), 6)
        0.8
        >>> spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
        True
    """
    from scipy.stats import spearmanr

    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(spearmanr(first, second)[0])  # pyright: ignore[reportArgumentType]


def correlations(data: Grid, curve: Curve) -> tuple[Correlation, ...]:
    """Correlates every column that was measured along the trunks, largest mean magnitude first.

    Standard errors and the learning rate are left out.
    """
    names = [
        name
        for name in data.columns
        if not name.endswith(peaks.SPREADS) and name != "learning_rate"
    ]
    found = [correlation(data, curve, name) for name in names]
    return tuple(
        sorted(
            found, key=lambda one: -round(abs(one.over_seeds.mean), 12) if one.over_seeds else 1.0
        )
    )


def correlation(data: Grid, curve: Curve, signal: str) -> Correlation:
    """Correlates one column with the quality of the curve's forks, and the epoch number beside it.

    A seed's coefficient is over the fork epochs at which the column was measured, at least three.

    Args:
        data: of the curve's setting.
        curve: one of its curves.
        signal: a column of `data.columns`.

    Returns:
        The coefficients over seeds; None in it where no seed has one.
    """
    coefficients, control, sizes = [], [], []
    for truth in truths(curve):
        entries = data.entries.get(truth.trunk_seed, {})
        epochs = [epoch for epoch in truth.values if entries.get(epoch, {}).get(signal) is not None]
        values = [float(entries[epoch][signal]) for epoch in epochs]
        qualities = [truth.values[epoch] for epoch in epochs]
        coefficient = spearman(values, qualities) if len(epochs) >= MIN_EPOCHS else None
        if coefficient is not None:
            sizes.append(len(epochs))
            coefficients.append(coefficient)
            control.append(spearman(epochs, qualities))
    if not sizes:
        return Correlation(curve, signal, None, None, 0)
    return Correlation(curve, signal, stats(coefficients), stats(control), min(sizes))
