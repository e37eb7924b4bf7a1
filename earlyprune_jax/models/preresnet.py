"""Pre-activation residual networks for small images.

He et al., "Identity Mappings in Deep Residual Networks", 2016, as public pruning code has them
(Eric-mingjie/rethinking-network-pruning and YefanZhou/ThreeRegimePruning): a bare 3x3 stem,
and, where shape changes, one strided 1x1 convolution on the block's raw input as shortcut.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from earlyprune_jax.array_types import Array
from earlyprune_jax.models.layers import (
    NORMAL_FAN_OUT,
    UNIFORM_FAN_IN,
    conv,
    norm,
    pool_and_classify,
    require_images,
)

EXPANSION = 4
"""A bottleneck block puts out this many times the channels of its 3x3 convolution."""


class PreActivationBlock(nn.Module):
    """shortcut(x) + conv_k(relu(norm_k(...conv_1(relu(norm_1(x)))))), k = 2, or 3 with a
    bottleneck.

    Without: two 3x3 convolutions of `features` channels, the first strided. With: 1x1, strided
    3x3, and 1x1 to EXPANSION * features channels.
    """

    features: int
    stride: int
    bottleneck: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        layers = self._convolutions()
        features_out = layers[-1][0]
        shortcut = x
        if self.stride != 1 or x.shape[-1] != features_out:
            shortcut = conv(
                features_out, 1, self.stride, NORMAL_FAN_OUT, self.dtype, "shortcut_conv"
            )(x)
        for index, (features, size, stride) in enumerate(layers, start=1):
            x = nn.relu(norm(train, self.dtype, f"norm{index}")(x))
            x = conv(features, size, stride, NORMAL_FAN_OUT, self.dtype, f"conv{index}")(x)
        return x + shortcut

    def _convolutions(self) -> list[tuple[int, int, int]]:
        """(channels out, kernel size, stride) of each convolution on the residual path."""
        if not self.bottleneck:
            return [(self.features, 3, self.stride), (self.features, 3, 1)]
        return [
            (self.features, 1, 1),
            (self.features, 3, self.stride),
            (EXPANSION * self.features, 1, 1),
        ]


class PreResNet(nn.Module):
    """Bare stem, stages of pre-activation blocks, norm and relu, global mean, classifier.

    images [B, H, W, C], normalised -> logits [B, num_classes], float32. Any size from 1x1 on:
    every stage but the first halves height and width, rounding up.

    Attributes:
        num_classes: number of logits.
        widths: channels of each stage's 3x3 convolutions; the stem has those of the first.
        blocks_per_stage: blocks in each stage.
        bottleneck: bottleneck blocks, EXPANSION times wider at their ends; else basic ones.
        dtype: compute type of the layers; parameters, statistics and logits are float32.
    """

    num_classes: int
    widths: tuple[int, ...]
    blocks_per_stage: int
    bottleneck: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        require_images(images)
        x = conv(self.widths[0], 3, 1, NORMAL_FAN_OUT, self.dtype, "stem_conv")(images)
        for stage, width in enumerate(self.widths, start=1):
            for block in range(self.blocks_per_stage):
                stride = 2 if stage > 1 and block == 0 else 1
                x = PreActivationBlock(
                    width, stride, self.bottleneck, self.dtype, name=f"stage{stage}_block{block}"
                )(x, train=train)
        x = nn.relu(norm(train, self.dtype, "final_norm")(x))
        return pool_and_classify(x, self.num_classes, UNIFORM_FAN_IN)
