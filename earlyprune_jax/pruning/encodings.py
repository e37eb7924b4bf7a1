"""Turns a masked array into a few dense ones and back, bit for bit, and holds them in a file.

`bitmask` packs the mask to one bit an entry and lists the kept values; `csr` is compressed sparse
rows of the array reshaped to [product of the leading axes, last axis]. An array that lost nothing
is `dense`. Beside the values, a bitmask costs 1 bit an entry, and rows cost 8 bits a kept entry (16
where the last axis is longer than 256): csr is the smaller one where less than about 1/8 (1/16) is
kept.
"""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

import earlyprune_jax
from earlyprune_jax.pruning.trees import refuse
from earlyprune_jax.records import replace_file
from earlyprune_jax.validate import expected, unexpected

Path = str | os.PathLike[str]

SPARSE, DENSE = "earlyprune_jax/sparse", "earlyprune_jax/dense"
VERSION = "1"
CHECKSUM = "sha256"
DAMAGED = "The file is damaged: save it again."

ENCODINGS = ("bitmask", "csr")
PARTS = {"dense": ("",), "bitmask": ("#bits", "#values"), "csr": ("#columns", "#rows", "#values")}
"""What the parts of a leaf append to its name."""

FILE_DTYPES: dict[str, np.dtype] = {
    code: np.dtype(dtype)
    for code, dtype in {
        **{"BOOL": bool, "U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64},
        **{"I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64},
        **{"F16": np.float16, "F32": np.float32, "F64": np.float64, "BF16": jnp.bfloat16},
        **{"F8_E4M3": jnp.float8_e4m3fn, "F8_E5M2": jnp.float8_e5m2},
    }.items()
}
"""The types every safetensors reader of the last years knows, by their name in the file."""


def encode(array: np.ndarray, kept: np.ndarray, encoding: str) -> dict[str, np.ndarray]:
    """Makes the parts of an array: suffix of the name -> what is stored under it.

    Values of a type the file format lacks (complex numbers, 4-bit integers) are stored as their
    bytes, with one more axis.

    Args:
        array: of any fixed-size type.
        kept: bool, of the array's shape; where False the value is not stored.
        encoding: `bitmask` or `csr`; ignored where nothing is removed.

    Example:
        >>> kept = np.array([[True, False], [False, True]])
        >>> parts = encode(np.array([[0.5, 0], [0, 2]]), kept, "csr")
        >>> {suffix: part.tolist() for suffix, part in parts.items()}
        {'#columns': [0, 1], '#rows': [0, 1, 2], '#values': [0.5, 2.0]}
    """
    if chosen_encoding(kept, encoding) == "dense":
        return {"": _storable(array)}
    values = _storable(array[kept])
    if encoding == "bitmask":
        return {"#bits": np.packbits(kept), "#values": values}
    rows, columns = matrix_shape(kept.shape)
    pointers = np.append(0, np.cumsum(np.count_nonzero(kept.reshape(rows, columns), axis=1)))
    return {
        "#columns": (np.flatnonzero(kept) % columns).astype(smallest_unsigned(columns - 1)),
        "#rows": pointers.astype(smallest_unsigned(len(values))),
        "#values": values,
    }


Parts = Mapping[str, np.ndarray]
Shape = tuple[int, ...]


def decode(
    name: str, parts: Parts, shape: Shape, dtype: np.dtype, encoding: str
) -> tuple[np.ndarray, np.ndarray]:
    """Restores the array with +0.0 where removed, and its mask, from the parts `encode` made.

    Args:
        name: path of the leaf, for errors.
        parts: suffix -> stored array, with every suffix of PARTS[encoding].
        shape: of the array.
        dtype: of the array.
        encoding: `dense`, `bitmask` or `csr`.

    Returns:
        The array, and its mask.

    Raises:
        InvalidInput: parts of other types or lengths than the shape asks for, or indices out of
            range.

    Example:
        >>> parts = {"#bits": np.array([0b01000000], np.uint8), "#values": np.array([7.0])}
        >>> decode("w", parts, (3,), np.dtype(float), "bitmask")[0].tolist()
        [0.0, 7.0, 0.0]
    """
    stored = parts[PARTS[encoding][-1]]
    if encoding == "dense":
        return _restored(name, stored, shape, dtype).copy(), np.ones(shape, bool)
    positions = _bit_positions if encoding == "bitmask" else _row_positions
    kept = np.zeros(math.prod(shape), bool)
    kept[positions(name, parts, shape)] = True
    kept, num_kept = kept.reshape(shape), int(np.count_nonzero(kept))
    array = np.zeros(shape, dtype)
    array[kept] = _restored(name, stored, (num_kept,), dtype)
    return array, kept


def num_bytes(kept: np.ndarray, itemsize: int, encoding: str) -> int:
    """Counts the bytes of all parts that `encode` would make, by arithmetic.

    Example:
        >>> num_bytes(np.arange(9) < 2, 4, "bitmask"), num_bytes(np.arange(9) < 2, 4, "csr")
        (10, 12)
    """
    num_kept = int(np.count_nonzero(kept))
    if chosen_encoding(kept, encoding) == "dense":
        return kept.size * itemsize
    if encoding == "bitmask":
        return num_kept * itemsize + (kept.size + 7) // 8
    rows, columns = matrix_shape(kept.shape)
    column, pointer = smallest_unsigned(columns - 1), smallest_unsigned(num_kept)
    return num_kept * (itemsize + column.itemsize) + (rows + 1) * pointer.itemsize


def chosen_encoding(kept: np.ndarray, encoding: str) -> str:
    """Chooses the encoding of a leaf: `dense` where nothing is removed, else the one asked for."""
    return "dense" if kept.all() else encoding


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the rows and columns that csr sees in an array; a vector is one row.

    Example:
        >>> matrix_shape((3, 3, 16, 32)), matrix_shape((5,)), matrix_shape(())
        ((144, 32), (1, 5), (1, 1))
    """
    return math.prod(shape[:-1]), math.prod(shape[-1:])


def smallest_unsigned(largest: int) -> np.dtype:
    """Finds the smallest unsigned integer type that holds a number.

    Example:
        >>> smallest_unsigned(255), smallest_unsigned(256)
        (dtype('uint8'), dtype('uint16'))
    """
    return np.dtype(np.min_scalar_type(largest))


def _storable(array: np.ndarray) -> np.ndarray:
    if array.dtype in FILE_DTYPES.values():
        return array
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).reshape(*array.shape, array.dtype.itemsize)


def _restored(name: str, stored: np.ndarray, shape: Shape, dtype: np.dtype) -> np.ndarray:
    if dtype in FILE_DTYPES.values():
        _check(f"values of {name}", stored, dtype, shape)
        return stored
    _check(f"values of {name}", stored, np.dtype(np.uint8), (*shape, dtype.itemsize))
    return stored.reshape(-1).view(dtype).reshape(shape)


def _bit_positions(name: str, parts: Parts, shape: Shape) -> np.ndarray:
    size = math.prod(shape)
    _check(f"bits of {name}", parts["#bits"], np.dtype(np.uint8), ((size + 7) // 8,))
    return np.unpackbits(parts["#bits"], count=size).astype(bool)


def _row_positions(name: str, parts: Parts, shape: Shape) -> np.ndarray:
    rows, width = matrix_shape(shape)
    columns, pointers = parts["#columns"], parts["#rows"]
    _check(f"columns of {name}", columns, smallest_unsigned(width - 1), columns.shape[:1])
    _check(f"row pointers of {name}", pointers, smallest_unsigned(columns.size), (rows + 1,))
    # Unsigned differences never go below zero, they wrap.
    per_row = np.diff(pointers.astype(np.int64))
    whole = pointers[0] == 0 and pointers[-1] == columns.size and np.all(per_row >= 0)
    if whole and np.all(columns < width):
        flat = np.repeat(np.arange(rows) * width, per_row) + columns
        if np.all(np.diff(flat) > 0):
            return flat
    raise unexpected(f"rows of {name}", "damaged", "to be ascending indices in range", DAMAGED)


def _check(thing: str, stored: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    found, wanted = f"{stored.dtype}{list(stored.shape)}", f"{dtype}{list(shape)}"
    if found != wanted:
        raise unexpected(thing, found, f"to be {wanted}", DAMAGED)


def write_file(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> int:
    """Writes a safetensors file whole or not at all.

    Args:
        path: the file; an existing one is replaced.
        tensors: by name.
        metadata: what the file says of itself, beside its version, its writer and a checksum.

    Returns:
        Its size in bytes.

    Raises:
        InvalidInput: the path cannot be written.
    """
    # safetensors writes the memory as it lies, whatever the strides.
    ordered = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    written_by = f"earlyprune_jax {earlyprune_jax.__version__}"
    own = {"file_version": VERSION, "written_by": written_by, CHECKSUM: _checksum(ordered)}
    content = safetensors.numpy.save(ordered, {**metadata, **own})
    try:
        replace_file(pathlib.Path(path), content)
    except OSError as error:
        remedy = f"{error.strerror}. Give a file in an existing, writable directory."
        raise unexpected("path", str(path), "to be writable", remedy) from error
    return len(content)


def read_file(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the tensors of a file, read-only views of one buffer each, and its metadata.

    Raises:
        InvalidInput: no such file, not safetensors, truncated, damaged, or tensors of an unknown
            type.
    """
    try:
        content = pathlib.Path(path).read_bytes()
        entries = safetensors.deserialize(content)
    except OSError as error:
        remedy = f"{error.strerror}."
        raise unexpected("path", str(path), "to be a readable file", remedy) from error
    except safetensors.SafetensorError as error:
        remedy = f"It is something else, truncated or damaged: {error}."
        raise unexpected("path", str(path), "to be a whole safetensors file", remedy) from error
    allowed = f"to be one of {', '.join(FILE_DTYPES)}"
    types = {name: entry["dtype"] for name, entry in entries}
    refuse(
        expected(f"type of {name} in {path}", code, allowed)
        for name, code in types.items()
        if code not in FILE_DTYPES
    )
    tensors = {
        name: np.frombuffer(entry["data"], FILE_DTYPES[types[name]]).reshape(entry["shape"])
        for name, entry in entries
    }
    # The library gives no way to the metadata of bytes: 8 bytes of length, then the header as JSON.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header.get("__metadata__", {})
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


def check_format(path: Path, metadata: Mapping[str, str], file_format: str) -> None:
    """Refuses a file that says it has another format, or another version of this one.

    Args:
        path: the file.
        metadata: from `read_file`.
        file_format: `SPARSE` or `DENSE`.

    Raises:
        InvalidInput: with the remedy.
    """
    given, version = metadata.get("file_format"), metadata.get("file_version")
    if given != file_format:
        readers = {SPARSE: "Read it with load_sparse.", DENSE: "Read it with load_dense."}
        remedy = readers.get(str(given), "")
        raise unexpected(f"format of {path}", given, f"to be {file_format}", remedy)
    if version != VERSION:
        remedy = f"It was written by {metadata.get('written_by')}: read it with that version."
        raise unexpected(f"format version of {path}", version, f"to be {VERSION}", remedy)


def described_leaves(path: Path, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Maps every leaf of a sparse file to its shape, dtype and encoding, from the metadata.

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
        thing, text = f"metadata of {path}", metadata.get("tensors")
        raise unexpected(thing, text, "to describe leaves", DAMAGED) from error
