"""`cifar10` and `cifar100` from a prepared TFDS directory (ArrayRecord), without TensorFlow.

TFDS shuffles records when it prepares them; they are sorted by `id` here, so that row i
is image i of the official files and published index lists apply. CIFAR-100 labels are
the 100 fine ones. A directory may hold fewer images than the official set.
"""

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from earlyprune_jax.data import prepared
from earlyprune_jax.data.source import SPLITS, Source
from earlyprune_jax.spec_sections import DataSpec

IMAGE_SHAPE = (32, 32, 3)
NUM_CLASSES = {"cifar10": 10, "cifar100": 100}
_OFFICIAL_SIZES = (50_000, 10_000)


def official_outline(spec: DataSpec) -> Source:
    """Returns the outline of the official set, whose classes are balanced."""
    return _outline(spec, [np.arange(size) % NUM_CLASSES[spec.name] for size in _OFFICIAL_SIZES])


def outline(spec: DataSpec) -> Source:
    """Looks at what the directory says of itself; reads labels if it is not the official set.

    Where nothing is there yet the outline is that of the official set. The labels of a
    directory with other sizes are read (30 us each): their balance is not known beforehand.

    Raises:
        InvalidInput: the directory is of no use.
    """
    builder = _find_named(spec)
    sizes = [builder.info.splits[split].num_examples for split in SPLITS] if builder else []
    if not builder or sizes == list(_OFFICIAL_SIZES):
        return official_outline(spec)
    return _outline(spec, [_labels(_records(builder, split)) for split in SPLITS])


def _outline(spec: DataSpec, labels: list[np.ndarray]) -> Source:
    train, test = (
        {"images": jax.ShapeDtypeStruct((len(rows), *IMAGE_SHAPE), np.uint8), "labels": rows}
        for rows in labels
    )
    return Source(train, test, tuple(map(str, range(NUM_CLASSES[spec.name]))))


def load(spec: DataSpec) -> Source:
    """Reads the images in the official order; prepares the default directory if need be.

    60,000 images take about 5 s on one core. Call after `outline`.

    Raises:
        InvalidInput: damaged records, or no network to prepare from.
    """
    data_dir = prepared.data_dir_of(spec)
    if (builder := find(spec.name, data_dir)) is None:
        from earlyprune_jax.data.prepare import prepare

        prepare(spec.name, data_dir)
        builder = find(spec.name, data_dir)
    train, test = (_read(builder, split) for split in SPLITS)
    return Source(train, test, tuple(builder.info.features["label"].names))


def find(name: str, data_dir: Path) -> Any:
    """Looks for a readable data set in a TFDS directory; writes nothing, reads no image.

    Args:
        name: cifar10 or cifar100.
        data_dir: the TFDS directory, there or not.

    Returns:
        Its TFDS builder; None where there is nothing of that name.

    Raises:
        InvalidInput: what is there is not whole, or not in the format that is read here.
    """
    remedy = (
        f"Prepare it in another directory: {prepare_command(name)}, then set data.data_dir=DIR."
    )
    return prepared.find(name, directory_of(name, data_dir), SPLITS, remedy)


def directory_of(name: str, data_dir: Path) -> Path:
    """Returns the directory of a data set, DATA_DIR/NAME/VERSION."""
    import tensorflow_datasets as tfds

    return data_dir / name / str(tfds.builder_cls(name).VERSION)


def prepare_command(name: str, arguments: str = "DIR [--archive FILE]") -> str:
    """Returns what to type to prepare a data set in a directory."""
    return f"`python -m earlyprune_jax.data.prepare {name} {arguments}`"


def _find_named(spec: DataSpec) -> Any:
    """Finds what a config names; nothing may be there yet only in the default directory."""
    data_dir = prepared.data_dir_of(spec)
    builder = find(spec.name, data_dir)
    if builder is not None or not spec.data_dir:
        return builder
    command = prepare_command(spec.name, f"{spec.data_dir} [--archive FILE]")
    remedy = f"Prepare it: {command}, or set data.data_dir='' for the TFDS default."
    raise prepared.absent(spec, directory_of(spec.name, data_dir), remedy)


def _records(builder: Any, split: str) -> list[dict[str, Any]]:
    """Reads all records of a split in the official order, images still encoded."""
    import tensorflow_datasets as tfds

    # Decoding with Pillow ourselves is faster here than through TFDS, and the same with
    # or without OpenCV on the machine.
    decoders = {"image": tfds.decode.SkipDecoding()}
    with _undamaged(builder, split):
        records = prepared.records(builder, split, decoders=decoders)
        _require_own(records, split, NUM_CLASSES[builder.name])
    return sorted(records, key=lambda record: record["id"])


def _require_own(records: Sequence[dict[str, Any]], split: str, num_classes: int) -> None:
    """Checks that records are those of this split, each once, of known classes.

    Raises:
        ValueError: they are not.
    """
    seen = set()
    for record in records:
        name, label = record["id"].decode(), record["label"]
        if not name.startswith(f"{split}_") or name in seen:
            raise ValueError(f"id {name!r}, of another split or twice")
        if not 0 <= label < num_classes:
            raise ValueError(f"label {label} of {name}")
        seen.add(name)


def _labels(records: list[dict[str, Any]]) -> np.ndarray:
    return np.array([record["label"] for record in records], np.int32)


def _read(builder: Any, split: str) -> dict[str, np.ndarray]:
    from PIL import Image

    records = _records(builder, split)
    images = np.empty((len(records), *IMAGE_SHAPE), np.uint8)
    with _undamaged(builder, split):
        for row, record in enumerate(records):
            image = np.asarray(Image.open(io.BytesIO(record["image"])))
            if image.shape != IMAGE_SHAPE or image.dtype != np.uint8:
                raise ValueError(f"an image is {image.dtype}{list(image.shape)}")
            images[row] = image
    return {"images": images, "labels": _labels(records)}


def _undamaged(builder: Any, split: str) -> AbstractContextManager[None]:
    command = prepare_command(builder.name, f"{prepared.root(builder)} [--archive FILE]")
    remedy = f"Delete {builder.data_dir} and prepare it again: {command}."
    return prepared.undamaged(builder, split, remedy)
