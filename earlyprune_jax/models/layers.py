"""The layers both network families are made of: convolution, batch norm, classifier.

Every network is built from `nn.Conv`, `nn.BatchNorm` and `nn.Dense` under stable names, so
that a selection by path or by rank works: modules whose names contain `conv` hold one 4-D
leaf `kernel` (HWIO), those with `norm` hold `scale` and `bias` (and `mean`, `var` among the
batch statistics), `classifier` holds a 2-D `kernel` (in, out) and a `bias`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn import initializers
from jax.nn.initializers import Initializer

from earlyprune_jax.array_types import Array, PRNGKey
from earlyprune_jax.validate import InvalidInput, expected

# Made once: modules are compared by their fields, and each call to variance_scaling is a new
# function. "normal" is not jax's he_normal, which is truncated at two standard deviations.
NORMAL_FAN_IN = initializers.variance_scaling(2.0, "fan_in", "normal")
"""N(0, 2 / fan_in), fan_in = k*k*in: torch's kaiming_normal_ with its defaults (He et al. 2015, Eq.
10)."""

NORMAL_FAN_OUT = initializers.variance_scaling(2.0, "fan_out", "normal")
"""N(0, 2 / fan_out), fan_out = k*k*out (He et al. 2015, Eq. 14)."""

UNIFORM_FAN_IN = initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""U(-b, b), b = 1 / sqrt(fan_in): what torch's Conv2d and Linear start from."""


def uniform_bias(fan_in: int) -> Initializer:
    """U(-b, b), b = 1 / sqrt(fan_in): torch's default for the bias of a layer with `fan_in`
    inputs."""

    def init(key: PRNGKey, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        bound = 1 / math.sqrt(fan_in)
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def conv(
    features: int, size: int, stride: int, kernel_init: Initializer, dtype: Any, name: str
) -> nn.Conv:
    """A size x size convolution without bias; (H, W) becomes (ceil(H / stride), ceil(W / stride)).

    The padding is symmetric, (size - 1) / 2 on every side, at every stride. (JAX's "SAME" pads
    an even image (0, 1) at stride 2 and samples other pixels than the published networks.)
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
    """Batch norm over (batch, height, width) per channel, epsilon 1e-5.

    In training it normalises with the batch's mean and biased variance and updates
    running = 0.9 * running + 0.1 * batch. The running variance averages the biased variance;
    torch averages the unbiased one, larger by n / (n - 1), n = batch * height * width
    (1.0001 at 128 * 8 * 8). Statistics are float32 whatever `dtype` is.
    """
    return nn.BatchNorm(
        use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name
    )


def pool_and_classify(x: Array, num_classes: int, kernel_init: Initializer) -> Array:
    """Mean over all pixels, then a dense layer: [B, H, W, C] -> logits [B, num_classes].

    Pooling and classifier compute in float32 at least: a bfloat16 logit near 10 would be off by up
    to 0.03.
    """
    pooled = x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean(axis=(1, 2))
    bias_init = uniform_bias(pooled.shape[-1])
    return nn.Dense(num_classes, kernel_init=kernel_init, bias_init=bias_init, name="classifier")(
        pooled
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
    if problems:
        raise InvalidInput(problems)
