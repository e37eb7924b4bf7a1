"""Image classification data in memory: plain NumPy arrays, read-only, with a digest."""

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images of one split and their labels, row for row.

    Attributes:
        images: uint8 [N, H, W, C], 0 to 255, channels last.
        labels: int32 [N], in [0, num_classes).

    Example:
        >>> split = Split(np.zeros((4, 8, 8, 1), np.uint8), np.arange(4, dtype=np.int32))
        >>> len(split), split.take(np.array([1, 3])).labels.tolist()
        (4, [1, 3])
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        # One array serves trunk, forks and signals: an in-place change in one would reach all.
        self.images.setflags(write=False)
        self.labels.setflags(write=False)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Split":
        """The rows at `indices`, copied, in that order."""
        return Split(self.images[indices], self.labels[indices])


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """What a run sees: the training images it may use, those it chooses on, those it reports on.

    `validation` is None where no images are held out; it shares no image with `train`.
    Arrays are read-only.
    """

    name: str
    num_classes: int
    train: Split
    validation: Split | None
    test: Split
    class_names: tuple[str, ...] | None = None

    def digest(self) -> str:
        """SHA-256 over every array: name of the split, shape, dtype and bytes.

        Equal digests mean equal images and labels in equal order, in the same splits.

        Returns:
            64 hex digits.

        Example:
            >>> dark = Split(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, np.int32))
            >>> light = Split(dark.images + np.uint8(255), dark.labels)
            >>> Dataset("a", 2, dark, None, light).digest() == Dataset("a", 2, light, None, dark).digest()
            False
        """
        return _digest({name: getattr(self, name) for name in ("train", "validation", "test")})


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How many images each split has; image_shape is (H, W, C)."""

    num_train: int
    num_validation: int
    num_test: int
    image_shape: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a source before its images are read.

    Attributes:
        class_counts: training images of each class, before any split, length num_classes.
        num_test: number of test images.
        image_shape: (H, W, C).
    """

    class_counts: tuple[int, ...]
    num_test: int
    image_shape: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Source:
    """A whole data set as its makers split it: no validation split, no subset yet."""

    train: Split
    test: Split
    class_names: tuple[str, ...] | None = None

    def digest(self) -> str:
        """SHA-256 over every array, as `Dataset.digest`: of the source, whatever is drawn from it."""
        return _digest({"train": self.train, "test": self.test})


def _digest(splits: Mapping[str, Split | None]) -> str:
    running = hashlib.sha256()
    for name, split in splits.items():
        for array in () if split is None else (split.images, split.labels):
            running.update(f"{name} {array.shape} {array.dtype.str}".encode())
            running.update(np.ascontiguousarray(array).data)
    return running.hexdigest()
