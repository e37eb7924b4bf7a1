import math

import numpy as np
import pytest
import workdirs

from earlyprune_jax.analysis import best_epoch, curves, results, stats
from earlyprune_jax.analysis.places import varying


def write_cell(workdir, fork_epoch, by_seed, *, validation=None, **axes):
    for seed, accuracy in enumerate(by_seed):
        chosen = None if validation is None else [validation[seed]]
        made = workdirs.records(fork_epoch, [accuracy], validation_accuracy=chosen)
        workdirs.write_fork(workdir, seed, fork_epoch, made, result=workdirs.finished(), **axes)


def setting_of(workdir):
    return curves.Setting(results.read_runs(workdir))


def only_curve(workdir):
    (curve,) = setting_of(workdir).forks
    return curve


def test_std_is_the_sample_standard_deviation():
    accuracy = stats.stats([0.90, 0.92, 0.97])
    assert accuracy.mean == pytest.approx(0.93)
    # Deviations -.03, -.01, .04: sum of squares .0026, over n - 1 = 2.
    assert accuracy.std == pytest.approx(math.sqrt(0.0013))


def test_half_width_uses_student_t():
    # 95 % of t with 2 degrees of freedom: 4.303; with 20: 2.086; with 6: 2.447.
    assert stats.Stats(0.0, 1.0, 3).half_width() == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert stats.Stats(0.0, 1.0, 21).half_width() == pytest.approx(2.086 / math.sqrt(21), rel=1e-3)
    assert stats.Stats(0.0, 1.0, 7).half_width() == pytest.approx(2.447 / math.sqrt(7), rel=6e-3)
    assert stats.Stats(0.0, None, 1).half_width() == math.inf


def test_a_curve_is_one_criterion_scope_sparsity_and_rule(tmp_path):
    write_cell(tmp_path, 2, [0.9, 0.8])
    write_cell(tmp_path, 4, [0.7, 0.6])
    write_cell(tmp_path, 2, [0.5], sparsity=0.8)
    made = setting_of(tmp_path).forks
    assert [(curve.place["sparsity"], curve.epochs) for curve in made] == [
        (0.8, (2,)),
        (0.97, (2, 4)),
    ]
    assert varying(curve.place for curve in made) == ["sparsity"]
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
    assert only_curve(tmp_path).ranking.epochs == (4, 8, 2)


def test_validation_decides_where_every_run_has_it(tmp_path):
    write_cell(tmp_path, 2, [0.9], validation=[0.5])
    write_cell(tmp_path, 4, [0.8], validation=[0.6])
    assert only_curve(tmp_path).split == "validation"
    assert only_curve(tmp_path).ranking.epochs == (4, 2)
    write_cell(tmp_path, 6, [0.1])
    assert only_curve(tmp_path).split == "test"
    assert only_curve(tmp_path).ranking.epochs == (2, 4, 6)


def test_paired_difference_averages_replicates_and_drops_lone_seeds(tmp_path):
    # Seed 0: (.5 + .7) / 2 - .8 = -.2; seed 1: .6 - .7 = -.1; seed 2 has no trunk.
    for seed, replicate, accuracy in ((0, 0, 0.5), (0, 1, 0.7), (1, 0, 0.6), (2, 0, 0.1)):
        made = workdirs.records(2, [accuracy])
        workdirs.write_fork(
            tmp_path, seed, 2, made, replicate=replicate, result=workdirs.finished()
        )
    for seed, accuracy in ((0, 0.8), (1, 0.7)):
        made = workdirs.records(0, [accuracy])
        workdirs.write_trunk(tmp_path, seed, made, last_epoch=1, result=workdirs.finished(1))
    difference = only_curve(tmp_path).against_dense(2)
    assert difference is not None
    assert difference.n == 2
    assert difference.mean == pytest.approx(-0.15)
    assert difference.std == pytest.approx(0.1 / math.sqrt(2))


def test_diverged_forks_and_trunks_are_left_out(tmp_path):
    diverged = {
        "status": "diverged",
        "epoch": 3,
        "step": 21,
        "achieved_sparsity": 0.9,
        "reason": "nan",
    }
    workdirs.write_fork(tmp_path, 0, 2, workdirs.records(2, [0.1]), result=diverged)
    workdirs.write_trunk(tmp_path, 0, workdirs.records(0, [0.1]), result=diverged)
    setting = setting_of(tmp_path)
    assert setting.forks == ()
    assert len(setting.dense) == 0


def test_a_trunk_that_its_trigger_ended_is_no_dense_baseline(tmp_path):
    made = workdirs.records(0, [0.5, 0.6, 0.7])
    workdirs.write_trunk(tmp_path, 0, made, last_epoch=4, result=workdirs.finished(3))
    workdirs.write_trunk(tmp_path, 1, made, last_epoch=3, result=workdirs.finished(3))
    assert setting_of(tmp_path).dense["trunk_seed"].tolist() == [1]


def test_runs_that_pruned_themselves_are_curves_of_their_own_kind(tmp_path):
    write_cell(tmp_path, 2, [0.9])
    for seed, epoch in ((0, 5), (1, 7)):
        made = workdirs.records(epoch, [0.8])
        workdirs.write_online(
            tmp_path, seed, epoch, made, fired_epoch=epoch, result=workdirs.finished()
        )
    (online,) = setting_of(tmp_path).online
    assert online.epochs == (5, 7)
    assert only_curve(tmp_path).epochs == (2,)


def test_equal_means_that_differ_in_their_last_bits_are_equal(tmp_path):
    # (0.1 + 0.2 + 0.3) / 3 and (0.3 + 0.2 + 0.1) / 3 differ by one bit.
    write_cell(tmp_path, 2, [0.1, 0.2, 0.3])
    write_cell(tmp_path, 4, [0.3, 0.2, 0.1])
    assert only_curve(tmp_path).ranking.epochs == (2, 4)
    write_cell(tmp_path, 1, [0.3, 0.2, 0.1])
    assert only_curve(tmp_path).ranking.epochs == (1, 2, 4)


def test_the_best_epoch_is_clear_of_another_with_three_seeds_and_a_lead_beyond_the_noise(tmp_path):
    # 2 leads 4 by .02, .03, .04, and 6 by .00, .03, .06.
    write_cell(tmp_path, 2, [0.92, 0.93, 0.94])
    write_cell(tmp_path, 4, [0.90, 0.90, 0.90])
    write_cell(tmp_path, 6, [0.92, 0.90, 0.88])
    ranking = only_curve(tmp_path).ranking
    over_4, over_6 = ranking.leads[4], ranking.leads[6]
    assert over_4 is not None and over_6 is not None
    assert (over_4.difference.mean, over_4.is_clear) == (pytest.approx(0.03), True)
    assert (over_6.difference.mean, over_6.is_clear) == (pytest.approx(0.03), False)
    assert (ranking.best, ranking.rivals, ranking.edge) == (2, (6,), "earliest")


def test_two_seeds_or_equal_leads_make_nothing_clear(tmp_path):
    write_cell(tmp_path / "two", 2, [0.92, 0.93])
    write_cell(tmp_path / "two", 4, [0.90, 0.90])
    assert only_curve(tmp_path / "two").ranking.rivals == (4,)
    # Three equal leads: no spread, and no certainty.
    write_cell(tmp_path / "equal", 8, [0.5, 0.5, 0.5])
    write_cell(tmp_path / "equal", 10, [0.75, 0.75, 0.75])
    assert only_curve(tmp_path / "equal").ranking.rivals == (8,)


def test_of_seven_equal_epochs_the_truly_best_is_hardly_ever_called_beaten():
    """The set of epochs that nothing clearly beats holds the best one in 95 % of the cases: 400
    tables."""
    rng, num_dropped = np.random.default_rng(0), 0
    for _ in range(400):
        table = rng.normal(size=(7, 5)) + 3 * rng.normal(size=5)
        ranking = best_epoch.rank(tuple(range(7)), table)
        num_dropped += 0 not in (ranking.best, *ranking.rivals)
    assert num_dropped <= 400 * (0.05 + 3 * math.sqrt(0.05 * 0.95 / 400))
