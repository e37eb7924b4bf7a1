"""The forks of a workdir as curves along fork epochs and as grids, beside the dense runs.

A curve holds the forks of one sparsity; a grid holds curves that differ in the sparsity only, as
arrays over repeats. `Setting` is where an analysis of single settings starts.
"""

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np

from earlyprune_jax import run_records
from earlyprune_jax.analysis import peaks
from earlyprune_jax.analysis.best_epoch import Ranking, rank
from earlyprune_jax.analysis.peaks import Peak
from earlyprune_jax.analysis.places import Place
from earlyprune_jax.analysis.runs import LOST, Runs, Table, by_setting, groups_of
from earlyprune_jax.analysis.stats import Stats, mean_of, stats
from earlyprune_jax.metrics import Metric
from earlyprune_jax.triggers import History

CELL = ("sparsity", "fork_epoch", "trunk_seed", "replicate")
BASELINE_RETRAININGS = ("constant", "matched_budget")
"""The retrainings of `fork.baselines`."""
NO_DECISION = ("step", "epoch", "num_epochs", "seconds", "train_seconds", "compile_seconds")
"""Numbers of a record that are no measurement of the network."""


@dataclasses.dataclass(frozen=True, eq=False)
class CellGrid:
    """The forks of one place, over sparsities and fork epochs.

    Attributes:
        place: setting, criterion, scope, retraining, swept keys of forks.
        metric: the primary one.
        sparsities: ascending; S of them.
        epochs: fork epochs, ascending; E of them.
        repeat_kind: "seed" or "replicate", see `best_epoch`.
        repeats: the seeds or replicates, ascending; R of them.
        num_replicates: the most that a seed has in a cell.
        split: what epochs are chosen on: validation if every finished run has it, else test.
        chosen_on: [S, E, R] sign * the primary metric that epochs are chosen on, at the last epoch;
            NaN where no run has finished.
        test: [S, E, R] the same on the test set.
        by_seed: [S, E, number of seeds] `chosen_on` by trunk seed, whatever the repeats are.
        seeds: the trunk seeds, ascending.
        num_runs: [S, E] finished runs.
        num_failed: [S, E] runs that diverged or failed.
        num_epochs: [S, E] epochs trained in all, dense and pruned, of the longest run; 0 where none
            is.
    """

    place: Place
    metric: Metric
    sparsities: tuple[float, ...]
    epochs: tuple[int, ...]
    repeat_kind: str
    repeats: tuple[int, ...]
    num_replicates: int
    split: str
    chosen_on: np.ndarray
    test: np.ndarray
    by_seed: np.ndarray
    seeds: tuple[int, ...]
    num_runs: np.ndarray
    num_failed: np.ndarray
    num_epochs: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """Counts the sparsities and the fork epochs that have finished runs."""
        rows, columns = (int(np.any(self.num_runs, axis=axis).sum()) for axis in (1, 0))
        return rows, columns

    @property
    def is_two_dimensional(self) -> bool:
        """Tells whether at least 2 sparsities and 2 fork epochs have finished runs."""
        return min(self.size) >= 2


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """The finished forks of one place and sparsity.

    Attributes:
        setting: which it belongs to.
        place: what tells it from other curves.
        runs: rows of `Runs.frame`, all with a test value.
        lost: (trunk seed, fork epoch) of those that diverged or failed.
        grid: the same runs as arrays, of one sparsity.
    """

    setting: "Setting"
    place: Place
    runs: Table
    lost: frozenset[tuple[int, int]]
    grid: CellGrid

    @property
    def metric(self) -> Metric:
        """The primary metric."""
        return self.setting.metric

    @functools.cached_property
    def ranking(self) -> Ranking:
        """Its fork epochs, best first, and which of them may be the best."""
        return rank(self.epochs, self.grid.chosen_on[0])

    @property
    def epochs(self) -> tuple[int, ...]:
        """Its fork epochs, ascending."""
        return self.grid.epochs

    @property
    def split(self) -> str:
        """What its fork epochs are chosen on: validation if every run has it, else test."""
        return self.grid.split

    def at(self, fork_epoch: int) -> Table:
        """Returns the runs of a fork epoch."""
        return self.runs[self.runs["fork_epoch"] == fork_epoch]

    def test(self, fork_epoch: int | None = None) -> Stats:
        """Averages the last-epoch test metric over all runs (seeds, replicates), or those of a fork
        epoch."""
        runs = self.runs if fork_epoch is None else self.at(fork_epoch)
        return stats(runs[self.metric.column("test")])

    def against_dense(self, fork_epoch: int, split: str = "test") -> Stats | None:
        """Compares a fork epoch with the dense runs of its setting.

        Pairing by seed removes what a seed gives to both, so the std is that of the difference
        itself. Seeds that only one side has are left out.

        Args:
            fork_epoch: one of `epochs`.
            split: of the metric that is compared.

        Returns:
            Mean and std over common seeds of forks minus dense run, each seed being the mean over
            its replicates; None without common seeds.
        """
        column = self.metric.column(split)
        forks, dense = (
            runs[column].groupby(runs["trunk_seed"].astype(int)).mean()
            for runs in (self.at(fork_epoch), self.setting.dense)
        )
        differences = (forks - dense).dropna()
        return stats(differences) if len(differences) else None


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """The runs of one setting and what is worked out of them, each on first use.

    Attributes:
        runs: of the setting; see `settings_of`.
    """

    runs: Runs

    @property
    def place(self) -> Place:
        """The values that tell it from other settings."""
        return self.runs.setting

    @property
    def metric(self) -> Metric:
        """The primary metric."""
        return self.runs.metric

    @functools.cached_property
    def forks(self) -> tuple[Curve, ...]:
        """All curves of finished forks, sorted by place, baselines beside the grid too."""
        return self._curves("fork")

    @functools.cached_property
    def curves(self) -> tuple[Curve, ...]:
        """The curves of the grid: those that `fork.baselines` alone has put beside it are left out.

        A baseline's criterion or retraining is not among those of the config, it is retrained by
        constant or matched_budget, and it forks at the trunk's start or end. It may be trained far
        longer than a fork of the grid, so it is no candidate beside them. All curves are kept where
        the config does not name criteria and retrainings.
        """
        config = self.runs.config
        retrainings = config.get("fork", {}).get("retraining")
        criteria = config.get("pruning", {}).get("criteria")
        if not retrainings or not criteria:
            return self.forks
        planned = config.get("train", {}).get("num_epochs")
        ends = {0, self.place.named.get("train.num_epochs", planned)}
        return tuple(
            curve
            for curve in self.forks
            if (curve.place["retraining"] in retrainings and curve.place["criterion"] in criteria)
            or curve.place["retraining"] not in BASELINE_RETRAININGS
            or not ends.issuperset(curve.epochs)
        )

    @functools.cached_property
    def online(self) -> tuple[Curve, ...]:
        """The runs that pruned themselves: at few epochs, and not the same in all seeds."""
        return self._curves("online")

    @property
    def pruned(self) -> tuple[Curve, ...]:
        """The curves of the grid, then the runs that pruned themselves."""
        return (*self.curves, *self.online)

    @functools.cached_property
    def dense(self) -> Table:
        """The trunks trained to their last epoch that have a test value: the baseline.

        A trunk that its trigger ended early is none.
        """
        frame = self.runs.frame
        has_value = frame[self.metric.column("test")].notna()
        return frame[(frame["kind"] == "trunk") & frame["complete"] & has_value]

    @property
    def dense_test(self) -> Stats | None:
        """The test metric of the dense runs; None without any."""
        return stats(self.dense[self.metric.column("test")]) if len(self.dense) else None

    @functools.cached_property
    def signals(self) -> Table:
        """The signals along the trunks, see `peaks.comparable_epochs`."""
        return peaks.comparable_epochs(self.runs)

    @functools.cached_property
    def peaks(self) -> list[Peak]:
        """Where the means of the headline signals are largest."""
        names = peaks.headline_signals(self.signals.columns.drop(list(self.runs.setting_axes)))
        means = (peaks.mean_peak(self.signals, name) for name in names)
        return [peak for peak in means if peak is not None]

    @functools.cached_property
    def num_epochs(self) -> int:
        """T, the length of the trunks: as planned, or that of the longest."""
        trunks = self.runs.of_kind("trunk")
        last = (trunks if len(trunks) else self.runs).frame["last_epoch"]
        is_swept = "train.num_epochs" in self.runs.swept.trunk
        planned = None if is_swept else self.runs.config.get("train", {}).get("num_epochs")
        return planned or int(last.max() if len(last) else 0)

    @functools.cached_property
    def histories(self) -> dict[int, History]:
        """Trunk seed -> what a trigger sees along its trunk."""
        trunks = self.runs.of_kind("trunk").frame
        return {
            int(seed): run_records.as_history(map(dict, self.runs.entries[name]), self.num_epochs)
            for seed, name in zip(trunks["trunk_seed"], trunks["name"], strict=True)
        }

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """What rules may look at: every measured number but test metrics and timings."""
        names = dict.fromkeys(
            name
            for history in self.histories.values()
            for entry in history
            for name, value in entry.items()
            if value is not None
        )
        return tuple(n for n in names if n not in NO_DECISION and not n.startswith("test_"))

    def _curves(self, kind: str) -> tuple[Curve, ...]:
        """Groups finished runs into curves.

        Diverged, failed, skipped and unfinished ones are left out, so a fork epoch may rest on
        fewer seeds than its neighbours: `Stats.n` says on how many.
        """
        frame, curves = self.runs.of_kind(kind).frame, []
        for place, runs in groups_of(frame[frame["fork_epoch"].notna()], self.runs.curve_axes):
            has_value = runs[self.metric.column("test")].notna()
            finished = runs[(runs["status"] == "finished") & has_value]
            lost = runs[runs["status"].isin(LOST)]
            pairs = frozenset(zip(lost["trunk_seed"], lost["fork_epoch"], strict=True))
            if len(finished):
                grid = grid_of(place.without("sparsity"), self.metric, finished)
                curves.append(Curve(self, place, finished, pairs, grid))
        return tuple(curves)


def settings_of(runs: Runs) -> list[Setting]:
    """Splits the runs of a workdir by setting, sorted: trunks of two settings may share a seed.

    Example:
        >>> from earlyprune_jax.analysis.runs import read_runs
        >>> settings_of(read_runs("no/such/workdir"))
        []
    """
    return [Setting(own) for own in by_setting(runs).values()]


def all_curves(settings: Iterable[Setting]) -> list[Curve]:
    """Lists the curves of the grids of several settings."""
    return [curve for setting in settings for curve in setting.curves]


def find_grids(runs: Runs) -> list[CellGrid]:
    """Groups the forks of a workdir into grids, sorted by place; those of any size.

    Finished forks with a test value have cells; diverged and failed ones are counted; skipped and
    unfinished ones leave their cell empty, or resting on fewer repeats.

    Args:
        runs: of a workdir; other kinds than forks are passed over.

    Returns:
        The grids. Time and memory are proportional to the number of runs.

    Example:
        >>> from earlyprune_jax.analysis.runs import read_runs
        >>> find_grids(read_runs("no/such/workdir"))
        []
    """
    frame = runs.of_kind("fork").frame
    axes = [axis for axis in runs.curve_axes if axis != "sparsity"]
    groups = groups_of(frame[frame["status"].isin(("finished", *LOST))], axes)
    return [grid_of(place, runs.metric, rows) for place, rows in groups]


def grid_of(place: Place, metric: Metric, runs: Table) -> CellGrid:
    """Arranges forks of one place as arrays.

    Args:
        place: what they have in common, without the sparsity.
        metric: the primary one.
        runs: rows of `Runs.frame`: finished, diverged or failed.

    Returns:
        The grid; NaN in cells without a finished run.
    """
    axes = [sorted(set(runs[axis].tolist())) for axis in CELL]
    sparsities, epochs, seeds, replicates = axes
    numbers = runs[list(CELL)].to_numpy(dtype=float).T
    at = tuple(np.searchsorted(np.array(v), n) for v, n in zip(axes, numbers, strict=True))
    is_finished = (runs["status"] == "finished") & runs[metric.column("test")].notna()
    is_finished = is_finished.to_numpy(dtype=bool)
    finished = runs[is_finished]
    has_validation = len(finished) and finished[metric.column("validation")].notna().all()
    split = "validation" if has_validation else "test"
    # [S, E, seeds, replicates], larger = better.
    chosen_on, test = (np.full(tuple(map(len, axes)), np.nan) for _ in range(2))
    for values, of in ((chosen_on, split), (test, "test")):
        numbers = finished[metric.column(of)].to_numpy(dtype=float)
        values[tuple(index[is_finished] for index in at)] = metric.sign * numbers
    by_seed = mean_of(chosen_on, axis=-1)
    # A single trunk seed leaves the replicates as the only repeats; several hold their trunks'
    # noise too.
    over_seeds = len(seeds) > 1 or len(replicates) == 1
    num_failed, num_epochs = (np.zeros(test.shape[:2], dtype=int) for _ in range(2))
    np.add.at(num_failed, at[:2], (runs["status"] != "finished").to_numpy(dtype=int))
    np.maximum.at(num_epochs, at[:2], runs["last_epoch"].to_numpy(dtype=int))
    return CellGrid(
        place=place,
        metric=metric,
        sparsities=tuple(sparsities),
        epochs=tuple(epochs),
        repeat_kind="seed" if over_seeds else "replicate",
        repeats=tuple(seeds if over_seeds else replicates),
        num_replicates=int(np.isfinite(test).sum(axis=3).max(initial=0)),
        split=split,
        chosen_on=by_seed if over_seeds else chosen_on[:, :, 0],
        test=mean_of(test, axis=-1) if over_seeds else test[:, :, 0],
        by_seed=by_seed,
        seeds=tuple(seeds),
        num_runs=np.isfinite(test).sum(axis=(2, 3)),
        num_failed=num_failed,
        num_epochs=num_epochs,
    )
