"""What images with labels must be, whatever source gives them, and what is computed of them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from earlyprune_jax.data.source import Facts, Source
from earlyprune_jax.spec import DataSpec
from earlyprune_jax.validate import expected

Key = tuple[str, str]
"""(split, "images" or "labels")."""

Names = Mapping[Key, str]
"""What messages call an array."""


def array_problems(headers: Mapping[Key, Any], names: Names) -> list[str]:
    """What is wrong with the shapes and types of the arrays of both splits.

    Args:
        headers: (split, "images" or "labels") -> anything with shape and dtype; some may be
            missing.
        names: what messages call them.

    Returns:
        The problems; those between arrays only where each is right by itself and none is missing.
    """
    problems = []
    for (split, part), header in headers.items():
        check = _image_problems if part == "images" else _label_problems
        problems += check(names[split, part], header)
    if problems or len(headers) < 4:
        return problems
    for split in ("train", "test"):
        wanted, found = (headers[split, part].shape[0] for part in ("images", "labels"))
        if wanted != found:
            allowed = f"to be {wanted}, the length of {names[split, 'images']}"
            thing = f"length of {names[split, 'labels']}"
            problems.append(expected(thing, found, allowed, "One label per image."))
    train, test = (headers[split, "images"].shape[1:] for split in ("train", "test"))
    if train != test:
        thing = f"image shape of {names['test', 'images']}"
        problems.append(expected(thing, test, f"to be {train}, as in {names['train', 'images']}"))
    return problems


def _image_problems(thing: str, header: Any) -> list[str]:
    problems = []
    if header.dtype != np.uint8:
        remedy = (
            "Store pixels as 0 .. 255; data of your own task: name the array other than images."
        )
        problems.append(expected(f"dtype of {thing}", str(header.dtype), "to be uint8", remedy))
    if len(header.shape) != 4:
        remedy = "Grey images: x[..., np.newaxis]."
        problems.append(expected(f"shape of {thing}", header.shape, "to be [N, H, W, C]", remedy))
    elif 0 in header.shape:
        problems.append(expected(f"shape of {thing}", header.shape, "to have no empty axis"))
    return problems


def _label_problems(thing: str, header: Any) -> list[str]:
    problems = []
    if header.dtype.kind not in "iu":
        remedy = "Store class numbers: y.astype(np.int32)."
        problems.append(
            expected(f"dtype of {thing}", str(header.dtype), "to be an integer type", remedy)
        )
    if len(header.shape) != 1:
        remedy = "One class number per image."
        problems.append(expected(f"shape of {thing}", header.shape, "to be [N]", remedy))
    return problems


def usable_labels(headers: Mapping[Key, Any]) -> list[Key]:
    """The keys of the labels whose shape and type are right: their values can be looked at."""
    return [
        key
        for key, header in headers.items()
        if key[1] == "labels" and not _label_problems("", header)
    ]


def value_problems(spec: DataSpec, labels: Mapping[Key, np.ndarray], names: Names) -> list[str]:
    """Labels outside [0, num_classes), or no classes at all.

    Args:
        spec: the data section.
        labels: whole numbers [N] of `usable_labels`.
        names: what messages call them.
    """
    remedy = "Set data.num_classes to 1 + the largest label, or renumber the classes from 0."
    if spec.num_classes < 2:
        return [
            expected("data.num_classes", spec.num_classes, "to be at least 2 for images", remedy)
        ]
    problems = []
    for key, values in labels.items():
        outside = sorted({int(v) for v in np.unique(values) if not 0 <= v < spec.num_classes})
        if outside:
            shown = outside if len(outside) <= 4 else [*outside[:2], "...", outside[-1]]
            thing = f"labels of {names[key]}"
            problems.append(expected(thing, shown, f"in [0, {spec.num_classes})", remedy))
    return problems


def key_problems(spec: DataSpec, facts: Facts) -> list[str]:
    """Keys that do not fit the classes and the size of the images."""
    height, width, channels = facts.train["images"].shape[1:]
    problems = []
    if spec.num_classes != len(facts.counts):
        remedy = f"{spec.name} has that many."
        problems.append(
            expected("data.num_classes", spec.num_classes, f"to be {len(facts.counts)}", remedy)
        )
    for key, values in (("mean", spec.mean), ("std", spec.std)):
        if values and len(values) != channels:
            allowed = f"to have {channels} number{'s' if channels > 1 else ''}"
            remedy = (
                f"One per channel: images of {spec.name} are {height}x{width}x{channels}. "
                "() = computed from the training images."
            )
            problems.append(expected(f"data.{key}", values, allowed, remedy))
    if spec.crop_padding >= (side := min(height, width)):
        remedy = f"Images of {spec.name} are {height}x{width}; a larger padding can push one out of sight."
        problems.append(expected("data.crop_padding", spec.crop_padding, f"in [0, {side})", remedy))
    return problems


def foreign_problems(spec: DataSpec) -> list[str]:
    """Keys of images that are set though the source holds none."""
    neutral = {"num_classes": 0, "crop_padding": 0, "horizontal_flip": False, "mean": (), "std": ()}
    remedy = f"It belongs to images, and {spec.name} does not give exactly images and labels."
    return [
        expected(f"data.{key}", getattr(spec, key), f"to be {value!r}", remedy)
        for key, value in neutral.items()
        if getattr(spec, key) != value
    ]


def normalisation(source: Source, spec: DataSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and standard deviation per channel that `normalize` takes.

    Where `spec` gives () they are those of all training images of the source, scaled to [0, 1]:
    over images and pixels, population standard deviation. They do not depend on the split or the
    subset. A channel of one value everywhere has the standard deviation 1: normalised, it is 0.

    Args:
        source: of `read`.
        spec: the data section.

    Returns:
        (mean, std), a number per channel each; ((), ()) where the source holds no images.

    Example:
        >>> images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
        >>> rows = {"images": images, "labels": np.array([0, 1])}
        >>> spec = DataSpec("mine:load", "", 2, 1.0, 0.0, 1.0, 0, 0, False, (), ())
        >>> normalisation(Source(rows, rows), spec)
        ((0.5,), (0.5,))
    """
    if not source.holds_images or (spec.mean and spec.std):
        return tuple(spec.mean), tuple(spec.std)
    images = source.train["images"]
    num = images.size // images.shape[-1]
    # Whole numbers, so exact; einsum makes no copy of the images.
    sums = images.sum((0, 1, 2), dtype=np.int64).tolist()
    squares = np.einsum("nhwc,nhwc->c", images, images, dtype=np.int64).tolist()
    mean = tuple(total / (255 * num) for total in sums)
    deviations = [num * square - total**2 for total, square in zip(sums, squares, strict=True)]
    std = tuple(math.sqrt(one) / (255 * num) or 1.0 for one in deviations)
    return tuple(spec.mean) or mean, tuple(spec.std) or std
