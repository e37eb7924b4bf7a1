"""`folder:PATH`: the user's own image files, PATH/train/CLASS/* and PATH/test/CLASS/*.

Labels number the classes in the order of their sorted names; examples are in the order of class and
file name. Files are png, jpg, jpeg, bmp or webp, of one size; grey ones have one channel, all
others are read as RGB. Names that begin with a dot are ignored. Files are looked at through their
headers until they are read.
"""

import functools
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from earlyprune_jax.data.source import Facts, Source, image_facts, image_source, path_of
from earlyprune_jax.spec import DataSpec
from earlyprune_jax.validate import InvalidInput, expected, shortened

PREFIX = "folder:"
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_SPLITS = ("train", "test")
_LAYOUT = "Wanted: PATH/train/CLASS/*.png and PATH/test/CLASS/*.png (or jpg, jpeg, bmp, webp)."
_GREY, _DEEP = ("1", "L", "LA", "La"), ("I", "F", "I;")

Files = tuple[tuple[str, tuple[Path, ...]], ...]
"""(class, its image files) in the order of the labels."""


def inspect(spec: DataSpec) -> tuple[list[str], Facts | None]:
    """Every problem found in names and headers; the facts if there is none."""
    root = _root(spec)
    if not spec.name[len(PREFIX) :]:
        return [
            expected("data.name", spec.name, "to be folder:PATH", "Put a path after the colon.")
        ], None
    if not root.is_dir():
        return [expected("data.name", spec.name, "to name a folder that exists", _LAYOUT)], None
    files = {split: _files(root / split) for split in _SPLITS if (root / split).is_dir()}
    problems = _name_problems(spec, root, files)
    stamps = ((file, file.stat()) for split in files for file in _all(files[split]))
    listing = tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in stamps)
    found, shape = _headers(listing)
    problems += found
    if problems or shape is None:
        return problems, None
    counts = tuple(len(of_class) for _, of_class in files["train"])
    return [], image_facts(counts, len(_all(files["test"])), shape)


def load(spec: DataSpec) -> Source:
    """Decodes all files; call after `inspect` found nothing.

    Raises:
        InvalidInput: a file turns out to be damaged.
    """
    root = _root(spec)
    files = {split: _files(root / split) for split in _SPLITS}
    train, test = (_read(files[split]) for split in _SPLITS)
    return image_source(train, test, tuple(name for name, _ in files["train"]))


def _root(spec: DataSpec) -> Path:
    return path_of(spec.name[len(PREFIX) :])


def _shown(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _files(folder: Path) -> Files:
    return tuple((entry.name, tuple(_shown(entry))) for entry in _shown(folder) if entry.is_dir())


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in _SUFFIXES


def _all(files: Files) -> list[Path]:
    return [file for _, of_class in files for file in of_class if _is_image(file)]


def _name_problems(spec: DataSpec, root: Path, files: dict[str, Files]) -> list[str]:
    if missing := [split for split in _SPLITS if split not in files]:
        return [
            expected("data.name", spec.name, f"to hold a folder {' and '.join(missing)}", _LAYOUT)
        ]
    problems, others = [], []
    for split, other in (_SPLITS, _SPLITS[::-1]):
        names = [name for name, _ in files[split]]
        thing = f"classes of {root / split}"
        if len(names) < 2:
            problems.append(expected(thing, names, "to be at least two", _LAYOUT))
        if more := sorted(set(names) - {name for name, _ in files[other]}):
            remedy = "Both splits have the same classes."
            problems.append(expected(thing, more, f"to have folders in {root / other} too", remedy))
        for name, of_class in files[split]:
            if not any(map(_is_image, of_class)):
                thing, remedy = (
                    f"number of images in {root / split / name}",
                    "Put some in, or remove it.",
                )
                problems.append(expected(thing, 0, "to be at least 1", remedy))
            allowed = f"to be an image ({', '.join(_SUFFIXES)})"
            remedy = "Convert it, or remove it; names that begin with a dot are ignored."
            strange = [str(file) for file in of_class if not _is_image(file)]
            others += [expected("file", file, allowed, remedy) for file in strange]
    return problems + shortened(others)


@functools.lru_cache(maxsize=8)
def _headers(
    listing: tuple[tuple[Path, int, int], ...],
) -> tuple[list[str], tuple[int, int, int] | None]:
    """What is wrong with the headers of the files, and the shape of an image: that of most of them.

    Remembered as long as sizes and times of the files are the same: an experiment asks several
    times.
    """
    found, problems = {}, []
    for file, _, _ in listing:
        try:
            found[file] = _look(file).shape
        except InvalidInput as error:
            problems += error.problems
    if not found:
        return shortened(problems), None
    ((usual, _),) = Counter(found.values()).most_common(1)
    like = next(file for file, shape in found.items() if shape == usual)
    remedy = (
        "Resize or convert it: images of a source have one size, and are all grey or all in colour."
    )
    for file, shape in found.items():
        if shape != usual:
            allowed = f"to be {usual}, as that of {like}"
            problems.append(
                expected(f"(height, width, channels) of {file}", shape, allowed, remedy)
            )
    return shortened(problems), usual


def _look(file: Path, *, decode: bool = False) -> np.ndarray:
    """The pixels, uint8 [H, W, C]; without decoding an array of that shape that holds nothing."""
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
        problem = expected("file", str(file), allowed, "Replace, convert or remove it.")
        raise InvalidInput([problem]) from error


def _read(files: Files) -> dict[str, np.ndarray]:
    paths = _all(files)
    images = np.empty((len(paths), *_look(paths[0]).shape), np.uint8)
    problems = []
    for row, path in enumerate(paths):
        try:
            images[row] = _look(path, decode=True)
        except InvalidInput as error:
            problems += error.problems
    if problems:
        raise InvalidInput(shortened(problems))
    labels = [np.full(len(of_class), label, np.int32) for label, (_, of_class) in enumerate(files)]
    return {"images": images, "labels": np.concatenate(labels)}
