"""`cifar10` and `cifar100` from a prepared TFDS directory (ArrayRecord), without TensorFlow.

TFDS shuffles records when it prepares them; they are sorted by `id` here, so that row i
is image i of the official files and published index lists apply. CIFAR-100 labels are
the 100 fine ones. A directory may hold fewer images than the official set.
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from earlyprune_jax.data.source import SPLITS, Source, path_of
from earlyprune_jax.spec_sections import DataSpec
from earlyprune_jax.validate import InvalidInput, unexpected

IMAGE_SHAPE = (32, 32, 3)
RECORD_FORMAT = "array_record"
"""The one file format that TFDS reads without TensorFlow."""

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
    data_dir = data_dir_of(spec)
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
    import tensorflow_datasets as tfds

    path = directory_of(name, data_dir)
    if not path.is_dir():
        return None
    try:
        if pipes := [entry.name for entry in path.iterdir() if entry.is_fifo()]:
            raise OSError(f"{pipes[0]} is a pipe, for which it would wait")
        builder = tfds.builder(name, data_dir=data_dir)
        splits = [builder.info.splits[split] for split in SPLITS]
        files = [Path(file) for split in splits for file in split.filepaths]
        sizes = [size for split in splits for size in split.shard_lengths]
        formats = sorted(file_format.value for file_format in builder.info.available_file_formats())
        missing = [file.name for file in files if not file.is_file() or file.stat().st_size == 0]
    except Exception as error:  # TFDS lets protobuf's, JSON's and its own errors through
        wanted = f"a finished {name} with a readable dataset_info.json in {path} ({error})"
    else:
        wanted = f"{name} as {RECORD_FORMAT}, not {', '.join(formats)}, in {path}"
        if RECORD_FORMAT in formats:
            wrong = [f"{file} is missing" for file in missing] or _miscounted(files, sizes)
            if not wrong:
                return builder
            wanted = f"all of {name}; {', '.join(wrong)} in {path}"
    remedy = (
        f"Prepare it in another directory: {prepare_command(name)}, then set data.data_dir=DIR."
    )
    raise unexpected("data.data_dir", str(data_dir), f"to hold {wanted}", remedy)


def _miscounted(files: Sequence[Path], sizes: Sequence[int]) -> list[str]:
    """Says of which files the records are not as many as dataset_info.json says."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    wrong = []
    for file, size in zip(files, sizes, strict=True):
        try:
            with ArrayRecordDataSource([str(file)]) as records:
                found = f"holds {len(records)} records"
        except Exception as error:  # array_record raises RuntimeError and others
            found = f"cannot be read ({type(error).__name__}: {error})"
        if found != f"holds {size} records":
            wrong.append(f"{file.name}, of {size} records by dataset_info.json, {found}")
    return wrong


def directory_of(name: str, data_dir: Path) -> Path:
    """Returns the directory of a data set, DATA_DIR/NAME/VERSION."""
    import tensorflow_datasets as tfds

    return data_dir / name / str(tfds.builder_cls(name).VERSION)


def prepare_command(name: str, arguments: str = "DIR [--archive FILE]") -> str:
    """Returns what to type to prepare a data set in a directory."""
    return f"`python -m earlyprune_jax.data.prepare {name} {arguments}`"


def data_dir_of(spec: DataSpec) -> Path:
    """Returns the directory of a config; its default is TFDS's own."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return path_of(spec.data_dir or default)


def _find_named(spec: DataSpec) -> Any:
    """Finds what a config names; nothing may be there yet only in the default directory."""
    data_dir = data_dir_of(spec)
    builder = find(spec.name, data_dir)
    if builder is not None or not spec.data_dir:
        return builder
    allowed = f"to hold {spec.name} in {directory_of(spec.name, data_dir)}"
    command = prepare_command(spec.name, f"{spec.data_dir} [--archive FILE]")
    remedy = f"Prepare it: {command}, or set data.data_dir='' for the TFDS default."
    raise unexpected("data.data_dir", spec.data_dir, allowed, remedy)


def _records(builder: Any, split: str) -> list[dict[str, Any]]:
    """Reads all records of a split in the official order, images still encoded."""
    import tensorflow_datasets as tfds

    # Decoding with Pillow ourselves is faster here than through TFDS, and the same with
    # or without OpenCV on the machine.
    decoders = {"image": tfds.decode.SkipDecoding()}
    try:
        source = builder.as_data_source(split, decoders=decoders, file_format=RECORD_FORMAT)
        records = source.__getitems__(list(range(len(source))))
        _require_own(records, split, NUM_CLASSES[builder.name])
    except Exception as error:  # array_record raises RuntimeError, IndexError, protobuf's errors
        raise _damaged(builder, split, error) from error
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
    try:
        for row, record in enumerate(records):
            image = np.asarray(Image.open(io.BytesIO(record["image"])))
            if image.shape != IMAGE_SHAPE or image.dtype != np.uint8:
                raise ValueError(f"an image is {image.dtype}{list(image.shape)}")
            images[row] = image
    except Exception as error:  # Pillow's readers let struct's, zlib's and their own errors through
        raise _damaged(builder, split, error) from error
    return {"images": images, "labels": _labels(records)}


def _damaged(builder: Any, split: str, error: Exception) -> InvalidInput:
    name, data_dir = builder.name, str(Path(builder.data_dir).parent.parent)
    files = ", ".join(Path(file).name for file in builder.info.splits[split].filepaths)
    reason = f"{files}: {type(error).__name__}: {error}"
    allowed = f"to hold readable {split} records of {name} ({reason})"
    command = prepare_command(name, f"{data_dir} [--archive FILE]")
    remedy = f"Delete {builder.data_dir} and prepare it again: {command}."
    return unexpected("data.data_dir", data_dir, allowed, remedy)
