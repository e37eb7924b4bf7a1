"""Corpora of parallel text: where the pairs of lines come from.

Files      plain files DIR/NAME.LANGUAGE, or else DIR/NAME.LANGUAGE.gz, UTF-8, a sentence a line:
           line i of both languages is one pair. Only a line feed ends a line; a carriage return
           before it and a byte order mark are no text
Numerals   numbers below a million in words, by num2words: no files. They are drawn
           log-uniformly, each once, so those of test and validation are never trained on
Wmt14      TFDS's wmt14_translate/de-en, prepared as ArrayRecord; validation is newstest2013,
           test newstest2014. TFDS has shuffled the records: the first N pairs are a sample
"""

import dataclasses
import functools
import gzip
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from earlyprune_jax.data import prepared
from earlyprune_jax.data.source import path_of
from earlyprune_jax.spec_sections import DataSpec
from earlyprune_jax.validate import (
    anything,
    expected,
    gathering,
    refuse,
    unexpected,
    unknown_choice,
    within,
)

SPLITS = ("train", "validation", "test")
Pairs = tuple[list[str], list[str]]
"""The lines of both sides; line i of both is one pair."""
_KINDS = {str: "a text", int: "a whole number", bool: "True or False"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """What every corpus takes.

    Attributes:
        source: language that is translated from.
        target: language that is translated into.
        max_tokens: of a sentence, without its end.
        vocabulary_size: ids of a vocabulary, the special ones included.
        joint: whether both languages share one.
    """

    source: str = "de"
    target: str = "en"
    max_tokens: int = 100
    vocabulary_size: int = 8000
    joint: bool = False

    PACKAGES: ClassVar[tuple[str, ...]] = ("sentencepiece",)
    IN_RANGE: ClassVar[Mapping[str, Any]] = {
        "max_tokens": within(1, 10_000),
        "vocabulary_size": within(5, 10**6),
    }

    def problems(self) -> list[str]:
        """Lists arguments of a wrong type or out of range."""
        found = []
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            check = self.IN_RANGE.get(field.name, anything)
            if allowed := check(value) if type(value) is kind else f"to be {_KINDS[kind]}":
                found.append(expected(f"{field.name} of data.name", value, allowed))
        if self.source == self.target:
            allowed = "to be another language than source"
            found.append(expected("target of data.name", self.target, allowed))
        return found

    def sizes(self, spec: DataSpec) -> dict[str, int]:
        """Counts the pairs of every split, without training a vocabulary.

        Raises:
            InvalidInput: every problem that is seen on the way.
        """
        raise NotImplementedError

    def pairs(self, spec: DataSpec, split: str) -> Pairs:
        """Reads a split; call after `sizes`."""
        raise NotImplementedError


# Plain files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files(Corpus):
    """Plain files.

    Attributes:
        path: of their folder.
        train: name of the training files, without the language.
        validation: likewise.
        test: likewise.
        first: how many training pairs are read; 0 = all.
    """

    path: str = dataclasses.field(default="", kw_only=False)
    train: str = "train"
    validation: str = "val"
    test: str = "test"
    first: int = 0

    IN_RANGE: ClassVar[Mapping[str, Any]] = {**Corpus.IN_RANGE, "first": within(0)}

    def files(self) -> dict[str, list[Path]]:
        """Finds the two files of every split.

        Raises:
            InvalidInput: some are not there; all of them are named.
        """
        folder, found, missing = path_of(self.path), {}, []
        for split in SPLITS:
            for language in (self.source, self.target):
                name = f"{getattr(self, split)}.{language}"
                files = [file for file in (folder / name, folder / f"{name}.gz") if file.is_file()]
                found.setdefault(split, []).extend(files[:1])
                missing += [] if files else [f"{name} or {name}.gz"]
        if missing:
            allowed = f"to hold {', '.join(missing)}"
            remedy = "Names are made of train, validation or test, and source or target."
            raise unexpected("path of data.name", self.path, allowed, remedy)
        return found

    def sizes(self, spec: DataSpec) -> dict[str, int]:
        del spec
        counts, problems = {}, []
        for split, (source, target) in self.files().items():
            with gathering(problems):
                num, other = map(_num_lines, (source, target))
                counts[split] = num
                if num != other:
                    allowed = f"to be as many as of {target}, {other}"
                    remedy = "Line i of both is one pair."
                    raise unexpected(f"lines of {source}", num, allowed, remedy)
                if not num:
                    raise unexpected(f"lines of {source}", 0, "to be at least 1")
        refuse(problems)
        return counts | {"train": _first(self.first, counts["train"])}

    def pairs(self, spec: DataSpec, split: str) -> Pairs:
        stop = (self.first or None) if split == "train" else None
        source, target = (
            list(itertools.islice(_lines(file), stop)) for file in self.files()[split]
        )
        return source, target


def _first(asked: int, there: int) -> int:
    """Counts the pairs that are read where the first `asked` are; 0 = all."""
    if asked > there:
        allowed, remedy = f"to be at most {there}", "There are no more pairs."
        raise unexpected("first of data.name", asked, allowed, remedy)
    return asked or there


def _num_lines(file: Path) -> int:
    stat = file.stat()
    return _counted(file, stat.st_size, stat.st_mtime_ns)


@functools.cache
def _counted(file: Path, size: int, changed: int) -> int:
    """Counts the lines of a file, once for a size and time of change."""
    del size, changed
    return sum(1 for _ in _lines(file))


def _lines(file: Path) -> Iterator[str]:
    """Yields the lines of a file; raises as `decoded`."""
    opens = gzip.open if file.suffix == ".gz" else open
    yield from decoded(lambda: opens(file, "rb"), str(file))


def decoded(opens: Callable[[], Any], name: str) -> Iterator[str]:
    """Yields the lines of a text: see `Files`.

    Args:
        opens: opens the binary stream that is read.
        name: of it, for messages.

    Raises:
        InvalidInput: it cannot be opened, read to its end, or is not UTF-8; names the line.
    """
    number, line = 0, b""
    try:
        with opens() as stream:
            for number, line in enumerate(stream, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield text.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        allowed, remedy = f"to be UTF-8 ({error.reason} at byte {error.start})", "Convert it."
        raise unexpected(f"line {number} of {name}", line, allowed, remedy) from error
    except (OSError, EOFError, zlib.error) as error:
        allowed = f"to be readable to its end; it is not after line {number} ({error})"
        raise unexpected("file", name, allowed, "Fetch or write it again.") from error


# Number words

_LIMIT = 10**6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numerals(Corpus):
    """Number words.

    Attributes:
        num_pairs: training pairs.
        num_held_out: pairs of validation, and of test.
        seed: of the numbers.
    """

    vocabulary_size: int = 100
    num_pairs: int = 20_000
    num_held_out: int = 1_000
    seed: int = 0

    PACKAGES: ClassVar[tuple[str, ...]] = ("sentencepiece", "num2words")
    IN_RANGE: ClassVar[Mapping[str, Any]] = {
        **Corpus.IN_RANGE,
        "num_pairs": within(1, 800_000),
        "num_held_out": within(1, 100_000),
        "seed": within(0, 2**63),
    }

    def sizes(self, spec: DataSpec) -> dict[str, int]:
        del spec
        from num2words import CONVERTER_CLASSES  # pyright: ignore[reportMissingImports]

        refuse(
            unknown_choice("language of data.name", language, list(CONVERTER_CLASSES))
            for language in (self.source, self.target)
            if language not in CONVERTER_CLASSES
        )
        held = self.num_held_out
        return {"train": self.num_pairs, "validation": held, "test": held}

    def pairs(self, spec: DataSpec, split: str) -> Pairs:
        sizes = self.sizes(spec)
        drawn = draw_numbers(sum(sizes.values()), self.seed)
        bounds = np.cumsum([0, *sizes.values()])
        place = list(sizes).index(split)
        numbers = drawn[bounds[place] : bounds[place + 1]].tolist()
        source, target = (
            [_words(number, language) for number in numbers]
            for language in (self.source, self.target)
        )
        return source, target


def _words(number: int, language: str) -> str:
    from num2words import num2words  # pyright: ignore[reportMissingImports]

    try:
        return num2words(number, lang=language)
    except Exception as error:  # its languages raise many types, for numbers that they cannot say
        allowed = f"to have words for {number} in num2words ({type(error).__name__}: {error})"
        raise unexpected("language of data.name", language, allowed) from error


@functools.lru_cache(maxsize=1)
def draw_numbers(num: int, seed: int) -> np.ndarray:
    """Draws different numbers from 0 to 999,999, log-uniformly, in random order.

    A number n is drawn with a probability proportional to log((n + 2) / (n + 1)) while it has not
    been: while there are enough of them, as many of 1,000 to 9,999 as of 10,000 to 99,999.

    Args:
        num: how many.
        seed: of PCG64.

    Returns:
        int64 [num].

    Example:
        >>> numbers = draw_numbers(1000, seed=0)
        >>> len(set(numbers.tolist())), np.bincount(np.log10(numbers + 1).astype(int)).tolist()
        (1000, [9, 80, 187, 227, 247, 250])
    """
    raw = np.random.PCG64(seed).random_raw(2 * _LIMIT)
    uniform, turns = (raw[:_LIMIT] + 0.5) / 2.0**64, raw[_LIMIT:]
    # Without replacement: the first `num` of exponential clocks, whose rates are the weights.
    clocks = -np.log(uniform) / np.log1p(1 / (1 + np.arange(_LIMIT)))
    drawn = np.argsort(clocks, kind="stable")[:num]
    shuffled = drawn[np.argsort(turns[drawn], kind="stable")]
    shuffled.setflags(write=False)  # it is kept for the next call
    return shuffled


# WMT14 as TFDS prepares it

_TFDS_NAME, _TFDS_VERSION = "wmt14_translate/de-en", "1.0.0"
_AT_ONCE = 10_000
_PREPARE = (
    f"Prepare it where TensorFlow is installed: tfds.builder('{_TFDS_NAME}', data_dir='DIR', "
    f"file_format='{prepared.RECORD_FORMAT}').download_and_prepare(), then set data.data_dir=DIR."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wmt14(Corpus):
    """WMT14, in the order of the prepared records, which TFDS has shuffled.

    Attributes:
        first: how many training pairs are read; 0 = all.
    """

    vocabulary_size: int = 32_000
    first: int = 0

    IN_RANGE: ClassVar[Mapping[str, Any]] = {**Corpus.IN_RANGE, "first": within(0)}

    def problems(self) -> list[str]:
        pair = self.source, self.target
        wrong = expected("source, target of data.name", pair, "to be de and en, or en and de")
        return [*super().problems(), *[wrong] * (sorted(pair) != ["de", "en"])]

    def builder(self, spec: DataSpec) -> Any:
        """Finds the prepared directory.

        Raises:
            InvalidInput: it is not there, or not whole.
        """
        path = prepared.data_dir_of(spec) / _TFDS_NAME / _TFDS_VERSION
        builder = prepared.find(_TFDS_NAME, path, SPLITS, _PREPARE)
        if builder is None:
            raise prepared.absent(spec, path, _PREPARE)
        return builder

    def sizes(self, spec: DataSpec) -> dict[str, int]:
        splits = self.builder(spec).info.splits
        sizes = {split: splits[split].num_examples for split in SPLITS}
        return sizes | {"train": _first(self.first, sizes["train"])}

    def pairs(self, spec: DataSpec, split: str) -> Pairs:
        builder = self.builder(spec)
        there = builder.info.splits[split].num_examples
        num = _first(self.first, there) if split == "train" else there
        source, target = [], []
        with prepared.undamaged(builder, split, f"Delete {_TFDS_NAME} there. {_PREPARE}"):
            for start in range(0, num, _AT_ONCE):
                rows = range(start, min(start + _AT_ONCE, num))
                for record in prepared.records(builder, split, rows):
                    source.append(_one_line(record[self.source]))
                    target.append(_one_line(record[self.target]))
        return source, target


def _one_line(sentence: bytes) -> str:
    """Reads a sentence of a record: a line feed in it would end a line of the assets."""
    return sentence.decode().replace("\n", " ")


CORPORA: dict[str, type[Corpus]] = {"text": Files, "numerals": Numerals, "wmt14": Wmt14}
"""Name of a source -> its corpus."""
