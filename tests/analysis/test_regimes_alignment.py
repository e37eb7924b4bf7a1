import dataclasses

import numpy as np
import regime_workdirs as workdirs

from earlyprune_jax.analysis import results
from earlyprune_jax.analysis.curves import find_grids
from earlyprune_jax.analysis.regimes import controls

EPOCHS = (0, 4, 8)
FLAT_TRUNK = [{"epoch": epoch, "train_loss": 1.0} for epoch in range(1, 11)]


def peaked(at):
    return {"random_distance": [-abs(epoch - at) for epoch in range(1, 11)]}


def with_drops(runs, epochs):
    return dataclasses.replace(runs, config={"schedule": {"step_boundaries_epochs": epochs}})


def write_two_seeds(tmp_path, signals, **axes):
    # [S = 2, E = 3, seeds = 2]: seed 0 is best at 4 and 8, seed 1 at 8 and 0.
    test = np.array([[[0.1, 0.2], [0.9, 0.3], [0.5, 0.8]], [[0.1, 0.9], [0.2, 0.3], [0.8, 0.1]]])
    workdirs.write_forks(tmp_path, (0.5, 0.9), EPOCHS, test[..., None], **axes)
    workdirs.write_trunks(tmp_path, (0, 1), FLAT_TRUNK, signals=signals, **axes)
    runs = results.read_runs(tmp_path)
    (grid,) = find_grids(runs)
    return grid, runs


def test_every_seed_and_row_has_the_distance_from_peak_to_best_epoch(tmp_path):
    grid, runs = write_two_seeds(tmp_path, {0: peaked(5), 1: peaked(7)})
    found = controls.alignments(grid, runs)
    own = [one for one in found if one["marker"] == "random_distance"]
    assert [
        tuple(one[name] for name in ("sparsity", "trunk_seed", "marked_epoch", "best_epoch"))
        + (one["difference"],)
        for one in own
    ] == [
        (0.5, 0, 5, 4, 1),
        (0.5, 1, 7, 8, -1),
        (0.9, 0, 5, 8, -3),
        (0.9, 1, 7, 0, 7),
    ]
    assert all(one["edge"] is None for one in own)


def test_controls_stand_beside_the_signal(tmp_path):
    grid, runs = write_two_seeds(tmp_path, {0: peaked(5), 1: peaked(7)})
    found = controls.alignments(grid, with_drops(runs, [8, 6]))
    marked = {
        one["marker"]: one["marked_epoch"] for one in found if one["marker"] != "random_distance"
    }
    assert marked == {"fixed 30 %": 3, "fixed 50 %": 5, "first learning-rate drop": 6}
    assert len(found) == 2 * 2 * 4


def test_a_constant_rate_has_no_drop(tmp_path):
    grid, runs = write_two_seeds(tmp_path, {}, schedule="constant")
    found = controls.alignments(grid, with_drops(runs, [6]))
    assert {one["marker"] for one in found} == {"fixed 30 %", "fixed 50 %"}


def test_a_maximum_at_an_end_is_no_peak(tmp_path):
    grid, runs = write_two_seeds(tmp_path, {0: peaked(10), 1: peaked(7)})
    found = controls.alignments(grid, runs)
    assert {
        one["edge"]
        for one in found
        if one["trunk_seed"] == 0 and one["marker"] == "random_distance"
    } == {"last"}


def test_a_seed_without_forks_in_a_row_is_left_out(tmp_path):
    test = np.array([[[0.1, 0.2], [0.9, 0.3]], [[0.1, np.nan], [0.2, np.nan]]])
    workdirs.write_forks(tmp_path, (0.5, 0.9), (0, 4), test[..., None])
    runs = results.read_runs(tmp_path)
    (grid,) = find_grids(runs)
    found = controls.alignments(grid, runs)
    assert [
        (one["sparsity"], one["trunk_seed"]) for one in found if one["marker"] == "fixed 50 %"
    ] == [
        (0.5, 0),
        (0.5, 1),
        (0.9, 0),
    ]
