"""Parameters and their mask in one safetensors file, without the removed values or with zeros.

An unstructured mask makes the file smaller, not the network faster: dense hardware multiplies
zeros at full price. What makes inference faster is `compact` for removed channels, which leaves
a smaller dense network, or a 2:4 pattern on hardware whose kernels use it.
"""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Mask, Params
from earlyprune_jax.pruning import masks
from earlyprune_jax.pruning.encodings import (
    DENSE,
    ENCODINGS,
    FILE_DTYPES,
    PARTS,
    SPARSE,
    Path,
    check_format,
    chosen_encoding,
    decode,
    described_leaves,
    encode,
    num_bytes,
    read_file,
    write_file,
)
from earlyprune_jax.pruning.trees import is_weight, named_leaves, path_name, refuse
from earlyprune_jax.validate import InvalidInput, expected, unknown_choice


@dataclasses.dataclass(frozen=True)
class SavedFile:
    """What was written.

    Attributes:
        bytes_on_disk: size of the file, header included.
        dense_bytes: what the same arrays take dense, without a header.
        encodings: path -> `dense`, `bitmask` or `csr`.
    """

    bytes_on_disk: int
    dense_bytes: int
    encodings: Mapping[str, str]


def save_sparse(path: Path, params: Params, mask: Mask, *, encoding: str = "bitmask") -> SavedFile:
    """Writes parameters and mask to a safetensors file that leaves the removed values out.

    The file is smaller; the network is not faster: dense hardware multiplies zeros at full price,
    and what is loaded again is dense. For speed see `compact` (channels) or 2:4 patterns.

    `bitmask` stores n/8 bytes for the mask of n entries, and the kept values. `csr` stores each
    leaf as compressed sparse rows of [product of leading axes, last axis]: the kept values in
    row-major order, their columns, and where each row starts, in the smallest unsigned types
    that fit. Leaves that lost nothing, integer arrays among them, are stored dense. Kept values
    come back bit for bit, -0.0, NaN payloads and subnormals included; removed ones as +0.0.

    Leaves that are no numeric arrays (functions, Python numbers, typed keys) are not stored. The
    file appears whole or not at all. Its metadata holds format, version, encoding, and for each
    path its shape, dtype and encoding.

    Args:
        path: the file; an existing one is replaced. Its directory must exist.
        params: any pytree.
        mask: bool leaves, True = kept.
        encoding: `bitmask` or `csr`.

    Returns:
        Size on disk, dense size, and the encoding of every stored leaf.

    Raises:
        InvalidInput: unknown encoding, a mask of another structure, two leaves of one name,
            arrays of strings or objects, a path that cannot be written.

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
    _check_encoding(encoding)
    arrays, kept = _checked(params, mask)
    parts = [
        (name + suffix, part)
        for name, array in arrays.items()
        for suffix, part in encode(array, kept[name], encoding).items()
    ]
    _refuse_duplicates([name for name, _ in parts])
    encodings = {name: chosen_encoding(kept[name], encoding) for name in arrays}
    return _saved(path, dict(parts), SPARSE, encoding, arrays, encodings)


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
    tensors, metadata = read_file(path)
    check_format(path, metadata, SPARSE)
    stored = described_leaves(path, metadata)
    problems = _differences(stored, like) or _part_differences(stored, tensors)
    arrays, kept = {}, {}
    for name, leaf in _stored_leaves(like) if not problems else ():
        encoding = stored[name]["encoding"]
        parts = {suffix: tensors[name + suffix] for suffix in PARTS[encoding]}
        try:
            arrays[name], kept[name] = decode(name, parts, leaf.shape, _native(leaf), encoding)
        except InvalidInput as damage:
            problems += damage.problems
    _refuse(path, problems)

    def mask_of(path: tuple[Any, ...], leaf: Any) -> Any:
        # Not through `masks.full`: it would allocate on the device what is replaced at once.
        keep = kept.get(path_name(path))
        return jnp.asarray(np.ones(np.shape(leaf), bool) if keep is None else keep)

    return _filled(like, arrays), jax.tree.map_with_path(mask_of, like)


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
        InvalidInput: as `save_sparse`, and for types safetensors lacks (complex numbers).

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
    arrays, kept = _checked(params, mask)
    refuse(
        expected(
            f"params at {name}", str(array.dtype), "of a type safetensors has", "Use save_sparse."
        )
        for name, array in arrays.items()
        if array.dtype not in FILE_DTYPES.values()
    )
    # Not a product with the mask: removed NaN must become zero.
    zeroed = {name: np.where(kept[name], a, np.zeros_like(a)) for name, a in arrays.items()}
    return _saved(path, zeroed, DENSE, "dense", arrays, dict.fromkeys(arrays, "dense"))


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
    tensors, metadata = read_file(path)
    if "file_format" in metadata:
        check_format(path, metadata, DENSE)
    stored = {n: {"shape": [*a.shape], "dtype": a.dtype.name} for n, a in tensors.items()}
    _refuse(path, _differences(stored, like))
    return _filled(like, {name: array.copy() for name, array in tensors.items()})


def encoded_bytes(params: Params, mask: Mask, encoding: str = "bitmask") -> int:
    """Counts the bytes of all tensors `save_sparse` would write; the file's header comes on top.

    The header takes some 250 bytes per leaf.

    Args:
        params: any pytree; shapes are enough.
        mask: bool leaves, True = kept.
        encoding: `bitmask` or `csr`.

    Returns:
        The number of bytes.

    Raises:
        InvalidInput: unknown encoding, a mask of another structure.

    Example:
        >>> encoded_bytes({"kernel": jnp.ones(16)}, {"kernel": jnp.arange(16) < 4})
        18
    """
    _check_encoding(encoding)
    masks.check(mask, params)
    kept = dict(named_leaves(mask))
    return sum(
        num_bytes(np.asarray(kept[name]), np.dtype(leaf.dtype).itemsize, encoding)
        for name, leaf in _stored_leaves(params)
    )


def _check_encoding(encoding: str) -> None:
    if encoding not in ENCODINGS:
        raise InvalidInput([unknown_choice("encoding", encoding, ENCODINGS)])


def _stored_leaves(tree: Params) -> list[tuple[str, Any]]:
    """Lists numeric arrays and shapes of such by name; a typed key's dtype is not NumPy's."""
    leaves = named_leaves(tree)
    return [named for named in leaves if isinstance(getattr(named[1], "dtype", None), np.dtype)]


def _checked(params: Params, mask: Mask) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Maps paths to arrays and to their masks, for what is stored, once both can be."""
    masks.check(mask, params)
    leaves, kept = _stored_leaves(params), dict(named_leaves(mask))
    _refuse_duplicates([name for name, _ in named_leaves(params)])
    problems = []
    for name, leaf in leaves:
        if np.dtype(leaf.dtype).kind in "OSUMm":
            thing, value = f"params at {name}", f"array of {leaf.dtype}"
            problems.append(expected(thing, value, "to hold numbers", "Take it out of the tree."))
    for name, leaf in named_leaves(params):
        if not is_weight(leaf) and not np.all(kept[name]):
            remedy = "The leaf holds no weights: nothing can be removed."
            problems.append(expected(f"mask at {name}", False, "to be True", remedy))
    refuse(problems)
    arrays = {name: np.asarray(leaf, _native(leaf)) for name, leaf in leaves}
    return arrays, {name: np.asarray(kept[name]) for name in arrays}


def _native(leaf: Any) -> np.dtype:
    """Returns a leaf's type in this machine's byte order, the only one JAX and the file know."""
    return np.dtype(leaf.dtype).newbyteorder("=")


def _refuse_duplicates(names: list[str]) -> None:
    # The first name is the header's own.
    repeated = [name for name, times in Counter(["__metadata__", *names]).items() if times > 1]
    remedy = "Rename a leaf: names in the file are the slash-joined paths."
    refuse(expected("name", name, "to name one leaf", remedy) for name in repeated)


def _refuse(path: Path, problems: list[str]) -> None:
    refuse(f"In {os.fspath(path)}: {problem}" for problem in problems)


def _differences(stored: Mapping[str, Mapping[str, Any]], like: Params) -> list[str]:
    """Finds what is missing, extra, or of another shape or type in a file, measured by `like`."""
    wanted = dict(_stored_leaves(like))
    _refuse_duplicates([name for name, _ in named_leaves(like)])
    missing, extra = wanted.keys() - stored.keys(), stored.keys() - wanted.keys()
    remedy = "Give `like` the structure that was saved."
    problems = [expected(name, "missing", "to be in the file", remedy) for name in missing]
    problems += [expected(name, "stored", "to be in `like` too", remedy) for name in extra]
    for name in wanted.keys() & stored.keys():
        leaf, given = wanted[name], f"{stored[name]['dtype']}{stored[name]['shape']}"
        allowed = f"{np.dtype(leaf.dtype).name}{[*leaf.shape]}"
        if given != allowed:
            problems.append(expected(name, given, f"to be {allowed}", remedy))
    return sorted(problems)


def _part_differences(
    stored: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, Any]
) -> list[str]:
    """Finds the tensors that the metadata promises and the file lacks, or the other way round."""
    parts = {name + suffix for name, leaf in stored.items() for suffix in PARTS[leaf["encoding"]]}
    different = sorted(parts ^ tensors.keys())
    allowed, remedy = "to be in the metadata and the file", "Save it again."
    return [expected(name, "", allowed, remedy) for name in different]


def _filled(like: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Fills the structure of `like` with arrays by name, of the kind that `like` has there."""

    def leaf_of(path: tuple[Any, ...], leaf: Any) -> Any:
        array = arrays.get(path_name(path))
        if array is None:
            return leaf
        held_by_jax = jax.dtypes.canonicalize_dtype(array.dtype) == array.dtype
        on_host = isinstance(leaf, np.ndarray | np.generic) or not held_by_jax
        return array if on_host else jnp.asarray(array)

    return jax.tree.map_with_path(leaf_of, like)


def _saved(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    file_format: str,
    encoding: str,
    arrays: Mapping[str, np.ndarray],
    encodings: Mapping[str, str],
) -> SavedFile:
    leaves = {
        name: {"encoding": encodings[name], "shape": [*array.shape], "dtype": array.dtype.name}
        for name, array in arrays.items()
    }
    metadata = {"file_format": file_format, "encoding": encoding, "tensors": json.dumps(leaves)}
    size = write_file(path, tensors, metadata)
    return SavedFile(size, sum(array.nbytes for array in arrays.values()), encodings)
