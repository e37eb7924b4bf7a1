"""Published PyTorch state dicts to Linen variables and back, as numpy arrays: torch is not needed.

One table of key pairs, read off the module's own abstract variables, serves both directions.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from earlyprune_jax.array_types import Variables
from earlyprune_jax.models import catalog
from earlyprune_jax.models.resnet import ResNet
from earlyprune_jax.validate import expected, refuse

Path = tuple[str, ...]

_NAMES = {"stem_conv": "conv1", "stem_norm": "bn1"}
_RESNET_NAMES = {**_NAMES, "classifier": "linear"}
_RESNET_NAMES |= {"shortcut_conv": "shortcut.0", "shortcut_norm": "shortcut.1"}
_PRERESNET_NAMES = {**_NAMES, "classifier": "fc", "final_norm": "bn"}
_PRERESNET_NAMES |= {"shortcut_conv": "downsample.0"}
"""What the published code of the two families calls a module, where that is another name."""

_LEAF_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

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
        >>> module = catalog.build("resnet8", num_classes=10, width_multiplier=0.25)
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
    refuse(catalog.check(name))
    is_preresnet = catalog.ARCHITECTURES[name]["family"].pre_activation
    return _PRERESNET_NAMES if is_preresnet else _RESNET_NAMES


def _torch_key(path: Path, module_names: Mapping[str, str]) -> str:
    """("params", "stage1_block0", "norm2", "scale") -> "layer1.0.bn2.weight"."""
    _, *modules, leaf = path
    parts = [module_names.get(module, module) for module in modules]
    key = ".".join([*parts, _LEAF_NAMES[leaf]])
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

    module_names, options = _module_names(name), catalog.ARCHITECTURES[name]
    channels = size("conv1.weight", 1, default=3)
    num_classes = size(f"{module_names['classifier']}.weight", 0, default=10)
    widths = [
        size(f"layer{stage}.0.conv2.weight", 0, default=width)
        for stage, width in enumerate(options["widths"], start=1)
    ]
    # Never decreasing, because the parameter-free shortcut only adds channels.
    sizes = {"num_classes": num_classes, "widths": tuple(itertools.accumulate(widths, max))}
    module = ResNet(**(options | sizes))
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
    if unexpected := [key for key in given if key not in wanted]:
        problems.append(
            f"Expected arrays without {len(unexpected)} of their keys: {', '.join(unexpected)}."
        )
    for key, shape in wanted.items():
        array = given.get(key, np.zeros(shape))
        if array.shape != shape:
            problems.append(expected(f"arrays[{key!r}].shape", array.shape, f"to be {shape}"))
        if array.dtype.kind not in "fiu":
            problems.append(expected(f"arrays[{key!r}].dtype", str(array.dtype), "to be numbers"))
    return problems
