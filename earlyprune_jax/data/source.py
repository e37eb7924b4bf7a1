"""A data set in memory: pytrees of read-only NumPy arrays, one row per example, with a digest."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from earlyprune_jax.spec import DataSpec
from earlyprune_jax.validate import unexpected

SPLITS = ("train", "test")
"""What a source gives; a validation split is drawn from train."""


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A whole data set as its makers split it: no validation split, no subset yet.

    The outline of a source, known before its examples are read, holds `jax.ShapeDtypeStruct` in
    the place of arrays, but its labels.

    Attributes:
        train: pytree of arrays [N, ...]; of images {"images": uint8 [N, H, W, C], "labels": int32
            [N]}.
        test: likewise; the same structure, and the same shapes and types of an example.
        class_names: in the order of the labels, where the source knows them.

    Example:
        >>> rows = {"x": np.zeros((4, 3)), "y": np.arange(4.0)}
        >>> len(Source(rows, rows).digest())
        64
    """

    train: Any
    test: Any
    class_names: tuple[str, ...] | None = None

    def __post_init__(self):
        # One array serves trunk, forks and signals: an in-place change in one would reach all.
        _lock((self.train, self.test))

    @property
    def holds_images(self) -> bool:
        """Whether this is image classification: images and labels, nothing else."""
        return all(
            isinstance(split, dict) and split.keys() == {"images", "labels"}
            for split in (self.train, self.test)
        )

    def strata_of(self, split: str) -> np.ndarray:
        """Returns the stratum of every example of `train` or `test`: int [N], numbered from 0.

        Where both splits hold whole numbers `labels` [N], strata are those that occur, in ascending
        order; else there is one.
        """
        splits = (self.train, self.test)
        labels: list[Any] = [
            rows.get("labels") if isinstance(rows, dict) else None for rows in splits
        ]
        if not all(map(are_class_numbers, labels)):
            return np.zeros(num_examples(getattr(self, split)), np.int32)
        return np.unique(labels[SPLITS.index(split)], return_inverse=True)[1]

    def digest(self) -> str:
        """Returns the SHA-256 over every array, as hex: split, path, shape, dtype and bytes.

        Equal digests mean equal examples in equal order, in the same splits.

        Example:
            >>> dark, light = {"x": np.zeros(2)}, {"x": np.ones(2)}
            >>> Source(dark, light).digest() == Source(light, dark).digest()
            False
        """
        running = hashlib.sha256()
        for name, split in (("train", self.train), ("test", self.test)):
            for path, array in named_leaves(split).items():
                dtype = array.dtype
                if self.holds_images:  # as digests were before there were other data
                    path, dtype = "", array.dtype.str
                running.update(f"{name}{path} {array.shape} {dtype}".encode())
                running.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return running.hexdigest()


def are_class_numbers(labels: Any) -> bool:
    """Tells whether something is an array of whole numbers [N]."""
    return isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype.kind in "iu"


def num_examples(split: Any) -> int:
    """Returns the length of the leading axis."""
    return jax.tree.leaves(split)[0].shape[0]


def take(split: Any, rows: np.ndarray) -> Any:
    """Returns the rows (ascending, none twice) of every array, read-only; no copy if all."""
    if len(rows) == num_examples(split):
        return split
    return _lock(jax.tree.map(lambda array: array[rows], split))


def outline_of(split: Any, num: int) -> Any:
    """Returns the shapes and types of a split's arrays, with `num` examples."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((num, *leaf.shape[1:]), leaf.dtype), split
    )


def named_leaves(split: Any) -> dict[str, Any]:
    """Returns path -> leaf, in an order that depends on the paths alone.

    Example:
        >>> list(named_leaves({"b": np.zeros(1), "a": {"c": np.zeros(1)}}))
        ["['a']['c']", "['b']"]
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(split)
    return {jax.tree_util.keystr(path): leaf for path, leaf in flat}


def path_of(text: str) -> Path:
    """Returns a path that the user gives, with ~ expanded where there is such a home."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def path_behind(spec: DataSpec) -> Path:
    """Returns the path of `npz:PATH` and the like.

    Raises:
        InvalidInput: there is none.
    """
    prefix, _, path = spec.name.partition(":")
    if not path:
        allowed = f"to be {prefix}:PATH"
        raise unexpected("data.name", spec.name, allowed, "Put a path after the colon.")
    return path_of(path)


def _lock(arrays: Any) -> Any:
    for array in jax.tree.leaves(arrays):
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    return arrays
