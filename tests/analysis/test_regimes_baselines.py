import numpy as np
import pytest
import regime_workdirs as workdirs

from earlyprune_jax.analysis import results
from earlyprune_jax.analysis.curves import find_grids
from earlyprune_jax.analysis.regimes import controls

EPOCHS = (0, 5, 10)
TEST = np.array([[[0.50, 0.52, 0.54], [0.80, 0.83, 0.84], [0.70, 0.71, 0.75]]])[..., None]


def compared(tmp_path, num_epochs: int | None = 10):
    grids = find_grids(results.read_runs(tmp_path))
    (grid,) = [one for one in grids if one.place.named == workdirs.AXES]
    return {one["baseline"]: one for one in controls.baselines(grid, grids, num_epochs)}


def test_end_and_init_of_the_same_grid_are_paired_by_seed(tmp_path):
    workdirs.write_forks(tmp_path, (0.9,), EPOCHS, TEST)
    found = compared(tmp_path)
    end, init = found["prune at end"], found["prune at init"]
    assert (end["best_epoch"], end["baseline_epoch"], init["baseline_epoch"]) == (5, 10, 0)
    assert (end["best_test_accuracy"], end["baseline_test_accuracy"]) == pytest.approx(
        (2.47 / 3, 2.16 / 3)
    )
    # .10, .12, .09.
    assert (end["difference_mean"], end["difference_n"]) == (pytest.approx(0.31 / 3), 3)
    assert end["difference_std"] == pytest.approx(np.std([0.10, 0.12, 0.09], ddof=1))
    assert end["left_out_mean"] == pytest.approx(0.31 / 3)
    assert end["p"] < 0.05
    assert init["difference_mean"] == pytest.approx((0.30 + 0.31 + 0.30) / 3)


def test_budget_matched_ends_and_random_masks_come_from_their_own_grids(tmp_path):
    workdirs.write_forks(tmp_path, (0.9,), EPOCHS, TEST)
    workdirs.write_forks(
        tmp_path, (0.9, 0.95), (0, 10), TEST[:, [0, 2]].repeat(2, 0), retraining="matched_budget"
    )
    random = np.full((1, 2, 3, 1), 0.3)
    random[:, 1] = 0.4
    workdirs.write_forks(tmp_path, (0.9,), (5, 10), random, criterion="random")
    # Another scope is another comparison.
    workdirs.write_forks(tmp_path, (0.9,), (5,), random[:, :1], criterion="random", scope="global")
    found = compared(tmp_path)
    assert set(found) == {
        "prune at end",
        "prune at init",
        "prune at end, matched budget",
        "prune at init, matched budget",
        "random mask",
        "random mask at end",
    }
    assert found["prune at end, matched budget"]["difference_mean"] == pytest.approx(0.31 / 3)
    assert found["random mask"]["baseline_epoch"] == 10
    assert found["random mask"]["baseline_test_accuracy"] == pytest.approx(0.4)
    assert found["random mask"]["difference_mean"] == pytest.approx(2.47 / 3 - 0.4)


def test_a_baseline_without_common_seeds_is_left_out(tmp_path):
    workdirs.write_forks(tmp_path, (0.9,), EPOCHS[1:], TEST[:, 1:])
    workdirs.write_forks(tmp_path, (0.9,), (5,), TEST[:, :1], criterion="random", seeds=[7, 8, 9])
    assert set(compared(tmp_path)) == {"prune at end"}


def test_where_the_end_is_best_the_difference_is_none(tmp_path):
    workdirs.write_forks(tmp_path, (0.9,), EPOCHS, TEST[:, [0, 2, 1]])
    end = compared(tmp_path)["prune at end"]
    assert (end["difference_mean"], end["best_epoch"]) == (0.0, 10)
    # The best of the others: 5.
    assert end["left_out_mean"] == pytest.approx(-0.31 / 3)


def test_without_a_trunk_nobody_knows_its_end(tmp_path):
    workdirs.write_forks(tmp_path, (0.9,), EPOCHS, TEST)
    assert set(compared(tmp_path, num_epochs=None)) == {"prune at init"}


def test_replicates_of_one_seed_are_no_pairs_of_several_seeds(tmp_path):
    workdirs.write_forks(tmp_path, (0.9,), EPOCHS, TEST.transpose(0, 1, 3, 2))
    workdirs.write_forks(tmp_path, (0.9,), (5,), TEST[:, :1], criterion="random")
    assert set(compared(tmp_path)) == {"prune at end", "prune at init"}


def test_random_masks_at_init_and_at_the_end_are_found_whatever_the_rule(tmp_path):
    workdirs.write_forks(tmp_path, (0.9,), EPOCHS, TEST, retraining="paper_a")
    workdirs.write_forks(tmp_path, (0.9,), (10,), TEST[:, :1] + 0.1, retraining="constant")
    workdirs.write_forks(
        tmp_path, (0.9,), (0,), TEST[:, :1] - 0.1, retraining="matched_budget", criterion="random"
    )
    workdirs.write_forks(
        tmp_path, (0.9,), (10,), TEST[:, :1] - 0.2, retraining="constant", criterion="random"
    )
    grids = find_grids(results.read_runs(tmp_path))
    (grid,) = [one for one in grids if one.place["retraining"] == "paper_a"]
    found = {one["baseline"]: one for one in controls.baselines(grid, grids, 10)}
    assert {
        name: (one["baseline_epoch"], round(one["baseline_test_accuracy"], 12))
        for name, one in found.items()
    } == {
        "prune at end": (10, 0.72),
        "prune at init": (0, 0.52),
        "prune at end, constant rate": (10, 0.62),
        "random mask at end": (10, 0.32),
        "random mask at init, matched budget": (0, 0.42),
    }


def test_a_random_mask_at_the_end_alone_has_one_name(tmp_path):
    workdirs.write_forks(tmp_path, (0.9,), EPOCHS, TEST)
    workdirs.write_forks(tmp_path, (0.9,), (10,), TEST[:, :1], criterion="random")
    assert set(compared(tmp_path)) == {"prune at end", "prune at init", "random mask at end"}


def test_both_budgets_are_counted_from_the_start_of_training(tmp_path):
    # A cell of these workdirs is trained 40 epochs after its fork.
    workdirs.write_forks(tmp_path, (0.9,), EPOCHS, TEST)
    end = compared(tmp_path)["prune at end"]
    assert (end["best_num_epochs"], end["baseline_num_epochs"]) == (45, 50)
