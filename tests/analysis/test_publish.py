import shutil

import workdirs

from earlyprune_jax.analysis import figures, publish, results, rules, summary

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
        *figures.draw_accuracy_vs_fork_epoch(tmp_path),
    ]
    before = {path: path.read_bytes() for path in separately}
    for path in separately:
        path.unlink()
    assert publish.publish(tmp_path) == separately
    assert {path: path.read_bytes() for path in separately} == before


def test_runs_that_are_given_are_not_read_again(tmp_path):
    write_grid(tmp_path)
    publish.publish(tmp_path)
    said = summary.summarize(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.suffix in (".csv", ".png", ".svg")]
    before = {path: path.read_bytes() for path in files}
    runs = results.read_runs(tmp_path)
    shutil.rmtree(tmp_path / "trunks")
    shutil.rmtree(tmp_path / "forks")
    publish.publish(tmp_path, runs=runs)
    assert {path: path.read_bytes() for path in files} == before
    assert summary.summarize(tmp_path, runs=runs) == said
