"""Writes a TFDS directory of CIFAR from the official archive, without TensorFlow.

    python -m earlyprune_jax.data.prepare cifar10 DIR [--archive FILE]

DIR then holds what `tfds.data_source("cifar10", data_dir=DIR)` reads. Without
`--archive` the archive is downloaded; either way its SHA-256 must be the published one.
"""

import argparse
import contextlib
import dataclasses
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from earlyprune_jax.data import archive as archives
from earlyprune_jax.data.archive import ARCHIVES, Archive, Contents
from earlyprune_jax.data.tfds_directory import find
from earlyprune_jax.validate import InvalidInput, unexpected, unknown_choice


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
        archive: facts of another archive of the same format; None = the official one.

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
    if name not in ARCHIVES:
        raise InvalidInput([unknown_choice("name", name, list(ARCHIVES))])
    archive = archive or ARCHIVES[name]
    data_dir = Path(data_dir).expanduser().absolute()
    found = find(name, data_dir)
    if found.problems:
        raise InvalidInput(found.problems)
    if found.is_prepared:
        return found.path
    if archive_file is not None:
        # Before any folder is made: a wrong file must leave no trace.
        archives.verify(archive, archive_file)
    with _folder_for(data_dir, name) as scratch:
        if archive_file is None:
            archive_file = scratch / "archive.tar.gz"
            archives.download(archive, archive_file)
            archives.verify(archive, archive_file)
        contents = archives.read(archive, archive_file)
        print(f"Preparing {name} in {found.path}", file=sys.stderr)
        written = _write(name, contents, scratch)
        found.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            written.rename(found.path)
        except OSError:
            # Another process may have been first; its files are as good as these.
            if not find(name, data_dir).is_prepared:
                raise
    return found.path


@contextlib.contextmanager
def _folder_for(data_dir: Path, name: str) -> Iterator[Path]:
    """A hidden folder in `data_dir`, so that the last rename stays on one file system."""
    is_new = not data_dir.exists()
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".preparing-{name}-", dir=data_dir))
    except OSError as error:
        allowed = f"to be a directory that can be written ({error.strerror})"
        remedy = "Name another directory, and set data.data_dir to it."
        raise unexpected("data_dir", str(data_dir), allowed, remedy) from error
    try:
        yield scratch
    except OSError as error:
        allowed = f"to take a prepared data set ({error})"
        remedy = "It needs about 0.5 GB of free space."
        raise unexpected("data_dir", str(data_dir), allowed, remedy) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):  # not empty: the data set is in it
                data_dir.rmdir()


def _write(name: str, contents: Contents, scratch: Path) -> Path:
    """Runs the TFDS builder over `contents`; returns the directory it filled."""
    import tensorflow_datasets as tfds

    stock: Any = tfds.builder_cls(name)

    class FromArchive(stock, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
        """The stock builder (features, version, citation) with the images already in memory."""

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            del dl_manager
            for label, names in contents.class_names.items():
                self.info.features[label].names = list(names)
            return {split: self._generate_examples(split) for split in contents.images}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
            labels = contents.labels[split]
            for i, image in enumerate(contents.images[split]):
                # The ids that TFDS gives: the only trace of the official order.
                example = {"id": f"{split}_{i:05d}", "image": _png(image)}
                yield i, example | {label: int(values[i]) for label, values in labels.items()}

    FromArchive.name = name
    tfds.disable_progress_bar()
    builder = FromArchive(data_dir=scratch, file_format="array_record")
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    # TFDS would announce the hidden folder as the place to find the data.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=config)
    return Path(builder.data_dir)


def _png(image: Any) -> io.BytesIO:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    file.seek(0)
    return file


@dataclasses.dataclass(frozen=True)
class _Arguments:
    name: str
    data_dir: Path
    archive: Path | None


def _parse(arguments: Sequence[str] | None) -> _Arguments:
    parser = argparse.ArgumentParser(
        prog="python -m earlyprune_jax.data.prepare",
        description="Prepares CIFAR as a TFDS directory from the official archive, without TensorFlow.",
    )
    parser.add_argument("name", choices=tuple(ARCHIVES))
    parser.add_argument(
        "data_dir", type=Path, metavar="DIR", help="the directory to give as data.data_dir"
    )
    parser.add_argument(
        "--archive",
        type=Path,
        metavar="FILE",
        help="the archive, fetched before; default: download it",
    )
    return _Arguments(**vars(parser.parse_args(arguments)))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 2 on bad input."""
    args = _parse(arguments)
    try:
        path = prepare(args.name, args.data_dir, archive_file=args.archive)
    except InvalidInput as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{args.name} is in {path}. Use it with data.data_dir={args.data_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
