"""A metric of which less is better: all must come out as for its negative, of which more is
better."""

import csv
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import workdirs

from earlyprune_jax.analysis import figures, results, rules, summary
from earlyprune_jax.validate import InvalidInput

T = 20
EPOCHS = (2, 5, 12, 20)
SPARSITIES = (0.5, 0.8, 0.9)
MEANS = np.array([[1.0, 2.0, 3.0, 2.9], [1.0, 2.0, 2.4, 2.3], [1.0, 2.6, 1.9, 1.8]])
DENSE = (3.1, 3.2, 3.15)


def entries(first, values, sign, *, signals=None):
    """Epochs after `first`; the host has measured the metric at the last one and every third
    only."""
    made = []
    for index, value in enumerate(values):
        epoch = first + index + 1
        known = sign * value if index == len(values) - 1 or index % 3 == 0 else None
        loss = 0.25 + 2.0 * 0.6**epoch
        entry = {
            "epoch": epoch,
            "step": epoch,
            "learning_rate": 0.1,
            "train_loss": loss,
            "test_loss": loss,
        }
        entry |= {
            "validation_loss": loss,
            "test_score": known,
            "validation_score": known,
            "seconds": 1.0,
        }
        made.append(entry if signals is None else {**entry, "signals": signals[index]})
    return made


def write(workdir, sign):
    """3 seeds x 3 sparsities x 4 epochs; `sign` -1: less is better."""
    loss = {"name": "loss", "unit": "nats", "larger_is_better": False}
    score = {"name": "score", "unit": "", "larger_is_better": sign > 0}
    workdirs.write_study(workdir, [loss, score], "score")
    workdirs.write_config(workdir, num_epochs=T)
    rng = np.random.default_rng(0)
    signals = [{"fisher_trace": float(-abs(epoch - 6))} for epoch in range(1, T + 1)]
    for seed, dense in enumerate(DENSE):
        made = entries(0, np.linspace(1.0, dense, T), sign, signals=signals)
        workdirs.write_trunk(workdir, seed, made, last_epoch=T, result=workdirs.finished(T))
        for row, sparsity in enumerate(SPARSITIES):
            for column, epoch in enumerate(EPOCHS):
                # The best of the eight epochs is the fourth, not the last.
                value = MEANS[row, column] + rng.normal(0, 0.02)
                values = [*np.linspace(0.5, value, 7), value]
                values[3] = value + 0.5
                last = epoch + 8
                axes = {"sparsity": sparsity, "last_epoch": last, "result": workdirs.finished(last)}
                workdirs.write_fork(workdir, seed, epoch, entries(epoch, values, sign), **axes)
    return workdir


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Two workdirs with everything published: more is better, less is better."""
    more, less = (write(tmp_path_factory.mktemp("metric"), sign) for sign in (1, -1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", lambda *args, **options: None)
        results.publish(more)
    results.publish(less)
    return more, less


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_table_is_the_same_but_for_the_sign_of_the_metric(both):
    more, less = both
    names = ("results.csv", "rules.csv", "rule_choices.csv", "signal_correlations.csv")
    for name in (
        *names,
        "regimes.csv",
        "regime_cells.csv",
        "regime_alignment.csv",
        "regime_baselines.csv",
    ):
        first, second = table(more / name), table(less / name)
        assert first and len(first) == len(second) and list(first[0]) == list(second[0])
        for left, right in zip(first, second, strict=True):
            for column, value in left.items():
                # Standard deviations and counts have no sign.
                turned = column.endswith(("_score", "_score_mean"))
                if turned and value:
                    assert float(right[column]) == pytest.approx(-float(value), abs=1e-12), (
                        name,
                        column,
                    )
                elif column.startswith(("p_", "p")) and value and name.startswith("regime"):
                    assert float(right[column]) == pytest.approx(float(value)), (name, column)
                else:
                    assert right[column] == value or float(right[column]) == pytest.approx(
                        float(value), abs=1e-12
                    ), (name, column)


def test_the_best_of_the_epochs_passes_over_those_at_which_the_host_measured_nothing(both):
    less = both[1]
    row = next(row for row in table(less / "results.csv") if row["fork_epoch"] == "2")
    # Epochs 3, 6, 9 ... and the last were measured; the fourth, 6, got the best number.
    assert (row["best_test_epoch"], row["validation_epoch"]) == ("6", "6")
    assert float(row["best_test_score"]) < float(row["test_score"]) < 0
    assert (row["train_score"], float(row["train_loss"]) > 0) == ("", True)


def test_regimes_find_the_early_best_in_both_directions(both):
    for workdir in both:
        rows = {row["sparsity"]: row for row in table(workdir / "regimes.csv")}
        # The train loss, the only train metric, has come to rest before epoch 12.
        assert (rows["0.9"]["best_epoch"], rows["0.9"]["verdict"]) == ("5", "early")
        assert (rows["0.5"]["best_epoch"], rows["0.5"]["verdict"]) == ("12", "converged")
        assert float(rows["0.9"]["advantage_mean"]) == pytest.approx(0.7, abs=0.05)
        assert rows["0.9"]["chosen_on"] == "validation_score"


def test_no_regret_is_negative_and_the_oracle_is_the_smallest_number(both):
    choices = table(both[1] / "rule_choices.csv")
    assert all(float(row["regret"]) >= 0 for row in choices if row["regret"])
    oracle = {
        (row["sparsity"], row["trunk_seed"]): row for row in choices if row["trigger"] == "oracle"
    }
    assert oracle["0.9", "0"]["epoch"] == "5"
    measured = [row for row in choices if row["status"] == "measured"]
    assert all(
        float(oracle[row["sparsity"], row["trunk_seed"]]["test_score"]) <= float(row["test_score"])
        for row in measured
    )


def test_the_summary_speaks_of_the_metric_in_its_own_direction(both):
    more, less = (" ".join(summary.summarize(workdir).split()) for workdir in both)
    assert "rho: rank correlation with the forks' quality" in less and "accuracy" not in less
    assert re.search(r"50 % 12 4 2\.\d\d \+- 0\.\d\d 3 3\.15 \+- 0\.05 -0\.\d\d \+- ", more)
    assert re.search(r"50 % 12 4 -2\.\d\d \+- 0\.\d\d 3 -3\.15 \+- 0\.05 \+0\.\d\d \+- ", less)
    for text in (more, less):
        assert re.search(
            r"Cost: 0\.\d+ \+- 0\.\d+ worse than dense; dense training ends 8 epochs earlier", text
        )
        assert "Recommendation: prune 50 % (magnitude, global) after epoch 12 of 20" in text
        assert "Two regimes show: early is significantly better at 90 % removed" in text


def test_figures_are_named_after_the_metric_and_mark_the_lowest(both):
    less = both[1]
    names = {path.name for path in (less / "figures").iterdir()}
    assert {"score_vs_fork_epoch.png", "regimes.svg", "rules.png"} <= names
    _, svg = figures.draw_main(less)
    texts = ["".join(node.itertext()).strip() for node in ElementTree.parse(svg).getroot().iter()]
    assert "When to prune: score against the epoch of pruning" in texts
    assert "best fork epoch (lowest mean validation score)" in texts
    assert any(
        text.startswith("50 % removed: best -2.9") and "at epoch 12" in text for text in texts
    )
    assert (
        "difference to the row's best (below 0 = worse)"
        in (less / "figures/regimes.svg").read_text()
    )


def test_rules_look_at_what_was_measured_of_the_metric(both):
    names = {one.label for one in rules.replay(both[1]) if one.kind == "rule"}
    assert names == {"peak(fisher_trace)", "plateau(validation_score)"}


def test_a_study_without_its_primary_metric_is_named(tmp_path):
    workdirs.write_study(
        tmp_path, [{"name": "loss", "unit": "", "larger_is_better": False}], "bleu"
    )
    with pytest.raises(InvalidInput, match="study.json"):
        results.read_runs(tmp_path)


@pytest.mark.usefixtures("empty_figures_here")
def test_a_rule_of_the_users_that_cannot_be_loaded_is_said_and_the_others_are_replayed(
    tmp_path, capsys
):
    write(tmp_path, 1)
    fork = workdirs.read(tmp_path / "config.json")["fork"]
    fork["trigger"] = "nobody_has_this_module:Rule(column='x')"
    workdirs.edit(tmp_path / "config.json", {"fork": fork})
    text = " ".join(summary.summarize(tmp_path).split())
    assert text.count("The rule fork.trigger=nobody_has_this_module:Rule") == 1
    assert rules.main([str(tmp_path)]) == 0
    assert "is not replayed" in capsys.readouterr().out
