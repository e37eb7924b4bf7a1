"""The only reader of configs: file and overrides -> ConfigDict -> RunSpec, all problems at once."""

import ast
import dataclasses
import importlib.util
import typing
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from ml_collections import ConfigDict

from earlyprune_jax import config_checks
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.validate import InvalidInput, expected, nearest

SECTIONS: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(RunSpec)}
KEYS = {
    f"{name}.{field.name}": field
    for name, section in SECTIONS.items()
    for field in dataclasses.fields(section)
}
"""Every config key, `section.key` -> its declaration."""


def load_file(path: str) -> ConfigDict:
    """Runs a config file's `get_config()`.

    Raises:
        InvalidInput: no such file, not Python, or no ConfigDict from `get_config`.
    """
    remedy = "Configs are .py files that define get_config(); see configs/digits.py."
    if not Path(path).is_file():
        raise InvalidInput([expected("--config", path, "to be a file", remedy)])
    module_spec = importlib.util.spec_from_file_location("earlyprune_jax_config", path)
    if module_spec is None or module_spec.loader is None:
        raise InvalidInput([expected("--config", path, "to be a Python file", remedy)])
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:  # a config is the user's code: whatever it raises is the problem
        problem = expected("--config", path, "to define get_config() and run", remedy)
        raise InvalidInput([f"{problem} It raised {type(error).__name__}: {error}"]) from error
    if not isinstance(config, ConfigDict):
        raise InvalidInput(
            [expected("get_config()", type(config).__name__, "to return a ConfigDict", remedy)]
        )
    return config


def resolve(config: ConfigDict, overrides: Sequence[tuple[str, str]] = ()) -> RunSpec:
    """Turns a config into a frozen spec, or names everything that is wrong with it.

    Checks keys, types, ranges, and whatever the keys say together: data that exist, a
    model that fits, forks inside the trunk. Nothing is compiled, trained or written.

    Args:
        config: sections of keys, as in configs/digits.py; left unchanged.
        overrides: (`section.key`, text) pairs, as from `--config.section.key=text`.

    Raises:
        InvalidInput: with every problem found.

    Example:
        >>> from configs import digits
        >>> resolve(digits.get_config(), [("optim.learning_rate", "0.05")]).optim.learning_rate
        0.05
    """
    values = config.to_dict()
    problems = [problem for name, text in overrides for problem in _override(values, name, text)]
    problems += _check_keys(values)
    sections, sound = {}, set()
    for name, section in SECTIONS.items():
        sections[name], found = _section(name, section, values.get(name))
        if sections[name] is not None and not found:
            found = config_checks.check_section(name, sections[name])
        problems += found
        sound |= set() if found else {name}
    # RunSpec in all but name: a check sees only the sections it needs, and those are sound.
    partial = cast(RunSpec, SimpleNamespace(**sections))
    for needs, check in config_checks.CROSS_CHECKS:
        if needs <= sound:
            problems += check(partial)
    if problems:
        raise InvalidInput(problems)
    return RunSpec(**sections)


def describe_keys() -> str:
    """Every key with its meaning, for --help."""
    width = max(map(len, KEYS)) + 2
    return "\n".join(f"  {name:<{width}}{field.metadata['doc']}" for name, field in KEYS.items())


def parse(text: str, kind: Any) -> Any:
    """Reads a command-line value as the type of its key.

    Raises:
        ValueError: the text is no value of that type.

    Example:
        >>> parse("1e-3", float), parse("0,1", tuple[int, ...]), parse("true", bool)
        (0.001, (0, 1), True)
    """
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        parts = text.strip().strip("()[]").split(",")
        return tuple(parse(part.strip().strip("'\""), element) for part in parts if part.strip())
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()]
    if kind is str:
        return text
    value = ast.literal_eval(text) if kind is int else float(text)
    if kind is int and type(value) is not int:
        raise ValueError(text)
    return value


def _override(values: dict[str, Any], name: str, text: str) -> list[str]:
    field = KEYS.get(name)
    if field is None:
        return [_unknown_key(name)]
    try:
        section, leaf = name.split(".")
        values.setdefault(section, {})[leaf] = parse(text, field.type)
    except (ValueError, KeyError, SyntaxError):
        return [expected(name, text, f"to be {_type_name(field.type)}")]
    return []


def _check_keys(values: dict[str, Any]) -> list[str]:
    problems = []
    for name, section in values.items():
        if name not in SECTIONS or not isinstance(section, dict):
            problems.append(_unknown_key(name))
            continue
        problems += [_unknown_key(f"{name}.{leaf}") for leaf in section if f"{name}.{leaf}" not in KEYS]
    return problems


def _unknown_key(name: str) -> str:
    by_leaf = [known for known in KEYS if known.split(".")[1] == name.split(".")[-1]]
    hint = f"Did you mean {by_leaf[0]!r}?" if by_leaf else nearest(name, KEYS)
    return f"Unknown config key {name!r}. {hint or 'Run with --help for all keys.'}"


def _section(name: str, section: Any, values: Any) -> tuple[Any, list[str]]:
    """The section, or None if a key is missing or of another type; and its keys' problems."""
    problems, accepted = [], {}
    for field in dataclasses.fields(section):
        thing = f"{name}.{field.name}"
        if not isinstance(values, dict) or field.name not in values:
            problems.append(f"Missing config key {thing!r}: {field.metadata['doc']}.")
            continue
        value = _convert(values[field.name], field.type)
        if value is None:
            problems.append(expected(thing, values[field.name], f"to be {_type_name(field.type)}"))
            continue
        allowed = field.metadata["check"](value)
        if allowed:
            problems.append(expected(thing, value, allowed))
        accepted[field.name] = value
    complete = len(accepted) == len(dataclasses.fields(section))
    return (section(**accepted) if complete else None), problems


def _convert(value: Any, kind: Any) -> Any:
    """The value as the key's type, or None if it is of another."""
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        if not isinstance(value, (tuple, list)):
            return None
        converted = tuple(_convert(item, element) for item in value)
        return None if None in converted else converted
    if kind is float and type(value) is int:
        return float(value)
    return value if type(value) is kind else None


def _type_name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    if typing.get_origin(kind) is tuple:
        plural = {int: "whole numbers", float: "numbers", str: "names"}
        return f"{plural[typing.get_args(kind)[0]]} separated by commas"
    return names[kind]
