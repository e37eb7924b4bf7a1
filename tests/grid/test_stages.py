"""Studies cut into parts for many machines."""

import functools
import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import digits
from earlyprune_jax import config
from earlyprune_jax.grid import plan, stages
from earlyprune_jax.grid.members import Comparison, Fork, Trunk, trunk_of

GRIDS = {
    "one fork a cell": [],
    "replicates compared": [("fork.num_replicates", "3"), ("fork.comparisons", "model_similarity")],
    "baselines and two networks": [
        ("sweep.model.name", "resnet8,resnet14"),
        ("fork.baselines", "prune_at_end"),
        ("fork.num_replicates", "2"),
    ],
    "runs that prune themselves": [
        ("fork.when", "trigger"),
        ("fork.num_replicates", "2"),
        ("pruning.sparsities", "0.5,0.9"),
    ],
}


@functools.cache
def planned(grid):
    spec = config.resolve(digits.get_config(), [("fork.epochs", "1,4,30"), *GRIDS[grid]])
    return spec, plan.members(spec)


def steps_per_epoch(setting):
    return 9


def cell(member):
    axes = vars(member).copy()
    axes.pop("replicate", None)
    axes.pop("num_replicates", None)
    return tuple(axes.values())


@pytest.mark.parametrize("grid", GRIDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), most=st.integers(1, 12))
def test_what_is_left_is_in_one_part_each_cells_are_whole_and_nothing_else_is_there(
    grid, data, most
):
    spec, members = planned(grid)
    left = [member for member in members if data.draw(st.booleans())]
    found = stages.cut(spec, left, most, steps_per_epoch)
    parts = [*found.trunks, *found.pruned]
    assert Counter(member for part in parts for member in part.members) == Counter(left)
    assert [part.members for part in found.trunks] == [
        (one,) for one in left if isinstance(one, Trunk)
    ]
    assert len(found.pruned) <= most
    assert all(part.members for part in parts)
    pruned = {cell(one) for one in left if not isinstance(one, Trunk)}
    places = Counter(key for part in found.pruned for key in {cell(one) for one in part.members})
    assert places == Counter(pruned)
    for part in found.pruned:
        assert set(part.trunks) == {trunk_of(one) for one in part.members}


def test_a_comparison_follows_its_replicates():
    spec, members = planned("replicates compared")
    for part in stages.cut(spec, members, 5, steps_per_epoch).pruned:
        for index, member in enumerate(part.members):
            if isinstance(member, Comparison):
                assert part.members[index - 3 : index] == member.forks()


@settings(max_examples=200, deadline=None)
@given(costs=st.lists(st.integers(1, 20), min_size=1, max_size=9), most=st.integers(1, 9))
def test_no_other_cut_has_a_cheaper_dearest_part(costs, most):
    counts = stages.balanced(costs, most)
    assert sum(counts) == len(costs)
    assert len(counts) <= most

    def dearest(ends):
        return max(sum(costs[low:high]) for low, high in itertools.pairwise(ends))

    best = min(
        dearest((0, *inner, len(costs)))
        for size in range(min(most, len(costs)))
        for inner in itertools.combinations(range(1, len(costs)), size)
    )
    assert dearest((0, *itertools.accumulate(counts))) == best


def test_forks_of_one_length_are_neighbours():
    spec, members = planned("one fork a cell")
    lengths = [
        spec.train.num_epochs - member.fork_epoch
        for part in stages.cut(spec, members, 4, steps_per_epoch).pruned
        for member in part.members
        if isinstance(member, Fork)
    ]
    assert len([length for length, _ in itertools.groupby(lengths)]) == 3
