"""Specs and small CIFAR look-alikes that the tests of `earlyprune_jax.data` share."""

import contextlib
import dataclasses
import hashlib
import io
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds

from earlyprune_jax import data
from earlyprune_jax.data.prepare import Archive, prepare
from earlyprune_jax.data.prepared import RECORD_FORMAT
from earlyprune_jax.spec_sections import DataSpec
from earlyprune_jax.validate import InvalidInput

CHANNELS = {"cifar10": 3, "cifar100": 3}
CLASSES = {"cifar10": 10, "cifar100": 100}
LAYOUTS = {
    "cifar10": (
        "cifar-10-batches-bin",
        {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
        {"label": "batches.meta.txt"},
    ),
    "cifar100": (
        "cifar-100-binary",
        {"train": ["train.bin"], "test": ["test.bin"]},
        {"coarse_label": "coarse_label_names.txt", "label": "fine_label_names.txt"},
    ),
}
"""Folder of an archive; split -> members; label of a record, in order -> its classes' names."""


@dataclasses.dataclass(frozen=True)
class Official:
    """An archive on disk in the official format, and the arrays it was made from."""

    archive: Archive
    file: Path
    images: dict[str, np.ndarray]
    labels: dict[str, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A TFDS directory made from an `Official` archive."""

    data_dir: Path
    path: Path
    official: Official


def make_spec(name: str = "digits", **changes) -> DataSpec:
    """A valid spec of a source with the given keys changed."""
    channels = CHANNELS.get(name, 1)
    spec = DataSpec(
        name=name,
        data_dir="",
        num_classes=CLASSES.get(name, 10),
        train_fraction=1.0,
        validation_fraction=0.0,
        test_fraction=1.0,
        split_seed=0,
        image_size=0,
        crop_padding=0,
        horizontal_flip=False,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
    )
    return dataclasses.replace(spec, **changes)


def sizes(spec: DataSpec) -> dict[str, int]:
    """How many examples each split has, by `data.shapes`."""
    return {name: jax.tree.leaves(rows)[0].shape[0] for name, rows in data.shapes(spec).items()}


def only_problem(spec: DataSpec) -> str:
    """The one problem that `check` finds, which `read` refuses with."""
    (problem,) = data.check(spec)
    with pytest.raises(InvalidInput) as caught:
        data.read(spec)
    assert caught.value.problems == (problem,)
    return problem


def write_official(folder: Path, name: str, num_per_member: int) -> Official:
    """Writes random images in the official binary layout, with its own checksum."""
    rng = np.random.default_rng(0)
    top, members_of, meta = LAYOUTS[name]
    sizes = {"coarse_label": 20, "label": CLASSES[name]}
    members, images, labels = {}, {}, {}
    for split, names in members_of.items():
        num_images = num_per_member * len(names)
        planes = rng.integers(0, 256, (num_images, 3, 32, 32), np.uint8)
        images[split] = np.moveaxis(planes, 1, 3)
        labels[split] = {
            label: rng.permutation(np.arange(num_images) % sizes[label]).astype(np.uint8)
            for label in meta
        }
        columns = [values[:, None] for values in labels[split].values()]
        records = np.concatenate([*columns, planes.reshape(num_images, -1)], axis=1)
        for i, member in enumerate(names):
            members[member] = records[i * num_per_member : (i + 1) * num_per_member].tobytes()
    for label, member in meta.items():
        members[member] = "".join(f"{label}_{i}\n" for i in range(sizes[label])).encode() + b"\n"
    file = folder / f"{name}.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        for member, content in members.items():
            info = tarfile.TarInfo(f"{top}/{member}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return Official(Archive("https://no.such.host/", sha256), file, images, labels)


def write_prepared(folder: Path, name: str, num_per_member: int) -> Prepared:
    """Prepares a TFDS directory from such an archive."""
    official = write_official(folder, name, num_per_member)
    data_dir = folder / "tfds"
    path = prepare(name, data_dir, archive_file=official.file, archive=official.archive)
    return Prepared(data_dir, path, official)


def make_text_spec(name: str, **changes) -> DataSpec:
    """A valid spec of a source of text."""
    return make_spec(name, num_classes=0, mean=(), std=(), **changes)


def write_pairs(folder: Path, splits: dict[str, list[tuple[str, str]]], end: str = "\n") -> Path:
    """Writes pairs as plain files SPLIT.de and SPLIT.en."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, pairs in splits.items():
        for language, lines in zip(("de", "en"), zip(*pairs, strict=True), strict=True):
            text = "".join(f"{line}{end}" for line in lines)
            (folder / f"{split}.{language}").write_bytes(text.encode())
    return folder


def write_wmt14(data_dir: Path, splits: dict[str, list[tuple[str, str]]]) -> Path:
    """Has TFDS's own builder of wmt14_translate/de-en prepare given pairs; returns the folder."""
    from tensorflow_datasets.translate.wmt14 import Wmt14Translate

    class Small(Wmt14Translate, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(pairs) for split, pairs in splits.items()}

        def _generate_examples(self, pairs):  # pyright: ignore[reportIncompatibleMethodOverride]
            return ((row, {"de": de, "en": en}) for row, (de, en) in enumerate(pairs))

    Small.name = "wmt14_translate"
    builder = Small(config="de-en", data_dir=data_dir, file_format=RECORD_FORMAT)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_dir=data_dir / "unused", download_config=config)
    return Path(builder.data_dir)
