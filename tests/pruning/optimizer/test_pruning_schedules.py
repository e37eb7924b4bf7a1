"""Schedules against their formulas, and the same inside jit as outside."""

import math
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earlyprune_jax.pruning.optimizer import schedules
from earlyprune_jax.pruning.optimizer.schedules import Schedule, iterative, one_shot, polynomial
from earlyprune_jax.validate import InvalidInput


def refusal(function, *args, **options) -> tuple[str, ...]:
    with pytest.raises(InvalidInput) as caught:
        function(*args, **options)
    return caught.value.problems


@settings(max_examples=100, deadline=None)
@given(
    final=st.floats(0.1, 0.99),
    initial=st.floats(0, 0.1),
    power=st.floats(0.25, 5),
    begin=st.integers(0, 50),
    length=st.integers(1, 60),
    every=st.integers(1, 20),
)
def test_polynomial_is_the_published_formula_and_ends_exactly(
    final, initial, power, begin, length, every
):
    end = begin + length
    schedule = polynomial(final, begin=begin, end=end, every=every, initial=initial, power=power)
    assert schedule.steps == tuple(sorted({*range(begin, end, every), end}))
    for step, sparsity in zip(schedule.steps, schedule.sparsities, strict=True):
        wanted = final + (initial - final) * (1 - (step - begin) / length) ** power
        assert sparsity == pytest.approx(wanted, rel=1e-12, abs=1e-15)
    assert schedule.sparsities[-1] == final
    assert schedule(end + 1000) == final


def test_polynomial_by_hand():
    schedule = polynomial(0.8, begin=100, end=500, every=100, initial=0.2)
    cubes = [1, 27 / 64, 1 / 8, 1 / 64, 0]
    np.testing.assert_allclose(
        np.array(schedule.sparsities), [0.8 - 0.6 * cube for cube in cubes], rtol=1e-12
    )
    linear = polynomial(0.8, begin=0, end=4, every=1, power=1)
    np.testing.assert_allclose(np.array(linear.sparsities), [0, 0.2, 0.4, 0.6, 0.8], rtol=1e-12)
    uneven = polynomial(0.8, begin=0, end=10, every=4)
    assert uneven.steps == (0, 4, 8, 10)


def test_polynomial_of_a_mapping_gives_every_layer_its_own_way():
    schedule = polynomial({"a": 0.8, "b": 0.4}, begin=0, end=2, every=1, power=1, initial=0.2)
    targets: Any = schedule.sparsities
    assert [list(one) for one in targets] == [["a", "b"]] * 3
    rows = [list(one.values()) for one in targets]
    np.testing.assert_allclose(rows, [[0.2, 0.2], [0.5, 0.3], [0.8, 0.4]])


def test_epochs_and_steps_give_equal_schedules():
    assert one_shot(0.5, at=1.5, steps_per_epoch=10) == one_shot(0.5, at=15)
    in_epochs = polynomial(0.9, begin=1, end=4.5, every=0.5, steps_per_epoch=10)
    assert in_epochs == polynomial(0.9, begin=10, end=45, every=5)
    in_epochs = iterative(0.2, num_rounds=4, begin=2, every=1, rewind_to=0.5, steps_per_epoch=10)
    assert in_epochs == iterative(0.2, num_rounds=4, begin=20, every=10, rewind_to=5)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 0.7), st.integers(1, 12))
def test_iterative_removes_a_fraction_of_what_remains(fraction, num_rounds):
    schedule = iterative(fraction, num_rounds=num_rounds, begin=10, every=5)
    assert schedule.steps == tuple(10 + 5 * number for number in range(num_rounds))
    left = 1.0
    for sparsity in schedule.sparsities:
        left *= 1 - fraction
        assert 1 - sparsity == pytest.approx(left, rel=1e-9)  # type: ignore[operator]


STEPS = st.lists(st.integers(0, 40), min_size=0, max_size=5, unique=True).map(
    lambda steps: tuple(sorted(steps))
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_the_level_is_the_number_of_events_at_or_before_a_step(steps):
    schedule = Schedule(steps, tuple(0.1 * (number + 1) for number in range(len(steps))))
    for step in range(43):
        past = [event for event in steps if event <= step]
        assert schedule.level(step) == len(past)
        assert schedule.level(np.int64(step)) == len(past)
        assert schedule(step) == (0.1 * len(past) if past else 0.0)


@pytest.mark.parametrize("schedule", [
    one_shot(0.8, at=0), one_shot(0.8, at=7), polynomial(0.9, begin=2, end=11, every=4),
    iterative(0.2, num_rounds=3, begin=1, every=1, rewind_to=0), schedules.NEVER_PRUNE,
])  # fmt: skip
def test_traced_steps_agree_with_python_steps(schedule):
    level = jax.jit(schedule.level)
    for step in range(14):
        assert level(step).dtype == np.int32
        assert int(level(step)) == schedule.level(step)
        assert int(level(jnp.asarray(step, jnp.uint8))) == schedule.level(step)
    np.testing.assert_array_equal(
        jax.vmap(schedule.level)(jnp.arange(14)), [schedule.level(t) for t in range(14)]
    )


def test_no_event_means_never():
    assert [schedules.NEVER_PRUNE(step) for step in (0, 10**9)] == [0.0, 0.0]
    assert schedules.NEVER_PRUNE.level(5) == 0


def test_a_schedule_can_be_hashed_and_compared_unless_it_holds_mappings():
    assert len({one_shot(0.5, at=3), Schedule((3,), (0.5,)), one_shot(0.5, at=4)}) == 2


FRACTION = "in [0, 1)"


@pytest.mark.parametrize(
    ("steps", "sparsities", "rewind_to", "words"),
    [
        ((3, 3), (0.1, 0.2), None, "steps=(3, 3) to increase"),
        ((5, 3), (0.1, 0.2), None, "steps=(5, 3) to increase"),
        ((-1,), (0.1,), None, "-1"),
        ((1.5,), (0.1,), None, "1.5"),
        ((2.0,), (0.1,), None, "2.0"),
        ((True,), (0.1,), None, "True"),
        (("3",), (0.1,), None, "'3'"),
        (None, (0.1,), None, "None"),
        (3, (0.1,), None, "3"),
        ([3], [0.1], None, "[3]"),
        ((1, 2), (0.1,), None, "to be tuples of one length"),
        ((1,), (1.0,), None, FRACTION),
        ((1,), (-0.1,), None, FRACTION),
        ((1,), (math.nan,), None, FRACTION),
        ((1,), (True,), None, FRACTION),
        ((1,), (False,), None, FRACTION),
        ((1,), ("0.5",), None, FRACTION),
        ((1,), (None,), None, FRACTION),
        ((1,), ({"a": 1.0},), None, FRACTION),
        ((1,), ({"a": None},), None, FRACTION),
        ((1, 2), (0.5, 0.4), None, "never to fall"),
        ((1, 2), ({"a": 0.5, "b": 0.1}, {"a": 0.4, "b": 0.2}), None, "never to fall"),
        ((1, 2), ({"a": 0.5}, 0.6), None, "mappings of the same patterns"),
        ((1, 2), ({"a": 0.5}, {"b": 0.6}), None, "mappings of the same patterns"),
        ((10,), (0.5,), 10, "rewind_to=10 to be before the first pruning"),
        ((10, 20), (0.5, 0.6), 15, "rewind_to=15 to be before the first pruning"),
        ((), (), 0, "rewind_to=0 to be before the first pruning"),
        ((10,), (0.5,), -1, "rewind_to=-1"),
        ((10,), (0.5,), 2.5, "rewind_to=2.5"),
        ((10,), (0.5,), True, "rewind_to=True"),
        ((10,), (0.5,), "2", "rewind_to='2'"),
        ((2**31 - 1,), (0.5,), None, "step=2147483647 to be below 2147483647"),
        ((10**12,), (0.5,), None, "step=1000000000000 to be below"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(steps, sparsities, rewind_to, words):
    assert any(words in problem for problem in refusal(Schedule, steps, sparsities, rewind_to))


def test_all_problems_of_a_table_come_at_once():
    assert len(refusal(Schedule, (5, 3), (1.5, -1), 7)) == 4


NUMBERS = ["3", None, -1, math.nan, math.inf, True, [3], 1j]


@pytest.mark.parametrize("wrong", NUMBERS)
@pytest.mark.parametrize("name", ["begin", "end", "every"])
def test_durations_of_polynomial_are_checked(name, wrong):
    options = {"begin": 0, "end": 8, "every": 2, name: wrong}
    for steps_per_epoch in (None, 10):
        problems = refusal(polynomial, 0.5, **options, steps_per_epoch=steps_per_epoch)
        assert f"{name}={wrong!r} to be 0 or more" in problems[0]


@pytest.mark.parametrize("wrong", NUMBERS[:-1])
def test_durations_of_one_shot_and_iterative_are_checked(wrong):
    assert f"at={wrong!r}" in refusal(one_shot, 0.5, at=wrong)[0]
    for name in ("begin", "every", "rewind_to"):
        if wrong is not None or name != "rewind_to":
            options = {"begin": 4, "every": 2, "rewind_to": 1, name: wrong}
            assert f"{name}={wrong!r}" in refusal(iterative, 0.5, num_rounds=2, **options)[0]


def test_parts_of_a_step_need_epochs():
    (problem,) = refusal(one_shot, 0.5, at=1.5)
    assert "at=1.5 to be a whole number of steps" in problem
    assert "unless steps_per_epoch is given" in problem
    assert one_shot(0.5, at=2.0).steps == (2,)
    assert type(one_shot(0.5, at=2.0).steps[0]) is int


@pytest.mark.parametrize("wrong", [0, -3, 1.5, 10.0, True, "10", math.nan])
def test_steps_per_epoch_is_a_whole_number(wrong):
    assert (
        f"steps_per_epoch={wrong!r} to be an integer of at least 1"
        in refusal(one_shot, 0.5, at=1, steps_per_epoch=wrong)[0]
    )


def test_steps_per_epoch_may_come_from_numpy():
    assert one_shot(0.5, at=2, steps_per_epoch=cast(int, np.int64(10))).steps == (20,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"end": 2}, "end=2 to be after begin=2"),
        ({"end": 1}, "end=1 to be after begin=2"),
        ({"every": 0}, "every=0 to be at least one step"),
        ({"every": 0.01, "steps_per_epoch": 10}, "every=0.01 to be at least one step"),
        ({"power": 0}, "power=0 to be above 0"),
        ({"power": -1}, "power=-1 to be above 0"),
        ({"power": math.nan}, "power=nan to be above 0"),
        ({"power": "3"}, "power='3' to be above 0"),
        ({"power": None}, "power=None to be above 0"),
        ({"initial": 0.6}, "never to fall"),
        ({"initial": -0.1}, FRACTION),
        ({"initial": None}, FRACTION),
        ({"initial": "0"}, FRACTION),
        ({"initial": math.nan}, FRACTION),
        ({"sparsity": 1.0}, FRACTION),
        ({"sparsity": True}, FRACTION),
        ({"sparsity": None}, FRACTION),
        ({"sparsity": "0.5"}, FRACTION),
        ({"sparsity": {"a": 0.5, "b": 2}}, FRACTION),
    ],
)
def test_polynomial_refuses_what_makes_no_sense(options, words):
    problems = refusal(polynomial, **{"sparsity": 0.5, "begin": 2, "end": 8, "every": 2, **options})
    assert any(words in problem for problem in problems)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *[
            ({"fraction": value}, f"fraction={value!r} in (0, 1)")
            for value in (0, 1, -0.5, math.nan, True, "0.5")
        ],
        *[
            ({"num_rounds": value}, f"num_rounds={value!r}")
            for value in (0, -1, 2.5, True, "2", None, math.nan)
        ],
        ({"every": 0}, "every=0 to be at least one step"),
        ({"rewind_to": 4}, "rewind_to=4 to be before the first pruning"),
        ({"fraction": 0.99, "num_rounds": 9}, FRACTION),
    ],
)  # fmt: skip
def test_iterative_refuses_what_makes_no_sense(options, words):
    problems = refusal(
        iterative, **{"fraction": 0.5, "num_rounds": 3, "begin": 4, "every": 2, **options}
    )
    assert any(words in problem for problem in problems)


def test_problems_of_durations_come_together():
    assert (
        len(refusal(polynomial, 0.5, begin=-1, end=math.nan, every=0.5, steps_per_epoch=None)) == 3
    )
    assert len(refusal(polynomial, 1.5, begin=4, end=2, every=0, power=0, initial=-1)) == 5
    assert len(refusal(iterative, 2, num_rounds=0, begin=4, every=0)) == 3
