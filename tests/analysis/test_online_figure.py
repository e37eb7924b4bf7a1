import math

import pytest
import workdirs

from earlyprune_jax.analysis import curves, online_figure, results

T = 8
DENSE = [0.2, 0.5, 0.7, 0.8, 0.9]
PRUNED = [0.1, 0.6, 0.85]


def write_run(
    workdir, seed=0, *, fired: int | None = 5, pruned_at=5, sparsity=0.97, trigger="peak(x)"
):
    """A run that trained 5 dense epochs, was pruned, and trained 3 more."""
    made = workdirs.records(pruned_at, PRUNED)
    axes = {"fired_epoch": fired, "marked_epoch": pruned_at, "sparsity": sparsity}
    axes["trigger"] = trigger
    ended = workdirs.finished(pruned_at + len(PRUNED))
    last = pruned_at + len(PRUNED)
    workdirs.write_online(workdir, seed, pruned_at, made, last_epoch=last, result=ended, **axes)


def write_trunk(workdir, seed=0):
    made = workdirs.records(0, DENSE)
    workdirs.write_trunk(workdir, seed, made, last_epoch=T, result=workdirs.finished(len(DENSE)))


def drawn(workdir):
    settings = curves.settings_of(results.read_runs(workdir))
    return online_figure._figure(workdir, [one for each in settings for one in each.online])


def points(line):
    return [(x, round(y, 6)) for x, y in line.get_xydata().tolist()]


@pytest.mark.parametrize(
    ("pruned_at", "first", "label"),
    [
        (5, (5, 90.0), "pruned after epoch 5: 90.0 → 10.0 → 85.0"),
        (2, (2, 50.0), "pruned after epoch 5, rewound to 2: 50.0 → 10.0 → 85.0"),
    ],
)
def test_a_run_is_drawn_along_its_training_with_its_fall_and_what_came_back(
    tmp_path, pruned_at, first, label
):
    workdirs.write_config(tmp_path, num_epochs=T)
    write_trunk(tmp_path)
    write_run(tmp_path, pruned_at=pruned_at)
    (axes,) = drawn(tmp_path).axes
    fired, dense, pruned = axes.lines
    assert {x for x, _ in points(fired)} == {5}
    assert points(dense) == [(1, 20.0), (2, 50.0), (3, 70.0), (4, 80.0), (5, 90.0)]
    # However old its weights are, the pruned part is trained after the dense one, up to T.
    assert points(pruned) == [first, (6, 10.0), (7, 60.0), (8, 85.0)]
    assert pruned.get_label() == f"seed 0: {label}"


def test_a_fallback_is_drawn_and_named_otherwise_than_a_firing(tmp_path):
    workdirs.write_config(tmp_path, num_epochs=T)
    rule = "early_bird(mask_distance, threshold=0.1)"
    for seed, fired in ((0, 5), (1, None)):
        write_trunk(tmp_path, seed)
        write_run(tmp_path, seed, fired=fired, trigger=rule)
    figure = drawn(tmp_path)
    (axes,) = figure.axes
    assert [line.get_linestyle() for line in axes.lines[::3]] == [":", "-."]
    label = "seed 1: pruned after epoch 5 (fallback): 90.0 → 10.0 → 85.0"
    assert axes.lines[5].get_label() == label
    said = " ".join(figure.get_suptitle().split())
    marks = "dashed: dense; dotted: the rule fired; dash-dotted: fallback"
    assert f"Rule: early_bird(); {marks}" in said
    assert "Three numbers: dense, after the first pruned epoch, at the end." in said


def test_seeds_have_colours_and_curves_have_panels(tmp_path):
    workdirs.write_config(tmp_path, num_epochs=T)
    for seed in (0, 1):
        write_trunk(tmp_path, seed)
        for sparsity in (0.9, 0.97):
            write_run(tmp_path, seed, sparsity=sparsity)
    panels = drawn(tmp_path).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["90 % removed", "97 % removed"]
    colors = [[axes.lines[2].get_color(), axes.lines[5].get_color()] for axes in panels]
    assert colors[0] == colors[1]
    assert len(set(colors[0])) == 2


def test_values_that_were_not_finite_are_left_out(tmp_path):
    workdirs.write_config(tmp_path, num_epochs=T)
    made = workdirs.records(0, DENSE)
    made[2]["test_accuracy"] = None
    workdirs.write_trunk(tmp_path, 0, made, last_epoch=T, result=workdirs.finished(5))
    write_run(tmp_path)
    (axes,) = drawn(tmp_path).axes
    assert [x for x, y in points(axes.lines[1]) if math.isfinite(y)] == [1, 2, 4, 5]


def test_the_figure_is_written_where_runs_pruned_themselves_and_nowhere_else(tmp_path):
    workdirs.write_config(tmp_path, num_epochs=T)
    write_trunk(tmp_path)
    assert online_figure.draw(tmp_path) == []
    write_run(tmp_path)
    names = ["accuracy_vs_epoch.png", "accuracy_vs_epoch.svg"]
    assert [path.name for path in online_figure.draw(tmp_path)] == names
