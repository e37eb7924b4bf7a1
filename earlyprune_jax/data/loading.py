"""From a DataSpec to the arrays of its splits: check it, count it, read it, split it."""

from types import ModuleType
from typing import Any

import numpy as np

from earlyprune_jax import references
from earlyprune_jax.data import cifar, digits, folder, function, npz
from earlyprune_jax.data.images import foreign_problems, key_problems
from earlyprune_jax.data.source import (
    Facts,
    Source,
    are_images,
    facts_of,
    num_examples,
    resized,
    take,
)
from earlyprune_jax.data.splits import class_shares, stratified_split
from earlyprune_jax.spec import DataSpec
from earlyprune_jax.validate import InvalidInput, expected, unknown_choice

CHOICES = ("digits", "cifar10", "cifar100", "npz:PATH", "folder:PATH", "module:function")
_SOURCES: dict[str, ModuleType] = {
    "digits": digits,
    "cifar10": cifar,
    "cifar100": cifar,
    npz.PREFIX: npz,
    folder.PREFIX: folder,
}
"""Names and prefixes -> modules with `inspect` and `load`; import paths are `function`'s."""
_VALIDATION, _SUBSET, _TEST = 0, 1, 2


def check(spec: DataSpec) -> list[str]:
    """Every problem of the data section that can be found without reading an image.

    Looks at directories, headers and labels; writes nothing and downloads nothing. A function of
    the user's is called, once per process. Each text names the key, its value, what is allowed and
    the remedy.

    Args:
        spec: the data section; its keys may be out of range.

    Returns:
        The problems; empty if `read` can be expected to work.

    Example:
        >>> from earlyprune_jax.data import check
        >>> spec = DataSpec("npz:", "", 10, 1.0, 0.0, 1.0, 0, 0, False, (0.3,), (0.4,))
        >>> print(*check(spec))
        Expected data.name='npz:' to be npz:PATH. Put a path after the colon.
    """
    return _examine(spec)[0]


def shapes(spec: DataSpec) -> dict[str, Any]:
    """Shapes and types of what `load(spec)` gives, without reading an image.

    With N training examples, round(validation_fraction * N) are held out, and
    round(train_fraction * rest) of the others are used; of the test examples
    round(test_fraction * num_test).

    Returns:
        Split -> its pytree of `jax.ShapeDtypeStruct`: train, test, and validation if there is one.

    Raises:
        InvalidInput: what `check` finds.

    Example:
        >>> spec = DataSpec("digits", "", 10, 0.5, 0.1, 1.0, 0, 0, False, (), ())
        >>> shapes(spec)["train"]["images"].shape
        (540, 8, 8, 1)
    """
    problems, facts = _examine(spec)
    if problems or facts is None:
        raise InvalidInput(problems)
    validation, train = (int(shares.sum()) for shares in _shares(spec, facts.counts))
    reported = round(spec.test_fraction * num_examples(facts.test))
    held = {"validation": resized(facts.train, validation)} if validation else {}
    return {"train": resized(facts.train, train), **held, "test": resized(facts.test, reported)}


def load(spec: DataSpec) -> dict[str, Any]:
    """Reads a data set into memory and splits it: `split` of `read`.

    Raises:
        InvalidInput: as `read`.

    Example:
        >>> loaded = load(DataSpec("digits", "", 10, 0.5, 0.1, 1.0, 0, 0, False, (), ()))
        >>> {name: len(rows["labels"]) for name, rows in loaded.items()}
        {'train': 540, 'validation': 120, 'test': 597}
    """
    return split(read(spec), spec)


def read(spec: DataSpec) -> Source:
    """Reads a data set into memory as its makers split it: the same for every data fraction.

    Raises:
        InvalidInput: what `check` finds, files that turn out damaged, or no network for
            a CIFAR that still has to be fetched.
    """
    problems, _ = _examine(spec)
    module = _module(spec.name)
    if problems or module is None:
        raise InvalidInput(problems)
    source = module.load(spec)
    # Once more, on what was read: a directory prepared meanwhile may hold other classes.
    if problems := _fraction_problems(spec, facts_of(source)):
        raise InvalidInput(problems)
    return source


class Reader:
    """Reads data sets and keeps the last: settings that differ in fractions only share one reading.

    Example:
        >>> reader = Reader()
        >>> spec = DataSpec("digits", "", 10, 0.5, 0.1, 1.0, 0, 0, False, (0.3,), (0.4,))
        >>> reader(spec) is reader(spec)
        True
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[str, str, int], Source] | None = None

    def __call__(self, spec: DataSpec) -> Source:
        """Reads as `read`.

        Raises:
            InvalidInput: as `read`.
        """
        key = (spec.name, spec.data_dir, spec.num_classes)
        if self._last is None or self._last[0] != key:
            # Let go of before the next is read: two may not fit into memory.
            self._last = None
            self._last = (key, read(spec))
        return self._last[1]


def split(source: Source, spec: DataSpec) -> dict[str, Any]:
    """What a run sees of a source.

    The validation split is drawn first, from all training examples, so it is the same for
    every data fraction; the subset is drawn from what remains. Both are stratified, where the
    source has strata, and seeded by `split_seed` alone. Of the test set, `test_fraction` is kept;
    it gives nothing to the other splits. Examples keep the order of their source.

    Args:
        source: of `read`.
        spec: the data section.

    Returns:
        Split -> pytree of read-only arrays: train, test, and validation if it is not empty.
    """

    def draw(strata: np.ndarray, fraction: float, purpose: int) -> tuple[np.ndarray, np.ndarray]:
        return stratified_split(strata, fraction, (spec.split_seed, purpose))

    strata = source.strata_of("train")
    held, rest = draw(strata, spec.validation_fraction, _VALIDATION)
    used, _ = draw(strata[rest], spec.train_fraction, _SUBSET)
    reported, _ = draw(source.strata_of("test"), spec.test_fraction, _TEST)
    validation = {"validation": take(source.train, held)} if len(held) else {}
    return {
        "train": take(source.train, rest[used]),
        **validation,
        "test": take(source.test, reported),
    }


def _module(name: str) -> ModuleType | None:
    prefix, colon, _ = name.partition(":")
    found = _SOURCES.get(prefix + colon)
    return function if found is None and references.is_import_path(name) else found


def _examine(spec: DataSpec) -> tuple[list[str], Facts | None]:
    module = _module(spec.name)
    if module is None:
        return [unknown_choice("data.name", spec.name, CHOICES)], None
    problems = []
    if spec.data_dir and module is not cifar:
        remedy = "It belongs to data.name=cifar10 or cifar100."
        problems.append(
            expected("data.data_dir", spec.data_dir, f"to be '' for {spec.name}", remedy)
        )
    try:
        found, facts = module.inspect(spec)
    except OSError as error:  # a folder that may not be looked into, a path that is too long
        return [*problems, expected("data.name", spec.name, f"to be readable ({error})")], None
    problems += found
    if facts is not None:
        problems += key_problems(spec, facts) if are_images(facts.train) else foreign_problems(spec)
        problems += _fraction_problems(spec, facts)
    return problems, facts


def _shares(spec: DataSpec, counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Examples of each stratum in the validation split and in the training subset."""
    validation = class_shares(counts, spec.validation_fraction)
    return validation, class_shares(np.asarray(counts) - validation, spec.train_fraction)


def _fraction_problems(spec: DataSpec, facts: Facts) -> list[str]:
    """Fractions that leave a stratum without examples, though the source has some of it."""
    drawn = (spec.train_fraction, spec.test_fraction)
    if not (0 <= spec.validation_fraction < 1 and all(0 < fraction <= 1 for fraction in drawn)):
        return []  # the key's own range check says so
    problems = []
    num_test = num_examples(facts.test)
    if round(spec.test_fraction * num_test) < 1:
        remedy = f"The source has {num_test} test examples. Raise it."
        problems.append(
            expected("data.test_fraction", spec.test_fraction, "to leave a test example", remedy)
        )
    validation, train = _shares(spec, facts.counts)
    also = ""
    if spec.validation_fraction > 0:
        problems += _empty_strata(
            "validation_fraction", spec.validation_fraction, validation, facts
        )
        also = f" or lower data.validation_fraction={spec.validation_fraction:g}"
    return problems + _empty_strata("train_fraction", spec.train_fraction, train, facts, also)


def _empty_strata(
    key: str, fraction: float, shares: np.ndarray, facts: Facts, also: str = ""
) -> list[str]:
    empty = np.flatnonzero((np.asarray(facts.counts) > 0) & (shares == 0))
    if not empty.size:
        return []
    images = are_images(facts.train)
    one, allowed, which = "image" if images else "example", "to leave an", ""
    if len(facts.counts) > 1:
        allowed = "to give every class an"
        which = f", none of them of {empty.size} classes (first: {empty[0]})"
        also += "" if images else ', or name the array other than "labels" if those are no classes'
    remedy = f"It gives {int(shares.sum())} of {sum(facts.counts)} {one}s{which}. Raise it{also}."
    return [expected(f"data.{key}", fraction, f"{allowed} {one}", remedy)]
