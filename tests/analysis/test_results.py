import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import workdirs

from earlyprune_jax.analysis import results
from earlyprune_jax.validate import InvalidInput

SETTING_CELLS = {name: str(value) for name, value in workdirs.SETTING.items()}


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def two_runs(tmp_path):
    """A finished trunk with a validation tie, and a fork whose best test epoch is not its last."""
    trunk = workdirs.records(0, [0.5, 0.9, 0.8, 0.7], validation_accuracy=[0.4, 0.6, 0.8, 0.8])
    workdirs.write_trunk(tmp_path, 0, trunk, last_epoch=4, result=workdirs.finished(4))
    fork = workdirs.records(1, [0.1, 0.3, 0.2])
    workdirs.write_fork(tmp_path, 0, 1, fork, last_epoch=4, result=workdirs.finished(4, 0.97))
    return tmp_path


def test_results_csv_has_the_documented_columns_in_order(two_runs):
    results.write_tables(two_runs)
    header = (two_runs / "results.csv").read_text().splitlines()[0]
    assert header == (
        "kind,model,train_fraction,schedule,trunk_seed,fork_epoch,criterion,scope,sparsity,retraining,replicate,status,achieved_sparsity,"
        "epochs_trained,final_lr,train_loss,train_accuracy,validation_loss,validation_accuracy,test_loss,"
        "test_accuracy,best_test_accuracy,best_test_epoch,validation_epoch,validation_epoch_test_accuracy,"
        "diverged_epoch,diverged_step,seconds,reason,trigger,fired_epoch,marked_epoch,mode"
    )


def test_trunk_row_holds_last_best_and_validation_chosen_values(two_runs):
    row = workdirs.rows_of(results.result_table(results.read_runs(two_runs)))[0]
    assert row["kind"] == "trunk"
    assert row["test_accuracy"] == 0.7
    assert (row["best_test_accuracy"], row["best_test_epoch"]) == (0.9, 2)
    # 0.8 stands at epochs 3 and 4: the earlier one counts.
    assert (row["validation_epoch"], row["validation_epoch_test_accuracy"]) == (3, 0.8)
    assert row["epochs_trained"] == 4
    assert row["final_lr"] == 0.1 / 4
    assert row["seconds"] == 2.0


def test_fork_epochs_are_counted_from_the_fork(two_runs):
    row = workdirs.rows_of(results.result_table(results.read_runs(two_runs)))[1]
    assert (row["kind"], row["fork_epoch"], row["epochs_trained"]) == ("fork", 1, 3)
    assert (row["best_test_accuracy"], row["best_test_epoch"]) == (0.3, 3)
    assert row["achieved_sparsity"] == 0.97


def test_cells_without_a_value_are_empty_and_floats_survive_exactly(two_runs):
    results.write_tables(two_runs)
    trunk, fork = table(two_runs / "results.csv")
    for column in ("fork_epoch", "criterion", "sparsity", "replicate", "diverged_epoch", "reason"):
        assert trunk[column] == ""
    for column in (
        "validation_loss",
        "validation_accuracy",
        "validation_epoch",
        "validation_epoch_test_accuracy",
    ):
        assert fork[column] == ""
    assert float(fork["train_loss"]) == 1.0 / 4
    assert float(trunk["final_lr"]) == 0.1 / 4


def test_repr_cells_round_trip_a_float_that_short_formats_lose(tmp_path):
    value = 0.1 + 0.2
    workdirs.write_trunk(tmp_path, 0, workdirs.records(0, [value]), result=workdirs.finished(1))
    results.write_tables(tmp_path)
    assert float(table(tmp_path / "results.csv")[0]["test_accuracy"]) == value


def test_unfinished_run_has_no_result_row_but_its_signals_are_kept(tmp_path):
    made = workdirs.records(0, [0.5, 0.6], signals=[{"fisher_trace": 3.0}, {"fisher_trace": 5.0}])
    workdirs.write_trunk(tmp_path, 3, made)
    results.write_tables(tmp_path)
    assert table(tmp_path / "results.csv") == []
    assert table(tmp_path / "signals.csv") == [
        {**SETTING_CELLS, "trunk_seed": "3", "epoch": "1", "fisher_trace": "3.0"},
        {**SETTING_CELLS, "trunk_seed": "3", "epoch": "2", "fisher_trace": "5.0"},
    ]


def test_diverged_and_skipped_runs_are_rows(tmp_path):
    diverged = {
        "status": "diverged",
        "epoch": 3,
        "step": 21,
        "achieved_sparsity": 0.9,
        "reason": "loss nan",
    }
    skipped = {
        "status": "skipped",
        "epoch": None,
        "step": None,
        "achieved_sparsity": None,
        "reason": "trunk",
    }
    workdirs.write_fork(tmp_path, 0, 1, workdirs.records(1, [0.4]), sparsity=0.9, result=diverged)
    workdirs.write_fork(tmp_path, 1, 1, [], sparsity=0.9, result=skipped)
    results.write_tables(tmp_path)
    first, second = table(tmp_path / "results.csv")
    assert (first["diverged_epoch"], first["diverged_step"], first["reason"]) == (
        "3",
        "21",
        "loss nan",
    )
    assert (first["epochs_trained"], first["test_accuracy"]) == ("1", "0.4")
    assert (second["status"], second["reason"]) == ("skipped", "trunk")
    assert (second["epochs_trained"], second["test_accuracy"], second["seconds"]) == ("0", "", "")
    assert (second["diverged_epoch"], second["best_test_epoch"]) == ("", "")


def test_torn_last_line_is_dropped(tmp_path):
    directory = workdirs.write_trunk(tmp_path, 0, workdirs.records(0, [0.5, 0.6]))
    with (directory / "metrics.jsonl").open("ab") as file:
        file.write(b'{"epoch": 3, "name": "\xe2\x82')  # the crash cut a three-byte character
    runs = results.read_runs(tmp_path)
    ((run,), entries) = runs, runs.entries["seed-0"]
    assert [entry["epoch"] for entry in entries] == [1, 2]
    assert run.status == "unfinished"


def test_damage_before_the_last_line_is_an_error_that_names_the_line(tmp_path):
    directory = workdirs.write_trunk(tmp_path, 0, workdirs.records(0, [0.5, 0.6]))
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    (directory / "metrics.jsonl").write_text("\n".join([lines[0][:20], lines[1]]))
    with pytest.raises(InvalidInput, match=r"metrics\.jsonl, line 1="):
        results.read_runs(tmp_path)


@pytest.mark.parametrize("name", ["run.json", "result.json"])
def test_damaged_json_is_an_error_that_names_the_file(tmp_path, name):
    directory = workdirs.write_trunk(tmp_path, 0, [], result=workdirs.finished())
    (directory / name).write_text("{")
    with pytest.raises(InvalidInput, match=name.replace(".", r"\.")):
        results.read_runs(tmp_path)


def test_rows_are_sorted_trunks_first_and_numbers_as_numbers(tmp_path):
    for seed, epoch, sparsity in ((1, 2, 0.9), (0, 10, 0.9), (0, 2, 0.97), (0, 2, 0.9)):
        result = workdirs.finished(3)
        workdirs.write_fork(
            tmp_path, seed, epoch, workdirs.records(epoch, [0.5]), sparsity=sparsity, result=result
        )
    for seed in (10, 2):
        workdirs.write_trunk(
            tmp_path, seed, workdirs.records(0, [0.5]), result=workdirs.finished(1)
        )
    rows = workdirs.rows_of(results.result_table(results.read_runs(tmp_path)))
    assert [(r["kind"], r["trunk_seed"], r["fork_epoch"], r["sparsity"]) for r in rows] == [
        ("trunk", 2, None, None),
        ("trunk", 10, None, None),
        ("fork", 0, 2, 0.9),
        ("fork", 0, 2, 0.97),
        ("fork", 0, 10, 0.9),
        ("fork", 1, 2, 0.9),
    ]


def test_every_scalar_signal_is_a_column_and_values_per_parameter_are_not(tmp_path):
    signals = [
        {"fisher_trace": 2.0, "fisher_trace_by_parameter": {"stem_conv/kernel": 2.0}},
        {"fisher_trace": 3, "sharpness": 0.5, "is_peak": True},
    ]
    workdirs.write_trunk(tmp_path, 0, workdirs.records(0, [0.5, 0.5], signals=signals))
    assert workdirs.rows_of(results.signal_table(results.read_runs(tmp_path))) == [
        {**workdirs.SETTING, "trunk_seed": 0, "epoch": 1, "fisher_trace": 2.0, "sharpness": None},
        {**workdirs.SETTING, "trunk_seed": 0, "epoch": 2, "fisher_trace": 3, "sharpness": 0.5},
    ]


def test_a_run_that_pruned_itself_is_a_row_with_its_trigger(tmp_path):
    made = workdirs.records(3, [0.4, 0.5])
    axes = {
        "trigger": "first(peak(x), epoch(9))",
        "fired_epoch": 5,
        "marked_epoch": 3,
        "mode": "rewind",
    }
    workdirs.write_online(tmp_path, 1, 3, made, **axes, result=workdirs.finished(5, 0.97))
    workdirs.write_online(
        tmp_path, 0, None, [], result={"status": "skipped", "reason": "never fired"}
    )
    workdirs.write_fork(tmp_path, 9, 2, workdirs.records(2, [0.5]), result=workdirs.finished())
    results.write_tables(tmp_path)
    fork, dense, pruned = table(tmp_path / "results.csv")
    assert (fork["kind"], fork["trigger"], fork["mode"], fork["fired_epoch"]) == (
        "fork",
        "",
        "",
        "",
    )
    assert (dense["kind"], dense["fork_epoch"], dense["fired_epoch"]) == ("online", "", "")
    assert (dense["status"], dense["reason"]) == ("skipped", "never fired")
    assert {name: pruned[name] for name in axes} == {
        name: str(value) for name, value in axes.items()
    }
    assert (pruned["fork_epoch"], pruned["epochs_trained"], pruned["test_accuracy"]) == (
        "3",
        "2",
        "0.5",
    )
    assert pruned["reason"] == "first(peak(x), epoch(9)) fired"


def test_tables_are_replaced_and_leave_no_temporary_file(two_runs):
    (two_runs / "results.csv").write_text("old")
    results.write_tables(two_runs)
    assert len(table(two_runs / "results.csv")) == 2
    assert sorted(p.name for p in two_runs.iterdir()) == [
        "forks",
        "results.csv",
        "signals.csv",
        "study.json",
        "trunks",
    ]


def test_a_directory_without_run_json_is_not_a_run(tmp_path):
    workdirs.write_trunk(tmp_path, 0, []).joinpath("run.json").unlink()
    assert len(results.read_runs(tmp_path)) == 0


def test_analysis_imports_no_jax_flax_or_pyplot(tmp_path):
    workdirs.write_trunk(tmp_path, 0, workdirs.records(0, [0.5]), result=workdirs.finished(1))
    workdirs.write_fork(tmp_path, 0, 1, workdirs.records(1, [0.5]), result=workdirs.finished(2))
    code = (
        "import sys, json\n"
        "from earlyprune_jax.analysis import figures, results, rules, summary\n"
        "early = [name for name in ('matplotlib', 'pandas', 'scipy') if name in sys.modules]\n"
        "figures.draw_main(sys.argv[1]); summary.summarize(sys.argv[1])\n"
        "assert len(rules.write(sys.argv[1])) == 5\n"
        "heavy = ('jax', 'flax', 'optax', 'orbax', 'matplotlib.pyplot')\n"
        "print(json.dumps([early, [name for name in heavy if name in sys.modules]]))"
    )
    root = Path(results.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
    )
    assert json.loads(done.stdout) == [[], []]
