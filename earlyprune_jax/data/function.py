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

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from earlyprune_jax import references
from earlyprune_jax.data.source import SPLITS, Source
from earlyprune_jax.spec import DataSpec
from earlyprune_jax.validate import InvalidInput, expected, unexpected

_RETURN = (
    "Return {'train': ..., 'test': ...}, each a mapping of names to arrays with one row per "
    "example."
)
_CALLED: dict[tuple[str | None, ...], Source] = {}


def inspect(spec: DataSpec) -> tuple[list[str], Source]:
    """Gives the source itself as its outline: the function is called, if it has not been.

    Raises:
        InvalidInput: as `load`.
    """
    return [], load(spec)


def load(spec: DataSpec) -> Source:
    """Returns what the function returns, as arrays.

    Raises:
        InvalidInput: no such function, what it raises, or what in its result is no array.
    """
    function = references.load("data.name", spec.name, {})
    digest = references.digest(spec.name)
    key = (spec.name, digest, references.current_folder(), str(Path.cwd()))
    if key not in _CALLED:
        _CALLED[key] = _source(spec.name, _call(spec.name, function))
    return _CALLED[key]


def _call(name: str, function: Callable[[], Any]) -> Any:
    try:
        returned = function()
        return dict(returned) if isinstance(returned, Mapping) else returned
    except (Exception, SystemExit) as error:  # it is the user's code: all it raises is the problem
        allowed = f"to return data. It raised {type(error).__name__}: {error}"
        raise unexpected("data.name", name, allowed) from error


def _source(name: str, returned: Any) -> Source:
    if not isinstance(returned, dict):
        raise unexpected(f"result of {name}", _kind(returned), "to be a mapping", _RETURN)
    problems: list[str] = []
    if returned.keys() != set(SPLITS):
        remedy = f"{_RETURN} A validation split is drawn from train: data.validation_fraction."
        thing = f"keys of the result of {name}"
        problems.append(expected(thing, list(returned), "to be train and test", remedy))
    trees = {
        split: _tree(name, split, returned[split], problems)
        for split in SPLITS
        if split in returned
    }
    if problems:
        raise InvalidInput(problems)
    return Source(**trees)


def _tree(name: str, path: str, value: Any, problems: list[str]) -> Any:
    """Makes dicts of mappings, and arrays on the user's memory of their leaves.

    Args:
        name: of the function.
        path: of the value in the result, e.g. train['x'].
        value: a mapping, or what is to become an array.
        problems: takes what is neither.
    """
    shown, allowed = _kind(value), "to be a mapping or an array"
    try:
        if isinstance(value, Mapping):
            if value and all(isinstance(part, str) for part in value):
                return {
                    part: _tree(name, f"{path}[{part!r}]", value[part], problems) for part in value
                }
            shown, allowed = list(value), "to have names, each a text"
        # A tuple: several arrays, or one? Of equal shapes they would be stacked.
        elif not isinstance(value, tuple):
            array = np.asarray(value)
            # A view: the array that the user holds stays writable, and it is not copied.
            return array.astype(array.dtype.newbyteorder("="), copy=False).view()
    except Exception as error:  # of the user's classes
        allowed += f" ({type(error).__name__}: {error})"
    problems.append(expected(f"{path} of {name}", shown, allowed, _RETURN))
    return None


def _kind(value: Any) -> str:
    is_plain = isinstance(value, str | int | float | None)
    return f"{value!r:.60}" if is_plain else f"a {type(value).__name__}"
