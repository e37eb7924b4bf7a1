"""What every rule is: a frozen value that maps the measured past to "now", "then", or nothing."""

import dataclasses
import keyword
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from earlyprune_jax.validate import Check, anything, expected, refuse

History = Sequence[Mapping[str, Any]]
"""One mapping an epoch, ascending, of the past only: "epoch", columns of numbers or None, and the
planned length "num_epochs", which options that are fractions of it need."""

Points = list[tuple[int, float]]
"""(epoch, value) of the measurements of one column."""


@dataclasses.dataclass(frozen=True)
class Firing:
    """A rule's decision.

    Attributes:
        epoch: the epoch after which the rule fired: the first at which it could know.
        marked_epoch: the epoch the rule says was right; before `epoch` where a rule looks back.
        reason: what was seen, with its numbers.
    """

    epoch: int
    marked_epoch: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Trigger:
    """A rule: history -> its first firing, or None while it has not fired.

    Guarantees, for every rule:

    - It is causal: appending epochs never changes a firing, and `trigger(history)` is the
      first that any beginning of the history gives. So asking after every epoch (online) and
      asking once at the end (offline) agree; it fires *now* if `firing.epoch` is the last epoch.
    - Values that are missing, None or not finite are skipped: such an epoch was not measured.
    - It never reads a test metric, and reads nothing but `columns` and the epochs.
    - `parse(str(trigger)) == parse(trigger.label) == trigger`.

    Raises:
        InvalidInput: (when made) an option is of the wrong type or out of range; names all.
    """

    name: ClassVar[str]
    """What the rule is called in a config: of the user's own its import path."""

    example: ClassVar[str] = "See its documentation."
    """A text that makes one."""

    def __init_subclass__(cls, *, name: str = "", example: str = "", **options: Any):
        super().__init_subclass__(**options)
        if name or "name" not in cls.__dict__:
            cls.name = name or f"{cls.__module__}:{cls.__qualname__}"
        cls.example = example or cls.example

    def __post_init__(self):
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        refuse(check_options(type(self), options))
        for field in dataclasses.fields(self):
            # Equal rules have equal texts: 1 and 1.0 are the same option.
            if kind_of(field) == "number" and options[field.name] is not None:
                object.__setattr__(self, field.name, float(options[field.name]))

    def __call__(self, history: History) -> Firing | None:
        """Returns the rule's first firing in the history; None while it has not fired."""
        raise NotImplementedError

    @property
    def columns(self) -> tuple[str, ...]:
        """Lists the columns it reads, each once, in the order of its text."""
        return tuple(
            getattr(self, field.name)
            for field in dataclasses.fields(self)
            if kind_of(field) == "column"
        )

    looks_back = False
    """Whether a marked epoch can lie before the epoch of firing."""

    def __str__(self) -> str:
        """Writes the canonical text: the first argument unnamed, every option that is not None.

        So the text of a rule says the same when a default changes: runs are known by it.
        """
        return self._text(
            lambda field, value: value != field.default or (kind_of(field) and value is not None)
        )

    @property
    def label(self) -> str:
        """Writes the rule for people: no option at its default. `parse` reads it, too.

        Example:
            >>> from earlyprune_jax.triggers import EarlyBird
            >>> print(EarlyBird(), EarlyBird().label)
            early_bird(mask_distance, threshold=0.1) early_bird()
        """
        return self._text(lambda field, value: value != field.default)

    def _text(self, is_shown: Callable[[dataclasses.Field, Any], Any]) -> str:
        parts = []
        for index, field in enumerate(dataclasses.fields(self)):
            value = getattr(self, field.name)
            if is_shown(field, value):
                name = "" if index == 0 else f"{field.name}="
                is_word = isinstance(value, str) and value.isidentifier()
                is_bare = is_word and not keyword.iskeyword(value)
                parts.append(f"{name}{value if is_bare else repr(value)}")
        return f"{self.name}({', '.join(parts)})"


def option(
    kind: str, default: Any = dataclasses.MISSING, check: Check = anything, **how: Any
) -> Any:
    """Declares an option of a rule.

    Args:
        kind: "column", "whole number", "number", or "length": a whole number of measurements or
            a fraction of the planned epochs.
        default: its value where none is given.
        check: what its value must pass.
        how: further arguments of `dataclasses.field`.

    Returns:
        The field.
    """
    return dataclasses.field(default=default, metadata={"kind": kind, "check": check}, **how)


def kind_of(field: dataclasses.Field) -> str:
    """Returns the kind given to `option`; empty for anything else."""
    return field.metadata.get("kind", "")


def measured(history: History, column: str) -> Points:
    """Lists (epoch, value) wherever the column holds a finite number.

    Example:
        >>> measured([{"epoch": 1, "x": 2.0}, {"epoch": 2, "x": None}, {"epoch": 3}], "x")
        [(1, 2.0)]
    """
    return [
        (entry["epoch"], float(entry[column])) for entry in history if is_finite(entry.get(column))
    ]


def is_finite(value: Any) -> bool:
    """Tells whether a value is a finite number, of Python, NumPy or JAX (an array of one); a bool
    is none."""
    is_boolean = isinstance(value, bool) or str(getattr(value, "dtype", "")) == "bool"
    if is_boolean or isinstance(value, str) or not hasattr(value, "__float__"):
        return False
    try:
        return math.isfinite(float(value))
    except (OverflowError, TypeError):  # an integer beyond every float; an array of several
        return False


SPREADS = ("_standard_error", "_std")
"""How columns end that say how sure another one is."""


def fires_at(epoch: int, reason: str) -> Firing:
    """Makes the firing of a rule that does not look back."""
    return Firing(epoch, epoch, reason)


def check_column(value: Any) -> str | None:
    """Says what is allowed as a column if the value is not, else None."""
    if not isinstance(value, str) or not value:
        return "to be the name of a column"
    if value.endswith(SPREADS):
        return "to be a measurement, not its error"
    if value.startswith("test_"):
        return (
            "to be no test metric. Decisions never look at the test set: use a train or validation "
            "metric, or a signal"
        )
    return None


def check_options(rule: type[Trigger], options: Mapping[str, Any]) -> list[str]:
    """Lists the problems of some of a rule's options: type and range."""
    return [
        expected(f"{rule.name}({field.name})", options[field.name], allowed)
        for field in dataclasses.fields(rule)
        if field.name in options and (allowed := _allowed(field, options[field.name]))
    ]


def _allowed(field: dataclasses.Field, value: Any) -> str | None:
    """Says what is allowed as an option if the value is not, else None."""
    kind = kind_of(field)
    if kind == "column":
        return check_column(value)
    if not kind or (value is None and field.default is None):
        return None
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if kind == "whole number" and not is_whole:
        return "to be a whole number"
    if not is_finite(value):
        return "to be a finite number"
    if kind == "length" and not _is_length(value):
        return "to be a whole number of measurements, or a fraction of the epochs in (0, 1)"
    return field.metadata["check"](value)


def _is_length(value: Any) -> bool:
    return value >= 1 if isinstance(value, int) else 0 < value < 1
