"""Which columns of runs hold numbers, which whole ones; and rows as a frame of these types."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeGuard

FRACTIONS = ("train_fraction", "sparsity", "achieved_sparsity", "final_lr", "seconds")
INTEGERS = ("_epoch", "_step", "_seed", "epochs_trained", "replicate")
"""How the names of columns of whole numbers end."""
Table = Any
"""A pandas.DataFrame: its methods are typed for all kinds of columns at once, which helps no
checker."""


def is_number(value: Any) -> TypeGuard[float]:
    """Tells whether a record's value is a number; JSON's true and false are none.

    Example:
        >>> is_number(1), is_number(True), is_number(None)
        (True, False, False)
    """
    return isinstance(value, int | float) and not isinstance(value, bool)


def check(row: Mapping[str, Any], floats: Collection[str]) -> None:
    """Checks that columns of numbers hold finite numbers, or None.

    Args:
        row: column -> value.
        floats: columns of numbers that need not be whole, besides `FRACTIONS`.

    Raises:
        TypeError: one holds something else.

    Example:
        >>> check({"fork_epoch": 2, "sparsity": 0.5, "scope": "global", "replicate": None}, ())
        >>> check({"fork_epoch": 2.5}, ())
        Traceback (most recent call last):
        TypeError: fork_epoch is 2.5
    """
    for name, value in row.items():
        kind = "object" if value is None else dtype(name, floats)
        fits_int64 = isinstance(value, int) and abs(value) < 2**63
        if kind in ("float64", "Int64") and not (
            is_number(value) and (fits_int64 or (kind == "float64" and math.isfinite(value)))
        ):
            raise TypeError(f"{name} is {value!r}")


def dtype(column: str, floats: Collection[str]) -> Any:
    """Returns the pandas type of a column; `floats` as of `check`.

    Example:
        >>> dtype("test_loss", ["test_loss"]), dtype("fork_epoch", ()), dtype("scope", ())
        ('float64', 'Int64', 'object')
    """
    if column in FRACTIONS or column in floats:
        return "float64"
    is_whole = column.endswith(INTEGERS) and "." not in column
    return "bool" if column == "complete" else "Int64" if is_whole else "object"


def frame(
    rows: Sequence[Mapping[str, Any]], columns: Iterable[str], floats: Collection[str]
) -> Table:
    """Makes a frame of rows.

    Args:
        rows: column -> value; what is absent has no value.
        columns: of the frame.
        floats: as of `check`.

    Returns:
        The frame.
    """
    import pandas as pd

    values = {name: [row.get(name) for row in rows] for name in columns}
    return pd.DataFrame(
        {name: pd.Series(held, dtype=dtype(name, floats)) for name, held in values.items()}
    )
