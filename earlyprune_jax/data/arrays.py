"""Sources that need no preparation: scikit-learn's digits, a NumPy archive, images in a folder, a
user's function.

`digits`: 1,797 real 8x8 handwritten digits. Pixels are whole numbers 0..16 there; value v becomes
round(255 * v / 16), an injection into uint8, so nothing is lost. scikit-learn has one set only:
1,200 images are the training set and 597 the test set, by a stratified split whose seed never
changes. `data.split_seed` moves the validation split and the subset, not the test set, so
accuracies stay comparable.

`npz:PATH`: an archive of x_train, x_test: uint8 [N, H, W, C], and y_train, y_test: whole numbers
[N] in [0, num_classes). Images are looked at through their headers until they are loaded; nothing
is ever unpickled.

`folder:PATH`: the user's own image files, PATH/train/CLASS/* and PATH/test/CLASS/*.

Labels number the classes in the order of their sorted names; examples are in the order of class and
file name. Files are whatever Pillow reads with 8 bits a channel, of one size; grey ones have one
channel, all others are read as RGB. Names that begin with a dot are ignored. Files are looked at
through their headers until they are read.

`module:function` or `module:function(arguments)`: images or anything else. The function returns a
mapping with `train` and `test`. Each is an array, or a mapping of names to arrays or further
mappings; an array is anything that `numpy.asarray` takes, and has an axis of examples in front.

    def load(length=16):
        return {"train": {"tokens": train_tokens, "next": train_next}, "test": {...}}

Splits of exactly `images` and `labels` are image classification. Where both splits hold whole
numbers `labels` [N], what is drawn from them is stratified by these. The function is called once
per process.
"""

import functools
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile, ZipFile

import jax
import numpy as np

from earlyprune_jax import references, user_code
from earlyprune_jax.data.draws import stratified_split
from earlyprune_jax.data.source import SPLITS, Source, path_behind, take
from earlyprune_jax.spec_sections import DataSpec
from earlyprune_jax.validate import expected, gathering, refuse, shortened, unexpected

# scikit-learn's digits


def load_digits(spec: DataSpec) -> Source:
    """Gives both sets of digits, each in scikit-learn's order; `spec` changes neither."""
    del spec
    return _digits()


@functools.lru_cache(maxsize=1)
def _digits() -> Source:
    from sklearn import datasets

    values, labels = datasets.load_digits(return_X_y=True)
    images = np.round(values * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = np.asarray(labels)
    train, test = stratified_split(labels, 1200 / len(labels), seed=0)
    whole = {"images": images, "labels": labels}
    return Source(take(whole, train), take(whole, test), tuple("0123456789"))


# A NumPy archive

NPZ_NAMES = {
    "train['images']": "x_train",
    "train['labels']": "y_train",
    "test['images']": "x_test",
    "test['labels']": "y_test",
}
"""What the arrays of a source are called in the archive."""

_REWRITE = (
    "Write it again with numpy.savez(PATH, x_train=..., y_train=..., x_test=..., y_test=...)."
)
# RuntimeError is zipfile's of an archive with a password, NotImplementedError one of its kind;
# TypeError says that the file holds a single array; a header is read as Python's literals are.
_BROKEN = (
    *(OSError, ValueError, EOFError, RuntimeError, TypeError, BadZipFile, zlib.error),
    *(MemoryError, OverflowError, SyntaxError, TokenError),
)


def outline_npz(spec: DataSpec) -> Source:
    """Reads headers, and the labels where their headers are right.

    Raises:
        InvalidInput: there is no such file, or it is no whole archive of these arrays.
    """
    path = path_behind(spec)
    if not path.is_file():
        remedy = f"Check the path: there is no {path.absolute()}."
        raise unexpected("data.name", spec.name, "to name a file that exists", remedy)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [name for name in NPZ_NAMES.values() if name not in archive.files]
            arrays: dict[str, Any] = {
                name: _header(archive.zip, name) for name in NPZ_NAMES.values() if not missing
            }
            for name, array in arrays.items():
                if name.startswith("y_") and array.ndim == 1 and array.dtype.kind in "iu":
                    arrays[name] = archive[name]
    except _BROKEN as error:
        allowed = f"to be a NumPy .npz archive ({error})"
        raise unexpected("data.name", spec.name, allowed, _REWRITE) from error
    if missing:
        allowed = f"to hold {', '.join(missing)} too"
        raise unexpected("data.name", spec.name, allowed, _REWRITE)
    return _npz_source(arrays)


def load_npz(spec: DataSpec) -> Source:
    """Reads the archive's arrays; call after `outline_npz`.

    Raises:
        InvalidInput: the compressed bytes turn out to be damaged.
    """
    try:
        with np.load(path_behind(spec), allow_pickle=False) as archive:
            arrays = {name: np.ascontiguousarray(archive[name]) for name in NPZ_NAMES.values()}
    except _BROKEN as error:
        allowed = f"to be an undamaged archive ({error})"
        raise unexpected("data.name", spec.name, allowed, _REWRITE) from error
    return _npz_source(arrays)


def _npz_source(arrays: Mapping[str, Any]) -> Source:
    train, test = (
        {"images": arrays[f"x_{split}"], "labels": arrays[f"y_{split}"]} for split in SPLITS
    )
    return Source(train, test)


def _header(archive: ZipFile, name: str) -> jax.ShapeDtypeStruct:
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


# The user's image files

_LAYOUT = "Wanted: PATH/train/CLASS/*.png and PATH/test/CLASS/*.png, or other images."
_FILL = "Put some in, or remove it; names that begin with a dot are ignored."
_GREY, _DEEP = ("1", "L", "LA", "La"), ("I", "F", "I;")

Classes = dict[str, list[Path]]
"""Class -> what its folder holds, in the order of the labels."""


def outline_folder(spec: DataSpec) -> Source:
    """Reads names and headers.

    Raises:
        InvalidInput: every problem found in them.
    """
    root = path_behind(spec)
    if not root.is_dir():
        raise unexpected("data.name", spec.name, "to name a folder that exists", _LAYOUT)
    files = _files(root)
    problems = _name_problems(spec, root, files)
    shapes: dict[Path, tuple[int, ...]] = {}
    unreadable: list[str] = []
    for file in (image for classes in files.values() for image in _images(classes)):
        stat = file.stat()
        with gathering(unreadable):
            shapes[file] = _shape(file, stat.st_size, stat.st_mtime_ns)
    for usual, _ in Counter(shapes.values()).most_common(1):
        like = next(file for file, shape in shapes.items() if shape == usual)
        allowed = f"to be {usual}, as that of {like}"
        remedy = "Resize or convert it: images have one size, and are all grey or all in colour."
        unreadable += [
            expected(f"(height, width, channels) of {file}", shape, allowed, remedy)
            for file, shape in shapes.items()
            if shape != usual
        ]
    refuse(problems + shortened(unreadable))
    shape = next(iter(shapes.values()))

    def not_decoded(paths: list[Path]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((len(paths), *shape), np.uint8)

    return _folder_source(files, not_decoded)


def load_folder(spec: DataSpec) -> Source:
    """Decodes all files; call after `outline_folder`.

    Raises:
        InvalidInput: a file turns out to be damaged.
    """
    problems: list[str] = []

    def decoded(paths: list[Path]) -> np.ndarray:
        images = np.empty((len(paths), *_look(paths[0]).shape), np.uint8)
        for row, path in enumerate(paths):
            with gathering(problems):
                images[row] = _look(path, decode=True)
        return images

    source = _folder_source(_files(path_behind(spec)), decoded)
    refuse(shortened(problems))
    return source


def _folder_source(files: dict[str, Classes], read: Callable[[list[Path]], Any]) -> Source:
    train, test = (
        {
            "images": read(_images(classes)),
            "labels": np.repeat(np.arange(len(classes)), list(map(len, classes.values()))),
        }
        for classes in (files[split] for split in SPLITS)
    )
    return Source(train, test, tuple(files["train"]))


def _files(root: Path) -> dict[str, Classes]:
    """Lists the splits that are there, without what is hidden."""

    def shown(folder: Path) -> list[Path]:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))

    return {
        split: {entry.name: shown(entry) for entry in shown(root / split) if entry.is_dir()}
        for split in SPLITS
        if (root / split).is_dir()
    }


def _images(classes: Classes) -> list[Path]:
    return [file for files in classes.values() for file in files]


def _name_problems(spec: DataSpec, root: Path, files: dict[str, Classes]) -> list[str]:
    if missing := [split for split in SPLITS if split not in files]:
        allowed = f"to hold a folder {' and '.join(missing)}"
        return [expected("data.name", spec.name, allowed, _LAYOUT)]
    problems = []
    for split, other in (SPLITS, SPLITS[::-1]):
        classes, thing = files[split], f"classes of {root / split}"
        if len(classes) < 2:
            problems.append(expected(thing, list(classes), "to be at least two", _LAYOUT))
        if more := sorted(classes.keys() - files[other].keys()):
            allowed = f"to have folders in {root / other} too"
            remedy = "Both splits have the same classes."
            problems.append(expected(thing, more, allowed, remedy))
        problems += [
            expected(f"number of images in {root / split / name}", 0, "to be at least 1", _FILL)
            for name, inside in classes.items()
            if not inside
        ]
    return problems


@functools.cache
def _shape(file: Path, size: int, changed: int) -> tuple[int, ...]:
    """Reads (height, width, channels) off a header, once for a size and time of change."""
    del size, changed
    return _look(file).shape


def _look(file: Path, *, decode: bool = False) -> np.ndarray:
    """Reads the pixels, uint8 [H, W, C]; without decoding an empty array of that shape."""
    from PIL import Image

    try:
        if not file.is_file():  # a pipe would be waited for
            raise ValueError("no file")
        with warnings.catch_warnings(action="ignore"), Image.open(file) as image:
            if image.mode.startswith(_DEEP):
                raise ValueError(f"mode {image.mode}, more than 8 bits a channel")
            # A camera's JPEG of several pictures (MPO) is one of the first.
            num_frames = getattr(image, "n_frames", 1)
            if num_frames > 1 and image.format != "MPO":
                raise ValueError(f"{num_frames} frames")
            is_grey = image.mode in _GREY
            shape = (image.height, image.width, 1 if is_grey else 3)
            if not decode:
                return np.broadcast_to(np.uint8(0), shape)
            return np.asarray(image.convert("L" if is_grey else "RGB")).reshape(shape)
    except Exception as error:  # Pillow's readers let struct's, zlib's and their own errors through
        allowed = f"to be a readable image ({type(error).__name__}: {error})"
        remedy = "Replace, convert or remove it."
        raise unexpected("file", str(file), allowed, remedy) from error


# A function of the user's

_RETURN = (
    "Return {'train': ..., 'test': ...}, each a mapping of names to arrays with one row per "
    "example."
)
_CALLED: dict[tuple[str | None, ...], Source] = {}


def load_function(spec: DataSpec) -> Source:
    """Returns what the function returns, as arrays.

    Raises:
        InvalidInput: no such function, what it raises, or what in its result is no array.
    """
    function = references.load("data.name", spec.name, {})
    digest = references.digest(spec.name)
    key = (spec.name, digest, user_code.current_folder(), str(Path.cwd()))
    if key not in _CALLED:
        with references.guarded("data.name", spec.name, "to return data"):
            returned = function()
            returned = dict(returned) if isinstance(returned, Mapping) else returned
        _CALLED[key] = _returned_source(spec.name, returned)
    return _CALLED[key]


def _returned_source(name: str, returned: Any) -> Source:
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
    refuse(problems)
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
