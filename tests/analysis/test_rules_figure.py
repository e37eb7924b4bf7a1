import xml.etree.ElementTree as ElementTree

import workdirs

from earlyprune_jax.analysis import curves, figures, results, rules

T = 10
SIGNALS = [{"fisher_trace": float(value)} for value in (1, 2, 9, 8, 4, 3, 2, 1, 1, 1)]


def write_grid(workdir, *, sparsities=(0.97,), num_seeds=2):
    workdirs.write_config(workdir, num_epochs=T)
    for seed in range(num_seeds):
        made = workdirs.records(0, [0.95] * T, signals=SIGNALS)
        workdirs.write_trunk(workdir, seed, made, last_epoch=T, result=workdirs.finished(T))
        for sparsity in sparsities:
            for epoch, accuracy in ((2, 0.84), (4, 0.90), (8, 0.70)):
                made = workdirs.records(epoch, [accuracy - 0.01 * seed * epoch])
                axes = {"sparsity": sparsity, "last_epoch": T, "result": workdirs.finished(T)}
                workdirs.write_fork(workdir, seed, epoch, made, **axes)


def drawn_texts(paths):
    (svg,) = (path for path in paths if path.suffix == ".svg")
    root = ElementTree.parse(svg).getroot()
    return ["".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("}text")]


def test_the_figure_names_every_rule_its_regret_and_what_it_lacks(tmp_path):
    write_grid(tmp_path)
    paths = rules.write(tmp_path, ["epoch(9)", "threshold(fisher_trace, above=10)"])
    texts = drawn_texts(paths)
    for name in (
        "peak(fisher_trace)",
        "peak(fisher_trace), rewind",
        "oracle: each seed's best fork",
        "best fixed epoch, in hindsight",
        "random time",
        "fixed 30 %",
        "end: the last fork",
    ):
        assert name in texts
    assert "magnitude, global, 97 % removed, retrained by paper_a; 2 seeds, T = 10" in texts
    # At 3 in both seeds: .9 - .87, and .86 - (.82 + .86) / 2.
    assert "2.5 ± 0.7" in texts
    assert "outside the forks" in texts
    assert "never fired" in texts


def test_the_rewind_of_a_rule_that_never_fired_is_not_a_second_row(tmp_path):
    write_grid(tmp_path)
    texts = drawn_texts(rules.write(tmp_path, ["peak(train_loss, after=9)"]))
    assert "peak(train_loss, after=9)" in texts
    assert "peak(train_loss, after=9), rewind" not in texts


def test_a_long_rule_keeps_its_beginning_and_its_end(tmp_path):
    write_grid(tmp_path)
    long = (
        "first(peak(fisher_trace, smoothing=2, patience=3), threshold(train_accuracy, "
        "above=0.999), epoch(7))"
    )
    texts = drawn_texts(rules.write(tmp_path, [long]))
    assert any(text.startswith("first(peak(fisher_trace, smoothing=2") for text in texts)
    assert any(text.endswith("epoch(7)), rewind") for text in texts)


def test_of_many_curves_three_are_shown_and_the_figure_says_so(tmp_path):
    write_grid(tmp_path, sparsities=(0.5, 0.8, 0.9, 0.97), num_seeds=1)
    texts = drawn_texts(rules.write(tmp_path))
    assert "Which rule would have chosen well (3 of 4 curves; the others are in rules.csv)" in texts
    assert sum("1 seed, T = 10" in text for text in texts) == 3


def test_the_same_files_give_the_same_bytes(tmp_path):
    write_grid(tmp_path)
    first = [path.read_bytes() for path in rules.write(tmp_path)]
    assert [path.read_bytes() for path in rules.write(tmp_path)] == first


def test_runs_that_pruned_themselves_are_marked_beside_a_grid_and_alone_not_drawn(tmp_path):
    workdirs.write_config(tmp_path, num_epochs=T)
    for seed, epoch in ((0, 5), (1, 7)):
        made = workdirs.records(0, [0.9] * epoch, signals=SIGNALS[:epoch])
        workdirs.write_trunk(tmp_path, seed, made, last_epoch=T, result=workdirs.finished(epoch))
        made = workdirs.records(epoch, [0.9 + 0.01 * seed])
        workdirs.write_online(
            tmp_path, seed, epoch, made, fired_epoch=epoch, result=workdirs.finished(T)
        )
    # Two dots without a grid say nothing: `online_figure` has them.
    assert figures.draw_main(tmp_path) == []
    forked = workdirs.records(4, [0.8])
    workdirs.write_fork(tmp_path, 0, 4, forked, last_epoch=T, result=workdirs.finished(T))
    texts = drawn_texts(figures.draw_main(tmp_path))
    assert "pruned itself: 90.5 ± 0.7 % at epochs 5 to 7" in texts
    assert not any("dense baseline" in text for text in texts)
    assert any(
        "forks: magnitude, global, 97 % removed, retrained by paper_a" in text for text in texts
    )


def test_only_the_headline_signals_are_drawn(tmp_path):
    workdirs.write_config(tmp_path, num_epochs=3)
    headline = {"fisher_trace": 1.0, "random_distance": 1.0}
    others = {"mask_distance": 1.0, "fisher_trace_standard_error": 1.0, "random_distance_std": 1.0}
    made = workdirs.records(0, [0.9] * 3, signals=[others | headline] * 3)
    workdirs.write_trunk(tmp_path, 0, made, last_epoch=3, result=workdirs.finished(3))
    drawn = [peak.signal for peak in curves.Setting(results.read_runs(tmp_path)).peaks]
    assert drawn == ["fisher_trace", "random_distance"]
