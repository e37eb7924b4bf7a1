"""Two settings in one workdir: each must come out as it does alone, although their trunks share
seeds."""

import csv
import xml.etree.ElementTree as ElementTree

import pytest
import workdirs

from earlyprune_jax.analysis import (
    curves,
    figures,
    results,
    rules,
    summary,
)

T = 10
SMALL = {"model": "preresnet20", "train_fraction": 0.1, "schedule": "step"}
LARGE = {"model": "preresnet56", "train_fraction": 1.0, "schedule": "step"}
SIGNALS = {
    "preresnet20": [{"fisher_trace": float(value)} for value in (1, 2, 9, 8, 4, 3, 2, 1, 1, 1)],
    "preresnet56": [{"fisher_trace": float(value)} for value in (1, 2, 3, 4, 5, 9, 4, 3, 2, 1)],
}
DENSE = {"preresnet20": (0.60, 0.61, 0.63), "preresnet56": (0.95, 0.96, 0.97)}
CELLS = {
    "preresnet20": {2: (0.59, 0.60, 0.63), 4: (0.50, 0.52, 0.54), 8: (0.40, 0.41, 0.42)},
    "preresnet56": {2: (0.80, 0.82, 0.84), 4: (0.90, 0.92, 0.94), 8: (0.94, 0.96, 0.965)},
}


def write_setting(workdir, setting, *, sparsity=0.9):
    workdirs.write_config(workdir, num_epochs=T)
    model = setting["model"]
    for seed in range(3):
        made = workdirs.records(0, [DENSE[model][seed]] * T, signals=SIGNALS[model])
        ended = workdirs.finished(T)
        workdirs.write_trunk(workdir, seed, made, last_epoch=T, result=ended, setting=setting)
        for epoch, accuracies in CELLS[model].items():
            made = workdirs.records(epoch, [accuracies[seed]])
            axes = {"sparsity": sparsity, "last_epoch": T, "setting": setting}
            workdirs.write_fork(workdir, seed, epoch, made, result=ended, **axes)


def both(workdir):
    workdir.mkdir(exist_ok=True)
    write_setting(workdir, SMALL)
    write_setting(workdir, LARGE)
    return workdir


def alone(workdir, setting):
    workdir.mkdir()
    write_setting(workdir, setting)
    return workdir


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def drawn_texts(svg):
    root = ElementTree.parse(svg).getroot()
    return ["".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("}text")]


def test_runs_are_grouped_by_setting_in_sorted_order_and_keep_theirs(tmp_path):
    groups = results.by_setting(results.read_runs(both(tmp_path)))
    assert [setting.slug() for setting in groups] == [
        "preresnet20_0.1_step",
        "preresnet56_1_step",
    ]
    assert [len(own) for own in groups.values()] == [12, 12]
    assert set(groups[results.Place(tuple(SMALL.items()))].frame["model"]) == {"preresnet20"}
    kinds = groups[results.Place(tuple(LARGE.items()))].frame["kind"]
    assert list(kinds) == ["trunk"] * 3 + ["fork"] * 9


def test_a_curve_holds_one_setting_and_meets_its_own_dense_runs(tmp_path):
    small, large = curves.all_curves(curves.settings_of(results.read_runs(both(tmp_path))))
    assert (small.setting.place, large.setting.place) == (
        results.Place(tuple(SMALL.items())),
        results.Place(tuple(LARGE.items())),
    )
    assert small.test(4).mean == 0.52
    assert small.setting.dense["test_accuracy"].tolist() == list(DENSE["preresnet20"])


@pytest.mark.usefixtures("empty_figures_here")
def test_the_rows_of_every_table_are_those_that_each_setting_has_alone(tmp_path):
    together = both(tmp_path / "both")
    rules.write(together)
    for setting in (SMALL, LARGE):
        single = alone(tmp_path / setting["model"], setting)
        rules.write(single)
        for name in ("rules.csv", "rule_choices.csv", "signal_correlations.csv"):
            own = [row for row in table(together / name) if row["model"] == setting["model"]]
            assert own == table(single / name)
            assert own and list(own[0])[:3] == list(results.SETTING)
            assert {row["train_fraction"] for row in own} == {str(setting["train_fraction"])}


def test_outcomes_come_setting_by_setting(tmp_path):
    found = rules.replay(both(tmp_path), ["epoch(4)"])
    assert len(found) == 2 * 8
    assert [one.curve.setting.place["model"] for one in found] == ["preresnet20"] * 8 + [
        "preresnet56"
    ] * 8


@pytest.mark.usefixtures("empty_figures_here")
def test_a_rule_may_look_at_what_was_measured_in_one_setting_only(tmp_path, capsys):
    both(tmp_path)
    third = {**SMALL, "schedule": "cosine"}
    made = workdirs.records(0, [0.5] * T, signals=[{"weight_change": 1.0}] * T)
    workdirs.write_trunk(
        tmp_path, 0, made, last_epoch=T, result=workdirs.finished(T), setting=third
    )
    axes = {"sparsity": 0.9, "last_epoch": T, "setting": third}
    workdirs.write_fork(
        tmp_path, 0, 2, workdirs.records(2, [0.5]), result=workdirs.finished(T), **axes
    )
    assert rules.main([str(tmp_path), "--rule", "peak(weight_change)"]) == 0
    assert "cosine" in capsys.readouterr().out
    rows = [row for row in table(tmp_path / "rules.csv") if "weight_change" in row["trigger"]]
    assert {row["schedule"] for row in rows} == {"step", "cosine"}
    assert {row["num_never_fired"] for row in rows if row["schedule"] == "step"} == {"3"}


@pytest.mark.usefixtures("empty_figures_here")
def test_settings_share_one_main_figure_and_have_a_figure_of_rules_each(tmp_path):
    write_setting(tmp_path, SMALL)
    figures.draw_main(tmp_path)
    rules.write(tmp_path)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {
        "accuracy_vs_fork_epoch",
        "rules",
    }
    write_setting(tmp_path, LARGE)
    names = [path.name for path in figures.draw_main(tmp_path)]
    assert names == ["accuracy_vs_fork_epoch.png", "accuracy_vs_fork_epoch.svg"]
    rules.write(tmp_path)
    # The figure of the rules of one setting would be taken for one of all.
    slugs = ("preresnet20_0.1_step", "preresnet56_1_step")
    found = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert found == {"accuracy_vs_fork_epoch", *(f"rules_{slug}" for slug in slugs)}
    text = " ".join(summary.summarize(tmp_path).split())
    drawn = f"accuracy_vs_fork_epoch, rules_{slugs[0]} and rules_{slugs[1]}"
    assert f"figures/ ({drawn})." in text


def test_more_settings_than_panels_have_a_main_figure_each(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "MAX_PANELS", 1)
    paths = figures.draw_main(both(tmp_path))
    assert [path.name for path in paths] == [
        "accuracy_vs_fork_epoch_preresnet20_0.1_step.png",
        "accuracy_vs_fork_epoch_preresnet20_0.1_step.svg",
        "accuracy_vs_fork_epoch_preresnet56_1_step.png",
        "accuracy_vs_fork_epoch_preresnet56_1_step.svg",
    ]
    named = "digits, preresnet20, 10 % of the training data, step schedule, T = 10 epochs; forks:"
    assert any(text.startswith(named) for text in drawn_texts(paths[1]))
    text = " ".join(summary.summarize(tmp_path).split())
    assert "figures/ (accuracy_vs_fork_epoch_preresnet20_0.1_step and " in text


def test_the_panels_of_a_figure_name_their_settings_and_their_best_epochs(tmp_path):
    _, svg = figures.draw_main(both(tmp_path))
    texts = drawn_texts(svg)
    assert {"preresnet20, 10 % of the training data", "preresnet56, all training data"} <= set(
        texts
    )
    assert {"best fork epoch: 2 (60.7 %)", "best fork epoch: 8 (95.5 %)"} <= set(texts)
    assert (
        "digits, T = 10 epochs; forks: magnitude, global, 90 % removed, retrained by paper_a"
        in texts
    )
    assert texts.count("dense baseline, never pruned") == texts.count("pruned forks") == 1


def summed_up(workdir) -> str:
    return " ".join(summary.summarize(workdir).split())


def test_the_summary_has_rows_for_each_setting_that_hold_what_they_hold_alone(tmp_path):
    together = summed_up(both(tmp_path / "both"))
    assert "Runs: 24 finished, 0 diverged, 0 skipped." in together
    assert (
        "preresnet20 0.1 2 (earliest) 3 60.67 +- 2.08 3 61.3 +- 1.5 -0.67 +- 0.58 none" in together
    )
    assert "preresnet56 1.0 8 (latest) 3 95.50 +- 1.32 3 96.0 +- 1.0 -0.50 +- 0.50 none" in together
    assert "preresnet20 0.1 tr(F), conv kernels 3 (3)" in together
    assert "preresnet56 1.0 peak(fisher_trace) 8 regret 0.0 +- 0.0" in together
    for setting in (SMALL, LARGE):
        single = summed_up(alone(tmp_path / setting["model"], setting))
        row = single.split(" as good 90 % ")[1].split(" Signals ")[0]
        assert f"{setting['model']} {setting['train_fraction']} {row}" in together
    assert together.count("selected on test") == 1


def test_the_recommendation_names_its_setting_and_compares_it_with_its_own_dense_runs(tmp_path):
    # preresnet20 loses .3 points at its best, but on a tenth of the data; preresnet56 .5 at epoch
    # 8.
    text = summed_up(both(tmp_path))
    assert text.startswith(
        "Recommendation: prune 90 % (preresnet56, all training data, magnitude, global) after "
        "epoch 8 of 10: 95.5 +- 1.3 % test accuracy (n = 3); the only curve on the most data; "
    )
    assert "Cost: 0.5 +- 0.5 points worse than dense; " in text


def test_of_settings_on_the_same_data_all_are_judged_against_the_best_dense_runs(tmp_path):
    full = {**SMALL, "train_fraction": 1.0}
    write_setting(tmp_path, full, sparsity=0.97)
    write_setting(tmp_path, LARGE, sparsity=0.9)
    # The small network loses less than a point of its own 61.33 %, and far more than one of the
    # large one's.
    text = summed_up(tmp_path)
    assert text.startswith(
        "Recommendation: prune 90 % (preresnet56, magnitude, global) after epoch 8 of 10"
    )
    chosen = "of 2 curves the hardest pruning that loses at most one point on test against the best"
    assert f"; {chosen} dense runs; " in text


def test_runs_that_pruned_themselves_are_told_apart_by_setting(tmp_path):
    workdirs.write_config(tmp_path, num_epochs=T)
    for setting, stop in ((SMALL, 5), (LARGE, 8)):
        made = workdirs.records(0, [0.9] * stop, signals=SIGNALS[setting["model"]][:stop])
        workdirs.write_trunk(
            tmp_path, 0, made, last_epoch=T, result=workdirs.finished(stop), setting=setting
        )
        axes = {"fired_epoch": stop, "last_epoch": T, "setting": setting}
        made = workdirs.records(stop, [0.1 * stop])
        workdirs.write_online(tmp_path, 0, stop, made, result=workdirs.finished(T), **axes)
    text = " ".join(summary.summarize(tmp_path).split())
    assert "it pruned itself after epochs 5 to 8 of 10" in text
    assert "preresnet20 0.1 5 (pruned itself) - 50.00 1" in text
    assert "preresnet56 1.0 8 (pruned itself) - 80.00 1" in text
