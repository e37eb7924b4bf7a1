"""What happens to a batch of uint8 images on the device, inside jit."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from earlyprune_jax.array_types import Array, PRNGKey


def augment(key: PRNGKey, images: Array, *, crop_padding: int, horizontal_flip: bool) -> Array:
    """Random crop after zero padding, then a random horizontal flip, example by example.

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
        images = _random_crop(crop_key, images, crop_padding)
    if horizontal_flip:
        is_flipped = jax.random.bernoulli(flip_key, 0.5, (len(images), 1, 1, 1))
        images = jnp.where(is_flipped, images[:, :, ::-1], images)
    return images


def _random_crop(key: PRNGKey, images: Array, padding: int) -> Array:
    num_images, *shape = images.shape
    offsets = jax.random.randint(key, (num_images, 2), 0, 2 * padding + 1)
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    def cut(image: Array, offset: Array) -> Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), shape)

    return jax.vmap(cut)(padded, offsets)


def normalize(
    images: Array, mean: Sequence[float], std: Sequence[float], dtype: DTypeLike = jnp.float32
) -> Array:
    """(images / 255 - mean) / std, per channel.

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
