"""Swept keys: those that decide trunks tell settings apart, those that decide forks tell curves
apart."""

import csv
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import regime_workdirs
import workdirs

from earlyprune_jax.analysis import curves, figures, results, summary
from earlyprune_jax.analysis.places import Place, safe
from earlyprune_jax.analysis.regimes import similarity

T = 10
LOSS = {"name": "loss", "unit": "nats", "larger_is_better": False}
ACCURACY = {"name": "accuracy", "unit": "%", "larger_is_better": True}
DECAYS = (0.0001, 0.0005, 0.005)
SIGNALS = [{"fisher_trace": float(value)} for value in (1, 2, 9, 8, 4, 3, 2, 1, 1, 1)]
EPOCHS = {2: 0.84, 4: 0.90, 8: 0.70}


def config_of(**keys):
    """A run's config: all that a test does not name is the same in all runs."""
    made = {
        "optim": {"learning_rate": 0.1, "weight_decay": 0.0},
        "fork": {"length": 5, "when": "epochs"},
    }
    made |= {"train": {"num_epochs": T, "seeds": [0, 1, 2], "eval_batch_size": 8}}
    for key, value in keys.items():
        section, leaf = key.split("__")
        made.setdefault(section, {})[leaf] = value
    return made


def start(workdir, **sweep):
    workdirs.write_study(workdir, [LOSS, ACCURACY], "accuracy")
    held = config_of() | {"data": {"name": "digits"}, "signals": {"fisher_layers": "conv_kernels"}}
    held |= {"sweep": {key.replace("__", "."): list(values) for key, values in sweep.items()}}
    workdirs.write_of_study(workdir, "config.json", held)


def write_trunks(workdir, config):
    setting = {**workdirs.SETTING, "config": config}
    for seed in range(3):
        made = workdirs.records(0, [0.95 + 0.001 * seed] * T, signals=SIGNALS)
        ended = workdirs.finished(T)
        workdirs.write_trunk(workdir, seed, made, last_epoch=T, result=ended, setting=setting)


def write_forks(workdir, config, shift=0.0, sparsities=(0.97,)):
    setting = {**workdirs.SETTING, "config": config}
    for seed in range(3):
        for epoch, accuracy in EPOCHS.items():
            for sparsity in sparsities:
                made = workdirs.records(
                    epoch, [accuracy + shift + 0.002 * seed * (epoch % 3) - sparsity / 10]
                )
                axes = {"sparsity": sparsity, "last_epoch": T, "result": workdirs.finished(T)}
                workdirs.write_fork(workdir, seed, epoch, made, setting=setting, **axes)


def write_decays(workdir, sparsities=(0.97,)):
    start(workdir, optim__weight_decay=DECAYS)
    for place, decay in enumerate(DECAYS):
        config = config_of(optim__weight_decay=decay)
        write_trunks(workdir, config)
        write_forks(workdir, config, 0.01 * place, sparsities)


def write_lengths(workdir):
    """Three trunks, of which forks of two lengths leave."""
    start(workdir, fork__length=(5, 50))
    write_trunks(workdir, config_of(fork__length=5))
    write_forks(workdir, config_of(fork__length=5))
    write_forks(workdir, config_of(fork__length=50), 0.02)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def drawn_texts(svg):
    root = ElementTree.parse(svg).getroot()
    return ["".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("}text")]


@pytest.mark.usefixtures("empty_figures_here")
def test_three_weight_decays_have_a_column_in_every_table_and_are_never_averaged(tmp_path):
    write_decays(tmp_path, sparsities=(0.9, 0.97))
    results.publish(tmp_path)
    names = ("results", "signals", "rules", "rule_choices", "signal_correlations")
    for name in (*names, "regimes", "regime_cells", "regime_alignment"):
        rows = table(tmp_path / f"{name}.csv")
        assert {row["optim.weight_decay"] for row in rows} == {"0.0001", "0.0005", "0.005"}
        columns = list(rows[0])
        assert columns[columns.index("schedule") + 1] == "optim.weight_decay"
    cells = [row for row in table(tmp_path / "regime_cells.csv") if row["sparsity"] == "0.9"]
    assert {row["num_runs"] for row in cells} == {"3"}
    best = [row for row in table(tmp_path / "rules.csv") if row["trigger"] == "best fixed epoch"]
    assert len(best) == 6 and {row["num_seeds"] for row in best} == {"3"}


def test_one_figure_compares_three_weight_decays(tmp_path):
    write_decays(tmp_path)
    paths = figures.draw_main(tmp_path)
    assert [path.name for path in paths] == [
        "accuracy_vs_fork_epoch.png",
        "accuracy_vs_fork_epoch.svg",
    ]
    texts = drawn_texts(paths[1])
    assert {f"weight_decay {decay}" for decay in DECAYS} <= set(texts)
    assert {"best fork epoch: 4 (80.5 %)", "best fork epoch: 4 (82.5 %)"} <= set(texts)
    assert "the other panels' forks" in texts


def test_the_summary_has_rows_per_weight_decay_and_recommends_one(tmp_path):
    write_decays(tmp_path)
    text = " ".join(summary.summarize(tmp_path).split())
    assert "(weight_decay 0.005, magnitude, global) after epoch 4 of 10" in text
    for decay, test in zip(DECAYS, ("80.50", "81.50", "82.50"), strict=True):
        assert f" {decay} 4 3 {test} +- 0.20 3 95.1 +- 0.1 " in text
        assert f" {decay} tr(F), conv kernels 3 (3) rho 1.00 +- 0.00 " in text


def test_lengths_of_forks_are_curves_of_one_setting_beside_the_same_dense_runs(tmp_path):
    write_lengths(tmp_path)
    runs = results.read_runs(tmp_path)
    assert (runs.swept.trunk, runs.swept.fork) == ((), ("fork.length",))
    assert len(results.by_setting(runs)) == 1
    (setting,) = curves.settings_of(runs)
    short, long = setting.curves
    assert [curve.place["fork.length"] for curve in (short, long)] == [5, 50]
    assert len(setting.dense) == 3
    differences = [curve.against_dense(4) for curve in (short, long)]
    assert [one and one.n for one in differences] == [3, 3]
    rows = table(results.write_tables(tmp_path)[0])
    assert [row["fork.length"] for row in rows] == [""] * 3 + ["5", "50"] * 9
    columns = list(rows[0])
    assert columns[columns.index("retraining") + 1] == "fork.length"
    texts = drawn_texts(figures.draw_main(tmp_path)[1])
    assert sum(text.startswith(("length 5: best", "length 50: best")) for text in texts) == 2
    assert "length 50) after epoch 4" in " ".join(summary.summarize(tmp_path).split())


def test_keys_of_the_grid_and_of_execution_are_not_swept_when_a_workdir_grows(tmp_path):
    start(tmp_path)
    write_trunks(tmp_path, config_of())
    write_forks(tmp_path, config_of(train__seeds=[0, 1, 2, 3], train__eval_batch_size=16))
    runs = results.read_runs(tmp_path)
    assert (runs.swept.trunk, runs.swept.fork) == ((), ())
    assert "train.seeds" not in table(results.write_tables(tmp_path)[0])[0]


@pytest.mark.usefixtures("empty_figures_here")
def test_values_of_all_kinds_are_told_apart_and_their_files_have_safe_names(tmp_path, monkeypatch):
    values = ([4, 8], [4], "nets:Net(depth=3)")
    start(tmp_path, schedule__step_boundaries_epochs=values)
    for value in values:
        config = config_of(schedule__step_boundaries_epochs=value)
        write_trunks(tmp_path, config)
        write_forks(tmp_path, config)
    monkeypatch.setattr(figures, "MAX_PANELS", 1)
    names = {path.name for path in figures.draw_main(tmp_path) if path.suffix == ".png"}
    assert len(names) == 3
    assert all(set(name) <= set(map(chr, range(33, 127))) - set("/:()'\"\\ ") for name in names)
    assert len(table(results.write_tables(tmp_path)[0])) == 3 * (3 + 9)


def test_texts_that_become_the_same_name_end_in_other_digits():
    assert len({safe("a:b"), safe("a(b"), safe("a-b")}) == 3
    assert Place((("optim.weight_decay", 0.0005),)).slug() == "weight_decay-0.0005"


@pytest.mark.usefixtures("empty_figures_here")
@pytest.mark.parametrize("key", ["optim.weight_decay", "fork.length"])
def test_comparisons_belong_to_the_cells_of_their_own_value(tmp_path, key):
    section, leaf = key.split(".")
    start(tmp_path, **{f"{section}__{leaf}": (1, 2)})
    test = np.random.default_rng(0).normal(0.8, 0.01, (3, 3, 1, 3))
    for value in (1, 2):
        config = config_of(**{f"{section}__{leaf}": value})
        place = tmp_path / str(value)
        regime_workdirs.write_forks(place, (0.5, 0.8, 0.9), (0, 10, 20), test, config=config)
        regime_workdirs.write_trunks(place, [0], regime_workdirs.step_trunk(20, 10), config=config)
        divergence = np.full((3, 3), 0.1 * value)
        regime_workdirs.write_comparisons(
            place, (0.5, 0.8, 0.9), (0, 10, 20), divergence, config=config
        )
        for path in place.glob("*/*"):
            workdirs.move_run(path, tmp_path / path.parent.name / f"{value}_{path.name}")
    results.publish(tmp_path)
    rows = table(tmp_path / "comparisons.csv")
    assert {(row[key], row["model_similarity"]) for row in rows} == {("1", "0.1"), ("2", "0.2")}
    cells = table(tmp_path / "regime_cells.csv")
    assert {(row[key], row["model_similarity"]) for row in cells} == {("1", "0.1"), ("2", "0.2")}
    assert similarity.read(tmp_path, results.read_runs(tmp_path).swept)[0][key] == 1
