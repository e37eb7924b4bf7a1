"""regimes.csv, regime_cells.csv, regime_alignment.csv and regime_baselines.csv.

Test metrics are in their own unit and direction, percents as fractions; of differences (advantage,
left_out, below_best, difference) more is better whatever the metric. Divergences are nats, epochs
counted from the trunk's start.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from earlyprune_jax.analysis import best_epoch, publish
from earlyprune_jax.analysis.regimes.findings import Findings
from earlyprune_jax.analysis.regimes.similarity import Agreement
from earlyprune_jax.analysis.stats import columns, stats


def tables(findings: Sequence[Findings]) -> dict[str, list[dict[str, Any]]]:
    """Gives file name -> rows of the tables that have rows; regimes.csv and regime_cells.csv always
    do.

    Example:
        >>> tables([])
        {}
    """
    made = zip(publish.REGIME_TABLES, (_rows, _cells, _alignments, _baselines), strict=True)
    listed = {name: [row for one in findings for row in rows_of(one)] for name, rows_of in made}
    return {name: rows for name, rows in listed.items() if rows}


def _rows(one: Findings) -> Iterator[dict[str, Any]]:
    """Yields a row per sparsity."""
    grid, alike = one.grid, one.similarity
    line = alike.line if alike else None
    for place, row in enumerate(one.rows):
        best, early, converged = row.best, row.early, row.converged
        low, high = best.interval if best and best.interval else (None, None)
        value = grid.value(float(np.nanmean(grid.test[place, best.column]))) if best else None
        divergence = _finite(alike.row_means[place]) if alike else None
        side = None
        if line is not None and divergence is not None:
            side = "less similar" if row.sparsity >= line else "similar"
        yield {
            **grid.place.named,
            "sparsity": row.sparsity,
            "best_epoch": best.epoch if best else None,
            "interval_low": low,
            "interval_high": high,
            "chosen_on": grid.metric.column(grid.split),
            "repeats": grid.repeat_kind,
            "num_repeats": best.num_repeats if best else 0,
            "num_replicates": grid.num_replicates,
            "complete": best.complete if best else None,
            f"best_{_test(one)}": value,
            "convergence_epoch": one.convergence.epoch if one.convergence else None,
            "early_epoch": row.early_epoch,
            "converged_epoch": row.converged_epoch,
            **columns("advantage", row.advantage),
            **columns("left_out_early", early.difference if early else None),
            **columns("left_out_converged", converged.difference if converged else None),
            "p_early": early.p if early else None,
            "p_early_holm": row.early_holm,
            "p_converged": converged.p if converged else None,
            "p_converged_holm": row.converged_holm,
            "verdict": row.verdict,
            "reason": row.reason,
            "transition_sparsity": one.line.sparsity,
            "model_similarity": divergence,
            "similarity_class": side,
            "similarity_transition_sparsity": line,
            **{
                f"agreement_{field.name}": getattr(one.agreement, field.name, None)
                for field in dataclasses.fields(Agreement)
            },
        }


def _cells(one: Findings) -> Iterator[dict[str, Any]]:
    """Yields a row per cell that has an ended run."""
    grid = one.grid
    for place, column in np.argwhere(grid.num_runs + grid.num_failed > 0).tolist():
        row, own = one.rows[place], grid.row(place)
        below = best_epoch.differences(own, row.best.column)[column] if row.best else None
        num_runs = int(grid.num_runs[place, column])
        yield {
            **grid.place.named,
            "sparsity": row.sparsity,
            "fork_epoch": grid.epochs[column],
            **columns(_test(one), grid.metric.sign * stats(own.test[column]) if num_runs else None),
            "num_runs": num_runs,
            "num_failed": int(grid.num_failed[place, column]),
            **columns("below_best", below),
            "is_best": row.best is not None and row.best.column == column,
            "model_similarity": (
                _finite(one.similarity.divergence[place, column]) if one.similarity else None
            ),
        }


def _alignments(one: Findings) -> Iterator[dict[str, Any]]:
    """Yields a row per sparsity, trunk seed and marker."""
    for found in one.alignments:
        yield one.grid.place.named | dataclasses.asdict(found)


def _baselines(one: Findings) -> Iterator[dict[str, Any]]:
    """Yields a row per sparsity and baseline."""
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


def _test(one: Findings) -> str:
    return one.grid.metric.column("test")


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
