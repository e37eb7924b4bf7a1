"""What is computed of images, and what happens to a batch of them on the device, inside jit."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from earlyprune_jax.array_types import Array, PRNGKey
from earlyprune_jax.data.source import Source
from earlyprune_jax.spec_sections import DataSpec

_AT_ONCE = 5_000
"""Images that are averaged at once."""
_LAST_BITS = 1e-4
"""Added before rounding: a sum of 1/9 nine times is a little less than 1."""


def augment(key: PRNGKey, images: Array, *, crop_padding: int, horizontal_flip: bool) -> Array:
    """Crops at random after zero padding, then flips at random, example by example.

    With p = crop_padding, each image is padded by p zeros on every side and an [H, W]
    window is cut at an offset drawn uniformly from {0 .. 2p} x {0 .. 2p}; then it is
    mirrored left to right with probability 1/2. The zeros are black pixels: they are put
    in before `normalize`.

    A pure function of (key, images): the same key gives the same batch, so a resumed run
    sees the images of an uninterrupted one. Switching one transformation off leaves the
    draws of the other as they were. With both off the images come back untouched.

    Args:
        key: one key for the batch.
        images: [B, H, W, C], any dtype.
        crop_padding: p in pixels; 0 = no crop. Static.
        horizontal_flip: whether to flip. Static.

    Returns:
        [B, H, W, C], of the dtype of `images`.

    Source: paper A's training recipe (crop of 32 from 40 by 40, flip).

    Example:
        >>> images = jnp.arange(2 * 8 * 8, dtype=jnp.uint8).reshape(2, 8, 8, 1)
        >>> out = augment(jax.random.PRNGKey(0), images, crop_padding=1, horizontal_flip=True)
        >>> out.shape, out.dtype
        ((2, 8, 8, 1), dtype('uint8'))
    """
    crop_key, flip_key = jax.random.split(key)
    if crop_padding:
        num_images, *shape = images.shape
        offsets = jax.random.randint(crop_key, (num_images, 2), 0, 2 * crop_padding + 1)
        border = (crop_padding, crop_padding)
        padded = jnp.pad(images, ((0, 0), border, border, (0, 0)))

        def cut(image: Array, offset: Array) -> Array:
            return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), shape)

        images = jax.vmap(cut)(padded, offsets)
    if horizontal_flip:
        is_flipped = jax.random.bernoulli(flip_key, 0.5, (len(images), 1, 1, 1))
        images = jnp.where(is_flipped, images[:, :, ::-1], images)
    return images


def shrunk(source: Source, size: int) -> Source:
    """Averages square images down to fewer pixels, by area: what a pixel of the result covers.

    Args:
        source: of images, or its outline.
        size: pixels of a side, S; 0 = as they are.

    Returns:
        A source of uint8 images [N, S, S, C], means rounded to the nearest, halves up; the same
        source where images are no larger, or not square.

    Source: the box filter of Chrabaszcz et al., "A Downsampled Variant of ImageNet" (2017).

    Example:
        >>> images = np.array([[0, 2, 9, 9], [4, 7, 9, 9], [1, 1, 0, 0], [1, 1, 0, 0]], np.uint8)
        >>> rows = {"images": images.reshape(1, 4, 4, 1), "labels": np.array([0])}
        >>> shrunk(Source(rows, rows), 2).train["images"].reshape(2, 2).tolist()
        [[3, 9], [1, 0]]
    """
    height, width, _ = source.train["images"].shape[1:]
    if not size or height != width or size >= height:
        return source
    starts, pixels = np.arange(size) * height / size, np.arange(height)
    # [size, height]: the part of a new pixel that lies in each old one.
    ends = starts + height / size
    covered = np.minimum(ends[:, None], pixels + 1) - np.maximum(starts[:, None], pixels)
    weights = (np.maximum(covered, 0.0) * size / height).astype(np.float32)

    def made(images: Any) -> Any:
        shape = (images.shape[0], size, size, images.shape[3])
        if not isinstance(images, np.ndarray):
            return jax.ShapeDtypeStruct(shape, images.dtype)
        averaged = np.empty(shape, np.uint8)
        for start in range(0, len(images), _AT_ONCE):
            part = images[start : start + _AT_ONCE].astype(np.float32)
            means = np.einsum("ah,bw,nhwc->nabc", weights, weights, part, optimize=True)
            averaged[start : start + _AT_ONCE] = np.floor(means + np.float32(0.5 + _LAST_BITS))
        return averaged

    splits = {
        name: {**rows, "images": made(rows["images"])} for name, rows in source.splits.items()
    }
    return dataclasses.replace(source, **splits)


def normalize(
    images: Array, mean: Sequence[float], std: Sequence[float], dtype: DTypeLike = jnp.float32
) -> Array:
    """Computes (images / 255 - mean) / std, per channel.

    Computed in float32 and cast last, so that bfloat16 rounds once.

    Args:
        images: uint8 [..., C].
        mean: C numbers, of images scaled to [0, 1].
        std: C numbers > 0, likewise.
        dtype: of the result.

    Returns:
        [..., C] of `dtype`.

    Example:
        >>> normalize(jnp.full((1, 1, 1, 1), 255, jnp.uint8), (0.5,), (0.25,)).item()
        2.0
    """
    per_channel = (1,) * (images.ndim - 1) + (-1,)
    centre = jnp.asarray(mean, jnp.float32).reshape(per_channel)
    scale = jnp.asarray(std, jnp.float32).reshape(per_channel)
    return ((images.astype(jnp.float32) / 255 - centre) / scale).astype(dtype)


def normalisation(source: Source, spec: DataSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Computes the mean and standard deviation per channel that `normalize` takes.

    Where `spec` gives () they are those of all training images of the source, scaled to [0, 1]:
    over images and pixels, population standard deviation. They do not depend on the split or the
    subset. A channel of one value everywhere has the standard deviation 1: normalised, it is 0.

    Args:
        source: of `read`.
        spec: the data section.

    Returns:
        (mean, std), a number per channel each; ((), ()) where the source holds no images.

    Example:
        >>> images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
        >>> rows = {"images": images, "labels": np.array([0, 1])}
        >>> spec = DataSpec("mine:load", "", 2, 1.0, 0.0, 1.0, 0, 0, 0, False, (), ())
        >>> normalisation(Source(rows, rows), spec)
        ((0.5,), (0.5,))
    """
    if not source.holds_images or (spec.mean and spec.std):
        return tuple(spec.mean), tuple(spec.std)
    images = source.train["images"]
    num = images.size // images.shape[-1]
    # Whole numbers, so exact; einsum makes no copy of the images.
    sums = images.sum((0, 1, 2), dtype=np.int64).tolist()
    squares = np.einsum("nhwc,nhwc->c", images, images, dtype=np.int64).tolist()
    mean = tuple(total / (255 * num) for total in sums)
    deviations = [num * square - total**2 for total, square in zip(sums, squares, strict=True)]
    std = tuple(math.sqrt(value) / (255 * num) or 1.0 for value in deviations)
    return tuple(spec.mean) or mean, tuple(spec.std) or std
