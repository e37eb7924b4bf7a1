"""A safetensors file as names to arrays and strings to strings: written whole, read with every
check."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

import earlyprune_jax
from earlyprune_jax.pruning.export.encodings import FILE_DTYPES, PARTS
from earlyprune_jax.records import replace_file
from earlyprune_jax.validate import InvalidInput, expected, unexpected

SPARSE, DENSE = "earlyprune_jax/sparse", "earlyprune_jax/dense"
VERSION = "1"
CHECKSUM = "sha256"


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> int:
    """Writes the file whole or not at all, and returns its size in bytes.

    Raises:
        InvalidInput: the path cannot be written.
    """
    # safetensors writes the memory as it lies, whatever the strides.
    ordered = {
        name: array if array.flags.c_contiguous else array.copy(order="C")
        for name, array in tensors.items()
    }
    content = safetensors.numpy.save(ordered, {**metadata, CHECKSUM: _checksum(ordered)})
    try:
        replace_file(Path(path), content)
    except OSError as error:
        remedy = f"{error.strerror}. Give a file in an existing, writable directory."
        raise unexpected("path", str(path), "to be writable", remedy) from error
    return len(content)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a file, read-only views of one buffer each, and its metadata.

    Raises:
        InvalidInput: no such file, not safetensors, truncated, or tensors of an unknown type.
    """
    try:
        content = Path(path).read_bytes()
        entries = safetensors.deserialize(content)
    except OSError as error:
        raise unexpected(
            "path", str(path), "to be a readable file", f"{error.strerror}."
        ) from error
    except safetensors.SafetensorError as error:
        remedy = f"It is something else, truncated or damaged: {error}."
        raise unexpected("path", str(path), "to be a whole safetensors file", remedy) from error
    unknown = [
        expected(
            f"type of {name} in {path}", entry["dtype"], f"to be one of {', '.join(FILE_DTYPES)}"
        )
        for name, entry in entries
        if entry["dtype"] not in FILE_DTYPES
    ]
    if unknown:
        raise InvalidInput(unknown)
    # The library gives no way to the metadata of bytes: 8 bytes of length, then the header as JSON.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tensors, metadata = (
        {name: _array(entry) for name, entry in entries},
        header.get("__metadata__", {}),
    )
    if metadata.get(CHECKSUM, digest := _checksum(tensors)) != digest:
        remedy = "Its numbers changed after it was written: save it again, or take another copy."
        raise unexpected(f"{CHECKSUM} of {path}", digest, f"to be {metadata[CHECKSUM]}", remedy)
    return tensors, metadata


def _checksum(tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()


def metadata_of(
    file_format: str, encoding: str, tensors: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """What a file says of itself: format, version, writer, encoding, and each leaf as JSON."""
    return {
        "file_format": file_format,
        "file_version": VERSION,
        "written_by": f"earlyprune_jax {earlyprune_jax.__version__}",
        "encoding": encoding,
        "tensors": json.dumps(tensors),
    }


def check_format(
    path: str | os.PathLike[str], metadata: Mapping[str, str], file_format: str
) -> None:
    """Refuses a file that says it has another format, or another version of this one.

    Raises:
        InvalidInput: with the remedy.
    """
    found, version = metadata.get("file_format"), metadata.get("file_version")
    if found != file_format:
        remedy = {SPARSE: "Read it with load_sparse.", DENSE: "Read it with load_dense."}.get(
            str(found), ""
        )
        raise unexpected(f"format of {path}", found, f"to be {file_format}", remedy)
    if version != VERSION:
        remedy = f"It was written by {metadata.get('written_by')}: read it with that version."
        raise unexpected(f"format version of {path}", version, f"to be {VERSION}", remedy)


def leaves_of(
    path: str | os.PathLike[str], metadata: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Path -> shape, dtype and encoding of every leaf of a sparse file, from its metadata.

    Raises:
        InvalidInput: the metadata is damaged.
    """
    try:
        leaves = json.loads(metadata["tensors"])
        return {
            name: {"shape": [*leaf["shape"]], "dtype": leaf["dtype"], "encoding": leaf["encoding"]}
            for name, leaf in leaves.items()
            if PARTS[leaf["encoding"]]
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        remedy = "The file is damaged: save it again."
        raise unexpected(
            f"metadata of {path}", metadata.get("tensors"), "to describe leaves", remedy
        ) from error


def _array(entry: Mapping[str, Any]) -> np.ndarray:
    return np.frombuffer(entry["data"], FILE_DTYPES[entry["dtype"]]).reshape(entry["shape"])
