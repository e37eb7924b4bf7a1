"""Which figures are drawn from which findings, and under which names."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from earlyprune_jax.analysis import results
from earlyprune_jax.analysis.regimes import epoch_figures, figures, scaling, scaling_figures, words
from earlyprune_jax.analysis.regimes.findings import Findings
from earlyprune_jax.analysis.regimes.scaling import DATA, DEPTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_GRIDS = 4
"""Grids that get heat maps of their own; series over depth and data are drawn in any case."""
OVER = {DEPTH: "regimes_depth", DATA: "regimes_data"}
"""The figure of a series, by what it is over."""


def draw(workdir: str | Path, findings: Sequence[Findings]) -> list[Path]:
    """Draws what the data allows: figures/<name>.png and .svg.

    `regimes` (Figures 2, 3, 8), `regimes_similarity` (6), `regimes_random_distance` (7) and
    `training_curve` (10), `regimes_depth` and `regimes_data` (4, 9), with the axes on which grids, or
    series, differ at the end of the name; `regimes_optimal_epoch` (5).

    Args:
        workdir: where `figures` lies or is made.
        findings: of its grids; the first four get figures of their own.

    Returns:
        The paths written.

    Example:
        >>> draw("no/such/workdir", ())
        []
    """
    named = (*_of_grids(findings[:MAX_GRIDS], findings), *_across(findings))
    return [path for stem, figure in named if figure for path in figures.save(figure, workdir, stem)]


def _of_grids(
    findings: Sequence[Findings], everything: Sequence[Findings]
) -> Iterator[tuple[str, "Figure | None"]]:
    axes = words.varying([one.grid for one in everything])
    settings = set()
    for one in findings:
        end = words.slug(one.grid, axes)
        yield f"regimes{end}", figures.heat_maps(one)
        yield f"regimes_similarity{end}", figures.similarity_maps(one)
        yield f"regimes_random_distance{end}", epoch_figures.random_distance(one)
        if one.grid.setting not in settings:
            settings.add(one.grid.setting)
            end = words.slug(one.grid, [axis for axis in axes if axis in results.SETTING])
            yield f"training_curve{end}", epoch_figures.training_curve(one)


def _across(findings: Sequence[Findings]) -> Iterator[tuple[str, "Figure | None"]]:
    by_key = {one.grid.key: one for one in findings}
    found = scaling.series([one.grid for one in findings])
    for axis, name in OVER.items():
        own = [one for one in found if one.axis == axis]
        axes = words.varying(own)
        for one in own[:MAX_GRIDS]:
            yield f"{name}{words.slug(one, axes)}", scaling_figures.scaling_maps(one, by_key)
    yield "regimes_optimal_epoch", scaling_figures.optimal_epochs(found, by_key)
