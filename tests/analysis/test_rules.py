import csv
import math
import time

import pytest
import workdirs

from earlyprune_jax import user_code
from earlyprune_jax.analysis import rules, summary
from earlyprune_jax.triggers import parse
from earlyprune_jax.validate import InvalidInput

T = 10
ACCURACY = {2: 0.84, 4: 0.90, 8: 0.70}
SIGNALS = [{"fisher_trace": float(value)} for value in (1, 5, 9, 6.5, 4, 3, 2, 1, 1, 1)]


def write_grid(
    workdir, *, seeds=(0,), signals=SIGNALS, sparsities=(0.97,), grid=None, num_epochs=T
):
    """Seed 1 loses .1 everywhere, seed 2 .2, and so on."""
    workdirs.write_config(workdir, num_epochs=num_epochs)
    for seed in seeds:
        made = workdirs.records(0, [0.95] * num_epochs, signals=signals)
        workdirs.write_trunk(
            workdir, seed, made, last_epoch=num_epochs, result=workdirs.finished(num_epochs)
        )
        for sparsity in sparsities:
            for epoch, accuracy in (grid or ACCURACY).items():
                made = workdirs.records(epoch, [accuracy - 0.1 * seed])
                workdirs.write_fork(
                    workdir,
                    seed,
                    epoch,
                    made,
                    sparsity=sparsity,
                    last_epoch=num_epochs,
                    result=workdirs.finished(num_epochs),
                )
    return workdir


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def canonical(*texts):
    """What the tables hold: every option written out."""
    return {str(parse(text)) for text in texts}


PEAK = str(parse("peak(fisher_trace)"))


def named(rows, **wanted):
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


@pytest.mark.usefixtures("empty_figures_here")
def test_rules_csv_has_a_row_a_curve_rule_and_mode(tmp_path):
    write_grid(tmp_path, seeds=(0, 1), sparsities=(0.9, 0.97))
    paths = rules.write(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in paths] == [
        "rules.csv",
        "rule_choices.csv",
        "signal_correlations.csv",
        "figures/rules.png",
        "figures/rules.svg",
    ]
    rows = table(tmp_path / "rules.csv")
    # Two curves of seven baselines, peak now and rewound, and the plateau of train accuracy.
    assert len(rows) == 2 * (7 + 2 + 1)
    (now,) = named(rows, trigger=PEAK, mode="now", sparsity="0.97")
    assert (now["criterion"], now["scope"], now["retraining"], now["kind"]) == (
        "magnitude",
        "global",
        "paper_a",
        "rule",
    )
    assert (now["num_seeds"], now["num_evaluated"], now["num_outside"], now["num_never_fired"]) == (
        "2",
        "2",
        "0",
        "0",
    )
    # Fired at 5: (3 * .9 + .7) / 4 = .85, and .75 in seed 1.
    assert float(now["interpolated_share"]) == 1.0
    assert (float(now["epoch_mean"]), float(now["epoch_std"])) == (5.0, 0.0)
    assert float(now["test_accuracy_mean"]) == pytest.approx(0.8)
    assert float(now["test_accuracy_std"]) == pytest.approx(0.1 / math.sqrt(2))
    assert float(now["regret_mean"]) == pytest.approx(0.05)
    assert (float(now["dense_epochs_saved_mean"]), float(now["dense_epochs_saved_std"])) == (
        5.0,
        0.0,
    )
    (rewind,) = named(rows, trigger=PEAK, mode="rewind", sparsity="0.97")
    assert float(rewind["regret_mean"]) == pytest.approx(0.03)
    assert float(rewind["dense_epochs_saved_mean"]) == 5.0
    assert {row["trigger"] for row in named(rows, kind="baseline")} == {
        "oracle",
        "best fixed epoch",
        "fixed 10 %",
        "fixed 30 %",
        "fixed 50 %",
        "end",
        "random time",
    }


@pytest.mark.usefixtures("empty_figures_here")
def test_rule_choices_csv_has_a_row_a_seed(tmp_path):
    write_grid(tmp_path, seeds=(0, 1))
    rules.write(tmp_path, ["epoch(9)", "threshold(fisher_trace, above=10)"])
    rows = table(tmp_path / "rule_choices.csv")
    first, second = named(rows, trigger=PEAK, mode="rewind")
    assert (first["trunk_seed"], second["trunk_seed"]) == ("0", "1")
    assert (first["fired_epoch"], first["marked_epoch"], first["epoch"]) == ("5", "3", "3")
    assert (first["status"], first["dense_epochs"], first["dense_epochs_saved"]) == (
        "interpolated",
        "5",
        "5",
    )
    assert float(second["test_accuracy"]) == pytest.approx(0.77)
    assert first["reason"] == "fisher_trace was largest at epoch 3 (9), 56 % lower at 5"
    (outside, _) = named(rows, trigger="epoch(9)")
    assert (
        outside["status"],
        outside["test_accuracy"],
        outside["regret"],
        outside["dense_epochs_saved"],
    ) == (
        "outside",
        "",
        "",
        "1",
    )
    (never, _) = named(rows, trigger="threshold(fisher_trace, above=10.0)")
    columns = ("status", "epoch", "dense_epochs", "dense_epochs_saved")
    assert tuple(never[column] for column in columns) == (
        "never",
        "",
        "",
        "",
    )


@pytest.mark.usefixtures("empty_figures_here")
def test_signal_correlations_csv_has_the_control_beside_each_signal(tmp_path):
    write_grid(tmp_path, seeds=(0, 1))
    rules.write(tmp_path)
    (row,) = named(table(tmp_path / "signal_correlations.csv"), signal="fisher_trace")
    # At 2, 4, 8: the trace ranks 2 3 1, as the accuracy does; the epochs 1 2 3: -.5.
    assert float(row["spearman_mean"]) == pytest.approx(1.0)
    assert float(row["spearman_std"]) == pytest.approx(0.0)
    assert float(row["epoch_spearman_mean"]) == pytest.approx(-0.5)
    assert (row["num_seeds"], row["num_epochs"]) == ("2", "3")


def test_default_rules_are_those_whose_columns_were_measured(tmp_path):
    every = {
        "fisher_trace": 1.0,
        "kl_uniform_bits": 1.0,
        "random_distance": 1.0,
        "mask_distance": 1.0,
        "weight_change": 1.0,
    }
    write_grid(tmp_path, signals=[every] * T, sparsities=(0.8,))
    replayed = [one for one in rules.replay(tmp_path) if one.kind == "rule"]
    assert {one.trigger for one in replayed} == canonical(*(one.label for one in replayed))
    assert {one.label for one in replayed} == {
        "peak(fisher_trace)",
        "peak(kl_uniform_bits)",
        "peak(random_distance)",
        "early_bird()",
        "early_bird(threshold=0.04)",
        "early_crop(sparsity=0.8)",
        "plateau(train_accuracy)",
    }


def test_the_rule_of_the_config_is_replayed_too(tmp_path):
    write_grid(tmp_path)
    for text, expected in (
        ("first(peak(fisher_trace), epoch(4))", {"first(peak(fisher_trace), epoch(4))"}),
        ("peak( fisher_trace )", set()),
        # What this version cannot read, or what was not measured, is left out.
        ("peak(kl_uniform_bits)", set()),
        ("moon_phase(x)", set()),
        ("", set()),
    ):
        workdirs.edit(tmp_path / "config.json", {"fork": {"trigger": text}})
        found = {one.label for one in rules.replay(tmp_path) if one.kind == "rule"}
        assert found == {"peak(fisher_trace)", "plateau(train_accuracy)"} | expected


def test_rules_given_replace_the_default_ones_and_keep_the_baselines(tmp_path):
    write_grid(tmp_path)
    found = rules.replay(tmp_path, ["epoch(4)"])
    assert [one.trigger for one in found if one.kind == "rule"] == ["epoch(4)"]
    assert sum(one.kind == "baseline" for one in found) == 7


def test_rules_that_cannot_be_used_are_named_all_at_once(tmp_path):
    write_grid(tmp_path)
    with pytest.raises(InvalidInput) as caught:
        rules.replay(tmp_path, ["peek(x)", "peak(fisher_trac)", "epoch(4)"])
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0].startswith("peek(x): Expected rule='peek'")
    assert "Did you mean 'fisher_trace'?" in caught.value.problems[1]


@pytest.mark.usefixtures("empty_figures_here")
def test_a_workdir_without_forks_or_signals_is_no_error(tmp_path):
    assert rules.write(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    write_grid(tmp_path, signals=None)
    found = rules.replay(tmp_path)
    assert {one.label for one in found if one.kind == "rule"} == {"plateau(train_accuracy)"}
    assert rules.write(tmp_path)


@pytest.mark.usefixtures("empty_figures_here")
def test_one_fork_epoch_is_enough(tmp_path):
    write_grid(tmp_path, grid={4: 0.5})
    found = {one.trigger: one for one in rules.replay(tmp_path, ["epoch(4)"])}
    assert found["epoch(4)"].complete and found["random time"].complete
    assert found["fixed 50 %"].count("outside") == 1
    assert rules.write(tmp_path)


@pytest.mark.usefixtures("empty_figures_here")
def test_the_table_for_the_terminal(tmp_path, capsys):
    write_grid(tmp_path, seeds=(0, 1))
    assert rules.main([str(tmp_path), "--rule", "epoch(9)"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    headings = ["signal or rule", "epoch (seeds)", "forks", "remarks"]
    start = cells.index(headings)
    # At 2, 4, 8: the trace ranks 2 3 1, as the accuracy does.
    assert cells[start + 1] == ["tr(F), conv kernels", "3 (3)", "rho 1.00 +- 0.00", "peak 9.00"]
    assert cells[start + 3] == ["[oracle]", "4", "regret 0.0 +- 0.0"]
    rewound = ["peak(fisher_trace), rewind", "3", "regret 3.0 +- 0.0", "interpolated"]
    assert rewound in cells
    assert ["epoch(9)", "9", "-", "outside the forks"] in cells


@pytest.mark.usefixtures("empty_figures_here")
def test_the_command_prints_and_writes(tmp_path, capsys):
    write_grid(tmp_path)
    assert (
        rules.main(
            [str(tmp_path), "--rule", "epoch(4)", "--rule", "peak(fisher_trace, patience=3)"]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "epoch(4)" in printed and "peak(fisher_trace, patience=3), rewind" in printed
    assert "[random time]" in printed and "rho: rank correlation" in printed
    assert {row["trigger"] for row in table(tmp_path / "rules.csv")} >= {
        "epoch(4)",
        PEAK,
        *canonical("peak(fisher_trace, patience=3)"),
    }


def test_the_command_exits_with_2_and_every_problem(tmp_path, capsys):
    workdirs.write_config(tmp_path)
    assert rules.main([str(tmp_path)]) == 2
    assert "to hold finished forks" in capsys.readouterr().err
    write_grid(tmp_path)
    assert rules.main([str(tmp_path), "--rule", "peak(", "--rule", "epoch(0)"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 2
    assert not (tmp_path / "rules.csv").exists()


def test_ten_seeds_of_200_epochs_and_20_rules_take_seconds(tmp_path):
    signals = [{"fisher_trace": 100.0 + epoch % 7 - abs(epoch - 90)} for epoch in range(200)]
    write_grid(
        tmp_path,
        seeds=range(10),
        signals=signals,
        num_epochs=200,
        grid={epoch: 0.99 - abs(epoch - 60) / 1000 for epoch in range(10, 200, 10)},
    )
    texts = [f"peak(fisher_trace, patience={patience}, smoothing=5)" for patience in range(1, 21)]
    started = time.process_time()
    found = rules.replay(tmp_path, texts)
    assert time.process_time() - started < 20
    assert len(found) == 40 + 7


def test_early_bird_has_no_threshold_that_every_pair_of_masks_meets(tmp_path):
    # At 97 % two masks differ on 6 % of the weights at most: the paper's 0.1 would fire whatever
    # happens.
    write_grid(tmp_path, signals=[{"mask_distance": 0.05}] * T, sparsities=(0.97,))
    names = {one.label for one in rules.replay(tmp_path) if one.trigger.startswith("early_bird")}
    assert names == {"early_bird(threshold=0.006)"}


RULE = """
import dataclasses
from earlyprune_jax.triggers import Firing, Trigger

@dataclasses.dataclass(frozen=True)
class Rule(Trigger):
    def __call__(self, history):
        return None
"""


@pytest.fixture
def own_rule(tmp_path):
    """A workdir made with a rule of the user's, and the rule's file."""
    workdir, file = tmp_path / "run", tmp_path / "changing_rule.py"
    file.write_text(RULE)
    workdirs.write_study(
        workdir, [{"name": "accuracy", "unit": "%", "larger_is_better": True}], "accuracy"
    )
    write_grid(workdir)
    user_code.use_folder(tmp_path)
    code = {"changing_rule:Rule": user_code.digest("changing_rule:Rule")}
    workdirs.edit(workdir / "study.json", {"folder": str(tmp_path), "code": code})
    yield workdir, file
    user_code.use_folder(None)


def set_trigger(workdir, text):
    workdirs.edit(workdir / "config.json", {"fork": {"trigger": text}})


@pytest.mark.usefixtures("empty_figures_here")
def test_code_of_the_users_that_has_changed_since_is_named(own_rule, capsys):
    workdir, file = own_rule
    set_trigger(workdir, "first(changing_rule:Rule(), epoch(4))")
    assert "has changed" not in summary.summarize(workdir)
    file.write_text(RULE.replace("None", "Firing(1, 1, 'early')"))
    user_code.refresh()
    user_code.use_folder(file.parent)
    since = "has changed since these runs were made: its replay is of the code as it is now."
    note = f"changing_rule:Rule {since}"
    assert " ".join(summary.summarize(workdir).split()).count(note) == 1
    set_trigger(workdir, "")
    assert rules.main([str(workdir)]) == 0
    assert "has changed" not in capsys.readouterr().out
    assert rules.main([str(workdir), "--rule", "changing_rule:Rule()"]) == 0
    assert note in capsys.readouterr().out.splitlines()


def test_a_rule_of_the_users_that_raises_is_named_and_the_others_are_replayed(own_rule):
    workdir, file = own_rule
    file.write_text(RULE.replace("return None", "raise KeyError('x')"))
    user_code.refresh()
    set_trigger(workdir, "changing_rule:Rule()")
    told = " ".join(summary.summarize(workdir).split())
    assert "changing_rule:Rule() raised KeyError: 'x', and so counts as never firing." in told
    assert " peak(fisher_trace), rewind 3 regret " in told
