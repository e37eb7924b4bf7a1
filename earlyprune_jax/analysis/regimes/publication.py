"""Which figures are drawn from which findings, and under which names."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from earlyprune_jax.analysis import drawing
from earlyprune_jax.analysis.places import Place, varying
from earlyprune_jax.analysis.regimes import epoch_figures, figures, scaling, scaling_figures
from earlyprune_jax.analysis.regimes.findings import Findings
from earlyprune_jax.analysis.regimes.scaling import DATA, DEPTH, Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_GRIDS = 4
"""Grids that get heat maps of their own; series over depth and data are drawn in any case."""
MAPS, SIMILARITY, DISTANCE = "regimes", "regimes_similarity", "regimes_random_distance"
"""The figures of a grid."""
CURVE = "training_curve"
"""The figure of a setting."""
OVER = {DEPTH: "regimes_depth", DATA: "regimes_data"}
"""The figure of a series, by what it is over."""


def draw(workdir: str | Path, findings: Sequence[Findings]) -> list[Path]:
    """Draws what the data allows: figures/<name>.png and .svg.

    `regimes` (Figures 2, 3, 8), `regimes_similarity` (6), `regimes_random_distance` (7) and
    `training_curve` (10), `regimes_depth` and `regimes_data` (4, 9), with the axes on which grids,
    or series, differ at the end of the name; `regimes_optimal_epoch` (5). Figures of these
    grids that an earlier call has drawn and this one has not, such as those of the time when there
    were fewer of them and their names were shorter, are removed.

    Args:
        workdir: where `figures` lies or is made.
        findings: of its grids; the first four get figures of their own.

    Returns:
        The paths written.

    Example:
        >>> draw("no/such/workdir", ())
        []
    """
    series = scaling.series([one.grid for one in findings])
    named = (*_of_grids(findings[:MAX_GRIDS], findings), *_across(series, findings))
    drawn = {stem: figure for stem, figure in named if figure}
    return drawing.save_all(workdir, drawn, possible=_possible_stems(findings, series))


def _possible_stems(findings: Sequence[Findings], series: Sequence[Series]) -> set[str]:
    """What figures of these grids may be called, whichever grids there are beside them."""
    names = MAPS, SIMILARITY, DISTANCE, CURVE
    of_grids = {
        f"{name}{end}" for one in findings for end in _ends(one.grid.place) for name in names
    }
    return of_grids | {f"{OVER[one.axis]}{end}" for one in series for end in _ends(one.place)}


def _ends(place: Place) -> set[str]:
    """All ends of names that tell a place from others, whichever these are."""
    axes = place.axes
    subsets = (itertools.combinations(axes, size) for size in range(len(axes) + 1))
    return {_end(place, some) for some in itertools.chain.from_iterable(subsets)}


def _end(place: Place, axes: Sequence[str]) -> str:
    """The end of a file's name: tells places that differ on `axes` apart; empty without axes."""
    slug = place.slug(axes)
    return f"_{slug}" if slug else ""


def _of_grids(
    findings: Sequence[Findings], everything: Sequence[Findings]
) -> Iterator[tuple[str, "Figure | None"]]:
    axes = varying([one.grid.place for one in everything])
    settings = set()
    for one in findings:
        end, setting = _end(one.grid.place, axes), one.grid.place.setting
        yield f"{MAPS}{end}", figures.heat_maps(one)
        yield f"{SIMILARITY}{end}", figures.similarity_maps(one)
        yield f"{DISTANCE}{end}", epoch_figures.random_distance(one)
        if setting not in settings:
            settings.add(setting)
            yield f"{CURVE}{_end(setting, axes)}", epoch_figures.training_curve(one)


def _across(
    found: Sequence[Series], findings: Sequence[Findings]
) -> Iterator[tuple[str, "Figure | None"]]:
    by_place = {one.grid.place: one for one in findings}
    for axis, name in OVER.items():
        own = [one for one in found if one.axis == axis]
        axes = varying([one.place for one in own])
        for one in own[:MAX_GRIDS]:
            yield f"{name}{_end(one.place, axes)}", scaling_figures.scaling_maps(one, by_place)
    yield "regimes_optimal_epoch", scaling_figures.optimal_epochs(found, by_place)
