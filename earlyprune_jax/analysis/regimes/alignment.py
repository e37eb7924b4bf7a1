"""Does random_distance peak where pruning is best? Per trunk seed, beside rules that measure
nothing."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from earlyprune_jax.analysis import peaks, results
from earlyprune_jax.analysis.cells import CellGrid
from earlyprune_jax.analysis.runs import Runs
from earlyprune_jax.analysis.stats import Stats, best_column, stats

SIGNAL = "random_distance"
FRACTIONS = (0.3, 0.5)
"""Of the trunk's epochs: the controls that look at nothing."""
FIRST_DROP = "first learning-rate drop"


@dataclasses.dataclass(frozen=True)
class Alignment:
    """One seed's best epoch of a row against the epoch that a marker points to.

    Attributes:
        marker: `SIGNAL`, or a control: "fixed 30 %", "fixed 50 %", `FIRST_DROP`.
        edge: "first" or "last" where the signal is largest at an end of the measured epochs: no
            peak.
        best_epoch: of the seed's own mean over replicates.
        difference: marked epoch minus best epoch.
    """

    sparsity: float
    trunk_seed: int
    marker: str
    marked_epoch: int
    edge: str | None
    best_epoch: int
    difference: int


@dataclasses.dataclass(frozen=True)
class Marker:
    """A marker over the seeds of some rows: how far from their best epochs.

    Attributes:
        distance: mean and std over seeds of |marked - best|, each averaged over the rows.
        offset: the same with sign.
        num_edges: seeds in which the signal has no interior peak.
    """

    name: str
    distance: Stats
    offset: Stats
    num_edges: int


def alignments(grid: CellGrid, runs: Runs) -> tuple[Alignment, ...]:
    """Compares every row, seed and marker of a grid.

    Args:
        grid: the grid.
        runs: of its setting; the config says where a step schedule drops the rate first.

    Returns:
        Row by row, seed by seed; markers in the order signal, fixed fractions, drop. A seed without
        a finished fork in the row is left out, and so is the signal where it was not measured.
    """
    marked = _signal_peaks(runs)
    controls = _controls(grid, runs)
    found = []
    for row, sparsity in enumerate(grid.sparsities):
        for place, seed in enumerate(grid.seeds):
            column = best_column(grid.by_seed[row, :, place])
            if column is None:
                continue
            own = {SIGNAL: marked[seed]} if seed in marked else {}
            for marker, (epoch, edge) in (own | controls).items():
                best = grid.epochs[column]
                found.append(Alignment(sparsity, seed, marker, epoch, edge, best, epoch - best))
    return tuple(found)


def over_rows(found: Iterable[Alignment], sparsities: Iterable[float]) -> tuple[Marker, ...]:
    """Averages the markers over some rows, the closest first.

    Example:
        >>> over_rows([], [0.9])
        ()
    """
    wanted = set(sparsities)
    by_marker: dict[str, dict[int, list[Alignment]]] = {}
    for one in found:
        if one.sparsity in wanted:
            by_marker.setdefault(one.marker, {}).setdefault(one.trunk_seed, []).append(one)
    markers = [_marker(name, list(seeds.values())) for name, seeds in by_marker.items()]
    return tuple(sorted(markers, key=lambda marker: marker.distance.mean))


def _marker(name: str, seeds: Sequence[Sequence[Alignment]]) -> Marker:
    def averaged(size: Any) -> Stats:
        return stats(stats(map(size, own)).mean for own in seeds)

    return Marker(
        name=name,
        distance=averaged(lambda one: abs(one.difference)),
        offset=averaged(lambda one: one.difference),
        num_edges=sum(own[0].edge is not None for own in seeds),
    )


def _signal_peaks(runs: Runs) -> dict[int, tuple[int, str | None]]:
    table = results.signal_table(runs.where(runs.frame["complete"]))
    if SIGNAL not in table:
        return {}
    return {
        peak.trunk_seed: (peak.epoch, peak.edge)
        for peak in peaks.seed_peaks(table, SIGNAL)
        if peak.trunk_seed is not None
    }


def _controls(grid: CellGrid, runs: Runs) -> dict[str, tuple[int, str | None]]:
    """Marker -> epoch, the same in every seed."""
    last = runs.of_kind("trunk").frame["last_epoch"]
    num_epochs = int(last.max()) if len(last) else max(grid.epochs)
    found: dict[str, tuple[int, str | None]] = {
        f"fixed {100 * fraction:.0f} %": (round(fraction * num_epochs), None)
        for fraction in FRACTIONS
    }
    swept = grid.place.named.get("schedule.step_boundaries_epochs")
    config = {"schedule": {"step_boundaries_epochs": swept}} if swept else runs.config
    drop = first_drop(grid.place["schedule"], config)
    return found if drop is None else {**found, FIRST_DROP: (drop, None)}


def first_drop(schedule: str, config: Mapping[str, Any]) -> int | None:
    """Gives the epoch after which a step schedule first lowers the rate; None for other schedules.

    Example:
        >>> first_drop("step", {"schedule": {"step_boundaries_epochs": [80, 120]}})
        80
        >>> first_drop("cosine", {"schedule": {"step_boundaries_epochs": [80, 120]}}) is None
        True
    """
    boundaries = config.get("schedule", {}).get("step_boundaries_epochs") or ()
    return min(boundaries) if schedule == "step" and boundaries else None
