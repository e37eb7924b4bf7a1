"""regimes.csv, regime_cells.csv, regime_alignment.csv and regime_baselines.csv.

Accuracies and their differences are fractions, divergences nats, epochs counted from the trunk's start.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from earlyprune_jax.analysis import curves, results
from earlyprune_jax.analysis.curves import Stats
from earlyprune_jax.analysis.regimes import best_epochs
from earlyprune_jax.analysis.regimes.findings import Findings
from earlyprune_jax.analysis.regimes.grids import KEY
from earlyprune_jax.analysis.regimes.left_out import Lead
from earlyprune_jax.analysis.regimes.similarity import Agreement
from earlyprune_jax.analysis.regimes.transition import Row

ROW_COLUMNS = (
    *KEY,
    "sparsity",
    "best_epoch",
    "interval_low",
    "interval_high",
    "chosen_on",
    "repeats",
    "num_repeats",
    "num_replicates",
    "complete",
    "best_test_accuracy",
    "convergence_epoch",
    "early_epoch",
    "converged_epoch",
    *(f"advantage_{name}" for name in ("mean", "std", "n")),
    *(f"left_out_{side}_{name}" for side in ("early", "converged") for name in ("mean", "std", "n")),
    "p_early",
    "p_early_holm",
    "p_converged",
    "p_converged_holm",
    "verdict",
    "reason",
    "transition_sparsity",
    "model_similarity",
    "similarity_class",
    "similarity_transition_sparsity",
    *(f"agreement_{field.name}" for field in dataclasses.fields(Agreement)),
)
CELL_COLUMNS = (
    *KEY,
    "sparsity",
    "fork_epoch",
    *(f"test_accuracy_{name}" for name in ("mean", "std", "n")),
    "num_runs",
    "num_failed",
    *(f"below_best_{name}" for name in ("mean", "std", "n")),
    "is_best",
    "model_similarity",
)
ALIGNMENT_COLUMNS = (
    *KEY,
    "sparsity",
    "trunk_seed",
    "marker",
    "marked_epoch",
    "edge",
    "best_epoch",
    "difference",
)
BASELINE_COLUMNS = (
    *KEY,
    "sparsity",
    "baseline",
    "best_epoch",
    "baseline_epoch",
    "best_num_epochs",
    "baseline_num_epochs",
    "best_test_accuracy",
    "baseline_test_accuracy",
    *(f"difference_{name}" for name in ("mean", "std", "n")),
    *(f"left_out_{name}" for name in ("mean", "std", "n")),
    "p",
)


def texts(findings: Sequence[Findings]) -> dict[str, str]:
    """File name -> content of the tables that have rows; regimes.csv and regime_cells.csv always do.

    Example:
        >>> texts([])
        {}
    """
    tables = {
        "regimes.csv": (ROW_COLUMNS, rows(findings)),
        "regime_cells.csv": (CELL_COLUMNS, cells(findings)),
        "regime_alignment.csv": (ALIGNMENT_COLUMNS, alignments(findings)),
        "regime_baselines.csv": (BASELINE_COLUMNS, baselines(findings)),
    }
    made = {name: (columns, list(found)) for name, (columns, found) in tables.items()}
    return {name: results.csv_text(columns, found) for name, (columns, found) in made.items() if found}


def rows(findings: Iterable[Findings]) -> Iterator[dict[str, Any]]:
    """A row a grid and sparsity."""
    for one in findings:
        for place, row in enumerate(one.rows):
            yield _row(one, place, row)


def cells(findings: Iterable[Findings]) -> Iterator[dict[str, Any]]:
    """A row a cell that has an ended run."""
    for one in findings:
        for place, row in enumerate(one.rows):
            yield from _cells(one, place, row)


def alignments(findings: Iterable[Findings]) -> Iterator[dict[str, Any]]:
    """A row a grid, sparsity, trunk seed and marker."""
    for one in findings:
        for found in one.alignments:
            yield one.grid.named | {name: getattr(found, name) for name in ALIGNMENT_COLUMNS[len(KEY) :]}


def baselines(findings: Iterable[Findings]) -> Iterator[dict[str, Any]]:
    """A row a grid, sparsity and baseline."""
    for one in findings:
        for found in one.baselines:
            yield {
                **one.grid.named,
                "sparsity": found.sparsity,
                "baseline": found.name,
                "best_epoch": found.best_epoch,
                "baseline_epoch": found.epoch,
                "best_num_epochs": found.best_num_epochs,
                "baseline_num_epochs": found.num_epochs,
                "best_test_accuracy": found.best_accuracy,
                "baseline_test_accuracy": found.accuracy,
                **_numbers("difference", found.difference),
                **_numbers("left_out", found.left_out.difference if found.left_out else None),
                "p": found.left_out.p if found.left_out else None,
            }


def _row(one: Findings, place: int, row: Row) -> dict[str, Any]:
    best, grid = row.best, one.grid
    interval = best.interval if best and best.interval else (None, None)
    return {
        **grid.named,
        "sparsity": row.sparsity,
        "best_epoch": best.epoch if best else None,
        "interval_low": interval[0],
        "interval_high": interval[1],
        "chosen_on": grid.metric,
        "repeats": grid.repeat_kind,
        "num_repeats": best.num_repeats if best else 0,
        "num_replicates": grid.num_replicates,
        "complete": best.complete if best else None,
        "best_test_accuracy": float(np.nanmean(grid.test[place, best.column])) if best else None,
        "convergence_epoch": one.convergence.epoch if one.convergence else None,
        "early_epoch": row.early_epoch,
        "converged_epoch": row.converged_epoch,
        **_numbers("advantage", row.advantage),
        **_lead("early", row.early),
        **_lead("converged", row.converged),
        "p_early_holm": row.early_holm,
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
    below = best_epochs.differences(grid, place, row.best.column) if row.best else [None] * len(grid.epochs)
    for column, epoch in enumerate(grid.epochs):
        num_runs, num_failed = int(grid.num_runs[place, column]), int(grid.num_failed[place, column])
        if not num_runs + num_failed:
            continue
        values = grid.test[place, column]
        accuracy = curves.stats(values[np.isfinite(values)]) if num_runs else None
        yield {
            **grid.named,
            "sparsity": row.sparsity,
            "fork_epoch": epoch,
            **_numbers("test_accuracy", accuracy),
            "num_runs": num_runs,
            "num_failed": num_failed,
            **_numbers("below_best", below[column]),
            "is_best": row.best is not None and row.best.column == column,
            "model_similarity": (
                _finite(one.similarity.divergence[place, column]) if one.similarity else None
            ),
        }


def _lead(side: str, lead: Lead | None) -> dict[str, Any]:
    return {
        **_numbers(f"left_out_{side}", lead.difference if lead else None),
        f"p_{side}": lead.p if lead else None,
    }


def _numbers(name: str, found: Stats | None) -> dict[str, Any]:
    return {
        f"{name}_mean": found.mean if found else None,
        f"{name}_std": found.std if found else None,
        f"{name}_n": found.n if found else 0,
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
