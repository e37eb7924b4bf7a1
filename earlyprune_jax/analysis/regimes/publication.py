"""Which figures are drawn from which findings, and under which names."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from earlyprune_jax.analysis import results
from earlyprune_jax.analysis.regimes import epoch_figures, figures, scaling, scaling_figures, words
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
    `training_curve` (10), `regimes_depth` and `regimes_data` (4, 9), with the axes on which grids, or
    series, differ at the end of the name; `regimes_optimal_epoch` (5). Figures of these
    grids that an earlier call has drawn and this one has not, such as those of the time when there were
    fewer of them and their names were shorter, are removed.

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
    paths = [path for stem, figure in drawn.items() for path in figures.save(figure, workdir, stem)]
    figures.remove(workdir, _possible_stems(findings, series) - drawn.keys())
    return paths


def _possible_stems(findings: Sequence[Findings], series: Sequence[Series]) -> set[str]:
    """What figures of these grids may be called, whichever grids there are beside them."""
    names = MAPS, SIMILARITY, DISTANCE, CURVE
    of_grids = {f"{name}{end}" for one in findings for end in words.slugs(one.grid) for name in names}
    return of_grids | {f"{OVER[one.axis]}{end}" for one in series for end in words.slugs(one)}


def _of_grids(
    findings: Sequence[Findings], everything: Sequence[Findings]
) -> Iterator[tuple[str, "Figure | None"]]:
    axes = words.varying([one.grid for one in everything])
    settings = set()
    for one in findings:
        end = words.slug(one.grid, axes)
        yield f"{MAPS}{end}", figures.heat_maps(one)
        yield f"{SIMILARITY}{end}", figures.similarity_maps(one)
        yield f"{DISTANCE}{end}", epoch_figures.random_distance(one)
        if one.grid.setting not in settings:
            settings.add(one.grid.setting)
            end = words.slug(one.grid, [axis for axis in axes if axis in results.SETTING])
            yield f"{CURVE}{end}", epoch_figures.training_curve(one)


def _across(found: Sequence[Series], findings: Sequence[Findings]) -> Iterator[tuple[str, "Figure | None"]]:
    by_key = {one.grid.key: one for one in findings}
    for axis, name in OVER.items():
        own = [one for one in found if one.axis == axis]
        axes = words.varying(own)
        for one in own[:MAX_GRIDS]:
            yield f"{name}{words.slug(one, axes)}", scaling_figures.scaling_maps(one, by_key)
    yield "regimes_optimal_epoch", scaling_figures.optimal_epochs(found, by_key)
