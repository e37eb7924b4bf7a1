import math

import pytest
import workdirs

from earlyprune_jax.analysis import curves, results


def write_cell(workdir, fork_epoch, by_seed, *, validation=None, **axes):
    for seed, accuracy in enumerate(by_seed):
        chosen = None if validation is None else [validation[seed]]
        made = workdirs.records(fork_epoch, [accuracy], validation_accuracy=chosen)
        workdirs.write_fork(workdir, seed, fork_epoch, made, result=workdirs.finished(), **axes)


def only_curve(workdir):
    (curve,) = curves.fork_curves(results.read_runs(workdir))
    return curve


def test_std_is_the_sample_standard_deviation():
    accuracy = curves.stats([0.90, 0.92, 0.97])
    assert accuracy.mean == pytest.approx(0.93)
    # Deviations -.03, -.01, .04: sum of squares .0026, over n - 1 = 2.
    assert accuracy.std == pytest.approx(math.sqrt(0.0013))


def test_half_width_uses_student_t():
    # 95 % of t with 2 degrees of freedom: 4.303; with 20: 2.086; with 6: 2.447.
    assert curves.Stats(0.0, 1.0, 3).half_width() == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert curves.Stats(0.0, 1.0, 21).half_width() == pytest.approx(2.086 / math.sqrt(21), rel=1e-3)
    assert curves.Stats(0.0, 1.0, 7).half_width() == pytest.approx(2.447 / math.sqrt(7), rel=6e-3)
    assert curves.Stats(0.0, None, 1).half_width() == math.inf


def test_a_curve_is_one_criterion_scope_sparsity_and_rule(tmp_path):
    write_cell(tmp_path, 2, [0.9, 0.8])
    write_cell(tmp_path, 4, [0.7, 0.6])
    write_cell(tmp_path, 2, [0.5], sparsity=0.8)
    made = curves.fork_curves(results.read_runs(tmp_path))
    assert [(curve.sparsity, list(curve.runs)) for curve in made] == [(0.8, [2]), (0.97, [2, 4])]
    assert curves.varying(made) == ["sparsity"]
    assert made[1].test(4).mean == pytest.approx(0.65)


def test_replicates_are_runs_of_their_own_in_the_mean(tmp_path):
    for replicate, accuracy in enumerate((0.5, 0.7)):
        made = workdirs.records(2, [accuracy])
        workdirs.write_fork(tmp_path, 0, 2, made, replicate=replicate, result=workdirs.finished())
    assert only_curve(tmp_path).test(2).n == 2
    assert only_curve(tmp_path).test(2).mean == pytest.approx(0.6)


def test_the_earlier_of_equally_good_fork_epochs_is_best(tmp_path):
    for epoch, accuracy in ((2, 0.5), (8, 0.75), (4, 0.75)):
        write_cell(tmp_path, epoch, [accuracy])
    assert curves.ranked_epochs(only_curve(tmp_path)) == [4, 8, 2]


def test_validation_decides_where_every_run_has_it(tmp_path):
    write_cell(tmp_path, 2, [0.9], validation=[0.5])
    write_cell(tmp_path, 4, [0.8], validation=[0.6])
    assert curves.selection_metric(only_curve(tmp_path)) == "validation_accuracy"
    assert curves.ranked_epochs(only_curve(tmp_path)) == [4, 2]
    write_cell(tmp_path, 6, [0.1])
    assert curves.selection_metric(only_curve(tmp_path)) == "test_accuracy"
    assert curves.ranked_epochs(only_curve(tmp_path)) == [2, 4, 6]


def test_paired_difference_averages_replicates_and_drops_lone_seeds(tmp_path):
    # Seed 0: (.5 + .7) / 2 - .8 = -.2; seed 1: .6 - .7 = -.1; seed 2 has no trunk.
    for seed, replicate, accuracy in ((0, 0, 0.5), (0, 1, 0.7), (1, 0, 0.6), (2, 0, 0.1)):
        made = workdirs.records(2, [accuracy])
        workdirs.write_fork(tmp_path, seed, 2, made, replicate=replicate, result=workdirs.finished())
    for seed, accuracy in ((0, 0.8), (1, 0.7)):
        made = workdirs.records(0, [accuracy])
        workdirs.write_trunk(tmp_path, seed, made, last_epoch=1, result=workdirs.finished(1))
    runs = results.read_runs(tmp_path)
    difference = curves.paired_difference(
        only_curve(tmp_path).runs[2], curves.dense_runs(runs), "test_accuracy"
    )
    assert difference is not None
    assert difference.n == 2
    assert difference.mean == pytest.approx(-0.15)
    assert difference.std == pytest.approx(0.1 / math.sqrt(2))


def test_diverged_forks_and_trunks_are_left_out(tmp_path):
    diverged = {"status": "diverged", "epoch": 3, "step": 21, "achieved_sparsity": 0.9, "reason": "nan"}
    workdirs.write_fork(tmp_path, 0, 2, workdirs.records(2, [0.1]), result=diverged)
    workdirs.write_trunk(tmp_path, 0, workdirs.records(0, [0.1]), result=diverged)
    runs = results.read_runs(tmp_path)
    assert curves.fork_curves(runs) == []
    assert curves.dense_runs(runs) == []


def test_a_trunk_that_its_trigger_ended_is_no_dense_baseline(tmp_path):
    made = workdirs.records(0, [0.5, 0.6, 0.7])
    workdirs.write_trunk(tmp_path, 0, made, last_epoch=4, result=workdirs.finished(3))
    workdirs.write_trunk(tmp_path, 1, made, last_epoch=3, result=workdirs.finished(3))
    runs = results.read_runs(tmp_path)
    assert [run.trunk_seed for run in curves.dense_runs(runs)] == [1]


def test_runs_that_pruned_themselves_are_curves_of_their_own_kind(tmp_path):
    write_cell(tmp_path, 2, [0.9])
    for seed, epoch in ((0, 5), (1, 7)):
        made = workdirs.records(epoch, [0.8])
        workdirs.write_online(tmp_path, seed, epoch, made, fired_epoch=epoch, result=workdirs.finished())
    runs = results.read_runs(tmp_path)
    (online,) = curves.fork_curves(runs, "online")
    assert list(online.runs) == [5, 7]
    assert list(only_curve(tmp_path).runs) == [2]


def test_equal_means_that_differ_in_their_last_bits_are_equal(tmp_path):
    # (0.1 + 0.2 + 0.3) / 3 and (0.3 + 0.2 + 0.1) / 3 differ by one bit.
    write_cell(tmp_path, 2, [0.1, 0.2, 0.3])
    write_cell(tmp_path, 4, [0.3, 0.2, 0.1])
    assert curves.ranked_epochs(only_curve(tmp_path)) == [2, 4]
    write_cell(tmp_path, 1, [0.3, 0.2, 0.1])
    assert curves.ranked_epochs(only_curve(tmp_path)) == [1, 2, 4]


def test_clearly_better_needs_three_seeds_and_a_lead_beyond_the_noise(tmp_path):
    # Leads .02, .03, .04: mean .03, half width 4.303 * .01 / sqrt(3) = .0248.
    write_cell(tmp_path, 2, [0.92, 0.93, 0.94])
    write_cell(tmp_path, 4, [0.90, 0.90, 0.90])
    # Leads .00, .03, .06: half width .0745.
    write_cell(tmp_path, 6, [0.92, 0.90, 0.88])
    runs = only_curve(tmp_path).runs
    assert curves.clearly_better(runs[2], runs[4], "test_accuracy")
    assert not curves.clearly_better(runs[4], runs[2], "test_accuracy")
    assert not curves.clearly_better(runs[2], runs[6], "test_accuracy")
    assert not curves.clearly_better(runs[2][:2], runs[4], "test_accuracy")
    # Three equal leads: no spread, and no certainty.
    write_cell(tmp_path, 8, [0.5, 0.5, 0.5])
    write_cell(tmp_path, 10, [0.75, 0.75, 0.75])
    runs = only_curve(tmp_path).runs
    assert not curves.clearly_better(runs[10], runs[8], "test_accuracy")
