import csv
import itertools

import numpy as np
import pytest
import regime_workdirs as workdirs
from scipy import stats as scipy_stats

from earlyprune_jax.analysis import results
from earlyprune_jax.analysis.curves import find_grids
from earlyprune_jax.analysis.regimes import findings, similarity, text
from earlyprune_jax.analysis.regimes.transition import Convergence

SPARSITIES = (0.2, 0.5, 0.8, 0.9, 0.95)
EPOCHS = (10, 50, 90, 120)
CONVERGED = Convergence(85, {}, 160)
DIVERGENCE = np.array(
    [[0.5, 0.5, 0.01, 0.03]] * 2 + [[0.5, 0.5, 0.03, 0.05]] + [[0.5, 0.5, 0.2, 0.22]] * 2
)


def write_grid(tmp_path, divergence=DIVERGENCE, means=None, num_seeds=5):
    rng = np.random.default_rng(0)
    means = np.full((5, 4), 0.8) if means is None else np.array(means)
    test = (means[..., None] + rng.normal(0, 0.001, (5, 4, num_seeds)))[..., None]
    workdirs.write_forks(tmp_path, SPARSITIES, EPOCHS, test)
    workdirs.write_trunks(tmp_path, range(num_seeds), workdirs.step_trunk())
    workdirs.write_comparisons(tmp_path, SPARSITIES, EPOCHS, divergence)
    return results.read_runs(tmp_path)


def measured(tmp_path, convergence: Convergence | None = CONVERGED, **options):
    (grid,) = find_grids(write_grid(tmp_path, **options))
    return similarity.measure(grid, similarity.read(tmp_path), convergence)


def test_the_line_parts_rows_by_their_mean_over_converged_columns(tmp_path):
    found = measured(tmp_path)
    np.testing.assert_allclose(found.row_means, [0.02, 0.02, 0.04, 0.21, 0.21])
    assert found.line == 0.9


def test_without_converged_columns_all_count(tmp_path):
    found = measured(tmp_path, convergence=None)
    assert found is not None
    np.testing.assert_allclose(found.row_means[0], (0.5 + 0.5 + 0.01 + 0.03) / 4)


def test_skipped_comparisons_leave_their_cells_empty(tmp_path):
    divergence = DIVERGENCE.copy()
    divergence[0, 2] = divergence[1, 2:] = np.nan
    found = measured(tmp_path, divergence=divergence)
    assert found.line == 0.9
    np.testing.assert_allclose(found.row_means, [0.03, np.nan, 0.05, 0.22, 0.22])


def test_rows_are_compared_on_the_columns_they_share():
    # The column adds 0, 1, 2; the row 0, 10, 20: no row may gain from the columns it was measured
    # at.
    values = np.add.outer([0.0, 10.0, 20.0], [0.0, 1.0, 2.0])
    values[0, 0] = values[1, 2] = np.nan
    np.testing.assert_allclose(similarity.shared_means(values), [1, 11, 21])
    values[2, 1] = np.nan
    # Column 0 is that of rows 1 and 2, column 1 that of 0 and 1, column 2 of 0 and 2: the first
    # counts.
    np.testing.assert_allclose(similarity.shared_means(values), [np.nan, 10, 20])


def test_a_grid_without_comparisons_has_no_similarity(tmp_path):
    runs = write_grid(tmp_path)
    (grid,) = find_grids(runs)
    found = similarity.measure(grid, [], CONVERGED)
    assert np.isnan(found.divergence).all() and np.isnan(found.row_means).all()
    assert found.line is None
    (one,) = findings.analyse(runs, [])
    alike = [name for name in one.rows[0] if "agreement" in name or "similarity" in name]
    assert len(alike) == 12
    assert all(row[name] is None for row in one.rows for name in alike)


def brute_force_split(values):
    """Every two-class labelling with the low class first."""
    costs = {
        place: sum(np.var(part) * len(part) for part in (values[:place], values[place:]))
        for place in range(1, len(values))
        if np.mean(values[place:]) > np.mean(values[:place])
    }
    return min(costs, key=lambda place: costs[place]) if costs else None


def test_the_split_is_the_best_of_all():
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = np.sort(rng.random(7)) + rng.normal(0, 0.1, 7)
        assert similarity.split(values) == brute_force_split(values)


def test_a_ramp_is_split_in_the_middle():
    assert similarity.split(np.arange(100.0)) == 50


@pytest.mark.parametrize("values", [[], [1.0, 2.0], [1.0, 1.0, 1.0], [3.0, 2.0, 1.0]])
def test_what_does_not_rise_or_is_too_short_is_not_split(values):
    assert similarity.split(np.array(values)) is None


EARLY = [0.7, 0.9, 0.8, 0.8]
LATE = [0.7, 0.8, 0.9, 0.9]


@pytest.mark.parametrize(
    ("verdicts", "rows_apart", "same"),
    [("LLLEE", 0, 5), ("LLEEE", 1, 4), ("LLLLE", -1, 4), ("LLLLL", None, 3)],
)
def test_agreement_counts_rows_between_the_lines_and_rows_of_one_class(
    tmp_path, verdicts, rows_apart, same
):
    means = [EARLY if verdict == "E" else LATE for verdict in verdicts]
    runs = write_grid(tmp_path, means=means)
    (found,) = findings.analyse(runs, similarity.read(tmp_path))
    assert [row["verdict"][0].upper() for row in found.rows] == [
        "E" if v == "E" else "C" for v in verdicts
    ]
    row = found.rows[0]
    assert row["agreement_row_difference"] == rows_apart
    assert (row["agreement_same_class"], row["agreement_num_classed"]) == (same, 5)
    by_similarity = f"line by similarity alone: {100 * row['similarity_transition_sparsity']:.0f} %"
    assert by_similarity in "\n".join(text.paragraphs([found]))
    if rows_apart == 1:
        assert row["agreement_sparsity_difference"] == pytest.approx(0.1)


def spearmans(first, second):
    rho, _ = scipy_stats.spearmanr(first, second)
    return float(rho)  # pyright: ignore[reportArgumentType]


def test_rank_correlations_are_spearmans_with_the_sparsity_as_control(tmp_path):
    means = [[0.7, 0.8 + lead, 0.8, 0.8] for lead in (0.01, 0.05, 0.02, 0.08, 0.06)]
    (found,) = findings.analyse(write_grid(tmp_path, means=means), similarity.read(tmp_path))
    advantages, row_means = (
        [row[name] for row in found.rows] for name in ("advantage_mean", "model_similarity")
    )
    agreement = {name.removeprefix("agreement_"): value for name, value in found.rows[0].items()}
    assert agreement["row_correlation"] == pytest.approx(spearmans(row_means, advantages))
    assert agreement["sparsity_correlation"] == pytest.approx(spearmans(SPARSITIES, advantages))
    assert agreement["num_rows"] == 5
    cell_means = found.grid.test.mean(axis=-1)
    columns = [EPOCHS.index(row["best_epoch"]) for row in found.rows]
    below = [
        cell_means[r, columns[r]] - cell_means[r, c]
        for r, c in itertools.product(range(5), range(4))
    ]
    known = spearmans(found.values("model_similarity").ravel(), below)
    assert agreement["cell_correlation"] == pytest.approx(known)
    assert agreement["num_cells"] == 20


def test_without_a_line_from_accuracy_there_is_nothing_to_be_apart_from(tmp_path):
    (found,) = findings.analyse(write_grid(tmp_path), similarity.read(tmp_path))
    assert {row["transition_sparsity"] for row in found.rows} == {None}
    path = results.save(tmp_path / "regimes.csv", findings.tables([found])["regimes.csv"])
    (row, *_) = csv.DictReader(path.read_text().splitlines())
    assert (row["agreement_num_classed"], row["agreement_num_cells"]) == ("0", "20")
    assert float(row["agreement_cell_correlation"]) == found.rows[0]["agreement_cell_correlation"]
    assert row["agreement_sparsity_difference"] == ""
