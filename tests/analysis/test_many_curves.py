"""Grids of many sparsities: one row per curve in the summary, colours in order in the figure."""

import re
import shutil

import workdirs
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from earlyprune_jax.analysis import curves, drawing, figures, results, summary

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99)
DENSE = (0.95, 0.96, 0.97)
# At .5: 4 is best, by .02 .03 .04 of 8 and .10 .10 .11 of 2 (clear); by -.02 .02 .03 from .9 on
# (unsettled).
EASY = {2: (0.80, 0.82, 0.83), 4: (0.90, 0.92, 0.94), 8: (0.88, 0.89, 0.90)}
HARD = {2: (0.80, 0.82, 0.83), 4: (0.90, 0.92, 0.94), 8: (0.92, 0.90, 0.91)}


def write_grid(
    workdir, *, sparsities=SPARSITIES, retraining=("paper_a",), setting=workdirs.SETTING
):
    workdirs.write_config(workdir, num_epochs=10)
    for seed, accuracy in enumerate(DENSE):
        made = workdirs.records(0, [accuracy] * 10)
        ended = workdirs.finished(10)
        workdirs.write_trunk(workdir, seed, made, last_epoch=10, result=ended, setting=setting)
        for sparsity in sparsities:
            for epoch, accuracies in (HARD if sparsity >= 0.9 else EASY).items():
                for way in retraining:
                    made = workdirs.records(epoch, [accuracies[seed] - sparsity / 10])
                    axes = {
                        "sparsity": sparsity,
                        "retraining": way,
                        "last_epoch": 10,
                        "setting": setting,
                    }
                    workdirs.write_fork(workdir, seed, epoch, made, result=ended, **axes)


def styles_in(workdir):
    setting = curves.Setting(results.read_runs(workdir))
    return list(drawing.styles(curve.place.kind for curve in setting.curves).values())


def cells(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


HEADINGS = ["sparsity", "epoch", "tried", "test", "n", "dense", "difference", "as good"]


def test_every_curve_has_a_row_in_the_table_of_forks(tmp_path):
    write_grid(tmp_path)
    text = summary.summarize(tmp_path)
    assert (
        "Forks (magnitude, global, retrained by paper_a): test accuracy (%) at the best of the"
        in " ".join(text.split())
    )
    rows = cells(text)
    start = rows.index(HEADINGS) + 1
    assert len({tuple(row) for row in rows[start : start + 9]}) == 9
    # 92 - 5 = 87 +- 2; against dense -.05 -.04 -.03 less .05.
    dense = "96.0 +- 1.0"
    expected = ["50 %", "4", "3", "87.00 +- 2.00", "3", dense, "-9.00 +- 1.00", "none"]
    assert rows[start] == expected
    expected = ["90 %", "4", "3", "83.00 +- 2.00", "3", dense, "-13.00 +- 1.00", "8"]
    assert rows[start + 4][:-1] == expected[:-1] and rows[start + 4][-1] != "none"


def test_curves_of_all_settings_share_one_table(tmp_path):
    for model in ("resnet20", "resnet56"):
        write_grid(
            tmp_path, sparsities=SPARSITIES[:3], setting={**workdirs.SETTING, "model": model}
        )
    rows = cells(summary.summarize(tmp_path))
    start = rows.index(["model", *HEADINGS]) + 1
    names = [row[:2] for row in rows[start : start + 6]]
    sparsities = ("50 %", "60 %", "70 %")
    assert names == [[model, s] for model in ("resnet20", "resnet56") for s in sparsities]


def test_an_end_of_the_epochs_an_only_epoch_and_what_is_missing_are_marked(tmp_path):
    write_grid(tmp_path, sparsities=SPARSITIES[:4])
    for seed in range(3):
        for epoch, accuracy in ((2, 0.97 + 0.001 * seed), (4, 0.8)):
            made = workdirs.records(epoch, [accuracy])
            workdirs.write_fork(
                tmp_path, seed, epoch, made, sparsity=0.1, result=workdirs.finished()
            )
    workdirs.write_fork(
        tmp_path, 0, 6, workdirs.records(6, [0.9]), sparsity=0.2, result=workdirs.finished()
    )
    workdirs.write_fork(tmp_path, 1, 6, [], sparsity=0.2, result=workdirs.FAILED)
    text = summary.summarize(tmp_path)
    rows = cells(text)
    first, second = rows[rows.index(HEADINGS) + 1 :][:2]
    dense = "96.0 +- 1.0"
    numbers = ["97.10 +- 0.10", "3", dense, "+1.10 +- 0.90", "none"]
    assert first == ["10 %", "2 (earliest)", "2", *numbers]
    assert second == ["20 %", "6", "1", "90.00", "1", dense, "-5.00", "-"]
    words = " ".join(text.split())
    assert (
        "Not in these numbers: 20 % epoch 6 seed 1 failed (RuntimeError: out of memory)." in words
    )


def test_lines_of_the_widest_table_fit_in_a_terminal(tmp_path):
    write_grid(tmp_path, retraining=("matched_anneal", "constant"))
    workdirs.write_fork(
        tmp_path, 0, 2, workdirs.records(2, [0.9]), scope="uniform", result=workdirs.finished()
    )
    lines = summary.summarize(tmp_path).splitlines()
    # Three axes vary: only the rows of the table may be a little wider than the text.
    table = [line for line in lines if line.endswith(("as good", "8 and 2", "none"))]
    assert max(len(line) for line in lines if line not in table) <= 100
    assert max(map(len, table)) <= 105
    assert sum(line.startswith("  global ") for line in lines) >= 18


def test_many_runs_that_pruned_themselves_have_a_row_per_curve(tmp_path):
    workdirs.write_config(tmp_path, num_epochs=10)
    workdirs.write_trunk(
        tmp_path, 0, workdirs.records(0, [0.9] * 5), last_epoch=10, result=workdirs.finished(5)
    )
    for sparsity in SPARSITIES[:5]:
        made = workdirs.records(5, [0.9 - sparsity / 10])
        axes = {"fired_epoch": 5, "sparsity": sparsity, "last_epoch": 10}
        workdirs.write_online(tmp_path, 0, 5, made, result=workdirs.finished(10), **axes)
    text = summary.summarize(tmp_path)
    assert "(rule peak(fisher_trace))" in " ".join(text.split())
    assert "Forks (magnitude, global, retrained by paper_a): " in text
    assert ["50 %", "5 (pruned itself)", "-", "85.00", "1", "-", "-", "-"] in cells(text)
    assert text.count("5 (pruned itself)") == 5


def test_up_to_36_curves_of_nine_sparsities_and_four_rules_look_different(tmp_path):
    write_grid(tmp_path, retraining=("paper_a", "matched_anneal", "continue", "constant"))
    made = styles_in(tmp_path)
    assert len(made) == len(set(made)) == 36
    assert len({style.color for style in made}) == 9


def test_shades_grow_lighter_with_the_sparsity(tmp_path):
    write_grid(tmp_path)
    made = styles_in(tmp_path)
    luminance = [
        sum(
            weight * int(style.color[i : i + 2], 16)
            for weight, i in ((0.3, 1), (0.59, 3), (0.11, 5))
        )
        for style in made
    ]
    assert luminance == sorted(luminance) and luminance[-1] - luminance[0] > 100


def test_the_dots_of_single_runs_are_left_out_of_a_crowded_figure(tmp_path):
    write_grid(tmp_path)
    _, svg = figures.draw_main(tmp_path)
    assert (
        "dots are single runs" not in svg.read_text() and "mean ± one standard" in svg.read_text()
    )


def shaded(workdir):
    """The fork epochs within each span that is shaded in the upper axes, and its colour."""
    (panel, *_) = figures._draw(curves.settings_of(results.read_runs(workdir))).axes
    found = []
    for patch in panel.patches:
        if isinstance(patch, Rectangle) and drawing.AS_GOOD in str(patch.get_label()):
            low, high = patch.get_x(), patch.get_x() + patch.get_width()
            epochs = [epoch for epoch in EASY if low <= epoch <= high]
            found.append((to_hex(patch.get_facecolor()).upper(), epochs))
    return found


def test_epochs_that_may_be_as_good_as_the_best_are_shaded(tmp_path):
    write_grid(tmp_path, sparsities=(0.9,))
    assert shaded(tmp_path) == [(drawing.COLORS[0], [4, 8])]
    # The summary's list names the best as well as these.
    assert re.search(r"^ *90 % +4 .* 8$", summary.summarize(tmp_path), re.MULTILINE)


def test_each_of_a_few_curves_has_a_strip_of_its_own_colour(tmp_path):
    write_grid(tmp_path, sparsities=(0.5, 0.9))
    assert shaded(tmp_path) == [(drawing.COLORS[0], [4]), (drawing.COLORS[1], [4, 8])]


def test_nothing_is_shaded_where_the_noise_is_unknown(tmp_path):
    write_grid(tmp_path, sparsities=(0.9,))
    for path in tmp_path.glob("forks/seed-[12]*"):
        shutil.rmtree(path)
    assert shaded(tmp_path) == []
