import itertools
import math
import xml.etree.ElementTree as ElementTree

import pytest
import workdirs

from earlyprune_jax.analysis import figures

MEANS = {2: 0.914, 4: 0.932, 8: 0.946, 12: 0.938, 20: 0.945, 28: 0.929, 36: 0.848}
GRID = tuple(MEANS)
SIGNALS = [
    {
        "fisher_trace": 186.0 * (epoch / 9) * math.exp(1 - epoch / 9),
        "fisher_trace_all": 500.0,
        "kl_uniform_bits": 3.0 * (1 - math.exp(-epoch / 5)),
        "fisher_trace_by_parameter": {"stem_conv/kernel": 1.0},
    }
    for epoch in range(1, 41)
]
SPREAD = {1: (0.0,), 3: (-0.01, 0.0, 0.01)}


def write_experiment(
    workdir, *, num_seeds=3, grid=GRID, sparsities=(0.97,), retraining=("paper_a",), signals=SIGNALS
):
    workdirs.write_config(workdir)
    for seed, offset in enumerate(SPREAD[num_seeds]):
        trunk = workdirs.records(0, [0.959 + offset / 10] * 40, signals=signals)
        workdirs.write_trunk(workdir, seed, trunk, result=workdirs.finished())
        cells = itertools.product(sparsities, retraining, grid)
        for sparsity, way, epoch in cells:
            accuracy = MEANS[epoch] - (sparsity - 0.97) / 10 + offset
            made = workdirs.records(epoch, [accuracy] * (40 - epoch))
            axes = {"sparsity": sparsity, "retraining": way}
            workdirs.write_fork(workdir, seed, epoch, made, result=workdirs.finished(), **axes)


def drawn_texts(workdir):
    png, svg = figures.draw_main(workdir)
    assert png.read_bytes().startswith(b"\x89PNG\r\n")
    root = ElementTree.parse(svg).getroot()
    return ["".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("}text")]


def test_figure_names_best_fork_epoch_baseline_and_signal_peaks(tmp_path):
    write_experiment(tmp_path)
    texts = drawn_texts(tmp_path)
    assert "best fork epoch: 8 (94.6 %)" in texts
    assert "pruned forks: best 94.6 ± 1.0 % at epoch 8" in texts
    assert "dense baseline, never pruned: 95.9 ± 0.1 %" in texts
    assert "tr(F), conv kernels: peak 186 at epoch 9" in texts
    # 3 (1 - exp(-8)) = 2.999: the curve still rises a little, so the maximum is an edge.
    assert "KL_uniform: maximum 3.00 bits at last epoch 40 (no peak)" in texts
    assert "best fork epoch (highest mean test accuracy)" in texts
    assert (
        "digits, resnet8, T = 40 epochs; forks: magnitude, global, 97 % removed, "
        "retrained by paper_a" in texts
    )
    assert "3 seeds: mean ± one standard deviation; dots are single runs" in texts


def test_the_trace_over_all_parameters_is_not_drawn_beside_that_of_the_kernels(tmp_path):
    write_experiment(tmp_path, num_seeds=1)
    assert not any("all parameters" in text for text in drawn_texts(tmp_path))


def test_the_same_files_give_the_same_bytes(tmp_path):
    write_experiment(tmp_path, num_seeds=1)
    first = [path.read_bytes() for path in figures.draw_main(tmp_path)]
    second = [path.read_bytes() for path in figures.draw_main(tmp_path)]
    assert first == second


def test_one_seed_shows_no_spread(tmp_path):
    write_experiment(tmp_path, num_seeds=1)
    texts = drawn_texts(tmp_path)
    assert "pruned forks: best 94.6 % at epoch 8" in texts
    assert not any("±" in text for text in texts)


def test_the_legend_names_only_the_axes_that_vary(tmp_path):
    write_experiment(tmp_path, num_seeds=1, sparsities=(0.9, 0.97))
    texts = drawn_texts(tmp_path)
    assert "90 % removed: best 95.3 % at epoch 8" in texts
    assert "97 % removed: best 94.6 % at epoch 8" in texts
    assert "digits, resnet8, T = 40 epochs; forks: magnitude, global, retrained by paper_a" in texts


def test_eight_curves_are_all_in_the_legend(tmp_path):
    rules = ("paper_a", "matched_anneal", "continue", "constant")
    write_experiment(tmp_path, num_seeds=1, sparsities=(0.9, 0.97), retraining=rules)
    texts = drawn_texts(tmp_path)
    assert sum("removed, retrained" in text and "at epoch 8" in text for text in texts) == 8


def test_baselines_beside_the_grid_are_not_drawn(tmp_path):
    write_experiment(tmp_path, num_seeds=1)
    # Trained longer, it is above all of the grid.
    made, axes = workdirs.records(0, [0.99]), {"retraining": "matched_budget", "sparsity": 0.9}
    workdirs.write_fork(tmp_path, 0, 0, made, result=workdirs.finished(), **axes)
    rules = ["paper_a"]
    workdirs.write_config(tmp_path, retraining=rules, criteria=["magnitude"])
    texts = drawn_texts(tmp_path)
    assert "pruned forks: best 94.6 % at epoch 8" in texts
    assert not any("matched_budget" in text or "99.0" in text for text in texts)
    # As a rule of the grid it is one of its curves.
    workdirs.write_config(tmp_path, retraining=[*rules, "matched_budget"], criteria=["magnitude"])
    assert any(
        "retrained by matched_budget: 99.0 % at epoch 0" in text for text in drawn_texts(tmp_path)
    )


def test_baselines_alone_leave_the_figure_without_forks(tmp_path):
    write_experiment(tmp_path, num_seeds=1, grid=())
    made = workdirs.records(0, [0.99])
    workdirs.write_fork(
        tmp_path, 0, 0, made, result=workdirs.finished(), retraining="matched_budget"
    )
    workdirs.write_config(tmp_path, retraining=["paper_a"], criteria=["magnitude"])
    assert "no fork of the grid has finished yet" in drawn_texts(tmp_path)


def test_validation_moves_the_star_and_the_figure_says_so(tmp_path):
    workdirs.write_config(tmp_path)
    for epoch, test, validation in ((2, 0.9, 0.5), (4, 0.8, 0.6)):
        made = workdirs.records(epoch, [test], validation_accuracy=[validation])
        workdirs.write_fork(tmp_path, 0, epoch, made, result=workdirs.finished())
    texts = drawn_texts(tmp_path)
    assert "best fork epoch: 4 (80.0 %)" in texts
    assert "best fork epoch (highest mean validation accuracy)" in texts


def test_diverged_runs_are_counted_and_left_out(tmp_path):
    write_experiment(tmp_path, num_seeds=1)
    diverged = {
        "status": "diverged",
        "epoch": 9,
        "step": 80,
        "achieved_sparsity": 0.97,
        "reason": "nan",
    }
    workdirs.write_fork(tmp_path, 7, 8, workdirs.records(8, [0.01]), result=diverged)
    texts = drawn_texts(tmp_path)
    assert "1 seed, so the noise is unknown; 1 diverged run left out" in texts
    assert "pruned forks: best 94.6 % at epoch 8" in texts


@pytest.mark.parametrize(
    ("grid", "signals", "expected"),
    [
        ((8,), SIGNALS, "pruned forks: 94.6 ± 1.0 % at epoch 8"),
        ((), SIGNALS, "no fork of the grid has finished yet"),
        (GRID, None, "best fork epoch: 8 (94.6 %)"),
        (
            GRID,
            [{"x": -1.0 - epoch} for epoch in range(40)],
            "x: maximum -1.00 at first epoch 1 (no peak)",
        ),
        (GRID, [{"x": 0.0}] * 40, "x: maximum 0.00 at first epoch 1 (no peak)"),
    ],
)
def test_figure_stands_when_parts_are_missing(tmp_path, grid, signals, expected):
    write_experiment(tmp_path, grid=grid, signals=signals)
    assert expected in drawn_texts(tmp_path)


def test_an_experiment_with_only_a_running_trunk_shows_its_signals(tmp_path):
    workdirs.write_trunk(tmp_path, 0, workdirs.records(0, [0.5] * 20, signals=SIGNALS[:20]))
    assert any("peak 186 at epoch 9" in text for text in drawn_texts(tmp_path))


def test_nothing_to_draw_writes_nothing(tmp_path):
    assert figures.draw_main(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_drawing_leaves_the_global_settings_of_matplotlib_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_experiment(tmp_path, num_seeds=1)
    figures.draw_main(tmp_path)
    assert dict(matplotlib.rcParams) == before
