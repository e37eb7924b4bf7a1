"""`npz:PATH`: the user's own images, in one NumPy archive.

The archive holds x_train, x_test: uint8 [N, H, W, C], and y_train, y_test: whole
numbers [N] in [0, num_classes). Images are looked at through their headers until they
are loaded; nothing is ever unpickled.
"""

import dataclasses
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from earlyprune_jax.data.images import Key, array_problems, usable_labels, value_problems
from earlyprune_jax.data.source import Facts, Source, image_facts, image_source, path_of
from earlyprune_jax.spec import DataSpec
from earlyprune_jax.validate import InvalidInput, expected, unexpected

PREFIX = "npz:"
_KEYS = {
    ("train", "images"): "x_train",
    ("train", "labels"): "y_train",
    ("test", "images"): "x_test",
    ("test", "labels"): "y_test",
}
_REWRITE = (
    "Write it again with numpy.savez(PATH, x_train=..., y_train=..., x_test=..., y_test=...)."
)
_BROKEN = (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
)


@dataclasses.dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype


def inspect(spec: DataSpec) -> tuple[list[str], Facts | None]:
    """Every problem found in headers and labels; the facts if the archive has none."""
    path = _path(spec)
    if not spec.name[len(PREFIX) :]:
        return [
            expected("data.name", spec.name, "to be npz:PATH", "Put a path after the colon.")
        ], None
    if not path.is_file():
        return [expected("data.name", spec.name, "to name a file that exists", _REWRITE)], None
    try:
        headers, problems = _read_headers(spec.name, path)
    except _BROKEN as error:
        return [
            expected("data.name", spec.name, f"to be a NumPy .npz archive ({error})", _REWRITE)
        ], None
    names = {key: f"{spec.name}:{member}" for key, member in _KEYS.items()}
    problems += array_problems(headers, names)
    try:
        labels = _read(spec, usable_labels(headers))
    except InvalidInput as error:
        return [*problems, *error.problems], None
    problems += value_problems(spec, labels, names)
    if problems:
        return problems, None
    counts = np.bincount(labels["train", "labels"].astype(np.int32), minlength=spec.num_classes)
    num_test = len(labels["test", "labels"])
    return [], image_facts(tuple(counts.tolist()), num_test, headers["train", "images"].shape[1:])


def load(spec: DataSpec) -> Source:
    """The archive's arrays; call after `inspect` found nothing.

    Raises:
        InvalidInput: the compressed bytes turn out to be damaged.
    """
    arrays = _read(spec, _KEYS)
    train, test = (
        {
            "images": np.ascontiguousarray(arrays[split, "images"]),
            "labels": arrays[split, "labels"].astype(np.int32),
        }
        for split in ("train", "test")
    )
    return image_source(train, test)


def _read(spec: DataSpec, keys: Iterable[Key]) -> dict[Key, np.ndarray]:
    try:
        with np.load(_path(spec), allow_pickle=False) as archive:
            return {key: archive[_KEYS[key]] for key in keys}
    except _BROKEN as error:
        allowed = f"to be an undamaged archive ({error})"
        raise unexpected("data.name", spec.name, allowed, _REWRITE) from error


def _path(spec: DataSpec) -> Path:
    return path_of(spec.name[len(PREFIX) :])


def _read_headers(name: str, path: Path) -> tuple[dict[Key, _Header], list[str]]:
    """The headers of the keys that are there, and a problem for those that are not."""
    with zipfile.ZipFile(path) as archive:
        members = set(archive.namelist())
        there = {key: member for key, member in _KEYS.items() if f"{member}.npy" in members}
        headers = {key: _read_header(archive, member) for key, member in there.items()}
    missing = [member for key, member in _KEYS.items() if key not in there]
    if not missing:
        return headers, []
    return headers, [expected("data.name", name, f"to hold {', '.join(missing)} too", _REWRITE)]


def _read_header(archive: zipfile.ZipFile, key: str) -> _Header:
    with archive.open(f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        # Version 3.0 differs from 2.0 by non-ASCII field names, which no plain array has.
        is_first = version == (1, 0)
        read = (
            np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(member)
        header_bytes = member.tell()
    num_bytes = archive.getinfo(f"{key}.npy").file_size - header_bytes
    if not dtype.hasobject and num_bytes != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"{key} is cut off: {num_bytes} bytes for shape {shape} of {dtype}")
    return _Header(shape, dtype)
