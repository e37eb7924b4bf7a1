"""`cifar10` and `cifar100` from a prepared TFDS directory (ArrayRecord), without TensorFlow.

TFDS shuffles records when it prepares them; they are sorted by `id` here, so that row i
is image i of the official files and published index lists apply. CIFAR-100 labels are
the 100 fine ones. A directory may hold fewer images than the official set.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from earlyprune_jax.data.archive import IMAGE_SHAPE
from earlyprune_jax.data.source import Facts, Source, image_facts, image_source, path_of
from earlyprune_jax.data.tfds_directory import (
    RECORD_FORMAT,
    default_data_dir,
    find,
    prepare_command,
)
from earlyprune_jax.spec import DataSpec
from earlyprune_jax.validate import InvalidInput, expected

NUM_CLASSES = {"cifar10": 10, "cifar100": 100}
_NUM_TRAIN, _NUM_TEST = 50_000, 10_000


def inspect(spec: DataSpec) -> tuple[list[str], Facts]:
    """What is wrong with the keys that concern this source, and what it holds.

    With nothing prepared yet, the facts are those of the official set. A directory with
    other sizes has its labels read (30 us each): their balance is not known beforehand.
    """
    num_classes = NUM_CLASSES[spec.name]
    official = image_facts((_NUM_TRAIN // num_classes,) * num_classes, _NUM_TEST, IMAGE_SHAPE)
    data_dir = _data_dir(spec)
    problems = _directory_problems(spec, data_dir)
    found = find(spec.name, data_dir)
    problems += found.problems
    if not found.is_prepared:
        if spec.data_dir and data_dir.is_dir() and not found.problems:
            remedy = f"Prepare it: {prepare_command(spec.name, spec.data_dir)}."
            allowed = f"to hold {spec.name} in {found.path}"
            problems.append(expected("data.data_dir", spec.data_dir, allowed, remedy))
        return problems, official
    splits = found.builder.info.splits
    if (splits["train"].num_examples, splits["test"].num_examples) == (_NUM_TRAIN, _NUM_TEST):
        return problems, official
    try:
        counts = np.bincount(_read_labels(found.builder, "train"), minlength=num_classes)
    except InvalidInput as error:
        return [*problems, *error.problems], official
    return problems, image_facts(tuple(counts.tolist()), splits["test"].num_examples, IMAGE_SHAPE)


def load(spec: DataSpec) -> Source:
    """The prepared images in the official order; prepares the default directory if need be.

    60,000 images take about 5 s on one core.

    Raises:
        InvalidInput: nothing usable there, damaged records, or no network to prepare from.
    """
    data_dir = _data_dir(spec)
    found = find(spec.name, data_dir)
    if not found.is_prepared:
        problems, _ = inspect(spec)
        if problems:
            raise InvalidInput(problems)
        from earlyprune_jax.data.prepare import prepare

        prepare(spec.name, data_dir)
        found = find(spec.name, data_dir)
    builder = found.builder
    names = tuple(builder.info.features["label"].names)
    has_names = names != tuple(str(i) for i in range(len(names)))
    return image_source(
        _read(builder, "train"), _read(builder, "test"), names if has_names else None
    )


def _data_dir(spec: DataSpec) -> Path:
    return path_of(spec.data_dir) if spec.data_dir else default_data_dir()


def _directory_problems(spec: DataSpec, data_dir: Path) -> list[str]:
    if not spec.data_dir or data_dir.is_dir():
        return []
    command = prepare_command(spec.name, spec.data_dir)
    remedy = f"Prepare it: {command}, or set data.data_dir='' for the TFDS default."
    return [expected("data.data_dir", spec.data_dir, "to be a directory that exists", remedy)]


def _records(builder: Any, split: str) -> list[dict[str, Any]]:
    """All records of a split in the official order, images still encoded."""
    import tensorflow_datasets as tfds

    # Decoding with Pillow ourselves is faster here than through TFDS, and the same with
    # or without OpenCV on the machine.
    source = builder.as_data_source(
        split, decoders={"image": tfds.decode.SkipDecoding()}, file_format=RECORD_FORMAT
    )
    try:
        records = source.__getitems__(list(range(len(source))))
    except (
        Exception
    ) as error:  # array_record raises bare RuntimeError, IndexError and protobuf's errors
        raise InvalidInput([_damaged(builder, split, error)]) from error
    return sorted(records, key=lambda record: record["id"])


def _read_labels(builder: Any, split: str) -> np.ndarray:
    return np.array([record["label"] for record in _records(builder, split)], np.int32)


def _read(builder: Any, split: str) -> dict[str, np.ndarray]:
    from PIL import Image

    records = _records(builder, split)
    images = np.empty((len(records), *IMAGE_SHAPE), np.uint8)
    try:
        for image, record in zip(images, records, strict=True):
            image[...] = np.asarray(Image.open(io.BytesIO(record["image"])))
    except (OSError, ValueError, SyntaxError) as error:
        raise InvalidInput([_damaged(builder, split, error)]) from error
    return {"images": images, "labels": np.array([record["label"] for record in records], np.int32)}


def _damaged(builder: Any, split: str, error: Exception) -> str:
    name, data_dir = builder.name, str(Path(builder.data_dir).parent.parent)
    return expected(
        "data.data_dir",
        data_dir,
        f"to hold readable {split} records of {name} ({type(error).__name__}: {error})",
        f"Delete {builder.data_dir} and prepare it again: {prepare_command(name, data_dir)}.",
    )
