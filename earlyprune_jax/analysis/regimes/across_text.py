"""What holds across grids, in words: other schedules, depths and amounts of data."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from earlyprune_jax.analysis import words
from earlyprune_jax.analysis.places import Place
from earlyprune_jax.analysis.regimes import scaling, sentences
from earlyprune_jax.analysis.regimes.findings import Findings
from earlyprune_jax.analysis.regimes.scaling import DEPTH, Series


def lines(findings: Sequence[Findings]) -> Iterator[str]:
    """Writes a line per control at constant rate, and a line per series over depth or data.

    Example:
        >>> list(lines([]))
        []
    """
    by_place = {one.grid.place: one for one in findings}
    yield from _constant_rate_lines(by_place)
    for series in scaling.series([one.grid for one in findings]):
        yield from _series_lines(series, [by_place[grid.place] for grid in series.grids])


def _constant_rate_lines(by_place: Mapping[Place, Findings]) -> Iterator[str]:
    """Does the break vanish where the trunk's rate never drops?"""
    for place, one in by_place.items():
        twin = by_place.get(place.changed(schedule="constant"))
        if twin is not None and twin is not one:
            about = words.label(place.without("schedule"))
            yield (
                f"Control, trunks at a constant rate ({about}): {sentences.line(twin)}; "
                f"with the {place['schedule']} schedule {sentences.line(one)}."
            )


def _series_lines(series: Series, findings: Sequence[Findings]) -> Iterator[str]:
    """The best epochs of the heaviest common sparsity, from small to large."""
    high = scaling.high_sparsities(series.grids, ())
    if not high:
        return
    rows = [one.rows[one.grid.sparsities.index(high[-1])] for one in findings]
    pairs = [
        (value, row.best.epoch) for value, row in zip(series.values, rows, strict=True) if row.best
    ]
    if len(pairs) < 2:
        return
    listed = ", ".join(f"{epoch} at {_value_label(series, value)}" for value, epoch in pairs)
    inner = "model" if series.axis == DEPTH else "train_fraction"
    where = f"at {words.removed(high[-1])} % removed ({words.label(series.grids[0].place.without(inner))})"
    trend = _trend([epoch for _, epoch in pairs])
    yield f"Best epoch against {series.axis} {where}: {listed}: {trend}."


def _trend(epochs: Sequence[int]) -> str:
    steps = np.diff(epochs)
    if not steps.any():
        return "the same at all"
    if (steps >= 0).all():
        return "never earlier at the next"
    return "never later at the next" if (steps <= 0).all() else "in no single direction"


def _value_label(series: Series, value: float) -> str:
    return f"{value:.0f}" if series.axis == DEPTH else f"{100 * value:.6g} %"
