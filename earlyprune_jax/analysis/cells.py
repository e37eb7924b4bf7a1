"""Grids of forks: which runs belong together, and their numbers as arrays over repeats."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from earlyprune_jax.analysis.places import Place
from earlyprune_jax.analysis.runs import LOST, Runs, Table
from earlyprune_jax.analysis.stats import mean_of
from earlyprune_jax.metrics import Metric

CELL = ("sparsity", "fork_epoch", "trunk_seed", "replicate")


@dataclasses.dataclass(frozen=True, eq=False)
class Cells:
    """The forks of one sparsity, larger = better whatever the metric.

    A *repeat* is what noise is measured over: a trunk seed, its value in a cell being the mean over
    replicates; or with a single trunk seed a replicate, which holds the noise of fine-tuning only.

    Attributes:
        epochs: fork epochs, ascending; E of them.
        chosen_on: [E, R] sign * the primary metric that epochs are chosen on, at the last epoch;
            NaN where no run has finished.
        test: [E, R] the same on the test set.
        repeat_kind: "seed" or "replicate".
    """

    epochs: tuple[int, ...]
    chosen_on: np.ndarray
    test: np.ndarray
    repeat_kind: str = "seed"

    @property
    def num_repeats(self) -> int:
        """Counts the repeats that have a value."""
        return int(np.isfinite(self.chosen_on).any(axis=0).sum())


@dataclasses.dataclass(frozen=True, eq=False)
class CellGrid:
    """The forks of one place, over sparsities and fork epochs.

    Attributes:
        place: setting, criterion, scope, retraining, swept keys of forks.
        metric: the primary one.
        sparsities: ascending; S of them.
        epochs: fork epochs, ascending; E of them.
        repeat_kind: "seed" or "replicate", see `Cells`.
        repeats: the seeds or replicates, ascending; R of them.
        num_replicates: the most that a seed has in a cell.
        split: what epochs are chosen on: validation if every finished run has it, else test.
        chosen_on: [S, E, R] as in `Cells`.
        test: [S, E, R] likewise.
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
    def is_two_dimensional(self) -> bool:
        """Tells whether at least 2 sparsities and 2 fork epochs have finished runs."""
        rows, columns = (np.any(self.num_runs, axis=axis).sum() for axis in (1, 0))
        return bool(rows >= 2 and columns >= 2)

    @property
    def num_repeats(self) -> int:
        """Seeds or replicates."""
        return len(self.repeats)

    def row(self, place: int) -> Cells:
        """Gives the cells of a sparsity."""
        return Cells(self.epochs, self.chosen_on[place], self.test[place], self.repeat_kind)

    def value(self, mean: float) -> float:
        """Turns a mean of `test` into the metric's own direction."""
        return self.metric.sign * mean


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
    frame = runs.frame
    frame = frame[(frame["kind"] == "fork") & frame["status"].isin(("finished", *LOST))]
    axes = [axis for axis in runs.curve_axes if axis != "sparsity"]
    groups = frame.groupby(axes, sort=False, dropna=False) if len(frame) else ()
    found = [grid_of(Place.of(axes, values), runs.metric, own) for values, own in groups]
    return sorted(found, key=lambda grid: grid.place)


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
    at = tuple(
        np.searchsorted(values, runs[axis].to_numpy(dtype=float))
        for axis, values in zip(CELL, axes, strict=True)
    )
    shape = tuple(map(len, axes))
    is_finished = ((runs["status"] == "finished") & runs[metric.column("test")].notna()).to_numpy(
        dtype=bool
    )
    validation = metric.column("validation")
    has_validation = is_finished.any() and bool(runs.loc[is_finished, validation].notna().all())
    split = "validation" if has_validation else "test"
    # [S, E, seeds, replicates]
    chosen_on, test = (
        _values(runs, metric, name, at, is_finished, shape) for name in (split, "test")
    )
    by_seed = mean_of(chosen_on, axis=-1)
    # A single trunk seed leaves the replicates as the only repeats; several hold their trunks'
    # noise too.
    over_seeds = len(seeds) > 1 or len(replicates) == 1
    num_failed, num_epochs = np.zeros(shape[:2], dtype=int), np.zeros(shape[:2], dtype=int)
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


def _values(
    runs: Table,
    metric: Metric,
    split: str,
    at: tuple[np.ndarray, ...],
    kept: np.ndarray,
    shape: Sequence[int],
) -> np.ndarray:
    values = np.full(shape, np.nan)
    numbers = metric.sign * runs[metric.column(split)].to_numpy(dtype=float)
    values[tuple(axis[kept] for axis in at)] = numbers[kept]
    return values
