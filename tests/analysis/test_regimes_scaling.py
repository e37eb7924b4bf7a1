import types
from typing import Any

import numpy as np
import regime_workdirs as workdirs

from earlyprune_jax.analysis import results
from earlyprune_jax.analysis.curves import find_grids
from earlyprune_jax.analysis.regimes import findings


def grids_of(tmp_path, *changes, sparsities=(0.5, 0.9)):
    for axes in changes:
        workdirs.write_forks(
            tmp_path, sparsities, (0, 5), np.full((len(sparsities), 2, 1, 1), 0.5), **axes
        )
    return find_grids(results.read_runs(tmp_path))


def series_of(tmp_path, *changes):
    grids_of(tmp_path, *changes)
    return findings.series(findings.analyse(results.read_runs(tmp_path)))


def test_models_of_one_family_make_a_series_over_depth(tmp_path):
    models = ("preresnet110", "preresnet20", "preresnet20_lottery", "resnet8", "preresnet56")
    (found,) = series_of(tmp_path, *({"model": model} for model in models))
    assert (found.axis, found.values) == ("model depth", (20, 56, 110))
    assert [one.grid.place["model"] for one in found.findings] == [
        "preresnet20",
        "preresnet56",
        "preresnet110",
    ]


def test_data_fractions_of_one_model_make_a_series(tmp_path):
    changes = [{"train_fraction": fraction} for fraction in (1.0, 0.01, 0.1)]
    (found,) = series_of(tmp_path, *changes, {"train_fraction": 0.1, "retraining": "paper_a"})
    assert (found.axis, found.values) == ("data fraction", (0.01, 0.1, 1.0))


def test_grids_that_differ_in_two_axes_make_no_series(tmp_path):
    changes = {"model": "preresnet20"}, {"model": "preresnet56", "train_fraction": 0.1}
    assert series_of(tmp_path, *changes) == ()


def test_high_sparsities_are_the_upper_half_and_all_above_an_early_one(tmp_path):
    sparsities = tuple(place / 10 for place in range(1, 8))
    grids = grids_of(tmp_path, {}, sparsities=sparsities)
    assert series_over(grids, ()).high_sparsities() == (0.4, 0.5, 0.6, 0.7)
    assert series_over(grids, (0.3, 0.6)).high_sparsities() == (0.3, 0.4, 0.5, 0.6, 0.7)
    assert series_over(grids, (0.3,)).high_sparsities(at_most=2) == (0.6, 0.7)


def test_only_sparsities_that_all_grids_have_are_compared(tmp_path):
    first = grids_of(tmp_path / "a", {}, sparsities=(0.5, 0.8, 0.9))
    second = grids_of(tmp_path / "b", {}, sparsities=(0.8, 0.9, 0.99))
    assert series_over([*first, *second], (0.99,)).high_sparsities() == (0.9,)


def series_over(grids, early):
    analysed: Any = [types.SimpleNamespace(grid=grid, early_sparsities=early) for grid in grids]
    return findings.Series("model depth", grids[0].place, (), analysed)
