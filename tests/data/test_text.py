"""Sources of parallel text: what is read, left out, cut and counted, and what is refused."""

import gzip
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece  # pyright: ignore[reportMissingImports]
from synthetic import make_text_spec, only_problem, write_pairs

from earlyprune_jax import data, main
from earlyprune_jax.data import text, vocabulary
from earlyprune_jax.validate import InvalidInput

COLOURS = {"rot": "red", "blau": "blue", "grün": "green", "weiß": "white"}
THINGS = {"Hund": "dog", "Haus": "house", "Zug": "train", "Berg": "hill"}
PAIRS = [
    (f"Der {thing} ist {colour}.", f"The {THINGS[thing]} is {COLOURS[colour]}.")
    for thing in THINGS
    for colour in COLOURS
]
SPLITS = {"train": PAIRS, "val": PAIRS[:3], "test": PAIRS[5:9]}


def spec_of(folder, arguments="vocabulary_size=40", **changes):
    return make_text_spec(f"text({str(folder)!r}, {arguments})", **changes)


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_pairs(tmp_path / "pairs", SPLITS)


def decoded(source, split, side) -> list[str]:
    """The lines behind a split's ids, by sentencepiece itself."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=source.assets[f"{side}.model"])
    rows = source.splits[split][side].tolist()
    return [processor.decode([one for one in row if one > 3]) for row in rows]


@pytest.mark.parametrize("joint", [False, True])
def test_rows_are_the_lines_as_subwords_with_an_end_and_padding(folder, joint):
    spec = spec_of(folder, f"vocabulary_size=50, joint={joint}, max_tokens=30")
    assert data.check(spec) == []
    source = data.read(spec)
    for split, pairs in (("train", PAIRS), ("validation", PAIRS[:3]), ("test", PAIRS[5:9])):
        for side, lines in zip(("source", "target"), zip(*pairs, strict=True), strict=True):
            ids = source.splits[split][side]
            assert ids.shape == (len(pairs), 31) and ids.dtype == np.uint16
            assert decoded(source, split, side) == list(lines)
            for row in ids.tolist():
                end = row.index(vocabulary.END)
                assert min(row[:end]) > 3 and set(row[end + 1 :]) == {vocabulary.PAD}
        assert source.splits[split]["line"].tolist() == list(range(len(pairs)))
    assert source.assets["test.target"].decode().split("\n") == [en for _, en in PAIRS[5:9]]
    assert (source.assets["source.model"] == source.assets["target.model"]) == joint


def test_the_outline_has_the_shapes_of_what_is_read(folder):
    spec = spec_of(folder, train_fraction=0.5)
    found = {
        split: {name: (rows.shape, rows.dtype) for name, rows in arrays.items()}
        for split, arrays in data.load(spec).items()
    }
    assert found == {
        split: {name: (rows.shape, rows.dtype) for name, rows in arrays.items()}
        for split, arrays in data.shapes(spec).items()
    }
    assert found["train"]["line"][0] == (8,) and found["validation"]["line"][0] == (3,)


def test_a_source_with_its_own_validation_split_gives_it_whole_and_holds_nothing_out(folder):
    spec = spec_of(folder, test_fraction=0.5)
    assert data.usage(data.read(spec), spec).endswith(
        "all 16 training examples, all 3 validation examples, "
        "2 of 4 test examples (data.test_fraction=0.5)."
    )
    problem = only_problem(spec_of(folder, validation_fraction=0.1))
    assert "data.validation_fraction=0.1 to be 0." in problem
    assert "brings its makers' validation split" in problem


@pytest.mark.parametrize(
    "write",
    [
        lambda lines: gzip.compress("\n".join(lines).encode()),
        lambda lines: "\r\n".join([*lines, ""]).encode(),
        lambda lines: b"\xef\xbb\xbf" + "\n".join(lines).encode(),
        lambda lines: "\n".join(lines).replace(" ", "\u2028").encode(),
    ],
    ids=["gz", "crlf", "bom", "u2028"],
)
def test_compression_line_ends_marks_and_other_separators_change_no_token(folder, tmp_path, write):
    wanted = data.read(spec_of(folder))
    for file in sorted(folder.iterdir()):
        content = write(file.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
        is_gz = content.startswith(b"\x1f\x8b")
        (tmp_path / f"{file.name}{'.gz' * is_gz}").write_bytes(content)
    found = data.read(spec_of(tmp_path))
    for split, rows in wanted.splits.items():
        for name, array in rows.items():
            np.testing.assert_array_equal(array, found.splits[split][name])
    lines = found.assets["test.target"].decode().split("\n")
    assert [line.replace("\u2028", " ") for line in lines] == [en for _, en in PAIRS[5:9]]


def test_what_does_not_fit_is_left_out_of_training_cut_elsewhere_and_counted(tmp_path):
    long, empty = (" ".join(de for de, _ in PAIRS[:4]), PAIRS[0][1]), ("", "Nothing.")
    blank, strange = ("Nichts.", " \t"), ("Der Ω ist rot.", "The Ω is red.")
    splits = {
        "train": [*PAIRS, long, empty, blank],
        "val": [empty, PAIRS[0]],
        "test": [long, strange, PAIRS[2]],
    }
    spec = spec_of(write_pairs(tmp_path / "odd", splits), "vocabulary_size=45, max_tokens=14")
    source = data.read(spec)
    processor = sentencepiece.SentencePieceProcessor(model_proto=source.assets["source.model"])
    assert max(len(processor.encode(de)) for de, _ in PAIRS) <= 14 < len(processor.encode(long[0]))
    assert source.train["line"].tolist() == list(range(16))
    assert data.usage(source, spec).endswith(
        "all 16 training examples, all 2 validation examples, all 3 test examples; "
        "train (19 pairs): 2 pairs with an empty side left out, "
        "1 pairs longer than max_tokens=14 left out; "
        "validation (2 pairs): 1 pairs with an empty side kept; "
        "test (3 pairs): 1 pairs longer than max_tokens=14 cut, 2 unknown tokens."
    )
    assert source.splits["validation"]["source"][0].tolist() == [vocabulary.END] + [0] * 14
    wanted = [*processor.encode(long[0])[:14], vocabulary.END]
    assert source.test["source"][0].tolist() == wanted
    assert source.assets["validation.target"].decode() == f"Nothing.\n{PAIRS[0][1]}"


def test_nothing_left_to_train_on_is_refused_and_says_why(folder):
    with pytest.raises(InvalidInput) as caught:
        data.read(spec_of(folder, "vocabulary_size=40, max_tokens=1"))
    words = "max_tokens of data.name=1 to leave a training pair of 16. 0 have an empty side, 16"
    assert words in str(caught.value)


def test_the_first_pairs_alone_are_read_and_no_more_than_there_are(folder):
    source = data.read(spec_of(folder, "vocabulary_size=30, first=6"))
    assert decoded(source, "train", "target") == [en for _, en in PAIRS[:6]]
    assert "first of data.name=17 to be at most 16" in only_problem(spec_of(folder, "first=17"))


def test_missing_files_are_named_all_at_once_with_the_names_that_were_looked_for(folder):
    (folder / "test.en").unlink()
    (folder / "val.de").unlink()
    problem = only_problem(spec_of(folder))
    assert "to hold val.de or val.de.gz, test.en or test.en.gz." in problem
    assert "train.de" not in problem


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("val.de", b"a\nb\n", "lines of {}/val.de=2 to be as many as of {}/val.en, 3"),
        ("train.en", b"a\nb\xff\n", r"line 2 of {}/train.en=b'b\xff\n' to be UTF-8 (invalid start"),
        ("test.de", b"", "lines of {}/test.de=0 to be as many"),
    ],
)
def test_files_that_are_wrong_are_named_with_their_line(folder, name, content, words):
    (folder / name).write_bytes(content)
    assert words.format(folder, folder) in only_problem(spec_of(folder))


@pytest.mark.parametrize("damage", [slice(0, -9), slice(0, 40)])
def test_a_damaged_archive_is_refused_before_anything_is_trained(folder, damage):
    whole = (folder / "train.de").read_bytes()
    (folder / "train.de").unlink()
    (folder / "train.de.gz").write_bytes(gzip.compress(whole)[damage])
    problem = only_problem(spec_of(folder))
    assert f"file='{folder}/train.de.gz' to be readable to its end" in problem


def test_empty_files_are_refused(tmp_path):
    for split in SPLITS:
        for language in ("de", "en"):
            (tmp_path / f"{split}.{language}").write_bytes(b"")
    assert len(data.check(spec_of(tmp_path))) == 3
    assert "lines of" in data.check(spec_of(tmp_path))[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("text", "path of data.name='' to hold train.de or train.de.gz, train.en"),
        ("text(paht='a')", "unexpected keyword argument 'paht'"),
        ("text(path=", "'(' was never closed"),
        ("text(source='en')", "target of data.name='en' to be another language than source"),
        ("numerals(seed=0.5)", "seed of data.name=0.5 to be a whole number"),
        ("numerals(num_pairs=0)", "num_pairs of data.name=0 in [1, 800000]"),
        ("numerals(target='xx')", "language of data.name='xx' to be one of "),
        ("wmt14(source='fr')", "source, target of data.name=('fr', 'en') to be de and en"),
        ("digits(2)", "data.name='digits(2)' to be one of digits"),
    ],
)
def test_arguments_that_are_wrong_are_named(name, words):
    assert words in "\n".join(data.check(make_text_spec(name)))


def test_the_program_ends_with_2_and_the_sentence(folder, tmp_path, capsys):
    (folder / "val.en").unlink()
    name = f"--config.data.name=text('{folder}')"
    assert main.main(["--config=digits", f"--workdir={tmp_path / 'run'}", name]) == 2
    assert "to hold val.en or val.en.gz" in capsys.readouterr().err


def test_a_missing_package_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    problem = only_problem(spec_of(folder))
    assert "package='sentencepiece' to be installed" in problem
    assert 'pip install "earlyprune_jax[text]"' in problem


# Vocabularies


def test_the_same_text_gives_the_same_bytes_in_another_process(folder):
    source = data.read(spec_of(folder))
    code = (
        "from earlyprune_jax import data; from synthetic import make_text_spec; import sys;"
        "print(data.read(make_text_spec(sys.argv[1])).digest())"
    )
    paths = [str(Path(__file__).parent), *sys.path]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}; {code}"]
    command.append(f"text({str(folder)!r}, vocabulary_size=40)")
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert (done.stdout.strip(), done.stderr) == (source.digest(), "")


@pytest.mark.parametrize(("asked", "bound"), [(5000, "most"), (10, "least")])
def test_a_size_that_the_text_cannot_fill_is_refused_with_the_one_that_it_can(asked, bound):
    lines = [de for de, _ in PAIRS]
    with pytest.raises(InvalidInput) as caught:
        vocabulary.train(lines, asked)
    possible = int(str(caught.value).split(f"to be at {bound} ")[1].split(".")[0])
    assert len(vocabulary.Vocabulary(vocabulary.train(lines, possible))) == possible
    beyond = possible + (1 if bound == "most" else -1)
    with pytest.raises(InvalidInput, match=f"at {bound} {possible}"):
        vocabulary.train(lines, beyond)


def test_vocabularies_that_cannot_be_filled_are_named_by_their_language(folder):
    with pytest.raises(InvalidInput) as caught:
        data.read(spec_of(folder, "vocabulary_size=9999"))
    starts = [problem.split(" Expected")[0] for problem in caught.value.problems]
    assert starts == ["data.name, de:", "data.name, en:"]


def test_every_character_of_the_text_has_a_token_and_others_are_unknown():
    rare = ["z", "y\0", "q" * 4193]
    made = vocabulary.Vocabulary(vocabulary.train(["aaaa aaaa aaaa"] * 999 + rare, 9))
    ids, lengths = made.encode(["z a y", "q", "\0", ""], 7)
    is_unknown = (ids == vocabulary.UNKNOWN).any(axis=1)
    assert is_unknown.tolist() == [False, True, True, False]
    assert lengths[3] == 0 and ids[3].tolist() == [vocabulary.END, 0, 0, 0, 0, 0, 0]
    assert made.decode(ids[:1]) == ["z a y"]


def test_of_many_pairs_a_sample_at_even_distances_makes_the_vocabulary(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "VOCABULARY_PAIRS", 3)
    pairs = [(f"aa{letter}", "bb") for letter in "cdefghi"]
    folder = write_pairs(tmp_path / "many", SPLITS | {"train": pairs})
    source = data.read(spec_of(folder, "vocabulary_size=10, joint=True, max_tokens=90"))
    # Of 7 pairs those at 0, 7/3 and 14/3, rounded down.
    known = [vocabulary.UNKNOWN not in row for row in source.train["source"]]
    assert known == [True, False, True, False, True, False, False]


def test_a_broken_vocabulary_is_refused():
    with pytest.raises(InvalidInput, match="to be a whole sentencepiece model"):
        vocabulary.Vocabulary(b"broken")


def test_assets_and_validation_are_part_of_the_digest():
    rows = {"x": np.arange(3)}

    def digest(**parts):
        return data.Source(rows, rows, **parts).digest()

    digests = [
        digest(),
        digest(validation=rows),
        digest(validation={"x": np.arange(2)}),
        digest(assets={"a": b"1"}),
        digest(assets={"a": b"2"}),
        digest(assets={"b": b"1"}),
    ]
    assert len(set(digests)) == len(digests)
    plain = hashlib.sha256(b"train['x'] (3,) int64" + rows["x"].tobytes())
    plain.update(b"test['x'] (3,) int64" + rows["x"].tobytes())
    assert digest() == plain.hexdigest()
