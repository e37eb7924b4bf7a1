"""What is shown of a study: on 80 columns, in a pipe, and how long it says that is left."""

import io
import math
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.experimental import multihost_utils
from rich.cells import cell_len
from rich.console import Console
from tiny import linear_experiment

from earlyprune_jax import config
from earlyprune_jax.grid import pace as paces
from earlyprune_jax.grid.members import Fork, Member, Trunk, label
from earlyprune_jax.grid.pace import Pace
from earlyprune_jax.grid.study import Study
from earlyprune_jax.progress import Reporter, fitted
from earlyprune_jax.records import FORMAT, write_json
from earlyprune_jax.run_records import RunRecords
from earlyprune_jax.training import multihost

ROOT = Path(__file__).parent.parent
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LONG = (
    "sweep.data.train_fraction=0.5,0.75 "
    "sweep.optim.weight_decay=0.00012345,0.00054321 fork.num_replicates=12 "
    "pruning.criteria=taylor,magnitude"
)
METRICS = [{"name": "accuracy", "unit": "%", "larger_is_better": True}]


@pytest.fixture(autouse=True, params=[math.inf, 0.0], ids=["looks", "waits"])
def looking(monkeypatch, request):
    """With a look at all members after every epoch, and with one at the start only."""
    monkeypatch.setattr(paces, "LOOKING_SHARE", request.param or 1e-9)
    return bool(request.param)


@pytest.fixture
def study(tiny_npz, tmp_path):
    """Of a trunk of 4 epochs and forks after epochs 1 and 2; nothing is trained."""
    return new_study(tiny_npz, tmp_path, [("fork.epochs", "1,2")])


def new_study(npz, workdir, changes) -> Study:
    spec = config.resolve(linear_experiment(npz), [("data.validation_fraction", "0.2"), *changes])
    study = {"format": FORMAT, "metrics": METRICS, "primary": "accuracy"}
    write_json(workdir / "study.json", study)
    return Study(spec, workdir)


def entry(epoch: int, seconds: float, signals: float | None = None) -> dict:
    found = {"epoch": epoch, "test_accuracy": 0.9246, "seconds": seconds, "compile_seconds": 30.0}
    return found if signals is None else found | {"signal_seconds": {"kl_uniform": signals}}


def train(study: Study, member: Member, *entries: dict) -> list[dict]:
    records = RunRecords(study.directory(member))
    records.start({})
    return [records.append(each) for each in entries]


def members(study: Study) -> tuple[Trunk, list[Fork]]:
    trunk, *forks = study.wanted_members()
    assert isinstance(trunk, Trunk)
    return trunk, [fork for fork in forks if isinstance(fork, Fork)]


def test_time_left_is_the_work_left_at_the_speed_so_far_where_a_trunks_signals_take_longer(study):
    trunk, forks = members(study)
    assert [fork.num_epochs(study.spec) for fork in forks] == [3, 2]
    pace = Pace(study)
    assert pace.seconds_left() is None and pace.num_epochs == 9
    for each in train(study, trunk, entry(1, 1000.0, 600.0)):
        pace.note_epoch(label(trunk), each)
    # 3 epochs with signals and 5 without, of 400 s.
    assert pace.seconds_left() == pytest.approx(3 * 1000 + 5 * 400, rel=1e-3)


def test_what_other_processes_train_meanwhile_counts(study, looking):
    if not looking:
        return  # It is known at the next look.
    trunk, (first, _) = members(study)
    pace = Pace(study)
    train(study, first, entry(2, 400.0), entry(3, 400.0), entry(4, 400.0))
    RunRecords(study.directory(first)).finish({"status": "finished"})
    for each in train(study, trunk, entry(1, 1000.0, 600.0)):
        pace.note_epoch(label(trunk), each)
    # In 1000 s 1 epoch with signals and 3 without.
    assert pace.seconds_left() == pytest.approx(1000 * (3 * 1000 + 2 * 400) / 2200, rel=1e-3)
    assert (pace.num_ended, pace.num_members) == (1, 3)


def test_damaged_records_of_others_fail_no_run(study):
    trunk, (first, _) = members(study)
    pace = Pace(study)
    train(study, first, entry(2, 400.0))
    (study.directory(first) / "metrics.jsonl").write_text("{damaged\n")
    for each in train(study, trunk, entry(1, 1000.0, 600.0)):
        pace.note_epoch(label(trunk), each)
    assert pace.done.total() == 1


def test_epochs_that_a_trigger_spares_are_not_taken_for_done(study):
    trunk, _ = members(study)
    pace = Pace(study)
    for each in train(study, trunk, entry(1, 1000.0, 600.0)):
        pace.note_epoch(label(trunk), each)
    RunRecords(study.directory(trunk)).finish({"status": "finished", "fired": {"epoch": 1}})
    pace.note_end(label(trunk))
    assert (pace.done.total(), pace.num_epochs) == (1, 6)
    assert pace.seconds_left() == pytest.approx(5 * 400, rel=1e-3)


def test_members_that_a_batch_or_workers_end_together_are_counted_once_each(study):
    trunk, forks = members(study)
    pace, told = Pace(study), []
    (first,) = train(study, trunk, entry(1, 1000.0, 600.0))
    pace.note_epoch(label(trunk), first)
    for fork in forks:
        train(study, fork, entry(3, 400.0), entry(4, 400.0))
        RunRecords(study.directory(fork)).finish({"status": "finished"})
    # All is on record before anything is told.
    for fork in forks:
        for number in (3, 4):
            pace.note_epoch(label(fork), entry(number, 400.0))
        told.append(pace.note_end(label(fork)))
    assert sorted(told) == [1, 2] and pace.num_ended == 2
    assert (pace.done["dense"], pace.done["pruned"], pace.left["pruned"]) == (1, 4, 0)


def test_what_had_ended_before_is_no_work_of_this_session(study):
    trunk, (first, _) = members(study)
    train(study, trunk, *(entry(number, 1000.0, 600.0) for number in range(1, 5)))
    RunRecords(study.directory(trunk)).finish({"status": "finished"})
    train(study, first, entry(2, 400.0))
    pace = Pace(study)
    assert (pace.num_ended, pace.done.total(), pace.num_epochs) == (1, 0, 2 + 2)


def frames(study: Study, trained: list[tuple[Member, dict]], doing: str = "") -> list[str]:
    """What a terminal of 80 columns shows while epochs are trained, line by line."""
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    reporter = Reporter(study, console, writes_tables=False)
    callbacks = reporter.callbacks(0.0)
    with reporter.shown():
        callbacks.do(doing)
        for member, each in trained:
            callbacks.report(label(member), *train(study, member, each))
        assert reporter._bar
        reporter._bar.refresh()
    text = ANSI.sub("", console.file.getvalue())  # type: ignore[attr-defined]
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()]


def test_the_bar_of_the_longest_names_fits_80_columns_and_its_numbers_are_whole(tiny_npz, tmp_path):
    changes = [tuple(each.split("=")) for each in LONG.split()]
    study = new_study(tiny_npz, tmp_path, changes)
    wanted = study.wanted_members()
    longest = max(wanted, key=lambda member: len(label(member)))
    assert len(label(longest)) > 100 and len(wanted) > 99
    total = Pace(study).num_epochs
    lines = frames(study, [(longest, entry(2, 1000.0))])
    assert all(cell_len(line.rstrip()) <= 80 for line in lines), lines
    assert f" 0/{len(wanted)} runs  1/{total} epochs " in lines[-1]
    assert re.search(r" \d+ d \d+ h left  test 92\.46 %  fork.*…", lines[-1]), lines[-1]


def test_the_bar_says_what_is_compiled_until_an_epoch_is_trained(study):
    trunk, _ = members(study)
    assert (
        "0/3 runs  0/9 epochs  0.0 s compiling train_step"
        in frames(study, [], doing="compiling train_step")[-1]
    )
    line = frames(study, [(trunk, entry(1, 1.0, 0.5))], doing="compiling train_step")[-1]
    assert "compiling" not in line and line.rstrip().endswith("test 92.46 %  trunk seed 0")


def test_what_does_not_fit_is_left_out_from_the_end():
    assert fitted(["12/30 runs", "3 h 20 min left"], "a name", 12) == "12/30 runs"


def printed(study: Study, *, verbose: bool) -> list[str]:
    """What a pipe gets of a trunk that is trained to its end, a fork that fails, and another."""
    console = Console(file=io.StringIO(), width=80)
    reporter = Reporter(study, console, writes_tables=False, verbose=verbose)
    callbacks = reporter.callbacks(0.0)
    trunk, (first, second) = members(study)
    callbacks.do("reading digits")
    with reporter.shown():
        for name in ("train_step", "eval_step"):
            callbacks.do(f"compiling {name}")
        for number in range(1, 5):
            callbacks.report(label(trunk), *train(study, trunk, entry(number, 1000.0, 600.0)))
        for member, result in (
            (trunk, {"status": "finished", "epoch": 4}),
            (first, {"status": "diverged", "epoch": 2, "reason": "loss not finite at step 9"}),
        ):
            train(study, member)
            RunRecords(study.directory(member)).finish(result)
            callbacks.end(label(member), result)
        for number in (3, 4):
            callbacks.report(label(second), *train(study, second, entry(number, 400.0)))
        RunRecords(study.directory(second)).finish({"status": "finished", "epoch": 4})
        callbacks.end(label(second), {"status": "finished", "epoch": 4})
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_pipe_gets_a_line_a_run_with_count_and_time_left(study):
    lines = printed(study, verbose=False)
    assert lines[:3] == [
        "Reading digits ...",
        "Compiling train_step ...",
        "trunk seed 0: first epoch in 17 min after 30 s of compiling; 3 runs, 9 epochs to train, "
        "83 min left",
    ]
    assert [line.partition(" left")[0] for line in lines[3:]] == [
        "[1/3] trunk seed 0  test accuracy 92.46 %  8 min",
        "[2/3] fork seed 0 at 1, magnitude global 0.5 paper_a  diverged: loss not finite at step 9"
        "  3 min",
        "[3/3] fork seed 0 at 2, magnitude global 0.5 paper_a  test accuracy 92.46 %",
    ]


def test_with_verbose_a_pipe_gets_a_line_an_epoch_too(study):
    lines = printed(study, verbose=True)
    assert sum(line.startswith("trunk seed 0  epoch ") for line in lines) == 4
    assert sum(line.startswith("[") for line in lines) == 3


def test_the_first_line_comes_before_jax_is_imported():
    code = (
        "import sys; sys.modules['jax'] = None; from earlyprune_jax import main; "
        "main.main(['--config=digits', *sys.argv[1:]])"
    )

    def said(*arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stderr

    assert said().startswith("earlyprune_jax: starting JAX ...\n")
    assert said("--process_id=1").startswith("Traceback")


def test_process_0_of_several_shows_an_epoch_without_the_others(study, monkeypatch):
    def exchange(*_, **__):
        raise AssertionError("The others compute: they would not answer.")

    trunk, _ = members(study)
    records = train(study, trunk, entry(1, 1000.0, 600.0))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", exchange)
    reporter = Reporter(study, Console(file=io.StringIO()), writes_tables=False)
    with multihost.alone(), reporter.shown():
        pass
    callbacks = reporter.callbacks(0.0)
    callbacks.report(label(trunk), *records)
    callbacks.end(label(trunk), {"status": "finished", "epoch": 4})
    with pytest.raises(AssertionError, match="would not answer"):
        study.unended([trunk])
