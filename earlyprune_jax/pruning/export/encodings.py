"""How one masked array becomes a few dense ones, smaller together, and back, bit for bit.

`bitmask` packs the mask to one bit an entry and lists the kept values; `csr` is compressed sparse
rows of the array reshaped to [product of the leading axes, last axis]. An array that lost nothing
is `dense`. Beside the values, a bitmask costs 1 bit an entry, and rows cost 8 bits a kept entry (16
where the last axis is longer than 256): csr is the smaller one where less than about 1/8 (1/16) is
kept.
"""

import math
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from earlyprune_jax.validate import unexpected

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
    """The parts of an array: suffix of the name -> what is stored under it.

    Values of a type the file format lacks (complex numbers, 4-bit integers) are stored as their
    bytes, with one more axis.

    Args:
        array: of any fixed-size type.
        kept: bool, of the array's shape; where False the value is not stored.
        encoding: `bitmask` or `csr`; ignored where nothing is removed.

    Example:
        >>> parts = encode(np.array([[0.5, 0], [0, 2]]), np.array([[True, False], [False, True]]), "csr")
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


def decode(
    name: str,
    parts: Mapping[str, np.ndarray],
    shape: tuple[int, ...],
    dtype: np.dtype,
    encoding: str,
) -> tuple[np.ndarray, np.ndarray]:
    """The array with +0.0 where removed, and its mask, from the parts `encode` made.

    Args:
        name: path of the leaf, for errors.
        parts: suffix -> stored array, with every suffix of PARTS[encoding].
        shape: of the array.
        dtype: of the array.
        encoding: `dense`, `bitmask` or `csr`.

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
        array, kept = _restored(name, stored, shape, dtype), np.ones(shape, bool)
        return array.copy(), kept
    positions = _bit_positions if encoding == "bitmask" else _row_positions
    kept = np.zeros(math.prod(shape), bool)
    kept[positions(name, parts, shape)] = True
    array = np.zeros(shape, dtype)
    array[kept.reshape(shape)] = _restored(name, stored, (int(np.count_nonzero(kept)),), dtype)
    return array, kept.reshape(shape)


def num_bytes(kept: np.ndarray, itemsize: int, encoding: str) -> int:
    """The bytes of all parts that `encode` would make, by arithmetic.

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
    """The encoding a leaf gets: `dense` where nothing is removed, else the one asked for."""
    return "dense" if kept.all() else encoding


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """The rows and columns that compressed sparse rows see in an array; a vector is one row.

    Example:
        >>> matrix_shape((3, 3, 16, 32)), matrix_shape((5,)), matrix_shape(())
        ((144, 32), (1, 5), (1, 1))
    """
    return math.prod(shape[:-1]), math.prod(shape[-1:])


def smallest_unsigned(largest: int) -> np.dtype:
    """The smallest unsigned integer type that holds a number.

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


def _restored(name: str, stored: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    as_bytes = dtype not in FILE_DTYPES.values()
    _check(
        f"values of {name}",
        stored,
        np.dtype(np.uint8) if as_bytes else dtype,
        (*shape, dtype.itemsize) if as_bytes else shape,
    )
    return stored.reshape(-1).view(dtype).reshape(shape) if as_bytes else stored


def _bit_positions(
    name: str, parts: Mapping[str, np.ndarray], shape: tuple[int, ...]
) -> np.ndarray:
    size = math.prod(shape)
    _check(f"bits of {name}", parts["#bits"], np.dtype(np.uint8), ((size + 7) // 8,))
    return np.unpackbits(parts["#bits"], count=size).astype(bool)


def _row_positions(
    name: str, parts: Mapping[str, np.ndarray], shape: tuple[int, ...]
) -> np.ndarray:
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
    remedy = "The file is damaged: save it again."
    raise unexpected(f"rows of {name}", "damaged", "to be ascending indices in range", remedy)


def _check(thing: str, stored: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    found, wanted = f"{stored.dtype}{list(stored.shape)}", f"{dtype}{list(shape)}"
    if found != wanted:
        raise unexpected(thing, found, f"to be {wanted}", "The file is damaged: save it again.")
