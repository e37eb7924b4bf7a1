"""The official CIFAR archives (binary version): fetch, verify, read, without TensorFlow.

Format, as its makers describe it: a file is a row of fixed-length records. A record is
one label byte (CIFAR-10) or the coarse and the fine label (CIFAR-100), then 3,072 pixel
bytes: the red, the green and the blue 32x32 plane, each row by row.
"""

import dataclasses
import hashlib
import http.client
import ssl
import sys
import tarfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import numpy as np

from earlyprune_jax.validate import InvalidInput, expected, unexpected

IMAGE_SHAPE = (32, 32, 3)
_PIXEL_BYTES = 32 * 32 * 3
_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30
# Subclasses of OSError, without those that mean a full disk.
_NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    TimeoutError,
    ConnectionError,
    ssl.SSLError,
)


@dataclasses.dataclass(frozen=True)
class Archive:
    """Where an archive is, what proves it whole, what is in it.

    `labels` pairs each label of a record, in order, with the member that names its
    classes; the names are TFDS's.
    """

    name: str
    url: str
    sha256: str
    folder: str
    train_members: tuple[str, ...]
    test_members: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]


ARCHIVES = {
    "cifar10": Archive(
        name="cifar10",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        folder="cifar-10-batches-bin",
        train_members=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test_members=("test_batch.bin",),
        labels=(("label", "batches.meta.txt"),),
    ),
    "cifar100": Archive(
        name="cifar100",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        folder="cifar-100-binary",
        train_members=("train.bin",),
        test_members=("test.bin",),
        labels=(("coarse_label", "coarse_label_names.txt"), ("label", "fine_label_names.txt")),
    ),
}


@dataclasses.dataclass(frozen=True)
class Contents:
    """A parsed archive.

    Attributes:
        images: split -> uint8 [N, 32, 32, 3].
        labels: split -> label name -> uint8 [N].
        class_names: label name -> the classes' names.
    """

    images: dict[str, np.ndarray]
    labels: dict[str, dict[str, np.ndarray]]
    class_names: dict[str, tuple[str, ...]]


def parse_records(data: bytes, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits a binary file into labels and channels-last images.

    Args:
        data: whole records, num_labels + 3,072 bytes each.
        num_labels: label bytes before the pixels.

    Returns:
        (labels uint8 [N, num_labels], images uint8 [N, 32, 32, 3]).

    Raises:
        ValueError: `data` does not end with a record.

    Example:
        >>> labels, images = parse_records(bytes([7]) + bytes(range(256)) * 12, 1)
        >>> labels.tolist(), images[0, 0, 3].tolist()
        ([[7]], [3, 3, 3])
    """
    records = np.frombuffer(data, np.uint8).reshape(-1, num_labels + _PIXEL_BYTES)
    planes = records[:, num_labels:].reshape(-1, 3, 32, 32)
    return records[:, :num_labels], np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def read(archive: Archive, path: Path) -> Contents:
    """Reads all members of a verified archive into memory, in the official order.

    Raises:
        InvalidInput: a member is missing or is not made of whole records.
    """
    label_names = [name for name, _ in archive.labels]
    images, labels = {}, {}
    try:
        with tarfile.open(path) as tar:
            for split, members in (
                ("train", archive.train_members),
                ("test", archive.test_members),
            ):
                data = b"".join(_member(tar, archive, member) for member in members)
                columns, images[split] = parse_records(data, len(label_names))
                labels[split] = dict(zip(label_names, columns.T, strict=True))
            class_names = {
                name: tuple(_member(tar, archive, member).decode().split())
                for name, member in archive.labels
            }
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, KeyError) as error:
        raise _unusable(
            archive, path, f"to hold the binary version of {archive.name} ({error})"
        ) from error
    return Contents(images, labels, class_names)


def _member(tar: tarfile.TarFile, archive: Archive, member: str) -> bytes:
    file = tar.extractfile(f"{archive.folder}/{member}")
    if file is None:
        raise KeyError(f"{member} is not a plain file")
    return file.read()


def verify(archive: Archive, path: Path) -> None:
    """Compares a file with the archive's published SHA-256.

    Raises:
        InvalidInput: the file cannot be read, or differs.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unusable(archive, path, f"to be a readable file ({error.strerror})") from error
    if found != archive.sha256:
        allowed = (
            f"to have SHA-256 {archive.sha256}, not {found}: it is cut off, changed or another file"
        )
        raise _unusable(archive, path, allowed)


def _unusable(archive: Archive, path: Path, allowed: str) -> InvalidInput:
    return unexpected("archive", str(path), allowed, f"Get it from {archive.url}.")


def download(archive: Archive, path: Path) -> None:
    """Fetches the archive to `path`, reporting progress on standard error. Not verified yet.

    Raises:
        InvalidInput: no network, or the server's refusal.
        OSError: `path` cannot be written.
    """
    print(f"Downloading {archive.url}", file=sys.stderr)
    try:
        with (
            urllib.request.urlopen(archive.url, timeout=_TIMEOUT_SECONDS) as response,
            path.open("wb") as file,
        ):
            progress = _Progress(int(response.headers.get("Content-Length") or 0))
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                progress.add(len(chunk))
    except _NETWORK_ERRORS as error:
        remedy = (
            f"Without a network here, fetch that file elsewhere and run "
            f"`python -m earlyprune_jax.data.prepare {archive.name} DIR --archive FILE`, "
            f"then set data.data_dir=DIR."
        )
        problem = expected(
            f"archive of {archive.name}", archive.url, f"to be reachable ({error})", remedy
        )
        raise InvalidInput([problem]) from error


class _Progress:
    """One line per tenth of the way: reads well on a terminal and in a log."""

    def __init__(self, total_bytes: int):
        self._total, self._seen, self._tenths = total_bytes, 0, 0

    def add(self, num_bytes: int) -> None:
        self._seen += num_bytes
        tenths = 10 * self._seen // self._total if self._total else 0
        if tenths > self._tenths:
            self._tenths = tenths
            print(f"  {self._seen / 1e6:.0f} of {self._total / 1e6:.0f} MB", file=sys.stderr)
