"""The optimal epoch against model depth and against the amount of training data (Figures 4, 5 and
9)."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from earlyprune_jax.analysis.cells import CellGrid
from earlyprune_jax.analysis.places import Place

DEPTH = "model depth"
DATA = "data fraction"
MAX_LINES = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Grids that differ in one axis only.

    Attributes:
        axis: `DEPTH` or `DATA`.
        place: what its grids have in common; of models of several depths the family.
        values: depths, or data fractions, ascending.
        grids: one a value.
    """

    axis: str
    place: Place
    values: tuple[float, ...]
    grids: tuple[CellGrid, ...]


def series(grids: Iterable[CellGrid]) -> tuple[Series, ...]:
    """Finds the series of at least two grids: over depth within a family of models, over data for
    one model.

    A model's depth is the first number of its name, its family the rest: preresnet20_lottery and
    preresnet56_lottery belong together, preresnet20 does not.

    Example:
        >>> series([])
        ()
    """
    groups: dict[tuple[str, Place], list[tuple[Any, CellGrid]]] = {}
    for grid in grids:
        family, depth = family_and_depth(grid.place["model"])
        if depth is not None:
            groups.setdefault((DEPTH, grid.place.changed(model=family)), []).append((depth, grid))
        fraction = grid.place["train_fraction"]
        groups.setdefault((DATA, grid.place.without("train_fraction")), []).append((fraction, grid))
    found = []
    for (axis, place), members in groups.items():
        members.sort(key=lambda pair: pair[0])
        if len(members) > 1:
            values, own = zip(*members, strict=True)
            found.append(Series(axis, place, values, own))
    return tuple(sorted(found, key=lambda one: (one.axis != DEPTH, one.place)))


def family_and_depth(model: str) -> tuple[str, int | None]:
    """Splits a model's name into what is left without its first number, and that number.

    Example:
        >>> family_and_depth("preresnet110_lottery"), family_and_depth("transformer")
        (('preresnet_lottery', 110), ('transformer', None))
    """
    number = re.search(r"\d+", model)
    if number is None:
        return model, None
    return model[: number.start()] + model[number.end() :], int(number.group())


def high_sparsities(
    grids: Sequence[CellGrid], early: Iterable[float], at_most: int = MAX_LINES
) -> tuple[float, ...]:
    """Chooses the sparsities whose optimal epochs are compared: the high ones that all grids have.

    High are the upper half, and all from the smallest on that is significantly early in one of the
    grids. The highest are kept if there are more than `at_most`.

    Args:
        grids: of a series.
        early: sparsities of early rows in any of them.
        at_most: lines in the figure.

    Returns:
        Ascending.
    """
    common = sorted(set.intersection(*(set(grid.sparsities) for grid in grids))) if grids else []
    start = min([*early, *common[len(common) // 2 :]], default=1.0)
    return tuple([sparsity for sparsity in common if sparsity >= start][-at_most:])
