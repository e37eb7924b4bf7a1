"""What every leaf of a parameter tree is: kernel, norm or embedding, and what its axes mean.

The only place that decides it. A module says it by itself where the tree holds one (Equinox, whole
NNX modules); else path, rank and the neighbours' shapes do. `layouts=` overrules both.
"""

import dataclasses
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from earlyprune_jax.array_types import Params
from earlyprune_jax.pruning import path_layouts
from earlyprune_jax.pruning.module_layouts import KINDS, SPATIAL, plain, said_by_modules
from earlyprune_jax.pruning.module_layouts import told_by as told_by
from earlyprune_jax.pruning.trees import few, is_weight, named_leaves, refuse
from earlyprune_jax.validate import expected

Layouts = Mapping[str, str]
"""Regular expression -> layout: the first that is found in a leaf's path says what the leaf is."""

LETTERS = f"{SPATIAL}NIOS"


class PruningWarning(UserWarning):
    """A mask that was asked for and made, but that its maker may not have meant."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """What one leaf is.

    Attributes:
        axes: a letter per axis: I input, O output, D, H, W (or X) spatial, S stacked copies of a
            layer, N heads, which belong to the next I or O. Empty for fewer than 2 axes.
        kind: `kernel`, `norm`, `embedding`, or empty for all else, such as biases.
        is_guess: whether other letters would fit as well.

    Example:
        >>> query = Layout("INO")       # [inputs, heads, features]
        >>> query.inputs, query.outputs, query.sizes((6, 2, 4))
        ((0,), (1, 2), (6, 8))
    """

    axes: str = ""
    kind: str = "kernel"
    is_guess: bool = False

    def __str__(self) -> str:
        """Writes the letters of a kernel, or of a guess, with ? then; else the kind."""
        is_shown = self.is_guess or self.kind == "kernel"
        return self.axes + "?" * self.is_guess if is_shown else self.kind

    @property
    def inputs(self) -> tuple[int, ...]:
        """Returns the axes that together are the input."""
        return self._places("I")

    @property
    def outputs(self) -> tuple[int, ...]:
        """Returns the axes that together are the output."""
        return self._places("O")

    @property
    def spatial(self) -> tuple[int, ...]:
        """Returns the axes of a convolution's window."""
        return self._places(SPATIAL)

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of one layer as [*spatial, in, out]; of unknown axes, `shape`.

        Example:
            >>> Layout("OIHW").sizes((16, 8, 3, 5))
            (3, 5, 8, 16)
        """
        if not self.axes:
            return shape
        joined = (math.prod(shape[axis] for axis in side) for side in (self.inputs, self.outputs))
        return (*(shape[axis] for axis in self.spatial), *joined)

    def matrices(self, array: Any) -> Any:
        """Cuts an array into its matrices [positions and copies, in, out].

        Example:
            >>> import numpy as np
            >>> Layout("OIHW").matrices(np.zeros((16, 8, 3, 5))).shape
            (15, 8, 16)
        """
        moved = array.transpose(self._places(f"S{SPATIAL}") + self.inputs + self.outputs)
        return moved.reshape(-1, *self.sizes(array.shape)[-2:])

    def _places(self, letters: str) -> tuple[int, ...]:
        sides = re.sub("N(?=[NS]*([IO]))", r"\1", self.axes)
        return tuple(axis for axis, letter in enumerate(sides) if letter in letters)


def find(params: Params, layouts: Layouts | None = None) -> dict[str, Layout]:
    """Decides what every floating-point leaf of a tree is.

    In this order: what `layouts` says; the module that holds the leaf (Equinox's and NNX's dense
    and convolutional layers, Equinox's recurrent cells, norms and `Embedding`); path and rank.
    `kernel` lies [*spatial, in, out] as in Flax, `weight` [out, in, *spatial] as in Equinox and
    PyTorch, unless the bias fits another side only. A `kernel` whose `bias` has several axes has as
    many output axes, or is a stack of layers; attention's query, key and value are [in, heads,
    features], its out [heads, features, out]. A `weight` is a norm if its `bias` has its shape, or
    its layer is called one.

    What several readings fit is a guess, such as three axes under a name that does not say `conv`,
    and no set of convolutions takes it. Where a result would depend on it, a `PruningWarning` names
    these leaves; `layouts=told_by(module, ...)` has Linen's and NNX's layers decide.

    Args:
        params: any pytree; shapes are enough.
        layouts: regular expression -> letters as of `Layout`, with ? for a guess, `norm` or
            `embedding`.

    Returns:
        Path -> layout. Leaves that are not floating-point arrays are not in it.

    Raises:
        InvalidInput: patterns that match no leaf, letters that are none or not as many as axes.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"conv": {"kernel": jnp.ones((3, 3, 1, 2)), "bias": jnp.ones(2)}}
        >>> {path: str(layout) for path, layout in find(params).items()}
        {'conv/bias': '', 'conv/kernel': 'HWIO'}
    """
    refuse(check_layouts(layouts, params))
    leaves = {name: tuple(leaf.shape) for name, leaf in named_leaves(params) if is_weight(leaf)}
    # A whole NNX module, unlike its state, shows the field in which a variable holds its array.
    shapes = {name.removesuffix("/value"): shape for name, shape in leaves.items()}
    known, scopes, found = said_by_modules(params), path_layouts.scopes_of(shapes), {}
    patterns = [(re.compile(pattern), text) for pattern, text in (layouts or {}).items()]
    for name, shape in leaves.items():
        path = name.removesuffix("/value")
        told = (text for pattern, text in patterns if pattern.search(name))
        if said := next(told, known.get(path)):
            axes = plain(len(shape)) if said in KINDS else said.removesuffix("?")
            kind = said if said in KINDS else "kernel"
            found[name] = Layout(axes, kind, said.endswith("?"))
        else:
            scope = scopes[path_layouts.split(path)[0]]
            found[name] = Layout(*path_layouts.read(path, scope))
    return found


def warn_of_guesses(leaves: Iterable[tuple[str, tuple[int, ...], Layout]]) -> None:
    """Warns where a result depends on axes that are no more than a guess.

    Args:
        leaves: path, shape and layout.
    """
    guesses = [f"{path} {[*shape]} as {kind.axes}" for path, shape, kind in leaves if kind.is_guess]
    if guesses:
        remedy = (
            "Say it by layouts={...}, let the module do so (pruning.layouts.told_by), or choose "
            "leaves by regex:PATTERN."
        )
        text = f"The axes of {few(guesses, 4)} are a guess: others would fit as well. {remedy}"
        warnings.warn(text, PruningWarning, stacklevel=4)


def check_layouts(layouts: Layouts | None, params: Params) -> list[str]:
    """Finds the problems of layouts that a user gives.

    Example:
        >>> import numpy as np
        >>> check_layouts({"a": "OI"}, {"a": np.ones((1, 2, 3))})
        ["Expected layout at a='OI' to have 3 letters, one per axis."]
    """
    if layouts is None:
        return []
    if not isinstance(layouts, Mapping):
        return [expected("layouts", layouts, "to map regular expressions to layouts")]
    problems = [text for pair in layouts.items() for text in _check_pair(*pair)]
    leaves = [] if problems else [pair for pair in named_leaves(params) if is_weight(pair[1])]
    for pattern, text in {} if problems else layouts.items():
        search = re.compile(pattern).search
        matched = [(name, leaf.ndim) for name, leaf in leaves if search(name)]
        if not matched:
            problems.append(expected("layouts", pattern, "to be found in the path of some leaf"))
        problems += [
            expected(f"layout at {name}", text, f"to have {rank} letters, one per axis")
            for name, rank in matched
            if text not in KINDS and rank != len(text.removesuffix("?"))
        ]
    return problems


def _check_pair(pattern: Any, text: Any) -> list[str]:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        allowed = "to hold a valid regular expression"
        return [expected("layouts", pattern, allowed, f"It says: {error}.")]
    if text in KINDS:
        return []
    letters = text.removesuffix("?") if isinstance(text, str) else ""
    is_known = set(letters) <= set(LETTERS) and "I" in letters and "O" in letters
    if is_known and not re.search("N(?![NS]*[IO])", letters):
        return []
    allowed = f"to be {' or '.join(KINDS)}, or a letter per axis, e.g. HWIO, OIHW, IO, INO"
    remedy = f"Of {', '.join(LETTERS)}: I and O, N (heads) before one of them."
    return [expected(f"layouts[{pattern!r}]", text, allowed, remedy)]
