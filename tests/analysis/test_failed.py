"""Runs that raised count as lost, like those that diverged, and say why."""

import csv
import xml.etree.ElementTree as ElementTree

import workdirs

from earlyprune_jax.analysis import curves, figures, results, rules, summary

T = 10
SIGNALS = [{"fisher_trace": float(value)} for value in (1, 2, 9, 8, 4, 3, 2, 1, 1, 1)]


def write_grid(workdir):
    workdirs.write_config(workdir, num_epochs=T)
    made = workdirs.records(0, [0.95] * T, signals=SIGNALS)
    workdirs.write_trunk(workdir, 0, made, last_epoch=T, result=workdirs.finished(T))
    for epoch, accuracy in ((2, 0.84), (4, 0.90), (8, 0.70)):
        made = workdirs.records(epoch, [accuracy])
        workdirs.write_fork(workdir, 0, epoch, made, last_epoch=T, result=workdirs.finished(T))
    workdirs.write_fork(workdir, 0, 6, [], last_epoch=T, result=workdirs.FAILED)


def flat(workdir) -> str:
    return " ".join(summary.summarize(workdir).split())


def test_they_are_counted_and_named_with_their_reason(tmp_path):
    write_grid(tmp_path)
    text = flat(tmp_path)
    assert "Runs: 4 finished, 0 diverged, 0 skipped, 1 failed." in text
    assert "Not in these numbers: 97 % epoch 6 seed 0 failed (RuntimeError: out of memory)." in text


def test_a_long_reason_is_cut_and_a_missing_one_left_out(tmp_path):
    write_grid(tmp_path)
    workdirs.write_fork(tmp_path, 1, 2, [], result={"status": "failed", "reason": "word " * 30})
    workdirs.write_fork(tmp_path, 2, 2, [], result={"status": "failed"})
    text = flat(tmp_path)
    assert "epoch 2 seed 1 failed (word word word" in text and "word ...)" in text
    assert "epoch 2 seed 2 failed and" in text or "epoch 2 seed 2 failed." in text


def test_their_row_holds_the_reason_and_no_diverged_epoch(tmp_path):
    write_grid(tmp_path)
    results.write_tables(tmp_path)
    with (tmp_path / "results.csv").open(newline="") as file:
        (row,) = [row for row in csv.DictReader(file) if row["status"] == "failed"]
    assert (row["reason"], row["diverged_epoch"], row["epochs_trained"]) == (
        workdirs.FAILED["reason"],
        "",
        "0",
    )


def test_no_accuracy_is_made_up_beside_one(tmp_path):
    write_grid(tmp_path)
    (curve,) = curves.Setting(results.read_runs(tmp_path)).curves
    assert curve.lost == {(0, 6)}
    (one,) = [one for one in rules.replay(tmp_path, ["epoch(5)"]) if one.trigger == "epoch(5)"]
    assert (one.count("diverged"), one.complete) == (1, False)


def test_a_failed_trunk_is_no_baseline_and_its_signals_are_not_averaged(tmp_path):
    write_grid(tmp_path)
    made = workdirs.records(0, [0.1] * 3, signals=SIGNALS[:3])
    workdirs.write_trunk(tmp_path, 1, made, last_epoch=T, result=workdirs.FAILED)
    setting = curves.Setting(results.read_runs(tmp_path))
    assert setting.dense["trunk_seed"].tolist() == [0]
    assert set(setting.signals["trunk_seed"]) == {0}
    assert "Not in these numbers: dense seed 1 failed (RuntimeError: out of memory)" in flat(
        tmp_path
    )


def test_the_figure_counts_them_apart_from_diverged_ones(tmp_path):
    write_grid(tmp_path)
    diverged = {"status": "diverged", "epoch": 9, "step": 80, "achieved_sparsity": 0.97}
    workdirs.write_fork(tmp_path, 0, 9, [], result=diverged)
    workdirs.write_fork(tmp_path, 0, 7, [], result=workdirs.FAILED)
    _, svg = figures.draw_main(tmp_path)
    texts = ["".join(node.itertext()).strip() for node in ElementTree.parse(svg).getroot().iter()]
    assert (
        "1 seed, so the noise is unknown; 1 diverged run left out; 2 failed runs left out" in texts
    )


def test_where_all_forks_failed_the_recommendation_says_so(tmp_path):
    workdirs.write_config(tmp_path, num_epochs=T)
    made = workdirs.records(0, [0.9] * T)
    workdirs.write_trunk(tmp_path, 0, made, last_epoch=T, result=workdirs.finished(T))
    workdirs.write_fork(tmp_path, 0, 2, [], result=workdirs.FAILED)
    assert flat(tmp_path).startswith("Recommendation: none: no fork of the grid has finished.")
