import math

import numpy as np
import pytest
import workdirs
from scipy import stats as scipy_stats

from earlyprune_jax.analysis import curves, replay, results, stats

FORKS = (1, 3, 5, 7)


def grid(workdir, accuracy, signals):
    """accuracy: seed -> by fork epoch; signals: seed -> one mapping an epoch."""
    workdirs.write_config(workdir, num_epochs=8)
    for seed, values in signals.items():
        made = workdirs.records(0, [0.9] * len(values), signals=values)
        workdirs.write_trunk(workdir, seed, made, last_epoch=8, result=workdirs.finished(8))
    for seed, by_epoch in accuracy.items():
        for epoch, value in by_epoch.items():
            workdirs.write_fork(
                workdir,
                seed,
                epoch,
                workdirs.records(epoch, [value]),
                last_epoch=8,
                result=workdirs.finished(8),
            )
    return curves.Setting(results.read_runs(workdir))


@pytest.mark.parametrize("seed", range(20))
def test_spearman_agrees_with_scipy_with_and_without_ties(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(3, 12))
    first, second = rng.integers(0, 5, size).astype(float), rng.normal(size=size)
    if seed % 2:
        first, second = rng.normal(size=size), rng.integers(0, 3, size).astype(float)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert stats.spearman(first.tolist(), second.tolist()) is None
    else:
        expected, _ = scipy_stats.spearmanr(first, second)
        assert stats.spearman(first.tolist(), second.tolist()) == pytest.approx(expected, abs=1e-12)


def test_perfect_order_is_one_reversed_minus_one_and_no_order_none():
    assert stats.spearman([1.0, 2.0, 9.0], [0.1, 0.2, 0.3]) == pytest.approx(1.0)
    assert stats.spearman([1.0, 2.0, 9.0], [0.3, 0.2, 0.1]) == pytest.approx(-1.0)
    assert stats.spearman([1.0, 2.0, 9.0], [0.3, 0.3, 0.3]) is None


def test_coefficients_are_per_seed_with_mean_std_and_the_epoch_itself(tmp_path):
    accuracy = {
        0: dict(zip(FORKS, (0.1, 0.2, 0.4, 0.3), strict=True)),
        1: dict(zip(FORKS, (0.4, 0.3, 0.2, 0.1), strict=True)),
    }
    # Values at 1, 3, 5, 7: seed 0 ranks 1 2 4 3, as the accuracy does; seed 1 ranks 1 2 3 4,
    # reversed.
    peak, rise = [1, 0, 2, 0, 9, 0, 8, 0], [1, 0, 2, 0, 3, 0, 4, 0]
    signals = {
        0: [{"x": float(value)} for value in peak],
        1: [{"x": float(value)} for value in rise],
    }
    data = grid(tmp_path, accuracy, signals)
    found = replay.correlation(data.curves[0], "x")
    assert found.over_seeds is not None and found.epoch_itself is not None
    assert (found.over_seeds.mean, found.over_seeds.n, found.num_epochs) == (
        pytest.approx(0.0),
        2,
        4,
    )
    assert found.over_seeds.std == pytest.approx(math.sqrt(2))
    # Epochs against accuracy: seed 0 has one swap of neighbours, 1 - 6 * 2 / (4 * 15) = .8; seed 1
    # is -1.
    assert found.epoch_itself.mean == pytest.approx(-0.1)


def test_forks_without_a_measurement_are_left_out_of_signal_and_control(tmp_path):
    # x is measured at 3, 5, 7 only, where the accuracy falls: both fall with it there.
    accuracy = {0: dict(zip(FORKS, (0.1, 0.4, 0.3, 0.2), strict=True))}
    signals = {0: [{"x": None if epoch < 3 else 1.0 / epoch} for epoch in range(1, 9)]}
    data = grid(tmp_path, accuracy, signals)
    found = replay.correlation(data.curves[0], "x")
    assert found.over_seeds is not None and found.epoch_itself is not None
    assert (found.num_epochs, found.over_seeds.mean, found.over_seeds.std) == (
        3,
        pytest.approx(1.0),
        None,
    )
    assert found.epoch_itself.mean == pytest.approx(-1.0)


def test_two_forks_or_a_constant_signal_give_none(tmp_path):
    accuracy = {0: dict(zip(FORKS, (0.1, 0.4, 0.3, 0.2), strict=True))}
    signals = {0: [{"x": 1.0, "y": None if epoch < 5 else 1.0 * epoch} for epoch in range(1, 9)]}
    data = grid(tmp_path, accuracy, signals)
    for signal in ("x", "y"):
        found = replay.correlation(data.curves[0], signal)
        assert (found.over_seeds, found.epoch_itself, found.num_epochs) == (None, None, 0)


def test_the_most_telling_come_first_and_spreads_and_rates_are_left_out(tmp_path):
    accuracy = {0: dict(zip(FORKS, (0.1, 0.2, 0.4, 0.3), strict=True))}
    signals = {
        0: [
            {
                "flat": 1.0,
                "good": -value,
                "good_standard_error": 1.0 * epoch,
                "good_std": 1.0,
                "poor": 1.0 * epoch,
            }
            for epoch, value in enumerate((1, 0, 2, 0, 9, 0, 8, 0), start=1)
        ]
    }
    data = grid(tmp_path, accuracy, signals)
    names = [one.signal for one in replay.correlations(data.curves[0])]
    assert names[0] == "good"
    assert names.index("poor") < names.index("flat")
    assert not {"good_standard_error", "good_std", "learning_rate", "test_accuracy"} & set(names)
    assert {"train_loss", "train_accuracy"} <= set(names)
