"""What is demanded of the arrays of any source, and of the keys beside them.

Functions named `*_demands` list what is demanded of one array or of the keys of a config; a further
demand is a row there.

Of classes one thing is demanded: what is tested or held out is also trained on. So every class of
the test set and of the validation split has an example in the training subset; a class that is
trained on may lack test examples. Images are of two classes at least, and not all the same.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from earlyprune_jax.data import draws
from earlyprune_jax.data import source as sources
from earlyprune_jax.data.source import Source, named_leaves, num_examples
from earlyprune_jax.spec_sections import DataSpec
from earlyprune_jax.validate import expected

Demand = tuple[str, Any, Any, str, str]
"""(what is looked at, its value, whether that is right, what is allowed, the remedy)."""

_ROWS = "Every array has one row per example."
_FEW = (
    "Raise it, or add examples. Validation examples are taken off first, none with "
    'data.validation_fraction=0; "labels" that are no classes need another name.'
)
_TRAINED = (
    "What is tested is also trained on: add training examples of these, or leave them out of test; "
    '"labels" that are no classes need another name.'
)
_NOTHING = "There is nothing to tell apart: check how the file was written."
_RENUMBER = "Set data.num_classes to 1 + the largest label, or renumber the classes from 0."


def _problems(thing: str, demands: Iterable[Demand]) -> list[str]:
    return [
        expected(thing.format(part), value, allowed, remedy)
        for part, value, is_right, allowed, remedy in demands
        if not is_right
    ]


def array_problems(spec: DataSpec, source: Source, names: Mapping[str, str]) -> list[str]:
    """Finds what is wrong with the arrays of a source, one by one and in their lengths.

    Args:
        spec: the data section.
        source: a source or its outline: of an array only shape and dtype are looked at, and the
            values of an image's labels.
        names: `train['images']` and the like -> what the source calls that array, where it differs.

    Returns:
        The problems; of lengths only where each array is right by itself.
    """
    problems = []
    for part, rows in source.splits.items():
        lengths = {}
        for path, array in named_leaves(rows).items():
            name = names.get(part + path, part + path)
            if not source.holds_images:
                demands = _array_demands(array)
            elif path == "['images']":
                demands = _pixel_demands(array)
            else:
                demands = _label_demands(array, spec.num_classes if not source.class_names else 0)
            problems += _problems(f"{{}} of {name} of {spec.name}", demands)
            lengths[name] = array.shape[:1]
        if len(set(lengths.values())) > 1 and not problems:
            counts = {name: num for name, (num,) in lengths.items()}
            problems.append(expected(f"lengths of {spec.name}", counts, "to be equal", _ROWS))
    return problems


def _array_demands(array: Any) -> list[Demand]:
    # The types that JAX adds, such as bfloat16, have a kind of their own.
    holds_numbers = array.dtype.kind in "biufc" or jnp.issubdtype(array.dtype, jnp.floating)
    has_rows = array.ndim > 0 and array.shape[0] > 0
    front = "to have an axis of at least one example in front"
    return [
        ("dtype", str(array.dtype), holds_numbers, "to hold numbers or truth values", _ROWS),
        ("shape", array.shape, has_rows or not holds_numbers, front, _ROWS),
    ]


def _pixel_demands(array: Any) -> list[Demand]:
    store = "Store pixels as 0 .. 255; data of your own task: name the array other than images."
    is_filled = array.ndim == 4 and array.size > 0
    filled, grey = "to be [N, H, W, C], no axis empty", "Grey images: x[..., np.newaxis]."
    return [
        ("dtype", str(array.dtype), array.dtype == np.uint8, "to be uint8", store),
        ("shape", array.shape, is_filled, filled, grey),
    ]


def _label_demands(array: Any, num_classes: int) -> list[Demand]:
    """Labels of images, whose values lie in [0, num_classes) unless that is below 2."""
    store = "Store class numbers: y.astype(np.int32)."
    outside: list[int] = []
    if num_classes >= 2 and sources.are_class_numbers(array):
        outside = [value for value in np.unique(array).tolist() if not 0 <= value < num_classes]
    shown = [*outside[:2], "...", outside[-1]] if len(outside) > 4 else outside
    return [
        ("dtype", str(array.dtype), array.dtype.kind in "iu", "to be an integer type", store),
        ("shape", array.shape, array.ndim == 1, "to be [N]", "One class number per image."),
        ("values", shown, not outside, f"in [0, {num_classes})", _RENUMBER),
    ]


def key_problems(spec: DataSpec, source: Source) -> list[str]:
    """Finds keys that do not fit the examples, and examples that differ between the splits.

    Args:
        spec: the data section.
        source: a source, or its outline, whose arrays are right by themselves.
    """
    examples = {
        split: {
            path: f"{array.dtype}{list(array.shape[1:])}"
            for path, array in named_leaves(rows).items()
        }
        for split, rows in source.splits.items()
    }
    train = examples.pop("train")
    different = [
        expected(f"an example of {split} of {spec.name}", found, f"to be as one of train, {train}")
        for split, found in examples.items()
        if found != train
    ]
    if different:
        return different
    demands = _image_demands(spec, source) if source.holds_images else _foreign_demands(spec)
    problems = _problems(f"{{}} of {spec.name}", _class_demands(source))
    return problems + _problems("data.{}", [*demands, *_fraction_demands(spec, source)])


def _class_demands(source: Source) -> list[Demand]:
    """What is tested is trained on; images, where they are there to be looked at, differ."""
    found, demands = source.classes_of("train"), []
    for split in list(source.splits)[1:]:
        untrained = sorted(set(source.classes_of(split)) - set(found))
        thing = f"classes of {split} without training examples"
        demands.append((thing, untrained, not untrained, "to be none", _TRAINED))
    if source.holds_images:
        images, count = source.train["images"], f"{num_examples(source.train)} equal ones"
        demands += [
            ("classes of train", found, len(found) > 1, "to be at least two", _NOTHING),
            ("images of train", count, not _are_equal(images), "to differ", _NOTHING),
        ]
    return demands


def _are_equal(images: Any) -> bool:
    """Tells whether all images are the same one; of an outline it is not known, and so not."""
    return isinstance(images, np.ndarray) and not any((one != images[0]).any() for one in images)


def _image_demands(spec: DataSpec, source: Source) -> list[Demand]:
    height, width, channels = source.train["images"].shape[1:]
    side, num_known = min(height, width), len(source.class_names or ())
    is_count, classes, remedy = spec.num_classes >= 2, "to be at least 2 for images", _RENUMBER
    if num_known:
        is_count, classes = spec.num_classes == num_known, f"to be {num_known}"
        remedy = f"{spec.name} has that many."
    numbers = f"to have {channels} number{'s' if channels > 1 else ''}"
    per_channel = (
        f"One per channel: images of {spec.name} are {height}x{width}x{channels}. "
        "() = computed from the training images."
    )
    are = f"Images of {spec.name} are {height}x{width}"
    visible = f"{are}; a larger padding can push one out of sight."
    size, fits = spec.image_size, f"0 (as they are) or at most {side}, and images square"
    return [
        ("image_size", size, not size or height == width == size, f"to be {fits}", f"{are}."),
        ("num_classes", spec.num_classes, is_count, classes, remedy),
        ("mean", spec.mean, len(spec.mean) in (0, channels), numbers, per_channel),
        ("std", spec.std, len(spec.std) in (0, channels), numbers, per_channel),
        ("crop_padding", spec.crop_padding, spec.crop_padding < side, f"in [0, {side})", visible),
    ]


def _foreign_demands(spec: DataSpec) -> list[Demand]:
    """Keys of images are unset where the source holds none."""
    neutral = {
        **{"num_classes": 0, "image_size": 0, "crop_padding": 0, "horizontal_flip": False},
        **{"mean": (), "std": ()},
    }
    remedy = f"It belongs to images, and {spec.name} does not give exactly images and labels."
    return [
        (key, getattr(spec, key), getattr(spec, key) == value, f"to be {value!r}", remedy)
        for key, value in neutral.items()
    ]


def _fraction_demands(spec: DataSpec, source: Source) -> list[Demand]:
    """Fractions leave examples of every stratum that the source has."""
    held, drawn = spec.validation_fraction, (spec.train_fraction, spec.test_fraction)
    if not (0 <= held < 1 and all(0 < fraction <= 1 for fraction in drawn)):
        return []  # the key's own range check says so
    validation, train = draws.training_shares(source, spec)
    test = draws.class_shares([num_examples(source.test)], spec.test_fraction)
    found, own = source.classes_of("train"), source.validation is not None
    brought = f"{spec.name} brings its makers' validation split."
    demands: list[Demand] = [("validation_fraction", held, not (own and held), "to be 0", brought)]
    for key, rows, shares in (
        ("test_fraction", source.test, test),
        ("validation_fraction", source.train, validation),
        ("train_fraction", source.train, train),
    ):
        allowed = "to give every class an example" if len(shares) > 1 else "to leave an example"
        lacking = [found[stratum] for stratum in np.flatnonzero(shares == 0)] if found else []
        none = f", none of {lacking[:5]}" + ", ..." * (len(lacking) > 5) if lacking else ""
        remedy = f"It gives {shares.sum()} of {num_examples(rows)} examples{none}. {_FEW}"
        is_right = shares.all() or (key == "validation_fraction" and not held)
        demands.append((key, getattr(spec, key), is_right, allowed, remedy))
    return demands
