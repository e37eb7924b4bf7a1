"""How many weights each layer loses: published definitions, exact totals, every wrong option."""

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earlyprune_jax.pruning.allocation import budgets
from earlyprune_jax.pruning.allocation.budgets import Layer
from earlyprune_jax.pruning.allocation.patterns import UNSTRUCTURED, Blocks
from earlyprune_jax.pruning.layouts import Layout

layer_shapes = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 40)),
        st.tuples(st.integers(1, 60), st.integers(1, 60)),
        st.tuples(st.sampled_from([1, 3]), st.just(3), st.integers(1, 32), st.integers(1, 32)),
    ),
    min_size=1,
    max_size=6,
)
sparsities = st.floats(0, 1, exclude_max=True)


def layers_of(*shapes: tuple[int, ...]) -> list[Layer]:
    return [
        Layer(f"layer{index}/kernel", shape, math.prod(shape)) for index, shape in enumerate(shapes)
    ]


def sizes(layers: list[Layer]) -> list[int]:
    return [layer.num_units for layer in layers]


def erk_by_removing_full_layers(shapes, sparsity):
    """RigL's way: as long as a layer would be more than dense, make it dense and share out the
    rest."""
    numbers = [math.prod(shape) for shape in shapes]
    raw = [sum(shape) / number for shape, number in zip(shapes, numbers, strict=True)]
    full: set[int] = set()
    while True:
        free = [index for index in range(len(shapes)) if index not in full]
        if not free:
            return [1.0] * len(shapes)
        kept = (1 - sparsity) * sum(numbers) - sum(numbers[index] for index in full)
        epsilon = kept / sum(raw[index] * numbers[index] for index in free)
        highest = max(raw[index] for index in free)
        if epsilon * highest <= 1:
            return [1.0 if index in full else epsilon * raw[index] for index in range(len(shapes))]
        full |= {index for index in free if raw[index] == highest}


def erk_by_bisection(shapes, sparsity):
    """The definition itself: min(1, c r_l) with the one c that keeps as many as asked for."""
    numbers = np.array([math.prod(shape) for shape in shapes], float)
    raw = np.array([sum(shape) for shape in shapes]) / numbers
    low, high = 0.0, 1 / raw.min()
    for _ in range(200):
        middle = (low + high) / 2
        too_many = (np.minimum(1, middle * raw) * numbers).sum() > (1 - sparsity) * numbers.sum()
        low, high = (low, middle) if too_many else (middle, high)
    return np.minimum(1, low * raw)


@settings(max_examples=150, deadline=None)
@given(layer_shapes, sparsities)
def test_erk_is_the_published_definition(shapes, sparsity):
    densities = budgets.erk_densities(layers_of(*shapes), sparsity)
    np.testing.assert_allclose(
        densities, erk_by_removing_full_layers(shapes, sparsity), rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(densities, erk_by_bisection(shapes, sparsity), rtol=1e-9, atol=1e-12)


def test_erk_by_hand_without_and_with_a_layer_that_stays_dense():
    # c (3 + 3 + 4 + 8) + c (8 + 8) = 18 c + 16 c keeps half of 352 = 176: c = 88 / 17.
    densities = budgets.erk_densities(layers_of((3, 3, 4, 8), (8, 8)), 1 - 34 / 352)
    np.testing.assert_allclose(densities, [18 / 288, 16 / 64], rtol=1e-12)
    # 10 x 2 would have c 12 / 20 = 1.2 at c = 2: dense; the other keeps 108 - 20 of 1600 by itself.
    densities = budgets.erk_densities(layers_of((10, 2), (40, 40)), 1 - 108 / 1620)
    np.testing.assert_allclose(
        densities, [min(1, 12 / 20 * 108 / 92), 80 / 1600 * 108 / 92], rtol=1e-12
    )
    densities = budgets.erk_densities(layers_of((10, 2), (40, 40)), 1 - 340 / 1620)
    np.testing.assert_allclose(densities, [1, 320 / 1600], rtol=1e-12)


def test_erk_takes_empty_layers_and_single_numbers():
    densities = budgets.erk_densities(layers_of((0, 4), (), (4, 4)), 0.5)
    # c (1 + 4 + 4) = 17 / 2, the number being an axis of length 1.
    np.testing.assert_allclose(densities[1:], [17 / 18, 17 / 18 * 8 / 16])
    assert budgets.erk_densities(layers_of((0,)), 0.5) == [1]
    np.testing.assert_allclose(budgets.erk_densities(layers_of((), ()), 0.5), [0.5, 0.5])


def fits(layers: list[Layer], sparsity: float, least: int) -> bool:
    total = budgets.num_removed(sparsity, sum(sizes(layers)))
    return total <= sum(max(0, size - least) for size in sizes(layers))


@settings(max_examples=150, deadline=None)
@given(layer_shapes, sparsities, st.sampled_from(["uniform", "erk"]), st.integers(0, 5))
def test_shared_budgets_are_exact_in_total_and_leave_every_layer_its_minimum(
    shapes, sparsity, scope, min_kept
):
    layers = layers_of(*shapes)
    least = max(1, min_kept)
    refused = bool(budgets.check_budget(layers, sparsity, scope, min_kept))
    assert refused != fits(layers, sparsity, least)
    if refused:
        return
    counts = budgets.budget(layers, sparsity, scope, min_kept)
    assert sum(counts) == round(sparsity * sum(sizes(layers)))
    for count, size in zip(counts, sizes(layers), strict=True):
        assert 0 <= count <= max(0, size - least)


@settings(max_examples=150, deadline=None)
@given(layer_shapes, sparsities)
def test_uniform_counts_differ_from_the_fraction_by_less_than_one(shapes, sparsity):
    layers = layers_of(*shapes)
    # Where the one weight that stays does not bind.
    if all(sparsity * size <= size - 1 for size in sizes(layers)):
        counts = budgets.budget(layers, sparsity, "uniform")
        assert all(
            abs(count - sparsity * size) < 1
            for count, size in zip(counts, sizes(layers), strict=True)
        )


@settings(max_examples=100, deadline=None)
@given(layer_shapes, sparsities)
def test_erk_counts_differ_from_its_densities_by_less_than_one(shapes, sparsity):
    layers = layers_of(*shapes)
    densities = budgets.erk_densities(layers, sparsity)
    ideal = [(1 - density) * size for density, size in zip(densities, sizes(layers), strict=True)]
    if all(value <= size - 1 for value, size in zip(ideal, sizes(layers), strict=True)):
        counts = budgets.budget(layers, sparsity, "erk")
        # Densities are floats: a whole ideal count may come out as the next number below it.
        assert all(
            abs(count - value) < 1 + 1e-9 for count, value in zip(counts, ideal, strict=True)
        )


@settings(max_examples=150, deadline=None)
@given(layer_shapes, sparsities)
def test_local_counts_are_rounded_half_to_even_in_every_layer(shapes, sparsity):
    layers = layers_of(*shapes)
    counts = budgets.budget(layers, sparsity, "local")
    assert counts == tuple(round(sparsity * size) for size in sizes(layers))
    emptied = [
        layer.path for layer, count in zip(layers, counts, strict=True) if count == layer.num_units
    ]
    problems = budgets.check_budget(layers, sparsity, "local")
    assert bool(problems) == bool(emptied)
    assert all(path in problems[0] for path in emptied)


@pytest.mark.parametrize(
    ("sparsity", "num_units", "removed"),
    [
        (0.5, 1, 0),
        (0.5, 3, 2),
        (0.5, 5, 2),
        (0.8, 11_159_232, 8_927_386),
        (0.999, 10, 10),
        (0.3, 0, 0),
    ],
)
def test_counts_are_those_of_python_round(sparsity, num_units, removed):
    assert budgets.num_removed(sparsity, num_units) == removed


def test_a_sparsity_of_a_narrow_type_is_not_rounded_a_second_time():
    narrow: Any = np.float32(0.75), np.float16(0.5)
    assert budgets.num_removed(narrow[0], 100_000_001) == 75_000_001
    assert budgets.num_removed(narrow[1], 200_000) == 100_000
    assert type(budgets.num_removed(np.float64(0.5), 4)) is int


problem_sizes = st.lists(st.tuples(st.floats(0, 5), st.integers(0, 6)), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(problem_sizes, st.floats(0, 1))
def test_apportioned_counts_reach_any_total_within_the_capacities(layers, fraction):
    ideal, capacity = [value for value, _ in layers], [room for _, room in layers]
    floors = sum(min(math.floor(value), room) for value, room in layers)
    total = floors + round(fraction * (sum(capacity) - floors))
    counts = budgets.apportion(ideal, capacity, total)
    assert sum(counts) == total
    for count, value, room in zip(counts, ideal, capacity, strict=True):
        assert min(math.floor(value), room) <= count <= room


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 24), min_size=1, max_size=4))
def test_where_there_is_room_no_other_counts_are_nearer_to_the_ideal(eighths):
    ideal = [number / 8 for number in eighths]
    total = round(sum(ideal))
    counts = budgets.apportion(ideal, [4] * len(ideal), total)

    def distance(candidate) -> float:
        return sum((count - value) ** 2 for count, value in zip(candidate, ideal, strict=True))

    every = [one for one in itertools.product(range(5), repeat=len(ideal)) if sum(one) == total]
    assert distance(counts) == min(map(distance, every))


def test_apportion_gives_ties_to_the_lower_index_and_overflow_to_the_others():
    assert budgets.apportion([0.5, 0.5, 0.5], [1, 1, 1], 2) == [1, 1, 0]
    assert budgets.apportion([5.0, 0.25, 0.75], [2, 9, 9], 6) == [2, 2, 2]
    assert budgets.apportion([10.0, 0.0], [0, 20], 10) == [0, 10]


def test_scopes_that_rank_together_have_one_count():
    layers = layers_of((3,), (4,))
    assert budgets.budget(layers, 0.5, "global") == budgets.budget(layers, 0.5, "lamp") == (4,)


def test_the_first_expression_that_is_found_in_a_path_holds():
    layers = [
        Layer("stem/kernel", (10,), 10),
        Layer("block1/conv", (10,), 10),
        Layer("block2/conv", (10,), 10),
    ]
    assert budgets.budget(layers, {"block2": 0.9, "block": 0.5}, "local") == (0, 5, 9)
    assert budgets.budget(layers, {"conv$": 0.25}, "local") == (0, 2, 2)
    assert budgets.check_budget(layers, {"block2": 0.9, "block": 0.5}, "local") == []


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (
            {"conv": 0.5, "stem": 0.5, "head": 0.2},
            "sparsity='head' to be the first pattern to match the path",
        ),
        ({"(": 0.5}, "sparsity='(' to hold a valid regular expression"),
        ({5: 0.5}, "sparsity=5 to hold a valid regular expression"),
        ({"stem": 1.0}, "sparsity['stem']=1.0 in [0, 1)"),
        ({"stem": True}, "sparsity['stem']=True in [0, 1)"),
        ({"stem": None}, "sparsity['stem']=None in [0, 1)"),
        ({"stem": 0.99}, "10 of 10 at stem/kernel"),
        ({}, "to hold at least one pattern"),
        ({"o": 0.5, "conv": 0.9}, "sparsity='conv' to be the first pattern to match"),
    ],
)
def test_wrong_expressions_are_refused(targets, words):
    layers = [Layer("stem/kernel", (10,), 10), Layer("block/conv", (10,), 10)]
    assert any(words in problem for problem in budgets.check_budget(layers, targets, "local"))


def test_a_mapping_leaves_nothing_to_another_scope_and_all_problems_come_together():
    problems = budgets.check_options({"(": 2.0}, "global", -1)
    assert len(problems) == 4
    assert "scope='global' to be local where sparsity is a mapping" in problems[0]


@pytest.mark.parametrize(
    "sparsity",
    [
        1,
        1.0,
        -0.1,
        -1e-9,
        math.nan,
        math.inf,
        True,
        False,
        "0.5",
        None,
        [0.5],
        0.5j,
        np.complex64(0.5),
        np.True_,
    ],
)
@pytest.mark.parametrize("scope", ["global", "local", "uniform", "erk", "lamp"])
def test_a_sparsity_outside_zero_to_one_is_refused(sparsity, scope):
    (problem,) = budgets.check_budget(layers_of((10,)), sparsity, scope)
    assert f"sparsity={sparsity!r} in [0, 1)" in problem


@pytest.mark.parametrize("scope", ["locl", "", None, 3, ["global"]])
def test_an_unknown_scope_is_refused_with_the_choices(scope):
    (problem,) = budgets.check_budget(layers_of((10,)), 0.5, scope)
    assert "to be one of global, local, uniform, erk, lamp" in problem


@pytest.mark.parametrize("min_kept", [-1, True, 1.0, "1", None])
def test_a_minimum_that_is_no_count_is_refused(min_kept):
    (problem,) = budgets.check_budget(layers_of((10,)), 0.5, "global", min_kept)
    assert f"min_kept={min_kept!r} to be an integer of at least 0" in problem


@pytest.mark.parametrize("scope", ["global", "lamp", "uniform", "erk", "local"])
def test_a_minimum_that_leaves_too_little_to_remove_is_refused(scope):
    (problem,) = budgets.check_budget(layers_of((10,), (10,)), 0.5, scope, 6)
    assert "to leave 6 in every layer" in problem
    assert (
        "5 of 10 at layer0/kernel" if scope == "local" else "10 of 20 at all layers (at most 8)"
    ) in problem


@pytest.mark.parametrize("scope", ["global", "lamp", "uniform", "erk", "local"])
def test_a_sparsity_that_would_remove_everything_is_refused(scope):
    (problem,) = budgets.check_budget(layers_of((2, 5), (10,)), 0.999, scope)
    assert "Lower it" in problem


@pytest.mark.parametrize("scope", ["global", "lamp", "uniform", "erk", "local"])
def test_sparsity_zero_asks_nothing_of_any_layer(scope):
    for layers in (layers_of((10,)), layers_of((1,)), layers_of((0, 4)), layers_of((0,), (3,), ())):
        assert budgets.check_budget(layers, 0, scope) == []
        assert sum(budgets.budget(layers, 0, scope)) == 0


def test_counts_beyond_32_bits_are_exact():
    dense = Layout("IO", "kernel")
    sides = {"a": (2**17, 2**16), "b": (2**16, 2**16), "c": (2**16 + 1, 3)}
    shapes = {path: budgets.Leaf(shape, dense) for path, shape in sides.items()}
    sizes = [2**33, 2**32, 3 * (2**16 + 1)]
    counts = {scope: UNSTRUCTURED.counts(shapes, 0.75, scope, 0) for scope in budgets.SCOPES}
    assert counts["global"] == (round(Fraction(3, 4) * sum(sizes)),)
    assert counts["local"] == tuple(round(Fraction(3, 4) * size) for size in sizes)
    for scope in ("uniform", "erk"):
        assert (sum(counts[scope]),) == counts["global"]
    wide = {"a": budgets.Leaf((2**17, 2**20), dense)}
    assert Blocks((1, 16)).counts(wide, 0.5, "global", 0) == (2**32,)
