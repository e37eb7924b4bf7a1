from typing import Any

import numpy as np
import pytest
import regime_workdirs as workdirs
from scipy.stats import ttest_1samp

from earlyprune_jax.analysis import best_epoch, results, stats
from earlyprune_jax.analysis.curves import find_grids
from earlyprune_jax.analysis.regimes import findings, transition
from earlyprune_jax.analysis.regimes.transition import Convergence

EPOCHS = (10, 20, 80, 90, 120)
CONVERGED = Convergence(85, {0: 85}, 160)


def grid_of(tmp_path, means, num_seeds=5, noise=0.001, seed=0):
    """Rows of means at sparsities .5, .6 ...; each seed with its own level."""
    rng = np.random.default_rng(seed)
    means = np.array(means)
    test = (
        means[..., None]
        + rng.normal(0, noise, (*means.shape, num_seeds))
        + rng.normal(0, 0.02, num_seeds)
    )
    sparsities = [round(0.5 + 0.1 * place, 1) for place in range(len(means))]
    workdirs.write_forks(tmp_path, sparsities, EPOCHS, test[..., None])
    (grid,) = find_grids(results.read_runs(tmp_path))
    return grid


def line_of(rows):
    (line,) = {row["transition_sparsity"] for row in rows}
    return line


LATE = [0.5, 0.6, 0.7, 0.9, 0.9]
FLAT = [0.5, 0.6, 0.8, 0.8, 0.8]
EARLY = [0.5, 0.6, 0.9, 0.7, 0.7]


def test_rows_are_early_converged_or_not_settled(tmp_path):
    rows = transition.rows(grid_of(tmp_path, [LATE, FLAT, EARLY]), CONVERGED)
    assert [row["verdict"] for row in rows] == ["converged", "not settled", "early"]
    late, _, early = rows
    assert (late["early_epoch"], late["converged_epoch"] in (90, 120)) == (80, True)
    assert early["best_epoch"] == early["early_epoch"] == 80
    assert early["advantage_mean"] == pytest.approx(0.2, abs=0.003)
    assert early["p_early_holm"] < 0.05 and early["p_converged"] > 0.9


def test_rows_are_equal_where_both_sides_are_within_the_margin(tmp_path):
    grid = grid_of(tmp_path, [LATE, FLAT, EARLY])
    assert verdicts(grid, margin=0.01) == ["converged", "equal", "early"]
    # The noise of a mean of five is about .0005: a margin of that size shows nothing.
    assert verdicts(grid, margin=0.0005) == ["converged", "not settled", "early"]
    # What is significantly better stays so, however little that is.
    assert verdicts(grid, margin=1.0) == ["converged", "equal", "early"]
    (row,) = transition.rows(grid, CONVERGED, 0.01)[1:2]
    assert row["margin"] == 0.01 and row["p_equal_holm"] >= row["p_equal"]


def verdicts(grid, margin):
    return [row["verdict"] for row in transition.rows(grid, CONVERGED, margin)]


def test_equality_of_one_epoch_a_side_is_two_t_tests(tmp_path):
    """Without a choice nothing is simulated but Student's t; SciPy's does the same in its way."""
    rng = np.random.default_rng(2)
    test = rng.normal(0.8, 0.01, (2, 2, 6))
    workdirs.write_forks(tmp_path, (0.5, 0.9), (20, 120), test[..., None])
    (grid,) = find_grids(results.read_runs(tmp_path))
    for row, (early, late) in zip(transition.rows(grid, CONVERGED, 0.012), test, strict=True):
        sides = (early - late, late - early)
        wanted: list[Any] = [ttest_1samp(d, -0.012, alternative="greater")[1] for d in sides]
        assert row["p_equal"] == pytest.approx(max(wanted), abs=0.01)


def test_the_p_of_a_margin_is_that_of_candidates_which_are_so_much_better():
    table = np.random.default_rng(3).normal(0.8, 0.01, (5, 4))
    early, late = [0, 1, 2], [3, 4]
    lead = best_epoch.selection_test(table, table, early, late)
    # Chosen among themselves, all the same the better: the choice is as before.
    lifted = table + 0.004 * np.isin(np.arange(5), early)[:, None]
    better = best_epoch.selection_test(lifted, lifted, early, late)
    assert lead is not None and better is not None and lead.p is not None
    assert lead.p_below(0.004) == better.p != lead.p


def test_epochs_that_differ_by_the_margin_are_rarely_called_equal():
    """5 % of tables; of 400 within three standard errors."""
    rng, num_equal, margin = np.random.default_rng(4), 0, 0.01
    means = np.array([0.79, 0.79, 0.79, 0.80, 0.80])[:, None]
    for _ in range(400):
        table = means + rng.normal(0, 0.004, (5, 4))
        leads = [
            best_epoch.selection_test(table, table, *sides)
            for sides in (([0, 1, 2], [3, 4]), ([3, 4], [0, 1, 2]))
        ]
        found = [lead.p_below(margin) for lead in leads if lead]
        num_equal += max(p for p in found if p is not None) <= 0.05
    assert num_equal <= 0.05 * 400 + 3 * (0.05 * 0.95 * 400) ** 0.5


def test_the_margin_is_a_hundredth_of_the_dense_networks_mean_if_none_is_given(tmp_path):
    test = np.full((2, 2, 3, 1), 0.5) + np.random.default_rng(0).normal(0, 1e-4, (2, 2, 3, 1))
    workdirs.write_forks(tmp_path, (0.5, 0.9), (1, 160), test)
    for seed, dense in enumerate((0.6, 0.8, 1.0)):
        last = {"test_accuracy": dense}
        entries = [*workdirs.step_trunk()]
        workdirs.write_trunks(tmp_path, [seed], [*entries[:-1], entries[-1] | last])
    runs = results.read_runs(tmp_path)
    assert transition.default_margin(runs) == pytest.approx(0.008)
    (found,) = findings.analyse(runs)
    assert [row["margin"] for row in found.rows] == pytest.approx([0.008] * 2)
    assert found.judged("equal") == (0.5, 0.9)
    (found,) = findings.analyse(runs, margin=1e-6)
    assert found.judged("not settled") == (0.5, 0.9)


def test_the_line_is_the_lightest_early_row(tmp_path):
    rows = transition.rows(grid_of(tmp_path, [LATE, FLAT, EARLY, EARLY]), CONVERGED)
    assert line_of(rows) == 0.7


def test_an_early_row_below_one_that_is_not_gives_the_line(tmp_path):
    rows = transition.rows(grid_of(tmp_path, [LATE, EARLY, FLAT, EARLY, LATE]), CONVERGED)
    assert line_of(rows) == 0.6


def test_without_an_early_row_there_is_no_line(tmp_path):
    rows = transition.rows(grid_of(tmp_path, [LATE, FLAT]), CONVERGED)
    assert line_of(rows) is None


@pytest.mark.parametrize(
    ("num_seeds", "converged", "told"),
    [
        (2, CONVERGED, "2 seeds: the test needs 3"),
        (1, CONVERGED, "1 seed: the test needs 3"),
        (3, None, "no trunk has been trained to its end"),
        (3, Convergence(121, {}, 160), "no fork from the convergence epoch 121"),
        (3, Convergence(10, {}, 160), "no fork before the convergence epoch 10"),
    ],
)
def test_what_cannot_be_tested_says_why(tmp_path, num_seeds, converged, told):
    rows = transition.rows(grid_of(tmp_path, [LATE, EARLY], num_seeds), converged)
    assert [row["verdict"] for row in rows] == ["untested", "untested"]
    assert all(told in row["reason"] for row in rows)
    assert line_of(rows) is None


def test_seeds_that_lack_the_compared_epochs_are_named_as_the_reason(tmp_path):
    test = np.full((2, 5, 3, 1), 0.5)
    test[:, 3:, 1:] = np.nan
    workdirs.write_forks(tmp_path, (0.5, 0.9), EPOCHS, test)
    (grid,) = find_grids(results.read_runs(tmp_path))
    rows = transition.rows(grid, CONVERGED)
    assert {row["reason"] for row in rows} == {"fewer than 3 seeds have the epochs compared"}


def test_a_grid_of_noise_rarely_has_a_line(tmp_path):
    """Holm's promise over nine rows: at most 5 % of such grids; here 100 grids of 3 seeds."""
    rng = np.random.default_rng(1)
    test = rng.normal(0.9, 0.01, (9, 16, 3, 1))
    workdirs.write_forks(tmp_path, [s / 10 for s in range(1, 10)], workdirs.PUBLISHED_EPOCHS, test)
    (grid,) = find_grids(results.read_runs(tmp_path))
    num_lines = 0
    for _ in range(100):
        grid.test[:] = rng.normal(0.9, 0.01, grid.test.shape)
        grid.chosen_on[:] = grid.test
        num_lines += line_of(transition.rows(grid, CONVERGED)) is not None
    assert num_lines <= 5


def test_the_published_grid_breaks_at_the_first_drop_of_the_learning_rate(tmp_path):
    """From the means alone, that is all there is: from 10 % density down, 80 beats all that comes
    after."""
    sparsities, test = workdirs.published()
    workdirs.write_forks(tmp_path, sparsities, workdirs.PUBLISHED_EPOCHS, test)
    (grid,) = find_grids(results.read_runs(tmp_path))
    best = [best_epoch.best(grid.epochs, grid.chosen_on[row]) for row in range(9)]
    assert [one.epoch for one in best if one] == [110, 110, 90, 80, 70, 80, 80, 80, 60]
    # Densities of 10 % and below: best at the drop (80) or a little before, worse after it.
    heavy = slice(sparsities.index(0.9), None)
    means = grid.test[heavy, :, 0]
    at = workdirs.PUBLISHED_EPOCHS.index
    assert (means[:, at(80)] - means.max(axis=1) >= -0.0013).all()
    assert (means[:, at(80)] - means[:, at(90)] > 0).all()
    assert (means[:, at(80)] - means[:, at(160)] >= 0.0099).all()
    # Light rows lose by stopping at 80.
    assert (grid.test[:3, at(90) :, 0].max(axis=1) - grid.test[:3, at(80), 0] > 0.0007).all()
    # 5 % density, epoch 160: 17.44 % error against 14.58 % at its best.
    below = stats.plain_difference(grid.test[8], at(160), at(60))
    assert below is not None and below.mean == pytest.approx(0.1458 - 0.1744)


def test_the_published_grid_with_seeds_of_its_noise_has_a_transition_line_at_high_sparsity(
    tmp_path,
):
    """Published means, five seeds of .15 points of noise of ours: what the whole chain makes of
    them."""
    sparsities, test = workdirs.published(noise=0.0015, seeds=5)
    workdirs.write_forks(tmp_path, sparsities, workdirs.PUBLISHED_EPOCHS, test)
    workdirs.write_trunks(tmp_path, range(5), workdirs.step_trunk())
    runs = results.read_runs(tmp_path)
    (found,) = findings.analyse(runs)
    assert found.convergence == transition.convergence_of(runs)
    assert found.convergence is not None and 80 < found.convergence.epoch <= 90
    # At 92 % early leads by .1 to .4 points, too little for five seeds and nine rows.
    assert line_of(found.rows) == 0.93
    assert {row["verdict"] for row in found.rows if row["sparsity"] <= 0.86} == {"not settled"}
    assert found.early_sparsities == (0.93, 0.94, 0.95)
