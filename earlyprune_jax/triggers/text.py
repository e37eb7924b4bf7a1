"""A rule as text, as configs hold it: first(peak(fisher_trace, smoothing=3), mine:Rule(a=1),
epoch(20))."""

import ast
import contextlib
import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from earlyprune_jax import references
from earlyprune_jax.triggers.combinations import All, Combination, First
from earlyprune_jax.triggers.rules import AtEpoch, EarlyBird, EarlyCrop, Peak, Plateau, Threshold
from earlyprune_jax.triggers.trigger import Trigger, check_column, check_options, kind_of
from earlyprune_jax.validate import InvalidInput, expected, nearest, unknown_choice

RULES: dict[str, type[Trigger]] = {
    rule.name: rule
    for rule in (Peak, EarlyBird, EarlyCrop, Threshold, AtEpoch, Plateau, First, All)
}
"""Every rule, by its name in a text."""

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
    if trigger is None or reader.problems:
        raise InvalidInput(reader.problems)
    return trigger


def check(text: str, columns: Iterable[str]) -> list[str]:
    """Every problem of a text: those of `parse`, and columns that are not measured.

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
    wanted = (column for column in dict.fromkeys(reader.columns) if check_column(column) is None)
    missing = (column for column in wanted if column not in choices)
    return reader.problems + [_unknown_column(column, choices) for column in missing]


def _unknown_column(column: str, choices: list[str]) -> str:
    remedy = nearest(column, choices) or "Measure the signal it belongs to, or take another."
    return expected("column", column, f"to be one of {', '.join(choices)}", remedy)


class _Reader:
    """Builds a rule from a text, going on after a problem so that all are found."""

    def __init__(self):
        self.problems: list[str] = []
        self.columns: list[str] = []
        # A colon is no part of a Python expression: import paths stand aside while the text is
        # read.
        self._paths: dict[str, str] = {}

    def read(self, text: str) -> Trigger | None:
        made = self._read(text)
        for name, path in self._paths.items():
            self.problems = [problem.replace(name, path) for problem in self.problems]
        return made

    def _named(self, text: str) -> str:
        """The text with names in place of import paths."""

        def name_of(found: re.Match[str]) -> str:
            if found.group(0)[0] in "'\"":
                return found.group(0)
            name = f"own_rule_{len(self._paths)}_"
            self._paths[name] = found.group(0)
            return name

        return re.sub(rf"'[^']*'|\"[^\"]*\"|{references.IMPORT_PATH.pattern}", name_of, text)

    def _read(self, text: str) -> Trigger | None:
        if not isinstance(text, str) or not text.strip():
            self.problems.append(expected("rule", text, "to name one", EXAMPLE))
            return None
        if len(text) > MAX_LENGTH:
            self.problems.append(
                expected("rule", text[:40], f"to have at most {MAX_LENGTH} characters")
            )
            return None
        try:
            tree = ast.parse(self._named(text.strip()), mode="eval")
            return self._rule(tree.body)
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            self.problems.append(expected("rule", text, *_why_unreadable(text, error)))
            return None

    def _rule(self, node: ast.expr) -> Trigger | None:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            self.problems.append(expected("rule", _Written(node), "to be NAME(...)", _remedy(node)))
            return None
        own = self._paths.get(node.func.id)
        rule = self._own(own) if own else RULES.get(node.func.id)
        if rule is None and own:
            return None
        if rule is None:
            self.problems.append(unknown_choice("rule", node.func.id, tuple(RULES)))
            # What stands inside may hold problems of its own.
            self._members([one for one in node.args if isinstance(one, ast.Call)])
            return None
        found = len(self.problems)
        read = self._combined if issubclass(rule, Combination) else self._options
        arguments = read(rule, node)
        return self._make(rule, arguments) if len(self.problems) == found else None

    def _own(self, path: str) -> type[Trigger] | None:
        """The class an import path names; None, with the problem noted, where it is no rule."""
        try:
            found = references.load("rule", path, {})
        except InvalidInput as error:
            self.problems += error.problems
            return None
        if isinstance(found, type) and issubclass(found, Trigger):
            return found
        allowed = f"to be a subclass of Trigger, not a {type(found).__name__}"
        self.problems.append(expected("rule", path, allowed, "See docs/extending.md."))
        return None

    def _make(self, rule: type[Trigger], arguments: dict[str, Any]) -> Trigger | None:
        try:
            return rule(**arguments)
        except InvalidInput as error:
            self.problems += error.problems
            return None

    def _combined(self, rule: type[Trigger], node: ast.Call) -> dict[str, Any]:
        for word in node.keywords:
            thing, remedy = f"{rule.name}({word.arg or '**'})", "It holds rules only."
            self.problems.append(expected(thing, _Written(word.value), "to be absent", remedy))
        return {"members": self._members(node.args)}

    def _members(self, nodes: list[ast.expr]) -> tuple[Trigger | None, ...]:
        return tuple(self._rule(node) for node in nodes)

    def _options(self, rule: type[Trigger], node: ast.Call) -> dict[str, Any]:
        fields = {field.name: field for field in dataclasses.fields(rule)}
        names = ", ".join(fields)
        options = {
            name: _value(argument) for name, argument in zip(fields, node.args[:1], strict=False)
        }
        for extra in node.args[1:]:
            remedy = f"Only the first argument needs none; the names are {names}."
            self.problems.append(
                expected(f"{rule.name}(...)", _Written(extra), "to have a name", remedy)
            )
        for word in node.keywords:
            name = word.arg or "**"
            if name not in fields:
                self.problems.append(unknown_choice(f"option of {rule.name}", name, tuple(fields)))
            elif name in options:
                written = _Written(word.value)
                self.problems.append(expected(f"{rule.name}({name})", written, "to be given once"))
            else:
                options[name] = _value(word.value)
        self.problems += check_options(rule, options)
        self._note(rule, fields, options)
        return options

    def _note(
        self, rule: type[Trigger], fields: dict[str, dataclasses.Field], options: dict[str, Any]
    ) -> None:
        """Remembers the columns that are read, and reports what must be given and is not."""
        for name, field in fields.items():
            value = options.get(name, field.default)
            if value is dataclasses.MISSING:
                self.problems.append(
                    f"Expected {rule.name}({name}) to be given. E.g. {rule.example}."
                )
            elif kind_of(field) == "column" and isinstance(value, str):
                self.columns.append(value)


def _value(node: ast.expr) -> Any:
    """A number, or a name as text; anything else is kept as it was written, which no option
    takes."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        return node.value
    if isinstance(node, ast.Tuple | ast.List | ast.Dict | ast.Set):
        with contextlib.suppress(ValueError):
            return _frozen(ast.literal_eval(node))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _value(node.operand)
        return -inner if type(inner) in (int, float) else _Written(node)
    return _Written(node)


def _frozen(value: Any) -> Any:
    """Lists as tuples: a rule is a value that can be hashed."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


class _Written:
    """Part of a text, shown in messages as it was written."""

    def __init__(self, node: ast.expr):
        self.text = ast.unparse(node)

    def __repr__(self) -> str:
        return self.text


def _remedy(node: ast.expr) -> str:
    """What to write instead of something that is no rule."""
    if isinstance(node, ast.Tuple | ast.BoolOp | ast.BinOp):
        return "Combine rules by first(..., ...) or all(..., ...)."
    if isinstance(node, ast.Name) and node.id in RULES:
        return f"E.g. {RULES[node.id].example}."
    named = nearest(node.id, RULES) if isinstance(node, ast.Name) else ""
    return named or EXAMPLE


def _why_unreadable(text: str, error: Exception) -> tuple[str, str]:
    """What was expected of a text that is no expression, and the remedy."""
    opened, closed = text.count("("), text.count(")")
    if opened != closed:
        counts = f"It has {opened} '(' and {closed} ')'."
        return "to have as many closing as opening parentheses", counts
    detail = error.msg if isinstance(error, SyntaxError) else type(error).__name__
    return f"to be readable ({detail})", EXAMPLE
