"""A rule as text, as configs hold it: first(peak(fisher_trace, smoothing=3), mine:Rule(a=1),
epoch(20))."""

import contextlib
import dataclasses
from collections.abc import Collection, Iterable
from typing import Any

from earlyprune_jax import references, validate
from earlyprune_jax.references import Reference, Written
from earlyprune_jax.triggers.rules import RULES, Combination
from earlyprune_jax.triggers.trigger import Trigger, check_column, check_options, kind_of
from earlyprune_jax.validate import InvalidInput, expected, gathering, nearest, unexpected

EXAMPLE = "Write it like peak(fisher_trace, smoothing=3) or first(early_bird(), epoch(20))."


def parse(text: str, columns: Iterable[str] | None = None) -> Trigger:
    """Reads a rule. The first argument may stand without a name, options are NAME=NUMBER.

    Nothing is evaluated: the text is taken apart, and only the rules of `RULES` are made, and those
    of the user's that are named by import path: subclasses of `Trigger`.

    Args:
        text: e.g. "peak(fisher_trace)", "all(early_bird(), epoch(5))".
        columns: what a history will hold; test metrics among them are no choice. None = anything.

    Returns:
        The rule; `str` of it is the canonical text, and `parse(str(trigger)) == trigger`.

    Raises:
        InvalidInput: with every problem found.

    Example:
        >>> str(parse("first( early_bird(threshold =.2), epoch(20) )"))
        'first(early_bird(mask_distance, threshold=0.2), epoch(20))'
    """
    problems: list[str] = []
    choices = None if columns is None else [name for name in columns if not check_column(name)]
    with gathering(problems):
        if not isinstance(text, str) or not text.strip():
            raise unexpected("rule", text, "to name one", EXAMPLE)
        if trigger := _rule(references.read(text, "rule", EXAMPLE), choices, problems):
            return trigger
    raise InvalidInput(dict.fromkeys(problems))


def label(text: str) -> str:
    """Shortens a canonical text for people: no option at its default.

    What is no canonical text stays as it is: of an earlier version, with other defaults, or of code
    that cannot be loaded.

    Example:
        >>> label("first(early_bird(mask_distance, threshold=0.1), epoch(20))"), label("peak(x)")
        ('first(early_bird(), epoch(20))', 'peak(x)')
    """
    with contextlib.suppress(Exception):  # whatever code of the user's raises
        trigger = parse(text)
        return trigger.label if str(trigger) == text else text
    return text


def check(text: str, columns: Iterable[str]) -> list[str]:
    """Lists every problem of a text: those of `parse`, and columns that are not measured.

    Example:
        >>> check("peak(fisher_trac)", ["fisher_trace", "test_loss"])
        ["Expected column='fisher_trac' to be one of fisher_trace. Did you mean 'fisher_trace'?"]
    """
    return validate.problems_of(lambda: parse(text, columns))


def _rule(written: Any, choices: Collection[str] | None, problems: list[str]) -> Trigger | None:
    """Makes a rule, going on after a problem so that all are found; None where there is one.

    Args:
        written: what `references.read` gives.
        choices: the columns that are measured; None = anything.
        problems: takes what is wrong.
    """
    num_problems = len(problems)
    rule: Any = None
    with gathering(problems):
        rule = _class_of(written)
    if rule is None:
        # What stands inside may hold problems of its own.
        for part in getattr(written, "arguments", ()):
            if isinstance(part, Reference):
                _rule(part, choices, problems)
        return None
    if issubclass(rule, Combination):
        members = [_rule(part, choices, problems) for part in written.arguments]
        options: dict[str, Any] = {"members": tuple(members)}
        problems += [
            expected(f"{rule.name}({name})", value, "to be absent", "It holds rules only.")
            for name, value in written.options
        ]
    else:
        options = _options(rule, written, choices, problems)
    with gathering(problems):
        return rule(**options) if len(problems) == num_problems else None
    return None


def _class_of(written: Any) -> type[Trigger]:
    """Finds the class of a rule, built-in or the user's.

    Raises:
        InvalidInput: there is none.
    """
    if not isinstance(written, Reference):
        name = str(written)
        remedy = f"E.g. {RULES[name].example}." if name in RULES else nearest(name, RULES)
        if isinstance(written, Written) and "(" in name:
            remedy = "Combine rules by first(..., ...) or all(..., ...)."
        raise unexpected("rule", written, "to be NAME(...)", remedy or EXAMPLE)
    rule: Any = references.load("rule", written.path, RULES)
    if not (isinstance(rule, type) and issubclass(rule, Trigger)):
        allowed = f"to be a subclass of Trigger, not a {type(rule).__name__}"
        raise unexpected("rule", written.path, allowed, "See docs/extending.md.")
    return rule


def _options(
    rule: type[Trigger], written: Reference, choices: Collection[str] | None, problems: list[str]
) -> dict[str, Any]:
    """Reads the options of a rule that is no combination. Arguments as of `_rule`."""
    fields = {field.name: field for field in dataclasses.fields(rule)}
    for extra in written.arguments[1:]:
        remedy = f"Only the first argument needs none; the names are {', '.join(fields)}."
        problems.append(expected(f"{rule.name}(...)", extra, "to have a name", remedy))
    options: dict[str, Any] = {}
    for name, value in (*zip(fields, written.arguments[:1], strict=False), *written.options):
        if name not in fields:
            thing = f"option of {rule.name}"
            problems.append(validate.unknown_choice(thing, name, tuple(fields)))
        elif name in options:
            problems.append(expected(f"{rule.name}({name})", value, "to be given once"))
        else:
            is_name = isinstance(value, Written) and value.text.isidentifier()
            options[name] = value.text if is_name else references.frozen(value)
    problems += check_options(rule, options)
    for name, field in fields.items():
        value = options.get(name, field.default)
        if value is dataclasses.MISSING:
            problems.append(f"Expected {rule.name}({name}) to be given. E.g. {rule.example}.")
        is_column = kind_of(field) == "column" and not check_column(value)
        if is_column and choices is not None and value not in choices:
            hint = nearest(str(value), choices) or "Measure its signal, or take another."
            allowed = f"to be one of {', '.join(choices)}"
            problems.append(expected("column", value, allowed, hint))
    return options
