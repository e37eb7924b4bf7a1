"""Batches of data: pytrees of arrays with a leading example axis, all of them looked at."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from earlyprune_jax.pruning.trees import named_leaves
from earlyprune_jax.validate import InvalidInput, expected, unexpected

Batches = Iterable[Any]
"""Pytrees of arrays with a leading example axis."""


def checked(batches: Batches) -> Iterator[tuple[int, Any, int]]:
    """(number from 0, batch, number of examples) of every batch; what all averages run over.

    Raises:
        InvalidInput: not an iterable of batches, empty, or a batch without one common number of
            examples of at least 1.
    """
    # A dict's keys or an array's rows would be taken for batches.
    if (
        isinstance(batches, Mapping | str)
        or hasattr(batches, "ndim")
        or not isinstance(batches, Iterable)
    ):
        remedy = "Wrap a single batch in a list."
        raise unexpected("batches", type(batches).__name__, "to be an iterable of batches", remedy)
    number = -1
    for number, batch in enumerate(batches):
        yield number, batch, _num_examples(number, batch)
    if number < 0:
        remedy = "An iterator that has been used up gives none: make it again."
        raise unexpected("batches", batches, "to give at least one batch", remedy)


def _num_examples(number: int, batch: Any) -> int:
    """The length of the leading axis of every leaf."""
    where = f"batch {number} (from 0)"
    leaves = named_leaves(batch)
    if not leaves:
        raise unexpected(where, batch, "to hold at least one array")
    problems = [
        expected(
            f"{where} at {name or 'its root'}", leaf, "to be an array with a leading example axis"
        )
        for name, leaf in leaves
        if np.ndim(leaf) == 0
    ]
    if problems:
        raise InvalidInput(problems)
    sizes = {name or "its root": np.shape(leaf)[0] for name, leaf in leaves}
    if len(set(sizes.values())) > 1:
        remedy = "Every array holds the same examples."
        raise unexpected(f"examples in {where}", sizes, "to be the same number", remedy)
    size = next(iter(sizes.values()))
    if size == 0:
        raise unexpected(f"examples in {where}", 0, "to be at least 1", "Leave it out.")
    return size
