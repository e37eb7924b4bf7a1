"""`earlyprune claims`: verdicts on hand-made workdirs whose answer is known, and published numbers
against the raw file. Here, beside the hand-made workdirs it is tried on."""

import csv
import json
import statistics
from pathlib import Path

import numpy as np
import pytest
import regime_workdirs
import workdirs

from earlyprune_jax import published
from earlyprune_jax.published import claims
from earlyprune_jax.published.evidence import decide

T = 20
FORKS = (2, 6, 10, 14, 18)
FALLING = (0.94, 0.95, 0.90, 0.88, 0.85)
RISING = FALLING[::-1]
SEEDS = 4
RAW = json.loads((Path(published.__file__).parent / "paper_a_figures.json").read_text())
SPARSITIES, EPOCHS = (0.2, 0.5, 0.8, 0.95), (4, 10, 30, 38)
EARLY, CONVERGED, EQUAL = (0.8, 0.85, 0.7, 0.7), (0.8, 0.7, 0.84, 0.85), (0.85, 0.85, 0.85, 0.85)


def peaking(at, num_epochs=T):
    return [10.0 - abs(epoch - at) for epoch in range(1, num_epochs + 1)]


def write_trunk(
    workdir, seed, *, peak=6, kl=None, dense=0.95, schedule="exponential", seconds=None, **config
):
    signals = [{"fisher_trace": value} for value in peaking(peak)]
    if kl is not None:
        signals = [one | {"kl_uniform_bits": value} for one, value in zip(signals, kl, strict=True)]
    made = workdirs.records(0, [dense] * T, signals=signals)
    made = [record | {"signal_seconds": seconds} for record in made] if seconds else made
    setting = workdirs.SETTING | {"schedule": schedule, "config": config}
    ended = workdirs.finished(T)
    workdirs.write_trunk(workdir, seed, made, last_epoch=T, result=ended, setting=setting)


def write_curve(workdir, means=FALLING, *, seeds=SEEDS, noise=0.001, epochs=FORKS, **options):
    """Forks of several seeds, whose accuracies have independent noise around the means."""
    kinds = {
        "schedule": options.pop("schedule", "exponential"),
        "config": options.pop("config", {}),
    }
    drawn = np.random.default_rng(options.pop("draw", 0)).normal(size=(seeds, len(epochs))) * noise
    for seed in range(seeds):
        for column, epoch in enumerate(epochs):
            made = workdirs.records(epoch, [means[column] + drawn[seed, column]])
            ended = workdirs.finished(T)
            axes = {"last_epoch": T, "result": ended, "setting": workdirs.SETTING | kinds} | options
            workdirs.write_fork(workdir, seed, epoch, made, **axes)


def write_study(workdir, means=FALLING, *, seeds=SEEDS, noise=0.001, peaks=(6,), **trunk):
    """One curve of paper A, and its trunks; their signal peaks at `peaks` in turn."""
    for seed in range(seeds):
        write_trunk(workdir, seed, peak=peaks[seed % len(peaks)], **trunk)
    write_curve(
        workdir, means, seeds=seeds, noise=noise, schedule=trunk.get("schedule", "exponential")
    )
    return workdir


def write_grid(workdir, rows, *, seeds=3, **axes):
    """One grid of paper B: rows of means by sparsity, and trunks that converge in time."""
    drawn = np.random.default_rng(1).normal(size=(len(rows), len(EPOCHS), seeds)) * 0.0005
    test = (np.array(rows)[..., None] + drawn)[..., None]
    regime_workdirs.write_forks(workdir, SPARSITIES, EPOCHS, test, **axes)
    trunk = [record | {"test_accuracy": 0.9} for record in regime_workdirs.step_trunk(40, 20)]
    distance = {seed: {"random_distance": peaking(10, 40)} for seed in range(seeds)}
    settings = {name: value for name, value in axes.items() if name in regime_workdirs.SETTING}
    regime_workdirs.write_trunks(workdir, range(seeds), trunk, signals=distance, **settings)
    return workdir


def judged(workdir):
    """The rows of a workdir by claim."""
    found = {}
    for row in claims.table(claims.sources_of([workdir])):
        found.setdefault(row["claim"], []).append(row)
    return found


def verdicts(workdir, *names):
    """The verdicts of the only row of each claim, in the order of the names."""
    return [row["verdict"] for name in names for row in judged(workdir)[name]]


@pytest.mark.parametrize(
    ("means", "seeds", "noise", "verdict"),
    [
        (FALLING, SEEDS, 0.001, "held"),
        (RISING, SEEDS, 0.001, "not held"),
        ([0.9] * 5, SEEDS, 0.01, "not settled"),
        (FALLING, 1, 0.001, "not tested"),
    ],
)
def test_early_is_best_where_no_late_epoch_may_be(tmp_path, means, seeds, noise, verdict):
    write_study(tmp_path, means, seeds=seeds, noise=noise)
    (row,) = judged(tmp_path)["A1"]
    assert (row["verdict"], row["chosen_on"], row["scale"]) == (verdict, "test", "own config")
    assert row["n"] == f"{seeds} seed{'s' * (seeds > 1)}"
    best = FORKS[int(np.argmax(means))] / T
    assert verdict == "not settled" or row["ours"].startswith(f"best at {best:.2f}")
    assert row["reason"] == ("1 seed: no test" if seeds == 1 else "")


def test_two_seeds_are_too_few_and_epochs_of_one_half_compare_nothing(tmp_path):
    write_study(tmp_path / "two", seeds=2)
    assert judged(tmp_path / "two")["A1"][0]["reason"] == "2 seeds: the test needs 3"
    write_curve(tmp_path / "half", epochs=(2, 6), means=(0.9, 0.8))
    (row,) = judged(tmp_path / "half")["A1"]
    assert (row["verdict"], row["reason"]) == ("not tested", "no fork was tried elsewhere")


@pytest.mark.parametrize(
    ("dense", "noise", "verdict"),
    [
        (0.951, 0.001, "held"),  # .1 points below dense, with a margin of .95
        (0.98, 0.001, "not held"),
        (0.96, 0.02, "not settled"),
    ],
)
def test_what_the_best_fork_loses_is_tested_against_a_hundredth_of_dense(
    tmp_path, dense, noise, verdict
):
    write_study(tmp_path, dense=dense, noise=noise)
    (row,) = judged(tmp_path)["A2"]
    assert row["verdict"] == verdict and f"(margin {dense:.2f} points)" in row["ours"]


@pytest.mark.parametrize(
    ("peaks", "noise", "verdict", "reason"),
    [
        ((5, 6), 0.001, "held", ""),
        ((15, 16), 0.001, "not held", ""),
        ((5, 6), 0.1, "not settled", ""),
        (
            (5, 6, 5, 20),
            0.001,
            "not tested",
            "largest at the last epoch measured in 1 of 4 seeds: no peak",
        ),
        ((7, 8), 0.001, "not tested", "no fork was tried there, as well as that is known"),
    ],
)
def test_near_the_peak_is_within_a_tenth_of_training_of_its_interval(
    tmp_path, peaks, noise, verdict, reason
):
    """The best fork is at epoch 6, and 2 epochs are near. Student's interval of two pairs of seeds
    that differ by 1 reaches .9 epochs around 5.5, 15.5 and 7.5."""
    write_study(tmp_path, peaks=peaks, noise=noise)
    (row,) = judged(tmp_path)["A3"]
    assert (row["verdict"], row["reason"]) == (verdict, reason)
    if noise < 0.1:
        apart = float(row["ours"].partition("apart ")[2].split()[0])
        assert apart == pytest.approx((6 - statistics.fmean(peaks)) / T, abs=0.0051)


def test_a_claim_for_all_fails_where_one_fails(tmp_path):
    for sparsity, means in ((0.8, FALLING), (0.97, RISING)):
        write_curve(tmp_path, means, sparsity=sparsity)
    for seed in range(SEEDS):
        write_trunk(tmp_path, seed, peak=5 + seed % 2)
    assert verdicts(tmp_path, "A5") == ["not held"]
    assert sorted(verdicts(tmp_path, "A3")) == ["held", "not held"]
    assert decide([0.01, 0.2], [0.9, 0.9]) == ("not settled", 0.2)
    assert decide([0.9, 0.2], [0.03, 0.9])[0] == "not settled"  # Holm: .06


def test_sizes_are_judged_together(tmp_path):
    for model in ("resnet8", "resnet14"):
        write_curve(tmp_path, setting=workdirs.SETTING | {"model": model})
    (row,) = judged(tmp_path)["A4"]
    assert row["verdict"] == "held"
    assert "resnet14 best at 0.30" in row["ours"] and "resnet8 best at 0.30" in row["ours"]


@pytest.mark.parametrize(
    ("small", "large", "verdict", "reason"),
    [
        ((5, 6, 5, 6), (14, 16, 15, 14), "held", ""),
        ((14, 16, 15, 14), (5, 6, 5, 6), "not held", ""),
        ((5, 6, 7, 8), (8, 5, 6, 9), "not settled", ""),
        (
            (5, 6, 7, 8),
            (9, 10, 11, 12),
            "not settled",
            "the same in all seeds: no spread to test by",
        ),
        (
            (5, 6, 7, 8),
            (9, 10, 11, 20),
            "not tested",
            "at 0.005 largest at the last epoch measured: no peak",
        ),
    ],
)
def test_peaks_come_in_the_order_of_weight_decays(tmp_path, small, large, verdict, reason):
    for decay, peaks in ((5e-4, small), (5e-3, large)):
        for seed, peak in enumerate(peaks):
            write_trunk(tmp_path, seed, peak=peak, optim={"weight_decay": decay})
    write_curve(tmp_path, config={"optim": {"weight_decay": 5e-4}}, seeds=1)
    (row,) = judged(tmp_path)["A6"]
    assert (row["verdict"], row["reason"]) == (verdict, reason)
    means = [f"{statistics.fmean(peaks) / T:.2f}" for peaks in (small, large)]
    assert row["ours"].split(" +- ")[0] == f"0.0005: {means[0]}"
    assert f", 0.005: {means[1]} +- " in row["ours"]


@pytest.mark.parametrize(
    ("of_cosine", "verdict"), [(RISING, "held"), (FALLING, "not settled"), (None, "not tested")]
)
def test_best_forks_come_in_the_order_of_schedules(tmp_path, of_cosine, verdict):
    num = 1 if of_cosine is None else SEEDS
    write_curve(tmp_path, seeds=num)
    write_curve(tmp_path, of_cosine or RISING, schedule="cosine", seeds=num, draw=1)
    (row,) = judged(tmp_path)["A8"]
    assert row["verdict"] == verdict and row["ours"].startswith("exponential: best at 0.30")


def test_best_forks_in_the_other_order_are_not_held(tmp_path):
    write_curve(tmp_path, RISING)
    write_curve(tmp_path, FALLING, schedule="cosine", draw=1)
    assert verdicts(tmp_path, "A8") == ["not held"]


@pytest.mark.parametrize(
    ("sign", "seconds", "expected"),
    [(1, (0.4, 0.1), ["held", "held"]), (-1, (0.1, 0.4), ["not held", "not held"])],
)
def test_kl_uniform_is_held_against_the_trace_along_training_and_by_seconds(
    tmp_path, sign, seconds, expected
):
    rng = np.random.default_rng(0)
    for seed in range(SEEDS):
        kl = sign * np.array(peaking(6)) + rng.normal(size=T)
        taken = dict(zip(("fisher_trace", "kl_uniform"), seconds, strict=True))
        taken["kl_uniform"] *= 1 + 0.01 * seed
        write_trunk(tmp_path, seed, kl=kl.tolist(), seconds=taken)
    write_curve(tmp_path)
    found = [*judged(tmp_path)["A11"], *judged(tmp_path)["A12"]]
    assert [row["verdict"] for row in found] == expected
    assert f"tr(F) {1.015 * seconds[1] / seconds[0]:.2f} +- " in found[1]["ours"]


def test_both_regimes_and_their_reverse(tmp_path):
    write_grid(tmp_path / "both", (CONVERGED, CONVERGED, EARLY, EARLY))
    write_grid(tmp_path / "reverse", (EARLY, EARLY, CONVERGED, CONVERGED))
    write_grid(tmp_path / "one", (CONVERGED, CONVERGED, EARLY, EARLY), seeds=1)
    for name, verdict in (("both", "held"), ("reverse", "not held"), ("one", "not tested")):
        # random_distance peaks at epoch 10 of 40 in all seeds, the best epochs are 10 and 38.
        assert verdicts(tmp_path / name, "B1", "B2", "B6") == [verdict] * 3
    assert judged(tmp_path / "one")["B1"][0]["reason"] == "1 seed: the test needs 3"


def test_similaritys_line_is_held_against_the_sparsities_that_the_regimes_settle(tmp_path):
    rows = (CONVERGED, CONVERGED, EARLY, EARLY)
    for name, divergence in (("agrees", (0.01, 0.01, 0.2, 0.2)), ("not", (0.01, 0.2, 0.2, 0.2))):
        write_grid(tmp_path / name, rows)
        regime_workdirs.write_comparisons(
            tmp_path / name, SPARSITIES, EPOCHS, np.repeat(divergence, 4).reshape(4, 4)
        )
    (row,) = judged(tmp_path / "agrees")["B5"]
    assert row["verdict"] == "held" and "4 of 4 sides agree" in row["ours"]
    assert verdicts(tmp_path / "not", "B5") == ["not held"]


@pytest.mark.parametrize(
    ("deep", "verdict"),
    [
        ((0.75, 0.70, 0.8, 0.75), "held"),
        ((0.1, 0.15, 0.1, 0.1), "not held"),
    ],
)
def test_depth_moves_the_best_epoch(tmp_path, deep, verdict):
    """The best epochs of a seed are averaged over the heavy sparsities, and paired over seeds."""
    epochs, sparsities = (4, 6, 12, 14, 16, 28, 30, 32, 40), (0.8, 0.9)
    for model, bests in (("preresnet8", (0.3, 0.35, 0.3, 0.4)), ("preresnet14", deep)):
        apart = np.abs(np.array(epochs)[:, None] / 40 - np.array(bests))
        test = np.broadcast_to(0.9 - apart / 10, (2, len(epochs), len(deep)))[..., None]
        regime_workdirs.write_forks(tmp_path, sparsities, epochs, test, model=model)
    (row,) = judged(tmp_path)["B3"]
    assert row["verdict"] == verdict
    assert row["ours"].startswith("8: 0.34 +- 0.05, 14: ")
    assert row["where"].endswith("90 % removed")
    assert verdicts(tmp_path, "B4") == ["not tested"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((CONVERGED, EQUAL, EQUAL, EARLY), ["held", "held"]),
        ((CONVERGED, CONVERGED, EARLY, EARLY), ["held", "not held"]),
        ((EQUAL, EQUAL, EQUAL, EQUAL), ["not held", "not held"]),
    ],
)
def test_translation_has_two_regimes_and_a_region_between(tmp_path, rows, expected):
    write_grid(tmp_path, rows, seeds=4)
    held = {"task": {"name": "translation(beam=1)"}}
    workdirs.write_of_study(tmp_path, "config.json", held)
    assert verdicts(tmp_path, "B7", "B8") == expected
    assert judged(tmp_path)["B1"][0]["reason"] == "no run of this kind here"


def test_controls_stand_beside_the_claims(tmp_path):
    write_study(tmp_path, peaks=(14, 15, 14, 15))
    write_curve(tmp_path, RISING, retraining="matched_anneal", draw=1)
    # Pruned before training: a control, and no candidate for the best fork.
    write_curve(tmp_path, (0.9,), epochs=(0,), draw=2)
    found = judged(tmp_path)
    (anneal,), (early,), (start,), (fixed,) = (found[name] for name in ("C1", "A1", "C2", "C4"))
    assert (anneal["verdict"], early["verdict"], start["verdict"]) == ("not held", "held", "held")
    assert start["ours"].startswith("+5.") and start["where"].endswith(
        "against magnitude before training, paper_a"
    )
    # The peak is late, 30 % of training is the best epoch.
    assert fixed["verdict"] == "not held" and fixed["ours"].endswith(" 0.0 points at 30 %")


def test_what_was_sparse_from_the_start_may_win(tmp_path):
    write_study(tmp_path)
    write_curve(tmp_path, (0.97,), epochs=(0,), draw=2)
    assert verdicts(tmp_path, "C2", "A1") == ["not held", "held"]
    assert judged(tmp_path)["C2"][0]["ours"].startswith("-1.")


def test_a_constant_rate_is_a_control_and_no_claim(tmp_path):
    write_grid(tmp_path, (CONVERGED, CONVERGED, EARLY, EARLY), schedule="constant")
    assert verdicts(tmp_path, "C3") == ["held"]
    assert judged(tmp_path)["B1"][0]["reason"] == "no run of this kind here"


def panels(*starts):
    return [panel for name, panel in RAW.items() if name.split("_")[0] in starts]


def best_and_peak(panel):
    """Parts of 200 epochs: the best fork of each curve, the signal's maximum."""
    bests = [panel["prune_epochs"][int(np.argmax(own))] / 200 for own in panel["acc"].values()]
    metric = panel.get("metric")
    return bests, metric and metric["epoch"][int(np.argmax(metric["value"]))] / 200


def test_the_published_column_is_of_the_raw_numbers():
    said = {row["claim"]: row["published"] for row in claims.table([])}
    sizes = [best for panel in panels("fig2", "fig10") for best in best_and_peak(panel)[0]]
    before = sum(best < 0.5 for best in sizes)
    middle, ends = statistics.median(sizes), (min(sizes), max(sizes))
    assert said["A4"] == (
        f"before T/2 in {before} of 10; at {middle:.2f} ({ends[0]:.2f} to {ends[1]:.2f}; 10 curves)"
    )
    decays = [best_and_peak(panel)[1] for panel in panels("fig4a", "fig4b", "fig4c")]
    names = ("0.005", "0.0005", "5e-05")
    assert said["A6"] == ", ".join(
        f"{name}: {peak:.2f}" for name, peak in zip(names, decays, strict=True)
    )
    bests = [best_and_peak(panel)[0][0] for panel in panels("fig6a", "fig6b", "fig6c")]
    schedules = ("exponential", "cosine", "linear")
    assert said["A8"] == ", ".join(
        f"{name}: {best:.2f}" for name, best in zip(schedules, bests, strict=True)
    )
    apart = []
    for panel in panels("fig8a", "fig8b", "fig8c"):
        (best,), peak = best_and_peak(panel)
        apart.append(best - peak)
    near = sum(abs(each) < 0.1001 for each in apart)
    assert said["A10"].startswith(f"within 0.1 in {near} of 3; best less peak ")
    assert f"{statistics.median(apart):.2f} ({min(apart):.2f} to {max(apart):.2f}" in said["A10"]
    assert {said[f"B{number}"] for number in range(1, 9)} == {"no number published"}


def test_the_losses_published_are_those_of_every_distinct_curve():
    (said,) = {row["published"] for row in claims.table([]) if row["claim"] == "A2"}
    # Panels 12c and 4c are the same numbers; those of one run at 80 % stand in several panels.
    kept = {
        (panel["baseline_best_top1"], *own): max(own) - panel["baseline_best_top1"]
        for name, panel in RAW.items()
        if panel.get("baseline_best_top1") and "fisher" not in name
        for own in panel["acc"].values()
    }
    losses = list(kept.values())
    assert said.startswith(f"{statistics.median(losses):.2f} ({min(losses):.2f} to ")
    assert f"{max(losses):.2f}; {len(losses)} curves)" in said


def test_the_command_prints_and_writes_the_table(tmp_path, capsys):
    write_study(tmp_path / "run")
    figure = {"name": "A 1a", "scale": "short", "changed": ["train.num_epochs: 200 -> 20"]}
    config = {"data": {"name": "digits"}, "train": {"num_epochs": T}, "figure": figure}
    workdirs.write_of_study(tmp_path / "run", "config.json", config)
    before = sorted(tmp_path.rglob("*"))
    assert claims.main([str(tmp_path / "run")]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().out
    assert "A1  Under the exponential schedule" in said and "held (p " in said
    assert "Shrunken (short): train.num_epochs: 200 -> 20." in " ".join(said.split())
    assert "chosen on the test metric that is reported" in " ".join(said.split())
    path = tmp_path / "claims.csv"
    assert claims.main([str(tmp_path / "run"), "--csv", str(path)]) == 0
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == claims.COLUMNS
    first = rows[0]
    assert (first["claim"], first["verdict"], first["scale"]) == ("A1", "held", "short")
    assert first["changed"] == "train.num_epochs: 200 -> 20"
    counted = [sum(row["verdict"] == kind for row in rows) for kind in ("held", "not tested")]
    assert f"Verdicts: {counted[0]} held" in said and f"{counted[1]} not tested." in said


def damaged(workdir):
    write_study(workdir, seeds=1)
    (trunk,) = (workdir / "trunks").iterdir()
    (trunk / "run.json").write_text("{")


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda workdir: None, (), "to be a directory"),
        (lambda workdir: workdir.mkdir(), (), "to hold runs of an experiment"),
        (lambda workdir: write_trunk(workdir, 0), (), "to hold finished forks"),
        (damaged, (), "run.json"),
        (write_study, ("{}",), "to be given once"),
        (write_study, ("--csv", "no/such/folder/x.csv"), "to lie in a folder that is there"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_code_2(tmp_path, capsys, make, options, words):
    make(tmp_path / "run")
    given = [str(tmp_path / "run"), *(option.format(tmp_path / "run") for option in options)]
    assert claims.main(given) == 2
    said = capsys.readouterr().err
    assert said.startswith("- Expected ") and words in said


def test_all_problems_are_told_at_once(tmp_path, capsys):
    given = [str(tmp_path / "run"), "--csv", str(tmp_path / "no" / "claims.csv")]
    assert claims.main(given) == 2
    said = capsys.readouterr().err.splitlines()
    assert ["--csv" in said[0], "DIR" in said[1]] == [True, True] and len(said) == 2
