import math

import numpy as np
import pytest

from earlyprune_jax import triggers
from earlyprune_jax.triggers import (
    AtEpoch,
    EarlyBird,
    EarlyCrop,
    Firing,
    Peak,
    Plateau,
    Threshold,
    rules,
)
from earlyprune_jax.validate import InvalidInput


def history(values, column="x"):
    """One entry an epoch, from epoch 1."""
    return [{"epoch": epoch, column: value} for epoch, value in enumerate(values, start=1)]


PLAIN = {"smoothing": 1, "min_rise": 0, "min_errors": 0}
"""Options of a peak that asks for a fall and patience only."""


def epochs(firing):
    return None if firing is None else (firing.epoch, firing.marked_epoch)


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        # Largest at 3; two measurements later, at 5, it is 8.5 <= 0.95 * 9 = 8.55.
        ({}, [1, 5, 9, 8.6, 8.5, 1], (5, 3)),
        # 8.56 is not yet 5 % lower: 6 is the first that is.
        ({}, [1, 5, 9, 8.6, 8.56, 1], (6, 3)),
        # A fall within the patience does not count.
        ({}, [1, 9, 1], None),
        # A higher value starts anew: the peak is at 5, so 7 is the first chance.
        ({}, [1, 9, 1, 8.9, 10, 1, 1], (7, 5)),
        ({"patience": 3}, [1, 9, 1, 8.9, 10, 1, 1, 1], (8, 5)),
        # Still rising: no peak.
        ({}, [1, 2, 3, 4, 5, 6], None),
        # Of equal maxima the first is the peak.
        ({}, [1, 9, 9, 1], (4, 2)),
        # Exactly 5 % lower is enough.
        ({}, [100, 95, 95], (3, 1)),
        # Without a drop asked for, an equal value after the patience is enough, a constant too.
        ({"min_drop": 0}, [5, 5, 5], (3, 1)),
        ({"min_drop": 0, "patience": 1}, [4, 5, 5], (3, 2)),
        # The largest of negative values: 5 % of its size lower is -10.5.
        ({}, [-20, -10, -10.4, -10.4], None),
        ({}, [-20, -10, -10.4, -10.5], (4, 2)),
        # A peak at 0 has no size: not higher is enough.
        ({}, [-1, 0, -1e-9, -1e-9], (4, 2)),
        # A transient at the start is a peak, unless it is skipped.
        ({}, [9, 1, 1, 5, 6, 5, 5], (3, 1)),
        ({"after": 1}, [9, 1, 1, 5, 6, 5, 5], (7, 5)),
    ],
)
def test_peak_fires_when_the_maximum_is_old_and_the_fall_deep_enough(options, values, expected):
    assert epochs(Peak("x", **PLAIN | options)(history(values))) == expected


def test_peak_compares_means_of_the_last_measurements_and_marks_the_largest_of_them():
    # Means of 3: -, -, 4, 6, 6, 5, 3; the first largest, 6, is of epochs 2 to 4: 3, 9, 6.
    # Two later, at 6, the mean is 5 <= 0.95 * 6.
    values = [0, 3, 9, 6, 3, 6, 0]
    firing = Peak("x", **PLAIN | {"smoothing": 3})(history(values))
    assert epochs(firing) == (6, 3)
    assert firing is not None
    assert (
        firing.reason == "x was largest at epoch 3 (9), 17 % lower at 6 (means of 3 measurements)"
    )


def test_smoothing_waits_for_a_full_window():
    # Means of 2 start at epoch 2: 5.5, 3, 3; the peak counts from there, so that 4 is the first
    # chance.
    assert epochs(Peak("x", **PLAIN | {"smoothing": 2})(history([8, 3, 3, 3]))) == (4, 1)


def test_epochs_without_a_measurement_do_not_count():
    # Measured at 1, 4, 7, 10 (every third epoch), with nan and inf in between: patience counts
    # measurements.
    values = [1, None, math.nan, 9, math.inf, None, 8, None, -math.inf, 2]
    assert epochs(Peak("x", **PLAIN)(history(values))) == (10, 4)
    lacking = [{"epoch": 1}, {"epoch": 2, "x": True}, *history([0, 0, 9, 8, 2])[2:]]
    assert epochs(Peak("x", **PLAIN)(lacking)) == (5, 3)


def test_huge_values_do_not_overflow_the_moving_average():
    values = [1e308, 1.5e308, 1.5e308, 1e308, 1e308, 1e308]
    assert epochs(Peak("x", **PLAIN | {"smoothing": 2})(history(values))) == (5, 2)


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        # The high start has not risen; the largest that has is the 6 at 5.
        ({"min_rise": 0.1}, [9, 1, 1, 5, 6, 5, 5], (7, 5)),
        # A fall all along has no peak, nor has one with rises of less than a tenth.
        ({"min_rise": 0.1}, [9, 8, 7, 6, 5, 4], None),
        ({"min_rise": 0.1}, [9, 8, 8.8, 7, 7.7, 6, 5], None),
        # A quarter of 8, exactly, from the lowest level before.
        ({"min_rise": 0.25}, [9, 6, 8, 7, 5], (5, 3)),
        # Sizes of negative values: a rise of 1 to -10 is enough, and a fall of 2.
        ({"min_rise": 0.1, "min_drop": 0.2}, [-11, -10, -11, -12], (4, 2)),
        ({"min_rise": 0.11, "min_drop": 0.2}, [-11, -10, -11, -12], None),
    ],
)
def test_a_peak_lies_above_the_lowest_level_before_it(options, values, expected):
    assert epochs(Peak("x", **PLAIN | options)(history(values))) == expected


@pytest.mark.parametrize("constant", [0, 1, -1])
@pytest.mark.parametrize(
    "options", [{}, {"min_rise": 0}, {"min_errors": 0}, {"smoothing": 1, "min_drop": 0}]
)
def test_a_constant_has_no_peak_while_a_rise_is_asked_for(constant, options):
    values = [constant] * 40
    assert Peak("x", **options)(planned(values, 40)) is None
    # A network that dies after a rise has peaked.
    assert Peak("x", **options)(planned([1, 2, 4, 6, 8, 8, *[0] * 34], 40)) is not None


@pytest.mark.parametrize(("constant", "expected"), [(0, (3, 1)), (1, None), (-1, None)])
def test_the_plain_rule_asks_for_no_rise_and_takes_a_constant_0_as_it_always_has(
    constant, expected
):
    assert epochs(Peak("x", **PLAIN)(history([constant] * 40))) == expected


def test_rise_and_fall_must_exceed_the_noise_that_second_differences_show():
    # The bends are of sizes 4, 4, 4, ...: noise 0.605 * 4 = 2.42, of a difference sqrt(2) times
    # that, 3.42.
    wobble = [10, 12, 10, 12, 10, 12, 10, 12, 10, 12]
    for errors, fires in ((0.5, True), (0.58, True), (0.59, False), (2, False)):
        rule = Peak("x", smoothing=1, patience=1, min_errors=errors)
        assert (rule(history(wobble)) is not None) is fires
        # It takes five measurements to know.
        assert rule(history(wobble)[:4]) is None
    # A steep slope without bends is no noise.
    ramp = [*range(10, 40, 3), *range(37, 7, -3)]
    assert epochs(Peak("x", smoothing=1)(history(ramp))) == (12, 10)


def test_noise_estimate_agrees_with_the_standard_deviation_it_estimates():
    drawn = np.random.default_rng(0).normal(size=4000) * 3 + np.linspace(0, 500, 4000)
    assert rules._noise(drawn.tolist())[-1] == pytest.approx(3, rel=0.05)
    assert rules._noise([1.0, 5.0, 2.0, 7.0]) == [None] * 4


def planned(values, num_epochs, every=1):
    return [
        {"epoch": every * index, "num_epochs": num_epochs, "x": value}
        for index, value in enumerate(values, start=1)
    ]


@pytest.mark.parametrize(("every", "smoothing", "expected"), [(1, 3, 6), (2, 2, 10), (3, 1, 12)])
def test_a_fraction_is_of_the_planned_epochs_however_many_were_measured(every, smoothing, expected):
    # 10 % of 30 epochs are 3: three measurements, two at 2 k - 2 and 2 k, or one.
    measured = planned([1, 2, 9, 4, 6, 3, 2, 1], 30, every)
    fraction = Peak("x", 0.1, 1, min_errors=0)(measured)
    assert epochs(fraction) == epochs(Peak("x", smoothing, 1, min_errors=0)(measured))
    assert epochs(fraction) == (expected, 3 * every)


def test_a_fraction_is_at_least_one_epoch_and_whole_epochs():
    values = [1, 2, 9, 4, 6, 3, 2, 1]
    for fraction, num_epochs, whole in ((0.001, 30, 1), (0.1, 24, 2), (0.1, 25, 3), (0.07, 100, 7)):
        rule, same = Peak("x", fraction, min_errors=0), Peak("x", whole, min_errors=0)
        assert epochs(rule(planned(values, num_epochs))) == epochs(same(history(values)))


def test_a_fraction_without_a_planned_length_is_refused_with_the_remedy():
    with pytest.raises(InvalidInput, match=r"peak\(smoothing\)=0.1 to be a whole number .* Give"):
        Peak("x")(history([1, 2]))
    assert Peak("x")([]) is None
    assert Peak("x", smoothing=3)(history([1, 2])) is None


def test_early_bird_fires_at_the_first_distance_up_to_the_threshold():
    values = [None, None, None, None, 0.3, 0.11, 0.1, 0.05]
    assert EarlyBird()(history(values, "mask_distance")) == Firing(
        7, 7, "mask_distance was 0.1 at epoch 7"
    )
    assert epochs(EarlyBird(threshold=0.05)(history(values, "mask_distance"))) == (8, 8)
    assert EarlyBird(threshold=0.01)(history(values, "mask_distance")) is None
    assert epochs(EarlyBird("x")(history([0.2, 0.1]))) == (2, 2)


def test_early_crop_compares_each_change_with_the_first():
    # Changes: 4, 2, 1, 0.5, 0.25 at epochs 2 to 6.
    values = [0, 4, 6, 7, 7.5, 7.75]
    for sparsity, epoch in ((0.0, 3), (0.5, 4), (0.7, 4), (0.9, 6)):
        firing = EarlyCrop(sparsity=sparsity)(history(values, "weight_change"))
        assert epochs(firing) == (epoch, epoch)
    assert EarlyCrop(sparsity=0.95)(history(values, "weight_change")) is None


def test_early_crop_divides_a_change_by_the_epochs_it_took_and_takes_its_size():
    # Measured at 1, 3, 5: 4 in two epochs is 2 an epoch; then -1 in two epochs, size 0.5 < 0.3 * 2.
    values = [0, None, 4, None, 3]
    assert epochs(EarlyCrop(sparsity=0.7)(history(values, "weight_change"))) == (5, 5)
    assert EarlyCrop(sparsity=0.75)(history(values, "weight_change")) is None


def test_early_crop_never_fires_on_weights_that_do_not_move():
    assert EarlyCrop(sparsity=0.5)(history([0, 0, 0, 0], "weight_change")) is None


def test_threshold_is_strict_on_either_side():
    assert epochs(Threshold("x", above=2)(history([1, 2, 3]))) == (3, 3)
    assert epochs(Threshold("x", below=2)(history([3, 2, 1]))) == (3, 3)
    assert Threshold("x", above=2)(history([None, 2, math.inf])) is None
    firing = Threshold("x", below=-0.5)(history([-0.6]))
    assert firing == Firing(1, 1, "x was -0.6 at epoch 1, below -0.5")


def test_epoch_fires_at_the_first_recorded_epoch_from_its_number_on():
    assert epochs(AtEpoch(3)([{"epoch": 1}, {"epoch": 2}, {"epoch": 3}, {"epoch": 4}])) == (3, 3)
    assert epochs(AtEpoch(3)([{"epoch": 2}, {"epoch": 5}])) == (5, 5)
    assert AtEpoch(3)([{"epoch": 2}]) is None


@pytest.mark.parametrize(
    ("options", "values", "epoch"),
    [
        # Ranges over 3: (10-9.9)/10 = 1 % at 5.
        ({"patience": 2}, [1, 5, 9.9, 10, 9.95, 1], 5),
        # 2 % exactly still counts as change.
        ({"patience": 1}, [50, 49, 49], 3),
        ({"patience": 1, "min_change": 0.021}, [50, 49], 2),
        ({"patience": 3}, [1, 1, 1], None),
        ({"patience": 3}, [1, 1, 1, 1], 4),
        # All zero is no change; around zero the range is relative to the largest size.
        ({"patience": 2}, [0, 0, 0], 3),
        ({"patience": 1}, [-1, 1, -1], None),
        ({"patience": 1}, [None, 3, None, 3], 4),
    ],
)
def test_plateau_fires_when_the_last_measurements_hardly_differ(options, values, epoch):
    firing = Plateau("x", **options)(history(values))
    assert epochs(firing) == (None if epoch is None else (epoch, epoch))


@pytest.mark.parametrize(
    ("rule", "columns", "looks_back"),
    [
        (Peak("x"), ("x",), True),
        (EarlyBird(), ("mask_distance",), False),
        (EarlyCrop(sparsity=0.5), ("weight_change",), False),
        (Threshold("y", above=1), ("y",), False),
        (AtEpoch(2), (), False),
        (Plateau("z"), ("z",), False),
    ],
)
def test_a_rule_says_what_it_reads_and_whether_it_looks_back(rule, columns, looks_back):
    assert rule.columns == columns
    assert rule.looks_back is looks_back
    assert rule([]) is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Peak("x", smoothing=0, patience=1.5, min_drop=1),  # pyright: ignore[reportArgumentType]
            ["smoothing)=0 to be a whole number of measurements", "patience)=1.5", "min_drop)=1"],
        ),
        (lambda: Peak("x", smoothing=1.0), ["or a fraction of the epochs in (0, 1)"]),
        (lambda: Peak("x", smoothing=True), ["smoothing)=True to be a finite number"]),
        (lambda: Peak("test_loss"), ["never look at the test set"]),
        (lambda: Peak(""), ["to be the name of a column"]),
        (lambda: EarlyBird(threshold=math.nan), ["threshold)=nan to be a finite number"]),
        (lambda: EarlyCrop(sparsity=1), ["in [0, 1)"]),
        (lambda: Threshold("x"), ["it has neither"]),
        (lambda: Threshold("x", above=1, below=0), ["it has both"]),
        (lambda: AtEpoch(True), ["to be a whole number"]),
        (lambda: Plateau("x", min_change=0), ["in (0, inf)"]),
    ],
)
def test_a_rule_refuses_wrong_options_and_names_all(make, words):
    with pytest.raises(InvalidInput) as caught:
        make()
    assert len(caught.value.problems) == len(words)
    assert all(word in problem for word, problem in zip(words, caught.value.problems, strict=True))


def test_equal_rules_are_equal_hash_equal_and_read_equal():
    assert Threshold("x", above=1) == Threshold("x", above=1.0)
    assert str(Threshold("x", above=1)) == str(Threshold("x", above=1.0))
    assert len({Peak("x"), Peak("x", min_drop=0.05), Peak("y")}) == 2


def test_every_registered_rule_has_a_docstring_and_an_example_that_makes_it():
    for name, rule in triggers.RULES.items():
        assert rule.__doc__ and "Attributes:" in rule.__doc__
        assert isinstance(triggers.parse(rule.example), rule)
        assert rule.name == name
