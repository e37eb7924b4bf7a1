"""Networks by name or by reference: what each name means, how it becomes a module, and whose
published PyTorch weights it takes.

A further network for images is an entry of `ARCHITECTURES`; a further family, of another block, a
`Family`; any other network an entry of `BUILTINS`.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from earlyprune_jax import references, validate
from earlyprune_jax.array_types import Variables
from earlyprune_jax.models import resnet
from earlyprune_jax.models.transformer import Transformer
from earlyprune_jax.pruning.scores.weights import count_problems
from earlyprune_jax.spec_sections import WIDTHS
from earlyprune_jax.validate import InvalidInput, expected, refuse, unexpected

KEY = "model.name"
_OPTION_A = resnet.Family(False, "pad", resnet.NORMAL_FAN_IN, resnet.NORMAL_FAN_IN)
_RESNET18 = resnet.Family(False, "conv_norm", resnet.UNIFORM_FAN_IN, resnet.UNIFORM_FAN_IN)
_PRERESNET = resnet.Family(True, "conv", resnet.NORMAL_FAN_OUT, resnet.UNIFORM_FAN_IN)
_BOTTLENECK = dataclasses.replace(_PRERESNET, bottleneck=True)
_DEEP = {d: _BOTTLENECK if d >= 44 else _PRERESNET for d in (20, 38, 44, 56, 110)}
"""Depth of a pre-activation network -> its family in code that takes bottlenecks for deep ones."""


def _by_depth(depth: int, family: resnet.Family, divisor: int = 6) -> dict[str, Any]:
    # Two convolutions a block, three stages, stem and classifier: depth = 6 n + 2. The published
    # codes divide by 6 or by 9 whatever the block is; the depth in such a name is nominal.
    blocks = (depth - 2) // divisor
    return {"family": family, "blocks_per_stage": blocks, "widths": (16, 32, 64)}


ARCHITECTURES: dict[str, dict[str, Any]] = {
    **{f"resnet{d}": _by_depth(d, _OPTION_A) for d in (8, 14)},
    "resnet18": {"family": _RESNET18, "blocks_per_stage": 2, "widths": (64, 128, 256, 512)},
    **{f"resnet{d}": _by_depth(d, _OPTION_A) for d in (20, 32, 44, 56, 110)},
    **{f"preresnet{d}": _by_depth(d, _PRERESNET) for d in (8, 14, *_DEEP)},
    **{f"preresnet{d}_rethinking": _by_depth(d, family, 9) for d, family in _DEEP.items()},
    **{f"preresnet{d}_lottery": _by_depth(d, family) for d, family in _DEEP.items()},
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
        width_multiplier: every layer's channels c become max(1, floor(c * width_multiplier + 1/2));
            in [0.001, 100].
        dtype: compute type of the layers: float32, bfloat16, or (where JAX has x64 enabled)
            float64, which SynFlow wants of deep networks. Pooling, classifier and logits are
            float32 at least.

    Returns:
        A module; hashable, comparable.

    Raises:
        InvalidInput: with every problem of the arguments.

    Example:
        >>> module = build("resnet20", num_classes=10)
        >>> images = jnp.zeros((1, 32, 32, 3))
        >>> shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), images, train=False))
        >>> sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        269722
    """
    refuse(check(name) + _argument_problems(num_classes, width_multiplier, dtype))
    options = dict(ARCHITECTURES[name])
    widths = scaled(options.pop("widths"), width_multiplier)
    return resnet.ResNet(int(num_classes), widths, dtype=jnp.dtype(dtype), **options)


BUILTINS: dict[str, Callable[..., nn.Module]] = {
    **{name: functools.partial(build, name) for name in ARCHITECTURES},
    "transformer": Transformer,
}
"""What a config may name, with literal arguments if wanted -> what makes the network."""


def factory(name: str, *, width_multiplier: float = 1.0) -> Callable[..., nn.Module]:
    """Returns a function that makes the network a config names.

    Args:
        name: one of `BUILTINS`, or `module:Class`, with literal arguments if wanted.
        width_multiplier: scales every layer's channels; passed on where it is accepted.

    Returns:
        A function of named arguments (num_classes, dtype, ...; source_size, target_size of a
        transformer) -> a Linen module; of what it is given it passes on what the class or function
        takes.

    Raises:
        InvalidInput: what `references.load` finds, or a width that is not accepted.
    """
    made_by = references.load(KEY, name, BUILTINS)
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
    allowed = WIDTHS(float(width_multiplier)) if is_number else "to be a number"
    if allowed:
        problems.append(expected("model.width_multiplier", width_multiplier, allowed))
    with contextlib.suppress(TypeError):
        # NumPy takes None for float64.
        if dtype is not None and jnp.dtype(dtype).name in ("float32", "bfloat16", "float64"):
            return problems
    return [*problems, expected("dtype", dtype, "to be float32, bfloat16 or float64")]


# Published PyTorch state dicts as numpy arrays, and back: torch is not needed

Path = tuple[str, ...]

_NAMES = {"stem_conv": "conv1", "stem_norm": "bn1"}
_RESNET_NAMES = {**_NAMES, "classifier": "linear"}
_RESNET_NAMES |= {"shortcut_conv": "shortcut.0", "shortcut_norm": "shortcut.1"}
_PRERESNET_NAMES = {**_NAMES, "classifier": "fc", "final_norm": "bn"}
_PRERESNET_NAMES |= {"shortcut_conv": "downsample.0"}
"""What the published code of the two families calls a module, where that is another name."""

_LEAF_NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}

_TO_TORCH_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}
_FROM_TORCH_AXES = {4: (2, 3, 1, 0), 2: (1, 0)}
"""Kernels by rank: HWIO <-> OIHW, (in, out) <-> (out, in). Vectors stay."""


def from_torch(name: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of network `name` that hold a published PyTorch state dict.

    Number of classes, image channels and layer widths are read off the arrays;
    `build(name, num_classes=..., width_multiplier=...)` with the matching values applies the
    result. No value changes: arrays are transposed and cast to float32. (torch's running variances
    are the unbiased ones; evaluation uses them as they are, exactly as torch does.)

    Keys understood: resnet8 ... resnet110 as in akamaster/pytorch_resnet_cifar10, resnet18 as in
    kuangliu/pytorch-cifar (conv1, bn1, layerL.B.conv1, ..., layerL.B.shortcut.0, linear);
    preresnet as in Eric-mingjie/rethinking-network-pruning (conv1, layerL.B.bn1, ...,
    layerL.B.downsample.0, bn, fc). A leading "module." is dropped, "num_batches_tracked" ignored.

    Args:
        name: one of `names()`.
        arrays: state-dict key -> numpy array (an open .npz file will do).

    Returns:
        {"params": ..., "batch_stats": ...}, float32.

    Raises:
        InvalidInput: unknown name; or every missing key, unexpected key and wrong shape.

    Example:
        >>> module = build("resnet8", num_classes=10, width_multiplier=0.25)
        >>> shapes = jax.eval_shape(
        ...     lambda: module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
        ... )
        >>> ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
        >>> state_dict = to_torch("resnet8", ones)
        >>> state_dict["layer2.0.conv1.weight"].shape
        (8, 4, 3, 3)
        >>> from_torch("resnet8", state_dict)["params"]["stage2_block0"]["conv1"]["kernel"].shape
        (3, 3, 4, 8)
    """
    given = {
        key.removeprefix("module."): np.asarray(value)
        for key, value in arrays.items()
        if not key.endswith("num_batches_tracked")
    }
    wanted = _expected_arrays(name, given)
    refuse(_problems(given, {key: shape for key, (_, shape) in wanted.items()}))
    return traverse_util.unflatten_dict(
        {path: jnp.asarray(_permuted(given[key], _FROM_TORCH_AXES), jnp.float32)
         for key, (path, _) in wanted.items()}
    )  # fmt: skip


def to_torch(name: str, variables: Variables) -> dict[str, np.ndarray]:
    """The inverse of `from_torch`: variables of network `name` as a PyTorch state dict.

    Args:
        name: one of `names()`.
        variables: {"params": ..., "batch_stats": ...} of that network, of any width.

    Returns:
        State-dict key -> numpy array, without "num_batches_tracked".

    Raises:
        InvalidInput: unknown name.

    Example:
        >>> variables = {"params": {"stem_conv": {"kernel": np.zeros((3, 3, 1, 16))}}}
        >>> to_torch("resnet20", variables)["conv1.weight"].shape
        (16, 1, 3, 3)
    """
    module_names = _module_names(name)
    flat: dict[Path, Any] = traverse_util.flatten_dict(variables)
    return {
        _torch_key(path, module_names): _permuted(np.asarray(leaf), _TO_TORCH_AXES)
        for path, leaf in flat.items()
    }


def _module_names(name: str) -> dict[str, str]:
    refuse(check(name))
    is_preresnet = ARCHITECTURES[name]["family"].pre_activation
    return _PRERESNET_NAMES if is_preresnet else _RESNET_NAMES


def _torch_key(path: Path, module_names: Mapping[str, str]) -> str:
    """("params", "stage1_block0", "norm2", "scale") -> "layer1.0.bn2.weight"."""
    _, *modules, leaf = path
    parts = [module_names.get(module, module) for module in modules]
    key = ".".join([*parts, _LEAF_NAMES.get(leaf, leaf)])
    return re.sub(r"^stage(\d+)_block(\d+)", r"layer\1.\2", key).replace(".norm", ".bn")


def _permuted(array: np.ndarray, axes: Mapping[int, tuple[int, ...]]) -> np.ndarray:
    return array.transpose(axes[array.ndim]) if array.ndim in axes else array


def _expected_arrays(
    name: str, given: Mapping[str, np.ndarray]
) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Maps state-dict keys to (path in the variables, torch shape), of a network sized as given."""

    def size(key: str, axis: int, default: int) -> int:
        shape = np.shape(given.get(key, ()))
        return max(1, shape[axis]) if axis < len(shape) else default

    module_names, options = _module_names(name), ARCHITECTURES[name]
    channels = size("conv1.weight", 1, default=3)
    num_classes = size(f"{module_names['classifier']}.weight", 0, default=10)
    widths = [
        size(f"layer{stage}.0.conv2.weight", 0, default=width)
        for stage, width in enumerate(options["widths"], start=1)
    ]
    # Never decreasing, because the parameter-free shortcut only adds channels.
    sizes = {"num_classes": num_classes, "widths": tuple(itertools.accumulate(widths, max))}
    module = resnet.ResNet(**(options | sizes))
    images = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32)
    abstract = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    table = {}
    flat: dict[Path, Any] = traverse_util.flatten_dict(abstract)
    for path, leaf in flat.items():
        shape = tuple(leaf.shape[axis] for axis in _TO_TORCH_AXES.get(leaf.ndim, range(leaf.ndim)))
        table[_torch_key(path, module_names)] = (path, shape)
    return table


def _problems(given: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Missing keys, unexpected keys, wrong shapes, non-numbers: one line for each kind or array."""
    problems = []
    if missing := [key for key in wanted if key not in given]:
        problems.append(f"Expected {len(missing)} more keys in arrays: {', '.join(missing)}.")
    if others := [key for key in given if key not in wanted]:
        problems.append(
            f"Expected arrays without {len(others)} of their keys: {', '.join(others)}."
        )
    for key, shape in wanted.items():
        array = given.get(key, np.zeros(shape))
        if array.shape != shape:
            problems.append(expected(f"arrays[{key!r}].shape", array.shape, f"to be {shape}"))
        if array.dtype.kind not in "fiu":
            problems.append(expected(f"arrays[{key!r}].dtype", str(array.dtype), "to be numbers"))
    return problems
