"""Where a pruned run leaves its trunk: planned, fired, marked, fallen back to, or never."""

import dataclasses

import pytest
from members import fork, online, trunk
from tiny import tiny_experiment

from earlyprune_jax import config
from earlyprune_jax.grid import plan
from earlyprune_jax.grid.members import Comparison, Run
from earlyprune_jax.grid.trainer import fork_point, stopping_rule

MEMBER = online()
# tr(F) is largest at epoch 2; the rule knows at 4.
RULE = "peak(fisher_trace, smoothing=1, min_errors=0.0)"
HISTORY = [
    {"epoch": epoch, "fisher_trace": value} for epoch, value in enumerate((1.0, 9.0, 3.0, 2.0), 1)
]
FIRED = {"status": "finished", "epoch": 4, "fired": {"epoch": 4, "marked_epoch": 2, "reason": ""}}


@pytest.fixture
def spec(tiny_npz):
    changes = [
        ("fork.when", "trigger"),
        ("fork.trigger", RULE),
        ("signals.names", "fisher_trace"),
        ("fork.fallback_epoch", "0"),
        ("train.num_epochs", "8"),
    ]
    return config.resolve(tiny_experiment(tiny_npz), changes)


def runs_of(spec) -> list[Run]:
    return [member for member in plan.members(spec) if not isinstance(member, Comparison)]


def change(spec, **changes):
    return dataclasses.replace(spec, fork=dataclasses.replace(spec.fork, **changes))


def test_pruning_now_takes_the_weights_of_the_epoch_at_which_the_rule_fired(spec):
    start = fork_point(spec, MEMBER, FIRED, HISTORY)
    assert start.epoch == 4
    assert start.dense_epochs == 4
    assert start.described["fired_epoch"] == 4
    assert start.described["marked_epoch"] == 2
    assert "It marks epoch 2. Pruned: the weights of epoch 4, after 4 dense" in start.sentence


def test_rewinding_takes_the_marked_epochs_weights_but_has_spent_the_epochs_up_to_the_firing(spec):
    start = fork_point(change(spec, prune_at="rewind"), MEMBER, FIRED, HISTORY)
    assert start.epoch == 2
    assert start.dense_epochs == 4
    assert "Pruned: the weights of epoch 2, after 4 dense epochs." in start.sentence


def test_the_fallback_prunes_where_nothing_has_fired_by_then_and_says_so(spec):
    spec = change(spec, fallback_epoch=3)
    rule = stopping_rule(spec)
    assert rule is not None
    rising = [{"epoch": epoch, "fisher_trace": float(epoch)} for epoch in (1, 2, 3)]
    firing = rule(rising)
    assert firing is not None
    assert firing.epoch == 3
    ended = {"status": "finished", "epoch": 3, "fired": dataclasses.asdict(firing)}
    start = fork_point(spec, MEMBER, ended, rising)
    assert start.epoch == 3
    assert start.described["fired_epoch"] is None
    assert "had not fired by fork.fallback_epoch=3" in start.sentence


def test_a_rule_that_never_fired_without_a_fallback_leaves_the_network_dense_and_says_so(spec):
    start = fork_point(spec, MEMBER, {"status": "finished", "epoch": 8}, HISTORY[:2])
    assert start.epoch is None
    assert f"{RULE} did not fire before the last of 8 epochs" in start.sentence
    assert "nothing was pruned" in start.sentence


def test_a_trunk_that_diverged_leaves_nothing_to_prune(spec):
    diverged = {"status": "diverged", "epoch": 3, "step": 20}
    assert (
        fork_point(spec, MEMBER, diverged, HISTORY[:2]).sentence
        == "trunk seed 0 diverged in epoch 3"
    )
    late, early = fork(3), fork(2)
    assert fork_point(spec, late, diverged, []).epoch is None
    assert fork_point(spec, early, diverged, []).epoch == 2


def test_a_grid_has_no_stopping_rule(spec):
    assert stopping_rule(change(spec, when="epochs")) is None


def test_every_cell_of_a_seed_shares_one_trunk(spec):
    two = dataclasses.replace(
        spec, pruning=dataclasses.replace(spec.pruning, sparsities=(0.5, 0.9))
    )
    runs = plan.members(two)
    assert runs[0] == trunk()
    assert runs[1:] == [dataclasses.replace(MEMBER, sparsity=sparsity) for sparsity in (0.5, 0.9)]
    # 8 epochs are shared by the dense and the first pruned part; a second pruned part adds at most
    # 7.
    assert plan.cost(spec, runs_of(spec), steps_per_epoch=5, state_bytes=1).num_epochs == 8
    assert plan.cost(two, runs_of(two), steps_per_epoch=5, state_bytes=1).num_epochs == 15


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_a_fork_starts_from_what_its_trunk_left_before_it_came_to_a_bad_end(spec, status):
    spec = change(spec, when="epochs")
    ended = {"status": status, "reason": "no luck", "epoch": 4}
    assert fork_point(spec, fork(3), ended, ()).epoch == 3
    assert fork_point(spec, fork(4), ended, ()).epoch is None
