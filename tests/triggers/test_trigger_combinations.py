"""First and all; and what holds for every rule: it is causal."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earlyprune_jax.triggers import (
    All,
    AtEpoch,
    EarlyBird,
    EarlyCrop,
    First,
    Peak,
    Plateau,
    Threshold,
    label,
    parse,
)
from earlyprune_jax.validate import InvalidInput

PEAK = Peak("x", smoothing=1, min_errors=0)
RISE_AND_FALL = [
    {"epoch": epoch, "num_epochs": 10, "x": x}
    for epoch, x in enumerate([1, 5, 9, 8, 4, 2, 1], start=1)
]


def test_first_takes_the_earliest_firing_with_its_mark():
    firing = First((AtEpoch(6), PEAK))(RISE_AND_FALL)
    assert firing is not None
    assert (firing.epoch, firing.marked_epoch) == (5, 3)
    firing = First((AtEpoch(4), PEAK))(RISE_AND_FALL)
    assert firing is not None
    assert (firing.epoch, firing.marked_epoch, firing.reason) == (4, 4, "epoch 4 was reached")


def test_of_members_that_fire_together_the_one_named_first_counts():
    together = (AtEpoch(5), PEAK)
    for members, marked in ((together, 5), (together[::-1], 3)):
        firing = First(members)(RISE_AND_FALL)
        assert firing is not None
        assert (firing.epoch, firing.marked_epoch) == (5, marked)


def test_all_waits_for_the_last_and_marks_the_latest_mark():
    firing = All((PEAK, AtEpoch(2)))(RISE_AND_FALL)
    assert firing is not None
    assert (firing.epoch, firing.marked_epoch) == (5, 3)
    firing = All((PEAK, AtEpoch(7)))(RISE_AND_FALL)
    assert firing is not None
    assert (firing.epoch, firing.marked_epoch) == (7, 7)
    assert All((PEAK, AtEpoch(8)))(RISE_AND_FALL) is None


def test_first_never_fires_where_no_member_does():
    assert First((AtEpoch(8), Threshold("x", above=10)))(RISE_AND_FALL) is None


def test_combinations_nest():
    trigger = First((All((PEAK, AtEpoch(6))), Threshold("x", above=100)))
    firing = trigger(RISE_AND_FALL)
    assert firing is not None
    assert (firing.epoch, firing.marked_epoch) == (6, 6)
    assert trigger.columns == ("x",)
    assert trigger.looks_back


def test_a_combination_refuses_one_member_and_what_is_no_rule():
    with pytest.raises(InvalidInput, match=r"first\(epoch\(3\)\) to hold at least two rules"):
        First((AtEpoch(3),))
    with pytest.raises(InvalidInput, match="member of all='peak' to be a rule"):
        All((AtEpoch(3), "peak"))  # pyright: ignore[reportArgumentType]
    assert First([AtEpoch(3), AtEpoch(4)]) == First((AtEpoch(3), AtEpoch(4)))  # pyright: ignore[reportArgumentType]


columns = st.sampled_from(["x", "y"])
whole = st.integers(1, 4)
numbers = st.floats(-3, 3, allow_nan=False)
single = st.one_of(
    st.builds(
        Peak,
        columns,
        st.one_of(whole, st.sampled_from([0.1, 0.25])),
        whole,
        min_drop=st.sampled_from([0, 0.05, 0.5]),
        min_rise=st.sampled_from([0, 0.05]),
        min_errors=st.sampled_from([0, 1, 4]),
        after=st.integers(0, 3),
    ),
    st.builds(EarlyBird, columns, st.floats(0, 1)),
    st.builds(EarlyCrop, columns, sparsity=st.sampled_from([0, 0.3, 0.9])),
    st.builds(lambda column, above: Threshold(column, above=above), columns, numbers),
    st.builds(lambda column, below: Threshold(column, below=below), columns, numbers),
    st.builds(AtEpoch, st.integers(1, 15)),
    st.builds(Plateau, columns, whole, st.sampled_from([0.02, 0.5])),
)
rules = st.recursive(
    single,
    lambda inner: st.builds(
        lambda make, pair: make(pair), st.sampled_from([First, All]), st.tuples(inner, inner)
    ),
    max_leaves=4,
)
values = st.one_of(st.integers(-3, 3).map(float), st.none(), st.just(math.nan), numbers)
histories = st.lists(
    st.fixed_dictionaries({"gap": st.integers(1, 2), "x": values, "y": values}), max_size=14
)


def with_epochs(entries):
    epoch, made = 0, []
    for entry in entries:
        epoch += entry["gap"]
        made.append({"epoch": epoch, "num_epochs": 16, "x": entry["x"], "y": entry["y"]})
    return made


@settings(deadline=None, max_examples=300)
@given(rules, histories)
def test_asking_after_every_epoch_gives_what_asking_at_the_end_gives(trigger, entries):
    history = with_epochs(entries)
    final = trigger(history)
    beginnings = (history[:stop] for stop in range(1, len(history) + 1))
    assert next(filter(None, map(trigger, beginnings)), None) == final
    for stop in range(len(history) + 1):
        known = trigger(history[:stop])
        fired = final is not None and stop > 0 and final.epoch <= history[stop - 1]["epoch"]
        # The future, whatever it holds, changes nothing that was decided.
        assert known == (final if fired else None)


@settings(deadline=None, max_examples=200)
@given(rules, histories)
def test_a_firing_lies_at_a_recorded_epoch_and_marks_none_after_it(trigger, entries):
    history = with_epochs(entries)
    firing = trigger(history)
    if firing is not None:
        known = [entry["epoch"] for entry in history]
        assert firing.epoch in known
        assert firing.marked_epoch in known
        assert firing.marked_epoch <= firing.epoch
        assert trigger.looks_back or firing.marked_epoch == firing.epoch


@settings(deadline=None, max_examples=200)
@given(rules)
def test_the_text_of_a_rule_gives_the_rule(trigger):
    assert parse(str(trigger)) == parse(trigger.label) == trigger
    assert str(parse(str(trigger))) == str(trigger)
    assert label(str(trigger)) == trigger.label


@settings(deadline=None, max_examples=100)
@given(rules, histories)
def test_epochs_without_a_value_could_as_well_be_absent_of_that_column(trigger, entries):
    history = with_epochs(entries)
    gappy = [{key: value for key, value in entry.items() if value is not None} for entry in history]
    assert trigger(gappy) == trigger(history)
