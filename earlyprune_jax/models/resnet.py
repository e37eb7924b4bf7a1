"""Post-activation residual networks for small images.

He et al., "Deep Residual Learning for Image Recognition", 2015 (section 4.2 for CIFAR), in the
two forms public code has trained: three stages with parameter-free shortcuts
(akamaster/pytorch_resnet_cifar10) and ResNet-18 with a 3x3 stem (kuangliu/pytorch-cifar).
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from earlyprune_jax.array_types import Array
from earlyprune_jax.models.layers import Initializer, conv, norm, pool_and_classify, require_images


def pad_shortcut(x: Array, features: int, stride: int) -> Array:
    """The parameter-free shortcut ("option A"): every stride-th pixel, new channels zero.

    [B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), features]. The features - C zero
    channels are split evenly to both sides, the odd one behind; where widths double that is a
    quarter of the new width on each side.

    Args:
        x: activations, C <= features.
        features: channels of the result.
        stride: distance in pixels between samples; the first row and column are kept.

    Returns:
        The padded activations, in the type of `x`.

    Example:
        >>> pad_shortcut(jnp.ones((1, 3, 3, 1)), 4, 2)[0, 0, 0].tolist()
        [0.0, 1.0, 0.0, 0.0]
        >>> pad_shortcut(jnp.ones((1, 3, 3, 1)), 4, 2).shape
        (1, 2, 2, 4)
    """
    missing = features - x.shape[-1]
    channels = (missing // 2, missing - missing // 2)
    return jnp.pad(x[:, ::stride, ::stride, :], ((0, 0), (0, 0), (0, 0), channels))


class BasicBlock(nn.Module):
    """relu(norm2(conv2(relu(norm1(conv1(x))))) + shortcut(x)), both convolutions 3x3."""

    features: int
    stride: int
    conv_shortcut: bool
    kernel_init: Initializer
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        shortcut = self._shortcut(x, train)
        x = conv(self.features, 3, self.stride, self.kernel_init, self.dtype, "conv1")(x)
        x = nn.relu(norm(train, self.dtype, "norm1")(x))
        x = conv(self.features, 3, 1, self.kernel_init, self.dtype, "conv2")(x)
        return nn.relu(norm(train, self.dtype, "norm2")(x) + shortcut)

    def _shortcut(self, x: Array, train: bool) -> Array:
        if self.stride == 1 and x.shape[-1] == self.features:
            return x
        if not self.conv_shortcut:
            return pad_shortcut(x, self.features, self.stride)
        x = conv(self.features, 1, self.stride, self.kernel_init, self.dtype, "shortcut_conv")(x)
        return norm(train, self.dtype, "shortcut_norm")(x)


class ResNet(nn.Module):
    """Stem, stages of basic blocks, global mean, classifier.

    images [B, H, W, C], normalised -> logits [B, num_classes], float32. Any size from 1x1 on:
    every stage but the first halves height and width, rounding up.

    Attributes:
        num_classes: number of logits.
        widths: channels of each stage; the stem has those of the first.
        blocks_per_stage: basic blocks in each stage.
        conv_shortcut: where shape changes, a 1x1 convolution and norm; else `pad_shortcut`.
        kernel_init: initialiser of every kernel, the classifier's included.
        dtype: compute type of the layers; parameters, statistics and logits are float32.
    """

    num_classes: int
    widths: tuple[int, ...]
    blocks_per_stage: int
    conv_shortcut: bool
    kernel_init: Initializer
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        require_images(images)
        x = conv(self.widths[0], 3, 1, self.kernel_init, self.dtype, "stem_conv")(images)
        x = nn.relu(norm(train, self.dtype, "stem_norm")(x))
        for stage, width in enumerate(self.widths, start=1):
            for block in range(self.blocks_per_stage):
                stride = 2 if stage > 1 and block == 0 else 1
                x = BasicBlock(
                    width, stride, self.conv_shortcut, self.kernel_init, self.dtype,
                    name=f"stage{stage}_block{block}",
                )(x, train=train)  # fmt: skip
        return pool_and_classify(x, self.num_classes, self.kernel_init)
