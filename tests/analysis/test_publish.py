import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import regime_workdirs
import workdirs

from earlyprune_jax.analysis import figures, results, rules, summary

T = 10
SIGNALS = [{"fisher_trace": float(value)} for value in (1, 2, 9, 8, 4, 3, 2, 1, 1, 1)]


def write_grid(workdir):
    workdirs.write_config(workdir, num_epochs=T)
    made = workdirs.records(0, [0.95] * T, signals=SIGNALS)
    workdirs.write_trunk(workdir, 0, made, last_epoch=T, result=workdirs.finished(T))
    for epoch, accuracy in ((2, 0.84), (4, 0.90), (8, 0.70)):
        made = workdirs.records(epoch, [accuracy])
        workdirs.write_fork(workdir, 0, epoch, made, last_epoch=T, result=workdirs.finished(T))


def test_it_writes_what_each_writer_writes(tmp_path):
    write_grid(tmp_path)
    separately = [
        *results.write_tables(tmp_path),
        *rules.write(tmp_path),
        *figures.draw_main(tmp_path),
    ]
    before = {path: path.read_bytes() for path in separately}
    for path in separately:
        path.unlink()
    assert results.publish(tmp_path) == separately
    assert {path: path.read_bytes() for path in separately} == before


@pytest.mark.usefixtures("empty_figures_here")
def test_runs_that_are_given_are_not_read_again(tmp_path):
    write_grid(tmp_path)
    results.publish(tmp_path)
    said = summary.summarize(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.suffix in (".csv", ".png", ".svg")]
    before = {path: path.read_bytes() for path in files}
    runs = results.read_runs(tmp_path)
    shutil.rmtree(tmp_path / "trunks")
    shutil.rmtree(tmp_path / "forks")
    results.publish(tmp_path, runs=runs)
    assert {path: path.read_bytes() for path in files} == before
    assert summary.summarize(tmp_path, runs=runs) == said


@pytest.mark.usefixtures("empty_figures_here")
def test_what_may_be_written_is_known_without_pandas_or_matplotlib(tmp_path):
    write_grid(tmp_path)
    code = (
        "import sys, json\n"
        "from earlyprune_jax.analysis import results\n"
        "names = ('numpy', 'pandas', 'matplotlib', 'scipy')\n"
        "heavy = [name for name in names if name in sys.modules]\n"
        "print(json.dumps([heavy, results.TABLES]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, names = json.loads(done.stdout)
    assert heavy == []
    written = {path.relative_to(tmp_path).parts[0] for path in results.publish(tmp_path)}
    assert written <= {*names, "figures"}


@pytest.mark.usefixtures("empty_figures_here")
def test_a_workdir_that_says_rule_for_retraining_has_the_same_tables(tmp_path):
    """As format 2 was written before the rename: run.json with `rule`, configs with fork.rules."""
    for name in ("before", "now"):
        (tmp_path / name).mkdir()
        write_grid(tmp_path / name)
        workdirs.write_config(
            tmp_path / name, num_epochs=T, retraining=["paper_a"], criteria=["magnitude"]
        )
        cells = {"sparsities": (0.5,), "epochs": (2,), "divergence": np.array([[0.1]])}
        regime_workdirs.write_comparisons(tmp_path / name, **cells)
    for path in (tmp_path / "before").rglob("*.json"):
        old = path.read_text().replace('"retraining": [', '"rules": [')
        path.write_text(old.replace('"retraining":', '"rule":'))
    made = [results.publish(tmp_path / name) for name in ("before", "now")]
    assert "comparisons.csv" in [path.name for path in made[0]]
    for before, now in zip(*made, strict=True):
        assert before.read_bytes() == now.read_bytes(), now.name


@pytest.mark.usefixtures("empty_figures_here")
def test_a_workdir_of_this_version_has_the_tables_of_the_earlier_one(tmp_path):
    """The same runs: without study.json and configs, and with them."""
    for name in ("earlier", "now"):
        (tmp_path / name).mkdir()
        write_grid(tmp_path / name)
    loss = {"name": "loss", "unit": "nats", "larger_is_better": False}
    share = {"name": "accuracy", "unit": "%", "larger_is_better": True}
    workdirs.write_study(tmp_path / "now", [loss, share], "accuracy")
    for path in (tmp_path / "now").glob("*/*/run.json"):
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"config": {"optim": {"momentum": 0.9}}})
        )
    made = [results.publish(tmp_path / name) for name in ("earlier", "now")]
    assert [path.name for path in made[0]] == [path.name for path in made[1]]
    assert all(
        a.read_bytes() == b.read_bytes() for a, b in zip(*made, strict=True) if a.suffix == ".csv"
    )
    said = [summary.summarize(tmp_path / name).split("Files in")[0] for name in ("earlier", "now")]
    assert said[0] == said[1]
