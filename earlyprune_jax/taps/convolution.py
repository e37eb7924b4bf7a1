"""What each entry of a convolution's kernel multiplies: shifted, strided views of the padded
input."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from earlyprune_jax.array_types import Array

BLOCK_CHANNELS = 48
"""Kernel positions share one product until it has so many rows; with fewer the product runs
slow."""

MAX_BLOCKS = 32


def convolution_operands(layer: Any, x: Array, cotangent: Array) -> tuple[tuple[Array, ...], Array]:
    """The operands of the kernel's gradient, by position of the output.

    kernel gradient[b, k, i, o] = sum_t view_k[b, t, i] cotangent[b, t, o], t over output pixels.

    Args:
        layer: an `nn.Conv`.
        x: [B, ..., *spatial, in].
        cotangent: [B, ..., *output spatial, out].

    Returns:
        Blocks [B, T, groups, (kernel positions of the block) * in / groups], ordered as the kernel
        is; the cotangents [B, T, groups, out / groups].
    """
    rank = len(_per_axis(layer.kernel_size, None))
    num_examples, groups = x.shape[0], layer.feature_group_count
    flat = x.reshape(-1, *x.shape[-rank - 1 :])
    spatial = cotangent.shape[-rank - 1 : -1]
    views = [
        view.reshape(num_examples, -1, groups, x.shape[-1] // groups)
        for view in _views(layer, flat, spatial)
    ]
    together = max(1, BLOCK_CHANNELS // views[0].shape[-1], math.ceil(len(views) / MAX_BLOCKS))
    blocks = tuple(
        _joined(views[start : start + together]) for start in range(0, len(views), together)
    )
    return blocks, cotangent.reshape(num_examples, -1, groups, cotangent.shape[-1] // groups)


def _joined(views: Sequence[Array]) -> Array:
    return views[0] if len(views) == 1 else jnp.concatenate(views, axis=-1)


def _views(layer: Any, x: Array, spatial: tuple[int, ...]) -> list[Array]:
    """For every kernel position, the pixels it meets: [batch, *spatial, in]."""
    size = _per_axis(layer.kernel_size, None)
    strides, dilation = (
        _per_axis(value, len(size)) for value in (layer.strides, layer.kernel_dilation)
    )
    padded = _padded(layer, x)
    views = []
    for position in itertools.product(*(range(length) for length in size)):
        starts = [place * step for place, step in zip(position, dilation, strict=True)]
        limits = [
            start + (length - 1) * stride + 1
            for start, length, stride in zip(starts, spatial, strides, strict=True)
        ]
        ends = (x.shape[0], *limits, x.shape[-1])
        views.append(jax.lax.slice(padded, (0, *starts, 0), ends, (1, *strides, 1)))
    return views


def _padded(layer: Any, x: Array) -> Array:
    """The input as the kernel sweeps over it: dilated and padded."""
    size = _per_axis(layer.kernel_size, None)
    rank = len(size)
    dilation, kernel_dilation, strides = (
        _per_axis(value, rank)
        for value in (layer.input_dilation, layer.kernel_dilation, layer.strides)
    )
    window = [(length - 1) * step + 1 for length, step in zip(size, kernel_dilation, strict=True)]
    if layer.padding in ("CIRCULAR", "REFLECT"):
        around = [(0, 0), *(((length - 1) // 2, length // 2) for length in window), (0, 0)]
        return jnp.pad(x, around, mode="wrap" if layer.padding == "CIRCULAR" else "reflect")
    if layer.padding == "CAUSAL":
        pads = [(window[0] - 1, 0)]
    elif isinstance(layer.padding, str):
        pads = jax.lax.padtype_to_pads(x.shape[1:-1], window, strides, layer.padding)
    else:
        pads = [
            (pad, pad) if isinstance(pad, int) else tuple(pad)
            for pad in _per_axis(layer.padding, rank)
        ]
    inner = [(low, high, step - 1) for (low, high), step in zip(pads, dilation, strict=True)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *inner, (0, 0, 0)])


def _per_axis(value: Any, rank: int | None) -> tuple[Any, ...]:
    """One value for every spatial axis; Linen takes one number, or None for 1."""
    if hasattr(value, "__iter__"):
        return tuple(value)
    return (1 if value is None else value,) * (rank or 1)
