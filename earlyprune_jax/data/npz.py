"""`npz:PATH`: the user's own images, in one NumPy archive.

The archive holds x_train, x_test: uint8 [N, H, W, C], and y_train, y_test: whole
numbers [N] in [0, num_classes). Images are looked at through their headers until they
are loaded; nothing is ever unpickled.
"""

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from earlyprune_jax.data.source import SPLITS, Source, path_behind
from earlyprune_jax.spec import DataSpec
from earlyprune_jax.validate import InvalidInput, unexpected

ARRAYS = {
    "train['images']": "x_train",
    "train['labels']": "y_train",
    "test['images']": "x_test",
    "test['labels']": "y_test",
}
"""What the arrays of a source are called in the archive."""

_REWRITE = (
    "Write it again with numpy.savez(PATH, x_train=..., y_train=..., x_test=..., y_test=...)."
)
# RuntimeError is zipfile's of an archive with a password, NotImplementedError one of its kind.
_BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError)


def inspect(spec: DataSpec) -> tuple[list[str], Source]:
    """Reads headers, and the labels where their headers are right.

    Raises:
        InvalidInput: there is no such file, or it is no whole archive of these arrays.
    """
    path = path_behind(spec)
    if not path.is_file():
        raise unexpected("data.name", spec.name, "to name a file that exists", _REWRITE)
    try:
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
            missing = [name for name in ARRAYS.values() if f"{name}.npy" not in members]
            if missing:
                allowed = f"to hold {', '.join(missing)} too"
                raise unexpected("data.name", spec.name, allowed, _REWRITE)
            arrays = {name: _header(archive, name) for name in ARRAYS.values()}
    except InvalidInput:
        raise
    except _BROKEN as error:
        allowed = f"to be a NumPy .npz archive ({error})"
        raise unexpected("data.name", spec.name, allowed, _REWRITE) from error
    labels = [
        name
        for name in ("y_train", "y_test")
        if arrays[name].ndim == 1 and arrays[name].dtype.kind in "iu"
    ]
    return [], _source(arrays | _read(spec, labels))


def load(spec: DataSpec) -> Source:
    """Reads the archive's arrays; call after `inspect` found nothing.

    Raises:
        InvalidInput: the compressed bytes turn out to be damaged.
    """
    return _source(_read(spec, ARRAYS.values()))


def _source(arrays: Mapping[str, Any]) -> Source:
    train, test = (
        {"images": arrays[f"x_{split}"], "labels": arrays[f"y_{split}"]} for split in SPLITS
    )
    return Source(train, test)


def _read(spec: DataSpec, names: Iterable[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(path_behind(spec), allow_pickle=False) as archive:
            return {name: np.ascontiguousarray(archive[name]) for name in names}
    except _BROKEN as error:
        allowed = f"to be an undamaged archive ({error})"
        raise unexpected("data.name", spec.name, allowed, _REWRITE) from error


def _header(archive: zipfile.ZipFile, name: str) -> jax.ShapeDtypeStruct:
    """Reads the shape and type of an array, and compares them with its size."""
    with archive.open(f"{name}.npy") as member:
        # Version 3.0 differs from 2.0 by non-ASCII field names, which no plain array has.
        if np.lib.format.read_magic(member) == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(member)
        num_bytes = archive.getinfo(f"{name}.npy").file_size - member.tell()
    if not dtype.hasobject and num_bytes != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"{name} is cut off: {num_bytes} bytes for shape {shape} of {dtype}")
    return jax.ShapeDtypeStruct(shape, dtype)
