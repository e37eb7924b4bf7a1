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
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np

from earlyprune_jax.data.cifar import (
    NUM_CLASSES,
    RECORD_FORMAT,
    directory_of,
    find,
    prepare_command,
)
from earlyprune_jax.validate import InvalidInput, unexpected, unknown_choice

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30
# Subclasses of OSError, without those that mean a full disk.
_NETWORK_ERRORS = (URLError, HTTPException, TimeoutError, ConnectionError, SSLError)


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

    Everything is written to a hidden folder beside the target and moved into place by
    one rename at the end: an interrupted preparation leaves nothing that TFDS would
    take for a data set. A directory that already holds the data set is left alone.

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
    if name not in NUM_CLASSES:
        raise InvalidInput([unknown_choice("name", name, list(NUM_CLASSES))])
    archive = archive or official(name)
    data_dir = Path(data_dir).expanduser().absolute()
    path = directory_of(name, data_dir)
    if find(name, data_dir) is not None:
        return path
    if archive_file is not None:
        # Before any folder is made: a wrong file must leave no trace.
        _verify(archive, archive_file)
    with _folder_for(data_dir, name) as scratch:
        if archive_file is None:
            archive_file = scratch / "archive.tar.gz"
            _download(name, archive, archive_file)
            _verify(archive, archive_file)
        print(f"Preparing {name} in {path}", file=sys.stderr)
        with tarfile.open(archive_file) as tar:
            tar.extractall(scratch / "extracted", filter="data")
        written = _write(name, scratch)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            written.rename(path)
        except OSError:
            # Another process may have been first; its files are as good as these.
            if find(name, data_dir) is None:
                raise
    return path


@contextlib.contextmanager
def _folder_for(data_dir: Path, name: str) -> Iterator[Path]:
    """Makes a hidden folder in `data_dir`, so that the last rename stays on one file system."""
    is_new = not data_dir.exists()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".preparing-{name}-", dir=data_dir, ignore_cleanup_errors=True
        ) as scratch:
            yield Path(scratch)
    except OSError as error:
        allowed = f"to be a directory that can be written ({error})"
        remedy = (
            "It needs about 0.5 GB of free space; if you name another, set data.data_dir to it."
        )
        raise unexpected("data_dir", str(data_dir), allowed, remedy) from error
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # not empty: the data set is in it
                data_dir.rmdir()


def _write(name: str, scratch: Path) -> Path:
    """Runs the TFDS builder over the extracted archive; returns the directory it filled."""
    import tensorflow_datasets as tfds
    from PIL import Image

    stock: Any = tfds.builder_cls(name)

    class FromArchive(stock, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
        """The stock builder without the two steps that need TensorFlow: extracting and reading."""

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            del dl_manager
            extracted = SimpleNamespace(download_and_extract=lambda url: scratch / "extracted")
            return super()._split_generators(extracted)

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
    builder = FromArchive(data_dir=scratch, file_format=RECORD_FORMAT)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    # TFDS would announce the hidden folder as the place to find the data.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=config)
    return Path(builder.data_dir)


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


def _download(name: str, archive: Archive, path: Path) -> None:
    """Fetches the archive to `path`, reporting progress on standard error. Not verified yet.

    Args:
        name: of the data set, for messages.
        archive: which.
        path: of the file to write.

    Raises:
        InvalidInput: no network, or the server's refusal.
        OSError: `path` cannot be written.
    """
    print(f"Downloading {archive.url}", file=sys.stderr)
    try:
        with (
            urlopen(archive.url, timeout=_TIMEOUT_SECONDS) as response,
            path.open("wb") as file,
        ):
            total, written, tenths = int(response.headers.get("Content-Length") or 0), 0, 0
            while chunk := response.read(_CHUNK_BYTES):
                written += file.write(chunk)
                # A line per tenth of the way reads well on a terminal and in a log.
                if total and 10 * written // total > tenths:
                    tenths = 10 * written // total
                    print(f"  {written / 1e6:.0f} of {total / 1e6:.0f} MB", file=sys.stderr)
    except _NETWORK_ERRORS as error:
        remedy = (
            "Without a network here, fetch that file elsewhere and run "
            f"{prepare_command(name, 'DIR --archive FILE')}, then set data.data_dir=DIR."
        )
        allowed = f"to be reachable ({error})"
        raise unexpected(f"archive of {name}", archive.url, allowed, remedy) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 2 on bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m earlyprune_jax.data.prepare",
        description="Prepares CIFAR as a TFDS directory from the official archive, without "
        "TensorFlow.",
    )
    parser.add_argument("name", choices=tuple(NUM_CLASSES))
    parser.add_argument("data_dir", type=Path, metavar="DIR", help="to give as data.data_dir")
    archive_help = "the archive, fetched before; default: download it"
    parser.add_argument("--archive", type=Path, metavar="FILE", help=archive_help)
    args = parser.parse_args(arguments)
    try:
        path = prepare(args.name, args.data_dir, archive_file=args.archive)
    except InvalidInput as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{args.name} is in {path}. Use it with data.data_dir={args.data_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
