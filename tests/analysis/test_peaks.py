import math

import numpy as np
import pandas as pd
import pytest
import workdirs

from earlyprune_jax.analysis import peaks, results


def rows(**by_seed):
    return pd.DataFrame(
        [
            {"trunk_seed": int(seed[1:]), "epoch": epoch, "x": value}
            for seed, values in by_seed.items()
            for epoch, value in enumerate(values, start=1)
        ]
    )


def test_the_earliest_of_equal_maxima_is_the_peak():
    peak = peaks.mean_peak(rows(s0=[1.0, 4.0, 2.0, 4.0, 1.0]), "x")
    assert peak is not None
    assert (peak.epoch, peak.value, peak.edge) == (2, 4.0, None)


def test_peak_of_the_mean_is_not_the_mean_of_the_peaks():
    table = rows(s0=[0.0, 10.0, 0.0, 0.0], s1=[0.0, 0.0, 4.0, 0.0], s2=[0.0, 0.0, 8.0, 0.0])
    assert [peak.epoch for peak in peaks.seed_peaks(table, "x")] == [2, 3, 3]
    peak = peaks.mean_peak(table, "x")
    assert peak is not None
    assert (peak.epoch, peak.value) == (3, 4.0)


def test_values_that_are_not_finite_are_ignored():
    table = rows(s0=[math.nan, 1.0, math.inf, 2.0, 1.5], s1=[1.0, 3.0, 1.0, None, 1.5])
    epochs, values = peaks.mean_curve(table, "x")
    np.testing.assert_array_equal(epochs, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(values, [1.0, 2.0, 1.0, 2.0, 1.5])


def test_a_signal_that_is_never_finite_has_no_peak():
    table = rows(s0=[math.nan, None])
    assert peaks.mean_peak(table, "x") is None
    assert peaks.seed_peaks(table, "x") == []


@pytest.mark.parametrize(
    ("values", "edge"),
    [
        ([3.0, 2.0, 1.0], "first"),
        ([1.0, 2.0, 3.0], "last"),
        ([1.0, 3.0, 2.0], None),
        ([1.0], "first"),
    ],
)
def test_a_maximum_at_an_end_is_flagged(values, edge):
    peak = peaks.mean_peak(rows(s0=values), "x")
    assert peak is not None
    assert peak.edge == edge


def test_a_signal_that_rises_and_stays_is_flat():
    values = [0.1 * epoch for epoch in range(1, 11)] + [0.99, 1.005, 0.995, 1.0, 0.99]
    peak = peaks.mean_peak(rows(s0=values), "x")
    assert peak is not None
    # Within 2 % of 1.005: at least 0.9849, so epochs 10 to 15, 6 of 15.
    assert (peak.epoch, peak.plateau, peak.flat) == (12, (10, 15), True)


def test_a_sharp_peak_is_not_flat():
    peak = peaks.mean_peak(rows(s0=[1.0, 2.0, 5.0, 2.0, 1.0]), "x")
    assert peak is not None
    assert (peak.plateau, peak.flat) == ((3, 3), False)


def test_diverged_trunks_do_not_enter_the_mean(tmp_path):
    diverged = {
        "status": "diverged",
        "epoch": 2,
        "step": 9,
        "achieved_sparsity": 0.0,
        "reason": "nan",
    }
    made = workdirs.records(0, [0.5], signals=[{"x": 100.0}])
    workdirs.write_trunk(tmp_path, 0, made, result=diverged)
    made = workdirs.records(0, [0.5, 0.5, 0.5], signals=[{"x": 1.0}, {"x": 3.0}, {"x": 2.0}])
    workdirs.write_trunk(tmp_path, 1, made, result=workdirs.finished(3))
    workdirs.write_trunk(tmp_path, 2, made[:1])
    assert trunks_shown(tmp_path) == [1]


def test_while_no_trunk_has_finished_those_going_on_are_shown(tmp_path):
    workdirs.write_trunk(tmp_path, 2, workdirs.records(0, [0.5]))
    assert trunks_shown(tmp_path) == [2]


def trunks_shown(workdir):
    return sorted(set(peaks.comparable_epochs(results.read_runs(workdir))["trunk_seed"]))


def test_standard_errors_and_other_readings_are_no_signals_of_their_own():
    names = (
        "mask_distance", "fisher_trace", "fisher_trace_standard_error", "fisher_trace_all",
        "random_distance",
        "random_distance_std", "random_distance_plain", "kl_uniform_nats", "kl_uniform_bits",
    )  # fmt: skip
    table = ["trunk_seed", "epoch", *names]
    assert peaks.headline_signals(table) == ["fisher_trace", "kl_uniform_bits", "random_distance"]


def test_without_a_headline_signal_the_first_three_others_stand_in():
    table = ["trunk_seed", "epoch", "a", "a_std", "b", "c", "d"]
    assert peaks.headline_signals(table) == ["a", "b", "c"]
    assert peaks.headline_signals(["epoch", "fisher_trace_all"]) == ["fisher_trace_all"]
    others = ["epoch", "a_std", "random_distance_plain", "x", "x_standard_error"]
    assert peaks.headline_signals(others) == ["random_distance_plain", "x"]


def test_trunks_that_their_triggers_ended_are_compared_up_to_the_first_end(tmp_path):
    signals = [{"x": float(epoch)} for epoch in range(1, 6)]
    for seed, stop in ((0, 5), (1, 3)):
        made = workdirs.records(0, [0.5] * stop, signals=signals[:stop])
        workdirs.write_trunk(tmp_path, seed, made, result=workdirs.finished(stop))
    table = peaks.comparable_epochs(results.read_runs(tmp_path))
    assert dict(zip(table["trunk_seed"], table["epoch"], strict=True)) == {0: 3, 1: 3}
