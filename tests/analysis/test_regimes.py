import csv
import dataclasses
import itertools
import re
import time

import numpy as np
import pytest
import regime_workdirs as workdirs
from workdirs import ACCURACY, edit, write_study

from earlyprune_jax.analysis import regimes, results
from earlyprune_jax.analysis.regimes import command, figures, findings, similarity
from earlyprune_jax.validate import InvalidInput

FIGURES = ("regimes", "regimes_similarity", "regimes_random_distance", "training_curve")
TABLES = (
    "regimes.csv",
    "regime_cells.csv",
    "regime_alignment.csv",
    "regime_baselines.csv",
    "comparisons.csv",
)


def write_published(workdir, seeds=5, noise=0.0015):
    """The published means with noise of ours, trunks whose random_distance peaks at 75 + 5 *
    seed."""
    sparsities, test = workdirs.published(noise, seeds)
    workdirs.write_forks(workdir, sparsities, workdirs.PUBLISHED_EPOCHS, test)
    signals = {
        s: {"random_distance": [-abs(e - 75 - 5 * s) for e in range(1, 161)]} for s in range(seeds)
    }
    workdirs.write_trunks(workdir, range(seeds), workdirs.step_trunk(), signals=signals)
    rows = np.array([0.010, 0.012, 0.015, 0.02, 0.025, 0.03, 0.08, 0.085, 0.09])
    divergence = np.outer(rows, np.linspace(1, 1.1, 16))
    workdirs.write_comparisons(workdir, sparsities, workdirs.PUBLISHED_EPOCHS, divergence)
    workdirs.write_config(workdir, step_boundaries_epochs=[80, 120])
    return workdir


def write_small(workdir, seeds=2, **axes):
    """3 sparsities x 3 epochs; .9 is best at 10, the others at 20."""
    means = np.array([[0.7, 0.8, 0.9], [0.6, 0.7, 0.8], [0.5, 0.7, 0.6]])
    test = means[..., None] + np.linspace(0, 0.02, seeds) ** np.array([1.0, 1.1, 1.2])[:, None]
    workdirs.write_forks(workdir, (0.5, 0.8, 0.9), (0, 10, 20), test[..., None], **axes)
    workdirs.write_trunks(workdir, range(seeds), workdirs.step_trunk(20, 10), **axes)
    return workdir


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def text_of(workdir):
    return "\n".join(regimes.paragraphs(regimes.analyse(workdir)))


def test_the_published_grid_comes_out_in_tables_text_and_figures(tmp_path):
    write_published(tmp_path)
    paths = regimes.write(tmp_path)
    drawn = [f"figures/{name}.{extension}" for name in FIGURES for extension in ("png", "svg")]
    assert [str(path.relative_to(tmp_path)) for path in paths] == [*TABLES, *drawn]
    rows = table(tmp_path / "regimes.csv")
    assert [row["sparsity"] for row in rows] == [
        "0.2",
        "0.6",
        "0.8",
        "0.86",
        "0.9",
        "0.92",
        "0.93",
        "0.94",
        "0.95",
    ]
    assert (
        {row["transition_sparsity"] for row in rows}
        == {"0.93"}
        == {row["similarity_transition_sparsity"] for row in rows}
    )
    heaviest = rows[-1]
    assert (heaviest["verdict"], heaviest["similarity_class"]) == ("early", "less similar")
    assert float(heaviest["p_early"]) <= float(heaviest["p_early_holm"]) <= 0.05
    assert (heaviest["chosen_on"], heaviest["repeats"], heaviest["num_repeats"]) == (
        "test_accuracy",
        "seed",
        "5",
    )
    assert float(heaviest["advantage_mean"]) == pytest.approx(0.1587 - 0.1458, abs=0.003)
    cells = table(tmp_path / "regime_cells.csv")
    assert len(cells) == 9 * 16 and sum(cell["is_best"] == "True" for cell in cells) == 9
    last = cells[-1]
    assert float(last["test_accuracy_mean"]) == pytest.approx(1 - 0.1744, abs=0.003)
    assert float(last["below_best_mean"]) == pytest.approx(0.1458 - 0.1744, abs=0.004)
    assert float(last["model_similarity"]) == pytest.approx(0.09 * 1.1)
    assert len(table(tmp_path / "regime_alignment.csv")) == 9 * 5 * 4
    assert {row["baseline"] for row in table(tmp_path / "regime_baselines.csv")} == {"prune at end"}


def test_the_text_says_what_was_found_and_on_what_it_rests(tmp_path):
    text = text_of(write_published(tmp_path))
    assert (
        "9 sparsities x 16 fork epochs, 5 seeds, chosen on test accuracy (no validation split)."
        in text
    )
    assert "Training of 160 epochs converged at epoch 85" in text
    # Light rows lose less than a tenth of a point by stopping early: no second regime is claimed.
    assert (
        " Early is significantly better at 93, 94 and 95 % removed, converged at none; "
        "transition line: 93 %; line by similarity alone: 93 %.\n" in text
    )
    assert "p: one-sided; Holm" in text
    assert "Two regimes show" not in text


def test_every_sparsity_has_a_row_with_its_best_epoch_and_its_test(tmp_path):
    (found,) = regimes.analyse(write_published(tmp_path))
    lines = text_of(tmp_path).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("  % removed"))
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines[start : start + 10]]
    assert rows[0] == [
        "% removed",
        "best epoch",
        "95 % interval",
        "lead (points)",
        "p",
        "Holm",
        "verdict",
        "divergence",
    ]
    assert [float(row[0]) for row in rows[1:]] == [20, 60, 80, 86, 90, 92, 93, 94, 95]
    for row, one in zip(rows[1:], found.rows, strict=True):
        assert (int(row[1]), row[6]) == (one["best_epoch"], one["verdict"])
        assert row[3].startswith(f"{100 * one['left_out_early_mean']:+.2f} +- ")
        assert float(row[4]) == pytest.approx(one["p_early"], rel=0.05)
        assert float(row[5]) == pytest.approx(one["p_early_holm"], rel=0.05)
        assert float(row[7]) == float(f"{one['model_similarity']:.3g}")


def test_the_same_files_give_the_same_bytes(tmp_path):
    write_small(tmp_path, seeds=3)
    first = {path: path.read_bytes() for path in regimes.write(tmp_path)}
    assert {path: path.read_bytes() for path in regimes.write(tmp_path)} == first


def test_two_seeds_are_said_to_be_too_few(tmp_path):
    text = text_of(write_small(tmp_path))
    # The second seed is better by .02, .02^1.1 and .02^1.2 at the epochs: by .0200, .0135, .0091.
    # Hence deviations of .0141, .0096 and .0065 in cells, whose mean square has the root .0105.
    assert (
        "Two regimes cannot be tested: 2 seeds: the test needs 3; the best early epochs are "
        "-9.78 points to +10.22 points from the best converged ones, and seeds of a cell scatter "
        "by 1.05 points (std)." in text
    )
    row = next(line for line in text.splitlines() if line.startswith("  90 "))
    assert row.split()[:3] == ["90", "10", "-"] and row.endswith("untested")


def test_replicates_of_a_single_seed_are_said_to_hold_the_noise_of_fine_tuning_only(tmp_path):
    test = np.random.default_rng(0).normal(0.8, 0.01, (2, 2, 1, 3))
    workdirs.write_forks(tmp_path, (0.5, 0.9), (0, 20), test)
    workdirs.write_trunks(tmp_path, [0], workdirs.step_trunk(20, 10))
    text = text_of(tmp_path)
    assert "1 seed x 3 replicates (the noise of fine-tuning alone)" in text
    assert "Early (this trunk) is significantly better at no sparsity, converged at none." in text


@pytest.mark.usefixtures("empty_figures_here")
def test_depths_and_data_fractions_have_figures(tmp_path):
    write_small(tmp_path)
    write_small(tmp_path, model="preresnet56")
    write_small(tmp_path, train_fraction=0.1)
    names = {path.name for path in regimes.write(tmp_path)}
    assert {"regimes_depth.png", "regimes_data.svg", "regimes_optimal_epoch.png"} <= names
    assert {"regimes_preresnet20_0.1.png", "regimes_preresnet56_1.svg"} <= names


@pytest.mark.usefixtures("empty_figures_here")
def test_two_families_of_models_have_a_figure_over_depth_each(tmp_path):
    for model in ("preresnet20", "preresnet38", "preresnet20_lottery", "preresnet38_lottery"):
        write_small(tmp_path, model=model)
    names = [path.name for path in regimes.write(tmp_path) if path.name.startswith("regimes_depth")]
    assert names == [
        "regimes_depth_preresnet.png",
        "regimes_depth_preresnet.svg",
        "regimes_depth_preresnet_lottery.png",
        "regimes_depth_preresnet_lottery.svg",
    ]


@pytest.mark.usefixtures("empty_figures_here")
def test_figures_of_fewer_grids_do_not_stay_beside_those_of_more(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "MAX_GRIDS", 2)
    others = {"regimes_of_mine.png", "rules.svg", "regimes.pdf"}
    (tmp_path / "figures").mkdir()
    for name in others:
        (tmp_path / "figures" / name).touch()
    drawn = []
    for axes in ({}, {"model": "preresnet56"}, {"model": "a1", "schedule": "cosine"}):
        write_small(tmp_path, 2, **axes)
        drawn.append({path.name for path in regimes.write(tmp_path) if path.suffix != ".csv"})
        assert {path.name for path in tmp_path.glob("figures/*")} == drawn[-1] | others
    # The names grow with the axes on which grids differ; of three grids the first two have maps.
    assert "regimes.png" in drawn[0] and "training_curve_preresnet56.svg" in drawn[1]
    assert {"regimes_a1_cosine.png", "regimes_preresnet20_step.png", "regimes_depth.png"} <= drawn[
        2
    ]
    assert not any(name.startswith("regimes_preresnet56") for name in drawn[2])


@pytest.mark.usefixtures("empty_figures_here")
def test_baselines_have_a_table(tmp_path):
    write_small(tmp_path, seeds=3)
    write_small(tmp_path, seeds=3, retraining="matched_budget", schedule="cosine")
    workdirs.write_forks(tmp_path, (0.9,), (10,), np.full((1, 1, 3, 1), 0.2), criterion="random")
    text = text_of(tmp_path)
    assert (
        "Two regimes show: early is significantly better at 90 % removed, converged at 50 and 80 %;"
        in text
    )
    regimes.write(tmp_path)
    rows = [row for row in table(tmp_path / "regime_baselines.csv") if row["sparsity"] == "0.9"]
    end, init, mask = (row for row in rows if row["schedule"] == "step")
    names = ("baseline", "baseline_epoch", "baseline_num_epochs", "best_num_epochs")
    assert [end[name] for name in names] == ["prune at end", "20", "60", "50"]
    assert [init[name] for name in names] == ["prune at init", "0", "40", "50"]
    assert [mask[name] for name in names] == ["random mask", "10", "50", "50"]
    assert float(end["left_out_mean"]) == pytest.approx(0.1022, abs=1e-4)
    assert float(init["left_out_mean"]) == pytest.approx(0.1966, abs=1e-4)
    assert all(row["left_out_n"] == "3" and float(row["p"]) <= 0.05 for row in (end, init, mask))


def test_many_grids_get_no_tables(tmp_path):
    for scope in ("a", "b", "c", "d"):
        write_small_grid(tmp_path, scope)
    workdirs.write_trunks(tmp_path, range(2), workdirs.step_trunk(20, 10))
    text = text_of(tmp_path)
    assert text.count("Regimes: preresnet20, all training data, step schedule, magnitude, ") == 4
    assert (
        ", c, retrained by constant; 2 sparsities x 3 fork epochs, 2 seeds, chosen on test "
        "accuracy (no validation split).\n  Training of 20 epochs converged at epoch 12. Two "
        "regimes cannot be tested: 2 seeds: the test needs 3; the best early epochs are " in text
    )
    assert "best epoch" not in text


def write_small_grid(workdir, scope):
    workdirs.write_forks(workdir, (0.5, 0.9), (0, 10, 20), np.full((2, 3, 2, 1), 0.5), scope=scope)


def test_diverged_runs_are_hatched_and_counted(tmp_path):
    write_small(tmp_path)
    bad = np.full((1, 1, 2, 1), 0.1)
    workdirs.write_forks(tmp_path, (0.95,), (10,), bad, status="diverged")
    regimes.write(tmp_path)
    (cell,) = [cell for cell in table(tmp_path / "regime_cells.csv") if cell["sparsity"] == "0.95"]
    assert (cell["num_runs"], cell["num_failed"], cell["test_accuracy_mean"]) == ("0", "2", "")
    svg = (tmp_path / "figures" / "regimes.svg").read_text()
    assert "diverged or failed" in svg and "not measured" in svg


@pytest.mark.usefixtures("empty_figures_here")
def test_a_grid_in_the_making_is_no_error(tmp_path):
    test = np.full((2, 3, 2, 1), 0.5)
    test[1, 2] = test[0, 1:, 1] = np.nan
    workdirs.write_forks(tmp_path, (0.5, 0.9), (0, 10, 20), test)
    assert "No trunk has been trained to its end" in text_of(tmp_path)
    assert regimes.write(tmp_path)


@pytest.mark.parametrize(("num_sparsities", "num_epochs"), [(1, 3), (3, 1)])
def test_a_single_row_or_column_is_no_grid_and_leaves_nothing(tmp_path, num_sparsities, num_epochs):
    test = np.full((num_sparsities, num_epochs, 3, 1), 0.5)
    workdirs.write_forks(tmp_path, (0.5, 0.8, 0.9)[:num_sparsities], (0, 10, 20)[:num_epochs], test)
    before = sorted(tmp_path.rglob("*"))
    assert regimes.write(tmp_path) == [] and regimes.paragraphs(regimes.analyse(tmp_path)) == []
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_comparison_is_named_and_nothing_is_written(tmp_path):
    write_small(tmp_path)
    workdirs.write_comparisons(tmp_path, (0.5,), (0,), np.array([[0.1]]))
    path = next(tmp_path.glob("comparisons/*/result.json"))
    path.write_text("{")
    with pytest.raises(InvalidInput, match="result.json"):
        regimes.write(tmp_path)
    assert not (tmp_path / "regimes.csv").exists()


def test_a_fork_that_does_not_say_where_it_belongs_is_named(tmp_path):
    write_small(tmp_path)
    path = next(tmp_path.glob("forks/*_0.9_0/run.json"))
    edit(path, {"sparsity": None})
    with pytest.raises(
        InvalidInput, match=rf"{path.parent.name}/run.json=\['sparsity'\] not to be null"
    ):
        regimes.analyse(tmp_path)


@pytest.mark.usefixtures("empty_figures_here")
def test_the_command_prints_the_text_and_the_files(tmp_path, capsys):
    write_small(tmp_path)
    assert command.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Regimes: preresnet20") and "regimes.csv" in out
    assert max(len(line) for line in out.split("Files:")[0].splitlines()) <= 100
    write_study(tmp_path / "none", [ACCURACY], "accuracy")
    assert command.main([str(tmp_path / "none")]) == 2
    assert "at least 2 sparsities x 2 fork epochs. It has none." in capsys.readouterr().err


@pytest.mark.usefixtures("empty_figures_here")
def test_the_margin_is_given_in_the_unit_that_is_shown(tmp_path, capsys):
    rng = np.random.default_rng(0)
    workdirs.write_forks(tmp_path, (0.5, 0.9), (1, 20), rng.normal(0.8, 1e-4, (2, 2, 4, 1)))
    workdirs.write_trunks(tmp_path, range(4), workdirs.step_trunk(20, 10))
    assert command.main([str(tmp_path), "--margin", "0.25"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "both are equally good, within 0.25 points, at 50 and 90 %." in out
    assert "differ by less than 0.25 points (--margin)" in out
    assert [row["margin"] for row in table(tmp_path / "regimes.csv")] == ["0.0025"] * 2
    for wrong in ("0", "-1", "nan", "inf"):
        assert command.main([str(tmp_path), f"--margin={wrong}"]) == 2
        assert "Expected --margin=" in capsys.readouterr().err


def test_a_grid_that_is_too_small_is_said_with_the_remedy(tmp_path, capsys):
    workdirs.write_forks(tmp_path, (0.9,), (2, 4, 8), np.full((1, 3, 1, 2), 0.5))
    assert command.main([str(tmp_path)]) == 2
    remedy = "It has 1 sparsity x 3 fork epochs: run it again with "
    assert f"{remedy}--config.pruning.sparsities=0.9,0.97." in capsys.readouterr().err


def test_analysis_of_thousands_of_runs_takes_seconds_at_most(tmp_path):
    """9,600 forks: 10 seeds x 3 replicates x 16 epochs x 20 sparsities, of 60 accuracies."""
    workdirs.write_forks(
        tmp_path, (0.5,), range(60), np.linspace(0.8, 0.9, 60).reshape(1, 60, 1, 1)
    )
    read = results.read_runs(tmp_path)
    axes = np.array(list(itertools.product(range(10), range(3), range(16), range(20))))
    seed, replicate, epoch, sparsity = axes.T
    frame = read.frame.iloc[(7 * seed + 3 * replicate + epoch + sparsity) % 60]
    names = {
        "trunk_seed": seed,
        "replicate": replicate,
        "fork_epoch": 10 * epoch,
        "sparsity": sparsity / 20,
    }
    runs = dataclasses.replace(read, frame=frame.assign(**names).reset_index(drop=True))
    start = time.process_time()
    (found,) = findings.analyse(runs)
    assert found.grid.num_runs.sum() == 9600
    assert time.process_time() - start < 20


@pytest.mark.usefixtures("empty_figures_here")
def test_reading_once_is_enough(tmp_path):
    write_small(tmp_path)
    runs = results.read_runs(tmp_path)
    for path in tmp_path.glob("forks/*/run.json"):
        path.unlink()
    assert regimes.write(tmp_path, runs=runs)
    assert similarity.read(tmp_path) == []


def test_verdicts_of_a_single_trunk_are_called_so_with_and_without_tables(tmp_path):
    test = np.array([[0.7, 0.9, 0.8], [0.7, 0.9, 0.8]])[:, :, None, None]
    test = test + np.random.default_rng(0).normal(0, 0.001, (2, 3, 1, 5))
    scopes = ("a", "b", "c", "d")
    workdirs.write_trunks(tmp_path, [0], workdirs.step_trunk(20, 10))
    workdirs.write_forks(tmp_path, (0.5, 0.9), (0, 10, 20), test, scope=scopes[0])
    text = text_of(tmp_path)
    assert "Early (this trunk) is significantly better at 50 and 90 % removed" in text
    for scope in scopes[1:]:
        workdirs.write_forks(tmp_path, (0.5, 0.9), (0, 10, 20), test, scope=scope)
    text = text_of(tmp_path)
    assert text.count("Early (this trunk) is significantly better at 50 and 90 % removed") == 4
    assert text.count("5 replicates (the noise of fine-tuning alone)") == 4


def test_rows_above_the_line_that_are_not_early_are_named(tmp_path):
    means = np.array([[0.7, 0.9, 0.8], [0.7, 0.8, 0.9], [0.7, 0.8, 0.8], [0.7, 0.9, 0.8]])
    test = means[..., None, None] + np.random.default_rng(0).normal(0, 0.001, (4, 3, 5, 1))
    workdirs.write_forks(tmp_path, (0.5, 0.6, 0.7, 0.8), (0, 10, 20), test)
    workdirs.write_trunks(tmp_path, range(5), workdirs.step_trunk(20, 10))
    expected = (
        "early is significantly better at 50 and 80 % removed, converged at 60 %; transition line: "
        "50 %, not a clean one: 60 and 70 % above it are not early"
    )
    assert expected in text_of(tmp_path).lower()


def test_comparisons_without_a_grid_are_tabled(tmp_path):
    workdirs.write_forks(tmp_path, (0.5,), (0,), np.full((1, 1, 1, 3), 0.5))
    workdirs.write_comparisons(tmp_path, (0.5,), (0,), np.array([[0.1]]))
    assert [path.name for path in regimes.write(tmp_path)] == ["comparisons.csv"]
    assert len(table(tmp_path / "comparisons.csv")) == 1
