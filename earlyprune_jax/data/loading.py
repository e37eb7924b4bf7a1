"""From a DataSpec to the arrays of its splits: check it, count it, read it.

The same is demanded of all sources: see `demands`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from earlyprune_jax import references
from earlyprune_jax.data import arrays, cifar, demands, draws, images, text
from earlyprune_jax.data import source as sources
from earlyprune_jax.data.corpora import CORPORA
from earlyprune_jax.data.source import Source
from earlyprune_jax.spec_sections import DataSpec
from earlyprune_jax.validate import InvalidInput, expected, gathering, refuse, unknown_choice

Look = Callable[[DataSpec], Source]
_SOURCES: dict[str, tuple[Look, Look]] = {
    "digits": (arrays.load_digits, arrays.load_digits),
    "cifar10": (cifar.outline, cifar.load),
    "cifar100": (cifar.outline, cifar.load),
    "npz:": (arrays.outline_npz, arrays.load_npz),
    "folder:": (arrays.outline_folder, arrays.load_folder),
    **dict.fromkeys(CORPORA, (text.outline, text.load)),
    "module:function": (arrays.load_function, arrays.load_function),
}
"""Names and prefixes -> what gives the outline of a source, and the source itself.

The first reads as little as it can, and raises InvalidInput with all that it sees. What is right of
arrays and keys whatever gives them is checked here.
"""


def check(spec: DataSpec) -> list[str]:
    """Lists every problem of the data section that can be found without reading an image.

    Looks at directories, headers and labels; writes nothing and downloads nothing. A function of
    the user's is called, once per process. Each text names the key, its value, what is allowed and
    the remedy.

    Args:
        spec: the data section; its keys may be out of range.

    Returns:
        The problems; empty if `read` can be expected to work.

    Example:
        >>> from earlyprune_jax.data import check
        >>> spec = DataSpec("npz:", "", 10, 1.0, 0.0, 1.0, 0, 0, 0, False, (0.3,), (0.4,))
        >>> print(*check(spec))
        Expected data.name='npz:' to be npz:PATH. Put a path after the colon.
    """
    return _examine(spec)[0]


def shapes(spec: DataSpec) -> dict[str, Any]:
    """Tells shapes and types of what `load(spec)` gives, without reading an image.

    With N training examples, round(validation_fraction * N) are held out, and
    round(train_fraction * rest) of the others are used; of the test examples
    round(test_fraction * num_test).

    Returns:
        Split -> its pytree of `jax.ShapeDtypeStruct`: train, test, and validation if there is one.

    Raises:
        InvalidInput: what `check` finds.

    Example:
        >>> spec = DataSpec("digits", "", 10, 0.5, 0.1, 1.0, 0, 0, 0, False, (), ())
        >>> shapes(spec)["train"]["images"].shape
        (540, 8, 8, 1)
    """
    problems, source = _examine(spec)
    refuse(problems)
    assert source is not None
    parts = draws.drawn_from(source, spec)
    return {name: sources.outline_of(rows, num) for name, (rows, num) in parts.items()}


def load(spec: DataSpec) -> dict[str, Any]:
    """Reads a data set into memory and splits it: `split` of `read`.

    Raises:
        InvalidInput: as `read`.

    Example:
        >>> loaded = load(DataSpec("digits", "", 10, 0.5, 0.1, 1.0, 0, 0, 0, False, (), ()))
        >>> {name: len(rows["labels"]) for name, rows in loaded.items()}
        {'train': 540, 'validation': 120, 'test': 597}
    """
    return draws.split(read(spec), spec)


def read(spec: DataSpec) -> Source:
    """Reads a data set into memory as its makers split it: the same for every data fraction.

    Raises:
        InvalidInput: what `check` finds, files that turn out damaged, or no network for
            a CIFAR that still has to be fetched.
    """
    problems, _ = _examine(spec)
    if not problems:
        _, load_source = _SOURCES[_kind_of(spec.name)]
        # Once more, on what was read: a directory prepared meanwhile may hold other classes.
        problems, source = _checked(spec, load_source(spec))
    refuse(problems)
    return source


class Reader:
    """Reads data sets and keeps the last: settings that differ in fractions only share one reading.

    Example:
        >>> reader = Reader()
        >>> spec = DataSpec("digits", "", 10, 0.5, 0.1, 1.0, 0, 0, 0, False, (0.3,), (0.4,))
        >>> reader(spec) is reader(spec)
        True
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[str, str, int, int], Source] | None = None

    def __call__(self, spec: DataSpec) -> Source:
        """Reads as `read`.

        Raises:
            InvalidInput: as `read`.
        """
        key = source_key(spec)
        if self._last is None or self._last[0] != key:
            # Let go of before the next is read: two may not fit into memory.
            self._last = None
            self._last = (key, read(spec))
        return self._last[1]


def source_key(spec: DataSpec) -> tuple[str, str, int, int]:
    """Returns what decides a source: of equal keys the arrays are the same."""
    return spec.name, spec.data_dir, spec.num_classes, spec.image_size


_IN_TFDS = (*cifar.NUM_CLASSES, "wmt14")


def _kind_of(name: str) -> str:
    """Finds what kind of source a text names: a key of `_SOURCES`."""
    prefix, colon, _ = name.partition(":")
    corpus, _, _ = name.partition("(")
    kind = corpus if corpus in CORPORA else prefix + colon
    kind = "module:function" if references.is_import_path(name) else kind
    if kind not in _SOURCES:
        choices = [known + "PATH" * known.endswith(":") for known in _SOURCES]
        raise InvalidInput([unknown_choice("data.name", name, choices)])
    return kind


def _examine(spec: DataSpec) -> tuple[list[str], Source | None]:
    """Finds all problems that need no reading; the outline of the source where there is one."""
    problems: list[str] = []
    # Where a CIFAR directory is of no use, the keys are compared with the official set.
    source = cifar.official_outline(spec) if spec.name in cifar.NUM_CLASSES else None
    try:
        with gathering(problems):
            kind = _kind_of(spec.name)
            if spec.data_dir and kind not in _IN_TFDS:
                remedy = "It belongs to data.name=cifar10, cifar100 or wmt14."
                allowed = f"to be '' for {spec.name}"
                problems.append(expected("data.data_dir", spec.data_dir, allowed, remedy))
            outline, _ = _SOURCES[kind]
            source = outline(spec)
    except OSError as error:  # a folder that may not be looked into, a path that is too long
        problems.append(expected("data.name", spec.name, f"to be readable ({error})"))
    if source is not None:
        unfit, source = _checked(spec, source)
        problems += unfit
    return problems, source


def _checked(spec: DataSpec, source: Source) -> tuple[list[str], Source]:
    """Finds what is wrong with arrays and keys; where images are right their labels become int32,
    and they as large as asked."""
    names = arrays.NPZ_NAMES if spec.name.startswith("npz:") else {}
    if problems := demands.array_problems(spec, source, names):
        return problems, source
    if source.holds_images:
        splits = {
            name: {"images": rows["images"], "labels": rows["labels"].astype(np.int32, copy=False)}
            for name, rows in source.splits.items()
        }
        source = images.shrunk(dataclasses.replace(source, **splits), spec.image_size)
    return demands.key_problems(spec, source), source
