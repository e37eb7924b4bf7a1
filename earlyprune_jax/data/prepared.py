"""A prepared TFDS directory (ArrayRecord), read without TensorFlow."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax.data.source import path_of
from earlyprune_jax.spec_sections import DataSpec
from earlyprune_jax.validate import InvalidInput, unexpected

RECORD_FORMAT = "array_record"
"""The one file format that TFDS reads without TensorFlow."""


def data_dir_of(spec: DataSpec) -> Path:
    """Returns the directory of a config; its default is TFDS's own."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return path_of(spec.data_dir or default)


def find(name: str, path: Path, splits: Sequence[str], remedy: str) -> Any:
    """Looks for a readable data set; writes nothing, reads no record.

    Args:
        name: of the data set, with its config.
        path: its directory, DATA_DIR/NAME/VERSION, there or not.
        splits: those that will be read.
        remedy: how to get it, for messages.

    Returns:
        Its TFDS builder; None where there is no such directory.

    Raises:
        InvalidInput: what is there is not whole, or not in the format that is read here.
    """
    import tensorflow_datasets as tfds

    if not path.is_dir():
        return None
    try:
        if pipes := [entry.name for entry in path.iterdir() if entry.is_fifo()]:
            raise OSError(f"{pipes[0]} is a pipe, for which it would wait")
        builder = tfds.builder_from_directory(path)
        infos = [builder.info.splits[split] for split in splits]
        files = [Path(file) for info in infos for file in info.filepaths]
        sizes = [size for info in infos for size in info.shard_lengths]
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
    data_dir = path.parents[len(Path(name).parts)]
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


def absent(spec: DataSpec, path: Path, remedy: str) -> InvalidInput:
    """Makes the error of a directory that is not there."""
    return unexpected("data.data_dir", spec.data_dir, f"to hold {spec.name} in {path}", remedy)


def records(
    builder: Any, split: str, rows: Sequence[int] | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Reads records of a split.

    Args:
        builder: of `find`.
        split: its name.
        rows: which, in TFDS's order; None = all.
        options: of TFDS's `as_data_source`.
    """
    found = builder.as_data_source(split, file_format=RECORD_FORMAT, **options)
    return found.__getitems__(list(range(len(found)) if rows is None else rows))


@contextlib.contextmanager
def undamaged(builder: Any, split: str, remedy: str) -> Iterator[None]:
    """Makes whatever reading records raises a problem that names the files.

    Args:
        builder: of `find`.
        split: that is read.
        remedy: for the message.

    Yields:
        Nothing.

    Raises:
        InvalidInput: the records cannot be read.
    """
    try:
        yield
    # array_record raises RuntimeError, IndexError, protobuf's errors; Pillow lets others through.
    except Exception as error:
        files = ", ".join(Path(file).name for file in builder.info.splits[split].filepaths)
        reason = f"{files}: {type(error).__name__}: {error}"
        allowed = f"to hold readable {split} records of {builder.name} ({reason})"
        raise unexpected("data.data_dir", str(root(builder)), allowed, remedy) from error


def root(builder: Any) -> Path:
    """Returns the TFDS directory that a builder's data set lies in: DATA_DIR."""
    return Path(builder.data_dir).parents[len(Path(builder.info.full_name).parts) - 1]
