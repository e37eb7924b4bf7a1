"""One wording for every error: the thing, its value, what is allowed, the remedy.

Checks return text instead of raising, so that a caller can gather every problem
before it stops; `InvalidInput` carries them all to the user at once.
"""

import contextlib
import difflib
import math
import os.path
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from earlyprune_jax.leaving import BAD_INPUT

Check = Callable[[Any], str | None]
"""Takes a value; returns what is allowed if the value is not, else None."""
LONGEST_VALUE = 200
"""Characters of a value in a message."""
CLOSE = 0.6
"""difflib's ratio from which a name may have been meant."""


class InvalidInput(ValueError):
    """What the user gave cannot be used; `problems` lists every reason found.

    Example:
        >>> InvalidInput(["Expected a.b=2 in [0, 1)."]).problems
        ('Expected a.b=2 in [0, 1).',)
    """

    def __init__(self, problems: Iterable[str]):
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self):
        # By default an exception is unpickled from its message: every letter would become a
        # problem.
        return type(self), (self.problems,)


def expected(thing: str, value: Any, allowed: str, remedy: str = "") -> str:
    """Writes the sentence every error is built from.

    Args:
        thing: what was given: a config key, a flag, an argument.
        value: what it was given as; the middle of a long one is left out.
        allowed: completes "Expected thing=value ...": "in [0, 1)", "to be a name".
        remedy: what to do about it, in sentences.

    Returns:
        The sentences.

    Example:
        >>> expected("pruning.sparsity", 1.2, "in [0, 1)", "Give the fraction removed.")
        'Expected pruning.sparsity=1.2 in [0, 1). Give the fraction removed.'
    """
    end = "" if allowed.endswith("?") else "."
    return f"Expected {thing}={shown(value)} {allowed}{end} {remedy}".rstrip()


def shown(value: Any) -> str:
    """Writes a value as Python does; of a long one, such as a tree of arrays, both ends.

    Example:
        >>> len(shown(list(range(1000)))), shown(list(range(1000)))[-12:]
        (203, '7, 998, 999]')
    """
    try:
        text = repr(value)
    except BaseException:  # of the user's classes, of what holds itself, of 5,000 digits
        text = f"{type(value).__name__} that cannot be shown"
    if len(text) <= LONGEST_VALUE:
        return text
    text = " ".join(text.split())
    both_ends = f"{text[: LONGEST_VALUE - 50]} … {text[-50:]}"
    return min(text, both_ends, key=len)


def unexpected(thing: str, value: Any, allowed: str, remedy: str = "") -> InvalidInput:
    """Makes the error of a single problem.

    Args:
        thing: as of `expected`.
        value: likewise.
        allowed: likewise.
        remedy: likewise.

    Returns:
        The error, to be raised.

    Example:
        >>> raise unexpected("pruning.sparsity", 1.2, "in [0, 1)")
        Traceback (most recent call last):
        earlyprune_jax.validate.InvalidInput: Expected pruning.sparsity=1.2 in [0, 1).
    """
    return InvalidInput([expected(thing, value, allowed, remedy)])


def refuse(problems: Iterable[str]) -> None:
    """Raises the error of all problems, each named once; does nothing if there are none.

    Raises:
        InvalidInput: there is a problem.
    """
    if different := tuple(dict.fromkeys(problems)):
        raise InvalidInput(different)


@contextlib.contextmanager
def gathering(problems: list[str]) -> Iterator[None]:
    """Adds the problems of an InvalidInput that is raised inside to a list, and goes on behind it.

    Example:
        >>> problems = []
        >>> with gathering(problems):
        ...     raise unexpected("epoch", 0, "to be at least 1")
        >>> problems
        ['Expected epoch=0 to be at least 1.']
    """
    try:
        yield
    except InvalidInput as error:
        problems += error.problems


def problems_of(check: Callable[[], Any], prefix: str = "") -> list[str]:
    """Lists the problems that a function returns or raises; other return values are none.

    Example:
        >>> problems_of(lambda: ["Expected a=1 to be 2."], "b: "), problems_of(dict)
        (['b: Expected a=1 to be 2.'], [])
    """
    problems: list[str] = []
    with gathering(problems):
        returned = check()
        problems += returned if isinstance(returned, list) else []
    return [f"{prefix}{problem}" for problem in problems]


def nearest(value: str, choices: Iterable[str]) -> str:
    """Hints at the choice closest to `value`, or at nothing.

    Example:
        >>> nearest("resnet2O", ["resnet20", "resnet18"])
        "Did you mean 'resnet20'?"
        >>> nearest("workdirr", ["fork.trigger"])
        ''
    """

    def closeness(name: str) -> tuple[float, int]:
        ratio = difflib.SequenceMatcher(None, str(value), name).ratio()
        # Names often differ in their last digit: a longer common beginning breaks ties.
        return ratio, len(os.path.commonprefix([str(value), name]))

    best = max(choices, key=closeness, default="")
    return f"Did you mean {best!r}?" if closeness(best)[0] >= CLOSE else ""


def unknown_choice(thing: str, value: Any, choices: Sequence[str]) -> str:
    """Writes the error for a name that is none of `choices`: lists them and names the nearest.

    Args:
        thing: as of `expected`.
        value: as of `expected`.
        choices: the names that are allowed.

    Returns:
        The sentence.
    """
    return expected(thing, value, f"to be one of {', '.join(choices)}", nearest(value, choices))


def shortened(problems: list[str], at_most: int = 12) -> list[str]:
    """Keeps the first problems of many of one kind, and how many more there are.

    Example:
        >>> shortened(["a", "b", "c"], at_most=2)
        ['a', 'b', '... and 1 more like it.']
    """
    rest = len(problems) - at_most
    return problems if rest <= 0 else [*problems[:at_most], f"... and {rest} more like it."]


def answer(report: Callable[[], str | None]) -> int:
    """Prints what a command reports; nothing where it has printed that itself, and gives None.

    Returns:
        0, or 2 where its input cannot be used: the problems are on standard error then.

    Example:
        >>> answer(lambda: "3 runs")
        3 runs
        0
    """
    try:
        if (said := report()) is not None:
            print(said)
    except InvalidInput as error:
        print("\n".join(f"- {problem}" for problem in error.problems), file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        if error.filename is None:
            raise  # It is not the input's: a disk is full.
        allowed = f"to be a file or directory that can be used ({error.strerror})"
        print(f"- {expected('PATH', error.filename, allowed)}", file=sys.stderr)
        return BAD_INPUT
    return 0


def one_of(*choices: str) -> Check:
    """Makes a check that passes the given names only."""

    def check(value: Any) -> str | None:
        return None if value in choices else f"to be one of {', '.join(choices)}"

    return check


def within(
    low: float, high: float = math.inf, *, open_low: bool = False, open_high: bool = False
) -> Check:
    """Makes a check that a finite number lies in an interval.

    Args:
        low: its lower end.
        high: its upper end.
        open_low: the lower end does not belong to it.
        open_high: the upper end does not; one at infinity never does.

    Returns:
        The check.
    """
    open_high = open_high or high == math.inf
    interval = f"{'(' if open_low else '['}{low:.10g}, {high:.10g}{')' if open_high else ']'}"

    def check(value: float) -> str | None:
        above = value > low if open_low else value >= low
        below = value < high if open_high else value <= high
        # Both comparisons fail for nan, and an end at infinity is open: what passes is finite.
        return None if above and below else f"in {interval}"

    return check


def fraction(*, open_low: bool = False, open_high: bool = False) -> Check:
    """Makes a check that a number lies between 0 and 1, which hints at what percent may have meant.

    Args:
        open_low: 0 does not belong to it.
        open_high: 1 does not.

    Returns:
        The check.

    Example:
        >>> fraction(open_high=True)(97.0)
        'in [0, 1): did you mean 0.97?'
    """
    in_range = within(0, 1, open_low=open_low, open_high=open_high)

    def check(value: float) -> str | None:
        allowed = in_range(value)
        return f"{allowed}{percent_hint(value)}" if allowed else None

    return check


def percent_hint(value: float) -> str:
    """Asks whether a number from 2 to below 100 was meant in percent.

    What is just above 1 is a slip, and no percent that anybody would ask for.

    Example:
        >>> percent_hint(80), percent_hint(1.2)
        (': did you mean 0.8?', '')
    """
    return f": did you mean {float(value) / 100:g}?" if 2 <= value < 100 else ""


def each(check: Check, *, at_least: int = 0, unique: bool = True) -> Check:
    """Makes a check of a tuple.

    Args:
        check: what every element must pass.
        at_least: how many there must be.
        unique: they must differ from one another.

    Returns:
        The check.
    """

    def check_all(values: Sequence[Any]) -> str | None:
        if len(values) < at_least:
            return f"to have at least {at_least} element{'s' if at_least > 1 else ''}"
        if unique and len(set(values)) < len(values):
            return "to have no element twice"
        failed = next((allowed for allowed in map(check, values) if allowed), None)
        return f"to have every element {failed}" if failed else None

    return check_all


def anything(_: Any) -> None:
    """Passes everything: the type alone decides."""
