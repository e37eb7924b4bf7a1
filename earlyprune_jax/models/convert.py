"""Published PyTorch state dicts to Linen variables and back, as numpy arrays: torch is not needed.

One table of key pairs, read off the module's own abstract variables, serves both directions.
"""

import collections
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
from earlyprune_jax.validate import InvalidInput, expected

Path = tuple[str, ...]

# Module names that the two families spell differently, then those they share.
_RESNET_NAMES = {
    "classifier": "linear",
    "shortcut_conv": "shortcut.0",
    "shortcut_norm": "shortcut.1",
}
_PRERESNET_NAMES = {"classifier": "fc", "shortcut_conv": "downsample.0", "final_norm": "bn"}
_SHARED_NAMES = {"stem_conv": "conv1", "stem_norm": "bn1"}
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
    if problems := catalog.check(name):
        raise InvalidInput(problems)
    given = {
        key.removeprefix("module."): np.asarray(value)
        for key, value in arrays.items()
        if not key.endswith("num_batches_tracked")
    }
    wanted = _expected_arrays(name, given)
    problems = _problems(given, {key: shape for key, (_, shape) in wanted.items()})
    if problems:
        raise InvalidInput(problems)
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
    if problems := catalog.check(name):
        raise InvalidInput(problems)
    module_names = _module_names(name)
    flat: dict[Path, Any] = traverse_util.flatten_dict(variables)
    return {
        _torch_key(path, module_names): _permuted(np.asarray(leaf), _TO_TORCH_AXES)
        for path, leaf in flat.items()
    }


def _module_names(name: str) -> dict[str, str]:
    is_preresnet = catalog.ARCHITECTURES[name]["family"].pre_activation
    return _SHARED_NAMES | (_PRERESNET_NAMES if is_preresnet else _RESNET_NAMES)


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
    options, module_names = catalog.ARCHITECTURES[name], _module_names(name)
    channels = _size(given, r"conv1\.weight", axis=1, default=3)
    classifier = re.escape(module_names["classifier"])
    num_classes = _size(given, rf"{classifier}\.weight", axis=0, default=10)
    widths = [
        _size(given, rf"layer{stage}\.\d+\.(conv1|conv2|bn2)\..*", axis=0, default=width)
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


def _size(given: Mapping[str, np.ndarray], pattern: str, axis: int, default: int) -> int:
    """Reads a size off an axis of the arrays whose keys match.

    What most of them say, so that one wrong array is reported as one problem.
    """
    votes = collections.Counter(
        array.shape[axis]
        for key, array in given.items()
        if re.fullmatch(pattern, key) and axis < array.ndim
    )
    return max(1, votes.most_common(1)[0][0]) if votes else default


def _problems(given: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Missing keys, unexpected keys, wrong shapes, non-numbers: one line for each kind or array."""
    problems = []
    if missing := [key for key in wanted if key not in given]:
        problems.append(f"Expected {len(missing)} more keys in arrays: {', '.join(missing)}.")
    if unexpected := [key for key in given if key not in wanted]:
        problems.append(
            f"Expected arrays without {len(unexpected)} of their keys: {', '.join(unexpected)}."
        )
    for key in (key for key in wanted if key in given):
        array, shape = given[key], wanted[key]
        if array.shape != shape:
            problems.append(expected(f"arrays[{key!r}].shape", array.shape, f"to be {shape}"))
        if array.dtype.kind not in "fiu":
            problems.append(expected(f"arrays[{key!r}].dtype", str(array.dtype), "to be numbers"))
    return problems
