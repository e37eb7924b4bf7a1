"""A rule as text, as configs hold it: first(peak(fisher_trace, smoothing=3), mine:Rule(a=1),
epoch(20))."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from earlyprune_jax import references
from earlyprune_jax.references import Reference, Written
from earlyprune_jax.triggers.rules import RULES, Combination
from earlyprune_jax.triggers.trigger import Trigger, check_column, check_options, kind_of
from earlyprune_jax.validate import InvalidInput, expected, nearest, unexpected, unknown_choice

EXAMPLE = "Write it like peak(fisher_trace, patience=2) or first(early_bird(), epoch(20))."
MAX_LENGTH = 2000


def parse(text: str) -> Trigger:
    """Reads a rule. The first argument may stand without a name, options are NAME=NUMBER.

    Nothing is evaluated: the text is taken apart, and only the rules of `RULES` are made, and those
    of the user's that are named by import path: subclasses of `Trigger`.

    Args:
        text: e.g. "peak(fisher_trace)", "all(early_bird(), epoch(5))".

    Returns:
        The rule; `str` of it is the canonical text, and `parse(str(trigger)) == trigger`.

    Raises:
        InvalidInput: with every problem found.

    Example:
        >>> str(parse("first( peak(fisher_trace,patience = 2), epoch(20) )"))
        'first(peak(fisher_trace), epoch(20))'
    """
    reader = _Reader()
    trigger = reader.read(text)
    if trigger is None:
        raise InvalidInput(reader.problems)
    return trigger


def check(text: str, columns: Iterable[str]) -> list[str]:
    """Lists every problem of a text: those of `parse`, and columns that are not measured.

    Args:
        text: a rule.
        columns: what a history will hold; test metrics among them are no choice.

    Returns:
        Problems in the wording of `validate`; empty for a usable rule.

    Example:
        >>> check("peak(fisher_trac)", ["fisher_trace", "test_loss"])
        ["Expected column='fisher_trac' to be one of fisher_trace. Did you mean 'fisher_trace'?"]
    """
    reader = _Reader()
    reader.read(text)
    choices = [column for column in columns if check_column(column) is None]
    for column in dict.fromkeys(reader.columns):
        if check_column(column) is None and column not in choices:
            remedy = "Measure the signal it belongs to, or take another."
            allowed = f"to be one of {', '.join(choices)}"
            hint = nearest(column, choices) or remedy
            reader.problems.append(expected("column", column, allowed, hint))
    return reader.problems


class _Reader:
    """Makes a rule from a text, going on after a problem so that all are found.

    Attributes:
        problems: all that were found.
        columns: those that the rules read.
    """

    def __init__(self):
        self.problems: list[str] = []
        self.columns: list[str] = []

    def read(self, text: str) -> Trigger | None:
        """Makes the rule; None, with the problems noted, where that fails."""
        try:
            if not isinstance(text, str) or not text.strip():
                raise unexpected("rule", text, "to name one", EXAMPLE)
            if len(text) > MAX_LENGTH:
                allowed = f"to have at most {MAX_LENGTH} characters"
                raise unexpected("rule", text[:40], allowed)
            return self._rule(references.read(text, "rule", EXAMPLE))
        except InvalidInput as error:
            self.problems += error.problems
            return None

    def _rule(self, written: Any) -> Trigger | None:
        num_problems = len(self.problems)
        try:
            if not isinstance(written, Reference):
                raise unexpected("rule", written, "to be NAME(...)", _remedy(written))
            rule: Any = references.load("rule", written.path, RULES)
            if not (isinstance(rule, type) and issubclass(rule, Trigger)):
                allowed = f"to be a subclass of Trigger, not a {type(rule).__name__}"
                raise unexpected("rule", written.path, allowed, "See docs/extending.md.")
        except InvalidInput as error:
            self.problems += error.problems
            # What stands inside may hold problems of its own.
            for inner in getattr(written, "arguments", ()):
                if isinstance(inner, Reference):
                    self._rule(inner)
            return None
        read = self._members if issubclass(rule, Combination) else self._options
        options = read(rule, written)
        try:
            return rule(**options) if len(self.problems) == num_problems else None
        except InvalidInput as error:
            self.problems += error.problems
            return None

    def _members(self, rule: type[Trigger], written: Reference) -> dict[str, Any]:
        for name, value in written.options:
            thing = f"{rule.name}({name})"
            self.problems.append(expected(thing, value, "to be absent", "It holds rules only."))
        return {"members": tuple(self._rule(member) for member in written.arguments)}

    def _options(self, rule: type[Trigger], written: Reference) -> dict[str, Any]:
        fields = {field.name: field for field in dataclasses.fields(rule)}
        for extra in written.arguments[1:]:
            remedy = f"Only the first argument needs none; the names are {', '.join(fields)}."
            self.problems.append(expected(f"{rule.name}(...)", extra, "to have a name", remedy))
        first = zip(fields, written.arguments[:1], strict=False)
        options: dict[str, Any] = {}
        for name, value in (*first, *written.options):
            if name not in fields:
                self.problems.append(unknown_choice(f"option of {rule.name}", name, tuple(fields)))
            elif name in options:
                self.problems.append(expected(f"{rule.name}({name})", value, "to be given once"))
            else:
                is_name = isinstance(value, Written) and value.text.isidentifier()
                options[name] = value.text if is_name else references.frozen(value)
        self.problems += check_options(rule, options)
        for name, field in fields.items():
            value = options.get(name, field.default)
            if value is dataclasses.MISSING:
                missing = f"Expected {rule.name}({name}) to be given. E.g. {rule.example}."
                self.problems.append(missing)
            elif kind_of(field) == "column" and isinstance(value, str):
                self.columns.append(value)
        return options


def _remedy(written: Any) -> str:
    """Says what to write instead of something that is no rule."""
    if isinstance(written, Written) and "(" in written.text:
        return "Combine rules by first(..., ...) or all(..., ...)."
    name = str(written)
    return f"E.g. {RULES[name].example}." if name in RULES else nearest(name, RULES) or EXAMPLE
