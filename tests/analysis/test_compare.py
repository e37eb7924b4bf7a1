import csv
import itertools
import json
import re
import shutil

import pytest
import test_metrics
import test_sweeps
import workdirs

from earlyprune_jax import spec
from earlyprune_jax.analysis import compare, rules, summary
from earlyprune_jax.validate import InvalidInput


def write_plain(workdir, shift=0.0, *, decay=0.0001):
    """A workdir whose run.json say nothing of the config."""
    workdir.mkdir()
    names = {"model": {"names": ["resnet8"]}, "schedule": {"names": ["exponential"]}}
    held = names | {"data": {"train_fractions": [1.0]}, "optim": {"weight_decay": decay}}
    workdirs.write_of_study(workdir, "config.json", held | {"train": {"num_epochs": 10}})
    for seed in range(3):
        made = workdirs.records(0, [0.95 + 0.01 * seed] * 10, signals=test_sweeps.SIGNALS)
        workdirs.write_trunk(workdir, seed, made, last_epoch=10, result=workdirs.finished(10))
        for epoch, accuracy in test_sweeps.EPOCHS.items():
            made = workdirs.records(epoch, [accuracy + shift + 0.011 * seed])
            workdirs.write_fork(
                workdir, seed, epoch, made, last_epoch=10, result=workdirs.finished(10)
            )
    return workdir


def printed_rows(printed):
    """The cells of the printed table, its headings first."""
    lines = printed.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("  workdir"))
    return [re.split(" {2,}", line.strip()) for line in lines[start:]]


def test_two_workdirs_of_two_versions_stand_side_by_side(tmp_path):
    old = write_plain(tmp_path / "old")
    test_sweeps.write_decays(tmp_path / "new")
    table = compare.compare(old, tmp_path / "new")
    assert table["workdir"].tolist() == ["old", "new", "new", "new"]
    assert table["optim.weight_decay"].tolist() == [0.0001, 0.0001, 0.0005, 0.005]
    assert table["best_fork_epoch"].tolist() == [4, 4, 4, 4]
    assert table["fisher_trace_peak_epoch"].tolist() == [3, 3, 3, 3]
    row = table.iloc[0]
    # .90, .911, .922 against dense .95, .96, .97.
    assert (row["test_accuracy_mean"], row["test_accuracy_n"]) == (pytest.approx(0.911), 3)
    assert row["dense_test_accuracy_mean"] == pytest.approx(0.96)
    assert (row["difference_mean"], row["difference_std"]) == (
        pytest.approx(-0.049),
        pytest.approx(0.001),
    )
    # Student's t with 2 degrees of freedom: 4.303.
    assert row["difference_half_width_95"] == pytest.approx(4.3027 * 0.001 / 3**0.5, rel=1e-4)
    assert row["chosen_on"] == "test_accuracy"


def test_the_files_hold_the_table_and_one_figure(tmp_path):
    first, second = (
        write_plain(tmp_path / "first"),
        write_plain(tmp_path / "second", 0.01, decay=0.1),
    )
    out = tmp_path / "out"
    assert compare.main([str(first), str(second), "--output", str(out)]) == 0
    assert sorted(path.name for path in out.rglob("*.*")) == [
        "compare.csv",
        "compare.png",
        "compare.svg",
    ]
    with (out / "compare.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["workdir"], row["optim.weight_decay"]) for row in rows] == [
        ("first", "0.0001"),
        ("second", "0.1"),
    ]
    assert {">first</text>", ">second</text>"} <= set(
        re.findall(r">\w+</text>", (out / "figures/compare.svg").read_text())
    )
    # The workdirs themselves are left as they are.
    assert not list(tmp_path.glob("first/*.csv")) and not (first / "figures").exists()


@pytest.mark.usefixtures("empty_figures_here")
def test_the_command_prints_what_differs_and_what_is_not_finished(tmp_path, capsys):
    first, second = write_plain(tmp_path / "first"), write_plain(tmp_path / "second", decay=0.1)
    workdirs.write_fork(second, 7, 2, workdirs.records(2, [0.5]), last_epoch=10)
    assert compare.main([str(first), str(second), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    head, *rows = printed_rows(printed)[:3]
    assert (
        head[:3] == ["workdir", "optim.weight_decay", "epoch"] and "Configs differ" not in printed
    )
    assert [row[:3] for row in rows] == [["first", "0.0001", "4"], ["second", "0.1", "4"]]
    assert "second: Left out: 1 unfinished run." in printed
    assert "91.10 +- 1.10" in printed
    written = "compare.csv, figures/compare.png, figures/compare.svg"
    assert printed.splitlines()[-1] == f"Files in {tmp_path / 'out'}: {written}"


def write_study(workdir, sparsities, *, num_seeds):
    """A study of one model, with forks at two epochs."""
    workdir.mkdir()
    workdirs.write_config(workdir, num_epochs=10)
    ends = {"last_epoch": 10, "result": workdirs.finished(10)}
    for seed in range(num_seeds):
        workdirs.write_trunk(workdir, seed, workdirs.records(0, [0.95] * 10), **ends)
        for sparsity, epoch in itertools.product(sparsities, (2, 4)):
            made = workdirs.records(epoch, [0.7 + 0.05 * epoch])
            workdirs.write_fork(workdir, seed, epoch, made, sparsity=sparsity, **ends)
    return workdir


def test_panels_stand_as_given_say_what_differs_and_share_one_legend(tmp_path):
    last = write_study(tmp_path / "b", (0.97,), num_seeds=3)
    first = write_study(tmp_path / "a", (0.9, 0.97), num_seeds=1)
    compare.main([str(last), str(first), "--output", str(tmp_path)])
    svg = (tmp_path / "figures/compare.svg").read_text()
    texts = re.findall(r">([^<>]+)</text>", svg)
    assert texts.index("b, 97 % removed") < texts.index("a")
    assert any(text.startswith("1 to 3 seeds: mean ") for text in texts)
    # The curve of 97 % is the same thing in both panels.
    assert texts.count("97 % removed") == 1 and "pruned forks" not in texts


@pytest.mark.parametrize("kind", ["absent", "empty", "foreign", "no forks", "another metric"])
def test_what_cannot_be_compared_is_one_sentence_and_exit_2(tmp_path, capsys, kind):
    good, bad = write_plain(tmp_path / "good"), tmp_path / "bad"
    if kind in ("empty", "foreign"):
        bad.mkdir()
    if kind == "foreign":
        (bad / "notes.txt").write_text("x")
        (bad / "config.json").write_text('{"another": "program"}')
    if kind == "no forks":
        workdirs.write_trunk(bad, 0, workdirs.records(0, [0.5]))
    if kind == "another metric":
        test_metrics.write(bad, 1)
    assert compare.main([str(good), str(bad), "--output", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    told = {
        "absent": "to be a directory. There is none",
        "no forks": "to hold finished forks",
        "another metric": "accuracy in good, score in bad",
    }
    assert told.get(kind, "to hold runs of an experiment") in captured.err
    assert not (tmp_path / "out").exists()
    with pytest.raises(InvalidInput):
        compare.compare(good, bad)


def test_what_one_workdir_sweeps_the_others_show_from_their_configs(tmp_path, capsys):
    test_sweeps.write_decays(tmp_path / "decays")
    test_sweeps.write_lengths(tmp_path / "lengths")
    assert (
        compare.main(
            [str(tmp_path / "decays"), str(tmp_path / "lengths"), "--output", str(tmp_path)]
        )
        == 0
    )
    printed = capsys.readouterr().out
    head, *rows = printed_rows(printed)[:6]
    assert head[:3] == ["workdir", "optim.weight_decay", "fork.length"]
    assert [row[:3] for row in rows] == [
        ["decays", "0.0001", "5"],
        ["decays", "0.0005", "5"],
        ["decays", "0.005", "5"],
        ["lengths", "0.0", "5"],
        ["lengths", "0.0", "50"],
    ]
    assert "None" not in printed and "Configs differ" not in printed
    with (tmp_path / "compare.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [[row[name] for name in head[:3]] for row in table] == [row[:3] for row in rows]
    # One panel per workdir and setting.
    texts = (tmp_path / "figures/compare.svg").read_text()
    assert "decays, weight_decay 0.005" in texts and "lengths, weight_decay 0.0" in texts


@pytest.mark.usefixtures("empty_figures_here")
def test_of_many_differing_keys_the_terminal_has_the_names(tmp_path, capsys):
    pair = [write_plain(tmp_path / name) for name in ("first", "second")]
    keys = (
        "weight_decay",
        "learning_rate",
        "momentum",
        "nesterov",
        "clip_norm",
        "name",
        "warmup_epochs",
    )
    known = [key for key in keys if f"optim.{key}" in spec.KEYS]
    others = [key for key in spec.KEYS if key.startswith("schedule.") and key != "schedule.name"]
    for value, workdir in enumerate(pair):
        config = json.loads((workdir / "config.json").read_text())
        config["optim"] = dict.fromkeys(known, value)
        config["schedule"] |= {key.split(".")[1]: value for key in others}
        workdirs.edit(workdir / "config.json", config)
    assert compare.main([*map(str, pair), "--output", str(tmp_path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert len(known) + len(others) > compare.MAX_DIFFERING
    assert "Configs differ in " in printed and "optim.weight_decay" in printed
    assert "workdir epoch tried test" in printed
    table = compare.compare(*pair)
    assert table["optim.weight_decay"].tolist() == [0, 1]


def test_a_workdir_given_twice_is_refused(tmp_path, capsys):
    workdir = write_plain(tmp_path / "run")
    again = f"{workdir}/../run"
    assert compare.main([str(workdir), again, "--output", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert "to be given once" in captured.err and not (tmp_path / "out").exists()


def test_workdirs_of_one_name_are_told_apart(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    pair = [str(write_plain(tmp_path / name / "run")) for name in ("a", "b")]
    assert compare.main([*pair, "--output", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert all(path in told for path in pair)


def test_workdirs_without_signals_have_no_peaks(tmp_path):
    for name in ("first", "second"):
        made = workdirs.records(0, [0.9] * 10)
        ended = workdirs.finished(10)
        workdirs.write_trunk(tmp_path / name, 0, made, last_epoch=10, result=ended)
        workdirs.write_fork(tmp_path / name, 0, 5, made[5:], last_epoch=10, result=ended)
    table = compare.compare(tmp_path / "first", tmp_path / "second")
    assert table["workdir"].tolist() == ["first", "second"]
    assert not any(name.endswith("_peak_epoch") for name in table)


def test_planned_runs_that_are_not_there_are_counted_by_every_reader(tmp_path, capsys):
    pair = [write_plain(tmp_path / "whole"), write_plain(tmp_path / "lost")]
    for workdir in pair:
        cells = [
            {"kind": kind, "members": [path.name for path in workdir.glob(f"{folder}/*")]}
            for kind, folder in (
                ("trunk", "trunks"),
                ("fork", "forks"),
                ("comparison", "comparisons"),
            )
        ]
        workdirs.write_of_study(workdir, "plan.json", {"search": "all", "cells": cells})
    shutil.rmtree(next((tmp_path / "lost").glob("forks/*")))
    said = "Left out: 1 planned run not begun, or lost."
    assert compare.main([*map(str, pair), "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("Left out") == 1 and f"lost: {said}" in printed
    for workdir, count in zip(pair, (0, 1), strict=True):
        assert rules.main([str(workdir)]) == 0
        assert capsys.readouterr().out.count(said) == count
        text = summary.summarize(workdir)
        assert text.count("Planned, and not begun or lost: 1 run.") == count


def test_runs_that_the_last_session_did_not_plan_are_said_to_count(tmp_path, capsys):
    workdir = write_plain(tmp_path / "run")
    cell = {"kind": "trunk", "members": [path.name for path in workdir.glob("trunks/*")]}
    workdirs.write_of_study(workdir, "plan.json", {"search": "all", "cells": [cell]})
    number = len(list(workdir.glob("forks/*")))
    assert rules.main([str(workdir)]) == 0
    said = f"Counted, and not of the last session: {number} runs."
    assert said in capsys.readouterr().out and said in summary.summarize(workdir)
