"""Looking into a TFDS directory: is a data set there, whole, in the form that is read here?"""

import dataclasses
import os
from pathlib import Path
from typing import Any

from earlyprune_jax.validate import expected

RECORD_FORMAT = "array_record"
"""The one file format that TFDS reads without TensorFlow."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What a TFDS directory holds under a name.

    `is_prepared` and `problems` exclude one another; with neither there is nothing yet.
    """

    path: Path
    is_prepared: bool = False
    problems: tuple[str, ...] = ()
    builder: Any = None


def default_data_dir() -> Path:
    """Where TFDS keeps its data sets: $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def find(name: str, data_dir: Path) -> Found:
    """Looks for a readable data set in a TFDS directory; writes nothing, reads no image."""
    import tensorflow_datasets as tfds

    path = data_dir / name / str(tfds.builder_cls(name).VERSION)
    if not path.is_dir():
        return Found(path)
    remedy = (
        f"Prepare it in another directory: {prepare_command(name)}, then set data.data_dir=DIR."
    )

    def unusable(allowed: str) -> Found:
        return Found(path, problems=(expected("data.data_dir", str(data_dir), allowed, remedy),))

    try:
        builder = tfds.builder(name, data_dir=data_dir)
        splits = builder.info.splits
        formats = {file_format.value for file_format in builder.info.available_file_formats()}
    except Exception as error:  # TFDS lets protobuf's, JSON's and its own errors through
        return unusable(f"to hold {name} with a readable dataset_info.json in {path} ({error})")
    if not {"train", "test"} <= set(splits):
        return unusable(f"to hold a finished {name} with splits train and test in {path}")
    if RECORD_FORMAT not in formats:
        return unusable(
            f"to hold {name} as {RECORD_FORMAT}, not {', '.join(sorted(formats))}, in {path}"
        )
    files = [Path(file) for split in ("train", "test") for file in splits[split].filepaths]
    missing = [file.name for file in files if not file.is_file() or file.stat().st_size == 0]
    if missing:
        return unusable(f"to hold all of {name}; {', '.join(missing)} is missing in {path}")
    return Found(path, is_prepared=True, builder=builder)


def prepare_command(name: str, directory: str = "DIR") -> str:
    """What to type to prepare a data set in a directory."""
    return f"`python -m earlyprune_jax.data.prepare {name} {directory} [--archive FILE]`"
