"""Lines through a trained run: what the task itself decodes, and what is refused in a sentence."""

import contextlib
import io
import json
import os
import shutil
import sys

import numpy as np
import pytest

from earlyprune_jax import (
    assets,
    cli,
    data,
    experiment,
    leaving,
    references,
    tasks,
    translate,
    verify,
)
from earlyprune_jax.data import corpora
from earlyprune_jax.data.vocabulary import UNKNOWN, Vocabulary
from earlyprune_jax.run_records import RunRecords
from earlyprune_jax.storage import StorageError
from earlyprune_jax.training.checkpoint import CheckpointStore
from earlyprune_jax.training.engine import Engine
from earlyprune_jax.translation import lines as lines_of_text
from earlyprune_jax.translation import scores
from earlyprune_jax.translation.task import decoded, decoder, network
from tests.translation.studies import resolved


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


@pytest.fixture
def typed(monkeypatch):
    """Gives the program its standard input."""

    def give(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return give


def trunk(workdir):
    return next(workdir.glob("trunks/*"))


def shown(*arguments):
    return cli.main(["translate", *map(str, arguments)])


@pytest.fixture(scope="module")
def spoken():
    """The German lines of the test split."""
    spec = resolved().data
    return references.load("data.name", spec.name, corpora.CORPORA)().pairs(spec, "test")[0]


@pytest.mark.parametrize(("folder", "epoch"), [("trunks", 2), ("trunks", 0), ("forks", None)])
def test_lines_give_what_the_task_decodes_from_the_same_state(finished, spoken, folder, epoch):
    """The whole state is restored by the engine, and rows are cut by the source of the data."""
    directory, spec = next(finished.glob(f"{folder}/*")), resolved()
    source = data.read(spec.data)
    engine = Engine(spec, tasks.build(spec, source))
    state = engine.restored(
        CheckpointStore(directory / "checkpoints"), 2 if epoch is None else epoch
    )
    vocabularies = {
        side: Vocabulary(source.assets[f"{side}.model"]) for side in ("source", "target")
    }
    model = tasks.models.factory(spec.model.name)
    decode = decoder(network(model, vocabularies, "float32"), 2, 0.6, 5)
    ids = decoded(decode, {"params": state.params}, source.test["source"].astype(np.int32))
    translator = translate.load(directory, epoch)
    assert translator(spoken) == vocabularies["target"].decode(ids)
    # In whatever company, each line means the same.
    assert translator(["", spoken[3]]) == ["", translator(spoken)[3]]


def test_the_program_writes_a_line_for_each_and_counts_what_it_could_not_take(
    finished, typed, capsys
):
    long = "zweihundert " * 60
    typed(f"eins\r\n\n{long}\n  \nzwei Ω\n{long}".encode())
    assert shown(trunk(finished), "--epoch=1", "--beam=1", "--length_penalty=0") == 0
    said = capsys.readouterr()
    written = said.out.split("\n")
    assert len(written) == 7 and written[1] == written[3] == written[6] == ""
    assert written[2] == written[5] != written[0]
    assert "2 lines longer than 100 tokens, of which the rest was cut: 3 and 6." in said.err
    assert "1 line with characters that the vocabulary has not seen: 5." in said.err


def test_nothing_comes_of_nothing(finished, typed, capsys):
    typed(b"")
    assert shown(trunk(finished)) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("is_pipe", [True, False])
def test_output_that_cannot_be_written_ends_it(finished, monkeypatch, is_pipe):
    """Not after all lines: | head -1. And not as if it had been written: a full disk."""

    class Counted(io.BytesIO):
        taken = 0

        def __next__(self):
            self.taken += 1
            return super().__next__()

    given = Counted(b"eins\n" * 9)
    monkeypatch.setattr(translate, "LINES_TOGETHER", 2)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(given))
    if is_pipe:
        unread, descriptor = os.pipe()
        os.close(unread)
        outcome = contextlib.nullcontext()
    else:
        descriptor = os.open("/dev/full", os.O_WRONLY)
        outcome = pytest.raises(StorageError, match="Could not write the output: No space left")
    raw = io.BufferedWriter(leaving._Lossy(descriptor, "w"))
    with io.TextIOWrapper(raw) as output, monkeypatch.context() as patched, outcome:
        patched.setattr(sys, "stdout", output)
        assert shown(trunk(finished)) == 0
    assert given.taken == 2


def test_what_was_cut_is_said_even_if_a_later_line_is_no_text(finished, typed, monkeypatch, capsys):
    monkeypatch.setattr(translate, "LINES_TOGETHER", 1)
    typed(b"zweihundert " * 60 + b"\n\xff\n")
    assert shown(trunk(finished)) == 2
    said = capsys.readouterr().err
    assert "1 line longer than 100 tokens" in said and "line 2 of standard input" in said


def test_bytes_that_are_no_text_are_named_with_their_line(finished, typed, capsys):
    typed(b"eins\n\xff\n")
    assert shown(trunk(finished)) == 2
    assert "line 2 of standard input=b'\\xff\\n' to be UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--epoch=7"], "--epoch=7 to be that of a checkpoint. Saved: 0, 1, 2."),
        (["--beam=0"], "--beam=0 in [1, 1000]."),
        (["--beam=3000000000"], "--beam=3000000000 in [1, 1000]."),
        (["--length_penalty=nan"], "--length_penalty=nan in [0, inf)."),
    ],
)
def test_flags_that_fit_no_run_are_refused(finished, capsys, flags, words):
    assert shown(trunk(finished), *flags) == 2
    assert words in capsys.readouterr().err


def test_what_is_no_run_of_this_task_is_refused(finished, tmp_path, capsys):
    other = tmp_path / "trunks" / "other"
    RunRecords(other).start(
        {"kind": "trunk", "first_epoch": 0, "config": {"task": {"name": "classification"}}}
    )
    for directory, words in {
        tmp_path / "none": "to be a run's, with a run.json. One is WORKDIR/trunks/NAME",
        finished: "It is a whole workdir.",
        next(finished.glob("comparisons/*")): "it is of a comparison of runs",
        other: "task.name of the run='classification' to be translation.",
    }.items():
        assert shown(directory) == 2
        assert words in capsys.readouterr().err


def test_a_run_that_has_not_finished_asks_for_an_epoch(workdir, capsys):
    (trunk(workdir) / "result.json").unlink()
    assert shown(trunk(workdir)) == 2
    said = capsys.readouterr().err
    assert "it is unfinished after 2 epochs. Or give --epoch. Saved: 0, 1, 2." in said
    shutil.rmtree(trunk(workdir) / "checkpoints")
    assert shown(trunk(workdir), "--epoch=2") == 2
    assert "Saved: none." in capsys.readouterr().err


def test_checkpoints_that_were_not_kept_or_are_damaged_are_named(workdir, capsys):
    run = RunRecords(trunk(workdir))
    described = run.description() or {}
    described["config"]["train"]["keep_checkpoints"] = "fork_epochs"
    run.start(described)
    shutil.rmtree(trunk(workdir) / "checkpoints" / "0")
    assert shown(trunk(workdir), "--epoch=0") == 2
    assert "By train.keep_checkpoints=fork_epochs others are not kept" in capsys.readouterr().err
    assert shown(next(workdir.glob("forks/*")), "--epoch=1") == 2
    assert "Of a pruned run the newest alone is kept." in capsys.readouterr().err
    (trunk(workdir) / "checkpoints" / "1" / "_CHECKPOINT_METADATA").write_text("{}")
    assert shown(trunk(workdir), "--epoch=1") == 2
    assert "checkpoints/1' to be readable" in capsys.readouterr().err


def test_what_was_kept_and_is_lost_or_another_runs_is_named_and_run_writes_it_again(
    workdir, capsys
):
    before = {path.name: path.read_bytes() for path in (workdir / "assets").iterdir()}
    assert json.loads(next(v for n, v in before.items() if "json" in n)) == scores.signatures()
    (source,), (target,) = (workdir.glob(f"assets/*.{side}.model") for side in ("source", "target"))
    shutil.copy(target, source)
    assert shown(trunk(workdir)) == 2
    assert f"'{source}' to be what its name says" in capsys.readouterr().err
    target.unlink()
    assert verify.main([str(workdir)]) == 1
    said = capsys.readouterr().out
    assert f"'{source}' to be what its name says" in said and f"'{target}' to exist" in said
    source.write_bytes(before[source.name])
    assert shown(trunk(workdir)) == 2
    assert f"'{target}' to exist. `earlyprune run`" in capsys.readouterr().err
    # A study that has ended, and one that goes on.
    for _ in range(2):
        experiment.run(resolved(), workdir)
        said = " ".join(capsys.readouterr().out.split())
        assert said.count("was lost or damaged. It is written again.") == 1
        assert {path.name: path.read_bytes() for path in (workdir / "assets").iterdir()} == before
        (next(workdir.glob("comparisons/*")) / "result.json").unlink()
        target.write_bytes(b"x")
    assert json.loads((trunk(workdir) / "run.json").read_text())["assets"].keys() == {
        "source.model",
        "target.model",
        "signatures.json",
    }


def test_a_run_whose_record_names_no_vocabulary_is_refused(workdir, capsys):
    run = RunRecords(trunk(workdir))
    run.start(
        {name: value for name, value in (run.description() or {}).items() if name != "assets"}
    )
    assert shown(trunk(workdir)) == 2
    assert "assets in run.json=[] to hold source.model." in capsys.readouterr().err


def test_runs_of_other_data_share_the_folder_and_equal_content_is_one_file(tmp_path):
    first, second = {"a": b"1", "b": b"2"}, {"a": b"1", "b": b"3"}
    assert assets.write(tmp_path, first) == list(assets.paths(first).values())
    assert assets.write(tmp_path, second) == [assets.paths(second)["b"]]
    assert len(list((tmp_path / "assets").iterdir())) == 3
    assert assets.write(tmp_path, first) == assets.write(tmp_path, second) == []
    assert assets.read(tmp_path, {"assets": assets.paths(first)}, "b") == b"2"


def test_every_line_with_a_token_is_in_one_batch_that_holds_it():
    lengths = np.random.default_rng(0).integers(0, 140, 1234)
    made = list(lines_of_text.batches(lengths, 101))
    rows = [row for batch, _, _ in made for row in batch]
    assert sorted(rows) == np.flatnonzero(lengths).tolist()
    for batch, size, width in made:
        assert len(batch) <= size and min(lengths[batch].max() + 1, 101) <= width <= 101
    assert {shape[1:] for shape in made} <= {(100, 16), (100, 32), (100, 64), (100, 101)}
    assert list(lines_of_text.batches(np.zeros(3, int), 101)) == []
    assert UNKNOWN not in (0, 3)
