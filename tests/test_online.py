"""A run that watches its signals and prunes itself: its budget, its equality with a fork, its
resumption."""

import io
import signal
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from members import engine_of, fork, locate, store, trunk
from members import online as online_member
from rich.console import Console
from tiny import tiny_experiment

from earlyprune_jax import config, experiment
from earlyprune_jax.analysis import results
from earlyprune_jax.grid.study import Study
from earlyprune_jax.run_records import RunRecords
from earlyprune_jax.validate import InvalidInput

pytestmark = pytest.mark.usefixtures("empty_figures")

MEMBER = online_member()
COMMON = [("signals.names", "kl_uniform"), ("train.num_epochs", "5")]


def quiet() -> Console:
    return Console(file=io.StringIO())


def resolve(tiny_npz, *changes):
    return config.resolve(tiny_experiment(tiny_npz), [*COMMON, *changes])


def online(tiny_npz, *changes, trigger="epoch(2)"):
    return resolve(tiny_npz, ("fork.when", "trigger"), ("fork.trigger", trigger), *changes)


def pruned_epochs(workdir) -> list[dict]:
    return RunRecords(locate(workdir, MEMBER)).epochs()


def final_state(workdir, member, engine, epoch=5):
    return store(workdir, member).restore(epoch, engine.state_shapes())


@pytest.fixture(scope="module")
def engine(tiny_npz):
    spec = resolve(tiny_npz)
    return engine_of(spec)


@pytest.fixture(scope="module")
def grid(tiny_npz, tmp_path_factory):
    """The same experiment as a grid with one fork at epoch 2: what the online run must equal."""
    workdir = tmp_path_factory.mktemp("grid")
    experiment.run(resolve(tiny_npz), workdir, quiet())
    return workdir


@pytest.fixture(scope="module")
def fired(tiny_npz, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("online")
    text = experiment.run(online(tiny_npz), workdir, quiet())
    return workdir, text


def test_it_trains_as_many_epochs_as_the_trunk_would_have_and_no_dense_one_after_the_firing(fired):
    workdir, _ = fired
    dense, pruned = RunRecords(locate(workdir, trunk())), RunRecords(locate(workdir, MEMBER))
    assert [entry["epoch"] for entry in dense.epochs()] == [1, 2]
    assert [entry["epoch"] for entry in pruned.epochs()] == [3, 4, 5]
    assert (dense.result() or {})["fired"]["epoch"] == 2


def test_it_is_bitwise_the_fork_of_a_grid_at_that_epoch(fired, grid, engine):
    workdir, _ = fired
    itself, other = final_state(workdir, MEMBER, engine), final_state(grid, fork(2), engine)
    chex.assert_trees_all_equal(itself, other)


def test_its_row_tells_rule_epoch_and_mode_and_its_trunk_is_no_dense_baseline(fired):
    workdir, text = fired
    rows = results.result_table(results.read_runs(workdir)).to_dict("records")
    (row,) = [row for row in rows if row["kind"] == "online"]
    assert (row["trigger"], row["mode"], row["fork_epoch"], row["fired_epoch"]) == (
        "epoch(2)",
        "now",
        2,
        2,
    )
    assert "Dense, never pruned" not in text
    assert text.splitlines()[-1] or text
    assert "Recommendation" in text


def test_rewinding_prunes_the_marked_weights_and_still_keeps_the_budget(tiny_npz, tmp_path):
    # No loss falls by all of itself: the maximum of the train loss is at epoch 1, known 2 epochs
    # later.
    trigger = "peak(train_loss, smoothing=1, min_drop=0, min_rise=0, min_errors=0)"
    spec = online(tiny_npz, ("fork.prune_at", "rewind"), trigger=trigger)
    experiment.run(spec, tmp_path / "run", quiet())
    fired = (RunRecords(locate(tmp_path / "run", trunk())).result() or {})["fired"]
    assert fired["marked_epoch"] < fired["epoch"]
    epochs = [entry["epoch"] for entry in pruned_epochs(tmp_path / "run")]
    left = 5 - fired["epoch"]
    assert epochs == [fired["marked_epoch"] + 1 + index for index in range(left)]


def test_a_rule_that_never_fires_stays_dense_and_says_so(tiny_npz, tmp_path):
    spec = online(
        tiny_npz, ("fork.fallback_epoch", "0"), trigger="threshold(train_loss, above=1e9)"
    )
    text = experiment.run(spec, tmp_path / "run", quiet())
    assert len(RunRecords(locate(tmp_path / "run", trunk())).epochs()) == 5
    result = RunRecords(locate(tmp_path / "run", MEMBER)).result() or {}
    assert result["status"] == "skipped"
    assert "did not fire before the last of 5 epochs" in result["reason"]
    assert "Dense, never pruned" in text
    # What has been skipped is not tried again.
    assert experiment.run(spec, tmp_path / "run", quiet()) == text


def test_the_fallback_epoch_prunes_a_run_whose_rule_is_silent(tiny_npz, tmp_path):
    spec = online(
        tiny_npz, ("fork.fallback_epoch", "3"), trigger="threshold(train_loss, above=1e9)"
    )
    experiment.run(spec, tmp_path / "run", quiet())
    assert [entry["epoch"] for entry in pruned_epochs(tmp_path / "run")] == [4, 5]


@pytest.mark.parametrize("epoch", [2, 4])
def test_an_interrupted_run_decides_and_ends_as_an_uninterrupted_one(
    tiny_npz, tmp_path, fired, engine, monkeypatch, epoch
):
    spec = online(tiny_npz)
    append = RunRecords.append

    def append_and_crash(self, entry):
        append(self, entry)
        if entry["epoch"] == epoch:
            signal.raise_signal(signal.SIGINT)
        return entry

    monkeypatch.setattr(RunRecords, "append", append_and_crash)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(spec, tmp_path / "run", quiet())
    monkeypatch.undo()
    experiment.run(spec, tmp_path / "run", quiet())
    jax.tree.map(
        np.testing.assert_array_equal,
        final_state(tmp_path / "run", MEMBER, engine),
        final_state(fired[0], MEMBER, engine),
    )


def test_the_preview_says_who_decides_and_what_it_costs_at_most(tiny_npz):
    text = experiment.preview(Study(online(tiny_npz), Path("absent")))
    assert "epoch(2) decides: these are the most epochs" in text
    assert "share 5 epochs" in text
    assert "Total: 2 runs, 5 epochs" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([("fork.trigger", "peak(fisher_trace)")], "'fisher_trace' to be one of train_loss"),
        ([("fork.trigger", "peak(test_accuracy)")], "test_accuracy"),
        ([("fork.trigger", "peek(kl_uniform_bits)")], "peak"),
        ([("fork.trigger", "")], "fork.trigger=''"),
        ([("fork.trigger", "epoch(5)")], "epoch=5 to be below 5"),
        (
            [("fork.trigger", "peek("), ("signals.max_overhead_fraction", "5")],
            "fork.trigger: Expected rule",
        ),
        ([("fork.trigger", "threshold(kl_uniform_bits_standard_error, above=1)")], "not its error"),
        ([("fork.trigger", "peak(validation_accuracy)")], "validation_accuracy"),
        ([("fork.retraining", "constant")], "fork.when=trigger keeps to the trunk's epochs"),
        ([("fork.fallback_epoch", "5")], "train.num_epochs=5 to be above 5"),
        ([("fork.when", "later")], "fork.when='later' to be one of epochs, trigger"),
        ([("fork.prune_at", "then")], "fork.prune_at='then' to be one of now, rewind"),
    ],
)
def test_an_impossible_online_run_is_refused_before_anything_compiles(tiny_npz, changes, words):
    with pytest.raises(InvalidInput) as caught:
        online(tiny_npz, *changes)
    assert words in str(caught.value)
