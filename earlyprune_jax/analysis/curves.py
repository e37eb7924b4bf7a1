"""Accuracy against fork epoch: the runs behind each point, the choice of the best, its noise."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from earlyprune_jax.analysis.runs import LOST, Run, Setting

BASELINE_RULES = ("constant", "matched_budget")
"""The rules of `fork.baselines`."""
CURVE_AXES = ("criterion", "scope", "sparsity", "rule")


@dataclasses.dataclass(frozen=True)
class Stats:
    """Mean, sample standard deviation (n - 1; None for one value) and count."""

    mean: float
    std: float | None
    n: int

    def half_width(self) -> float:
        """Half the 95 % confidence interval of the mean, t(n-1) * std / sqrt(n); infinite for n = 1.

        Example:
            >>> round(Stats(0.0, 1.0, 4).half_width(), 3)
            1.591
        """
        return math.inf if self.std is None else _t975(self.n - 1) * self.std / math.sqrt(self.n)


@dataclasses.dataclass(frozen=True)
class Curve:
    """The finished forks of one setting, criterion, scope, sparsity and rule: fork epoch -> runs.

    `diverged` holds (trunk seed, fork epoch) of those that diverged or failed.
    """

    criterion: str
    scope: str
    sparsity: float
    rule: str
    runs: Mapping[int, tuple[Run, ...]]
    diverged: frozenset[tuple[int, int]] = frozenset()

    @property
    def setting(self) -> Setting:
        """The one setting of its runs; a curve without any has none."""
        return next(iter(self.runs.values()))[0].setting

    @property
    def key(self) -> tuple[Setting, str, str, float, str]:
        """What tells it from other curves."""
        return (self.setting, self.criterion, self.scope, self.sparsity, self.rule)

    @property
    def members(self) -> tuple[Run, ...]:
        """Its runs, by ascending fork epoch."""
        return tuple(run for group in self.runs.values() for run in group)

    def test(self, fork_epoch: int) -> Stats:
        """Last-epoch test accuracy over all runs (seeds and replicates) of a fork epoch."""
        return stats(run.last("test_accuracy") for run in self.runs[fork_epoch])


def stats(values: Iterable[float | None]) -> Stats:
    """Mean and sample standard deviation of the values that are not None; at least one.

    Example:
        >>> stats([1.0, 2.0, 3.0])
        Stats(mean=2.0, std=1.0, n=3)
        >>> stats([4.0])
        Stats(mean=4.0, std=None, n=1)
    """
    array = np.array([value for value in values if value is not None], dtype=float)
    std = float(np.std(array, ddof=1)) if len(array) > 1 else None
    return Stats(float(np.mean(array)), std, len(array))


def dense_runs(runs: Iterable[Run]) -> list[Run]:
    """The trunks trained to their last epoch that have a test accuracy: the baseline.

    A trunk that its trigger ended early is none.

    Example:
        >>> dense_runs([])
        []
    """
    return [run for run in runs if run.kind == "trunk" and run.complete and _has_test_accuracy(run)]


def own_dense(curve: Curve, dense: Iterable[Run]) -> list[Run]:
    """Those of the dense runs that the curve's forks may be compared with: of its setting.

    Example:
        >>> own_dense(Curve("magnitude", "global", 0.9, "paper_a", {}), [])
        []
    """
    return [run for run in dense if run.setting == curve.setting]


def fork_curves(runs: Iterable[Run], kind: str = "fork") -> list[Curve]:
    """Groups the finished forks into curves, sorted by setting and axes.

    With `kind` "online" the runs that pruned themselves: at few epochs, and not the same in all seeds.

    Diverged, failed, skipped and unfinished forks are left out, so a fork epoch may rest on fewer
    seeds than its neighbours: `Stats.n` says on how many.

    Example:
        >>> fork_curves([])
        []
    """
    groups: dict[tuple, dict[int, list[Run]]] = {}
    diverged: dict[tuple, set[tuple[int, int]]] = {}
    for run in runs:
        if run.kind != kind or run.fork_epoch is None:
            continue
        key = (run.setting, *(getattr(run, axis) for axis in CURVE_AXES))
        if _has_test_accuracy(run):
            groups.setdefault(key, {}).setdefault(run.fork_epoch, []).append(run)
        elif run.status in LOST:
            diverged.setdefault(key, set()).add((run.trunk_seed, run.fork_epoch))
    return [
        Curve(
            *key[1:],
            runs={epoch: tuple(members) for epoch, members in sorted(by_epoch.items())},
            diverged=frozenset(diverged.get(key, ())),
        )
        for key, by_epoch in sorted(groups.items())
    ]


def without_baselines(all_curves: Iterable[Curve], config: Mapping[str, Any]) -> list[Curve]:
    """The curves of the grid: those that `fork.baselines` alone has put beside it are left out.

    A baseline's criterion or rule is not among those of the config, its rule is constant or
    matched_budget, and it forks at the trunk's start or end. It may be trained far longer than a
    fork of the grid, so it is no candidate beside them.

    Args:
        all_curves: of `fork_curves`.
        config: of `results.read_config`; all curves are kept where it does not name criteria and rules.

    Example:
        >>> without_baselines([], {})
        []
    """
    rules, criteria = config.get("fork", {}).get("rules"), config.get("pruning", {}).get("criteria")
    ends = {0, config.get("train", {}).get("num_epochs")}
    if not rules or not criteria:
        return list(all_curves)
    return [
        curve
        for curve in all_curves
        if (curve.rule in rules and curve.criterion in criteria)
        or curve.rule not in BASELINE_RULES
        or not ends.issuperset(curve.runs)
    ]


def selection_metric(curve: Curve) -> str:
    """What fork epochs are chosen on: validation accuracy if every run has it, else test accuracy."""
    has_validation = all(run.last("validation_accuracy") is not None for run in curve.members)
    return "validation_accuracy" if has_validation else "test_accuracy"


def ranked_epochs(curve: Curve) -> list[int]:
    """Fork epochs, best first, by the mean last-epoch `selection_metric`; the earlier of equals first."""
    metric = selection_metric(curve)
    means = {epoch: stats(run.last(metric) for run in group).mean for epoch, group in curve.runs.items()}
    # Equal means of the same numbers in another order may differ in their last bits.
    return sorted(means, key=lambda epoch: (-round(means[epoch], 12), epoch))


def is_zero(difference: float) -> bool:
    """Whether a difference of mean accuracies is none: nothing but rounding."""
    return abs(difference) < 1e-12


def paired_difference(first: Sequence[Run], second: Sequence[Run], metric: str) -> Stats | None:
    """Mean and std over trunk seeds of (first - second), each averaged over its replicates.

    Pairing by seed removes what a seed gives to both, so the std is that of the difference
    itself. Seeds that only one side has are left out.

    Args:
        first: Runs of one cell.
        second: Runs of another cell, or the trunks; of the same setting.
        metric: A metric of the last epoch.

    Returns:
        The statistics over common seeds, or None where there is none.
    """
    left, right = by_seed(first, metric), by_seed(second, metric)
    common = sorted(left.keys() & right.keys())
    return stats(left[seed] - right[seed] for seed in common) if common else None


def clearly_better(first: Sequence[Run], second: Sequence[Run], metric: str) -> bool:
    """Whether the first leads by more than the noise: the half width of the 95 % interval of the lead.

    The interval is Student's, of the per-seed differences. Never with fewer than three common seeds, nor
    with equal differences: accuracies are multiples of 1/n, so that these are chance, not certainty.

    Example:
        >>> clearly_better([], [], "test_accuracy")
        False
    """
    lead = paired_difference(first, second, metric)
    if lead is None or lead.n < 3 or not lead.std:
        return False
    return lead.mean > lead.half_width()


def varying(curves: Sequence[Curve]) -> list[str]:
    """The axes on which the curves differ.

    Example:
        >>> varying([Curve("magnitude", "global", s, "paper_a", {}) for s in (0.8, 0.9)])
        ['sparsity']
    """
    return [axis for axis in CURVE_AXES if len({getattr(curve, axis) for curve in curves}) > 1]


def by_seed(runs: Iterable[Run], metric: str) -> dict[int, float]:
    """Trunk seed -> mean over its runs (replicates) of the metric at the last epoch; ascending seeds.

    Seeds without a value are left out.

    Example:
        >>> by_seed([], "test_accuracy")
        {}
    """
    seeds: dict[int, list[float | None]] = {}
    for run in runs:
        seeds.setdefault(run.trunk_seed, []).append(run.last(metric))
    return {
        seed: stats(values).mean
        for seed, values in sorted(seeds.items())
        if any(value is not None for value in values)
    }


def _has_test_accuracy(run: Run) -> bool:
    return run.status == "finished" and run.last("test_accuracy") is not None


def _t975(degrees: int) -> float:
    """The 97.5 % quantile of Student's t: a table up to 5 degrees of freedom, then an expansion in 1/df."""
    table = (12.706, 4.303, 3.182, 2.776, 2.571)
    if degrees <= len(table):
        return table[degrees - 1]
    return 1.960 + 2.372 / degrees + 2.823 / degrees**2
