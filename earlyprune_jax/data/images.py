"""What is computed of images, and what happens to a batch of them on the device, inside jit."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from earlyprune_jax.array_types import Array, PRNGKey
from earlyprune_jax.data.source import Source
from earlyprune_jax.spec_sections import DataSpec


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
        >>> spec = DataSpec("mine:load", "", 2, 1.0, 0.0, 1.0, 0, 0, False, (), ())
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
