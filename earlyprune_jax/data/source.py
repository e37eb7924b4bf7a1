"""A data set in memory: pytrees of read-only NumPy arrays, one row per example, with a digest."""

import dataclasses
import hashlib
import os.path
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from earlyprune_jax.spec_sections import DataSpec
from earlyprune_jax.validate import unexpected

SPLITS = ("train", "test")
"""What every source gives. Where it brings no validation split, that is drawn from train."""


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A whole data set as its makers split it: nothing is drawn yet.

    The outline of a source, known before its examples are read, holds `jax.ShapeDtypeStruct` in
    the place of arrays, but its labels.

    Attributes:
        train: pytree of arrays [N, ...]; of images {"images": uint8 [N, H, W, C], "labels": int32
            [N]}.
        test: likewise; the same structure, and the same shapes and types of an example.
        class_names: in the order of the labels, where the source knows them.
        validation: the makers' own validation split, like the others; None = there is none, and
            `split` draws one from train.
        assets: name -> bytes: what is needed besides weights to use a trained network.
        remarks: what `usage` says besides, such as what was left out.

    Example:
        >>> rows = {"x": np.zeros((4, 3)), "y": np.arange(4.0)}
        >>> len(Source(rows, rows).digest())
        64
    """

    train: Any
    test: Any
    class_names: tuple[str, ...] | None = None
    validation: Any = None
    assets: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def __post_init__(self):
        # One array serves trunk, forks and signals: an in-place change in one would reach all.
        _lock(self.splits)

    @property
    def splits(self) -> dict[str, Any]:
        """Returns split -> its rows: train, test, and validation if the source brings it."""
        given = {"train": self.train, "test": self.test, "validation": self.validation}
        return {name: rows for name, rows in given.items() if rows is not None}

    @property
    def holds_images(self) -> bool:
        """Tells whether this is image classification: images and labels, nothing else."""
        return all(
            isinstance(split, dict) and split.keys() == {"images", "labels"}
            for split in self.splits.values()
        )

    def strata_of(self, split: str) -> np.ndarray:
        """Returns the stratum of every example of a split: int [N], numbered from 0.

        Where all splits hold whole numbers `labels` [N], strata are those that occur, in ascending
        order; else there is one.
        """
        if not self.has_classes:
            return np.zeros(num_examples(self.splits[split]), np.int32)
        return np.unique(self.splits[split]["labels"], return_inverse=True)[1]

    @property
    def has_classes(self) -> bool:
        """Tells whether all splits hold whole numbers `labels` [N]."""
        return all(
            isinstance(rows, dict) and are_class_numbers(rows.get("labels"))
            for rows in self.splits.values()
        )

    def classes_of(self, split: str) -> list[int]:
        """Lists the labels that occur in a split, ascending; none without classes."""
        rows = self.splits[split]
        return np.unique(rows["labels"]).tolist() if self.has_classes else []

    def digest(self) -> str:
        """Returns the SHA-256 over every array, as hex: split, path, shape, dtype and bytes; and
        over the assets.

        Equal digests mean equal examples in equal order, in the same splits, and equal assets.

        Example:
            >>> dark, light = {"x": np.zeros(2)}, {"x": np.ones(2)}
            >>> Source(dark, light).digest() == Source(light, dark).digest()
            False
        """
        running = hashlib.sha256()
        for name, split in self.splits.items():
            for path, array in named_leaves(split).items():
                dtype = array.dtype
                if self.holds_images:  # as digests were before there were other data
                    path, dtype = "", array.dtype.str
                running.update(f"{name}{path} {array.shape} {dtype}".encode())
                running.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        for name, content in sorted(self.assets.items()):
            running.update(f"asset {name} {len(content)}".encode())
            running.update(content)
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


def _lock(arrays: Any) -> Any:
    for array in jax.tree.leaves(arrays):
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    return arrays


def path_of(text: str) -> Path:
    """Returns a path that the user gives, with ~ expanded where there is such a home."""
    return Path(os.path.expanduser(text))  # noqa: PTH111, Path's own raises without a home


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
