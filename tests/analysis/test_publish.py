import json
import shutil
import subprocess
import sys

import pytest
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
