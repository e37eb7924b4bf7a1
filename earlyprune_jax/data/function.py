"""`module:function` or `module:function(arguments)`: the user's own data, images or anything else.

The function returns a mapping with `train` and `test`. Each is an array, or a mapping of names to
arrays or further mappings; an array is anything that `numpy.asarray` takes, and has an axis of
examples in front.

    def load(length=16):
        return {"train": {"tokens": train_tokens, "next": train_next}, "test": {...}}

Splits of exactly `images` and `labels` are image classification. Where both splits hold whole
numbers `labels` [N], what is drawn from them is stratified by these. The function is called once
per process.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from earlyprune_jax import references
from earlyprune_jax.data.images import Key, array_problems, value_problems
from earlyprune_jax.data.source import (
    IMAGE_KEYS,
    Facts,
    Source,
    are_images,
    facts_of,
    image_source,
    named_leaves,
)
from earlyprune_jax.spec import DataSpec
from earlyprune_jax.validate import InvalidInput, expected, unexpected

_SPLITS = ("train", "test")
_RETURN = "Return {'train': ..., 'test': ...}, each a mapping of names to arrays with one row per example."
_READ: dict[tuple[str | None, ...], Source] = {}


def inspect(spec: DataSpec) -> tuple[list[str], Facts | None]:
    """Calls the function, if it has not been, and checks what it returns."""
    try:
        source = _returned(spec.name)
    except InvalidInput as error:
        return list(error.problems), None
    if not source.holds_images:
        return [], facts_of(source)
    labels = {
        ("train", "labels"): source.train["labels"],
        ("test", "labels"): source.test["labels"],
    }
    problems = value_problems(spec, labels, _names(spec.name))
    return problems, None if problems else facts_of(load(spec), spec.num_classes)


def load(spec: DataSpec) -> Source:
    """What the function returns, as arrays; call after `inspect` found nothing.

    Raises:
        InvalidInput: no such function, what it raises, or every problem of what it returns.
    """
    source = _returned(spec.name)
    if not source.holds_images:
        return source
    train, test = (
        rows | {"labels": rows["labels"].astype(np.int32)} for rows in (source.train, source.test)
    )
    return image_source(train, test)


def _returned(name: str) -> Source:
    function = references.load("data.name", name, {})
    key = (name, references.digest(name), references.current_folder(), str(Path.cwd()))
    if key not in _READ:
        try:
            returned = function()
            returned = dict(returned) if isinstance(returned, Mapping) else returned
        except (
            Exception,
            SystemExit,
        ) as error:  # it is the user's code: whatever it raises is the problem
            allowed = f"to return data. It raised {type(error).__name__}: {error}"
            raise unexpected("data.name", name, allowed) from error
        _READ[key] = _source(name, returned)
    return _READ[key]


def _names(name: str) -> dict[Key, str]:
    return {
        (split, part): f"{split}[{part!r}] of {name}" for split in _SPLITS for part in IMAGE_KEYS
    }


def _source(name: str, returned: Any) -> Source:
    if not isinstance(returned, dict):
        raise unexpected(f"result of {name}", _kind(returned), "to be a mapping", _RETURN)
    problems: list[str] = []
    if set(returned) != set(_SPLITS):
        remedy = f"{_RETURN} A validation split is drawn from train: data.validation_fraction."
        thing = f"keys of the result of {name}"
        problems.append(expected(thing, list(returned), "to be train and test", remedy))
    trees = {
        split: _tree(name, split, returned[split], problems)
        for split in _SPLITS
        if split in returned
    }
    if problems:
        raise InvalidInput(problems)
    train, test = trees["train"], trees["test"]
    if are_images(train) and are_images(test):
        names = _names(name)
        problems = array_problems(
            {(split, part): trees[split][part] for split, part in names}, names
        )
    else:
        problems = _tree_problems(name, trees)
    if problems:
        raise InvalidInput(problems)
    return Source(train, test, _strata(trees))


def _tree(name: str, path: str, value: Any, problems: list[str]) -> Any:
    """Mappings as dicts, their leaves as arrays of the user's memory; what is wrong goes to
    `problems`."""

    def wrong(found: Any, allowed: str) -> None:
        problems.append(expected(f"{path} of {name}", found, allowed, _RETURN))

    try:
        if isinstance(value, Mapping):
            if not value or not all(isinstance(part, str) for part in value):
                return wrong(list(value), "to have names, each a text")
            return {part: _tree(name, f"{path}[{part!r}]", value[part], problems) for part in value}
        if isinstance(
            value, tuple
        ):  # several arrays, or one? of equal shapes they would be stacked
            return wrong(_kind(value), "to be a mapping or an array")
        array = np.asarray(value)
    except Exception as error:  # of the user's classes
        return wrong(_kind(value), f"to be a mapping or an array ({type(error).__name__}: {error})")
    if array.dtype.kind not in "biufc" and not jnp.issubdtype(
        array.dtype, jnp.floating
    ):  # e.g. bfloat16
        return wrong(f"{_kind(value)} of dtype {array.dtype}", "to hold numbers or truth values")
    if array.ndim == 0 or len(array) == 0:
        return wrong(
            f"an array of shape {array.shape}", "to have an axis of at least one example in front"
        )
    # A view: the array that the user holds stays writable, and it is not copied.
    return array.astype(array.dtype.newbyteorder("="), copy=False).view()


def _kind(value: Any) -> str:
    return (
        f"{value!r:.60}"
        if isinstance(value, str | int | float | None)
        else f"a {type(value).__name__}"
    )


def _tree_problems(name: str, trees: dict[str, Any]) -> list[str]:
    """Arrays of different lengths, and what differs between the examples of the two splits."""
    leaves = {split: named_leaves(tree) for split, tree in trees.items()}
    problems = []
    for split, arrays in leaves.items():
        lengths = {f"{split}{path}": len(array) for path, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            remedy = "Every array has one row per example."
            problems.append(expected(f"lengths of {name}", lengths, "to be equal", remedy))
    train, test = leaves["train"], leaves["test"]
    if train.keys() != test.keys():
        allowed = f"to be those of train, {[f'train{path}' for path in train]}"
        return [
            *problems,
            expected(f"arrays of test of {name}", [f"test{path}" for path in test], allowed),
        ]
    for path, leaf in test.items():
        wanted, found = ((one.shape[1:], str(one.dtype)) for one in (train[path], leaf))
        if wanted != found:
            thing = f"shape and dtype of an example in test{path} of {name}"
            problems.append(expected(thing, found, f"to be {wanted}, as in train{path}"))
    return problems


def _strata(trees: dict[str, Any]) -> dict[str, np.ndarray] | None:
    """Both splits' whole numbers `labels`, renumbered from 0; None where there are none."""
    strata = {}
    for split, tree in trees.items():
        labels = tree.get("labels") if isinstance(tree, dict) else None
        if not isinstance(labels, np.ndarray) or labels.ndim != 1 or labels.dtype.kind not in "iu":
            return None
        strata[split] = np.unique(labels, return_inverse=True)[1]
    return strata
