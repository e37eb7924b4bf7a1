import shutil

import numpy as np
import pytest
import regime_workdirs as workdirs
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from earlyprune_jax.analysis import drawing, results
from earlyprune_jax.analysis import figures as main_figure
from earlyprune_jax.analysis.curves import settings_of
from earlyprune_jax.analysis.regimes import figures, findings, heatmaps, similarity
from earlyprune_jax.analysis.regimes.heatmaps import HeatMap

NAN = np.nan


def published(tmp_path, **axes):
    sparsities, test = workdirs.published(seeds=3)
    workdirs.write_forks(tmp_path, sparsities, workdirs.PUBLISHED_EPOCHS, test, **axes)
    workdirs.write_trunks(tmp_path, range(3), workdirs.step_trunk(), **axes)


def found_in(tmp_path):
    return findings.analyse(results.read_runs(tmp_path), similarity.read(tmp_path))


def meshes_of(figure):
    """The maps of a figure, colour bars left out."""
    return [axes.collections[0] for axes in figure.axes if axes.get_label() != "<colorbar>"]


def map_of(values, **options):
    values = np.array(values, dtype=float)
    sparsities = tuple(np.linspace(0.1, 0.9, len(values)))
    options.setdefault("failed", np.zeros(values.shape, dtype=bool))
    return HeatMap("title", sparsities, tuple(range(values.shape[1])), values, **options)


def test_the_maps_of_the_published_grid_hold_its_numbers_and_stars(tmp_path):
    published(tmp_path)
    (found,) = found_in(tmp_path)
    accuracy, difference = heatmaps.value_map(found, ""), heatmaps.difference_map(found, "")
    error = 100 * workdirs.PUBLISHED_ERROR.T[::-1]
    np.testing.assert_allclose(accuracy.values, 100 - error, atol=1e-9)
    np.testing.assert_allclose(
        difference.values, error.min(axis=1, keepdims=True) - error, atol=1e-9
    )
    starred = [workdirs.PUBLISHED_EPOCHS[column] for column in difference.stars]
    assert starred == [110, 110, 90, 80, 70, 80, 80, 80, 60]
    # Epoch 90 is the first converged column.
    assert difference.boundary == 8


def test_the_drawn_maps_show_every_cell_row_and_column_from_light_to_heavy(tmp_path):
    published(tmp_path)
    (found,) = found_in(tmp_path)
    figure = heatmaps.grid_maps(found)
    for axes in (axes for axes in figure.axes if axes.get_label() != "<colorbar>"):
        assert [int(tick.get_text()) for tick in axes.get_xticklabels()] == list(
            workdirs.PUBLISHED_EPOCHS
        )
        ticks = [float(tick.get_text()) for tick in axes.get_yticklabels()]
        assert ticks == [20, 60, 80, 86, 90, 92, 93, 94, 95] and axes.get_ylim() == (-0.5, 8.5)
        assert len(axes.texts) == 9 * 16
    lower = np.asarray(meshes_of(figure)[1].get_array(), dtype=float)
    np.testing.assert_allclose(lower.ravel(), heatmaps.difference_map(found, "").values.ravel())
    # 5 % density at epoch 160: 14.58 - 17.44.
    assert [axes.texts for axes in figure.axes][1][-1].get_text() == "\N{MINUS SIGN}2.9"


def test_panels_of_a_series_share_one_colour_axis_a_row(tmp_path):
    published(tmp_path)
    published(tmp_path, model="preresnet56", retraining="constant")
    found = found_in(tmp_path)
    (series,) = findings.series(found)
    figure = heatmaps.scaling_maps(series)
    above, below = np.reshape([mesh.get_clim() for mesh in meshes_of(figure)], (2, 2, 2))
    assert (
        (above[0] == above[1]).all()
        and (below[0] == below[1]).all()
        and (above[0] != below[0]).all()
    )


def test_cells_without_a_number_are_hatched_by_what_is_wrong(tmp_path):
    failed = np.array([[False, False], [True, False]])
    one = map_of([[1, NAN], [NAN, 2]], failed=failed)
    axes = drawing.blank(3, 3).add_subplot()
    heatmaps.draw(axes, one, heatmaps.limits([one]), numbered=True)
    hatches = {p.get_xy(): p.get_hatch() for p in axes.patches if isinstance(p, Rectangle)}
    assert hatches == {(0.5, -0.5): "///", (-0.5, 0.5): "xxxx"}
    assert [text.get_text() for text in axes.texts] == ["1.0", "2.0"]
    names = [handle.get_label() for handle in drawing.labelled([axes])]
    assert names == ["not measured", "diverged or failed"]


def test_differences_that_are_small_keep_their_sign():
    one = map_of([[-0.04, 0.04, -0.004]])
    axes = drawing.blank(3, 3).add_subplot()
    heatmaps.draw(axes, one, heatmaps.limits([one]), numbered=True)
    drawn = [text.get_text() for text in axes.texts]
    assert drawn == ["\N{MINUS SIGN}0.04", "0.04", "0.00"]


def test_numbers_stay_readable_on_dark_and_bright_cells():
    one = map_of([[0.0, 1.0]])
    axes = drawing.blank(3, 3).add_subplot()
    heatmaps.draw(axes, one, (0.0, 1.0, False), numbered=True)
    assert [text.get_color() for text in axes.texts] == ["white", "black"]


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([[-3.0, -2.0, -1.0, 0.0]], (-3.0, 0.0, False)),
        # A quarter of the cells reaches 50 points down: they share the colour of -2.
        ([[-50.0, -2.0, -2.0, -1.0, 0.0]], (-2.0, 0.0, True)),
        ([[5.0, 5.0]], (4.5, 5.5, False)),
        ([[NAN]], (0.0, 1.0, False)),
    ],
)
def test_the_colour_axis_is_cut_only_where_a_few_cells_would_take_it_all(values, scale):
    assert heatmaps.limits([map_of(values, may_cut=True)]) == pytest.approx(scale)


def test_the_bar_of_a_cut_colour_axis_says_so(tmp_path):
    test = np.array([[0.2, 0.9, 0.88, 0.89], [0.3, 0.88, 0.9, 0.89]])[:, :, None, None]
    workdirs.write_forks(tmp_path, (0.5, 0.9), (0, 2, 4, 8), test)
    (found,) = found_in(tmp_path)
    bars = [axes for axes in heatmaps.grid_maps(found).axes if axes.get_label() == "<colorbar>"]
    labels = [" ".join(axes.get_ylabel().split()) for axes in bars]
    lowest = heatmaps.limits([heatmaps.difference_map(found, "")])[0]
    shown = f"\N{MINUS SIGN}{-lowest:.3g}"
    assert labels == ["%", f"points (darkest: {shown} or less)"]


def test_accuracies_are_never_cut():
    assert heatmaps.limits([map_of([[10.0, 90.0, 91.0, 92.0, 93.0, 94.0]])]) == (10.0, 94.0, False)


def test_colours_grow_lighter_with_the_value():
    from matplotlib import colormaps

    for name, sign in (("viridis", 1), ("viridis_r", -1)):
        grey = colormaps[name](np.linspace(0, 1, 32))[:, :3] @ np.array([0.299, 0.587, 0.114])
        assert (sign * np.diff(grey) > 0).all()


def test_both_transition_lines_are_on_both_panels(tmp_path):
    sparsities, test = workdirs.published(0.0015, 5)
    workdirs.write_forks(tmp_path, sparsities, workdirs.PUBLISHED_EPOCHS, test)
    workdirs.write_trunks(tmp_path, range(5), workdirs.step_trunk())
    divergence = np.outer([0.01] * 5 + [0.05] * 4, np.ones(16))
    workdirs.write_comparisons(tmp_path, sparsities, workdirs.PUBLISHED_EPOCHS, divergence)
    (found,) = found_in(tmp_path)
    figure = heatmaps.similarity_maps(found)
    assert figure is not None
    for axes in (axes for axes in figure.axes if axes.get_label() != "<colorbar>"):
        # Below 93 % (row 6) by accuracy, below 92 % (row 5) by similarity; and the converged
        # columns.
        ends = [
            np.asarray([line.get_xdata(), line.get_ydata()], dtype=float) for line in axes.lines
        ]
        assert [y[0] for _, y in ends if y[0] == y[1]] == pytest.approx([5.44, 4.56])
        assert [x[0] for x, _ in ends if x[0] == x[1]] == [7.5]


def test_rows_that_are_equal_are_framed_as_one_region(tmp_path):
    flat = [0.7, 0.9, 0.9]
    means = np.array([[0.7, 0.8, 0.9], flat, flat, [0.7, 0.9, 0.6], flat])
    test = means[..., None] + np.random.default_rng(0).normal(0, 1e-3, (5, 3, 5))
    workdirs.write_forks(tmp_path, (0.2, 0.5, 0.8, 0.9, 0.95), (10, 20, 120), test[..., None])
    workdirs.write_trunks(tmp_path, range(5), workdirs.step_trunk())
    (found,) = findings.analyse(results.read_runs(tmp_path), margin=0.01)
    assert [row["verdict"] for row in found.rows] == [
        *("converged", "equal", "equal", "early", "equal")
    ]
    one = heatmaps.difference_map(found, "")
    assert (one.regions, one.region) == ([(1, 2), (4, 4)], "1.00 points")
    for axes in heatmaps.grid_maps(found).axes[:2]:
        frames = [patch.get_bbox() for patch in axes.patches if isinstance(patch, Rectangle)]
        rows = [[row for row in range(5) if box.y0 < row < box.y1] for box in frames]
        assert rows == [[1, 2], [4]]
        assert all(box.x0 < 0 and box.x1 > 2 for box in frames)
    names = [handle.get_label() for handle in drawing.labelled(heatmaps.grid_maps(found).axes[1:2])]
    assert "early and converged equally good (within 1.00 points)" in names
    assert "transition line, by accuracy" in names


def test_figures_without_their_data_are_not_drawn(tmp_path):
    published(tmp_path)
    (found,) = found_in(tmp_path)
    assert heatmaps.similarity_maps(found) is None
    assert figures.random_distance(found) is None
    assert figures.optimal_epochs([]) is None
    assert figures.training_curve(found) is not None


def test_without_an_early_row_the_three_heaviest_are_shown_along_the_epochs(tmp_path):
    published(tmp_path)
    (found,) = found_in(tmp_path)
    # Three equal seeds: the differences are chance, and nothing is significant.
    assert found.early_sparsities == ()
    assert [row["sparsity"] for row in figures.heavy_rows(found)] == [0.93, 0.94, 0.95]


def test_optimal_epochs_are_drawn_a_line_a_high_sparsity(tmp_path):
    published(tmp_path)
    published(tmp_path, train_fraction=0.1)
    found = found_in(tmp_path)
    figure = figures.optimal_epochs(findings.series(found))
    assert figure is not None
    (axes,) = figure.axes
    drawn = {line.get_label(): list(line[0].get_ydata()) for line in axes.containers}
    assert drawn == {
        "90 % removed": [70, 70],
        "92 % removed": [80, 80],
        "93 % removed": [80, 80],
        "94 % removed": [80, 80],
        "95 % removed": [60, 60],
    }
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["10 %", "100 %"]


def signal_line(axes, label):
    (line,) = [line for line in axes.lines if label in str(line.get_label())]
    return line.get_color(), line.get_linestyle(), line.get_marker()


def test_a_signal_looks_the_same_in_every_figure_and_unlike_the_others_in_print(tmp_path):
    published(tmp_path)
    shutil.rmtree(tmp_path / "trunks")
    rising = [0.01 * epoch for epoch in range(160)]
    signals = {"random_distance": rising, "fisher_trace": rising[::-1], "kl_uniform_bits": rising}
    workdirs.write_trunks(tmp_path, [0], workdirs.step_trunk(), signals={0: signals})
    (found,) = found_in(tmp_path)
    drawn = figures.random_distance(found)
    lower = main_figure._draw(settings_of(results.read_runs(tmp_path))).axes[-1]
    assert drawn is not None
    (right, *_) = [axes for axes in drawn.axes if axes.get_ylabel() == "random distance"]
    assert signal_line(right, "random distance") == signal_line(lower, "random distance")
    looks = [signal_line(lower, name) for name in ("random distance", "tr(F)", "KL_uniform")]
    assert all(len(set(parts)) == 3 for parts in zip(*looks, strict=True))
    # Lightness by the weights of luma: what is left of a colour in grey.
    grey = sorted(float(np.dot(to_rgb(color), [0.299, 0.587, 0.114])) for color, *_ in looks)
    assert min(np.diff(grey)) > 0.02
    assert not {color for color, *_ in looks} & {*drawing.COLORS[:4]}


def legend_title(figure):
    (legend,) = figure.legends
    return " ".join(legend.get_title().get_text().split())


def test_differences_above_0_are_explained_only_where_there_are_any(tmp_path):
    test = np.array([[0.7, 0.8, 0.9]])[..., None, None] * np.ones((2, 1, 3, 1))
    for name, validation in (("with", test[:, ::-1]), ("without", test)):
        workdir = tmp_path / name
        workdirs.write_forks(workdir, (0.5, 0.9), (10, 20, 30), test, validation=validation)
        workdirs.write_trunks(workdir, range(3), workdirs.step_trunk())
        (found,) = found_in(workdir)
        said = legend_title(heatmaps.grid_maps(found))
        assert said == (
            "Above 0: better than the row's best on test accuracy; the best is chosen on "
            "validation accuracy."
        ) * (name == "with")
