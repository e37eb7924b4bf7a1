"""What is needed besides weights to use a trained network, kept in a workdir's `assets/`.

An asset is a name and bytes, as `tasks.Task` gives them. Its file is named after the first digits
of its SHA-256 and after it, so that runs of all settings share a folder, equal content of one name
is one file, and content that has changed shows. run.json says which files are the run's.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from earlyprune_jax import storage
from earlyprune_jax.validate import InvalidInput, expected, unexpected

FOLDER = "assets"
"""Of a workdir."""
KEY = "assets"
"""Of run.json: name -> path within the workdir."""
NUM_DIGITS = 12
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")
"""Of an asset: it becomes the end of a file's name."""
REMEDY = "`earlyprune run` with the study's config and --workdir writes it again."


def paths(assets: Mapping[str, bytes]) -> dict[str, str]:
    """Names the file of each asset.

    Returns:
        Name -> path within the workdir.

    Example:
        >>> paths({"words.txt": b"one two"})
        {'words.txt': 'assets/8ab63e29a4ba.words.txt'}
    """
    return {name: f"{FOLDER}/{_digits(content)}.{name}" for name, content in assets.items()}


def _digits(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:NUM_DIGITS]


def problem(workdir: Path, path: str) -> str | None:
    """Says why an asset cannot be read as it was written; None if it can.

    Args:
        workdir: of the study.
        path: as of `paths`.

    Raises:
        UnusableFile: it is a link or a folder, or the user may not read it.
    """
    file = workdir / path
    storage.refuse_link(file)
    content = storage.read_bytes(file)
    if content is None:
        return expected("file", str(file), "to exist", REMEDY)
    digits = _digits(content)
    if file.name.partition(".")[0] != digits:
        allowed = f"to be what its name says; its SHA-256 begins with {digits}"
        return expected("file", str(file), allowed, f"Damaged, or of another run. {REMEDY}")
    return None


def write(workdir: Path, assets: Mapping[str, bytes]) -> list[str]:
    """Writes those assets that are not there as they should be.

    Args:
        workdir: of the study.
        assets: name -> content.

    Returns:
        The paths that were written.

    Raises:
        StorageError: one could not be written.
        UnusableFile: one is a link or a folder.
    """
    named = paths(assets)
    lost = [name for name, path in named.items() if problem(workdir, path)]
    if lost:
        storage.make_directory(workdir / FOLDER)
    for name in lost:
        storage.replace_file(workdir / named[name], assets[name])
    return [named[name] for name in lost]


def read(workdir: Path, described: Mapping[str, Any], name: str) -> bytes:
    """Reads an asset of a run.

    Args:
        workdir: of the study.
        described: what run.json says.
        name: of the asset.

    Raises:
        InvalidInput: the run has none of that name, or its file is lost or damaged.
    """
    named = described.get(KEY) or {}
    if name not in named:
        remedy = "It was trained by a version that did not keep any, or with another task."
        raise unexpected(f"{KEY} in run.json", sorted(named), f"to hold {name}", remedy)
    if found := problem(workdir, named[name]):
        raise InvalidInput([found])
    return storage.read_bytes(workdir / named[name]) or b""


def problems(assets: Mapping[str, Any]) -> list[str]:
    """Lists assets that cannot be kept: a name that is no file's, content that is no bytes.

    Example:
        >>> problems({"a/b": b"", "words.txt": b""})
        ["Expected name of an asset='a/b' to be made of letters, digits and _ . - alone."]
    """
    allowed = "to be made of letters, digits and _ . - alone"
    named = [
        expected("name of an asset", name, allowed)
        for name in assets
        if not isinstance(name, str) or not NAME.fullmatch(name)
    ]
    contents = {name: type(content).__name__ for name, content in assets.items()}
    return named + [
        expected(f"asset {name!r}", kind, "to be bytes")
        for name, kind in contents.items()
        if kind != "bytes"
    ]
