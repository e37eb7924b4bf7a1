import pytest
import workdirs

from earlyprune_jax.analysis import results, runs
from earlyprune_jax.analysis.places import Place, Swept
from earlyprune_jax.metrics import Metric
from earlyprune_jax.run_records import RunRecords
from earlyprune_jax.validate import InvalidInput

ACCURACY = Metric("accuracy", "%")


def test_of_a_fork_the_last_and_the_best_epochs_are_kept_and_of_a_trunk_all(tmp_path):
    made = workdirs.records(0, [0.5, 0.9, 0.9, 0.7], validation_accuracy=[0.4, 0.8, 0.6, 0.8])
    workdirs.write_trunk(tmp_path, 0, made, last_epoch=4, result=workdirs.finished(4))
    workdirs.write_fork(tmp_path, 0, 0, made, last_epoch=4, result=workdirs.finished(4))
    read = runs.read_runs(tmp_path)
    _, fork = read
    assert read.entries == {"seed-0": made}
    assert (fork.end_epoch, fork.best_test_epoch, fork.validation_epoch, fork.seconds) == (
        4,
        2,
        2,
        2.0,
    )
    assert (fork.best_test_accuracy, fork.validation_epoch_test_accuracy) == (0.9, 0.9)
    assert fork.complete and fork.test_accuracy == 0.7


def test_a_fork_has_the_row_that_all_its_epochs_give(tmp_path):
    made = workdirs.records(0, [0.5, 0.9, 0.9, 0.7], validation_accuracy=[0.4, 0.8, 0.6, 0.8])
    workdirs.write_trunk(tmp_path, 0, made, last_epoch=4, result=workdirs.finished(4))
    workdirs.write_fork(tmp_path, 0, 0, made, last_epoch=4, result=workdirs.finished(4))
    of_trunk, of_fork = workdirs.rows_of(results.result_table(runs.read_runs(tmp_path)))
    axes = {"kind", *runs.axes_of(Swept())}
    assert {k: v for k, v in of_fork.items() if k not in axes} == {
        k: v for k, v in of_trunk.items() if k not in axes
    }


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ((0.5, None, 0.75, 0.75), 3),
        ((float("inf"), 0.2, float("nan"), 0.1), 2),
        ((float("-inf"), None, True, None), None),
        ((0, 0, 0, 0), 1),
    ],
)
def test_the_best_epoch_is_the_first_with_the_highest_finite_number(values, best):
    entries = [{"epoch": epoch, "test_accuracy": value} for epoch, value in enumerate(values, 1)]
    assert runs.best_entry(entries, ACCURACY, "test").get("epoch") == best


def test_without_an_epoch_there_is_nothing_to_sum_up(tmp_path):
    workdirs.write_trunk(tmp_path, 0, [])
    (run,) = runs.read_runs(tmp_path)
    assert (run.seconds, run.best_test_epoch, run.epochs_trained, run.complete) == (
        None,
        None,
        0,
        False,
    )


def test_values_per_parameter_are_not_kept_in_memory(tmp_path):
    signals = [{"fisher_trace": 2.0, "fisher_trace_by_parameter": {"stem_conv/kernel": 2.0}}]
    workdirs.write_trunk(tmp_path, 0, workdirs.records(0, [0.5], signals=signals))
    assert runs.read_runs(tmp_path).entries["seed-0"][0]["signals"] == {"fisher_trace": 2.0}


def test_a_torn_last_line_of_a_fork_is_dropped_and_another_damaged_one_named(tmp_path):
    directory = workdirs.write_fork(tmp_path, 0, 2, workdirs.records(2, [0.5, 0.6, 0.7]))
    path = directory / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    (run,) = runs.read_runs(tmp_path)
    assert (run.end_epoch, run.status, run.complete) == (4, "unfinished", False)
    lines = whole.split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1][:9], *lines[2:]]))
    with pytest.raises(InvalidInput, match=r"metrics\.jsonl, line 2="):
        runs.read_runs(tmp_path)


def test_settings_sort_by_model_then_data_then_schedule():
    wanted = [("a", 0.1, "step"), ("a", 1.0, "cosine"), ("a", 1.0, "step"), ("b", 0.01, "cosine")]
    made = sorted(Place.of(results.SETTING, axes) for axes in wanted[::-1])
    assert [tuple(one.named.values()) for one in made] == wanted


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("result.json", {"achieved_sparsity": {}}),
        ("result.json", {"status": "diverged", "epoch": "two"}),
        ("run.json", {"kind": "branch"}),
        ("run.json", {"scope": ["global"]}),
        ("run.json", {"first_epoch": 1.5}),
        ("run.json", {"config": {"data": {"std": {}}}}),
        ("metrics.jsonl", {"test_accuracy": "high"}),
    ],
)
def test_a_value_of_another_type_names_its_run(tmp_path, name, changed):
    workdirs.write_trunk(tmp_path, 0, workdirs.records(0, [0.5]))
    run = workdirs.write_fork(
        tmp_path,
        0,
        2,
        workdirs.records(2, [0.5]),
        result=None if name == "metrics.jsonl" else workdirs.finished(3),
    )
    if name == "metrics.jsonl":
        RunRecords(run).append(workdirs.records(3, [0.5])[0] | changed)
    else:
        workdirs.edit(run / name, changed)
    with pytest.raises(InvalidInput) as raised:
        runs.read_runs(tmp_path)
    assert str(tmp_path) in str(raised.value) and "Restore the file" in str(raised.value)


def test_a_value_of_another_type_in_any_epoch_of_a_trunk_names_it(tmp_path):
    entries = workdirs.records(0, [0.5, 0.6])
    workdirs.write_trunk(tmp_path, 0, [entries[0] | {"validation_accuracy": "x"}, entries[1]])
    with pytest.raises(InvalidInput, match="validation_accuracy is 'x'"):
        runs.read_runs(tmp_path)
