"""How many units each layer loses: a sparsity and a scope to exact counts.

A unit is what is removed as a whole: a weight, or a block of weights. Counts are those of
Python's `round`, half to even, as PyTorch's pruning has them.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.pruning.allocation.ranking import lamp
from earlyprune_jax.pruning.selection import check_pattern
from earlyprune_jax.validate import expected, unknown_choice

Sparsity = float | Mapping[str, float]
"""The fraction removed, in [0, 1); or one for every regular expression, the first that matches a
path."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """A prunable leaf: its path, the shape of its weights and how many units it has."""

    path: str
    shape: tuple[int, ...]
    num_units: int


def num_removed(sparsity: float, num_units: int) -> int:
    """The exact number removed from `num_units`: round half to even.

    Example:
        >>> num_removed(0.8, 432)
        346
    """
    # NumPy's narrow floats would round the product, or overflow.
    return round(float(sparsity) * num_units)


def erk_densities(layers: Sequence[Layer], sparsity: float) -> list[float]:
    """Erdos-Renyi-Kernel: a layer's density is proportional to (sum of its axes) / (product of
    them).

    density_l = min(1, c * sum(shape_l) / prod(shape_l)), with c such that the kept units sum to
    (1 - sparsity) of all.

    Args:
        layers: with the shapes of their kernels, [height, width, in, out] or [in, out].
        sparsity: fraction removed over all layers, in [0, 1).

    Returns:
        One density in (0, 1] a layer.

    Source: Evci et al. 2020, "Rigging the Lottery", section 3; Mocanu et al. 2018 for two axes.

    Example:
        >>> square = [Layer("a", (4, 4), 16), Layer("b", (8, 8), 64)]
        >>> densities = erk_densities(square, 0.85)      # c = 12 / (8 + 16) = 1/2: c 8/16, c 16/64
        >>> [round(density, 6) for density in densities]
        [0.25, 0.125]
    """
    # A single number counts as one axis of length 1; an empty layer has nothing to share out.
    shapes = [layer.shape or (1,) for layer in layers]
    ratio = np.array([sum(shape) / max(1, math.prod(shape)) for shape in shapes])
    sizes = np.array([layer.num_units for layer in layers], float)
    num_kept = (1 - sparsity) * sizes.sum()
    dense = sizes == 0
    while not dense.all():
        scale = (num_kept - sizes[dense].sum()) / (ratio * sizes)[~dense].sum()
        overfull = ~dense & (scale * ratio > 1)
        if not overfull.any():
            return np.where(dense, 1.0, scale * ratio).tolist()
        dense |= overfull
    return [1.0] * len(layers)


def apportion(ideal: Sequence[float], capacity: Sequence[int], total: int) -> list[int]:
    """Whole numbers near `ideal`, within `capacity`, that sum to `total`: largest remainders first.

    Ties go to the lower index. What exceeds a capacity goes to the others in the same way.

    Example:
        >>> apportion([1.5, 1.5, 2.0], [9, 9, 9], 5)
        [2, 1, 2]
        >>> apportion([3.0, 1.0], [2, 9], 4)
        [2, 2]
    """
    counts = [min(math.floor(value), room) for value, room in zip(ideal, capacity, strict=True)]
    missing = total - sum(counts)
    order = sorted(range(len(counts)), key=lambda index: counts[index] - ideal[index])
    while missing > 0:
        open_layers = [index for index in order if counts[index] < capacity[index]]
        share = max(1, missing // len(open_layers))
        for index in open_layers:
            added = min(share, capacity[index] - counts[index], missing)
            counts[index] += added
            missing -= added
    return counts


def uniform_densities(layers: Sequence[Layer], sparsity: float) -> list[float]:
    """The same density in every layer."""
    return [1 - sparsity] * len(layers)


@dataclasses.dataclass(frozen=True)
class Scope:
    """How a sparsity is shared out.

    `together`: all layers are ranked as one, after `rescale` if there is one. Else every layer has
    a count of its own: with `densities` the layers share the rounding, so that the whole network
    loses exactly round(sparsity * n); without, each loses round(sparsity * n) of its own n.
    """

    together: bool = False
    rescale: Callable[..., Any] | None = None
    densities: Callable[[Sequence[Layer], float], list[float]] | None = None


SCOPES = {
    "global": Scope(together=True),
    "local": Scope(),
    "uniform": Scope(densities=uniform_densities),
    "erk": Scope(densities=erk_densities),
    "lamp": Scope(together=True, rescale=lamp),
}


def budget(
    layers: Sequence[Layer], sparsity: Sparsity, scope: str, min_kept: int = 0
) -> tuple[int, ...]:
    """The units to remove: one count if the scope ranks layers together, else one a layer.

    For inputs that passed `check_budget`.

    Example:
        >>> layers = [Layer("a", (3,), 3), Layer("b", (4,), 4)]
        >>> budget(layers, 0.5, "local"), budget(layers, 0.5, "uniform"), budget(layers, 0.5, "global")
        ((2, 2), (2, 2), (4,))
    """
    if isinstance(sparsity, Mapping):
        targets = layer_sparsities([layer.path for layer in layers], sparsity)
        return tuple(num_removed(targets[layer.path], layer.num_units) for layer in layers)
    total = num_removed(sparsity, sum(layer.num_units for layer in layers))
    rule = SCOPES[scope]
    if rule.together:
        return (total,)
    if rule.densities is None:
        return tuple(num_removed(sparsity, layer.num_units) for layer in layers)
    densities = rule.densities(layers, sparsity)
    ideal = [
        (1 - density) * layer.num_units for density, layer in zip(densities, layers, strict=True)
    ]
    return tuple(apportion(ideal, [_capacity(layer, max(1, min_kept)) for layer in layers], total))


def layer_sparsities(paths: Sequence[str], targets: Mapping[str, float]) -> dict[str, float]:
    """The sparsity of every path: that of the first pattern found in it, else 0.

    Example:
        >>> layer_sparsities(["stem", "block1", "block2"], {"block2": 0.9, "block": 0.5})
        {'stem': 0.0, 'block1': 0.5, 'block2': 0.9}
    """
    return {
        path: next((value for pattern, value in targets.items() if re.search(pattern, path)), 0.0)
        for path in paths
    }


def check_budget(
    layers: Sequence[Layer], sparsity: Sparsity, scope: str, min_kept: int = 0
) -> list[str]:
    """The problems of removing a sparsity from layers, before any score is known."""
    problems = check_options(sparsity, scope, min_kept)
    if problems:
        return problems
    if isinstance(sparsity, Mapping):
        paths = [layer.path for layer in layers]
        problems = [
            problem for pattern in sparsity for problem in check_used(pattern, sparsity, paths)
        ]
    return problems or _check_room(layers, sparsity, SCOPES[scope], min_kept)


def check_used(pattern: str, targets: Mapping[str, float], paths: Sequence[str]) -> list[str]:
    """The problem of a pattern that decides for none of the prunable paths."""
    if problems := check_pattern(pattern, "sparsity"):
        return problems
    matched = [path for path in paths if re.search(pattern, path)]
    if not matched:
        remedy = f"The paths begin: {', '.join(paths[:8])}."
        return [expected("sparsity", pattern, "to match the path of a prunable layer", remedy)]
    earlier = list(targets)[: list(targets).index(pattern)]
    if all(any(re.search(other, path) for other in earlier) for path in matched):
        remedy = f"Patterns before it match all its layers, {', '.join(matched[:8])}: put it first."
        return [expected("sparsity", pattern, "to be the first to match some layer", remedy)]
    return []


def check_options(sparsity: Sparsity, scope: str, min_kept: int = 0) -> list[str]:
    """The problems of a sparsity, a scope and a minimum, whatever the network."""
    problems = (
        []
        if isinstance(scope, str) and scope in SCOPES
        else [unknown_choice("scope", scope, tuple(SCOPES))]
    )
    if isinstance(sparsity, Mapping):
        if scope != "local":
            remedy = "A sparsity for each layer leaves nothing for another scope to decide."
            problems.append(
                expected("scope", scope, "to be local where sparsity is a mapping", remedy)
            )
        if not sparsity:
            problems.append(expected("sparsity", sparsity, "to hold at least one pattern"))
        for pattern, value in sparsity.items():
            problems += check_pattern(pattern, "sparsity") + check_fraction(
                value, f"sparsity[{pattern!r}]"
            )
    else:
        problems += check_fraction(sparsity, "sparsity")
    if isinstance(min_kept, bool) or not isinstance(min_kept, int) or min_kept < 0:
        problems.append(expected("min_kept", min_kept, "to be a whole number of units, 0 or more"))
    return problems


def check_fraction(value: float, thing: str) -> list[str]:
    if not is_number(value):
        return [
            expected(
                thing, value, "in [0, 1)", "Give a number, the fraction of the weights removed."
            )
        ]
    if 0 <= value < 1:
        return []
    meant = f"Did you mean {float(value) / 100:g}? " if 1 < value < 100 else ""
    return [
        expected(thing, value, "in [0, 1)", f"{meant}It is the fraction of the weights removed.")
    ]


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a real number, also as an array without axes; True and False are none."""
    if isinstance(value, jax.Array | np.ndarray):
        return value.shape == () and jnp.issubdtype(value.dtype, jnp.number)
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _check_room(
    layers: Sequence[Layer], sparsity: Sparsity, rule: Scope, min_kept: int
) -> list[str]:
    if isinstance(sparsity, Mapping) or (rule.densities is None and not rule.together):
        return _check_each(layers, sparsity, min_kept)
    total = num_removed(sparsity, sum(layer.num_units for layer in layers))
    least = min_kept if rule.together else max(1, min_kept)
    room = sum(_capacity(layer, least) for layer in layers) - (1 if least == 0 else 0)
    if total <= max(0, room):
        return []
    kept = f"{least} in every layer" if least else "one in the network"
    remedy = f"It would remove {total}, of which {room} may go. Lower it{' or min_kept' * (min_kept > 1)}."
    return [expected("sparsity", sparsity, f"to leave {kept}", remedy)]


def _check_each(layers: Sequence[Layer], sparsity: Sparsity, min_kept: int) -> list[str]:
    least = max(1, min_kept)
    counts = budget(layers, sparsity, "local")
    emptied = [
        f"{count} of {layer.num_units} at {layer.path}"
        for layer, count in zip(layers, counts, strict=True)
        if count > _capacity(layer, least)
    ]
    if not emptied:
        return []
    remedy = f"It would remove {', '.join(emptied)}. Lower it there, or let scope global or uniform share it out."
    return [expected("sparsity", sparsity, f"to leave {least} in every layer", remedy)]


def _capacity(layer: Layer, least: int) -> int:
    """How many units a layer can lose and keep `least`."""
    return max(0, layer.num_units - least)
