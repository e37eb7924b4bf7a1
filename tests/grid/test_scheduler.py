"""One process at work: what a larger grid trains anew, what a failure leaves, where time ends."""

import dataclasses
import gc
import io
import json
import shutil

import jax
import numpy as np
import pytest
from members import compilations, engine_of, fork, locate, store, trunk
from rich.console import Console
from tiny import linear_experiment, tiny_experiment

from earlyprune_jax import config, experiment
from earlyprune_jax.analysis import results
from earlyprune_jax.grid import options, plan, scheduler, trainer
from earlyprune_jax.grid.locks import Locked, RunLocks
from earlyprune_jax.grid.members import Trunk
from earlyprune_jax.grid.options import Options
from earlyprune_jax.grid.study import MOST_ATTEMPTS, Study
from earlyprune_jax.run_records import RunRecords
from earlyprune_jax.status import reading
from earlyprune_jax.training import criteria, loop
from earlyprune_jax.training import engine as engines
from earlyprune_jax.validate import InvalidInput

pytestmark = pytest.mark.usefixtures("empty_figures")

QUICK = (("fork.retraining", "constant"), ("fork.constant_num_epochs", "1"))


def resolve(npz, *changes):
    """Of softmax regression: a network takes long to compile, and is scheduled in the same way."""
    return config.resolve(linear_experiment(npz), [*QUICK, *changes])


def run(spec, workdir, **how):
    console = Console(file=io.StringIO())
    text = experiment.run(spec, workdir, console, options=Options(**how))
    return text, console.file.getvalue()  # type: ignore[attr-defined]


def modified(workdir):
    return {path: path.stat().st_mtime_ns for path in workdir.glob("*/*/metrics.jsonl")}


@pytest.fixture(scope="module")
def grown(tiny_npz, tmp_path_factory):
    """A grid of one fork, and in the same workdir one of more epochs, sparsities, seeds and
    replicates."""
    workdir = tmp_path_factory.mktemp("grown") / "run"
    run(resolve(tiny_npz), workdir)
    before = modified(workdir)
    changes = (
        ("fork.epochs", "2,3"),
        ("pruning.sparsities", "0.5,0.9"),
        ("train.seeds", "0,1"),
        ("fork.num_replicates", "2"),
        ("fork.comparisons", "model_similarity,disagreement"),
    )
    spec = resolve(tiny_npz, *changes)
    run(spec, workdir)
    return spec, workdir, before


def test_a_larger_grid_trains_its_new_members_only(grown):
    spec, workdir, before = grown
    after = modified(workdir)
    assert len(before) == 2
    assert {path: after[path] for path in before} == before
    assert len(after) == 2 + 2 * 2 * 2 * 2
    assert experiment.exit_status(Study(spec, workdir)) == experiment.DONE
    assert len(results.read_runs(workdir)) == len(after)


def test_a_fork_of_a_grown_grid_is_bitwise_what_it_is_in_a_fresh_one(grown, tiny_npz, tmp_path):
    spec, workdir, _ = grown
    fresh = resolve(tiny_npz, ("fork.epochs", "3"), ("pruning.sparsities", "0.9"))
    run(fresh, tmp_path / "fresh")
    member = fork(3, "constant", 0.9)
    assert (
        store(tmp_path / "fresh", member).sha256(4) == store(workdir, member).sha256(4) is not None
    )


def test_a_comparison_is_that_of_its_replicates_saved_networks(grown):
    spec, workdir, _ = grown
    engine = engine_of(spec)
    states = [
        engine.place(store(workdir, member).restore(4, engine.state_shapes()))
        for member in (fork(3, "constant", 0.9), fork(3, "constant", 0.9, replicate=1))
    ]
    batches = zip(*engine.log_probs(states, "train"), strict=True)
    first, second = (np.concatenate(rows) for rows in batches)
    assert first.shape == (40, 2)
    (path,) = workdir.glob(
        "comparisons/*seed-0_epoch-3_magnitude_global_s0.9_constant_n2-*/result.json"
    )
    measured = json.loads(path.read_text())
    assert measured["num_examples"] == 40
    # Paper B, Eq. (1), written out.
    p, q = (np.exp(rows.astype(float)) for rows in (first, second))
    log_mean = np.log((p + q) / 2)
    halves = (p * (first - log_mean)).sum(1) + (q * (second - log_mean)).sum(1)
    assert measured["model_similarity"] == pytest.approx(halves.mean() / 2, rel=1e-3)
    assert measured["disagreement"] == (first.argmax(1) != second.argmax(1)).mean()


def test_every_cell_of_replicates_has_a_comparison(grown):
    _, workdir, _ = grown
    found = [
        json.loads(path.read_text())["status"] for path in workdir.glob("comparisons/*/result.json")
    ]
    assert found == ["finished"] * 8


def test_a_fork_epoch_that_a_finished_trunk_did_not_keep_is_trained_again_to_the_same_state(
    grown, tiny_npz, tmp_path
):
    kept = ("train.keep_checkpoints", "fork_epochs")
    run(resolve(tiny_npz, kept), tmp_path / "run")
    assert store(tmp_path / "run", trunk()).epochs() == [2, 4]
    before = modified(tmp_path / "run")
    run(resolve(tiny_npz, kept, ("fork.epochs", "2,3")), tmp_path / "run")
    after = modified(tmp_path / "run")
    assert {path: after[path] for path in before} == before
    assert store(tmp_path / "run", trunk()).epochs() == [2, 3, 4]
    for member, epoch in ((trunk(), 3), (fork(3, "constant"), 4)):
        made, wanted = (store(workdir, member) for workdir in (tmp_path / "run", grown[1]))
        assert made.sha256(epoch) == wanted.sha256(epoch) is not None


def poison(monkeypatch, is_bad):
    """A criterion that raises for some states: stands for whatever one member may run into."""
    score = criteria.scores

    def sometimes(engine, state, criterion, examples):
        if is_bad(int(state.step)):
            raise FloatingPointError("no such luck")
        return score(engine, state, criterion, examples)

    monkeypatch.setattr(criteria, "scores", sometimes)


def test_a_member_that_raises_is_reported_the_others_finish_and_the_next_session_tries_again(
    tiny_npz, tmp_path, monkeypatch
):
    spec = resolve(tiny_npz, ("fork.epochs", "1,2,3"))
    with monkeypatch.context() as patched:
        poison(patched, lambda step: step == 10)
        text, said = run(spec, tmp_path / "run")
    assert "3 finished, 0 diverged, 0 skipped, 1 failed" in text
    assert "failed: FloatingPointError: no such luck" in said
    assert experiment.exit_status(Study(spec, tmp_path / "run")) == experiment.FAILED
    (row,) = [one for one in results.read_runs(tmp_path / "run") if one.status == "failed"]
    failed = locate(tmp_path / "run", fork(2, "constant"))
    reason = "FloatingPointError: no such luck"
    assert row.fork_epoch == 2
    assert RunRecords(failed).result() == {"status": "failed", "reason": reason, "epoch": 3}
    assert "no such luck" in (failed / "error.txt").read_text()
    text, _ = run(spec, tmp_path / "run")
    assert "4 finished, 0 diverged, 0 skipped." in text
    assert experiment.exit_status(Study(spec, tmp_path / "run")) == experiment.DONE


def test_in_a_batch_only_the_member_that_raises_fails(tiny_npz, tmp_path, monkeypatch):
    spec = resolve(tiny_npz, ("fork.epochs", "1,2,3"))
    poison(monkeypatch, lambda step: step == 10)
    text, _ = run(spec, tmp_path / "run", fork_width=3)
    assert "3 finished, 0 diverged, 0 skipped, 1 failed" in text


def test_forks_of_a_trunk_that_failed_start_from_the_checkpoints_it_has_left(
    tiny_npz, tmp_path, monkeypatch
):
    record = loop.Run.record

    def sometimes(self, *arguments):
        if self.first_epoch == 0 and self.epoch == 3:
            raise OSError("no space left")
        record(self, *arguments)

    monkeypatch.setattr(loop.Run, "record", sometimes)
    text, _ = run(resolve(tiny_npz, ("fork.epochs", "1,3,4")), tmp_path / "run")
    assert "2 finished, 0 diverged, 1 skipped, 1 failed" in text


def test_a_network_that_cannot_be_built_fails_and_the_others_train(tiny_npz, tmp_path, monkeypatch):
    build = engines.Engine

    def sometimes(spec, *arguments, **options):
        if spec.model.name == "own_code:Linear":
            raise MemoryError("too large")
        return build(spec, *arguments, **options)

    monkeypatch.setattr(engines, "Engine", sometimes)
    keys = ("pruning.layers", "signals.fisher_layers", "signals.weight_layers")
    networks = ("sweep.model.name", "own_code:Linear,own_code:ConvNet")
    changes = [*QUICK, ("signals.names", ""), ("model.width_multiplier", "1.0"), networks]
    changes += [(key, "all_kernels") for key in keys]
    spec = config.resolve(tiny_experiment(tiny_npz), changes)
    text, said = run(spec, tmp_path / "run")
    assert "2 finished, 0 diverged, 1 skipped, 1 failed" in text
    assert "failed: MemoryError: too large" in said
    assert experiment.exit_status(Study(spec, tmp_path / "run")) == experiment.FAILED


def observed(study, sometimes=lambda members: None):
    """A trainer, what it is asked to train, and what it says; `sometimes` may raise."""
    trained, said = [], []

    class Observed(trainer.Trainer):
        def train(self, group, width=1):
            trained.append(list(group))
            sometimes(group)
            super().train(group, width)

    callbacks = dataclasses.replace(trainer.SILENT, say=said.append)
    return Observed(study, callbacks), trained, said


def test_a_batch_that_raises_is_told_of_and_the_next_are_half_as_wide(tiny_npz, tmp_path):
    def out_of_memory(members):
        if len(members) > 2:
            raise MemoryError("out of memory\nand a long story")

    study = Study(resolve(tiny_npz, ("fork.num_replicates", "8")), tmp_path / "run")
    own, trained, said = observed(study, out_of_memory)
    scheduler.work(own, asked_width=4)
    assert [len(members) for members in trained] == [1, 4, 2, 2, 2, 2]
    assert said == [
        "A batch of 4 forks raised MemoryError: out of memory. Batches of 2 are tried.",
    ]


def test_forks_of_a_batch_that_raised_train_without_its_memory(tiny_npz, tmp_path, monkeypatch):
    train_epoch, live = engines.Engine.train_epoch, []

    def out_of_memory(self, current, rates):
        trained = train_epoch(self, current, rates)
        if len(rates) > 1:
            raise MemoryError
        return trained

    monkeypatch.setattr(engines.Engine, "train_epoch", out_of_memory)
    study = Study(resolve(tiny_npz, ("fork.num_replicates", "3")), tmp_path / "run")

    def count(members):
        gc.collect()
        live.append(sum(array.nbytes for array in jax.live_arrays()))

    own, trained, _ = observed(study, count)
    scheduler.work(own, asked_width=4)
    assert [len(members) for members in trained] == [1, 3, 2, 1, 1, 1]
    assert max(live[2:]) <= live[1]


def test_a_batch_that_waits_for_another_process_says_nothing_and_stays_as_wide(
    tiny_npz, tmp_path, monkeypatch
):
    asked = iter([True] * 2)

    def busy(members):
        if not isinstance(members[0], Trunk) and next(asked, False):
            raise Locked("a trunk")

    monkeypatch.setattr(scheduler, "SHORTEST_PAUSE", 0.0)
    study = Study(resolve(tiny_npz, ("fork.num_replicates", "3")), tmp_path / "run")
    own, trained, said = observed(study, busy)
    scheduler.work(own, asked_width=4)
    assert [len(members) for members in trained] == [1, 3, 3, 3]
    assert said == []


def test_a_comparison_that_fails_has_no_epoch(tiny_npz, tmp_path, monkeypatch):
    changes = (("fork.num_replicates", "2"), ("fork.comparisons", "disagreement"))
    monkeypatch.setattr(trainer.measurement, "compare", lambda *arguments: 1 / 0)
    run(resolve(tiny_npz, *changes), tmp_path / "run")
    (path,) = (tmp_path / "run").glob("comparisons/*/result.json")
    assert (RunRecords(path.parent).result() or {}).keys() == {"status", "reason"}


def test_a_member_that_needs_what_another_process_holds_keeps_nobody_waiting(
    tiny_npz, tmp_path, monkeypatch
):
    held = fork(1, "constant")
    asked = iter([True, True])

    def busy(members):
        if members == [held] and next(asked, False):
            raise Locked("a trunk")

    monkeypatch.setattr(scheduler, "SHORTEST_PAUSE", 0.0)
    study = Study(resolve(tiny_npz, ("fork.epochs", "1,2,3")), tmp_path / "run")
    own, trained, _ = observed(study, busy)
    scheduler.work(own)
    assert [getattr(one, "fork_epoch", 0) for (one,) in trained] == [0, 1, 2, 3, 1, 1]


def test_a_trunk_that_is_lost_before_its_forks_are_done_is_trained_again(
    tiny_npz, tmp_path, monkeypatch
):
    asked = iter([True])

    def lose(members):
        if not isinstance(members[0], Trunk) and next(asked, False):
            shutil.rmtree(tmp_path / "run" / "trunks")
            raise Locked("a trunk")

    monkeypatch.setattr(scheduler, "SHORTEST_PAUSE", 0.0)
    own, trained, _ = observed(Study(resolve(tiny_npz), tmp_path / "run"), lose)
    scheduler.work(own)
    assert [isinstance(one, Trunk) for (one,) in trained] == [True, False, True, False]


def test_a_failure_that_another_process_is_at_again_is_left_to_it(tiny_npz, tmp_path):
    study = Study(resolve(tiny_npz), tmp_path / "run")
    records, other = study.records(fork(2, "constant")), RunLocks()
    assert other.take(records.directory)
    records.finish({"status": "failed", "reason": "", "epoch": 3})
    study.forget_failures([fork(2, "constant")])
    assert records.has_ended()
    other.close()
    study.forget_failures([fork(2, "constant")])
    assert not records.has_ended()


def test_what_is_left_to_do_counts_members_that_failed(tiny_npz, tmp_path, monkeypatch):
    spec = resolve(tiny_npz, ("fork.epochs", "1,2,3"))
    poison(monkeypatch, lambda step: step == 10)
    run(spec, tmp_path / "run")
    assert "Left to do: 1 runs, 5 training steps" in experiment.preview(
        Study(spec, tmp_path / "run")
    )


def test_forks_of_a_trunk_that_failed_are_skipped_and_tried_again_with_it(
    tiny_npz, tmp_path, monkeypatch
):
    spec = resolve(tiny_npz, ("fork.num_replicates", "2"), ("fork.comparisons", "disagreement"))
    with monkeypatch.context() as patched:
        patched.setattr(trainer.retraining, "trunk", lambda *arguments: 1 / 0)
        text, _ = run(spec, tmp_path / "run")
    assert "0 finished, 0 diverged, 2 skipped, 1 failed" in text
    text, _ = run(spec, tmp_path / "run")
    assert "3 finished, 0 diverged, 0 skipped." in text
    (path,) = (tmp_path / "run").glob("comparisons/*/result.json")
    assert json.loads(path.read_text())["status"] == "finished"


def test_a_member_at_which_process_after_process_dies_fails_and_the_others_finish(
    tiny_npz, tmp_path, monkeypatch
):
    spec = resolve(tiny_npz, ("fork.epochs", "1,2"))
    study = Study(spec, tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(options, "stop_at", lambda moment: lambda: True)
        run(spec, tmp_path / "run")
    deadly = study.records(fork(1, "constant")).directory
    deadly.mkdir(parents=True)
    for _ in range(MOST_ATTEMPTS):
        study.records(fork(1, "constant")).attempt(0)
    text, said = run(spec, tmp_path / "run")
    assert "2 finished, 0 diverged, 0 skipped, 1 failed" in text
    assert "5 processes died one after another before its first epoch" in said


def test_when_time_is_up_all_is_kept_and_the_same_call_goes_on_to_the_same_end(
    tiny_npz, tmp_path, monkeypatch
):
    spec = resolve(tiny_npz, ("fork.constant_num_epochs", "4"))
    run(spec, tmp_path / "whole")
    for epochs_allowed in (3, 2, 100):
        asked = iter([False] * 2 + [False] * epochs_allowed)
        with monkeypatch.context() as patched:
            patched.setattr(
                options, "stop_at", lambda moment, asked=asked: lambda: next(asked, True)
            )
            run(spec, tmp_path / "parts")
        unfinished = (
            experiment.exit_status(Study(spec, tmp_path / "parts")) == experiment.UNFINISHED
        )
        assert unfinished == (epochs_allowed < 100)
    for member in (trunk(), fork(2, "constant")):
        last = 4 if member == trunk() else 6
        whole, parts = (store(tmp_path / name, member) for name in ("whole", "parts"))
        assert whole.sha256(last) == parts.sha256(last) is not None
        epochs = RunRecords(locate(tmp_path / "parts", member)).epochs()
        assert [entry["epoch"] for entry in epochs] == list(range(last - 3, last + 1))


def test_forks_trained_as_a_batch_come_to_what_they_come_to_one_by_one(tiny_npz, tmp_path):
    changes = (("fork.epochs", "1,2,3"), ("pruning.sparsities", "0.5,0.9"))
    spec = resolve(tiny_npz, *changes)
    run(spec, tmp_path / "alone")
    run(spec, tmp_path / "batch", fork_width=4)
    for member in plan.members(spec):
        alone, batch = (
            Study(spec, tmp_path / name).records(member).epochs()[-1] for name in ("alone", "batch")
        )
        assert batch["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-3)


def test_a_search_tries_cells_around_the_best_and_stops_at_its_number(tiny_npz, tmp_path):
    changes = (
        ("fork.search", "coarse_to_fine"),
        ("fork.epochs", "0,1,2,3,4"),
        ("pruning.sparsities", "0.2,0.5,0.8"),
        ("fork.max_cells", "11"),
        ("data.validation_fraction", "0.2"),
    )
    spec = resolve(tiny_npz, *changes)
    assert len(Study(spec, tmp_path / "run").wanted_members()) == 1 + 9
    run(spec, tmp_path / "run")
    ended = Study(spec, tmp_path / "run").wanted_members()
    assert len(ended) == 1 + 11
    assert experiment.exit_status(Study(spec, tmp_path / "run")) == experiment.DONE
    assert reading.read(tmp_path / "run").has_ended()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"num_workers": 0}, "--workers=0 in [1,"),
        ({"num_workers": 10**6}, "--workers=1000000 in [1,"),
        ({"fork_width": -1}, "--fork_width=-1"),
        ({"max_minutes": 0.0}, "--max_minutes=0.0 to be above 0"),
        ({"max_minutes": float("nan")}, "--max_minutes=nan"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_written(
    tiny_npz, tmp_path, how, words
):
    with pytest.raises(InvalidInput) as caught:
        run(resolve(tiny_npz), tmp_path / "run", **how)
    assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_batch_compiles_once_whatever_the_number_of_forks_in_it(tiny_npz, tmp_path):
    # 7 forks in batches of 4: the second is filled up.
    spec = resolve(tiny_npz, ("fork.num_replicates", "7"))
    names = compilations(lambda: run(spec, tmp_path / "run", fork_width=4))
    assert names.count("train_steps") == names.count("eval_steps") == 1


def test_a_member_at_which_a_process_died_trains_alone_so_that_it_condemns_no_other(
    tiny_npz, tmp_path
):
    spec = resolve(tiny_npz, ("fork.num_replicates", "4"))
    study = Study(spec, tmp_path / "run")
    for number in (0, 2):
        member = fork(2, "constant", replicate=number)
        study.directory(member).mkdir(parents=True)
        study.records(member).attempt(0)
    own, trained, _ = observed(study)
    scheduler.work(own, asked_width=4)
    # The trunk; then replicate 0, replicates 1 and 3 together, replicate 2.
    assert [len(members) for members in trained] == [1, 1, 2, 1]


def test_adding_baselines_to_a_finished_grid_needs_no_checkpoint_of_the_state_before_training(
    tiny_npz, tmp_path
):
    kept = ("train.keep_checkpoints", "fork_epochs")
    run(resolve(tiny_npz, kept), tmp_path / "run")
    text, _ = run(resolve(tiny_npz, kept, ("fork.baselines", "prune_at_init")), tmp_path / "run")
    assert "3 finished, 0 diverged, 0 skipped." in text


def test_a_study_whose_trunk_diverged_is_done_comparisons_included(tiny_npz, tmp_path):
    changes = (
        ("optim.learning_rate", "1e25"),
        ("fork.num_replicates", "2"),
        ("fork.comparisons", "disagreement"),
    )
    spec = resolve(tiny_npz, *changes)
    run(spec, tmp_path / "run")
    study = Study(spec, tmp_path / "run")
    assert study.left(study.wanted_members()) == []
    assert experiment.exit_status(Study(spec, tmp_path / "run")) == experiment.FAILED


def test_a_damaged_run_is_named_and_trained_again_while_the_grid_grows(tiny_npz, tmp_path):
    run(resolve(tiny_npz), tmp_path / "run")
    metrics = locate(tmp_path / "run", fork(2, "constant")) / "metrics.jsonl"
    metrics.write_text("{damaged\n" + metrics.read_text())
    larger = resolve(tiny_npz, ("pruning.sparsities", "0.5,0.9"))
    _, said = run(larger, tmp_path / "run")
    assert "metrics.jsonl, line 1" in said
    assert Study(larger, tmp_path / "run").statuses(plan.members(larger)) == ["finished"] * 3


def test_a_finished_study_whose_data_have_changed_is_refused_and_without_them_summed_up(
    tiny_npz, tmp_path
):
    data = tmp_path / "own.npz"
    data.write_bytes(tiny_npz.read_bytes())
    spec = resolve(data)
    first, _ = run(spec, tmp_path / "run")
    arrays = dict(np.load(data))
    np.savez(data, **(arrays | {"x_train": arrays["x_train"][::-1]}))
    with pytest.raises(InvalidInput, match="to hold the data that .* was trained on"):
        run(spec, tmp_path / "run")
    data.unlink()
    again, said = run(spec, tmp_path / "run")
    assert again == first
    assert "The data cannot be compared with those of the runs" in said


def test_another_rule_to_replay_is_no_other_study(tiny_npz, tmp_path):
    run(resolve(tiny_npz), tmp_path / "run")
    before = modified(tmp_path / "run")
    run(
        resolve(tiny_npz, ("fork.trigger", "epoch(3)"), ("fork.fallback_epoch", "1")),
        tmp_path / "run",
    )
    assert modified(tmp_path / "run") == before


def test_a_damaged_budget_of_signals_is_named_with_its_remedy(tiny_npz, tmp_path):
    budgeted = (("signals.names", "kl_uniform"), ("signals.max_overhead_fraction", "0.5"))
    run(resolve(tiny_npz, *budgeted), tmp_path)
    (path,) = tmp_path.glob("signal_budgets/*.json")
    path.write_text("{")
    # Summed up alone, and trained on.
    for seeds in ("0", "0,1"):
        with pytest.raises(InvalidInput) as error:
            run(resolve(tiny_npz, *budgeted, ("train.seeds", seeds)), tmp_path)
        assert path.name in str(error.value) and "Delete this file alone" in str(error.value)
    path.unlink()
    run(resolve(tiny_npz, *budgeted, ("train.seeds", "0,1")), tmp_path)
    assert json.loads(path.read_text())["signals"]


def test_a_fork_whose_last_checkpoint_is_lost_is_trained_again_for_its_comparison(
    tiny_npz, tmp_path, monkeypatch
):
    monkeypatch.setattr(scheduler, "SHORTEST_PAUSE", 0.0)
    spec = resolve(tiny_npz, ("fork.num_replicates", "2"), ("fork.comparisons", "disagreement"))
    run(spec, tmp_path / "run")
    (directory,) = (tmp_path / "run").glob("comparisons/*/")
    whole = RunRecords(directory).read()
    metrics = {path: path.read_text() for path in tmp_path.glob("run/forks/*/metrics.jsonl")}
    (directory / "result.json").unlink()
    shutil.rmtree(next(tmp_path.glob("run/forks/*_r1*/checkpoints")))
    text, said = run(spec, tmp_path / "run")
    assert "3 finished, 0 diverged, 0 skipped." in text and said.count("is trained again") == 1
    assert RunRecords(directory).read() == whole
    assert all(
        [line["test_loss"] for line in map(json.loads, path.read_text().splitlines())]
        == [line["test_loss"] for line in map(json.loads, before.splitlines())]
        for path, before in metrics.items()
    )
