"""regimes.csv, regime_cells.csv, regime_alignment.csv and regime_baselines.csv.

Test metrics are in their own unit and direction, percents as fractions; of differences (advantage,
left_out, below_best, difference) more is better whatever the metric. Divergences are nats, epochs
counted from the trunk's start.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from earlyprune_jax.analysis import best_epoch, publish
from earlyprune_jax.analysis.regimes.findings import Findings
from earlyprune_jax.analysis.regimes.similarity import Agreement
from earlyprune_jax.analysis.regimes.transition import Row
from earlyprune_jax.analysis.stats import columns, stats


def tables(findings: Sequence[Findings]) -> dict[str, list[dict[str, Any]]]:
    """Gives file name -> rows of the tables that have rows; regimes.csv and regime_cells.csv always
    do.

    Example:
        >>> tables([])
        {}
    """
    made = (rows(findings), cells(findings), alignments(findings), baselines(findings))
    listed = dict(zip(publish.REGIME_TABLES, map(list, made), strict=True))
    return {name: found for name, found in listed.items() if found}


def rows(findings: Iterable[Findings]) -> Iterator[dict[str, Any]]:
    """Yields a row per grid and sparsity."""
    for one in findings:
        for place, row in enumerate(one.rows):
            yield _row(one, place, row)


def cells(findings: Iterable[Findings]) -> Iterator[dict[str, Any]]:
    """Yields a row per cell that has an ended run."""
    for one in findings:
        for place, row in enumerate(one.rows):
            yield from _cells(one, place, row)


def alignments(findings: Iterable[Findings]) -> Iterator[dict[str, Any]]:
    """Yields a row per grid, sparsity, trunk seed and marker."""
    for one in findings:
        for found in one.alignments:
            yield one.grid.place.named | dataclasses.asdict(found)


def baselines(findings: Iterable[Findings]) -> Iterator[dict[str, Any]]:
    """Yields a row per grid, sparsity and baseline."""
    for one in findings:
        for found in one.baselines:
            yield {
                **one.grid.place.named,
                "sparsity": found.sparsity,
                "baseline": found.name,
                "best_epoch": found.best_epoch,
                "baseline_epoch": found.epoch,
                "best_num_epochs": found.best_num_epochs,
                "baseline_num_epochs": found.num_epochs,
                f"best_{_test(one)}": found.best_value,
                f"baseline_{_test(one)}": found.value,
                **columns("difference", found.difference),
                **columns("left_out", found.left_out.difference if found.left_out else None),
                "p": found.left_out.p if found.left_out else None,
            }


def _row(one: Findings, place: int, row: Row) -> dict[str, Any]:
    best, grid = row.best, one.grid
    interval = best.interval if best and best.interval else (None, None)
    return {
        **grid.place.named,
        "sparsity": row.sparsity,
        "best_epoch": best.epoch if best else None,
        "interval_low": interval[0],
        "interval_high": interval[1],
        "chosen_on": grid.metric.column(grid.split),
        "repeats": grid.repeat_kind,
        "num_repeats": best.num_repeats if best else 0,
        "num_replicates": grid.num_replicates,
        "complete": best.complete if best else None,
        f"best_{_test(one)}": grid.value(float(np.nanmean(grid.test[place, best.column])))
        if best
        else None,
        "convergence_epoch": one.convergence.epoch if one.convergence else None,
        "early_epoch": row.early_epoch,
        "converged_epoch": row.converged_epoch,
        **columns("advantage", row.advantage),
        **columns("left_out_early", row.early.difference if row.early else None),
        **columns("left_out_converged", row.converged.difference if row.converged else None),
        "p_early": row.early.p if row.early else None,
        "p_early_holm": row.early_holm,
        "p_converged": row.converged.p if row.converged else None,
        "p_converged_holm": row.converged_holm,
        "verdict": row.verdict,
        "reason": row.reason,
        "transition_sparsity": one.line.sparsity,
        **_similarity(one, place),
    }


def _similarity(one: Findings, place: int) -> dict[str, Any]:
    found = one.similarity
    mean = _finite(found.row_means[place]) if found else None
    line = found.line if found else None
    side = None if line is None or mean is None else one.grid.sparsities[place] >= line
    return {
        "model_similarity": mean,
        "similarity_class": None if side is None else ("less similar" if side else "similar"),
        "similarity_transition_sparsity": line,
        **{
            f"agreement_{field.name}": getattr(one.agreement, field.name, None)
            for field in dataclasses.fields(Agreement)
        },
    }


def _cells(one: Findings, place: int, row: Row) -> Iterator[dict[str, Any]]:
    grid = one.grid
    own = grid.row(place)
    below = best_epoch.differences(own, row.best.column) if row.best else [None] * len(grid.epochs)
    for column, epoch in enumerate(grid.epochs):
        num_runs, num_failed = (
            int(grid.num_runs[place, column]),
            int(grid.num_failed[place, column]),
        )
        if not num_runs + num_failed:
            continue
        found = grid.metric.sign * stats(own.test[column]) if num_runs else None
        yield {
            **grid.place.named,
            "sparsity": row.sparsity,
            "fork_epoch": epoch,
            **columns(_test(one), found),
            "num_runs": num_runs,
            "num_failed": num_failed,
            **columns("below_best", below[column]),
            "is_best": row.best is not None and row.best.column == column,
            "model_similarity": (
                _finite(one.similarity.divergence[place, column]) if one.similarity else None
            ),
        }


def _test(one: Findings) -> str:
    return one.grid.metric.column("test")


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
