"""What a member is called: by what decides its numbers, and neither by a grid's axes nor by what is
swept."""

import dataclasses

import pytest
from members import fork, trunk
from tiny import linear_experiment, tiny_experiment

from earlyprune_jax import config
from earlyprune_jax.grid import members as grid_members
from earlyprune_jax.grid import plan
from earlyprune_jax.grid.members import Fork, Trunk, label, trunk_of
from earlyprune_jax.spec import KEYS, Setting, decides
from earlyprune_jax.validate import InvalidInput


def resolve(npz, *changes, base=tiny_experiment):
    return config.resolve(base(npz), list(changes))


def directories(spec, kind: type = object) -> list[str]:
    return [
        grid_members.directory(spec, member)
        for member in plan.members(spec)
        if isinstance(member, kind)
    ]


@pytest.mark.parametrize(
    "change",
    [
        ("pruning.criteria", "random,magnitude"),
        ("pruning.scopes", "uniform,global"),
        ("pruning.sparsities", "0.9,0.5"),
        ("fork.retraining", "constant,paper_a"),
        ("fork.epochs", "3,2,1"),
        ("pruning.layers", "all_kernels"),
        ("pruning.num_examples", "5"),
        ("pruning.batch_size", "7"),
        ("fork.rates", "restart"),
        ("sweep.fork.constant_num_epochs", "2,5"),
        ("sweep.pruning.layers", "conv_kernels,all_kernels"),
        ("fork.num_replicates", "2"),
        ("fork.baselines", "prune_at_init"),
        ("fork.trigger", "epoch(1)"),
        ("train.eval_batch_size", "3"),
        ("train.keep_checkpoints", "fork_epochs"),
    ],
    ids=lambda change: change[0],
)
def test_nothing_of_pruning_or_forks_renames_a_trunk_that_follows_masks_and_weights(
    tiny_npz, change
):
    before, after = resolve(tiny_npz), resolve(tiny_npz, change)
    assert "mask_distance" in before.signals.names
    assert directories(before, Trunk) == directories(after, Trunk)


def test_a_custom_length_renames_forks_and_no_trunk(tiny_npz):
    specs = [
        resolve(tiny_npz, ("fork.retraining", "custom"), ("fork.length", text))
        for text in ("2", "3")
    ]
    assert directories(specs[0], Trunk) == directories(specs[1], Trunk)
    assert not set(directories(specs[0], Fork)) & set(directories(specs[1], Fork))


def test_how_work_is_carried_out_enters_no_name(tiny_npz):
    before = resolve(tiny_npz, ("data.validation_fraction", "0.2"))
    execution = {
        "train.eval_batch_size": 5,
        "data.data_dir": "/elsewhere",
        "train.keep_checkpoints": "fork_epochs",
        "fork.search": "coarse_to_fine",
        "fork.max_cells": 1,
        "figure.name": "A 1a",
        "figure.scale": "short",
        "figure.changed": ("train.num_epochs: 200 -> 60",),
        "figure.varied": ("schedule.name",),
    }
    assert set(execution) == {name for name in KEYS if decides(name) == "execution"}
    assert directories(before) == directories(before.replace(execution))
    assert before.study_id() == before.replace(execution).study_id()


@pytest.mark.parametrize(
    "name", sorted(name for name in KEYS if decides(name) in ("execution", "grid", "replay"))
)
def test_what_decides_no_single_run_cannot_be_swept_and_the_message_says_why(tiny_npz, name):
    reason = {
        "execution": "every value gives the same runs",
        "grid": "give all its values there",
        "replay": "earlyprune rules",
    }[decides(name)]
    with pytest.raises(InvalidInput) as caught:
        resolve(tiny_npz, (f"sweep.{name}", "1"))
    (problem,) = caught.value.problems
    assert name in problem
    assert reason in problem


SWEEPS = [
    ("optim.weight_decay", "0.0005", "0.0005,0.1"),
    ("model.name", "preresnet8", "resnet8,preresnet8"),
    ("schedule.step_boundaries_epochs", "1,3", "(2,),(1,3)"),
    ("fork.constant_num_epochs", "3", "2,3"),
    ("pruning.layers", "all_kernels", "conv_kernels,all_kernels"),
    ("train.batch_size", "4", "8,4"),
]


@pytest.mark.parametrize(("name", "value", "values"), SWEEPS, ids=[name for name, _, _ in SWEEPS])
def test_a_base_value_is_a_sweep_of_one_and_part_of_a_larger_sweep(tiny_npz, name, value, values):
    alone, one = (
        resolve(tiny_npz, (name, value)),
        resolve(tiny_npz, (f"sweep.{name}", f"({value},)" if "," in value else value)),
    )
    larger = resolve(tiny_npz, (f"sweep.{name}", values))
    assert directories(alone) == directories(one)
    assert set(directories(alone)) < set(directories(larger))
    assert len(larger.settings()) == 2
    in_rows = resolve(tiny_npz, ("sweep.rows", str([{name: alone.value(name)}])))
    assert directories(in_rows) == directories(alone)


def test_rows_are_settings_of_their_own_and_lists_multiply_them(tiny_npz):
    rows = [
        {"optim.weight_decay": 0.1, "optim.momentum": 0.0},
        {"optim.weight_decay": 0.2, "optim.momentum": 0.5},
    ]
    spec = resolve(tiny_npz, ("sweep.rows", str(rows)), ("sweep.fork.constant_num_epochs", "2,3"))
    assert [dict(setting.values) for setting in spec.settings()] == [
        {"fork.constant_num_epochs": length, **row} for length in (2, 3) for row in rows
    ]
    trunks = [member for member in plan.members(spec) if isinstance(member, Trunk)]
    assert [one.setting.words() for one in trunks] == [
        f"optim.momentum={row['optim.momentum']}, optim.weight_decay={row['optim.weight_decay']}"
        for row in rows
    ]
    forks = [member for member in plan.members(spec) if isinstance(member, Fork)]
    assert [trunk_of(one) for one in forks] == trunks + trunks
    assert len(set(directories(spec))) == 2 + 4


def test_a_label_tells_members_of_one_study_apart(tiny_npz):
    changes = (("sweep.optim.momentum", "0.5,0.9"), ("sweep.fork.constant_num_epochs", "2,3"))
    members = plan.members(
        resolve(tiny_npz, *changes, ("fork.num_replicates", "2"), ("train.seeds", "0,1"))
    )
    assert len({label(member) for member in members}) == len(members)
    assert label(fork(2)) == "fork seed 0 at 2, magnitude global 0.5 paper_a"


def test_a_members_directory_names_its_setting_and_its_cell(tiny_npz):
    spec = resolve(tiny_npz, base=linear_experiment)
    directory = grid_members.directory(spec, trunk(3)).rpartition("-")[0]
    assert directory == "trunks/own_code-Linear_1_exponential_seed-3"
    own = dataclasses.replace(
        fork(2), criterion="own_code:signed", retraining="own_code:half_rate(epochs=2)"
    )
    cell = "epoch-2_own_code-signed_global_s0.5_own_code-half_rate-epochs-2_r0"
    directory = grid_members.directory(spec, own).rpartition("-")[0]
    assert directory == f"forks/own_code-Linear_1_exponential_seed-0_{cell}"


def test_own_code_that_changes_renames_what_it_decides_and_nothing_else(tiny_npz):
    changes = (("pruning.criteria", "magnitude,own_code:signed"),)
    before = resolve(tiny_npz, *changes, base=linear_experiment)
    assert dict(before.code).keys() == {"own_code:Linear", "own_code:signed"}
    own = dataclasses.replace(fork(2), criterion="own_code:signed")
    for changed, renamed in (
        ("own_code:signed", [own]),
        ("own_code:Linear", [own, fork(2), trunk()]),
        ("own_code:other", []),
    ):
        code = {**dict(before.code), changed: "0" * 64}
        after = dataclasses.replace(before, code=tuple(sorted(code.items())))
        for member in (own, fork(2), trunk()):
            differ = grid_members.directory(before, member) != grid_members.directory(after, member)
            assert differ == (member in renamed), (changed, member)


# What cannot be swept as it is written

FIFTY = ",".join(f"0.{number}1" for number in range(50))
FORTY = ",".join(str(number) for number in range(1, 41))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([("sweep.optim.weigth_decay", "1,2")], ("Unknown config key "
            "'optim.weigth_decay'. Did you mean")),
        ([("sweep.weight_decay", "1,2")], "Did you mean 'optim.weight_decay'?"),
        ([("sweep.optim.momentum", "0.5,0.5")], ("sweep.optim.momentum=(0.5, "
            "0.5) to have no value twice")),
        ([("sweep.optim.momentum", "")], "to be a list of values, one at least"),
        ([("sweep.optim.momentum", "high,low")], "sweep.optim.momentum='high' to be a number"),
        ([("sweep.optim.momentum", "0.5,1.5")], "optim.momentum=1.5 in [0, 1)."),
        ([("sweep.model.name", "resnet8,resnet9")], "(with model.name=resnet9)"),
        (
            [("sweep.rows", "[{'optim.momentum': 'high'}]")],
            "sweep.optim.momentum='high' to be a number",
        ),
        ([("sweep.rows", "[{'optim.momentun': 0.5}]")], "Did you mean 'optim.momentum'?"),
        ([("sweep.rows", "[{'train.seeds': (0, 1)}]")], "give all its values there"),
        ([("sweep.rows", ("[{'optim.momentum': "
            "0.5}, {'optim.momentum': 0.5}]"))], "to have no value twice"),
        ([("sweep.rows", ("[{'optim.momentum': "
            "0.5}, {'optim.nesterov': True}]"))], "to be given in every row"),
        ([("sweep.rows", "{'optim.momentum': 0.5}")], "to be a Python list of dicts"),
        ([("sweep.rows", "[{'optim.momentum': open('x')}]")], "to be a Python list of dicts"),
        (
            [("sweep.rows", "[{'optim.momentum': 0.5}]"), ("sweep.optim.momentum", "0.1,0.2")],
            "sweep='optim.momentum' to be swept once, by a list or by rows",
        ),
        (
            [("sweep.optim.momentum", FIFTY), ("sweep.train.batch_size", FORTY)],
            "combinations of sweep=2000 to be at most 1000",
        ),
    ],
)  # fmt: skip
def test_a_sweep_that_makes_no_sense_is_refused_by_key(tiny_npz, changes, words):
    with pytest.raises(InvalidInput) as caught:
        resolve(tiny_npz, *changes)
    assert words in str(caught.value)


def test_a_config_file_sweeps_as_a_command_line_does_with_rows_nested_or_in_full(tiny_npz):
    settings = tuple(
        Setting((("optim.momentum", value), ("train.batch_size", 4))) for value in (0.5, 0.9)
    )
    told = resolve(
        tiny_npz, ("sweep.optim.momentum", "0.5,0.9"), ("sweep.rows", "[{'train.batch_size': 4}]")
    )
    for rows in (({"train": {"batch_size": 4}},), [{"train.batch_size": 4}]):
        base = tiny_experiment(tiny_npz)
        base.sweep = {"optim": {"momentum": (0.5, 0.9)}, "rows": rows}
        assert config.resolve(base) == told
    assert told.settings() == settings
    # A swept key's own value is its first.
    assert (told.optim.momentum, told.train.batch_size) == (0.5, 4)
