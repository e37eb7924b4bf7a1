"""Parameters and their mask in one safetensors file, without the removed values or with zeros.

An unstructured mask makes the file smaller, not the network faster: dense hardware multiplies
zeros at full price. What makes inference faster is `compact` for removed channels, which leaves
a smaller dense network, or a 2:4 pattern on hardware whose kernels use it.
"""

import collections
import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

import earlyprune_jax
from earlyprune_jax.array_types import Mask, Params
from earlyprune_jax.pruning import masks
from earlyprune_jax.pruning.trees import is_weight, named_leaves, path_name, refuse, repeated_paths
from earlyprune_jax.storage import replace_file
from earlyprune_jax.validate import expected, unexpected

Path = str | os.PathLike[str]
Arrays = dict[str, np.ndarray]

SPARSE, DENSE = "earlyprune_jax/sparse", "earlyprune_jax/dense"
VERSION = "1"
CHECKSUM = "sha256"
DAMAGED = "The file is damaged: save it again."

PARTS = {"dense": ("",), "bitmask": ("#bits", "#values")}
"""What the parts of a leaf append to its name, by its encoding."""

FILE_DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64"),
)
"""The types every safetensors reader of the last years knows."""


@dataclasses.dataclass(frozen=True, repr=False)
class SavedFile:
    """What was written; `print` counts it.

    Attributes:
        bytes_on_disk: size of the file, header included.
        dense_bytes: what the same arrays take dense, without a header.
        encodings: path -> `dense` or `bitmask`.

    Example:
        >>> SavedFile(1250, 4000, {"kernel": "bitmask", "bias": "dense"})
        SavedFile: 1,250 bytes, 4,000 dense; leaves: 1 bitmask, 1 dense
    """

    bytes_on_disk: int
    dense_bytes: int
    encodings: Mapping[str, str]

    def __repr__(self) -> str:
        kinds = sorted(collections.Counter(self.encodings.values()).items())
        leaves = ", ".join(f"{count} {kind}" for kind, count in kinds)
        sizes = f"{self.bytes_on_disk:,} bytes, {self.dense_bytes:,} dense"
        return f"{type(self).__name__}: {sizes}; leaves: {leaves}"


def save_sparse(path: Path, params: Params, mask: Mask) -> SavedFile:
    """Writes parameters and mask to a safetensors file that leaves the removed values out.

    The file is smaller; the network is not faster: dense hardware multiplies zeros at full price,
    and what is loaded again is dense. For speed see `compact` (channels) or 2:4 patterns.

    A leaf of n entries takes n/8 bytes for its mask, and its kept values in row-major order.
    Leaves that lost nothing, integer arrays among them, are stored dense. Kept values come back
    bit for bit, -0.0, NaN payloads and subnormals included; removed ones as +0.0.

    Leaves that are no numeric arrays (functions, Python numbers, typed keys) are not stored. The
    file appears whole or not at all. Its metadata holds format, version, and for each path its
    shape, dtype and encoding.

    Args:
        path: the file; an existing one is replaced. Its directory must exist.
        params: any pytree.
        mask: bool leaves, True = kept.

    Returns:
        Size on disk, dense size, and the encoding of every stored leaf.

    Raises:
        InvalidInput: a mask of another structure, two leaves of one name, arrays of a type that
            safetensors lacks (strings, objects, complex or 8-bit floating-point numbers), a path
            that cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "pruned.safetensors"
        >>> params = {"kernel": jnp.array([[0.5, 1.0], [2.0, 3.0]]), "bias": jnp.ones(2)}
        >>> keep = jnp.array([[True, False], [False, False]])
        >>> mask = {"kernel": keep, "bias": jnp.array([True, True])}
        >>> dict(save_sparse(file, params, mask).encodings)
        {'bias': 'dense', 'kernel': 'bitmask'}
        >>> load_sparse(file, params)[0]["kernel"].tolist()
        [[0.5, 0.0], [0.0, 0.0]]
    """
    arrays, kept = _storable(params, mask)
    parts = []
    for name, array in arrays.items():
        keep = kept[name]
        split = [np.packbits(keep), array[keep]]
        of_leaf = [("", array)] if keep.all() else zip(PARTS["bitmask"], split, strict=True)
        parts += [(name + part, content) for part, content in of_leaf]
    return _write(path, parts, SPARSE, arrays)


def load_sparse(path: Path, like: Params) -> tuple[Params, Mask]:
    """Reads what `save_sparse` wrote.

    Args:
        path: the file.
        like: the structure to fill, with the shapes and dtypes that must be in the file; its
            values do not matter, `jax.ShapeDtypeStruct` leaves will do. Leaves that are no
            numeric arrays are taken over from it.

    Returns:
        (params, mask): kept values bit for bit, removed ones +0.0. Leaves are NumPy arrays where
        those of `like` are, or where JAX without x64 cannot hold their type; else JAX arrays.

    Raises:
        InvalidInput: not such a file, truncated, damaged or of another version; and every leaf
            that is missing, extra or of another shape or dtype.

    Example: see `save_sparse`.
    """
    tensors, metadata = _read(path, SPARSE)
    try:
        leaves = json.loads(metadata["tensors"])
        stored = {n: f"{leaf['dtype']}{[*leaf['shape']]}" for n, leaf in leaves.items()}
        parts = {n + part for n, leaf in leaves.items() for part in PARTS[leaf["encoding"]]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        thing, text = f"metadata of {path}", metadata.get("tensors")
        raise unexpected(thing, text, "to describe leaves", DAMAGED) from error
    problems = _differences(stored, like) or [
        expected(name, "", "to be in the metadata and the file", DAMAGED)
        for name in sorted(parts ^ tensors.keys())
    ]
    _refuse(path, problems)
    arrays, kept = {}, {}
    for name, leaf in _stored_leaves(like):
        if leaves[name]["encoding"] == "dense":
            keep = np.ones(leaf.shape, bool)
            values = tensors[name].reshape(-1)
        else:
            bits, values = (tensors[name + part] for part in PARTS["bitmask"])
            size = math.prod(leaf.shape)
            problems += _part_problems(f"bits of {name}", bits, np.dtype(np.uint8), -(-size // 8))
            keep = np.unpackbits(bits.astype(np.uint8), count=size).astype(bool).reshape(leaf.shape)
        num_kept = int(np.count_nonzero(keep))
        problems += _part_problems(f"values of {name}", values, _native(leaf), num_kept)
        _refuse(path, problems)
        arrays[name], kept[name] = np.zeros(leaf.shape, values.dtype), keep
        arrays[name][keep] = values

    mask = jax.tree.map_with_path(
        lambda path, leaf: jnp.asarray(kept.get(path_name(path), np.ones(np.shape(leaf), bool))),
        like,
    )
    return _filled(like, arrays), mask


def save_dense(path: Path, params: Params, mask: Mask) -> SavedFile:
    """Writes parameters to a safetensors file with zeros where the mask removes: readable by
    anyone.

    Tensors have the leaves' paths as names, e.g. `stage1_block0/conv1/kernel`. Takes as much disk
    as the dense network and runs no faster than it. The mask is not stored: a kept weight that
    is zero looks like a removed one.

    Args:
        path: the file; an existing one is replaced. Its directory must exist.
        params: any pytree; leaves that are no numeric arrays are not stored.
        mask: bool leaves, True = kept.

    Returns:
        Size on disk, dense size, and the encoding of every stored leaf.

    Raises:
        InvalidInput: as `save_sparse`.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "pruned.safetensors"
        >>> mask = {"kernel": jnp.array([True, False])}
        >>> save_dense(file, {"kernel": jnp.array([1.0, 2.0])}, mask).dense_bytes
        8
        >>> import safetensors.numpy
        >>> safetensors.numpy.load_file(file)["kernel"].tolist()
        [1.0, 0.0]
    """
    arrays, kept = _storable(params, mask)
    # Not a product with the mask: removed NaN must become zero.
    zeroed = [(name, np.where(kept[name], a, np.zeros_like(a))) for name, a in arrays.items()]
    return _write(path, zeroed, DENSE, arrays)


def load_dense(path: Path, like: Params) -> Params:
    """Reads a safetensors file whose tensor names are the paths of `like`, whoever wrote it.

    Args:
        path: the file.
        like: as in `load_sparse`.

    Returns:
        The structure of `like`, filled.

    Raises:
        InvalidInput: as `load_sparse`.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "other.safetensors"
        >>> import safetensors.numpy
        >>> safetensors.numpy.save_file({"kernel": np.ones(2, np.float32)}, file)
        >>> load_dense(file, {"kernel": jnp.zeros(2), "act": len})
        {'act': <built-in function len>, 'kernel': Array([1., 1.], dtype=float32)}
    """
    tensors, _ = _read(path, DENSE)
    stored = {name: f"{array.dtype.name}{[*array.shape]}" for name, array in tensors.items()}
    _refuse(path, _differences(stored, like))
    return _filled(like, tensors)


def _stored_leaves(tree: Params) -> list[tuple[str, Any]]:
    """Lists numeric arrays and shapes of such by name; a typed key's dtype is not NumPy's."""
    leaves = named_leaves(tree)
    return [named for named in leaves if isinstance(getattr(named[1], "dtype", None), np.dtype)]


def _native(leaf: Any) -> np.dtype:
    """Returns a leaf's type in this machine's byte order, the only one JAX and the file know."""
    return np.dtype(leaf.dtype).newbyteorder("=")


def _storable(params: Params, mask: Mask) -> tuple[Arrays, Arrays]:
    """Maps paths to arrays and to their masks, for what is stored, once both can be."""
    masks.check(mask, params)
    leaves, kept = _stored_leaves(params), dict(named_leaves(mask))
    problems = repeated_paths(params)
    for name, leaf in leaves:
        if _native(leaf).name not in FILE_DTYPES:
            thing, value = f"params at {name}", f"array of {leaf.dtype}"
            problems.append(expected(thing, value, "of a type safetensors has", "Convert it."))
    for name, leaf in named_leaves(params):
        if not is_weight(leaf) and not np.all(kept[name]):
            remedy = "The leaf holds no weights: nothing can be removed."
            problems.append(expected(f"mask at {name}", False, "to be True", remedy))
    refuse(problems)
    arrays = {name: np.asarray(leaf, _native(leaf)) for name, leaf in leaves}
    return arrays, {name: np.asarray(kept[name]) for name in arrays}


def _refuse(path: Path, problems: list[str]) -> None:
    refuse(f"In {os.fspath(path)}: {problem}" for problem in problems)


def _part_problems(thing: str, part: np.ndarray, dtype: np.dtype, size: int) -> list[str]:
    """Finds the problem of a part of a leaf that is not a vector of the wanted type and size."""
    given, wanted = f"{part.dtype}{[*part.shape]}", f"{dtype}{[size]}"
    return [] if given == wanted else [expected(thing, given, f"to be {wanted}", DAMAGED)]


def _differences(stored: Mapping[str, str], like: Params) -> list[str]:
    """Finds what is missing, extra, or of another shape or type in a file, measured by `like`."""
    wanted = {n: f"{np.dtype(leaf.dtype).name}{[*leaf.shape]}" for n, leaf in _stored_leaves(like)}
    refuse(repeated_paths(like))
    remedy = "Give `like` the structure that was saved."
    different = sorted(n for n in wanted.keys() | stored.keys() if stored.get(n) != wanted.get(n))
    pairs = [(n, stored.get(n, "missing"), wanted.get(n, "absent")) for n in different]
    return [expected(n, given, f"to be {want}, as in `like`", remedy) for n, given, want in pairs]


def _filled(like: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Fills the structure of `like` with arrays by name, of the kind that `like` has there."""

    def leaf_of(path: tuple[Any, ...], leaf: Any) -> Any:
        array = arrays.get(path_name(path))
        if array is None:
            return leaf
        fits_jax = jax.dtypes.canonicalize_dtype(array.dtype) == array.dtype
        on_host = isinstance(leaf, np.ndarray | np.generic) or not fits_jax
        return array if on_host else jnp.asarray(array)

    return jax.tree.map_with_path(leaf_of, like)


def _write(
    path: Path, tensors: list[tuple[str, np.ndarray]], file_format: str, arrays: Arrays
) -> SavedFile:
    """Writes a safetensors file whole or not at all.

    Args:
        path: the file; an existing one is replaced.
        tensors: (name, tensor); names of the leaves, and of parts of them.
        file_format: `SPARSE` or `DENSE`.
        arrays: the whole leaves, which the metadata describes.

    Raises:
        InvalidInput: two tensors of one name, or a path that cannot be written.
        StorageError: the disk is full, or fails.
    """
    # The first name is the header's own.
    names = ["__metadata__", *(name for name, _ in tensors)]
    remedy = "Rename a leaf: names in the file are the slash-joined paths."
    repeated = [name for name in names if names.count(name) > 1]
    refuse(expected("name", name, "to name one leaf", remedy) for name in repeated)
    # safetensors writes the memory as it lies, whatever the strides.
    ordered = {name: np.asarray(tensor, order="C") for name, tensor in tensors}
    encodings = {name: "dense" if name in ordered else "bitmask" for name in arrays}
    leaves = {
        name: {"encoding": encodings[name], "shape": [*array.shape], "dtype": array.dtype.name}
        for name, array in arrays.items()
    }
    metadata = {
        "file_format": file_format,
        "file_version": VERSION,
        "written_by": f"earlyprune_jax {earlyprune_jax.__version__}",
        "tensors": json.dumps(leaves),
        CHECKSUM: _checksum(ordered),
    }
    content = safetensors.numpy.save(ordered, metadata)
    file = pathlib.Path(path)
    flaws = {
        "Is a directory": file.is_dir(),
        "No such file or directory": not file.parent.exists(),
        "Not a directory": not file.parent.is_dir(),
    }
    if why := next((flaw for flaw, is_there in flaws.items() if is_there), ""):
        remedy = f"{why}. Give a file in an existing, writable directory."
        raise unexpected("path", str(path), "to be writable", remedy)
    replace_file(file, content)
    return SavedFile(len(content), sum(array.nbytes for array in arrays.values()), encodings)


def _read(path: Path, file_format: str) -> tuple[Arrays, dict[str, str]]:
    """Reads the tensors of a file and its metadata.

    Raises:
        InvalidInput: no such file, not safetensors, truncated, damaged, another format (a `DENSE`
            file need not say its own) or another version of it.
    """
    if (given := pathlib.Path(path)).exists() and not given.is_file():
        raise unexpected("path", str(path), "to be a readable file", "It is a folder, or a pipe.")
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise unexpected("path", str(path), "to be a readable file", f"{error}.") from error
    except safetensors.SafetensorError as error:
        remedy = f"It is something else, truncated or damaged: {error}."
        raise unexpected("path", str(path), "to be a whole safetensors file", remedy) from error
    if metadata.get(CHECKSUM, digest := _checksum(tensors)) != digest:
        remedy = "Its numbers changed after it was written: save it again, or take another copy."
        raise unexpected(f"{CHECKSUM} of {path}", digest, f"to be {metadata[CHECKSUM]}", remedy)
    given, version = metadata.get("file_format"), metadata.get("file_version")
    if given != file_format and (given is not None or file_format != DENSE):
        readers = {SPARSE: "Read it with load_sparse.", DENSE: "Read it with load_dense."}
        remedy = readers.get(str(given), "")
        raise unexpected(f"format of {path}", given, f"to be {file_format}", remedy)
    if given is not None and version != VERSION:
        remedy = f"It was written by {metadata.get('written_by')}: read it with that version."
        raise unexpected(f"format version of {path}", version, f"to be {VERSION}", remedy)
    return tensors, metadata


def _checksum(tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()
