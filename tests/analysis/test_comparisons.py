import csv
import math

import numpy as np
import pytest
import regime_workdirs as workdirs

from earlyprune_jax.analysis.regimes import similarity
from earlyprune_jax.run_records import RunRecords
from earlyprune_jax.validate import InvalidInput


def rows_in(workdir):
    (path,) = similarity.write(workdir, similarity.read(workdir))
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_comparison_says_which_cell_it_is_of_and_how_far_the_replicates_are_apart(tmp_path):
    workdirs.write_comparisons(tmp_path, (0.5, 0.9), (10,), np.array([[0.01], [np.nan]]))
    first, second = similarity.read(tmp_path)
    assert [first[axis] for axis in ("model", "sparsity", "fork_epoch", "retraining")] == [
        "preresnet20",
        0.5,
        10,
        "constant",
    ]
    assert (first["replicates"], first["status"]) == ("0 1 2", "finished")
    assert first["num_examples"] == 50000
    assert (first["model_similarity"], first["disagreement"]) == (0.01, 0.005)
    assert second["status"] == "skipped" and "model_similarity" not in second
    assert second["reason"] == "a replicate diverged"


def test_an_unfinished_comparison_has_no_row(tmp_path):
    workdirs.write_comparisons(tmp_path, (0.5, 0.9), (10,), np.array([[0.01], [0.02]]))
    next(tmp_path.glob("comparisons/*_0.9/result.json")).unlink()
    assert [row["status"] for row in similarity.read(tmp_path)] == ["finished", "unfinished"]
    (row,) = rows_in(tmp_path)
    assert (row["sparsity"], row["replicates"], row["model_similarity"]) == ("0.5", "0 1 2", "0.01")
    assert (row["model_similarity_standard_error"], row["reason"]) == ("0.0001", "")


@pytest.mark.parametrize(
    ("name", "held", "told"),
    [
        ("run.json", "{", "to be JSON"),
        ("run.json", {"model": "preresnet20"}, "to have ['train_fraction'"),
        ("result.json", "[]", "to hold a JSON object"),
        ("result.json", {"status": "finished", "model_similarity": 0.7}, "0 to ln 2"),
        ("result.json", {"status": "finished"}, "to hold the number of a measure"),
        ("result.json", {"model_similarity": 0.1}, "to be one of finished"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, held, told):
    workdirs.write_comparisons(tmp_path, (0.5, 0.9), (10,), np.array([[0.01], [0.02]]))
    damaged = [path / name for path in sorted(tmp_path.glob("comparisons/*"))]
    for path in damaged:
        if isinstance(held, str):
            path.write_text(held)
        elif name == "run.json":
            RunRecords(path.parent).start(held)
        else:
            RunRecords(path.parent).finish(held)
    with pytest.raises(InvalidInput) as error:
        similarity.read(tmp_path)
    # Both of them, at once.
    assert [
        str(path) in problem for path, problem in zip(damaged, error.value.problems, strict=True)
    ] == [
        True,
        True,
    ]
    assert all(told in problem for problem in error.value.problems)


def test_the_largest_divergence_there_is_passes(tmp_path):
    workdirs.write_comparisons(tmp_path, (0.5,), (10,), np.array([[math.log(2)]]))
    assert similarity.read(tmp_path)[0]["model_similarity"] == math.log(2)


def write_again(workdir, name, replicates, numbers=None, sparsity=0.5):
    """A further comparison of the cell (sparsity, epoch 10), in a directory of the given name."""
    cell = {"trunk_seed": 0, "fork_epoch": 10, "sparsity": sparsity, "replicates": replicates}
    result = (
        {"status": "skipped", "reason": "?"}
        if numbers is None
        else {"status": "finished", **numbers}
    )
    workdirs.write(workdir / "comparisons" / name, {**workdirs.AXES, **cell}, None, result)


def kept(workdir):
    (row,) = similarity.read(workdir)
    return row


def test_of_several_comparisons_of_a_cell_the_finished_one_of_most_replicates_and_measures_is_kept(
    tmp_path,
):
    divergence = {"num_examples": 9, "model_similarity": 0.1}
    write_again(tmp_path, "e", [0, 1], divergence)
    assert kept(tmp_path)["replicates"] == "0 1"
    write_again(tmp_path, "b", [0, 1, 2], divergence)
    assert kept(tmp_path)["replicates"] == "0 1 2"
    write_again(tmp_path, "a", [0, 1, 2], divergence | {"disagreement": 0.2})
    assert kept(tmp_path)["disagreement"] == 0.2
    # Of equals the last by name.
    write_again(
        tmp_path, "c", [0, 1, 2], {"num_examples": 9, "model_similarity": 0.3, "disagreement": 0.4}
    )
    assert kept(tmp_path)["disagreement"] == 0.4
    write_again(tmp_path, "d", [0, 1, 2, 3])
    assert kept(tmp_path)["disagreement"] == 0.4
    assert len(list(rows_in(tmp_path))) == 1


def test_a_measure_that_is_not_known_here_is_tabled_too(tmp_path):
    write_again(tmp_path, "a", [0, 1], {"num_examples": 9, "model_similarity": 0.1})
    write_again(
        tmp_path, "b", [0, 1], {"num_examples": 9, "cka": 0.5, "by_layer": {"a": 1}}, sparsity=0.9
    )
    first, second = rows_in(tmp_path)
    assert list(first)[-2:] == ["cka", "reason"]
    assert (first["cka"], second["cka"], second["model_similarity"]) == ("", "0.5", "")
