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
        workdirs.write_trunk(tmp_path, seed, workdirs.records(0, [accuracy]), result=workdirs.finished(1))
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
