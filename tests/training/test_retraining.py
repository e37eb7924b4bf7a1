"""How forks train: custom rules in closed form, named ones as they always were, the user's own."""

import math

import numpy as np
import pytest
from tiny import linear_experiment

from configs import digits
from earlyprune_jax import config
from earlyprune_jax.training import retraining
from earlyprune_jax.validate import InvalidInput

SPE, T, FORK, BASE = 10, 200, 60, 0.1
MAXIMUM = BASE * (1 - 0.9 * FORK / T)
"""Eq. (6)."""


def spec(**changes: str):
    overrides = {
        "data.train_fraction": "0.5",
        "train.num_epochs": str(T),
        "fork.epochs": str(FORK),
        "schedule.exponential_decay_rate": "0.97",
        "schedule.step_boundaries_epochs": "100,150",
        "schedule.end_learning_rate": "0.0005",
        **{name.replace("__", "."): text for name, text in changes.items()},
    }
    return config.resolve(digits.get_config(), list(overrides.items()))


def custom(**changes: str):
    resolved = spec(fork__retraining="custom", **changes)
    return retraining.training(resolved, "custom", FORK, SPE)


def rates(training, *epochs):
    """The rates at the first steps of some epochs."""
    return [float(np.asarray(training.schedule(epoch * SPE))) for epoch in epochs]


@pytest.mark.parametrize(("length", "num_epochs"), [("0", T - FORK), ("30", 30)])
@pytest.mark.parametrize(
    ("name", "at", "fresh"),
    [
        ("eq6", lambda u, n: MAXIMUM * 0.97**u, True),
        (
            "matched_anneal",
            lambda u, n: MAXIMUM * (BASE * 0.97 ** (T - 1) / MAXIMUM) ** (u / (n - 1)),
            True,
        ),
        ("continue", lambda u, n: BASE * 0.97 ** (FORK + u), False),
        ("restart", lambda u, n: BASE * 0.97**u, True),
        ("constant", lambda u, n: 1e-3, True),
    ],
)
def test_custom_is_a_length_and_any_rates(length, num_epochs, name, at, fresh):
    training = custom(fork__length=length, fork__rates=name)
    assert training.num_epochs == num_epochs
    assert training.reset_momentum == fresh
    chosen = (0, 7, num_epochs - 1)
    assert rates(training, *chosen) == pytest.approx(
        [at(epoch, num_epochs) for epoch in chosen], rel=1e-4
    )


def test_restart_and_matched_anneal_stretch_a_cosine_over_the_length():
    for name, maximum in (("restart", BASE), ("matched_anneal", MAXIMUM)):
        training = custom(fork__length="30", fork__rates=name, schedule__name="cosine")
        wanted = [
            5e-4 + (maximum - 5e-4) / 2 * (1 + math.cos(math.pi * epoch / 29))
            for epoch in range(30)
        ]
        assert rates(training, *range(30)) == pytest.approx(wanted, rel=1e-4)


# Epochs, fresh optimizer, and the rates at the first step, in the middle (+ 3 steps) and at the
# last, as the version with one rule a function gave them.
BEFORE = {
    ("exponential", "epoch", "paper_a"): (140, True, [0.0729999989, 0.00865655579, 0.00105826801]),
    ("exponential", "epoch", "matched_anneal"): (
        140,
        True,
        [0.0729999989, 0.00404084194, 0.000233118029],
    ),
    ("exponential", "epoch", "continue"): (
        140,
        False,
        [0.0160806961, 0.00190689659, 0.000233119004],
    ),
    ("exponential", "epoch", "constant"): (10, True, [0.001, 0.001, 0.001]),
    ("exponential", "epoch", "matched_budget"): (
        150,
        False,
        [0.0160806961, 0.00163751713, 0.00100000005],
    ),
    ("exponential", "step", "paper_a"): (140, True, [0.0729999989, 0.00857781433, 0.00102965173]),
    ("exponential", "step", "matched_anneal"): (
        140,
        True,
        [0.0729999989, 0.00401072344, 0.000226814052],
    ),
    ("cosine", "epoch", "paper_a"): (140, True, [0.0729999989, 0.0363403521, 0.000499999966]),
    ("cosine", "epoch", "matched_anneal"): (
        140,
        True,
        [0.0729999989, 0.0363403521, 0.000499999966],
    ),
    ("cosine", "step", "continue"): (140, False, [0.0794733390, 0.0274100732, 0.000500000024]),
    ("linear", "step", "paper_a"): (140, True, [0.0729999989, 0.0365686193, 0.000500000024]),
    ("linear", "step", "matched_budget"): (150, False, [0.0701350719, 0.0326545797, 0.00100000005]),
    ("step", "epoch", "paper_a"): (140, True, [0.0729999989, 0.0729999989, 0.00730000017]),
    ("step", "epoch", "matched_anneal"): (140, True, [0.0729999989, 0.00854400359, 0.00100000005]),
    ("step", "epoch", "continue"): (140, False, [0.1, 0.01, 0.001]),
    ("constant", "epoch", "paper_a"): (140, True, [0.073, 0.073, 0.073]),
    ("constant", "epoch", "matched_anneal"): (140, True, [0.1, 0.1, 0.1]),
    ("constant", "epoch", "matched_budget"): (150, False, [0.1, 0.1, 0.001]),
}


@pytest.mark.parametrize(("name", "per", "rule"), BEFORE)
def test_named_rules_give_the_rates_they_have_always_given(name, per, rule):
    num_epochs, fresh, wanted = BEFORE[name, per, rule]
    training = retraining.training(spec(schedule__name=name, schedule__per=per), rule, FORK, SPE)
    assert (training.num_epochs, training.reset_momentum) == (num_epochs, fresh)
    last = num_epochs * SPE - 1
    found = [float(np.asarray(training.schedule(step))) for step in (0, (last + 1) // 2 + 3, last)]
    assert found == pytest.approx(wanted, rel=1e-6)


def test_custom_with_the_length_and_rates_of_a_named_rule_is_that_rule():
    for rule, changes in {
        "paper_a": {"fork__rates": "eq6"},
        "matched_anneal": {"fork__rates": "matched_anneal"},
        "continue": {"fork__rates": "continue"},
        "constant": {"fork__rates": "constant", "fork__length": "10"},
    }.items():
        named, made = retraining.training(spec(), rule, FORK, SPE), custom(**changes)
        assert (made.num_epochs, made.reset_momentum) == (named.num_epochs, named.reset_momentum)
        epochs = range(0, named.num_epochs, 7)
        assert rates(made, *epochs) == rates(named, *epochs)


MATCHED = {"fork__retraining": "custom", "fork__rates": "matched_anneal"}


# The user's own


def test_an_own_rule_sees_the_trunk_and_is_called_with_its_arguments():
    final = BASE * 0.97 ** (T - 1)
    for rule, num_epochs in (("own_code:half_rate", 3), ("own_code:half_rate(epochs=5)", 5)):
        training = retraining.training(spec(fork__retraining=rule), rule, FORK, SPE)
        assert training.num_epochs == num_epochs
        assert rates(training, 0, num_epochs - 1) == pytest.approx([final / 2] * 2, rel=1e-6)


def polynomial(maximum, num_epochs, epoch, power=2.0):
    return maximum * (1 - epoch / num_epochs) ** power


def test_an_own_schedule_holds_its_rate_for_an_epoch_or_changes_every_step():
    by_epoch = spec(schedule__name="own_code:polynomial")
    by_step = spec(schedule__name="own_code:polynomial(power=3.0)", schedule__per="step")
    for resolved, power, shown in ((by_epoch, 2.0, 12.0), (by_step, 3.0, 12.7)):
        trunk = retraining.trunk(resolved, SPE)
        found = float(np.asarray(trunk.schedule(127)))
        assert found == pytest.approx(polynomial(BASE, T, shown, power), rel=1e-5)
    restarted = retraining.training(by_epoch, "paper_a", FORK, SPE)
    wanted = [polynomial(MAXIMUM, T - FORK, epoch) for epoch in (0, 50, 139)]
    assert rates(restarted, 0, 50, 139) == pytest.approx(wanted, rel=1e-5)


def test_matched_anneal_stretches_an_own_schedule_from_equation_6_to_the_trunks_last_rate():
    training = retraining.training(
        spec(schedule__name="own_code:polynomial"), "matched_anneal", FORK, SPE
    )
    end = polynomial(BASE, T, T - 1)
    first, last = (polynomial(MAXIMUM, T - FORK, epoch) for epoch in (0, T - FORK - 1))
    wanted = [
        end + (polynomial(MAXIMUM, T - FORK, epoch) - last) * (MAXIMUM - end) / (first - last)
        for epoch in (0, 50, 139)
    ]
    assert rates(training, 0, 50, 139) == pytest.approx(wanted, rel=1e-4)
    assert rates(training, 0) == pytest.approx([MAXIMUM], rel=1e-5)
    assert float(np.asarray(training.schedule((T - FORK) * SPE - 1))) == pytest.approx(
        end, rel=1e-4
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fork__length": "5"}, "fork.length=5 to be 0 without custom"),
        ({"fork__retraining": "custom", "fork__rates": "eq7"}, "fork.rates='eq7' to be one of eq6"),
        ({"fork__retraining": "own_code:half_rat"}, "Did you mean 'half_rate'?"),
        ({"fork__retraining": "own_code:no_training"}, "to give a Training, not a NoneType"),
        ({"fork__retraining": "own_code:half_rate(epochs=0)"}, "It gives forks at [60] none"),
        ({"fork__retraining": "own_code:half_rate(epoch=1)"}, "unexpected keyword argument"),
        ({"schedule__name": "own_code:negative"}, "to give rates of at least 0"),
        ({"schedule__name": "own_code:polynomial(power='two')"}, "schedule.name"),
        (MATCHED | {"schedule__exponential_decay_rate": "0.1"}, "decay more slowly"),
    ],
)  # fmt: skip
def test_what_is_no_rule_no_rates_or_no_schedule_is_refused_before_training(changes, words):
    with pytest.raises(InvalidInput) as caught:
        spec(**changes)
    assert words in str(caught.value)


def test_forks_of_a_length_of_their_own_may_leave_at_the_trunks_last_epoch_and_others_not(tiny_npz):
    at_the_end = ("fork.epochs", "4")
    for rule in (("fork.retraining", "custom"), ("fork.retraining", "own_code:half_rate")):
        changes = [at_the_end, rule, ("fork.length", "2" if rule[1] == "custom" else "0")]
        assert config.resolve(linear_experiment(tiny_npz), changes).fork.epochs == (4,)
    with pytest.raises(InvalidInput, match="no epoch beyond 3"):
        config.resolve(linear_experiment(tiny_npz), [at_the_end, ("fork.retraining", "custom")])
    with pytest.raises(InvalidInput, match="without own_code:half_rate: fork.when=trigger"):
        changes = [
            ("fork.when", "trigger"),
            ("fork.trigger", "epoch(2)"),
            ("fork.retraining", "own_code:half_rate"),
        ]
        config.resolve(linear_experiment(tiny_npz), changes)
