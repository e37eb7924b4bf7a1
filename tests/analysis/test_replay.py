import math

import pytest
import workdirs

from earlyprune_jax.analysis import curves, replay, results
from earlyprune_jax.triggers import AtEpoch, First, Peak, Threshold

T = 10
# Seed 0 is best at 4, seed 1 at 8.
ACCURACY = {0: {2: 0.84, 4: 0.90, 8: 0.70}, 1: {2: 0.60, 4: 0.70, 8: 0.90}}
# Seed 0 peaks at 3 and falls at once; seed 1 rises all along.
SIGNAL = {0: [1, 5, 9, 6.5, 4, 3, 2, 1, 1, 1], 1: [float(epoch) for epoch in range(1, 11)]}


@pytest.fixture
def workdir(tmp_path):
    workdirs.write_config(tmp_path, num_epochs=T)
    for seed, values in SIGNAL.items():
        made = workdirs.records(0, [0.95] * T, signals=[{"x": value} for value in values])
        workdirs.write_trunk(tmp_path, seed, made, last_epoch=T, result=workdirs.finished(T))
        for epoch, accuracy in ACCURACY[seed].items():
            made = workdirs.records(epoch, [accuracy] * (T - epoch))
            workdirs.write_fork(
                tmp_path, seed, epoch, made, last_epoch=T, result=workdirs.finished(T)
            )
    return tmp_path


def grid(workdir):
    return curves.Setting(results.read_runs(workdir))


def outcomes(workdir, *rules):
    (curve,) = grid(workdir).curves
    return {(one.label, one.mode): one for one in replay.outcomes(curve, rules)}


def chosen(outcome, name):
    return [getattr(choice, name) for choice in outcome.choices]


def test_accuracy_is_measured_interpolated_between_forks_and_absent_outside():
    truth = replay.Truth(0, {2: 0.84, 4: 0.90, 8: 0.70})
    assert truth.choose(4).test == 0.90
    assert truth.choose(3).test == pytest.approx(0.87)
    assert truth.choose(7).test == pytest.approx(0.75)
    assert (truth.choose(1).test, truth.choose(9).test) == (None, None)
    assert replay.Truth(0, {4: 0.5}).choose(4).test == 0.5
    assert replay.Truth(0, {4: 0.5}).choose(5).test is None


def test_the_best_fork_is_the_earliest_of_equals(tmp_path):
    for epoch, accuracy in ((8, 0.9), (4, 0.9), (2, 0.8)):
        made, end = workdirs.records(epoch, [accuracy]), workdirs.finished(T)
        workdirs.write_fork(tmp_path, 0, epoch, made, last_epoch=T, result=end)
    assert chosen(outcomes(tmp_path)["oracle", "now"], "epoch") == [4]


def test_a_rule_is_pruned_when_it_fires_or_rewound_to_its_mark(workdir):
    found = outcomes(workdir, Peak("x"))
    now, rewind = found["peak(x)", "now"], found["peak(x)", "rewind"]
    # Seed 0 fires at 5 for the peak at 3: (3 * .9 + .7) / 4 = .85, and (.84 + .9) / 2 = .87.
    assert chosen(now, "status") == ["interpolated", "never"]
    assert chosen(rewind, "status") == ["interpolated", "never"]
    assert chosen(now, "fired_epoch") == chosen(rewind, "fired_epoch") == [5, None]
    assert chosen(now, "marked_epoch") == chosen(rewind, "marked_epoch") == [3, None]
    assert (chosen(now, "epoch"), chosen(rewind, "epoch")) == ([5, None], [3, None])
    assert chosen(now, "test") == [pytest.approx(0.85), None]
    assert chosen(rewind, "test") == [pytest.approx(0.87), None]
    assert chosen(rewind, "regret") == [pytest.approx(0.03), None]
    # What was trained dense up to the firing was trained, whatever checkpoint is gone back to.
    assert chosen(rewind, "dense_epochs") == [5, None]
    saved = rewind.over_seeds("dense_epochs_saved")
    assert saved is not None and (saved.mean, saved.n) == (5.0, 1)
    assert (rewind.count("never"), rewind.num_evaluated, rewind.complete) == (1, 1, False)
    assert chosen(now, "reason") == [
        "x was largest at epoch 3 (9), 56 % lower at 5",
        "the rule never fired",
    ]


def test_only_rules_that_look_back_are_rewound(workdir):
    found = outcomes(workdir, AtEpoch(4), First((Peak("x"), AtEpoch(4))))
    assert ("epoch(4)", "rewind") not in found
    assert ("first(peak(x), epoch(4))", "rewind") in found


def test_means_and_sample_deviations_over_seeds(workdir):
    outcome = outcomes(workdir, AtEpoch(4))["epoch(4)", "now"]
    # Accuracies .9 and .7 against .9 and .9.
    accuracy, lost = outcome.over_seeds("test"), outcome.over_seeds("regret")
    assert accuracy is not None and lost is not None
    assert (accuracy.mean, accuracy.std, accuracy.n) == (
        pytest.approx(0.8),
        pytest.approx(0.1 * math.sqrt(2)),
        2,
    )
    assert (lost.mean, lost.std) == (pytest.approx(0.1), pytest.approx(0.1 * math.sqrt(2)))
    saved = outcome.over_seeds("dense_epochs_saved")
    assert saved is not None and (saved.mean, saved.std) == (6.0, 0.0)
    assert (outcome.num_evaluated, outcome.count("interpolated"), outcome.complete) == (2, 0, True)


def test_an_epoch_outside_the_measured_forks_has_no_accuracy_and_is_counted(workdir):
    found = outcomes(workdir, AtEpoch(1), AtEpoch(9))
    for text in ("epoch(1)", "epoch(9)"):
        outcome = found[text, "now"]
        assert outcome.count("outside") == 2
        assert outcome.over_seeds("regret") is None
        assert outcome.over_seeds("epoch") is not None
    saved = found["epoch(9)", "now"].over_seeds("dense_epochs_saved")
    assert saved is not None and saved.mean == 1.0


def test_baselines_by_hand(workdir):
    found = outcomes(workdir)
    assert {mode for _, mode in found} == {"now"}
    assert chosen(found["oracle", "now"], "epoch") == [4, 8]
    assert chosen(found["oracle", "now"], "regret") == [0.0, 0.0]
    # Means over seeds: .72 at 2, .80 at 4 and at 8: the earlier of equals.
    assert chosen(found["best fixed epoch", "now"], "epoch") == [4, 4]
    assert chosen(found["fixed 10 %", "now"], "status") == ["outside", "outside"]
    assert chosen(found["fixed 30 %", "now"], "epoch") == [3, 3]
    assert chosen(found["fixed 30 %", "now"], "test") == pytest.approx([0.87, 0.65])
    assert chosen(found["fixed 50 %", "now"], "test") == pytest.approx([0.85, 0.75])
    assert chosen(found["end", "now"], "epoch") == [8, 8]
    assert chosen(found["end", "now"], "regret") == pytest.approx([0.2, 0.0])
    random_time = found["random time", "now"]
    # Epochs 2 to 8: .84 .87 .90 .85 .80 .75 .70 and .60 .65 .70 .75 .80 .85 .90.
    assert chosen(random_time, "test") == pytest.approx([5.71 / 7, 0.75])
    assert chosen(random_time, "regret") == pytest.approx([0.9 - 5.71 / 7, 0.15])
    assert chosen(random_time, "epoch") == [5.0, 5.0]
    assert chosen(random_time, "status") == ["interpolated", "interpolated"]


def test_fractions_go_to_the_nearest_epoch(tmp_path):
    # Of 25 epochs: 2.5, 7.5 and 12.5 are rounded up.
    workdirs.write_config(tmp_path, num_epochs=25)
    for epoch in (1, 24):
        made = workdirs.records(epoch, [0.5])
        workdirs.write_fork(tmp_path, 0, epoch, made, last_epoch=25, result=workdirs.finished(25))
    found = outcomes(tmp_path)
    assert [chosen(found[f"fixed {part} %", "now"], "epoch") for part in (10, 30, 50)] == [
        [3],
        [8],
        [13],
    ]


def test_the_best_fixed_epoch_is_chosen_on_validation_accuracy_and_judged_on_test(tmp_path):
    workdirs.write_config(tmp_path, num_epochs=T)
    for epoch, test, validation in ((2, 0.9, 0.5), (4, 0.8, 0.6)):
        made = workdirs.records(epoch, [test], validation_accuracy=[validation])
        workdirs.write_fork(tmp_path, 0, epoch, made, last_epoch=T, result=workdirs.finished(T))
    outcome = outcomes(tmp_path)["best fixed epoch", "now"]
    assert chosen(outcome, "epoch") == [4]
    assert chosen(outcome, "regret") == pytest.approx([0.1])


def test_replicates_are_averaged_before_anything_else(tmp_path):
    workdirs.write_config(tmp_path, num_epochs=T)
    for epoch, accuracies in ((2, (0.5, 0.7)), (4, (0.9, 0.1))):
        for replicate, accuracy in enumerate(accuracies):
            made = workdirs.records(epoch, [accuracy])
            workdirs.write_fork(
                tmp_path,
                0,
                epoch,
                made,
                replicate=replicate,
                last_epoch=T,
                result=workdirs.finished(T),
            )
    assert chosen(outcomes(tmp_path)["oracle", "now"], "test") == [pytest.approx(0.6)]


def test_forks_missing_in_a_seed_are_interpolated_there_or_outside(workdir):
    # Seed 2 has forks at 4 and 8 only, and no trunk.
    for epoch, accuracy in ((4, 0.5), (8, 0.7)):
        made = workdirs.records(epoch, [accuracy])
        workdirs.write_fork(workdir, 2, epoch, made, last_epoch=T, result=workdirs.finished(T))
    found = outcomes(workdir, AtEpoch(2), Threshold("x", above=1.5))
    assert chosen(found["epoch(2)", "now"], "status") == ["measured", "measured", "never"]
    assert chosen(found["fixed 30 %", "now"], "status") == [
        "interpolated",
        "interpolated",
        "outside",
    ]
    assert chosen(found["end", "now"], "epoch") == [8, 8, 8]
    assert not found["fixed 30 %", "now"].complete


def test_rules_come_by_regret_and_after_those_that_have_every_seed(workdir):
    (curve,) = grid(workdir).curves
    rules = [AtEpoch(9), Peak("x"), AtEpoch(4), AtEpoch(4)]
    names = [
        f"{one.label} {one.mode}".removesuffix(" now") for one in replay.outcomes(curve, rules)
    ]
    # Mean regrets 0; .1 four times, the earlier epoch first; .117; .14. Then with one seed lacking;
    # both.
    assert names == [
        "oracle",
        "best fixed epoch",
        "epoch(4)",
        "fixed 50 %",
        "end",
        "random time",
        "fixed 30 %",
        "peak(x) rewind",
        "peak(x)",
        "fixed 10 %",
        "epoch(9)",
    ]


def test_the_test_set_and_timings_are_no_columns_for_rules(workdir):
    columns = grid(workdir).columns
    assert "x" in columns and "train_loss" in columns
    assert not {"test_accuracy", "test_loss", "seconds", "step", "epoch"} & set(columns)
    # Without a validation split the column is there, but empty.
    assert "validation_accuracy" not in columns


def test_the_length_of_the_trunks_stands_in_for_a_config(tmp_path):
    workdirs.write_trunk(tmp_path, 0, workdirs.records(0, [0.5]), last_epoch=12)
    assert grid(tmp_path).num_epochs == 12


def test_an_unmeasured_signal_is_skipped_not_taken_for_a_fall(tmp_path):
    # Measured every second epoch: 1, 9, 8, 2 at 1, 3, 5, 7; the peak at 3 is believed at 7.
    workdirs.write_config(tmp_path, num_epochs=T)
    signals = [{"x": value} for value in (1, None, 9, None, 8, None, 2, None, 1, None)]
    made = workdirs.records(0, [0.9] * T, signals=signals)
    workdirs.write_trunk(tmp_path, 0, made, last_epoch=T, result=workdirs.finished(T))
    for epoch in (2, 8):
        made = workdirs.records(epoch, [0.5])
        workdirs.write_fork(tmp_path, 0, epoch, made, last_epoch=T, result=workdirs.finished(T))
    outcome = outcomes(tmp_path, Peak("x", min_errors=0))["peak(x, min_errors=0.0)", "now"]
    assert (chosen(outcome, "fired_epoch"), chosen(outcome, "marked_epoch")) == ([7], [3])


def test_no_accuracy_is_made_up_at_or_beside_a_fork_that_diverged():
    truth = replay.Truth(0, {1: 0.5, 3: 0.7, 7: 0.9, 9: 0.8}, lost=frozenset({5}))
    assert [truth.choose(epoch).test for epoch in (4, 5, 6)] == [None, None, None]
    assert truth.choose(2).test == pytest.approx(0.6)
    assert truth.choose(8).test == pytest.approx(0.85)
    assert truth.choose(7).test == 0.9


def test_a_rule_that_chose_a_diverging_fork_is_counted_and_never_called_the_best(workdir):
    diverged = {"status": "diverged", "epoch": 7, "step": 60, "achieved_sparsity": 0.97}
    workdirs.write_fork(workdir, 0, 6, workdirs.records(6, []), last_epoch=T, result=diverged)
    found = outcomes(workdir, AtEpoch(5), AtEpoch(6))
    for epoch in (5, 6):
        outcome = found[f"epoch({epoch})", "now"]
        assert chosen(outcome, "status") == ["diverged", "interpolated"]
        assert chosen(outcome, "test")[0] is None
        assert not outcome.complete
    assert chosen(found["random time", "now"], "status") == ["diverged", "interpolated"]
    assert chosen(found["fixed 30 %", "now"], "status") == ["interpolated", "interpolated"]
