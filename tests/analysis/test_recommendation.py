import pytest
import workdirs

from earlyprune_jax.analysis import curves, recommendation, results, rules, summary

T = 10
DENSE = (0.95, 0.96, 0.97)
# tr(F) peaks at 3 and is known to at 5.
SIGNALS = [{"fisher_trace": float(value)} for value in (1, 5, 9, 6.5, 4, 3, 2, 1, 1, 1)]


def write_grid(
    workdir,
    cells,
    *,
    dense=DENSE,
    validation=None,
    signals=SIGNALS,
    sparsity=0.97,
    retraining="paper_a",
):
    """cells: fork epoch -> test accuracy by seed; validation likewise."""
    workdirs.write_config(workdir, num_epochs=T)
    for seed, accuracy in enumerate(dense):
        if not (workdir / "trunks" / f"seed-{seed}").exists():
            chosen = None if validation is None else [accuracy] * T
            made = workdirs.records(0, [accuracy] * T, signals=signals, validation_accuracy=chosen)
            workdirs.write_trunk(workdir, seed, made, last_epoch=T, result=workdirs.finished(T))
    for epoch, by_seed in cells.items():
        for seed, accuracy in enumerate(by_seed):
            chosen = None if validation is None else [validation[epoch][seed]]
            made = workdirs.records(epoch, [accuracy], validation_accuracy=chosen)
            axes = {"sparsity": sparsity, "retraining": retraining}
            workdirs.write_fork(
                workdir, seed, epoch, made, last_epoch=T, result=workdirs.finished(T), **axes
            )


def recommend(workdir):
    runs = results.read_runs(workdir)
    grids = curves.settings_of(runs)
    lines = recommendation.recommend(runs, grids, rules.replay_settings(grids))
    return " ".join(lines) if lines else None


CELLS = {2: (0.80, 0.82, 0.84), 4: (0.90, 0.92, 0.94), 8: (0.70, 0.73, 0.73)}


def test_the_sentence_with_its_numbers_and_how_sure(tmp_path):
    # Against dense -5, -4, -3. Best on validation: 4 by .10, .11, .12 and .20, .21, .22: beyond the
    # noise. At 5: .84 .87 .89, lost .06 .05 .05; at 3, rewound, .10 in all; the plateaus fire at 6
    # and lose more.
    cells = {2: (0.70, 0.72, 0.74), 4: CELLS[4], 8: (0.66, 0.72, 0.74)}
    validation = {2: (0.80, 0.80, 0.80), 4: (0.90, 0.91, 0.92), 8: (0.70, 0.70, 0.70)}
    write_grid(tmp_path, cells, validation=validation)
    assert recommend(tmp_path) == (
        "Recommendation: prune 97 % (magnitude, global) after epoch 4 of 10: 92.0 +- 2.0 % test "
        "accuracy (n = 3); it leads every other fork epoch by more than the noise on validation "
        "(95 %, n = 3 seeds). "
        "Cost: 4.0 +- 1.0 points worse than dense; dense training ends 6 epochs earlier "
        "(a masked epoch takes as long as a dense one: compute is saved only where the network "
        "gets smaller, docs/pruning.md). "
        "Rules: peak(fisher_trace), the best of 3 rules in hindsight, would have chosen epoch 5, "
        "regret 5.3 +- 0.6 points (interpolated); the recommended epoch's own regret "
        "is 0.0 +- 0.0 points."
    )


def test_rules_that_are_no_better_than_a_random_time_are_not_praised(tmp_path):
    # Fired at 5: .2 lost, rewound to 3: .4; on the mean over 2 ... 8: .23. With 4 worse: .17.
    cells = {2: (0.5,) * 3, 4: (0.5,) * 3, 6: (0.9,) * 3, 8: (0.9,) * 3}
    write_grid(tmp_path, cells)
    text = recommend(tmp_path)
    assert text is not None and " the best of 2 rules in hindsight, would have" in text
    (tmp_path / "other").mkdir()
    write_grid(tmp_path / "other", {2: (0.5,) * 3, 3: (0.2,) * 3, 4: (0.9,) * 3, 5: (0.2,) * 3})
    text = recommend(tmp_path / "other")
    assert text is not None
    # 5: .7 and 3: .7 lost; at random (.4 + .7 + 0 + .7) / 4.
    random_time = "no better than a random time (regret 45.0 +- 0.0 points)"
    assert f" Rules: all 2 are {random_time}: the least bad in hindsight, peak(" in text


def test_where_all_forks_lose_over_half_of_dense_nothing_is_recommended(tmp_path):
    write_grid(tmp_path, {2: (0.3,) * 3, 4: (0.4,) * 3})
    assert (recommend(tmp_path) or "").startswith(
        "Recommendation: none: each fork epoch loses over half of what dense reaches; best was to "
        "prune 97 % (magnitude, global) after epoch 4 of 10: 40.0 +- 0.0 %"
    )


def test_a_rewound_rule_is_called_that(tmp_path):
    # Rewound to 3 it loses less than at 5.
    write_grid(tmp_path, {**CELLS, 8: (0.1, 0.1, 0.1)})
    text = recommend(tmp_path)
    assert text is not None
    chosen = "would have chosen epoch 3, regret 5.0 +- 0.0 points"
    assert f"peak(fisher_trace), rewind, the best of 2 rules in hindsight, {chosen}" in text


def test_epochs_within_the_noise_are_named_best_first(tmp_path):
    # 2 differs by .08, .10, .12; but 8 by .21, -.03, .3, which the noise covers.
    cells = {**CELLS, 2: (0.82, 0.82, 0.82), 8: (0.69, 0.95, 0.64), 6: (0.91, 0.90, 0.92)}
    write_grid(tmp_path, cells)
    text = recommend(tmp_path)
    assert text is not None
    assert "not settled: epochs 6 and 8 may be as good on test (95 %, n = 3 seeds)." in text


def test_an_exact_tie_is_called_that(tmp_path):
    validation = {2: (0.5, 0.5, 0.5), 4: (0.9, 0.7, 0.8), 8: (0.7, 0.8, 0.9)}
    write_grid(tmp_path, CELLS, validation=validation)
    text = recommend(tmp_path)
    assert text is not None
    assert "after epoch 4 of 10" in text
    assert "; not settled: epoch 8 may be as good on validation (95 %, n = 3 seeds)" in text


@pytest.mark.parametrize(("num_seeds", "words"), [(1, "1 seed"), (2, "2 seeds")])
def test_with_few_seeds_it_is_a_guess(tmp_path, num_seeds, words):
    cells = {epoch: accuracies[:num_seeds] for epoch, accuracies in CELLS.items()}
    write_grid(tmp_path, cells, dense=DENSE[:num_seeds])
    text = recommend(tmp_path)
    assert text is not None
    assert f"with {words} nothing is known of the noise, so take it as a guess" in text
    assert ("+-" in text) == (num_seeds == 2)


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (
            {2: (0.9, 0.9, 0.9), 4: (0.8, 0.8, 0.8)},
            "it is the earliest epoch tried, and an earlier one may be better",
        ),
        (
            {2: (0.8, 0.8, 0.8), 4: (0.9, 0.9, 0.9)},
            "it is the latest epoch tried, and a later one may be better",
        ),
        (
            {4: (0.8, 0.8, 0.8)},
            "it is the only fork epoch tried, so nothing says that it is the best",
        ),
        (
            {0: (0.9, 0.9, 0.9), 2: (0.8, 0.8, 0.8)},
            "prune 97 % (magnitude, global) before training: ",
        ),
        # Before the start there is nothing.
        ({0: (0.9,) * 3, 2: (0.8,) * 3}, "it is the earliest epoch tried."),
    ],
)
def test_edges_are_said(tmp_path, cells, words):
    write_grid(tmp_path, cells)
    text = recommend(tmp_path)
    assert text is not None
    assert words in text


def test_an_accuracy_above_dense_and_one_without_dense(tmp_path):
    write_grid(tmp_path, {4: (0.97, 0.97, 0.97)})
    text = recommend(tmp_path)
    assert text is not None
    assert "97.0 +- 0.0 % test accuracy (n = 3); " in text
    assert "Cost: 1.0 +- 1.0 points better than dense; dense training ends 6 epochs" in text
    (tmp_path / "other").mkdir()
    write_grid(tmp_path / "other", {4: (0.97,)}, dense=())
    text = recommend(tmp_path / "other")
    assert text is not None
    assert "97.0 % test accuracy (n = 1); " in text
    assert "Cost: dense training ends 6 epochs earlier (a masked" in text


def test_of_several_sparsities_the_hardest_that_costs_at_most_a_point(tmp_path):
    # At their best epochs: 80 % loses 0, 90 % loses .9 points, 97 % loses 4.
    write_grid(tmp_path, {2: (0.95, 0.96, 0.97), 4: (0.9, 0.9, 0.9)}, sparsity=0.8)
    write_grid(tmp_path, {2: (0.941, 0.951, 0.961), 4: (0.9, 0.9, 0.9)}, sparsity=0.9)
    write_grid(tmp_path, CELLS)
    text = recommend(tmp_path)
    assert text is not None
    assert text.startswith(
        "Recommendation: prune 90 % (magnitude, global) after epoch 2 of 10: 95.1 +- 1.0 %"
    )
    assert "of 3 curves the hardest pruning that loses at most one point" in text


def test_where_every_setting_loses_more_the_one_that_loses_least(tmp_path):
    write_grid(tmp_path, {2: (0.90, 0.90, 0.90), 4: (0.8, 0.8, 0.8)}, sparsity=0.9)
    write_grid(
        tmp_path, {2: (0.93, 0.93, 0.93), 4: (0.8, 0.8, 0.8)}, sparsity=0.9, retraining="continue"
    )
    write_grid(tmp_path, CELLS)
    text = recommend(tmp_path)
    assert text is not None
    assert text.startswith(
        "Recommendation: prune 90 % (magnitude, global, retrained by continue) after epoch 2 of 10"
    )
    assert "of 3 curves the one that loses least" in text


def test_a_setting_whose_dense_runs_train_badly_is_not_recommended_for_losing_little(tmp_path):
    write_grid(tmp_path, {4: (0.955, 0.955, 0.955)})
    bad = {"model": "resnet14", "train_fraction": 1.0, "schedule": "exponential"}
    for seed in range(3):
        dense, forked = (workdirs.records(epoch, [0.7] * 10) for epoch in (0, 4))
        ends = {"last_epoch": T, "result": workdirs.finished(T), "setting": bad}
        workdirs.write_trunk(tmp_path, seed, dense, **ends)
        workdirs.write_fork(tmp_path, seed, 4, forked[:1], **ends)
    text = recommend(tmp_path)
    assert text is not None
    # The bad network loses nothing against its own dense runs, and 26 points against the best.
    assert "95.5 +- 0.0 % test accuracy (n = 3)" in text
    assert "loses at most one point on test against the best dense runs" in text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        # Rising, and train accuracy for too short to be a plateau.
        (range(1, 6), " Rules: none fired."),
        # Largest at 3 and known at 5, but the only fork is at 4.
        ((1, 5, 9, 5, 1), " Rules: none chose an epoch among the forks in every seed."),
    ],
)
def test_rules_that_cannot_be_judged_are_said_to_be_none(tmp_path, values, words):
    workdirs.write_config(tmp_path, num_epochs=5)
    signals = [{"fisher_trace": float(value)} for value in values]
    made = workdirs.records(0, [0.9] * 5, signals=signals)
    workdirs.write_trunk(tmp_path, 0, made, last_epoch=5, result=workdirs.finished(5))
    workdirs.write_fork(
        tmp_path, 0, 4, workdirs.records(4, [0.8]), last_epoch=5, result=workdirs.finished(5)
    )
    text = recommend(tmp_path)
    assert text is not None and text.endswith(words)


def test_without_finished_forks_it_says_why(tmp_path):
    assert recommend(tmp_path) is None
    made = workdirs.records(0, [0.5])
    workdirs.write_trunk(tmp_path, 0, made, last_epoch=1, result=workdirs.finished(1))
    assert recommend(tmp_path) == "Recommendation: none: no fork of the grid has finished."
    workdirs.write_fork(tmp_path, 0, 2, workdirs.records(2, [0.5]))
    diverged = {
        "status": "diverged",
        "epoch": 3,
        "step": 21,
        "achieved_sparsity": 0.97,
        "reason": "nan",
    }
    workdirs.write_fork(tmp_path, 0, 4, [], result=diverged)
    text = "Recommendation: none yet: no fork of the grid has finished."
    assert recommend(tmp_path) == text


# fired_epoch, marked_epoch by seed; None = never, pruned at the fallback epoch 8.
def write_online(workdir, fired, *, mode="now", sparsities=(0.97,), fallback=8):
    workdirs.write_config(workdir, num_epochs=T)
    for seed, firing in enumerate(fired):
        stop = firing[0] if firing else fallback
        made = workdirs.records(0, [0.9] * stop, signals=SIGNALS[:stop])
        workdirs.write_trunk(workdir, seed, made, last_epoch=T, result=workdirs.finished(stop))
        at = stop if firing is None or mode == "now" else firing[1]
        for sparsity in sparsities:
            made = workdirs.records(at, [0.9 - 0.02 * seed - (0.97 - sparsity)])
            workdirs.write_online(
                workdir,
                seed,
                at,
                made,
                fired_epoch=firing[0] if firing else None,
                marked_epoch=firing[1] if firing else None,
                mode=mode,
                sparsity=sparsity,
                result=workdirs.finished(T),
            )


def test_a_run_that_pruned_itself_is_described_not_recommended(tmp_path):
    write_online(tmp_path, [(5, 3)])
    assert recommend(tmp_path) == (
        "Recommendation: none from this run alone; it pruned itself after epoch 5 of 10 (rule "
        "peak(fisher_trace)); whether that was best only a grid of forks would tell."
    )


def test_rewound_runs_of_several_seeds_and_sparsities(tmp_path):
    write_online(tmp_path, [(5, 3), (6, 4)], mode="rewind", sparsities=(0.9, 0.97))
    text = recommend(tmp_path)
    assert text is not None
    assert "after epochs 3 to 4 of 10 (rule peak(fisher_trace)); " in text
    lines = " ".join(summary.summarize(tmp_path).split())
    assert "90 % 3-4 (pruned itself) - 82.00 +- 1.41 2 -" in lines
    assert "97 % 3-4 (pruned itself) - 89.00 +- 1.41 2 -" in lines


def test_a_run_whose_rule_never_fired_counts_at_the_epoch_it_was_pruned_at(tmp_path):
    write_online(tmp_path, [(5, 3), None])
    text = recommend(tmp_path)
    assert text is not None
    assert "after epochs 5 to 8 of 10" in text
    assert "97 % 5-8 (pruned itself) - " in " ".join(summary.summarize(tmp_path).split())


def test_a_run_that_stayed_dense_has_no_recommendation_and_is_the_baseline(tmp_path):
    workdirs.write_config(tmp_path, num_epochs=T)
    made = workdirs.records(0, [0.9] * T, signals=SIGNALS)
    workdirs.write_trunk(tmp_path, 0, made, last_epoch=T, result=workdirs.finished(T))
    workdirs.write_online(
        tmp_path, 0, None, [], result={"status": "skipped", "reason": "never fired"}
    )
    text = summary.summarize(tmp_path)
    assert "Dense, never pruned (resnet8, all training data, exponential schedule): 90.00 %" in text
    assert text.startswith(
        "Recommendation: none: the rule peak(fisher_trace) never fired, so nothing was pruned."
    )


def test_trunks_that_triggers_ended_are_not_called_dense_runs(tmp_path):
    write_online(tmp_path, [(5, 3), (6, 4)])
    text = summary.summarize(tmp_path)
    assert "Dense, never pruned" not in text


def test_online_runs_that_failed_are_named(tmp_path):
    write_online(tmp_path, [(5, 3)])
    diverged = {
        "status": "diverged",
        "epoch": 7,
        "step": 21,
        "achieved_sparsity": 0.97,
        "reason": "nan",
    }
    workdirs.write_online(tmp_path, 1, 6, [], fired_epoch=6, result=diverged)
    skipped = {"status": "skipped", "reason": "trunk diverged"}
    workdirs.write_online(tmp_path, 2, None, [], result=skipped)
    text = " ".join(summary.summarize(tmp_path).split())
    lost = "97 % epoch 6 seed 1 diverged (nan); 97 % seed 2 skipped"
    assert f"Not in these numbers: {lost}." in text


def test_a_baseline_beside_the_grid_is_neither_recommended_nor_told_as_a_grid(tmp_path):
    write_grid(tmp_path, CELLS, retraining="constant")
    # Trained longer, it is better than all of the grid, and removes more.
    write_grid(tmp_path, {0: (0.96, 0.97, 0.98)}, sparsity=0.99, retraining="matched_budget")
    workdirs.write_config(tmp_path, num_epochs=T, retraining=["constant"], criteria=["magnitude"])
    assert "prune 97 % (magnitude, global) after epoch 4 of 10" in (recommend(tmp_path) or "")
    text = summary.summarize(tmp_path)
    assert "\n  97 % " in text and "\n  99 % " not in text and "matched_budget" not in text
    # As a rule of the grid it is one of its curves.
    workdirs.write_config(
        tmp_path, num_epochs=T, retraining=["constant", "matched_budget"], criteria=["magnitude"]
    )
    assert "prune 99 % (magnitude, global" in (recommend(tmp_path) or "")


def test_baselines_alone_recommend_nothing(tmp_path):
    write_grid(tmp_path, {0: (0.96, 0.97, 0.98)}, retraining="matched_budget")
    workdirs.write_config(tmp_path, num_epochs=T, retraining=["constant"], criteria=["magnitude"])
    assert recommend(tmp_path) == "Recommendation: none: no fork of the grid has finished."


def test_an_earlier_grid_of_another_rule_is_no_baseline(tmp_path):
    write_grid(tmp_path, CELLS, retraining="matched_budget")
    workdirs.write_config(tmp_path, num_epochs=T, retraining=["constant"], criteria=["magnitude"])
    assert "after epoch 4 of 10" in (recommend(tmp_path) or "")
