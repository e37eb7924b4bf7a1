"""`npz:PATH`: the user's own images, in one NumPy archive.

The archive holds x_train, x_test: uint8 [N, H, H, C], and y_train, y_test: whole
numbers [N] in [0, num_classes). Images are looked at through their headers until they
are loaded; nothing is ever unpickled.
"""

import dataclasses
import zipfile
import zlib
from pathlib import Path

import numpy as np

from earlyprune_jax.data.dataset import Facts, Source, Split
from earlyprune_jax.spec import DataSpec
from earlyprune_jax.validate import InvalidInput, expected

PREFIX = "npz:"
_KEYS = ("x_train", "y_train", "x_test", "y_test")
_REWRITE = "Write it again with numpy.savez(PATH, x_train=..., y_train=..., x_test=..., y_test=...)."
_BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)


@dataclasses.dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype


def inspect(spec: DataSpec) -> tuple[list[str], Facts | None]:
    """Every problem found in headers and labels; the facts if the archive has none."""
    problems, facts = _inspect_archive(spec)
    if spec.data_dir:
        allowed = "to be '' for npz:PATH, whose path is in data.name"
        remedy = "It belongs to data.name=cifar10 or cifar100."
        problems.append(expected("data.data_dir", spec.data_dir, allowed, remedy))
    return problems, facts


def _inspect_archive(spec: DataSpec) -> tuple[list[str], Facts | None]:
    path = _path(spec)
    if not spec.name[len(PREFIX) :]:
        return [expected("data.name", spec.name, "to be npz:PATH", "Put a path after the colon.")], None
    if not path.is_file():
        return [expected("data.name", spec.name, "to name a file that exists", _REWRITE)], None
    try:
        headers, problems = _read_headers(spec.name, path)
    except _BROKEN as error:
        return [expected("data.name", spec.name, f"to be a NumPy .npz archive ({error})", _REWRITE)], None
    for key in headers:
        check = _image_problems if key.startswith("x") else _label_header_problems
        problems += check(f"{spec.name}:{key}", headers[key])
    if problems or len(headers) < len(_KEYS):
        return problems, None
    problems += _pair_problems(spec.name, headers)
    labels, label_problems = _read_labels(spec, path)
    problems += label_problems
    if problems:
        return problems, None
    height, width, channels = headers["x_train"].shape[1:]
    counts = np.bincount(labels["y_train"].astype(np.int32), minlength=spec.num_classes)
    return [], Facts(tuple(counts.tolist()), len(labels["y_test"]), (height, width, channels))


def load(spec: DataSpec) -> Source:
    """The archive's arrays; call after `inspect` found nothing.

    Raises:
        InvalidInput: the compressed bytes turn out to be damaged.
    """
    try:
        with np.load(_path(spec), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in _KEYS}
    except _BROKEN as error:
        raise InvalidInput(
            [expected("data.name", spec.name, f"to be an undamaged archive ({error})", _REWRITE)]
        ) from error
    train, test = (
        Split(np.ascontiguousarray(arrays[f"x_{name}"]), arrays[f"y_{name}"].astype(np.int32))
        for name in ("train", "test")
    )
    return Source(train, test)


def _path(spec: DataSpec) -> Path:
    return Path(spec.name[len(PREFIX) :]).expanduser()


def _read_headers(name: str, path: Path) -> tuple[dict[str, _Header], list[str]]:
    """The headers of the keys that are there, and a problem for those that are not."""
    headers = {}
    with zipfile.ZipFile(path) as archive:
        members = set(archive.namelist())
        missing = [key for key in _KEYS if f"{key}.npy" not in members]
        for key in _KEYS:
            if key not in missing:
                headers[key] = _read_header(archive, key)
    if not missing:
        return headers, []
    return headers, [expected("data.name", name, f"to hold {', '.join(missing)} too", _REWRITE)]


def _read_header(archive: zipfile.ZipFile, key: str) -> _Header:
    with archive.open(f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        # Version 3.0 differs from 2.0 by non-ASCII field names, which no plain array has.
        is_first = version == (1, 0)
        read = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
        header_bytes = member.tell()
    num_bytes = archive.getinfo(f"{key}.npy").file_size - header_bytes
    if not dtype.hasobject and num_bytes != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"{key} is cut off: {num_bytes} bytes for shape {shape} of {dtype}")
    return _Header(shape, dtype)


def _image_problems(thing: str, header: _Header) -> list[str]:
    problems = []
    if header.dtype != np.uint8:
        problems.append(
            expected(f"dtype of {thing}", str(header.dtype), "to be uint8", "Store pixels as 0 .. 255.")
        )
    if len(header.shape) != 4:
        problems.append(
            expected(
                f"shape of {thing}", header.shape, "to be [N, H, H, C]", "Grey images: x[..., np.newaxis]."
            )
        )
        return problems
    if header.shape[1] != header.shape[2]:
        problems.append(
            expected(f"shape of {thing}", header.shape, "to have square images", "Crop or pad them.")
        )
    if 0 in header.shape:
        problems.append(expected(f"shape of {thing}", header.shape, "to have no empty axis"))
    return problems


def _label_header_problems(thing: str, header: _Header) -> list[str]:
    problems = []
    if header.dtype.kind not in "iu":
        remedy = "Store class numbers: y.astype(np.int32)."
        problems.append(expected(f"dtype of {thing}", str(header.dtype), "to be an integer type", remedy))
    if len(header.shape) != 1:
        problems.append(
            expected(f"shape of {thing}", header.shape, "to be [N]", "One class number per image.")
        )
    return problems


def _pair_problems(name: str, headers: dict[str, _Header]) -> list[str]:
    problems = []
    for split in ("train", "test"):
        num_images, num_labels = headers[f"x_{split}"].shape[0], headers[f"y_{split}"].shape[0]
        if num_images != num_labels:
            problems.append(
                expected(
                    f"length of {name}:y_{split}",
                    num_labels,
                    f"to be {num_images}, the length of x_{split}",
                    "One label per image.",
                )
            )
    train, test = headers["x_train"].shape[1:], headers["x_test"].shape[1:]
    if train != test:
        problems.append(expected(f"image shape of {name}:x_test", test, f"to be {train}, as in x_train"))
    return problems


def _read_labels(spec: DataSpec, path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    problems, labels = [], {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            labels = {key: archive[key] for key in ("y_train", "y_test")}
    except _BROKEN as error:
        allowed = f"to be an undamaged archive ({error})"
        return labels, [expected("data.name", spec.name, allowed, _REWRITE)]
    for key, values in labels.items():
        outside = sorted({int(v) for v in np.unique(values) if not 0 <= v < spec.num_classes})
        if outside:
            shown = outside if len(outside) <= 4 else [*outside[:2], "...", outside[-1]]
            problems.append(
                expected(
                    f"labels of {spec.name}:{key}",
                    shown,
                    f"in [0, {spec.num_classes})",
                    "Set data.num_classes to 1 + the largest label, or renumber the classes from 0.",
                )
            )
    return labels, problems
