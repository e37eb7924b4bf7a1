"""The published curves, and rules replayed on them: against the raw file and NumPy alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from earlyprune_jax import published
from earlyprune_jax.published import replay
from earlyprune_jax.triggers import AtEpoch, Peak

RAW = json.loads((Path(published.__file__).parent / "paper_a_figures.json").read_text())


def raw_curves(signal):
    """(epoch of the signal's maximum, panel, fork epochs, accuracies) of every distinct curve."""
    found = {}
    for name, panel in RAW.items():
        if panel.get("metric", {}).get("name") == signal:
            top = panel["metric"]["epoch"][int(np.argmax(panel["metric"]["value"]))]
            for accuracies in panel["acc"].values():
                found.setdefault((top, *accuracies), (top, name, panel["prune_epochs"], accuracies))
    return list(found.values())


def recomputed(signal, chosen_epoch):
    """The regrets of a rule that maps the epoch of the maximum to an epoch."""
    return [
        max(accuracies) - np.interp(chosen_epoch(top), epochs, accuracies)
        for top, _, epochs, accuracies in raw_curves(signal)
    ]


def random_time(signal):
    return [
        max(accuracies) - np.interp(np.arange(20, 181), epochs, accuracies).mean()
        for _, _, epochs, accuracies in raw_curves(signal)
    ]


def test_every_panel_is_read_once_and_equal_curves_of_one_run_count_once():
    curves = published.accuracy_curves()
    shown = [(panel, curve.accuracies) for curve in curves for panel in curve.panels]
    raw = [
        (name.partition("_")[0][3:], tuple(accuracies))
        for name, panel in RAW.items()
        for accuracies in panel["acc"].values()
    ]
    assert sorted(shown) == sorted(raw)
    assert len({curve.accuracies for curve in curves}) == len(curves) == 34
    for signal, name, count, runs in (
        ("fisher_trace", "trF_conv_weights", 21, 7),
        ("kl_uniform_bits", "KL_uniform_bits", 3, 3),
    ):
        own = published.accuracy_curves(signal)
        assert len(own) == len(raw_curves(name)) == count
        assert len(published.dense_runs(signal)) == runs


def test_panels_said_to_be_of_one_dense_run_show_one_signal_and_one_dense_accuracy():
    for curve in published.accuracy_curves("fisher_trace"):
        for panel in curve.panels:
            (raw,) = (value for name, value in RAW.items() if name.startswith(f"fig{panel}_"))
            assert raw["baseline_best_top1"] == curve.dense.accuracy
            np.testing.assert_allclose(raw["metric"]["value"], curve.dense.values, atol=0.0011)
    single = next(run for run in published.dense_runs() if run.num_seeds == 1 and run.signal)
    figures = {p for c in published.accuracy_curves() if c.dense == single for p in c.panels}
    assert figures == {"3", "4b", "6a", "7a", "11", "12b", "13a"}


def test_a_history_is_what_a_trigger_sees_along_a_run_of_200_epochs():
    for run in filter(lambda run: run.signal, published.dense_runs()):
        assert [entry["epoch"] for entry in run.history] == list(range(1, 201))
        assert {entry["num_epochs"] for entry in run.history} == {200}
        top = max(run.history, key=lambda entry: entry[run.signal])
        assert top["epoch"] == run.peak_epoch


def test_the_three_regime_errors_are_of_16_epochs_and_9_densities():
    errors = published.three_regime_errors()
    assert list(errors) == [0.05, 0.06, 0.07, 0.08, 0.1, 0.14, 0.2, 0.4, 0.8]
    assert all(list(column) == list(range(10, 161, 10)) for column in errors.values())
    assert (errors[0.05][10], errors[0.8][160]) == (15.68, 7.7)


@pytest.mark.parametrize(
    ("rule", "chosen_epoch", "mean", "median", "worst", "late"),
    [
        ("largest value", lambda top: top, 0.78, 0.12, 7.07, 0.06),
        ("fixed 10 %", lambda _: 20, 0.51, 0.53, 0.96, 0.72),
        ("fixed 30 %", lambda _: 60, 0.18, 0.00, 0.65, 0.45),
        ("fixed 50 %", lambda _: 100, 0.47, 0.28, 2.75, 0.28),
        ("end", lambda _: 180, 2.58, 2.18, 10.68, 0.14),
        ("random time", None, 0.86, 0.60, 4.13, 0.29),
    ],
)
def test_the_regrets_are_those_of_a_second_computation_on_the_raw_numbers(
    rule, chosen_epoch, mean, median, worst, late
):
    (one,) = (one for one in replay.replay("fisher_trace") if one.rule == rule)
    name = "trF_conv_weights"
    expected = recomputed(name, chosen_epoch) if chosen_epoch else random_time(name)
    np.testing.assert_allclose(sorted(one.regrets()), sorted(expected), atol=1e-9)
    pinned = [np.mean(expected), np.median(expected), np.max(expected)]
    assert pinned == pytest.approx([mean, median, worst], abs=0.0051)
    # Cosine and linear schedules: the panels b and c of figures 6, 7 and 13.
    slow = [
        regret
        for regret, (_, panel, *_) in zip(expected, raw_curves(name), strict=True)
        if "cosine" in panel or "linear" in panel
    ]
    assert len(slow) == 5 and np.mean(slow) == pytest.approx(late, abs=0.0051)
    assert one.regrets("cosine and linear") == pytest.approx(slow)


def test_the_default_peak_marks_the_largest_value_of_all_published_traces_but_one():
    marked, largest = {}, {}
    for signal in ("fisher_trace", "kl_uniform_bits"):
        firings = [Peak(signal)(run.history) for run in published.dense_runs(signal)]
        marked[signal] = [(firing.epoch, firing.marked_epoch) for firing in firings if firing]
        largest[signal] = [run.peak_epoch for run in published.dense_runs(signal)]
    assert [mark for _, mark in marked["fisher_trace"]] == largest["fisher_trace"]
    assert [epoch for epoch, _ in marked["fisher_trace"]] == [86, 66, 87, 168, 46, 171, 192]
    # KL_uniform under the linear schedule is flat at its top: 170 is within 1 % of 155.
    assert largest["kl_uniform_bits"] == [62, 154, 155]
    assert marked["kl_uniform_bits"] == [(85, 62), (175, 154), (197, 170)]


def test_a_choice_outside_the_published_forks_has_no_value_and_is_counted():
    early, never = replay.replay("kl_uniform_bits", [AtEpoch(9), AtEpoch(201)])[:2]
    rows = list(replay.rule_rows([early, never]))
    assert [(row["n"], row["num_outside"], row["num_never_fired"]) for row in rows] == [
        (0, 3, 0),
        (0, 0, 3),
    ]
    assert rows[0]["regret_mean"] is None


def test_the_command_prints_and_writes_the_tables_and_refuses_what_is_no_rule(tmp_path, capsys):
    assert replay.main(["--csv", str(tmp_path), "--rule", "peak(fisher_trace, smoothing=5)"]) == 0
    printed = capsys.readouterr().out
    assert "peak(fisher_trace, smoothing=5), rewind" in printed
    assert "21 published curves of 7 dense runs" in printed
    num_rules = 6 + 17  # two rules that look back, or one; and what needs none
    lines = (tmp_path / "published_rules.csv").read_text().splitlines()
    assert len(lines) == 1 + (num_rules + 1) + (num_rules - 1)
    assert replay.main(["--rule", "peak(loss)"]) == 2
    assert "column='loss' to be one of fisher_trace, kl_uniform_bits" in capsys.readouterr().err
