"""How many units each layer loses: a sparsity and a scope to exact counts.

A unit is what is removed as a whole: a weight, or a block of weights. Counts are those of
Python's `round`, half to even, as PyTorch's pruning has them.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.pruning.allocation.ranking import lamp
from earlyprune_jax.pruning.layouts import Layout
from earlyprune_jax.pruning.scores.weights import count_problems
from earlyprune_jax.pruning.selection import check_pattern
from earlyprune_jax.validate import expected, percent_hint, unknown_choice


class Leaf(NamedTuple):
    """The shape of a prunable leaf and what its axes mean."""

    shape: tuple[int, ...]
    layout: Layout


Shapes = Mapping[str, Leaf]
"""Path -> shape and layout of every prunable leaf."""

Sparsity = float | Mapping[str, float]
"""The fraction removed, in [0, 1); or one for every regular expression, the first that matches a
path."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """A prunable leaf: path, shape as [*spatial, in, out] and number of units."""

    path: str
    shape: tuple[int, ...]
    num_units: int


def num_removed(sparsity: float, num_units: int) -> int:
    """Counts what is removed from `num_units`, exactly: round half to even.

    Example:
        >>> num_removed(0.8, 432)
        346
    """
    # NumPy's narrow floats would round the product, or overflow.
    return round(float(sparsity) * num_units)


def erk_densities(layers: Sequence[Layer], sparsity: float) -> list[float]:
    """Shares out by Erdos-Renyi-Kernel: density proportional to (sum of axes) / (their product).

    density_l = min(1, c * sum(shape_l) / prod(shape_l)), with c such that the kept units sum to
    (1 - sparsity) of all.

    Args:
        layers: with the shapes of their kernels, [height, width, in, out] or [in, out], as
            `Layout.sizes` gives them for every layout: heads and features as one axis.
        sparsity: fraction removed over all layers, in [0, 1).

    Returns:
        One density in (0, 1] per layer.

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
    """Rounds numbers to whole ones of a given sum: largest remainders first.

    Ties go to the lower index. What exceeds a capacity goes to the others in the same way.

    Args:
        ideal: the numbers, not negative.
        capacity: the most that each may become; together at least `total`.
        total: the sum.

    Returns:
        One whole number for each.

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
    "uniform": Scope(densities=lambda layers, sparsity: [1 - sparsity] * len(layers)),
    "erk": Scope(densities=erk_densities),
    "lamp": Scope(together=True, rescale=lamp),
}


def budget(
    layers: Sequence[Layer], sparsity: Sparsity, scope: str, min_kept: int = 0
) -> tuple[int, ...]:
    """Counts the units to remove, for inputs that passed `check_budget`.

    Args:
        layers: the prunable leaves.
        sparsity: fraction removed, or one for every regular expression.
        scope: a name of `SCOPES`.
        min_kept: units that every layer keeps at least.

    Returns:
        One count if the scope ranks layers together, else one per layer.

    Example:
        >>> layers = [Layer("a", (3,), 3), Layer("b", (4,), 4)]
        >>> [budget(layers, 0.5, scope) for scope in ("local", "uniform", "global")]
        [(2, 2), (2, 2), (4,)]
    """
    if isinstance(sparsity, Mapping):
        targets = layer_sparsities([layer.path for layer in layers], sparsity)
        return tuple(num_removed(targets[layer.path], layer.num_units) for layer in layers)
    sizes = [layer.num_units for layer in layers]
    rule = SCOPES[scope]
    if rule.together:
        return (num_removed(sparsity, sum(sizes)),)
    if rule.densities is None:
        return tuple(num_removed(sparsity, size) for size in sizes)
    densities = rule.densities(layers, sparsity)
    ideal = [(1 - density) * size for density, size in zip(densities, sizes, strict=True)]
    capacity = [max(0, size - max(1, min_kept)) for size in sizes]
    return tuple(apportion(ideal, capacity, num_removed(sparsity, sum(sizes))))


def layer_sparsities(paths: Sequence[str], targets: Mapping[str, float]) -> dict[str, float]:
    """Maps every path to its sparsity: that of the first pattern found in it, else 0.

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
    """Finds the problems of removing a sparsity from layers, before any score is known.

    Args:
        layers: the prunable leaves.
        sparsity: fraction removed, or one for every regular expression.
        scope: a name of `SCOPES`.
        min_kept: units that every layer keeps at least.

    Returns:
        All problems.
    """
    problems = check_options(sparsity, scope, min_kept)
    if not problems and isinstance(sparsity, Mapping):
        problems = check_used(sparsity, [layer.path for layer in layers])
    if problems:
        return problems
    rule = SCOPES[scope]
    least = min_kept if rule.together else max(1, min_kept)
    sizes = [layer.num_units for layer in layers]
    room = [max(0, size - least) for size in sizes]
    if not isinstance(sparsity, Mapping) and (rule.together or rule.densities):
        total = num_removed(sparsity, sum(sizes))
        # A network without a weight left is no network.
        most = max(0, sum(room) - (1 if least == 0 else 0))
        counts = [("all layers", total, sum(sizes), most)]
    else:
        paths, removed = [layer.path for layer in layers], budget(layers, sparsity, scope)
        counts = list(zip(paths, removed, sizes, room, strict=True))
    beyond = [f"{n} of {size} at {path} (at most {m})" for path, n, size, m in counts if n > m]
    lower = "Lower it or min_kept, or let scope global or uniform share it out."
    remedy = f"It would remove {', '.join(beyond)}. {lower}"
    kept = f"{least} in every layer" if least else "one in the network"
    return [expected("sparsity", sparsity, f"to leave {kept}", remedy)] if beyond else []


def check_used(targets: Mapping[str, float], paths: Sequence[str]) -> list[str]:
    """Finds the patterns that decide for none of the prunable paths.

    Args:
        targets: regular expression that compiles -> fraction removed, in their order.
        paths: of the prunable leaves.

    Returns:
        A problem for each.
    """
    deciding = {next((p for p in targets if re.search(p, path)), None) for path in paths}
    allowed = "to be the first pattern to match the path of some prunable layer"
    remedy = f"The paths begin: {', '.join(paths[:8])}."
    idle = [pattern for pattern in targets if pattern not in deciding]
    return [expected("sparsity", pattern, allowed, remedy) for pattern in idle]


def check_options(sparsity: Sparsity, scope: str, min_kept: int = 0) -> list[str]:
    """Finds the problems of a sparsity, a scope and a minimum, whatever the network.

    Args:
        sparsity: fraction removed, or one for every regular expression.
        scope: a name of `SCOPES`.
        min_kept: units that every layer keeps at least.

    Returns:
        All problems.
    """
    problems = []
    if not isinstance(scope, str) or scope not in SCOPES:
        problems.append(unknown_choice("scope", scope, tuple(SCOPES)))
    if isinstance(sparsity, Mapping):
        if scope != "local":
            allowed = "to be local where sparsity is a mapping"
            remedy = "A sparsity for each layer leaves nothing for another scope to decide."
            problems.append(expected("scope", scope, allowed, remedy))
        if not sparsity:
            problems.append(expected("sparsity", sparsity, "to hold at least one pattern"))
        for pattern, value in sparsity.items():
            problems += check_pattern(pattern, "sparsity")
            problems += check_fraction(value, f"sparsity[{pattern!r}]")
    else:
        problems += check_fraction(sparsity, "sparsity")
    return problems + count_problems(0, min_kept=min_kept)


def check_fraction(value: Any, thing: str) -> list[str]:
    """Finds the problem of what is no fraction in [0, 1)."""
    if is_number(value) and 0 <= value < 1:
        return []
    hint = percent_hint(value) if is_number(value) else ""
    remedy = "It is a number, the fraction of the weights removed."
    return [expected(thing, value, f"in [0, 1){hint}", remedy)]


def is_number(value: Any) -> TypeGuard[float]:
    """Says whether a value is a real number, also as an array without axes; True is none."""
    if isinstance(value, jax.Array | np.ndarray):
        return value.shape == () and jnp.issubdtype(value.dtype, jnp.number)
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
