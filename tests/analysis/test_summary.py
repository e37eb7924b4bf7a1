import itertools
import re

import numpy as np
import regime_workdirs
import workdirs

from earlyprune_jax.analysis import figures, results, summary
from earlyprune_jax.run_records import RunRecords


def flat(workdir) -> str:
    """The summary as one line, so that wrapping does not matter."""
    return " ".join(summary.summarize(workdir).split())


def rows(workdir, heading):
    """The cells of a table in the summary, without its own headings."""
    lines = iter(summary.summarize(workdir).splitlines())
    next(line for line in lines if line.startswith(heading))
    next(line for line in lines if line.endswith(("as good", "remarks")))
    table = itertools.takewhile(lambda line: line.startswith("  ") and ":" not in line[:8], lines)
    return [re.split(" {2,}", line.strip()) for line in table]


def write_experiment(workdir, cells, dense, *, validation=None, signals=None):
    """cells: fork epoch -> test accuracy by seed; validation likewise."""
    workdirs.write_config(workdir, num_epochs=4)
    for seed, accuracy in enumerate(dense):
        made = workdirs.records(0, [accuracy] * 4, signals=signals)
        workdirs.write_trunk(workdir, seed, made, last_epoch=4, result=workdirs.finished(4))
    for epoch, by_seed in cells.items():
        for seed, accuracy in enumerate(by_seed):
            length = 4 - epoch
            chosen = None if validation is None else [validation[epoch][seed]] * length
            made = workdirs.records(epoch, [accuracy] * length, validation_accuracy=chosen)
            workdirs.write_fork(
                workdir, seed, epoch, made, last_epoch=4, result=workdirs.finished(4)
            )


CELLS = {1: (0.70, 0.72, 0.74), 2: (0.90, 0.92, 0.94), 3: (0.91, 0.90, 0.92)}
DENSE = (0.95, 0.96, 0.97)


def test_best_fork_epoch_with_mean_std_and_paired_difference(tmp_path):
    # Seed differences to dense at epoch 2: -5, -4, -3 points.
    write_experiment(tmp_path, CELLS, DENSE)
    text = flat(tmp_path)
    assert "Runs: 12 finished, 0 diverged, 0 skipped." in text
    assert "after epoch 2 of 4: 92.0 +- 2.0 % test accuracy (n = 3)" in text
    cost = (
        "Cost: 4.0 +- 1.0 points worse than dense; dense training ends 2 epochs earlier (a masked"
    )
    assert cost in text
    assert "selected on test, for want of validation accuracy" in text
    (row,) = rows(tmp_path, "Forks")
    assert row == [
        "97 %",
        "2",
        "3",
        "92.00 +- 2.00",
        "3",
        "96.0 +- 1.0",
        "-4.00 +- 1.00",
        "3 and 1",
    ]


def test_a_lead_within_the_noise_is_called_that(tmp_path):
    # 2 against 3: -1, +2, +2 points: mean 1, t = 1. Seed 0 alone would be chosen another epoch for.
    write_experiment(tmp_path, CELLS, DENSE)
    assert "not settled: epochs 3 and 1 may be as good on test (95 %, n = 3 seeds)" in flat(
        tmp_path
    )


def test_a_lead_beyond_the_noise_is_called_that(tmp_path):
    write_experiment(tmp_path, {1: (0.70, 0.72, 0.74), 2: (0.90, 0.92, 0.945)}, DENSE)
    assert "it leads every other fork epoch by more than the noise on test" in flat(tmp_path)
    assert rows(tmp_path, "Forks")[0][-1] == "none"


def test_validation_chooses_and_test_is_reported(tmp_path):
    validation = {1: (0.1, 0.1, 0.1), 2: (0.5, 0.5, 0.5), 3: (0.6, 0.6, 0.6)}
    write_experiment(tmp_path, CELLS, DENSE, validation=validation)
    text = flat(tmp_path)
    assert "selected on test" not in text
    assert (
        "after epoch 3 of 4: 91.0 +- 1.0 % test accuracy (n = 3); not settled: epochs 2 and 1"
        in text
    )
    assert "as good on validation (95 %, n = 3 seeds); it is the latest epoch tried" in text
    assert rows(tmp_path, "Forks")[0][1] == "3 (latest)"


def test_one_seed_claims_no_noise(tmp_path):
    write_experiment(tmp_path, {1: (0.7,), 2: (0.9,)}, (0.95,))
    assert "with 1 seed nothing is known of the noise, so take it as a guess" in flat(tmp_path)
    (row,) = rows(tmp_path, "Forks")
    assert row == ["97 %", "2 (latest)", "2", "90.00", "1", "95.0", "-5.00", "unknown"]


def test_the_layers_of_the_task_have_no_name(tmp_path):
    signals = [{"fisher_trace": value} for value in (1.0, 2.0, 186.0, 3.0)]
    write_experiment(tmp_path, CELLS, DENSE, signals=signals)
    workdirs.edit(tmp_path / "config.json", {"signals": {"fisher_layers": ""}})
    text = flat(tmp_path)
    assert " tr(F) " in text and "tr(F)," not in text


def test_an_interior_peak_is_named(tmp_path):
    signals = [{"fisher_trace": value} for value in (1.0, 2.0, 186.0, 3.0)]
    write_experiment(tmp_path, CELLS, DENSE, signals=signals)
    assert rows(tmp_path, "Signals")[0][:2] == ["tr(F), conv kernels", "3 (3)"]
    assert rows(tmp_path, "Signals")[0][-1] == "peak 186"
    assert "epoch: of a signal, the peak of its mean over seeds; in brackets" in flat(tmp_path)


def test_an_edge_is_not_called_a_peak(tmp_path):
    signals = [
        {"kl_uniform_bits": value, "random_distance": -value} for value in (1.0, 2.0, 3.0, 4.0)
    ]
    write_experiment(tmp_path, CELLS, DENSE, signals=signals)
    first, second = rows(tmp_path, "Signals")[:2]
    assert (first[:2], first[-1]) == (
        ["KL_uniform", "4 (4)"],
        "maximum 4.00 bits, last epoch: no peak",
    )
    assert (second[:2], second[-1]) == (
        ["random distance", "1 (1)"],
        "maximum -1.00, first epoch: no peak",
    )


def test_runs_that_did_not_finish_are_counted_and_named(tmp_path):
    write_experiment(tmp_path, CELLS, DENSE)
    diverged = {
        "status": "diverged",
        "epoch": 3,
        "step": 21,
        "achieved_sparsity": 0.97,
        "reason": "nan",
    }
    workdirs.write_fork(tmp_path, 8, 2, [], result=diverged)
    workdirs.write_fork(tmp_path, 9, 2, workdirs.records(2, [0.1]))
    text = flat(tmp_path)
    assert "Runs: 12 finished, 1 diverged, 0 skipped, 1 unfinished (not in results.csv)." in text
    missing = "97 % epoch 2 seed 8 diverged (nan); 97 % epoch 2 seed 9 unfinished"
    assert f"Not in these numbers: {missing}." in text
    assert "after epoch 2 of 4: 92.0 +- 2.0 % test accuracy (n = 3)" in text


def test_of_many_runs_that_did_not_finish_each_curve_is_counted(tmp_path):
    write_experiment(tmp_path, CELLS, DENSE)
    diverged = {"status": "diverged", "epoch": 3, "step": 21}
    for seed in range(7):
        lost = {"sparsity": 0.5, "result": diverged}
        workdirs.write_fork(tmp_path, seed, 2, [], **lost)
    workdirs.write_fork(tmp_path, 9, 2, workdirs.records(2, [0.1]))
    counts = re.search("Not in these numbers: (.*?)[.] ", flat(tmp_path))
    assert counts and counts[1].split("; ") == [
        "7 of 7 runs: 50 % (7 diverged)",
        "1 of 10 runs: 97 % (1 unfinished)",
    ]


def test_signals_beside_the_headline_have_no_row(tmp_path):
    signals = [{"fisher_trace": 1.0, "fisher_trace_standard_error": 0.1, "mask_distance": 0.5}] * 4
    write_experiment(tmp_path, CELLS, DENSE, signals=signals)
    text = flat(tmp_path)
    assert "standard_error" not in text
    assert "mask_distance" not in [row[0] for row in rows(tmp_path, "Signals")]


def test_rank_correlations_stand_beside_that_of_the_epoch_number(tmp_path):
    # Accuracies by seed at epochs 1, 2, 3: .70 .90 .91; .72 .92 .90; .74 .94 .92. Rising x: 1, .5,
    # .5. y = 1, 3, 2: .5, 1, 1.
    signals = [
        {"fisher_trace": x, "kl_uniform_bits": y} for x, y in ((1, 1), (2, 3), (3, 2), (4, 0))
    ]
    write_experiment(tmp_path, CELLS, DENSE, signals=signals)
    first, second, third = rows(tmp_path, "Signals")[:3]
    assert first[2] == "rho 0.67 +- 0.29" and second[2] == "rho 0.83 +- 0.29"
    assert third == ["epoch number itself", "-", "rho 0.67 +- 0.29"]


def test_the_verdict_of_three_lines_comes_first_and_the_rules_are_tabled(tmp_path):
    # tr(F) is largest at 1 in all seeds: fired at 3, regrets 0, .02, .02 there; rewound to 1:
    # .21, .20, .20.
    signals = [{"fisher_trace": value} for value in (9.0, 5.0, 4.0, 3.0)]
    write_experiment(tmp_path, CELLS, DENSE, signals=signals)
    rule = "peak(fisher_trace, smoothing=1, min_rise=0.0, min_errors=0.0)"
    workdirs.edit(tmp_path / "config.json", {"fork": {"trigger": rule}})
    results.write_tables(tmp_path)
    text = flat(tmp_path)
    assert text.startswith(
        "Recommendation: prune 97 % (magnitude, global) after epoch 2 of 4: 92.0 +- 2.0 % test "
    )
    # The default rules, a peak and a plateau, have too few epochs to fire.
    expected = f" Rules: {rule}, the best of 3 rules in hindsight, would have chosen epoch 3, "
    assert f"{expected}regret 1.3 +- 1.2 points" in text
    order = [
        text.index(part)
        for part in (" Cost: ", " Rules: ", " Forks ", " Signals ", " Runs: ", "Files in")
    ]
    assert order == sorted(order)
    table = {row[0]: row[1:3] for row in rows(tmp_path, "Signals")}
    assert table[rule] == ["3", "regret 1.3 +- 1.2"]
    assert table["[random time]"][0] == "-" and "[best fixed epoch]" in table


def test_files_are_listed_once_they_exist(tmp_path):
    write_experiment(tmp_path, CELLS, DENSE)
    assert "Files in" not in flat(tmp_path)
    results.write_tables(tmp_path)
    figures.draw_main(tmp_path)
    assert "results.csv, signals.csv, figures/ (accuracy_vs_fork_epoch)." in flat(tmp_path)
    for name in (
        "regimes.csv",
        "regime_cells.csv",
        "comparisons.csv",
        "figures/training_curve.svg",
    ):
        (tmp_path / name).touch()
    for name in ("regimes", "regimes_similarity"):
        (tmp_path / f"figures/{name}.png").touch()
    text = flat(tmp_path)
    figures_drawn = "accuracy_vs_fork_epoch, regimes, regimes_similarity and training_curve"
    tables = "signals.csv, regimes.csv, regime_cells.csv, comparisons.csv"
    assert f"{tables}, figures/ ({figures_drawn})." in text


def test_failed_comparisons_are_counted_with_the_reason(tmp_path):
    write_experiment(tmp_path, CELLS, DENSE)
    test = np.array([[0.1], [0.2], [np.nan]])
    regime_workdirs.write_comparisons(tmp_path, (0.5, 0.6, 0.7), (1,), test)
    assert "Comparisons" not in flat(tmp_path)
    directory = next(tmp_path.glob("comparisons/*_0.6"))
    RunRecords(directory).finish(workdirs.FAILED)
    expected = "Comparisons: 1 finished, 1 skipped, 1 failed (RuntimeError: out of memory)."
    assert expected in flat(tmp_path)


def test_nothing_finished_reads_sensibly(tmp_path):
    assert summary.summarize(tmp_path) == "Runs: none yet."
    workdirs.write_trunk(tmp_path, 0, workdirs.records(0, [0.5]))
    assert summary.summarize(tmp_path) == (
        "Recommendation: none yet: no fork of the grid has finished.\n"
        "Runs: 0 finished, 0 diverged, 0 skipped, 1 unfinished (not in results.csv).\n"
        "Not in these numbers: dense seed 0 unfinished."
    )


def test_lines_fit_in_100_characters(tmp_path):
    signals = [{"fisher_trace": value, "kl_uniform_bits": value} for value in (1.0, 2.0, 4.0, 3.0)]
    write_experiment(tmp_path, CELLS, DENSE, signals=signals)
    workdirs.write_online(
        tmp_path, 0, 3, workdirs.records(3, [0.9]), fired_epoch=3, result=workdirs.finished()
    )
    assert max(len(line) for line in summary.summarize(tmp_path).splitlines()) <= 100
