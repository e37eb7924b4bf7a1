"""Residual networks for small images: one network, of which each published one is a `Family`.

He et al., "Deep Residual Learning for Image Recognition", 2015 (section 4.2 for CIFAR), in the
two forms public code has trained: three stages with parameter-free shortcuts
(akamaster/pytorch_resnet_cifar10) and ResNet-18 with a 3x3 stem (kuangliu/pytorch-cifar).

He et al., "Identity Mappings in Deep Residual Networks", 2016, as public pruning code has them
(Eric-mingjie/rethinking-network-pruning and YefanZhou/ThreeRegimePruning): pre-activation, a bare
3x3 stem, and, where shape changes, one strided 1x1 convolution on the block's raw input as
shortcut.

Every network is built from `nn.Conv`, `nn.BatchNorm` and `nn.Dense` under stable names, so
that a selection by path or by rank works: modules whose names contain `conv` hold one 4-D
leaf `kernel` (HWIO), those with `norm` hold `scale` and `bias` (and `mean`, `var` among the
batch statistics), `classifier` holds a 2-D `kernel` (in, out) and a `bias`.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers
from jax.nn.initializers import Initializer

from earlyprune_jax.array_types import Array, PRNGKey, accurate
from earlyprune_jax.validate import expected, refuse

EXPANSION = 4
"""A bottleneck block puts out this many times the channels of its 3x3 convolution."""


@dataclasses.dataclass(frozen=True)
class VarianceScaling:
    """An initialiser: `jax.nn.initializers.variance_scaling` with these options.

    Unlike JAX's, two with equal options are equal, as modules are compared by their fields; and it
    pickles, so that modules do.
    """

    scale: float
    mode: str
    distribution: str

    def __call__(self, *args: Any, **options: Any) -> Array:
        """Draws an array, as any initialiser."""
        made: Any = initializers.variance_scaling
        return made(self.scale, self.mode, self.distribution)(*args, **options)


# "normal" is not jax's he_normal, which is truncated at two standard deviations.
NORMAL_FAN_IN = VarianceScaling(2.0, "fan_in", "normal")
"""N(0, 2 / fan_in), fan_in = k*k*in: torch's kaiming_normal_ with its defaults (He et al. 2015, Eq.
10)."""

NORMAL_FAN_OUT = VarianceScaling(2.0, "fan_out", "normal")
"""N(0, 2 / fan_out), fan_out = k*k*out (He et al. 2015, Eq. 14)."""

UNIFORM_FAN_IN = VarianceScaling(1 / 3, "fan_in", "uniform")
"""U(-b, b), b = 1 / sqrt(fan_in): what torch's Conv2d and Linear start from."""


def uniform_bias(fan_in: int) -> Initializer:
    """Makes U(-b, b), b = 1 / sqrt(fan_in), torch's default for the bias of a layer."""

    def init(key: PRNGKey, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        bound = 1 / math.sqrt(fan_in)
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def conv(
    features: int, size: int, stride: int, kernel_init: Initializer, dtype: Any, name: str
) -> nn.Conv:
    """Makes a size x size convolution without bias: (H, W) -> (ceil(H / stride), ceil(W / stride)).

    The padding is symmetric, (size - 1) / 2 on every side, at every stride. (JAX's "SAME" pads
    an even image (0, 1) at stride 2 and samples other pixels than the published networks.)

    Args:
        features: channels out.
        size: height and width of the kernel, odd.
        stride: in pixels, along both axes.
        kernel_init: initialiser of the kernel, HWIO.
        dtype: compute type.
        name: of the module.

    Returns:
        A module [B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), features].
    """
    pad = (size - 1) // 2
    return nn.Conv(
        features,
        (size, size),
        strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        use_bias=False,
        kernel_init=kernel_init,
        dtype=dtype,
        name=name,
    )


def norm(train: bool, dtype: Any, name: str) -> nn.BatchNorm:
    """Makes a batch norm over (batch, height, width) per channel, epsilon 1e-5.

    In training it normalises with the batch's mean and biased variance and updates
    running = 0.9 * running + 0.1 * batch. The running variance averages the biased variance;
    torch averages the unbiased one, larger by n / (n - 1), n = batch * height * width
    (1.0001 at 128 * 8 * 8). Statistics are float32 whatever `dtype` is.

    Args:
        train: whether the batch's statistics are used and the running ones updated.
        dtype: compute type.
        name: of the module.

    Returns:
        A module [B, H, W, C] -> [B, H, W, C].
    """
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name
    )


def require_images(images: Array) -> None:
    """Refuses what a network would silently misread.

    nn.Conv takes a 3-D array for one image without a batch axis, and raw bytes train, badly.

    Raises:
        InvalidInput: `images` are not a float array of shape [batch, height, width, channels].
    """
    problems = []
    if images.ndim != 4:
        allowed = "to have the four axes [batch, height, width, channels]"
        problems.append(expected("images.shape", images.shape, allowed, "Add the missing axis."))
    if not jnp.issubdtype(images.dtype, jnp.floating):
        remedy = "Scale to [0, 1], then normalise with mean and std."
        problems.append(expected("images.dtype", str(images.dtype), "to be a float type", remedy))
    refuse(problems)


def pad_shortcut(x: Array, features: int, stride: int) -> Array:
    """Computes the parameter-free shortcut ("option A"): every stride-th pixel, new channels zero.

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


@dataclasses.dataclass(frozen=True)
class Family:
    """What networks of different depths and widths have in common.

    Attributes:
        pre_activation: norm and relu before each convolution and at the network's end; else after
            each convolution and after the stem.
        shortcut: where shape changes: `pad` (see `pad_shortcut`), `conv` (1x1), or `conv_norm`.
        kernel_init: initialiser of the convolutions.
        classifier_init: initialiser of the classifier's kernel.
        bottleneck: blocks of 1x1, 3x3 and 1x1 convolutions, EXPANSION times wider at their ends;
            else of two 3x3 ones.
    """

    pre_activation: bool
    shortcut: str
    kernel_init: Initializer
    classifier_init: Initializer
    bottleneck: bool = False


class Block(nn.Module):
    """Adds a shortcut to two convolutions, or to three with a bottleneck.

    Post-activation: relu(norm2(conv2(relu(norm1(conv1(x))))) + shortcut(x)). Pre-activation:
    shortcut(x) + conv2(relu(norm2(conv1(relu(norm1(x)))))).

    Attributes:
        features: channels of the 3x3 convolutions.
        stride: of the first of them.
        family: the kind of block.
        dtype: compute type.
    """

    features: int
    stride: int
    family: Family
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        # (channels out, kernel size, stride) of each convolution.
        layers = [(self.features, 3, self.stride), (self.features, 3, 1)]
        if self.family.bottleneck:
            layers = [(self.features, 1, 1), layers[0], (EXPANSION * self.features, 1, 1)]
        shortcut = self._shortcut(x, layers[-1][0], train)
        pre_activation = self.family.pre_activation
        for index, (features, size, stride) in enumerate(layers, start=1):
            normalise = norm(train, self.dtype, f"norm{index}")
            convolve = conv(
                features, size, stride, self.family.kernel_init, self.dtype, f"conv{index}"
            )
            x = convolve(nn.relu(normalise(x))) if pre_activation else normalise(convolve(x))
            if not pre_activation and index < len(layers):
                x = nn.relu(x)
        return x + shortcut if pre_activation else nn.relu(x + shortcut)

    def _shortcut(self, x: Array, features: int, train: bool) -> Array:
        if self.stride == 1 and x.shape[-1] == features:
            return x
        if self.family.shortcut == "pad":
            return pad_shortcut(x, features, self.stride)
        x = conv(features, 1, self.stride, self.family.kernel_init, self.dtype, "shortcut_conv")(x)
        if self.family.shortcut == "conv":
            return x
        return norm(train, self.dtype, "shortcut_norm")(x)


class ResNet(nn.Module):
    """Stem, stages of residual blocks, global mean, classifier.

    images [B, H, W, C], normalised -> logits [B, num_classes], float32. Any size from 1x1 on:
    every stage but the first halves height and width, rounding up.

    Attributes:
        num_classes: number of logits.
        widths: channels of each stage's 3x3 convolutions; the stem has those of the first.
        blocks_per_stage: blocks in each stage.
        family: the kind of blocks, shortcuts and initialisers.
        dtype: compute type of the layers; parameters, statistics and logits are float32.
    """

    num_classes: int
    widths: tuple[int, ...]
    blocks_per_stage: int
    family: Family
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> Array:
        require_images(images)
        pre_activation = self.family.pre_activation
        x = conv(self.widths[0], 3, 1, self.family.kernel_init, self.dtype, "stem_conv")(images)
        if not pre_activation:
            x = nn.relu(norm(train, self.dtype, "stem_norm")(x))
        for stage, width in enumerate(self.widths, start=1):
            for block in range(self.blocks_per_stage):
                stride = 2 if stage > 1 and block == 0 else 1
                name = f"stage{stage}_block{block}"
                x = Block(width, stride, self.family, self.dtype, name=name)(x, train=train)
        if pre_activation:
            x = nn.relu(norm(train, self.dtype, "final_norm")(x))
        # In float32 at least: a bfloat16 logit near 10 would be off by up to 0.03.
        pooled = x.astype(accurate(x.dtype)).mean(axis=(1, 2))
        kernel_init, bias_init = self.family.classifier_init, uniform_bias(pooled.shape[-1])
        return nn.Dense(
            self.num_classes, kernel_init=kernel_init, bias_init=bias_init, name="classifier"
        )(pooled)
