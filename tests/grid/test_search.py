"""The search from coarse to fine: what it tries, what it finds, when it stops."""

import pytest

from earlyprune_jax.grid.search import wanted_cells as wanted

EPOCHS = tuple(range(1, 17))
SPARSITIES = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


def two_regimes(cell):
    """Late is best up to 0.6; from 0.7 on epoch 6 is."""
    epoch, sparsity = cell
    best = 16 if sparsity <= 0.6 else 6
    return 1.0 - sparsity / 2 - 0.01 * abs(epoch - best)


def searched(score, max_cells=0, epochs=EPOCHS, sparsities=SPARSITIES):
    """All cells tried, and how many each round added."""
    scores, sizes = {}, []
    while True:
        cells = wanted(epochs, sparsities, scores, max_cells)
        new = [cell for cell in cells if cell not in scores]
        if not new:
            return scores, sizes
        sizes.append(len(new))
        scores |= {cell: score(cell) for cell in new}


def best_epochs(scores):
    rows = {sparsity: {} for _, sparsity in scores}
    for (epoch, sparsity), value in scores.items():
        rows[sparsity][epoch] = value
    return {sparsity: max(row, key=row.__getitem__) for sparsity, row in rows.items()}


def test_it_finds_the_best_epochs_and_the_sparsity_where_they_move_with_part_of_the_cells():
    scores, _ = searched(two_regimes)
    found = best_epochs(scores)
    assert found[0.6] == 16
    assert found[0.7] == 6
    assert all(epoch == (16 if sparsity <= 0.6 else 6) for sparsity, epoch in found.items())
    assert len(scores) < 0.6 * len(EPOCHS) * len(SPARSITIES)


@pytest.mark.parametrize("max_cells", [1, 5, 9, 20, 31])
def test_it_stops_at_the_number_of_cells_and_the_first_rounds_come_first(max_cells):
    limited, _ = searched(two_regimes, max_cells)
    unlimited, _ = searched(two_regimes)
    assert len(limited) == max_cells
    assert list(limited) == list(unlimited)[:max_cells]


def test_cells_asked_for_never_depend_on_which_of_a_round_ended_first():
    first = wanted(EPOCHS, SPARSITIES, {}, 0)
    half = {cell: two_regimes(cell) for cell in first[::2]}
    assert wanted(EPOCHS, SPARSITIES, half, 0) == first


def test_a_cell_that_came_to_nothing_counts_as_the_worst_and_is_not_tried_again():
    def score(cell):
        return None if cell[0] == 16 else two_regimes(cell)

    scores, _ = searched(score)
    assert (
        best_epochs({cell: value for cell, value in scores.items() if value is not None})[0.7] == 6
    )
    assert all(value is None for cell, value in scores.items() if cell[0] == 16)


@pytest.mark.parametrize(
    ("epochs", "sparsities"), [((3,), (0.5,)), ((1, 2), (0.5, 0.9)), ((1, 2, 3), (0.5,))]
)
def test_a_small_lattice_is_tried_whole(epochs, sparsities):
    scores, sizes = searched(two_regimes, epochs=epochs, sparsities=sparsities)
    assert len(scores) == len(epochs) * len(sparsities)
    assert len(sizes) == 1
