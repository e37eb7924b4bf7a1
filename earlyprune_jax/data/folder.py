"""`folder:PATH`: the user's own image files, PATH/train/CLASS/* and PATH/test/CLASS/*.

Labels number the classes in the order of their sorted names; examples are in the order of class and
file name. Files are whatever Pillow reads with 8 bits a channel, of one size; grey ones have one
channel, all others are read as RGB. Names that begin with a dot are ignored. Files are looked at
through their headers until they are read.
"""

import functools
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from earlyprune_jax.data.source import SPLITS, Source, path_behind
from earlyprune_jax.spec import DataSpec
from earlyprune_jax.validate import expected, gathering, refuse, shortened, unexpected

_LAYOUT = "Wanted: PATH/train/CLASS/*.png and PATH/test/CLASS/*.png, or other images."
_FILL = "Put some in, or remove it; names that begin with a dot are ignored."
_GREY, _DEEP = ("1", "L", "LA", "La"), ("I", "F", "I;")

Classes = dict[str, list[Path]]
"""Class -> what its folder holds, in the order of the labels."""


def outline(spec: DataSpec) -> Source:
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

    return _source(files, not_decoded)


def load(spec: DataSpec) -> Source:
    """Decodes all files; call after `outline`.

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

    source = _source(_files(path_behind(spec)), decoded)
    refuse(shortened(problems))
    return source


def _source(files: dict[str, Classes], read: Callable[[list[Path]], Any]) -> Source:
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
        with warnings.catch_warnings(action="ignore"), Image.open(file) as image:
            if image.mode.startswith(_DEEP):
                raise ValueError(f"mode {image.mode}, more than 8 bits a channel")
            is_grey = image.mode in _GREY
            shape = (image.height, image.width, 1 if is_grey else 3)
            if not decode:
                return np.broadcast_to(np.uint8(0), shape)
            return np.asarray(image.convert("L" if is_grey else "RGB")).reshape(shape)
    except Exception as error:  # Pillow's readers let struct's, zlib's and their own errors through
        allowed = f"to be a readable image ({type(error).__name__}: {error})"
        remedy = "Replace, convert or remove it."
        raise unexpected("file", str(file), allowed, remedy) from error
