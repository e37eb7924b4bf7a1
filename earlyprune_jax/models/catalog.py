"""Networks by name: what each name means, and how it becomes a module."""

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from earlyprune_jax import validate
from earlyprune_jax.models.layers import NORMAL_FAN_IN, UNIFORM_FAN_IN
from earlyprune_jax.models.preresnet import PreResNet
from earlyprune_jax.models.resnet import ResNet
from earlyprune_jax.validate import InvalidInput, expected

PRERESNET_DEPTHS = (20, 38, 44, 56, 110)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a name fixes: the module's class, its shape options, its widths at a multiplier of 1."""

    module_class: type[ResNet] | type[PreResNet]
    options: Mapping[str, Any]
    widths: tuple[int, ...]

    def make(
        self, *, num_classes: int, widths: tuple[int, ...], dtype: Any = jnp.float32
    ) -> nn.Module:
        """The module, of the given sizes."""
        return self.module_class(
            num_classes=num_classes, widths=widths, dtype=dtype, **self.options
        )


def _option_a(depth: int) -> Architecture:
    # Two convolutions a block, three stages, stem and classifier: depth = 6 n + 2.
    blocks = (depth - 2) // 6
    options = {"blocks_per_stage": blocks, "conv_shortcut": False, "kernel_init": NORMAL_FAN_IN}
    return Architecture(ResNet, options, (16, 32, 64))


def _resnet18() -> Architecture:
    options = {"blocks_per_stage": 2, "conv_shortcut": True, "kernel_init": UNIFORM_FAN_IN}
    return Architecture(ResNet, options, (64, 128, 256, 512))


def _preresnet(depth: int, divisor: int, bottleneck: bool) -> Architecture:
    # The published codes divide by 6 or by 9 whatever the block is; the name's depth is nominal.
    options = {"blocks_per_stage": (depth - 2) // divisor, "bottleneck": bottleneck}
    return Architecture(PreResNet, options, (16, 32, 64))


ARCHITECTURES: dict[str, Architecture] = {
    **{f"resnet{d}": _option_a(d) for d in (8, 14)},
    "resnet18": _resnet18(),
    **{f"resnet{d}": _option_a(d) for d in (20, 32, 44, 56, 110)},
    **{f"preresnet{d}": _preresnet(d, 6, False) for d in (8, 14, *PRERESNET_DEPTHS)},
    **{f"preresnet{d}_rethinking": _preresnet(d, 9, d >= 44) for d in PRERESNET_DEPTHS},
    **{f"preresnet{d}_lottery": _preresnet(d, 6, d >= 44) for d in PRERESNET_DEPTHS},
}


def names() -> tuple[str, ...]:
    """The names `build` knows.

    Example:
        >>> names()[:3]
        ('resnet8', 'resnet14', 'resnet18')
    """
    return tuple(ARCHITECTURES)


def check(name: str) -> list[str]:
    """The problems of a model name, none if `build` knows it.

    Example:
        >>> check("resnet20")
        []
        >>> check("resnet202")[0].split(". ")[1]
        "Did you mean 'resnet20'?"
    """
    return [] if name in ARCHITECTURES else [validate.unknown_choice("model.name", name, names())]


def build(
    name: str, *, num_classes: int, width_multiplier: float = 1.0, dtype: Any = jnp.float32
) -> nn.Module:
    """The network called `name`, as a Linen module without parameters.

    `module.init(key, images, train=False)` makes {"params", "batch_stats"}, initialised as the
    published code does; `module.apply(variables, images, train=...)` maps normalised images
    [B, H, W, C] to logits [B, num_classes], float32 unless computed in float64. With train=True,
    batch norm uses the batch's statistics and needs mutable=["batch_stats"]. Parameters and
    statistics are float32.
    Equal arguments give equal modules (one compilation when passed to jit as static).

    Names: resnet8/14/20/32/44/56/110, 3 stages of 16, 32, 64 channels, (depth - 2) / 6 blocks
    each, parameter-free shortcuts; resnet18, 4 stages of 64 ... 512, two blocks each, 1x1
    shortcuts; preresnet8/14/20/38/44/56/110, (depth - 2) // 6 basic pre-activation blocks a stage.
    "PreResNet-44" and deeper mean other networks in related code: `preresnetD_lottery` has
    bottlenecks from depth 44, `preresnetD_rethinking` also (depth - 2) // 9 blocks a stage.

    Args:
        name: one of `names()`.
        num_classes: number of logits, at least 2.
        width_multiplier: every layer's channels c become max(1, floor(c * width_multiplier + 1/2)).
        dtype: compute type of the layers: float32, bfloat16, or (where JAX has x64 enabled)
            float64, which SynFlow wants of deep networks. Pooling, classifier and logits are
            float32 at least.

    Returns:
        A module; hashable, comparable.

    Raises:
        InvalidInput: with every problem of the arguments.

    Example:
        >>> import jax
        >>> module = build("resnet20", num_classes=10)
        >>> images = jnp.zeros((1, 32, 32, 3))
        >>> shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))
        >>> sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        269722
    """
    problems = check(name) + _argument_problems(num_classes, width_multiplier, dtype)
    if problems:
        raise InvalidInput(problems)
    widths = scaled(ARCHITECTURES[name].widths, width_multiplier)
    return ARCHITECTURES[name].make(
        num_classes=int(num_classes), widths=widths, dtype=jnp.dtype(dtype)
    )


def scaled(widths: Sequence[int], multiplier: float) -> tuple[int, ...]:
    """Each width times the multiplier, rounded half up, at least 1.

    Example:
        >>> scaled((16, 32, 64), 0.05)
        (1, 2, 3)
    """
    return tuple(max(1, math.floor(width * multiplier + 0.5)) for width in widths)


def _argument_problems(num_classes: Any, width_multiplier: Any, dtype: Any) -> list[str]:
    problems = []
    if not _is_a(numbers.Integral, num_classes) or num_classes < 2:
        problems.append(expected("num_classes", num_classes, "to be an integer of at least 2"))
    allowed = "to be a number"
    if _is_a(numbers.Real, width_multiplier):
        allowed = validate.within(0, open_low=True)(width_multiplier)
    if allowed:
        problems.append(expected("model.width_multiplier", width_multiplier, allowed))
    if not _is_compute_type(dtype):
        problems.append(expected("dtype", dtype, "to be float32, bfloat16 or float64"))
    return problems


def _is_a(kind: type, value: Any) -> bool:
    # bool is an int to Python; as a count or a factor it is a mistake.
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_compute_type(dtype: Any) -> bool:
    try:
        # NumPy takes None for float64.
        return dtype is not None and jnp.dtype(dtype).name in ("float32", "bfloat16", "float64")
    except TypeError:
        return False
