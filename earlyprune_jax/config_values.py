"""Values of config keys: read as text, converted to a key's type, references in one spelling."""

import ast
import math
import typing
from typing import Any

from earlyprune_jax import references
from earlyprune_jax.validate import InvalidInput

REFERENCES = (
    "data.name",
    "model.name",
    "task.name",
    "optim.name",
    "schedule.name",
    "pruning.criteria",
    "pruning.scopes",
    "fork.trigger",
    "fork.rules",
    "signals.names",
    "signals.mask_criterion",
    "signals.mask_scope",
)
"""Keys that may name the user's code."""


def parse(text: str, kind: Any) -> Any:
    """Reads a command-line value as the type of its key.

    Raises:
        ValueError: the text is no value of that type.

    Example:
        >>> parse("1e-3", float), parse("0,1", tuple[int, ...]), parse("true", bool)
        (0.001, (0, 1), True)
        >>> parse("magnitude,mine:score(a=1, b=2)", tuple[str, ...])
        ('magnitude', 'mine:score(a=1, b=2)')
    """
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        bare = text.strip()
        bare = bare[1:-1] if bare[:1] in ("(", "[") and bare[-1:] in (")", "]") else bare
        return tuple(parse(unquoted(part), element) for part in references.split_list(bare))
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()]
    if kind is str:
        return text
    value = ast.literal_eval(text) if kind is int else float(text)
    if kind is int and type(value) is not int:
        raise ValueError(text)
    return value


def unquoted(text: str) -> str:
    """Takes the quotes off a text that has them."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted else text


def canonical(name: str, value: Any) -> Any:
    """References in one spelling: `Net( depth = 1 )` is `Net(depth=1)`."""
    if name not in REFERENCES or name == "fork.trigger":
        return value
    if isinstance(value, tuple):
        return tuple(canonical(name, one) for one in value)
    try:
        is_reference = isinstance(value, str) and value.partition(":")[0] not in references.RESERVED
        return str(references.parse(value)) if is_reference and value else value
    except InvalidInput:
        return value  # The key's own check names the problem.


def convert(value: Any, kind: Any) -> Any:
    """Gives the value as the key's type, or None if it is of another."""
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        if not isinstance(value, (tuple, list)):
            return None
        converted = tuple(convert(item, element) for item in value)
        return None if None in converted else converted
    if kind is float and type(value) is int:
        return float(value) if abs(value) < 2**1000 else math.inf
    return value if type(value) is kind else None


def type_name(kind: Any) -> str:
    """Names a key's type in a message."""
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    if typing.get_origin(kind) is tuple:
        plural = {int: "whole numbers", float: "numbers", str: "names"}
        return f"{plural[typing.get_args(kind)[0]]} separated by commas"
    return names[kind]
