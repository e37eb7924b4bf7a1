"""Which forks belong together: a grid of sparsities x fork epochs, as arrays over its repeats."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from earlyprune_jax import records
from earlyprune_jax.analysis import results
from earlyprune_jax.analysis.results import Run
from earlyprune_jax.validate import InvalidInput, expected, shortened

KEY = (*results.SETTING, "criterion", "scope", "rule")
"""What is the same in all runs of a grid."""
Key = tuple[str, float, str, str, str, str]


@dataclasses.dataclass(frozen=True, eq=False)
class RegimeGrid:
    """The forks of one setting, criterion, scope and rule.

    A *repeat* is what noise is measured over: a trunk seed, its value in a cell being the mean over
    replicates; or with a single trunk seed a replicate, which holds the noise of fine-tuning only.

    Attributes:
        sparsities: ascending; S of them.
        epochs: fork epochs, ascending; E of them.
        repeat_kind: "seed" or "replicate".
        repeats: the seeds or replicates, ascending; R of them.
        num_seeds: trunk seeds.
        num_replicates: the most that a seed has in a cell.
        metric: what epochs are chosen on: validation accuracy if every finished run has it, else test.
        chosen_on: [S, E, R] that metric at the last epoch; NaN where no run has finished.
        test: [S, E, R] test accuracy at the last epoch; NaN likewise.
        by_seed: [S, E, number of seeds] the metric by trunk seed, whatever the repeats are.
        seeds: the trunk seeds, ascending.
        num_runs: [S, E] finished runs.
        num_failed: [S, E] runs that diverged or failed.
        num_epochs: [S, E] epochs trained in all, dense and pruned, of the longest run; 0 where none is.
    """

    key: Key
    sparsities: tuple[float, ...]
    epochs: tuple[int, ...]
    repeat_kind: str
    repeats: tuple[int, ...]
    num_replicates: int
    metric: str
    chosen_on: np.ndarray
    test: np.ndarray
    by_seed: np.ndarray
    seeds: tuple[int, ...]
    num_runs: np.ndarray
    num_failed: np.ndarray
    num_epochs: np.ndarray

    @property
    def named(self) -> dict[str, Any]:
        """The key by axis."""
        return dict(zip(KEY, self.key, strict=True))

    @property
    def setting(self) -> tuple[Any, ...]:
        """Model, data fraction and schedule of its trunks."""
        return self.key[: len(results.SETTING)]

    @property
    def is_two_dimensional(self) -> bool:
        """Whether at least 2 sparsities and 2 fork epochs have finished runs."""
        rows, columns = (np.any(self.num_runs, axis=axis).sum() for axis in (1, 0))
        return bool(rows >= 2 and columns >= 2)

    @property
    def num_repeats(self) -> int:
        """Seeds or replicates."""
        return len(self.repeats)


def find(runs: Iterable[Run]) -> list[RegimeGrid]:
    """Groups the forks of a workdir into grids, sorted by key; those of any size.

    Finished forks with a test accuracy have values; diverged and failed ones are counted; skipped and
    unfinished ones leave their cell empty, or resting on fewer repeats.

    Args:
        runs: of `results.read_runs`; other kinds than forks are passed over.

    Returns:
        The grids. Time and memory are proportional to the number of runs.

    Raises:
        InvalidInput: a fork does not say where it belongs; names its run.json.

    Example:
        >>> find([])
        []
    """
    groups: dict[Key, list[Run]] = {}
    for run in runs:
        if run.kind == "fork" and run.status in ("finished", "diverged", "failed"):
            key: Any = tuple(getattr(run, axis) for axis in KEY)
            groups.setdefault(key, []).append(run)
    if problems := [text for members in groups.values() for run in members if (text := _lacking(run))]:
        raise InvalidInput(shortened(problems))
    return [_grid(key, members) for key, members in sorted(groups.items())]


def _lacking(run: Run) -> str | None:
    missing = [axis for axis in results.AXES if getattr(run, axis) is None]
    place = f"forks/{run.name}/run.json"
    return expected(place, missing, "not to be null", records.REMEDY) if missing else None


def _grid(key: Key, runs: Sequence[Run]) -> RegimeGrid:
    sparsities, epochs, seeds, replicates = (
        sorted({getattr(run, axis) for run in runs})
        for axis in ("sparsity", "fork_epoch", "trunk_seed", "replicate")
    )
    finished = [r for r in runs if r.status == "finished" and r.last("test_accuracy") is not None]
    has_validation = bool(finished) and all(r.last("validation_accuracy") is not None for r in finished)
    metric = "validation_accuracy" if has_validation else "test_accuracy"
    axes = [{value: i for i, value in enumerate(v)} for v in (sparsities, epochs, seeds, replicates)]
    chosen_on, test = (_values(finished, axes, name) for name in (metric, "test_accuracy"))
    by_seed = mean_of(chosen_on, axis=-1)
    # A single trunk seed leaves the replicates as the only repeats; several hold their trunks' noise too.
    over_seeds = len(seeds) > 1 or len(replicates) == 1
    num_runs = np.isfinite(test).sum(axis=(2, 3))
    return RegimeGrid(
        key=key,
        sparsities=tuple(sparsities),
        epochs=tuple(epochs),
        repeat_kind="seed" if over_seeds else "replicate",
        repeats=tuple(seeds if over_seeds else replicates),
        num_replicates=int(np.isfinite(test).sum(axis=3).max(initial=0)),
        metric=metric,
        chosen_on=by_seed if over_seeds else chosen_on[:, :, 0],
        test=mean_of(test, axis=-1) if over_seeds else test[:, :, 0],
        by_seed=by_seed,
        seeds=tuple(seeds),
        num_runs=num_runs,
        num_failed=_failed(runs, axes),
        num_epochs=_num_epochs(runs, axes),
    )


def _values(runs: Sequence[Run], axes: Sequence[dict[Any, int]], metric: str) -> np.ndarray:
    """[S, E, seeds, replicates]."""
    values = np.full([len(axis) for axis in axes], np.nan)
    for run in runs:
        values[_place(run, axes)] = run.last(metric)
    return values


def _failed(runs: Sequence[Run], axes: Sequence[dict[Any, int]]) -> np.ndarray:
    counts = np.zeros([len(axis) for axis in axes[:2]], dtype=int)
    for run in runs:
        counts[_place(run, axes)[:2]] += run.status != "finished"
    return counts


def _num_epochs(runs: Sequence[Run], axes: Sequence[dict[Any, int]]) -> np.ndarray:
    longest = np.zeros([len(axis) for axis in axes[:2]], dtype=int)
    for run in runs:
        place = _place(run, axes)[:2]
        longest[place] = max(longest[place], run.last_epoch)
    return longest


def _place(run: Run, axes: Sequence[dict[Any, int]]) -> tuple[int, ...]:
    names = ("sparsity", "fork_epoch", "trunk_seed", "replicate")
    return tuple(axis[getattr(run, name)] for axis, name in zip(axes, names, strict=True))


def mean_of(values: np.ndarray, *, axis: int) -> np.ndarray:
    """The mean of what is not NaN along an axis; NaN where nothing is.

    Example:
        >>> mean_of(np.array([[1.0, np.nan, 3.0], [np.nan] * 3]), axis=1).tolist()
        [2.0, nan]
    """
    present = np.isfinite(values)
    count = present.sum(axis=axis)
    total = np.where(present, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
