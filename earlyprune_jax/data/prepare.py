"""Writes a TFDS directory of CIFAR from the official archive, without TensorFlow.

    python -m earlyprune_jax.data.prepare cifar10 DIR [--archive FILE]

DIR then holds what `tfds.data_source("cifar10", data_dir=DIR)` reads. Without
`--archive` the archive is downloaded; either way its SHA-256 must be the published one.

Format of the archive (binary version), as its makers describe it: a file is a row of fixed-length
records. A record is one label byte (CIFAR-10) or the coarse and the fine label (CIFAR-100), then
3,072 pixel bytes: the red, the green and the blue 32x32 plane, each row by row.
"""

import argparse
import contextlib
import hashlib
import io
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.request import urlopen

import numpy as np

from earlyprune_jax.data import cifar, prepared
from earlyprune_jax.leaving import BAD_INPUT
from earlyprune_jax.validate import InvalidInput, unexpected, unknown_choice


class Archive(NamedTuple):
    """Where an archive is, and the SHA-256 of its bytes, as hex."""

    url: str
    sha256: str


def official(name: str) -> Archive:
    """Returns the archive that TFDS names for a data set."""
    import tensorflow_datasets as tfds

    stock: Any = tfds.builder_cls(name)
    ((url, info),) = stock.url_infos.items()
    return Archive(url, info.checksum)


def prepare(
    name: str, data_dir: Path, *, archive_file: Path | None = None, archive: Archive | None = None
) -> Path:
    """Prepares a data set in `data_dir`, whole or not at all.

    TFDS writes to a hidden folder beside the target and moves it into place at the end: an
    interrupted preparation leaves nothing that TFDS would take for a data set. A directory that
    already holds the data set is left alone.

    Args:
        name: cifar10 or cifar100.
        data_dir: the TFDS directory; created if need be.
        archive_file: the official archive, fetched before; None = download it.
        archive: another archive of the same format; None = the official one.

    Returns:
        The directory of the prepared data set, data_dir/NAME/VERSION.

    Raises:
        InvalidInput: unknown name, an archive that is missing or not the published one,
            no network, or a directory that cannot be written or holds another format.

    Example:
        >>> try:
        ...     prepare("cifar1O", Path("data"))
        ... except InvalidInput as error:
        ...     print(error)
        Expected name='cifar1O' to be one of cifar10, cifar100. Did you mean 'cifar10'?
    """
    if name not in cifar.NUM_CLASSES:
        raise InvalidInput([unknown_choice("name", name, list(cifar.NUM_CLASSES))])
    archive = archive or official(name)
    data_dir = Path(data_dir).expanduser().absolute()
    path = cifar.directory_of(name, data_dir)
    if cifar.find(name, data_dir) is not None:
        return path
    with tempfile.TemporaryDirectory() as scratch:
        # Before any folder is made in `data_dir`: a wrong file must leave no trace there.
        file = archive_file or _download(name, archive, Path(scratch) / "archive.tar.gz")
        _verify(archive, file)
        with tarfile.open(file) as tar:
            tar.extractall(Path(scratch) / "extracted", filter="data")
        print(f"Preparing {name} in {path}", file=sys.stderr)
        try:
            _write(name, data_dir, Path(scratch) / "extracted")
        except OSError as error:
            # Another process may have been first; its files are as good as these.
            if not data_dir.is_dir() or cifar.find(name, data_dir) is None:
                allowed = f"to be a directory that can be written ({error})"
                remedy = "It needs about 0.5 GB; if you name another, set data.data_dir to it."
                raise unexpected("data_dir", str(data_dir), allowed, remedy) from error
    return path


def _write(name: str, data_dir: Path, extracted: Path) -> None:
    """Runs the TFDS builder over the extracted archive."""
    import tensorflow_datasets as tfds
    from PIL import Image

    stock: Any = tfds.builder_cls(name)

    class FromArchive(stock, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
        """The stock builder without the two steps that need TensorFlow: extracting and reading."""

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            del dl_manager
            return super()._split_generators(
                SimpleNamespace(download_and_extract=lambda url: extracted)
            )

        def _generate_examples(
            self, split_prefix: str, filepaths: Iterable[str]
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            names = [label for label in ("coarse_label", "label") if label in self.info.features]
            content = b"".join(Path(path).read_bytes() for path in filepaths)
            labels, images = parse_records(content, len(names))
            for i, image in enumerate(images):
                png = io.BytesIO()
                Image.fromarray(image).save(png, "PNG")
                png.seek(0)
                # The ids that TFDS gives: the only trace of the official order.
                example = {"id": f"{split_prefix}{i:05d}", "image": png}
                yield i, example | dict(zip(names, labels[i].tolist(), strict=True))

    FromArchive.name = name
    tfds.disable_progress_bar()
    builder = FromArchive(data_dir=data_dir, file_format=prepared.RECORD_FORMAT)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_dir=extracted, download_config=config)


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
    records = np.frombuffer(data, np.uint8).reshape(-1, num_labels + 3 * 32 * 32)
    planes = records[:, num_labels:].reshape(-1, 3, 32, 32)
    return records[:, :num_labels], np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def _verify(archive: Archive, path: Path) -> None:
    """Compares a file with the archive's published SHA-256.

    Raises:
        InvalidInput: the file cannot be read, or differs.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        allowed = f"to have SHA-256 {archive.sha256}, not {digest}: it is cut off or another file"
    except OSError as error:
        digest, allowed = "", f"to be a readable file ({error.strerror})"
    if digest != archive.sha256:
        raise unexpected("archive", str(path), allowed, f"Get it from {archive.url}.")


def _download(name: str, archive: Archive, path: Path) -> Path:
    """Fetches the archive to `path`, and returns that. Not verified yet.

    Args:
        name: of the data set, for messages.
        archive: which.
        path: of the file to write.

    Raises:
        InvalidInput: no network, the server's refusal, or no space.
    """
    print(f"Downloading {archive.url}", file=sys.stderr)
    try:
        with urlopen(archive.url, timeout=30) as response, path.open("wb") as file:
            shutil.copyfileobj(response, file, 1 << 20)
    except (OSError, HTTPException) as error:
        remedy = (
            "Without a network here, fetch that file elsewhere and run "
            f"{cifar.prepare_command(name, 'DIR --archive FILE')}, then set data.data_dir=DIR."
        )
        allowed = f"to be fetched ({error})"
        raise unexpected(f"archive of {name}", archive.url, allowed, remedy) from error
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 on bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m earlyprune_jax.data.prepare",
        description="Prepares CIFAR as a TFDS directory from the official archive, without "
        "TensorFlow.",
    )
    parser.add_argument("name", choices=tuple(cifar.NUM_CLASSES))
    parser.add_argument("data_dir", type=Path, metavar="DIR", help="to give as data.data_dir")
    archive_help = "the archive, fetched before; default: download it"
    parser.add_argument("--archive", type=Path, metavar="FILE", help=archive_help)
    args = parser.parse_args(arguments)
    try:
        path = prepare(args.name, args.data_dir, archive_file=args.archive)
    except InvalidInput as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    print(f"{args.name} is in {path}. Use it with data.data_dir={args.data_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
