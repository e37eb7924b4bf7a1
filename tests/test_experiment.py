"""Whole experiments in seconds: records, restart, forks, divergence, compilations."""

import contextlib
import csv
import errno
import functools
import io
import json
import os
import resource
import shutil
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from members import compilations, engine_of, fork, locate, trunk
from members import store as store_of
from rich.console import Console
from tiny import tiny_experiment

from earlyprune_jax import config, data, experiment, main, workspace
from earlyprune_jax.analysis import runs
from earlyprune_jax.grid import members as grid_members
from earlyprune_jax.grid import scheduler
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import SILENT, Trainer
from earlyprune_jax.records import read_of_study
from earlyprune_jax.run_records import RunRecords
from earlyprune_jax.spec_sections import KEYS, decides
from earlyprune_jax.status import reading, text
from earlyprune_jax.storage import StorageError, UnusableFile
from earlyprune_jax.training import loop, measurement, retraining
from earlyprune_jax.training.checkpoint import CheckpointStore
from earlyprune_jax.validate import InvalidInput

pytestmark = pytest.mark.usefixtures("empty_figures")

RULES = "paper_a,continue,constant,matched_anneal"


def quiet() -> Console:
    return Console(file=io.StringIO())


def resolve(base, **overrides):
    return config.resolve(
        base, [(name.replace("__", "."), text) for name, text in overrides.items()]
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory, request):
    """One workdir with a trunk and forks of every rule and of sparsity 0; and what XLA compiled."""
    base = request.getfixturevalue("tiny_npz")
    spec = config.resolve(
        tiny_experiment(base),
        [
            ("fork.retraining", RULES),
            ("pruning.sparsities", "0,0.5"),
            ("fork.epochs", "1,3"),
            ("signals.names", "fisher_trace,kl_uniform,mask_distance,weight_change"),
        ],
    )
    workdir = tmp_path_factory.mktemp("finished") / "run"
    compiled = compilations(lambda: experiment.run(spec, workdir, quiet()))
    return spec, workdir, compiled


def rows(workdir, name="results.csv"):
    with (workdir / name).open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def engine(finished):
    spec, _, _ = finished
    return engine_of(spec)


def state(engine, workdir, member, epoch):
    return store_of(workdir, member).restore(epoch, engine.state_shapes())


def timeless(directory):
    """A run's entries without what no two runs share."""
    entries = RunRecords(directory).epochs()
    return [
        {key: value for key, value in entry.items() if "seconds" not in key} for entry in entries
    ]


def test_the_train_step_is_compiled_once_for_trunk_and_all_forks(finished):
    _, _, compiled = finished
    for name in ("train_step", "eval_step", "fisher_trace_step", "kl_uniform_step"):
        assert compiled.count(name) == 1, compiled


def test_an_unpruned_fork_that_continues_is_its_trunk_bit_for_bit(engine, finished):
    spec, workdir, _ = finished
    for epoch in (1, 3):
        dense = state(engine, workdir, trunk(), 4)
        chex.assert_trees_all_equal(state(engine, workdir, fork(epoch, "continue", 0.0), 4), dense)


@pytest.mark.parametrize("rule", RULES.split(","))
def test_removed_weights_and_momenta_are_zero_after_training_and_the_count_is_exact(
    engine, finished, rule
):
    spec, workdir, _ = finished
    last = 3 + (spec.fork.constant_num_epochs if rule == "constant" else 1)
    pruned = state(engine, workdir, fork(3, rule), last)
    (momentum,) = [part.trace for part in pruned.opt_state if hasattr(part, "trace")]
    conv = [leaf.size for leaf in jax.tree.leaves(pruned.params) if leaf.ndim == 4]
    removed = 0
    for keep, weight, moment in zip(
        *map(jax.tree.leaves, (pruned.mask, pruned.params, momentum)), strict=True
    ):
        assert not np.any(weight[~keep])
        assert not np.any(moment[~keep])
        removed += int((~keep).sum())
    assert removed == round(0.5 * sum(conv))


def test_the_mask_is_the_trunks_smallest_weights_at_the_fork_epoch(engine, finished):
    spec, workdir, _ = finished
    dense = state(engine, workdir, trunk(), 1)
    mask = state(engine, workdir, fork(1, "paper_a", 0.5), 4).mask
    weights = np.concatenate(
        [np.abs(leaf).ravel() for leaf in jax.tree.leaves(dense.params) if leaf.ndim == 4]
    )
    kept = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(mask) if leaf.ndim == 4])
    order = np.argsort(weights, kind="stable")
    expected = np.ones(weights.size, bool)
    expected[order[: round(0.5 * weights.size)]] = False
    np.testing.assert_array_equal(kept, expected)


def test_results_hold_one_row_a_run_with_its_axes_and_rates(finished):
    spec, workdir, _ = finished
    table = rows(workdir)
    assert len(table) == 1 + 4 * 2 * 2
    assert [row["kind"] for row in table].count("trunk") == 1
    by_rule = {
        row["retraining"]: row
        for row in table
        if row["fork_epoch"] == "3" and row["sparsity"] == "0.5"
    }
    rate, decay = spec.optim.learning_rate, spec.schedule.exponential_decay_rate
    finals = {name: float(row["final_lr"]) for name, row in by_rule.items()}
    assert finals["paper_a"] == pytest.approx(rate * (1 - 0.9 * 3 / 4), rel=1e-5)
    assert (
        finals["continue"] == finals["matched_anneal"] == pytest.approx(rate * decay**3, rel=1e-5)
    )
    assert finals["constant"] == pytest.approx(spec.fork.constant_learning_rate)
    assert {name: row["epochs_trained"] for name, row in by_rule.items()} == {
        "paper_a": "1",
        "continue": "1",
        "matched_anneal": "1",
        "constant": str(spec.fork.constant_num_epochs),
    }
    assert by_rule["paper_a"]["validation_accuracy"] == by_rule["paper_a"]["validation_epoch"] == ""


def test_signals_hold_one_row_an_epoch_and_per_layer_values_sum_to_the_total(finished):
    _, workdir, _ = finished
    table = rows(workdir, "signals.csv")
    assert [row["epoch"] for row in table] == ["1", "2", "3", "4"]
    for row, entry in zip(table, RunRecords(locate(workdir, trunk())).epochs(), strict=True):
        parts = entry["signals"]["fisher_trace_by_parameter"]
        conv = sum(value for name, value in parts.items() if "conv" in name)
        assert float(row["fisher_trace"]) == pytest.approx(conv)
        assert float(row["fisher_trace_all"]) == pytest.approx(sum(parts.values()))
        assert float(row["kl_uniform_bits"]) > 0


def test_the_run_directory_explains_itself(finished):
    spec, workdir, _ = finished
    assert read_of_study(workdir, "config.json") == spec.to_dict()
    (session,) = (read_of_study(workdir, "env.json") or {})["sessions"]
    assert session["packages"]["jax"] == jax.__version__
    assert session["signature"]["form"] == "loop"
    study = json.loads((workdir / "study.json").read_text())
    made_by = (workspace.FORMAT, "accuracy", dict(spec.code))
    assert (study["format"], study["primary"], study["code"]) == made_by
    assert [metric["name"] for metric in study["metrics"]] == ["loss", "accuracy"]
    dense = json.loads((locate(workdir, trunk()) / "run.json").read_text())
    assert dense["data_sha256"] == data.read(spec.data).digest()
    described = json.loads((locate(workdir, fork(3, "paper_a", 0.5)) / "run.json").read_text())
    assert (described["kind"], described["fork_epoch"], described["last_epoch"]) == ("fork", 3, 4)
    assert described["config"] == dense["config"]
    flat = {f"{name}.{key}": v for name, keys in dense["config"].items() for key, v in keys.items()}
    assert set(KEYS) - {*flat} == {key for key in KEYS if decides(key) == "grid"} - {"fork.when"}
    whole = spec.to_dict()
    assert all(whole[name] | keys == whole[name] for name, keys in dense["config"].items())
    parent = CheckpointStore(workdir / described["parent"] / "checkpoints")
    assert described["parent_sha256"] == parent.sha256(3) != parent.sha256(2)
    assert parent.sha256(99) is None


def test_recorded_test_accuracy_is_that_of_the_saved_network(engine, finished):
    spec, workdir, _ = finished
    for member in (trunk(), fork(1, "paper_a", 0.5)):
        saved = engine.place(state(engine, workdir, member, 4))
        entry = RunRecords(locate(workdir, member)).epochs()[-1]
        (evaluated,) = engine.evaluate(saved, "test")
        assert evaluated["loss"] == pytest.approx(entry["test_loss"], rel=1e-6)
        assert evaluated["accuracy"] == entry["test_accuracy"]


def test_a_finished_workdir_is_read_not_trained(finished):
    spec, workdir, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("metrics.jsonl")}
    compiled = compilations(lambda: experiment.run(spec, workdir, quiet()))
    assert compiled == []
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("metrics.jsonl")} == before
    assert len((read_of_study(workdir, "env.json") or {})["sessions"]) == 1


def test_another_config_is_refused_with_the_differing_keys(finished):
    spec, workdir, _ = finished
    other = config.resolve(
        tiny_experiment(Path(spec.data.name.removeprefix("npz:"))), [("optim.momentum", "0.8")]
    )
    with pytest.raises(InvalidInput) as caught:
        experiment.run(other, workdir, quiet())
    assert "optim.momentum: 0.9 there, 0.8 now" in str(caught.value)
    assert "signals.names" in str(caught.value)
    # Rules are an axis: they may differ.
    assert "fork.retraining" not in str(caught.value)
    assert "optim.learning_rate" not in str(caught.value)


def dense_run(engine, training, records, store, report=lambda entry: None) -> loop.Run:
    return loop.Run(
        engine,
        training,
        0,
        initial=functools.partial(engine.new_state, 0),
        prunable=engine.prunable(""),
        records=records,
        store=store,
        report=report,
        instruments=measurement.instruments(engine),
    )


class Crash(Exception):
    """Stands for a power failure in the middle of a run."""


@pytest.mark.parametrize("num_epochs", [1, 3])
def test_an_interrupted_run_resumes_bitwise_equal_to_an_uninterrupted_one(
    engine, finished, tmp_path, num_epochs
):
    spec, workdir, _ = finished
    records, store = RunRecords(tmp_path / "run"), CheckpointStore(tmp_path / "run" / "checkpoints")
    records.start(grid_members.described(spec, trunk(), 0, 4))

    def crash(entry):
        if entry["epoch"] == num_epochs:
            raise Crash

    training = retraining.trunk(spec, engine.steps_per_epoch)
    run = dense_run(engine, training, records, store)
    with pytest.raises(Crash):
        loop.train([dense_run(engine, training, records, store, crash)])
    # Worse than the crash: a torn line, and a checkpoint whose record was never written.
    metrics = records.directory / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"epoch": ')
    shutil.copytree(store.directory / str(num_epochs), store.directory / str(num_epochs + 1))
    loop.train([run])
    assert (records.result() or {})["status"] == "finished"
    chex.assert_trees_all_equal(
        store.restore(4, engine.state_shapes()), state(engine, workdir, trunk(), 4)
    )
    assert timeless(records.directory) == timeless(locate(workdir, trunk()))


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(engine, finished, tmp_path):
    spec, workdir, _ = finished
    source = locate(workdir, trunk())
    # A checkpoint knows the folder and the name of its run.
    directory = tmp_path / "trunks" / source.name
    shutil.copytree(source, directory)
    (directory / "result.json").unlink()
    run_records, store = RunRecords(directory), CheckpointStore(directory / "checkpoints")
    biggest = max(
        (store.directory / "4").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0
    )
    biggest.write_bytes(b"\0" * biggest.stat().st_size)
    training = retraining.trunk(spec, engine.steps_per_epoch)
    run = dense_run(engine, training, run_records, store)
    with pytest.warns(UserWarning, match="Going back to an older checkpoint"):
        loop.train([run])
    chex.assert_trees_all_equal(
        store.restore(4, engine.state_shapes()), state(engine, workdir, trunk(), 4)
    )


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished workdir that a test may damage, and its spec."""
    spec, workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "copy")
    return spec, tmp_path / "copy"


@pytest.mark.parametrize("damage", [pytest.param("missing", marks=pytest.mark.slow), "damaged"])
def test_a_forks_lost_parent_checkpoint_is_made_again(copied, finished, damage):
    spec, workdir = copied
    lost = fork(3, "paper_a", 0.5)
    parent = locate(workdir, trunk()) / "checkpoints" / "3"
    if damage == "missing":
        shutil.rmtree(parent)
    else:
        shutil.rmtree(parent / "state")
    shutil.rmtree(locate(workdir, lost))
    with (
        contextlib.nullcontext()
        if damage == "missing"
        else pytest.warns(UserWarning, match="older checkpoint")
    ):
        experiment.run(spec, workdir, quiet())
    assert timeless(locate(workdir, lost)) == timeless(locate(finished[1], lost))
    assert CheckpointStore(parent.parent).epochs() == [0, 1, 2, 3, 4]


def test_what_the_disk_refuses_ends_the_process_and_fails_no_member(copied):
    spec, workdir = copied
    lost = fork(3, "paper_a", 0.5)
    shutil.rmtree(directory := locate(workdir, lost))
    study = Study(spec, workdir)
    trainer = Trainer(study, SILENT)
    trainer.engine(lost.setting)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Enough for what says that it is begun, too little for what says what it is.
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"run\.json: File too large"):
            scheduler.work(trainer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in directory.iterdir()] == [".lock"]
    (parent := store_of(workdir, trunk()).directory).rename(workdir / "elsewhere")
    parent.symlink_to(workdir / "elsewhere")
    with pytest.raises(UnusableFile, match="checkpoints'.*It is a link"):
        scheduler.work(trainer)
    assert study.unended([lost]) == [lost]


def test_a_finished_workdir_that_cannot_be_written_is_still_summed_up(
    copied, finished, monkeypatch
):
    spec, workdir = copied
    opened = os.open

    def refusing(path, flags, *arguments):
        if flags & os.O_CREAT and str(path).startswith(str(workdir)):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, *arguments)

    monkeypatch.setattr(os, "open", refusing)
    texts = [experiment.run(spec, place, quiet()) for place in (workdir, finished[1])]
    # The files' place differs, and with it how that last paragraph is wrapped.
    without_files = [text.partition("\nFiles in ")[0] for text in texts]
    assert without_files[0] == without_files[1]
    assert "Recommendation" in without_files[0]


def test_a_damaged_config_names_the_file_and_does_not_ask_to_delete_the_workdir(copied):
    spec, workdir = copied
    (workdir / "config.json").write_text("{")
    with pytest.raises(InvalidInput, match="config.json.*choose another --workdir"):
        experiment.run(spec, workdir, quiet())


def test_a_fork_at_epoch_0_starts_from_the_saved_initial_state(engine, finished, tmp_path):
    spec, workdir, _ = finished
    store = CheckpointStore(tmp_path / "checkpoints")
    other = engine.new_state(5)
    store.save(0, other)
    training = retraining.trunk(spec, engine.steps_per_epoch)
    run = dense_run(engine, training, RunRecords(tmp_path), store)
    chex.assert_trees_all_equal(run.state_after(0), other)


def test_changed_data_under_the_same_name_are_refused(copied):
    spec, workdir = copied
    shutil.rmtree(locate(workdir, fork(3, "paper_a", 0.5)))
    path = Path(spec.data.name.removeprefix("npz:"))
    original = path.read_bytes()
    arrays = dict(np.load(path))
    try:
        np.savez(path, **(arrays | {"y_train": 1 - arrays["y_train"]}))
        with pytest.raises(InvalidInput, match="has changed since"):
            experiment.run(spec, workdir, quiet())
    finally:
        path.write_bytes(original)


def test_files_that_are_not_its_own_are_not_overwritten(finished, tmp_path):
    (tmp_path / "results.csv").write_text("precious")
    with pytest.raises(InvalidInput, match="results.csv without a study.json"):
        experiment.run(finished[0], tmp_path, quiet())
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]


def test_a_workdir_that_cannot_be_made_is_refused(finished, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="above it is a file"):
        experiment.run(finished[0], tmp_path / "file" / "run", quiet())


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "result.json"])
@pytest.mark.parametrize("member", [trunk(), fork(3, "paper_a", 0.5)], ids=["trunk", "fork"])
def test_a_run_whose_record_is_damaged_is_named_and_trained_again_to_the_same_numbers(
    copied, finished, member, name
):
    (spec, workdir), console = copied, quiet()
    directory = locate(workdir, member)
    damaged = (directory / name).read_text().replace("0.", "1.", 1)
    (directory / name).write_text(damaged)
    with pytest.raises(InvalidInput, match=name):
        runs.read_runs(workdir)
    experiment.run(spec, workdir, console)
    assert name in console.file.getvalue()  # type: ignore[attr-defined]
    assert (directory / f"{name}.damaged").read_text() == damaged
    for other in (trunk(), fork(3, "paper_a", 0.5)):
        assert timeless(locate(workdir, other)) == timeless(locate(finished[1], other))


def test_what_stands_in_place_of_a_table_of_a_finished_study_is_refused(copied):
    spec, workdir = copied
    (workdir / "results.csv").unlink()
    os.mkfifo(workdir / "results.csv")
    with pytest.raises(InvalidInput, match=r"results.csv.* no regular file"):
        experiment.run(spec, workdir, quiet())


def test_an_epoch_that_leaves_nonfinite_weights_is_a_divergence(tiny_config, tmp_path):
    # One step an epoch: its loss is finite, only the weights it leaves are not.
    spec = resolve(
        tiny_config,
        train__batch_size="40",
        train__num_epochs="2",
        optim__learning_rate="3e38",
        optim__weight_decay="1e30",
        schedule__step_boundaries_epochs="1",
        fork__epochs="1",
        signals__names="",
    )
    summary = experiment.run(spec, tmp_path / "run", quiet())
    trunk, skipped = rows(tmp_path / "run")
    assert (trunk["status"], trunk["diverged_epoch"], trunk["diverged_step"]) == (
        "diverged",
        "1",
        "0",
    )
    assert trunk["reason"] == "weights not finite at step 0, in epoch 1"
    assert skipped["status"] == "skipped"
    assert "1 diverged, 1 skipped" in summary


def test_a_diverging_run_stops_is_recorded_and_the_rest_goes_on(tiny_config, tmp_path):
    spec = resolve(
        tiny_config,
        optim__learning_rate="1e12",
        fork__epochs="0,3",
        fork__retraining="constant",
        signals__names="",
    )
    console = quiet()
    outcome = experiment.run(spec, tmp_path / "run", console)
    trunk, early, late = rows(tmp_path / "run")
    assert trunk["status"] == "diverged"
    assert 1 <= int(trunk["diverged_epoch"]) <= 3
    assert (
        (int(trunk["diverged_epoch"]) - 1) * 5
        <= int(trunk["diverged_step"])
        < int(trunk["diverged_epoch"]) * 5
    )
    at = f"at step {trunk['diverged_step']}, in epoch {trunk['diverged_epoch']}"
    assert trunk["reason"] == f"loss not finite {at}"
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"[1/3] trunk seed 0  diverged: {trunk['reason']}" in told
    assert early["status"] == "finished"
    assert late["status"] == "skipped"
    assert "diverged in epoch" in late["reason"]
    assert "1 diverged" in outcome


def test_validation_chooses_and_replicates_differ(tiny_config, tmp_path):
    spec = resolve(
        tiny_config,
        data__validation_fraction="0.2",
        train__num_epochs="2",
        train__keep_checkpoints="fork_epochs",
        fork__epochs="1",
        fork__num_replicates="2",
        schedule__step_boundaries_epochs="1",
        signals__names="kl_uniform",
    )
    experiment.run(spec, tmp_path / "run", quiet())
    dense, first, second = rows(tmp_path / "run")
    assert dense["validation_accuracy"] != ""
    assert int(dense["validation_epoch"]) in (1, 2)
    assert first["train_loss"] != second["train_loss"]
    saved = CheckpointStore(locate(tmp_path / "run", trunk()) / "checkpoints").epochs()
    assert saved == [1, 2]


@pytest.mark.parametrize("precision", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_scan_and_loop_forms_and_both_precisions_train_alike(tiny_config, precision):
    spec = resolve(tiny_config, train__precision=precision, signals__names="kl_uniform")
    final = {}
    for form in ("loop", "scan"):
        engine = engine_of(spec, form=form)
        rates = np.full(5, 0.05, np.float32)
        current, (outcome,) = engine.train_epoch(engine.new_state(0), rates)
        (evaluated,) = engine.evaluate(current, "test")
        watcher = measurement.Watcher(measurement.instruments(engine), engine.new_state)
        final[form] = outcome.means, evaluated, watcher.measure(current, 1)[0]
        assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(current.params))
    tolerance = 1e-3 if precision == "float32" else 0.1
    assert final["loop"][0]["loss"] == pytest.approx(final["scan"][0]["loss"], rel=tolerance)
    assert final["loop"][1]["loss"] == pytest.approx(final["scan"][1]["loss"], rel=tolerance)
    assert final["loop"][2]["kl_uniform_bits"] == pytest.approx(
        final["scan"][2]["kl_uniform_bits"], rel=tolerance
    )


def test_time_that_is_up_at_once_exits_3_and_the_same_command_goes_on(tiny_npz, tmp_path, capsys):
    arguments = [
        "--config=configs/digits.py",
        f"--config.data.name=npz:{tiny_npz}",
        "--config.data.num_classes=2",
        "--config.data.train_fraction=1.0",
        "--config.train.num_epochs=2",
        "--config.train.batch_size=8",
        "--config.train.seeds=0",
        "--config.fork.epochs=1",
        "--config.model.width_multiplier=0.125",
        "--config.signals.names=kl_uniform",
        f"--workdir={tmp_path / 'run'}",
    ]
    assert main.main([*arguments, "--max_minutes=1e-9"]) == 3
    assert "Time is up. The same command goes on from here." in capsys.readouterr().err
    assert main.main(["--dry_run", *arguments]) == 0
    assert "Total: 2 runs" in capsys.readouterr().out


def test_the_command_line_runs_a_plan_and_prints_a_line_an_epoch(tiny_npz, tmp_path, capsys):
    arguments = [
        "--config=configs/digits.py",
        f"--config.data.name=npz:{tiny_npz}",
        "--config.data.num_classes=2",
        "--config.data.train_fraction=1.0",
        "--config.train.num_epochs=2",
        "--config.train.batch_size=8",
        "--config.train.seeds=0",
        "--config.fork.epochs=1",
        "--config.model.width_multiplier=0.125",
        "--config.signals.names=kl_uniform",
        f"--workdir={tmp_path / 'run'}",
    ]
    assert main.main([*arguments, "--verbose"]) == 0
    lines = capsys.readouterr().out.splitlines()
    used = "32 of 40 training images (8 for validation), all 16 test images"
    assert f"Data npz:{tiny_npz}: {used}." in lines
    assert [line[:5] for line in lines if line.startswith("[")] == ["[1/2]", "[2/2]"]
    assert sum("epoch 1" in line and line.startswith("trunk seed 0") for line in lines) == 1
    assert sum(line.startswith(("trunk seed 0  ", "fork seed 0 at 1,")) for line in lines) == 3
    dense, pruned = (100 * float(row["test_accuracy"]) for row in rows(tmp_path / "run"))
    assert "Runs: 2 finished, 0 diverged, 0 skipped." in lines
    (row,) = [line.split() for line in lines if line.startswith("  97 %")]
    assert row[2:6] == ["1", "1", f"{pruned:.2f}", "1"]
    assert f"{dense:.1f}" in row


def test_a_result_says_what_the_run_came_to_and_the_status_of_all_agrees(finished):
    _, workdir, _ = finished
    for path in workdir.glob("*/*/result.json"):
        *_, last = epochs = RunRecords(path.parent).epochs()
        result = json.loads(path.read_text())
        assert result["last"]["test_accuracy"] == last["test_accuracy"]
        assert result["seconds"] == pytest.approx(sum(entry["seconds"] for entry in epochs))
    shown = text.lines(reading.read(workdir))
    assert shown[:2] == ["trunks       1 of 1 done", "forks        16 of 16 done"]
    table = [row for row in rows(workdir) if row["retraining"] == "continue"]
    best = max(float(row["test_accuracy"]) for row in table if row["sparsity"] == "0.5")
    (told,) = (line for line in shown if "global 0.5 continue " in line)
    assert f" {100 * best:.2f} %  (n = 1 of 1)" in told
