import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from earlyprune_jax.analysis import best_epoch, stats

NUM_TABLES = 500
MARGIN = 3 * math.sqrt(0.05 * 0.95 / NUM_TABLES)
"""Three standard errors of a rejection rate of 5 %."""

REPEATS = [3, pytest.param(10, marks=pytest.mark.slow)]


def rejection_rate(means, num_early, num_repeats, spread=1.0, seed=0, others=None, missing=()):
    """How often the early columns come out better at 5 %, over tables of normal noise around
    `means`.

    `missing` holds (column, repeat) of runs that there are not.
    """
    rng = np.random.default_rng(seed)
    means, rejected = np.asarray(means, dtype=float), 0
    early, late = range(num_early), range(num_early, len(means))
    for _ in range(NUM_TABLES):
        table = means[:, None] + rng.normal(size=(len(means), num_repeats)) * np.reshape(
            spread, (-1, 1)
        )
        # What a seed adds to all epochs is no reason to reject.
        table += rng.normal(size=num_repeats) * 5
        for place in missing:
            table[place] = np.nan
        found = best_epoch.selection_test(
            table, table if others is None else others(rng, means, table), early, late
        )
        assert found is not None
        # A row without p is not called early.
        rejected += found.p is not None and found.p <= 0.05
    return rejected / NUM_TABLES


@pytest.mark.parametrize("num_repeats", REPEATS)
@pytest.mark.parametrize(("num_early", "num_late"), [(8, 8), (14, 1), (14, 2), (2, 8)])
def test_without_a_difference_it_fires_in_at_most_5_percent(num_early, num_late, num_repeats):
    assert rejection_rate(np.zeros(num_early + num_late), num_early, num_repeats) <= 0.05 + MARGIN


@pytest.mark.parametrize("num_repeats", REPEATS)
@pytest.mark.parametrize("gap", [0.5, 2.0])
def test_with_a_single_good_converged_epoch_among_bad_ones_it_fires_in_at_most_5_percent(
    gap, num_repeats
):
    means = [*np.zeros(8), 0.0, *np.full(7, -gap)]
    assert rejection_rate(means, 8, num_repeats) <= 0.05 + MARGIN


@pytest.mark.parametrize("num_repeats", REPEATS)
@pytest.mark.parametrize(
    "spread", [[1.0] * 8 + [0.05] * 2, [5.0] + [1.0] * 9, np.linspace(4, 0.3, 10)]
)
def test_with_unequal_noise_it_fires_in_at_most_5_percent(spread, num_repeats):
    assert rejection_rate(np.zeros(10), 8, num_repeats, spread) <= 0.05 + MARGIN


@pytest.mark.parametrize("gap", [0.5, 2.0, 5.0])
@pytest.mark.parametrize(
    ("num_repeats", "num_missing", "level"),
    [
        (3, 1, 0.05),
        (3, 2, 0.05),
        (4, 2, 0.07),
        (5, 3, 0.05),
        (10, 1, 0.05),
        (10, 5, 0.05),
        (10, 6, 0.05),
    ],
)
def test_with_a_good_converged_epoch_that_lacks_runs_it_hardly_fires_more_often(
    num_repeats, num_missing, level, gap
):
    means = [*np.zeros(8), 0.0, *np.full(7, -gap)]
    missing = [(8, repeat) for repeat in range(num_missing)]
    assert rejection_rate(means, 8, num_repeats, missing=missing) <= level + MARGIN


@pytest.mark.parametrize("num_repeats", REPEATS)
def test_with_early_epochs_that_lack_runs_it_fires_in_at_most_5_percent(num_repeats):
    rng = np.random.default_rng(0)
    missing = [place for place in np.ndindex(14, num_repeats) if rng.random() < 0.3]
    assert rejection_rate(np.zeros(15), 14, num_repeats, missing=missing) <= 0.05 + MARGIN


@pytest.mark.parametrize(("gap", "power"), [(0.0, 0.9), (2.0, 0.9), (5.0, 0.75)])
def test_a_real_lead_is_found_although_the_best_converged_epoch_lacks_a_run_of_three(gap, power):
    means = [*np.zeros(7), 8.0, 0.0, *np.full(7, -gap)]
    assert rejection_rate(means, 8, 3, missing=[(8, 0)]) > power


def test_students_t_on_the_same_differences_would_fire_far_too_often():
    """The reason for the simulated null: left-out differences share the data they were chosen
    on."""
    null = best_epoch.null_statistics(10, 14)
    assert np.mean(null > scipy_stats.t.ppf(0.95, 9)) > 0.12


@pytest.mark.parametrize("num_repeats", [3, 6, 10])
def test_with_one_candidate_p_is_that_of_the_t_test(num_repeats):
    rng = np.random.default_rng(num_repeats)
    for shift in (-1.0, 0.0, 0.5, 1.0):
        table = rng.normal(size=(2, num_repeats)) + np.array([[shift], [0.0]])
        found = best_epoch.selection_test(table, table, [0], [1])
        known = scipy_stats.ttest_rel(table[0], table[1], alternative="greater").pvalue
        assert found is not None
        assert found.p == pytest.approx(
            known, abs=4 * math.sqrt(known * (1 - known) / 20_000) + 1e-4
        )


@pytest.mark.parametrize(
    ("lead", "num_repeats", "power"),
    [(2, 10, 0.65), (3, 5, 0.55), (5, 5, 0.95), (8, 3, 0.9), (1, 10, 0.03)],
)
def test_a_real_lead_is_found_when_it_is_some_standard_deviations_large(lead, num_repeats, power):
    means = np.zeros(16)
    means[5] = lead
    assert rejection_rate(means, 8, num_repeats) > power


def test_choosing_on_validation_and_measuring_on_test_keeps_the_level():
    def test_table(rng, means, table):
        return table + rng.normal(size=table.shape) * 0.5

    assert rejection_rate(np.zeros(16), 14, 5, others=test_table) <= 0.05 + MARGIN


def test_the_lead_is_what_the_left_out_repeats_show():
    # Others' means choose epoch 0 for repeat 2 and epoch 1 for repeats 0 and 1; the rival is epoch
    # 2.
    chosen_on = np.array([[0.6, 0.6, 0.1], [0.5, 0.5, 0.9]])
    measured = np.array([[0.60, 0.60, 0.10], [0.50, 0.52, 0.90], [0.40, 0.40, 0.40]])
    found = best_epoch.selection_test(np.vstack([chosen_on, [0.4] * 3]), measured, [0, 1], [2])
    differences = [0.50 - 0.40, 0.52 - 0.40, 0.10 - 0.40]
    assert found is not None
    assert found.difference.mean == pytest.approx(np.mean(differences))
    assert found.difference.std == pytest.approx(np.std(differences, ddof=1))
    assert found.difference.n == 3


def test_the_rival_is_the_luckiest_of_all_repeats():
    measured = np.array([[0.5, 0.6, 0.7], [0.4, 0.4, 0.4], [0.3, 0.3, 0.9]])
    found = best_epoch.selection_test(measured, measured, [0], [1, 2])
    assert found is not None and found.difference.mean == pytest.approx(0.6 - 0.5)


def test_the_luckiest_other_stands_in_where_the_rival_lacks_one_of_three_repeats():
    measured = np.array([[0.5, 0.6, 0.7], [0.45, 0.45, np.nan], [0.3, 0.3, 0.4], [0.2, 0.2, 0.45]])
    found = best_epoch.selection_test(measured, measured, [0], [1, 2, 3])
    assert found is not None and found.p is not None
    assert (found.difference.n, found.difference.mean) == (
        3,
        pytest.approx((0.05 + 0.15 + 0.25) / 3),
    )


def test_a_rival_with_three_repeats_is_compared_in_these():
    measured = np.array([[0.5, 0.6, 0.7, 0.9], [0.4, 0.4, 0.6, np.nan], [0.3] * 4])
    found = best_epoch.selection_test(measured, measured, [0], [1, 2])
    assert found is not None
    assert (found.difference.n, found.difference.mean) == (3, pytest.approx((0.1 + 0.2 + 0.1) / 3))


@pytest.mark.parametrize(("value", "is_tested"), [(0.2, True), (0.9, False)])
def test_an_epoch_of_which_too_little_is_known_is_no_rival_and_no_p_is_given_if_it_looks_better(
    value, is_tested
):
    lone = [value, *[np.nan] * 4]
    measured = np.array([[0.5, 0.6, 0.7, 0.6, 0.5], lone, [0.3] * 5])
    found = best_epoch.selection_test(measured, measured, [0], [1, 2])
    assert found is not None and (found.p is not None) == is_tested
    assert (found.difference.n, found.difference.mean) == (5, pytest.approx(0.58 - 0.3))


def test_two_repeats_have_a_lead_but_no_p():
    measured = np.array([[0.5, 0.7], [0.4, 0.4]])
    found = best_epoch.selection_test(measured, measured, [0], [1])
    assert found is not None and found.difference.n == 2 and found.p is None


def test_equal_differences_are_chance_not_certainty():
    measured = np.array([[0.5, 0.6, 0.7], [0.4, 0.5, 0.6]])
    found = best_epoch.selection_test(measured, measured, [0], [1])
    assert found is not None and found.difference.mean == pytest.approx(0.1) and found.p == 1.0


@pytest.mark.parametrize(
    ("candidates", "rivals", "measured"),
    [
        ([], [1], [[0.5, 0.6], [0.4, 0.4]]),
        ([0], [], [[0.5, 0.6], [0.4, 0.4]]),
        ([0], [1], [[0.5, 0.6], [np.nan, np.nan]]),
        ([0], [1], [[np.nan, 0.6], [0.4, np.nan]]),
        ([0], [1], [[0.5], [0.4]]),
    ],
)
def test_without_two_comparable_repeats_there_is_no_lead(candidates, rivals, measured):
    table = np.array(measured)
    assert best_epoch.selection_test(table, table, candidates, rivals) is None


def test_a_repeat_without_the_chosen_epoch_is_measured_at_its_best_of_the_others_choice():
    measured = np.array([[0.9, 0.9, np.nan], [0.7, 0.7, 0.8], [0.5, 0.5, 0.5]])
    found = best_epoch.selection_test(measured, measured, [0, 1], [2])
    assert found is not None
    assert found.difference.mean == pytest.approx((0.4 + 0.4 + 0.3) / 3)


def test_holm_agrees_with_its_definition():
    # .01 * 4, .02 * 3, .03 * 2 (but not below the one before), .5.
    assert stats.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert stats.holm([0.9, None, 0.8]) == [1.0, None, 1.0]
    assert stats.holm([]) == []


def test_the_best_of_some_columns_looks_at_those_only():
    table = np.array([[0.9, 0.9], [0.5, 0.5], [0.7, 0.7]])
    assert stats.best_of(table, [1, 2]) == 2
    assert stats.best_of(table, []) is None
