"""What is removed as a whole: single weights, blocks of them, or all but N of every M along an
axis.

A pattern says how many units a leaf has, how many of them a sparsity removes, and which, given
scores. It works on NumPy arrays and, inside jit, on traced ones. Output channels, which reach
through normalisations and residual additions into other leaves, are in `channels`.

Everywhere here `shapes` maps the path of every prunable leaf to shape and layout; `sparsity`,
`scope` and `min_kept` are those of `allocate`.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from earlyprune_jax.pruning.allocation import budgets, ranking
from earlyprune_jax.pruning.allocation.budgets import SCOPES, Layer, Leaf, Shapes, Sparsity
from earlyprune_jax.pruning.layouts import Layout, plain
from earlyprune_jax.pruning.scores.weights import count_problems
from earlyprune_jax.validate import expected

Leaves = Sequence[Any]
"""Arrays of NumPy, or traced ones: one for every prunable leaf."""

Counts = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Blocks of weights, ranked by their mean score; blocks of one weight are unstructured pruning.

    Sparsity, counts and `min_kept` count blocks.

    Attributes:
        shape: a block's extent along the last axes of every leaf; axes before them have extent 1,
            and -1 means the whole axis. `()` is a single weight. In Linen's layout [height, width,
            in, out], `(16, 16)` is a tile of 16 inputs by 16 outputs at one kernel position, and
            `(-1, -1, -1, 1)` a whole filter.

    Source: Narang et al. 2017, "Block-sparse recurrent neural networks".

    Example:
        >>> scores = [np.array([[1.0, 1.0, 9.0, 9.0], [1.0, 1.0, 0.0, 9.0]])]
        >>> Blocks((2, 2)).masks(scores, (1,), "global", 0, np)[0].tolist()
        [[False, False, True, True], [False, False, True, True]]
    """

    shape: tuple[int, ...] = ()

    def check(self, shapes: Shapes, sparsity: Sparsity, scope: str, min_kept: int) -> list[str]:
        """Finds every problem of pruning leaves of these shapes, before any score is known.

        Args:
            shapes: path -> shape and layout of every prunable leaf.
            sparsity: as in `allocate`.
            scope: as in `allocate`.
            min_kept: as in `allocate`.

        Returns:
            Extents that are no divisors of their axes; if there are none, the budget's problems.
        """
        problems = [
            text for path, leaf in shapes.items() for text in self._check_leaf(path, leaf.shape)
        ]
        return problems or budgets.check_budget(self._layers(shapes), sparsity, scope, min_kept)

    def counts(
        self, shapes: Shapes, sparsity: Sparsity, scope: str, min_kept: int
    ) -> tuple[int, ...]:
        """Counts the units that go: one number for each ranking that `masks` makes.

        Args:
            shapes: path -> shape and layout of every prunable leaf.
            sparsity: as in `allocate`.
            scope: as in `allocate`.
            min_kept: as in `allocate`.

        Returns:
            One count if the scope ranks layers together, else one per layer.
        """
        return budgets.budget(self._layers(shapes), sparsity, scope, min_kept)

    def masks(
        self,
        scores: Leaves,
        counts: Any,
        scope: str,
        min_kept: int,
        xp: Any,
        layouts: Sequence[Layout] | None = None,
    ) -> Leaves:
        """Marks the weights that stay.

        Args:
            scores: one array per prunable leaf, higher = keep.
            counts: from `counts`; inside jit they may be traced.
            scope: as in `allocate`.
            min_kept: as in `allocate`.
            xp: `numpy`, or `jax.numpy` inside jit.
            layouts: not looked at.

        Returns:
            One bool array per leaf, True = kept.
        """
        del layouts
        units = [self._pool(leaf) for leaf in scores]
        rescale = SCOPES[scope].rescale
        units = [rescale(leaf, xp) for leaf in units] if rescale else units
        keep = ranking.keep_highest if xp is np else ranking.keep_highest_traced
        if not SCOPES[scope].together:
            kept = [keep([leaf], count)[0] for leaf, count in zip(units, counts, strict=True)]
        else:
            if min_kept:
                units = [self._protected(leaf, min_kept, keep, xp) for leaf in units]
            kept = keep(units, counts[0])
        return [self._spread(keep, leaf.shape) for keep, leaf in zip(kept, scores, strict=True)]

    def _protected(self, units: Any, min_kept: int, keep: Any, xp: Any) -> Any:
        """Lifts a layer's `min_kept` highest scores above all finite ones."""
        stays = keep([units], max(0, units.size - min_kept))[0]
        finite = xp.minimum(units, xp.finfo(units.dtype).max)
        return xp.where(stays, xp.asarray(np.inf, units.dtype), finite)

    def _extent(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns a block's extent along every axis of a leaf."""
        padded = (1,) * (len(shape) - len(self.shape)) + self.shape
        return tuple(axis if n == -1 else n for axis, n in zip(shape, padded, strict=True))

    def _check_leaf(self, path: str, shape: tuple[int, ...]) -> list[str]:
        thing = f"block shape at {path}"
        if not isinstance(self.shape, tuple):
            return [expected(thing, self.shape, "to be a tuple")]
        if len(self.shape) > len(shape):
            allowed = f"to have at most the {len(shape)} axes of {shape}"
            return [expected(thing, self.shape, allowed)]
        if any(
            not isinstance(extent, int) or extent == 0 or extent < -1 or axis % extent
            for axis, extent in zip(shape, self._extent(shape), strict=True)
        ):
            remedy = "Give divisors, -1 for a whole axis, or leave this leaf out by `layers`."
            return [expected(thing, self.shape, f"to divide its shape {shape}", remedy)]
        return []

    def _layers(self, shapes: Shapes) -> list[Layer]:
        return [
            Layer(path, layout.sizes(shape), math.prod(shape) // math.prod(self._extent(shape)))
            for path, (shape, layout) in shapes.items()
        ]

    def _pool(self, scores: Any) -> Any:
        """Averages over every block: the shape of the leaf divided by the extent."""
        extent = self._extent(scores.shape)
        if math.prod(extent) == 1:
            return scores
        split = []
        for axis, size in zip(scores.shape, extent, strict=True):
            split += [axis // size, size]
        return scores.reshape(split).mean(axis=tuple(range(1, len(split), 2)))

    def _spread(self, kept: Any, shape: tuple[int, ...]) -> Any:
        """Gives every weight the fate of its block."""
        for axis, size in enumerate(self._extent(shape)):
            kept = kept.repeat(size, axis=axis) if size > 1 else kept
        return kept


@dataclasses.dataclass(frozen=True)
class NM:
    """N:M: of every M consecutive weights along an axis the N with the highest scores are kept.

    Its sparsity is 1 - N/M, in every group; 2:4 along the input axis is what sparse tensor cores
    take.

    Attributes:
        kept: N, in [1, M].
        group: M.
        axis: the axis that M divides: `input`, whichever that is in a leaf's layout (heads and
            features together are one), or the number of an axis of the leaf itself.

    Source: Zhou et al. 2021, "Learning N:M fine-grained structured sparse neural networks".

    Example:
        >>> scores = [np.array([[4.0], [1.0], [3.0], [2.0]])]
        >>> NM(2, 4).masks(scores, (2,), "local", 0, np)[0].ravel().tolist()
        [True, False, True, False]
    """

    kept: int
    group: int
    axis: int | str = "input"

    @property
    def sparsity(self) -> float:
        """Returns the fraction that the pattern removes, 1 - N/M."""
        return 1 - self.kept / self.group

    def check(self, shapes: Shapes, sparsity: Sparsity, scope: str, min_kept: int) -> list[str]:
        """Finds what is wrong with N:M, its axis, or options that are not its own.

        Args:
            shapes: path -> shape and layout of every prunable leaf.
            sparsity: 1 - N/M, or 0.
            scope: as of `Blocks.check`.
            min_kept: likewise.

        Returns:
            The problems, a sentence each.
        """
        problems = self._check_options(sparsity, scope, min_kept)
        return problems or [text for leaf in shapes.items() for text in self._check_leaf(*leaf)]

    def counts(
        self, shapes: Shapes, sparsity: Sparsity, scope: str, min_kept: int
    ) -> tuple[int, ...]:
        """Counts the weights of each group that go.

        Args:
            shapes: path -> shape and layout of every prunable leaf.
            sparsity: 1 - N/M, or 0.
            scope: not looked at.
            min_kept: not looked at.

        Returns:
            One number a leaf.
        """
        del scope, min_kept
        return (self.group - self.kept if sparsity else 0,) * len(shapes)

    def masks(
        self,
        scores: Leaves,
        counts: Any,
        scope: str,
        min_kept: int,
        xp: Any,
        layouts: Sequence[Layout] | None = None,
    ) -> Leaves:
        """Marks the weights that stay.

        Args:
            scores: of the prunable leaves.
            counts: of `counts`, which may be traced.
            scope: not looked at.
            min_kept: not looked at.
            xp: NumPy, or `jax.numpy` inside jit.
            layouts: of the leaves; None = [*spatial, in, out].

        Returns:
            A bool array a leaf, True = kept.
        """
        del scope, min_kept
        layouts = layouts or [Layout(plain(leaf.ndim)) for leaf in scores]
        triples = zip(scores, counts, layouts, strict=True)
        return [self._mask(leaf, count, self._axes(layout), xp) for leaf, count, layout in triples]

    def _axes(self, layout: Layout) -> tuple[int, ...]:
        return (self.axis,) if isinstance(self.axis, int) else layout.inputs

    def _mask(self, scores: Any, count: Any, axes: tuple[int, ...], xp: Any) -> Any:
        last = tuple(range(-len(axes), 0))
        moved = xp.moveaxis(scores, axes, last)
        groups = moved.reshape(-1, self.group)
        # As in `keep_highest_traced`: compared as floats, subnormal scores may all be 0.
        groups = groups if xp is np else ranking.order_key(groups)
        # The rank of a score in its group is the argsort of the argsort; stable: ties by index.
        rank = xp.argsort(xp.argsort(groups, axis=-1, stable=True), axis=-1, stable=True)
        return xp.moveaxis((rank >= count).reshape(moved.shape), last, axes)

    def _check_options(self, sparsity: Sparsity, scope: str, min_kept: int) -> list[str]:
        name = f"{self.kept}:{self.group}"
        if count_problems(1, kept=self.kept, group=self.group) or self.kept > self.group:
            return [expected("N:M", name, "to be whole numbers with 1 <= N <= M")]
        if not isinstance(self.axis, int) and self.axis != "input":
            return [expected("axis", self.axis, "to be a whole number or input")]
        # 1 - N/M and the same fraction as a user writes it may differ in the last bit.
        fits = budgets.is_number(sparsity) and (
            sparsity == 0 or math.isclose(sparsity, self.sparsity, rel_tol=1e-6)
        )
        wrong = [] if fits else [("sparsity", sparsity, f"that of {name}, {self.sparsity:g}, or 0")]
        wrong += [("scope", scope, "local")] if scope != "local" else []
        wrong += [("min_kept", min_kept, "0")] if min_kept else []
        remedy = f"{name} keeps {self.kept} of each group."
        return [expected(option, value, f"to be {own}", remedy) for option, value, own in wrong]

    def _check_leaf(self, path: str, leaf: Leaf) -> list[str]:
        rank, axes = len(leaf.shape), self._axes(leaf.layout)
        if not axes or not -rank <= axes[0] < rank:
            allowed = f"to be an axis of its shape {leaf.shape}"
            return [expected(f"axis at {path}", self.axis, allowed)]
        length = math.prod(leaf.shape[axis] for axis in axes)
        if length % self.group:
            which = f"axis {self.axis}" if isinstance(self.axis, int) else "the input axis"
            thing = f"length of {which} at {path}"
            allowed = f"to be a multiple of {self.group}"
            remedy = "Choose another axis, or leave this leaf out by `layers`."
            return [expected(thing, length, allowed, remedy)]
        return []


Pattern = Blocks | NM

UNSTRUCTURED = Blocks()


def check_is_pattern(pattern: Any) -> list[str]:
    """Finds the problem of what is no pattern: a name, a class that was not called."""
    if isinstance(pattern, Pattern):
        return []
    return [expected("pattern", pattern, "to be UNSTRUCTURED, Blocks(...) or NM(...)")]
