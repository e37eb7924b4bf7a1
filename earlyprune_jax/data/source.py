"""A data set in memory: pytrees of read-only NumPy arrays, one row per example, with a digest."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

IMAGE_KEYS = ("images", "labels")


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A whole data set as its makers split it: no validation split, no subset yet.

    Attributes:
        train: pytree of arrays [N, ...]; of images {"images": uint8 [N, H, W, C], "labels": int32
            [N]}.
        test: likewise; the same structure, and the same shapes and types of an example.
        strata: split -> int [N] >= 0, which splits keep in proportion, e.g. the labels; None =
            plain random.
        class_names: of labelled sources whose classes have names.

    Example:
        >>> rows = {"x": np.zeros((4, 3)), "y": np.arange(4.0)}
        >>> len(Source(rows, rows).digest())
        64
    """

    train: Any
    test: Any
    strata: Mapping[str, np.ndarray] | None = None
    class_names: tuple[str, ...] | None = None

    def __post_init__(self):
        # One array serves trunk, forks and signals: an in-place change in one would reach all.
        for array in jax.tree.leaves((self.train, self.test)):
            array.setflags(write=False)

    @property
    def holds_images(self) -> bool:
        """Whether this is image classification: `train` is a dict of images and labels, nothing
        else."""
        return are_images(self.train)

    def strata_of(self, split: str) -> np.ndarray:
        """The stratum of every example of `train` or `test`; zeros where there are no strata."""
        if self.strata is None:
            return np.zeros(num_examples(getattr(self, split)), np.int32)
        return self.strata[split]

    def digest(self) -> str:
        """SHA-256 over every array, as hex: split, path, shape, dtype and bytes.

        Equal digests mean equal examples in equal order, in the same splits.

        Example:
            >>> dark, light = {"x": np.zeros(2)}, {"x": np.ones(2)}
            >>> Source(dark, light).digest() == Source(light, dark).digest()
            False
        """
        running = hashlib.sha256()
        for name, split in (("train", self.train), ("test", self.test)):
            if are_images(split):  # as digests were before there were other data
                leaves = [("", split[key], split[key].dtype.str) for key in IMAGE_KEYS]
            else:
                leaves = [(path, array, array.dtype) for path, array in named_leaves(split).items()]
            for path, array, dtype in leaves:
                running.update(f"{name}{path} {array.shape} {dtype}".encode())
                running.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return running.hexdigest()


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a source before its examples are read.

    Attributes:
        train: the training split's pytree of `jax.ShapeDtypeStruct`.
        test: likewise.
        counts: training examples of each stratum, of images of each class; (N,) without strata.
    """

    train: Any
    test: Any
    counts: tuple[int, ...]


def are_images(split: Any) -> bool:
    """Whether a split is {"images": ..., "labels": ...}."""
    return isinstance(split, dict) and set(split) == set(IMAGE_KEYS)


def image_source(
    train: dict[str, np.ndarray],
    test: dict[str, np.ndarray],
    class_names: tuple[str, ...] | None = None,
) -> Source:
    """A source of images, stratified by their labels.

    Args:
        train: {"images": uint8 [N, H, W, C], "labels": int32 [N]}.
        test: likewise.
        class_names: in the order of the labels, if known.
    """
    return Source(train, test, {"train": train["labels"], "test": test["labels"]}, class_names)


def image_facts(counts: tuple[int, ...], num_test: int, image_shape: tuple[int, ...]) -> Facts:
    """The facts of a source of images.

    Args:
        counts: training images of each class.
        num_test: number of test images.
        image_shape: (H, W, C).
    """
    one = {
        "images": jax.ShapeDtypeStruct((1, *image_shape), np.uint8),
        "labels": jax.ShapeDtypeStruct((1,), np.int32),
    }
    return Facts(resized(one, sum(counts)), resized(one, num_test), tuple(counts))


def facts_of(source: Source, num_strata: int = 0) -> Facts:
    """The facts of a source that has been read; strata of high numbers may have no examples."""

    def shapes(split):
        return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), split)

    counts = np.bincount(source.strata_of("train"), minlength=num_strata).tolist()
    return Facts(shapes(source.train), shapes(source.test), tuple(counts))


def num_examples(split: Any) -> int:
    """The length of the leading axis."""
    return jax.tree.leaves(split)[0].shape[0]


def take(split: Any, rows: np.ndarray) -> Any:
    """The rows (ascending, none twice) of every array, read-only; not copied where these are
    all."""
    if len(rows) == num_examples(split):
        return split
    taken = jax.tree.map(lambda array: array[rows], split)
    for array in jax.tree.leaves(taken):
        array.setflags(write=False)
    return taken


def resized(shapes: Any, num: int) -> Any:
    """Shapes with another number of examples."""
    return jax.tree.map(lambda one: jax.ShapeDtypeStruct((num, *one.shape[1:]), one.dtype), shapes)


def named_leaves(split: Any) -> dict[str, Any]:
    """Path -> leaf, in an order that depends on the paths alone.

    Example:
        >>> list(named_leaves({"b": np.zeros(1), "a": {"c": np.zeros(1)}}))
        ["['a']['c']", "['b']"]
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(split)
    return {jax.tree_util.keystr(path): leaf for path, leaf in flat}


def path_of(text: str) -> Path:
    """A path that the user gives, with ~ expanded where there is such a home."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)
