"""Networks by name or by reference: what each name means, and how it becomes a module.

A further network is an entry of `ARCHITECTURES`; a further family, of another block, a `Family`.
"""

import contextlib
import functools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from earlyprune_jax import references, validate
from earlyprune_jax.models.resnet import (
    NORMAL_FAN_IN,
    NORMAL_FAN_OUT,
    UNIFORM_FAN_IN,
    Family,
    ResNet,
)
from earlyprune_jax.pruning.scores.weights import count_problems
from earlyprune_jax.validate import InvalidInput, expected, refuse, unexpected

KEY = "model.name"
_OPTION_A = Family(False, "pad", NORMAL_FAN_IN, NORMAL_FAN_IN)
_RESNET18 = Family(False, "conv_norm", UNIFORM_FAN_IN, UNIFORM_FAN_IN)
_PRERESNET = Family(True, "conv", NORMAL_FAN_OUT, UNIFORM_FAN_IN)
_BOTTLENECK = Family(True, "conv", NORMAL_FAN_OUT, UNIFORM_FAN_IN, bottleneck=True)
_DEPTHS = (20, 38, 44, 56, 110)


def _by_depth(depth: int, family: Family, divisor: int = 6) -> dict[str, Any]:
    # Two convolutions a block, three stages, stem and classifier: depth = 6 n + 2. The published
    # codes divide by 6 or by 9 whatever the block is; the depth in such a name is nominal.
    blocks = (depth - 2) // divisor
    return {"family": family, "blocks_per_stage": blocks, "widths": (16, 32, 64)}


ARCHITECTURES: dict[str, dict[str, Any]] = {
    **{f"resnet{d}": _by_depth(d, _OPTION_A) for d in (8, 14)},
    "resnet18": {"family": _RESNET18, "blocks_per_stage": 2, "widths": (64, 128, 256, 512)},
    **{f"resnet{d}": _by_depth(d, _OPTION_A) for d in (20, 32, 44, 56, 110)},
    **{f"preresnet{d}": _by_depth(d, _PRERESNET) for d in (8, 14, *_DEPTHS)},
    **{
        f"preresnet{d}_rethinking": _by_depth(d, _BOTTLENECK if d >= 44 else _PRERESNET, 9)
        for d in _DEPTHS
    },
    **{
        f"preresnet{d}_lottery": _by_depth(d, _BOTTLENECK if d >= 44 else _PRERESNET)
        for d in _DEPTHS
    },
}
"""What a name fixes: arguments of `ResNet`, widths at a multiplier of 1."""


def names() -> tuple[str, ...]:
    """Returns the names `build` knows.

    Example:
        >>> names()[:3]
        ('resnet8', 'resnet14', 'resnet18')
    """
    return tuple(ARCHITECTURES)


def check(name: str) -> list[str]:
    """Lists the problems of a model name, none if `build` knows it.

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
    """Makes the network called `name`, a Linen module without parameters.

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
    refuse(check(name) + _argument_problems(num_classes, width_multiplier, dtype))
    options = dict(ARCHITECTURES[name])
    widths = scaled(options.pop("widths"), width_multiplier)
    return ResNet(int(num_classes), widths, dtype=jnp.dtype(dtype), **options)


def factory(name: str, *, width_multiplier: float = 1.0) -> Callable[..., nn.Module]:
    """Returns a function that makes the network a config names.

    Args:
        name: one of `models.names()`, or `module:Class`, with literal arguments if wanted.
        width_multiplier: scales every layer's channels; passed on where it is accepted.

    Returns:
        A function of named arguments (num_classes, dtype, ...) -> a Linen module; of what it is
        given it passes on what the class or function takes.

    Raises:
        InvalidInput: what `references.load` finds, or a width that is not accepted.
    """
    builtins = {known: functools.partial(build, known) for known in names()}
    made_by = references.load(KEY, name, builtins)
    accepts_width = "width_multiplier" in references.accepted(made_by, {"width_multiplier": 1.0})
    if width_multiplier != 1 and not accepts_width:
        allowed = f"to be 1: {name} has no argument width_multiplier"
        raise unexpected("model.width_multiplier", width_multiplier, allowed)

    def make(**given: Any) -> nn.Module:
        dtype = given.get("dtype")
        takes = references.accepted(made_by, {"width_multiplier": width_multiplier, **given})
        if dtype is not None and jnp.dtype(dtype) != jnp.float32 and "dtype" not in takes:
            allowed = f"to be float32: {name} has no argument dtype"
            raise unexpected("train.precision", jnp.dtype(dtype).name, allowed)
        try:
            module = made_by(**takes)
        except InvalidInput:
            raise
        except (TypeError, ValueError) as error:
            given_names = ", ".join(takes) or "nothing"
            allowed = f"to be makeable from its arguments and {given_names} ({error})"
            raise unexpected(KEY, name, allowed) from error
        if not isinstance(module, nn.Module):
            found = type(module).__name__
            remedy = (
                "Give the class, e.g. nets:Net. NNX modules: flax.nnx.bridge.ToLinen, see "
                "docs/extending.md."
            )
            raise unexpected(KEY, name, f"to make a Linen module, not a {found}", remedy)
        return module

    return make


def scaled(widths: Sequence[int], multiplier: float) -> tuple[int, ...]:
    """Multiplies each width, rounded half up, at least 1.

    Example:
        >>> scaled((16, 32, 64), 0.05)
        (1, 2, 3)
    """
    return tuple(max(1, math.floor(width * multiplier + 0.5)) for width in widths)


def _argument_problems(num_classes: int, width_multiplier: float, dtype: Any) -> list[str]:
    problems = count_problems(2, num_classes=num_classes)
    # bool is a number to Python; as a factor it is a mistake.
    is_number = isinstance(width_multiplier, numbers.Real) and width_multiplier is not True
    if not is_number or not 0 < float(width_multiplier) < math.inf:
        allowed = "to be a number in (0, inf)"
        problems.append(expected("model.width_multiplier", width_multiplier, allowed))
    with contextlib.suppress(TypeError):
        # NumPy takes None for float64.
        if dtype is not None and jnp.dtype(dtype).name in ("float32", "bfloat16", "float64"):
            return problems
    return [*problems, expected("dtype", dtype, "to be float32, bfloat16 or float64")]
