import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import regime_workdirs as workdirs

from earlyprune_jax.analysis import best_epoch, curves, results, stats

NAN = np.nan


def grid_of(tmp_path, test, **options):
    """One grid, of accuracies [S, E, seeds, replicates] at sparsities .5, .6 ... and epochs 10, 20
    ..."""
    test = np.array(test)
    sparsities = [round(0.5 + 0.1 * place, 1) for place in range(test.shape[0])]
    epochs = [10 * (place + 1) for place in range(test.shape[1])]
    workdirs.write_forks(tmp_path, sparsities, epochs, test, **options)
    (grid,) = curves.find_grids(results.read_runs(tmp_path))
    return grid


def per_seed(row):
    """[E][seeds] -> [1, E, seeds, 1]."""
    return np.array(row)[None, :, :, None]


def test_a_seed_counts_once_however_many_replicates_it_has(tmp_path):
    # Seed 0: replicates .6 and .8; seed 1: .5 only.
    grid = grid_of(tmp_path, [[[[0.6, 0.8], [0.5, NAN]], [[0.6, 0.6], [0.6, 0.6]]]])
    assert (grid.repeat_kind, grid.repeats, grid.num_replicates) == ("seed", (0, 1), 2)
    np.testing.assert_allclose(grid.test, [[[0.7, 0.5], [0.6, 0.6]]])
    assert grid.num_runs.tolist() == [[3, 4]]


def test_with_one_seed_its_replicates_are_the_repeats(tmp_path):
    grid = grid_of(tmp_path, [[[[0.6, 0.8, 0.7]], [[0.1, 0.2, 0.3]]]])
    assert (grid.repeat_kind, grid.repeats, grid.seeds) == ("replicate", (0, 1, 2), (0,))
    np.testing.assert_allclose(grid.test[0, 0], [0.6, 0.8, 0.7])
    np.testing.assert_allclose(grid.by_seed, [[[0.7], [0.2]]])


def test_epochs_are_chosen_on_validation_only_if_every_run_has_it(tmp_path):
    test = per_seed([[0.9, 0.9], [0.5, 0.5]])
    validation = per_seed([[0.1, 0.1], [0.2, 0.2]])
    grid = grid_of(tmp_path / "all", test, validation=validation)
    assert grid.split == "validation"
    best = best_epoch.best(grid.epochs, grid.chosen_on[0])
    assert best is not None and best.epoch == 20
    workdirs.write_forks(tmp_path / "some", (0.5,), (10, 20), test, validation=validation)
    workdirs.write_forks(tmp_path / "some", (0.5,), (10,), test[:, :1, :1], seeds=[7])
    (grid,) = curves.find_grids(results.read_runs(tmp_path / "some"))
    assert grid.split == "test"
    best = best_epoch.best(grid.epochs, grid.chosen_on[0])
    assert best is not None and best.epoch == 10


def test_diverged_and_failed_runs_are_counted_and_have_no_value(tmp_path):
    workdirs.write_forks(tmp_path, (0.5,), (10, 20), per_seed([[0.9], [0.8]]))
    workdirs.write_forks(tmp_path, (0.5,), (10,), per_seed([[0.1]]), status="diverged", seeds=[1])
    workdirs.write_forks(tmp_path, (0.5,), (20,), per_seed([[0.1]]), status="failed", seeds=[1])
    workdirs.write_forks(tmp_path, (0.5,), (20,), per_seed([[0.1]]), status="skipped", seeds=[2])
    (grid,) = curves.find_grids(results.read_runs(tmp_path))
    assert grid.num_runs.tolist() == [[1, 1]] and grid.num_failed.tolist() == [[1, 1]]
    assert np.isnan(grid.test[0, :, 1]).all()


def test_grids_differ_in_setting_criterion_scope_and_rule(tmp_path):
    changes: list[dict[str, Any]] = [
        {},
        {"model": "preresnet56"},
        {"train_fraction": 0.1},
        {"schedule": "constant"},
        {"criterion": "random"},
        {"scope": "global"},
        {"retraining": "matched_budget"},
    ]
    for axes in changes:
        workdirs.write_forks(tmp_path, (0.5,), (10,), per_seed([[0.9]]), **axes)
    found = curves.find_grids(results.read_runs(tmp_path))
    assert len({grid.place for grid in found}) == len(found) == 7
    assert not any(grid.is_two_dimensional for grid in found)


def test_a_seed_that_lacks_epochs_does_not_lift_those_it_has():
    # Seed 1 is .3 better everywhere and has the first two epochs only: epoch 2 is best, not 1.
    row = np.array([[0.50, 0.80], [0.52, 0.82], [0.60, NAN]])
    np.testing.assert_allclose(stats.row_means(row), [0.65, 0.67, 0.75])
    assert stats.best_column(stats.row_means(row)) == 2
    assert stats.best_column(stats.mean_of(row, axis=1)) == 1


def test_seeds_without_a_common_epoch_are_averaged_as_they_are():
    row = np.array([[0.5, NAN], [NAN, 0.8]])
    assert stats.row_means(row).tolist() == [0.5, 0.8]


def test_the_earliest_of_equal_epochs_is_best_whatever_rounding_does(tmp_path):
    grid = grid_of(tmp_path, per_seed([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2], [0.2, 0.3, 0.1]]))
    best = best_epoch.best(grid.epochs, grid.chosen_on[0])
    assert best is not None and best.epoch == 10


def brute_force_interval(values, epochs):
    """Every one of R^R samples."""
    repeats = range(values.shape[1])
    chosen = Counter(
        epochs[int(np.argmax(values[:, list(sample)].mean(axis=1).round(12)))]
        for sample in itertools.product(repeats, repeat=len(repeats))
    )
    total, reached, ends = sum(chosen.values()), 0, []
    for epoch in sorted(chosen):
        before, reached = reached, reached + chosen[epoch]
        ends += [epoch] * sum(before < level * total <= reached for level in (0.025, 0.975))
    return tuple(ends)


@pytest.mark.parametrize("num_repeats", [3, 4, 5])
def test_the_interval_is_that_of_every_bootstrap_sample(tmp_path, num_repeats):
    values = np.random.default_rng(num_repeats).normal(0.5, 0.1, (6, num_repeats))
    grid = grid_of(tmp_path, per_seed(values))
    best = best_epoch.best(grid.epochs, grid.chosen_on[0])
    assert best is not None
    assert best.interval == brute_force_interval(values, grid.epochs)


def test_the_interval_of_many_repeats_is_the_same_every_time(tmp_path):
    values = np.random.default_rng(0).normal(0.5, 0.1, (4, 9))
    values[2] += 0.1
    grid = grid_of(tmp_path, per_seed(values))
    first = best_epoch.best(grid.epochs, grid.chosen_on[0])
    best_epoch.samples.cache_clear()
    assert first == best_epoch.best(grid.epochs, grid.chosen_on[0])
    assert first is not None and first.interval is not None
    assert first.interval[0] <= first.epoch <= first.interval[1]


def test_two_repeats_have_no_interval(tmp_path):
    grid = grid_of(tmp_path, per_seed([[0.5, 0.6], [0.7, 0.6]]))
    best = best_epoch.best(grid.epochs, grid.chosen_on[0])
    assert best is not None and best.interval is None and best.num_repeats == 2 and best.complete


def test_a_certain_best_epoch_has_an_interval_of_itself(tmp_path):
    grid = grid_of(tmp_path, per_seed([[0.5, 0.6, 0.7], [0.7, 0.8, 0.9]]))
    best = best_epoch.best(grid.epochs, grid.chosen_on[0])
    assert best is not None and (best.epoch, best.interval) == (20, (20, 20))


def test_differences_to_the_best_are_paired(tmp_path):
    grid = grid_of(tmp_path, per_seed([[0.5, 0.1, NAN], [0.7, 0.4, 0.9], [NAN, NAN, 0.2]]))
    first, itself, third = (stats.plain_difference(grid.test[0], e, 1) for e in range(3))
    assert first is not None and itself is not None and third is not None
    # -.2 and -.3: mean -.25, std .1 / sqrt(2).
    assert (first.mean, first.std, first.n) == pytest.approx((-0.25, 0.1 / np.sqrt(2), 2))
    assert (itself.mean, itself.std, itself.n) == (0.0, 0.0, 3)
    assert (third.mean, third.std, third.n) == (pytest.approx(-0.7), None, 1)


def test_a_row_where_every_run_diverged_has_no_best_epoch(tmp_path):
    workdirs.write_forks(tmp_path, (0.5,), (10, 20), per_seed([[0.9], [0.8]]))
    workdirs.write_forks(tmp_path, (0.9,), (10, 20), per_seed([[0.9], [0.8]]), status="diverged")
    (grid,) = curves.find_grids(results.read_runs(tmp_path))
    assert best_epoch.best(grid.epochs, grid.chosen_on[1]) is None
    assert not grid.is_two_dimensional
