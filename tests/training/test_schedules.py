"""Schedules and fork rules against values worked out by hand."""

import dataclasses
import math

import numpy as np
import pytest

from configs import digits
from earlyprune_jax import config
from earlyprune_jax.spec_sections import ScheduleSpec
from earlyprune_jax.training import retraining, schedules
from earlyprune_jax.training.schedules import RunSchedule

SPE = 10


def table(schedule, num_steps):
    epochs = [schedules.rates_of_epoch(schedule, index, SPE) for index in range(num_steps // SPE)]
    return np.concatenate(epochs)


def rates(name, per="epoch", *, num_epochs=5, **changes):
    spec = ScheduleSpec(name, per, 0.97, 0.01, (2, 4), 0.1, 10)
    spec = dataclasses.replace(spec, **changes)
    return table(RunSchedule(spec, 0.1, num_epochs, SPE).schedule, num_epochs * SPE)


def test_exponential_per_epoch_is_paper_a():
    values = rates("exponential", num_epochs=200)
    for epoch in (1, 2, 60, 200):
        assert values[(epoch - 1) * SPE] == pytest.approx(0.1 * 0.97 ** (epoch - 1), rel=1e-5)
    assert np.all(values[:SPE] == np.float32(0.1))
    assert values[-1] == pytest.approx(2.3e-4, rel=0.02)  # FACTS: the dense run's last rate


def test_exponential_per_step_falls_by_the_same_factor_an_epoch():
    values = rates("exponential", "step")
    assert values[SPE] == pytest.approx(0.1 * 0.97, rel=1e-6)
    assert values[5] == pytest.approx(0.1 * 0.97**0.5, rel=1e-6)


@pytest.mark.parametrize(("per", "units"), [("epoch", 5), ("step", 50)])
def test_cosine_and_linear_start_at_max_and_end_at_end(per, units):
    cosine, linear = rates("cosine", per), rates("linear", per)
    for unit in range(units):
        step = unit * (50 // units)
        progress = unit / (units - 1)
        assert cosine[step] == pytest.approx(
            0.01 + 0.045 * (1 + math.cos(math.pi * progress)), rel=1e-5
        )
        assert linear[step] == pytest.approx(0.1 - 0.09 * progress, rel=1e-5)


@pytest.mark.parametrize("per", ["epoch", "step"])
def test_step_schedule_multiplies_at_the_start_of_its_0_based_epochs(per):
    values = rates("step", per)
    by_epoch = [0.1, 0.1, 0.01, 0.01, 0.001]
    np.testing.assert_allclose(values, np.repeat(by_epoch, SPE), rtol=1e-5)


def test_constant_is_constant():
    assert set(rates("constant").tolist()) == {np.float32(0.1).item()}


def test_inverse_sqrt_is_vaswanis_formula():
    """Eq. (3) of Vaswani et al., with a width of 512 and 4000 steps of warm-up."""
    maximum = 512**-0.5 * 4000**-0.5
    spec = ScheduleSpec("inverse_sqrt", "step", 0.97, 0.0, (), 0.1, 4000)
    run = RunSchedule(spec, maximum, num_epochs=10, steps_per_epoch=1000)
    for step in (1, 2, 1000, 3999, 4000, 4001, 8000, 10_000):
        by_hand = 512**-0.5 * min(step**-0.5, step * 4000**-1.5)
        assert schedules.rate_at(run.schedule, step - 1) == pytest.approx(by_hand, rel=1e-5)
    assert run.final_rate == pytest.approx(512**-0.5 * 10_000**-0.5, rel=1e-12)


def test_inverse_sqrt_per_epoch_holds_the_rate_of_an_epochs_first_step():
    values = rates("inverse_sqrt", warmup_steps=15)
    by_hand = [0.1 * min(step / 15, (15 / step) ** 0.5) for step in (1, 11, 21, 31, 41)]
    np.testing.assert_allclose(values, np.repeat(by_hand, SPE), rtol=1e-6)


def test_a_one_epoch_run_trains_at_the_maximum():
    for name in ("exponential", "cosine", "linear", "step", "constant"):
        np.testing.assert_allclose(rates(name, num_epochs=1), 0.1, rtol=1e-6)


def spec(**schedule):
    overrides = {
        "data.train_fraction": "0.5",
        "train.num_epochs": "200",
        "fork.epochs": "20,60,100,140,180",
        "schedule.exponential_decay_rate": "0.97",
        "schedule.step_boundaries_epochs": "100,150",
        **{f"schedule.{key}": str(value) for key, value in schedule.items()},
    }
    return config.resolve(digits.get_config(), list(overrides.items()))


def final(training):
    return rate_at(training, training.num_epochs * SPE - 1)


def rate_at(training, step):
    return schedules.rate_at(training.schedule, step)


def test_equation_6():
    for epoch, rate in ((0, 0.1), (60, 0.073), (100, 0.055), (200, 0.01)):
        assert retraining.max_learning_rate(0.1, epoch, 200) == pytest.approx(rate)


def test_paper_a_restarts_the_exponential_schedule_so_late_forks_end_high():
    by_hand = {20: 3.898e-4, 60: 1.0577e-3, 100: 2.6963e-3, 140: 6.1335e-3, 180: 1.06516e-2}
    for epoch, rate in by_hand.items():
        training = retraining.training(spec(), "paper_a", epoch, SPE)
        assert training.num_epochs == 200 - epoch
        assert training.reset_momentum
        assert rate_at(training, 0) == pytest.approx(0.1 * (1 - 0.9 * epoch / 200), rel=1e-6)
        assert final(training) == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize("per", ["epoch", "step"])
@pytest.mark.parametrize("name", ["exponential", "cosine", "linear", "step", "inverse_sqrt"])
@pytest.mark.parametrize("epoch", [0, 20, 100, 180, 199])
def test_matched_anneal_ends_every_fork_at_the_trunks_final_rate(name, per, epoch):
    resolved = spec(name=name, per=per, end_learning_rate=0.0005, warmup_steps=15)
    training = retraining.training(resolved, "matched_anneal", epoch, SPE)
    assert final(training) == pytest.approx(
        retraining.trunk_schedule(resolved, SPE).final_rate, rel=1e-4
    )
    if epoch < 199:
        assert rate_at(training, 0) == pytest.approx(0.1 * (1 - 0.9 * epoch / 200), rel=1e-6)


def test_matched_anneal_of_the_whole_trunk_is_the_trunk():
    resolved = spec()
    trunk, whole = (
        retraining.trunk(resolved, SPE),
        retraining.training(resolved, "matched_anneal", 0, SPE),
    )
    np.testing.assert_allclose(table(whole.schedule, 2000), table(trunk.schedule, 2000), rtol=1e-4)


def test_continue_is_the_rest_of_the_trunks_schedule_with_its_momentum():
    resolved = spec()
    training = retraining.training(resolved, "continue", 60, SPE)
    trunk = table(retraining.trunk(resolved, SPE).schedule, 2000)
    np.testing.assert_array_equal(table(training.schedule, 1400), trunk[600:])
    assert not training.reset_momentum


def test_constant_trains_its_own_length_at_its_own_rate():
    training = retraining.training(spec(), "constant", 180, SPE)
    assert training.num_epochs == 10
    assert set(table(training.schedule, 100).tolist()) == {np.float32(1e-3).item()}


@pytest.mark.parametrize("per", ["epoch", "step"])
@pytest.mark.parametrize("name", list(schedules.CURVES))
@pytest.mark.parametrize("num_epochs", [1, 2, 160])
def test_the_closed_form_of_the_final_rate_is_the_schedules_last_value(name, per, num_epochs):
    resolved = spec(name=name, per=per, end_learning_rate=0.0005)
    run = RunSchedule(resolved.schedule, 0.07, num_epochs, SPE)
    last = schedules.rate_at(run.schedule, num_epochs * SPE - 1)
    assert run.final_rate == pytest.approx(last, rel=1e-4)


def test_matched_anneal_to_a_vanishing_rate_is_refused():
    resolved = spec(exponential_decay_rate=0.1)
    fork = dataclasses.replace(resolved.fork, retraining=("matched_anneal",))
    (problem,) = retraining.check_rates(dataclasses.replace(resolved, fork=fork), SPE)
    assert "decay more slowly" in problem


def test_a_fork_whose_rate_would_rise_is_refused():
    resolved = dataclasses.replace(
        spec(), fork=dataclasses.replace(spec().fork, retraining=("matched_anneal",))
    )
    slow = dataclasses.replace(resolved.schedule, exponential_decay_rate=0.999)
    problems = retraining.check_rates(dataclasses.replace(resolved, schedule=slow), SPE)
    assert len(problems) == 1
    assert "would rise in forks at [60, 100, 140, 180]" in problems[0]
