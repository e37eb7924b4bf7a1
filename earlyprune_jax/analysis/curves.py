"""Curves: the finished forks of one place along fork epochs, and the dense runs beside them."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from earlyprune_jax.analysis.best_epoch import Ranking, rank
from earlyprune_jax.analysis.cells import CellGrid, Cells, grid_of
from earlyprune_jax.analysis.places import Place
from earlyprune_jax.analysis.runs import LOST, Runs, Table
from earlyprune_jax.analysis.stats import Stats, stats
from earlyprune_jax.metrics import Metric

BASELINE_RULES = ("constant", "matched_budget")
"""The retrainings of `fork.baselines`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """The finished forks of one place and sparsity.

    Attributes:
        place: what tells it from other curves.
        metric: the primary one.
        runs: rows of `Runs.frame`, all with a test value.
        lost: (trunk seed, fork epoch) of those that diverged or failed.
    """

    place: Place
    metric: Metric
    runs: Table
    lost: frozenset[tuple[int, int]] = frozenset()

    @property
    def setting(self) -> Place:
        """The setting of its runs."""
        return self.place.setting

    @functools.cached_property
    def grid(self) -> CellGrid:
        """Its cells as a grid of one sparsity."""
        return grid_of(self.place.without("sparsity"), self.metric, self.runs)

    @property
    def cells(self) -> Cells:
        """Its cells."""
        return self.grid.row(0)

    @functools.cached_property
    def ranking(self) -> Ranking:
        """Its fork epochs, best first, and which of them may be the best."""
        return rank(self.cells)

    @property
    def epochs(self) -> tuple[int, ...]:
        """Its fork epochs, ascending."""
        return self.grid.epochs

    @property
    def split(self) -> str:
        """What its fork epochs are chosen on: validation if every run has it, else test."""
        return self.grid.split

    @functools.cached_property
    def test_by_seed(self) -> dict[int, dict[int, float]]:
        """Trunk seed -> fork epoch -> the test metric, the mean over replicates; both ascending."""
        column = self.metric.column("test")
        cells: dict[int, dict[int, float]] = {}
        for (seed, epoch), mean in (
            self.runs.groupby(["trunk_seed", "fork_epoch"])[column].mean().items()
        ):
            cells.setdefault(int(seed), {})[int(epoch)] = float(mean)
        return cells

    def at(self, fork_epoch: int) -> Table:
        """Gives the runs of a fork epoch."""
        return self.runs[self.runs["fork_epoch"] == fork_epoch]

    def test(self, fork_epoch: int | None = None) -> Stats:
        """Averages the last-epoch test metric over all runs (seeds, replicates), or those of a fork
        epoch."""
        runs = self.runs if fork_epoch is None else self.at(fork_epoch)
        return stats(runs[self.metric.column("test")])

    def against(self, dense: Table, fork_epoch: int, split: str = "test") -> Stats | None:
        """Compares a fork epoch with the dense runs of its setting: see `paired_difference`.

        Args:
            dense: of `dense_runs`, of any settings.
            fork_epoch: one of `epochs`.
            split: of the metric that is compared.

        Returns:
            Forks minus dense runs, over common seeds; None without any.
        """
        return paired_difference(
            self.at(fork_epoch), own_dense(self, dense), self.metric.column(split)
        )


def dense_runs(runs: Runs) -> Table:
    """Gives the trunks trained to their last epoch that have a test value: the baseline.

    A trunk that its trigger ended early is none.

    Example:
        >>> from earlyprune_jax.analysis.runs import read_runs
        >>> len(dense_runs(read_runs("no/such/workdir")))
        0
    """
    frame = runs.frame
    return frame[
        (frame["kind"] == "trunk") & frame["complete"] & frame[runs.metric.column("test")].notna()
    ]


def own_dense(curve: Curve, dense: Table) -> Table:
    """Keeps those of the dense runs that the curve's forks may be compared with: of its setting."""
    same = np.ones(len(dense), dtype=bool)
    for axis, value in curve.setting.items:
        same &= np.array([own == value for own in dense[axis]], dtype=bool)
    return dense[same]


def fork_curves(runs: Runs, kind: str = "fork") -> list[Curve]:
    """Groups the finished forks into curves, sorted by place.

    With `kind` "online" the runs that pruned themselves: at few epochs, and not the same in all
    seeds.

    Diverged, failed, skipped and unfinished forks are left out, so a fork epoch may rest on fewer
    seeds than its neighbours: `Stats.n` says on how many.

    Example:
        >>> from earlyprune_jax.analysis.runs import read_runs
        >>> fork_curves(read_runs("no/such/workdir"))
        []
    """
    frame = runs.frame
    frame = frame[(frame["kind"] == kind) & frame["fork_epoch"].notna()]
    axes, column, found = list(runs.curve_axes), runs.metric.column("test"), []
    for values, own in frame.groupby(axes, sort=False, dropna=False) if len(frame) else ():
        finished = own[(own["status"] == "finished") & own[column].notna()]
        lost = own[own["status"].isin(LOST)]
        pairs = frozenset(zip(lost["trunk_seed"], lost["fork_epoch"], strict=True))
        if len(finished):
            found.append(Curve(Place.of(axes, values), runs.metric, finished, pairs))
    return sorted(found, key=lambda curve: curve.place)


def without_baselines(all_curves: Iterable[Curve], config: Mapping[str, Any]) -> list[Curve]:
    """Keeps the curves of the grid: those that `fork.baselines` alone has put beside it are left
    out.

    A baseline's criterion or retraining is not among those of the config, it is retrained by
    constant or matched_budget, and it forks at the trunk's start or end. It may be trained far
    longer than a fork of the grid, so it is no candidate beside them.

    Args:
        all_curves: of `fork_curves`.
        config: of `study.read_config`; all curves are kept where it does not name criteria and
            rules.

    Example:
        >>> without_baselines([], {})
        []
    """
    retrainings = config.get("fork", {}).get("retraining")
    criteria = config.get("pruning", {}).get("criteria")
    if not retrainings or not criteria:
        return list(all_curves)
    return [
        curve
        for curve in all_curves
        if (curve.place["retraining"] in retrainings and curve.place["criterion"] in criteria)
        or curve.place["retraining"] not in BASELINE_RULES
        or not {0, _trunk_epochs(curve, config)}.issuperset(curve.epochs)
    ]


def _trunk_epochs(curve: Curve, config: Mapping[str, Any]) -> Any:
    return curve.place.named.get("train.num_epochs", config.get("train", {}).get("num_epochs"))


def by_seed(runs: Table, column: str) -> dict[int, float]:
    """Averages a column over the runs (replicates) of each trunk seed; ascending seeds.

    Seeds without a value are left out.
    """
    means = runs[column].groupby(runs["trunk_seed"].astype(int)).mean().dropna()
    return {int(seed): float(mean) for seed, mean in means.items()}


def paired_difference(first: Table, second: Table, column: str) -> Stats | None:
    """Takes mean and std over trunk seeds of (first - second), each averaged over its replicates.

    Pairing by seed removes what a seed gives to both, so the std is that of the difference
    itself. Seeds that only one side has are left out.

    Args:
        first: Runs of one cell.
        second: Runs of another cell, or the trunks; of the same setting.
        column: A metric of the last epoch, in its own direction.

    Returns:
        The statistics over common seeds, or None where there is none.
    """
    left, right = by_seed(first, column), by_seed(second, column)
    common = sorted(left.keys() & right.keys())
    return stats(left[seed] - right[seed] for seed in common) if common else None
