"""The only reader of configs: file and overrides -> ConfigDict -> RunSpec, all problems at once."""

import ast
import dataclasses
import importlib.util
import inspect
import math
import typing
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from ml_collections import ConfigDict

from earlyprune_jax import config_checks
from earlyprune_jax.spec import SECTIONS, RunSpec
from earlyprune_jax.validate import InvalidInput, expected, nearest

KEYS = {
    f"{name}.{field.name}": field
    for name, section in SECTIONS.items()
    for field in dataclasses.fields(section)
}
"""Every config key, `section.key` -> its declaration."""


def load_file(path: str) -> ConfigDict:
    """Runs a config file's `get_config()`; of `FILE.py:FORM` its `get_config("FORM")`.

    Raises:
        InvalidInput: no such file, not Python, no such form, or no ConfigDict from `get_config`.
    """
    file, form = split_form(path)
    remedy = (
        "Configs are .py files that define get_config(), or get_config(form) for FILE.py:FORM; "
        "see configs/digits.py."
    )
    if not Path(file).is_file():
        raise InvalidInput([expected("--config", path, "to be a file", remedy)])
    module_spec = importlib.util.spec_from_file_location("earlyprune_jax_config", file)
    if module_spec is None or module_spec.loader is None:
        raise InvalidInput([expected("--config", path, "to be a Python file", remedy)])
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        if form and not inspect.signature(module.get_config).parameters:
            raise ValueError(f"this config has no forms, so none called {form!r}")
        config = module.get_config(*([form] if form else []))
    except Exception as error:  # a config is the user's code: whatever it raises is the problem
        problem = expected("--config", path, "to define get_config() and run", remedy)
        raise InvalidInput([f"{problem} It raised {type(error).__name__}: {error}"]) from error
    if not isinstance(config, ConfigDict):
        raise InvalidInput(
            [expected("get_config()", type(config).__name__, "to return a ConfigDict", remedy)]
        )
    return config


def split_form(path: str) -> tuple[str, str]:
    """The file of `FILE.py:FORM` and its form, which is empty where none is given.

    Example:
        >>> split_form("configs/two_regime.py:small"), split_form("configs/digits.py")
        (('configs/two_regime.py', 'small'), ('configs/digits.py', ''))
    """
    stem, separator, form = path.rpartition(".py:")
    return (f"{stem}.py", form) if separator and form else (path, "")


def short_name(path: str) -> str:
    """A config's name for directories.

    Example:
        >>> short_name("configs/two_regime.py:small")
        'two_regime_small'
    """
    file, form = split_form(path)
    return "_".join(part for part in (Path(file).stem, form) if part)


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
    problems += _unknown_keys(values)
    accepted, found = _read_keys(values)
    problems += [problem for key_problems in found.values() for problem in key_problems]
    # RunSpec in all but name: a check sees only the keys it needs, and those are there.
    partial = cast(RunSpec, SimpleNamespace(**{name: _partial(name, accepted[name]) for name in SECTIONS}))
    absent = {name for name in KEYS if name.split(".")[1] not in accepted[name.split(".")[0]]}
    unsound = set(found)
    for needs, check in config_checks.KEY_CHECKS:
        keys = _expand(needs)
        if not keys & absent and (wrong := check(partial)):
            problems += wrong
            unsound |= keys
    for needs, check in config_checks.CROSS_CHECKS:
        if not _expand(needs) & unsound:
            problems += check(partial)
    if problems:
        raise InvalidInput(problems)
    return RunSpec(**vars(partial))


def _expand(needs: set[str]) -> set[str]:
    """A section's name stands for all of its keys."""
    return {name for name in KEYS if name in needs or name.split(".")[0] in needs}


def _partial(name: str, accepted: dict[str, Any]) -> Any:
    complete = len(accepted) == len(dataclasses.fields(SECTIONS[name]))
    return SECTIONS[name](**accepted) if complete else SimpleNamespace(**accepted)


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


def _unknown_keys(values: dict[str, Any]) -> list[str]:
    problems = []
    for name, section in values.items():
        if name not in SECTIONS or not isinstance(section, dict):
            problems.append(_unknown_key(name))
            continue
        problems += [_unknown_key(f"{name}.{leaf}") for leaf in section if f"{name}.{leaf}" not in KEYS]
    return problems


def _unknown_key(name: str) -> str:
    section, _, leaf = name.rpartition(".")
    same_leaf = [known for known in KEYS if known.split(".")[1] == leaf]
    same_section = [known for known in KEYS if known.split(".")[0] == section]
    hint = f"Did you mean {same_leaf[0]!r}?" if same_leaf and not same_section else ""
    hint = hint or nearest(name, same_section or KEYS)
    return f"Unknown config key {name!r}. {hint or 'Run with --help for all keys.'}"


def _read_keys(values: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """Section -> key -> value of the right type, in range or not; and full key -> its problems."""
    accepted: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    problems = {}
    for full_name, field in KEYS.items():
        section, name = full_name.split(".")
        given = values.get(section)
        if not isinstance(given, dict) or name not in given:
            problems[full_name] = [f"Missing config key {full_name!r}: {field.metadata['doc']}."]
            continue
        value = _convert(given[name], field.type)
        if value is None:
            problems[full_name] = [expected(full_name, given[name], f"to be {_type_name(field.type)}")]
            continue
        accepted[section][name] = value
        allowed = field.metadata["check"](value)
        if allowed:
            problems[full_name] = [expected(full_name, value, allowed)]
    return accepted, problems


def _convert(value: Any, kind: Any) -> Any:
    """The value as the key's type, or None if it is of another."""
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        if not isinstance(value, (tuple, list)):
            return None
        converted = tuple(_convert(item, element) for item in value)
        return None if None in converted else converted
    if kind is float and type(value) is int:
        return float(value) if abs(value) < 2**1000 else math.inf
    return value if type(value) is kind else None


def _type_name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    if typing.get_origin(kind) is tuple:
        plural = {int: "whole numbers", float: "numbers", str: "names"}
        return f"{plural[typing.get_args(kind)[0]]} separated by commas"
    return names[kind]
