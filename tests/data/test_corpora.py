"""Number words and WMT14 as corpora of pairs."""

import numpy as np
import pytest
from synthetic import make_text_spec, only_problem, write_wmt14

from earlyprune_jax import data
from earlyprune_jax.data.corpora import Numerals, draw_numbers
from earlyprune_jax.data.vocabulary import Vocabulary
from earlyprune_jax.validate import InvalidInput

WORDS = {
    0: ("null", "zero"),
    16: ("sechzehn", "sixteen"),
    27: ("siebenundzwanzig", "twenty-seven"),
    710182: (
        "siebenhundertzehntausendeinhundertzweiundachtzig",
        "seven hundred and ten thousand, one hundred and eighty-two",
    ),
    962597: (
        "neunhundertzweiundsechzigtausendfünfhundertsiebenundneunzig",
        "nine hundred and sixty-two thousand, five hundred and ninety-seven",
    ),
}
"""Some of the 400 numbers of seed 0."""


def test_numbers_are_drawn_log_uniformly_each_once():
    numbers = draw_numbers(4000, seed=3)
    assert len(np.unique(numbers)) == 4000
    assert numbers.min() >= 0 and numbers.max() < 10**6
    # Where few are drawn of many, as many fall into one octave as into another.
    octaves = np.histogram(numbers, [2**k for k in range(14, 20)])[0]
    expected = octaves.sum() / 5
    assert ((octaves - expected) ** 2 / expected).sum() < 18.5  # chi-square, 4 degrees, p = .001
    assert np.array_equal(numbers, draw_numbers(4000, seed=3))
    assert not np.array_equal(numbers, draw_numbers(4000, seed=4))
    # In random order: halves are alike.
    assert abs(np.median(numbers[:2000]) / np.median(numbers[2000:]) - 1) < 0.3


def test_number_words_are_right_and_held_out_numbers_are_never_trained_on():
    corpus, spec = Numerals(num_pairs=300, num_held_out=50), make_text_spec("numerals")
    pairs = {split: corpus.pairs(spec, split) for split in corpus.sizes(spec)}
    numbers = draw_numbers(400, seed=0).tolist()
    sources, targets = (sum(sides, []) for sides in zip(*pairs.values(), strict=True))
    words = dict(zip(numbers, zip(sources, targets, strict=True), strict=True))
    assert {number: words[number] for number in WORDS} == WORDS
    assert [len(source) for source, _ in pairs.values()] == [300, 50, 50]
    sets = [set(source) for source, _ in pairs.values()]
    assert len(set.union(*sets)) == 400


def test_a_language_that_cannot_say_a_number_is_refused():
    with pytest.raises(InvalidInput, match="language of data.name='am' to have words for "):
        data.read(make_text_spec("numerals(target='am', num_pairs=500, vocabulary_size=300)"))


def test_a_source_of_number_words_reads_them_without_files():
    spec = make_text_spec("numerals(num_pairs=200, num_held_out=20, vocabulary_size=60, seed=1)")
    assert data.check(spec) == []
    source = data.read(spec)
    assert {split: len(rows["line"]) for split, rows in source.splits.items()} == {
        "train": 200,
        "test": 20,
        "validation": 20,
    }
    made = Vocabulary(source.assets["target.model"])
    assert "\n".join(made.decode(source.test["target"])) == source.assets["test.target"].decode()


# WMT14

PAIRS = {
    split: [(f"Satz {row} von {num}.", f"Sentence {row} of {num}.") for row in range(num)]
    for split, num in (("train", 30), ("validation", 4), ("test", 5))
}


@pytest.fixture
def wmt14(tmp_path):
    """A prepared directory: (data_dir, folder of the data set)."""
    return tmp_path, write_wmt14(tmp_path, PAIRS)


def lines(source, split, side):
    made = Vocabulary(source.assets[f"{side}.model"])
    return made.decode(source.splits[split][side])


def test_wmt14_is_read_from_a_directory_that_tfds_has_prepared(wmt14):
    name = "wmt14(vocabulary_size=40, max_tokens=50)"
    spec = make_text_spec(name, data_dir=str(wmt14[0]))
    assert data.check(spec) == []
    source = data.read(spec)
    for split, pairs in PAIRS.items():
        sides = (lines(source, split, side) for side in ("source", "target"))
        assert sorted(zip(*sides, strict=True)) == sorted(pairs)
    some = name.replace("wmt14(", "wmt14(source='en', target='de', first=7, ")
    fewer = data.read(make_text_spec(some, data_dir=str(wmt14[0])))
    assert lines(fewer, "train", "target") == lines(source, "train", "source")[:7]
    many = make_text_spec("wmt14(first=31)", data_dir=str(wmt14[0]))
    assert "first of data.name=31 to be at most 30" in only_problem(many)


def test_a_line_feed_within_a_record_moves_no_other_line(tmp_path):
    write_wmt14(tmp_path, PAIRS | {"test": [("Satz\n1.", "Sentence\n1."), *PAIRS["test"]]})
    source = data.read(make_text_spec("wmt14(vocabulary_size=50)", data_dir=str(tmp_path)))
    wanted = source.assets["test.target"].decode().split("\n")
    assert wanted == lines(source, "test", "target") and "Sentence 1." in wanted


def test_a_wmt14_directory_that_is_absent_or_damaged_is_refused(wmt14, tmp_path):
    data_dir, folder = wmt14
    none = make_text_spec("wmt14", data_dir=str(tmp_path / "none"))
    assert "tfds.builder('wmt14_translate/de-en', data_dir='DIR'" in only_problem(none)
    spec = make_text_spec("wmt14(vocabulary_size=40)", data_dir=str(data_dir))
    shard = next(folder.glob("*train*"))
    content = bytearray(shard.read_bytes())
    filled = np.flatnonzero(content)
    content[filled[len(filled) // 2]] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(InvalidInput, match="readable train records of wmt14_translate") as caught:
        data.read(spec)
    assert f"data.data_dir='{data_dir}'" in str(caught.value)
    shard.unlink()
    assert f"{shard.name} is missing" in only_problem(spec)
