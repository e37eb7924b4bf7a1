"""Which members a grid has, what they are called, and what shares a compilation."""

import itertools
import pickle

import pytest
from members import fork, trunk
from tiny import tiny_experiment

from earlyprune_jax import config
from earlyprune_jax.grid import members as grid_members
from earlyprune_jax.grid import plan
from earlyprune_jax.grid.members import Comparison, Fork, Trunk, trunk_of
from earlyprune_jax.validate import InvalidInput


def resolve(npz, *changes):
    return config.resolve(tiny_experiment(npz), list(changes))


AXES = (
    ("sweep.model.name", "resnet8,preresnet8"),
    ("sweep.data.train_fraction", "0.5,1"),
    ("sweep.schedule.name", "step,constant"),
    ("train.seeds", "0,3"),
    ("fork.epochs", "1,2"),
    ("pruning.sparsities", "0.5,0.9"),
    ("pruning.criteria", "magnitude,random"),
    ("fork.retraining", "constant,paper_a"),
    ("fork.num_replicates", "2"),
    ("fork.comparisons", "disagreement"),
    ("sweep.fork.constant_num_epochs", "1,2"),
)


@pytest.fixture(scope="module")
def every_axis(tiny_npz):
    return resolve(tiny_npz, *AXES)


def test_every_combination_of_all_axes_is_a_member_once(every_axis):
    members = plan.members(every_axis)
    assert len(set(members)) == len(members)
    trunks = [member for member in members if isinstance(member, Trunk)]
    forks = {member for member in members if isinstance(member, Fork)}
    # What decides forks alone shares trunks.
    assert len(trunks) == 2 * 2 * 2 * 2
    assert len(every_axis.settings()) == 2 * 2 * 2 * 2
    cells = itertools.product(
        (1, 2), ("magnitude", "random"), (0.5, 0.9), ("constant", "paper_a"), (0, 1)
    )
    cells = list(cells)
    assert forks == {
        Fork(setting, seed, epoch, criterion, "global", sparsity, rule, replicate)
        for setting in every_axis.settings()
        for seed in (0, 3)
        for epoch, criterion, sparsity, rule, replicate in cells
    }
    assert sum(isinstance(member, Comparison) for member in members) == len(forks) // 2


def test_a_trunk_stands_before_what_starts_from_it_and_replicates_before_their_comparison(
    every_axis,
):
    place = {member: index for index, member in enumerate(plan.members(every_axis))}
    for member, index in place.items():
        if isinstance(member, Fork):
            assert place[trunk_of(member)] < index
        elif isinstance(member, Comparison):
            assert [place[one] for one in member.forks()] == [index - 2, index - 1]


def test_names_differ_for_all_members_and_ids_do_not_depend_on_the_other_axes(every_axis, tiny_npz):
    members = plan.members(every_axis)
    names = {grid_members.directory(every_axis, member) for member in members}
    ids = {grid_members.member_id(every_axis, member) for member in members}
    assert len(names) == len(ids) == len(members)
    smaller = resolve(
        tiny_npz,
        ("model.name", "resnet8"),
        ("schedule.name", "step"),
        ("fork.retraining", "constant"),
        ("train.seeds", "3"),
        ("fork.constant_num_epochs", "2"),
        ("pruning.sparsities", "0.9"),
        ("fork.epochs", "2"),
    )
    # Names too: which keys are swept decides none.
    assert {grid_members.directory(smaller, member) for member in plan.members(smaller)} <= names


@pytest.mark.parametrize(
    ("key", "text", "changes_trunk", "changes_constant_fork"),
    [
        ("optim.momentum", "0.8", True, True),
        ("train.batch_size", "4", True, True),
        ("data.crop_padding", "0", True, True),
        ("signals.names", "kl_uniform", True, True),
        ("schedule.step_factor", "0.5", True, True),
        ("fork.constant_learning_rate", "0.5", False, True),
        ("fork.constant_num_epochs", "3", False, True),
        ("pruning.layers", "all_kernels", False, True),
        ("train.keep_checkpoints", "fork_epochs", False, False),
        ("fork.epochs", "1,3", False, False),
        ("train.seeds", "0,7", False, False),
    ],
)
def test_an_id_changes_with_what_decides_the_numbers_and_with_nothing_else(
    tiny_npz, key, text, changes_trunk, changes_constant_fork
):
    # Without mask_distance, a signal of trunks that depends on what is pruned.
    base = (("signals.names", "weight_change"),)
    first, second = resolve(tiny_npz, *base), resolve(tiny_npz, *base, (key, text))
    for member, changes in ((trunk(), changes_trunk), (fork(2, "constant"), changes_constant_fork)):
        differ = grid_members.member_id(first, member) != grid_members.member_id(second, member)
        assert differ == changes


def test_the_trunk_of_mask_distance_depends_on_its_own_keys_and_on_no_cell_of_the_grid(tiny_npz):
    with_masks = ("signals.names", "mask_distance")
    cells = [(), (("pruning.sparsities", "0.9,0.5"),), (("pruning.criteria", "random,magnitude"),)]
    specs = [resolve(tiny_npz, with_masks, *changes) for changes in cells]
    assert len({grid_members.member_id(spec, trunk()) for spec in specs}) == 1
    other = resolve(tiny_npz, with_masks, ("signals.mask_sparsity", "0.9"))
    assert grid_members.member_id(other, trunk()) != grid_members.member_id(specs[0], trunk())


def test_baselines_spend_the_same_epochs_and_one_that_is_a_cell_is_not_trained_twice(tiny_npz):
    names = ",".join(plan.BASELINES)
    changes = (("fork.baselines", names), ("fork.retraining", "constant"), ("fork.epochs", "2,4"))
    spec = resolve(tiny_npz, *changes)
    forks = [member for member in plan.members(spec) if isinstance(member, Fork)]
    # prune_at_end is the cell at epoch 4 of the grid.
    assert len(forks) == 2 + 3
    budget = {
        run: run.fork_epoch + run.num_epochs(spec) for run in forks if run.fork_epoch in (0, 4)
    }
    assert set(budget.values()) == {4 + spec.fork.constant_num_epochs}
    assert {(run.fork_epoch, run.criterion, run.retraining) for run in budget} == {
        (0, "magnitude", "matched_budget"),
        (4, "magnitude", "constant"),
        (0, "random", "matched_budget"),
        (4, "random", "constant"),
    }
    assert plan.fork_epochs(spec) == {0, 2, 4}


def test_a_spec_survives_the_way_to_another_process(every_axis):
    every_axis.at(every_axis.settings()[0])
    assert pickle.loads(pickle.dumps(every_axis)) == every_axis


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fork.comparisons": "disagreement"}, "fork.num_replicates=1 to be at least 2"),
        ({"fork.comparisons": "likeness", "fork.num_replicates": "2"}, "one of model_similarity"),
        ({"fork.baselines": "prune_at_noon"}, "one of prune_at_init"),
        ({"fork.max_cells": "5"}, "fork.max_cells=5 to be 0 with fork.search=all"),
        (
            {"fork.search": "coarse_to_fine", "data.validation_fraction": "0"},
            "data.validation_fraction=0.0 to be above 0 with fork.search=coarse_to_fine",
        ),
        ({"fork.when": "trigger", "fork.baselines": "prune_at_end"}, "fork.baselines"),
        ({"fork.when": "trigger", "fork.retraining": "matched_budget"}, "without matched_budget"),
        ({"fork.when": "trigger", "fork.search": "coarse_to_fine"}, "fork.search"),
        ({"sweep.model.name": "resnet8,resnet9"}, "resnet9"),
        ({"sweep.model.name": "resnet8,resnet8"}, "to have no value twice"),
        ({"sweep.data.train_fraction": "1,0.01"}, ("data.train_fraction=0.01 "
            "to give every class an example")),
        ({"sweep.data.train_fraction": "1,0.1"}, "train.batch_size=8 in [1, 4]"),
        ({"fork.epochs": "1,5", "fork.retraining": "constant"}, "no epoch beyond 4"),
        (
            {"pruning.sparsities": "0.9999", "pruning.scopes": "uniform"},
            "(with model.name=preresnet8)",
        ),
    ],
)  # fmt: skip
def test_axes_that_contradict_one_another_are_refused(tiny_npz, changes, words):
    if "preresnet8" in words:
        changes = changes | {"sweep.model.name": "resnet8,preresnet8"}
    with pytest.raises(InvalidInput) as caught:
        resolve(tiny_npz, *changes.items())
    assert words in str(caught.value)


def test_a_search_may_choose_on_the_validation_split_that_a_source_brings(tiny_npz):
    changes = {
        "data.name": "numerals",
        "data.num_classes": "0",
        "data.mean": "",
        "data.std": "",
        "data.crop_padding": "0",
        "data.horizontal_flip": "False",
        "data.validation_fraction": "0",
        "fork.search": "coarse_to_fine",
    }
    with pytest.raises(InvalidInput) as caught:
        resolve(tiny_npz, *changes.items())
    assert "data of task classification" in str(caught.value)
    assert "validation_fraction" not in str(caught.value)
