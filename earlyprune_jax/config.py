"""The only reader of configs: file and overrides -> ConfigDict -> RunSpec, all problems at once."""

import ast
import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from earlyprune_jax import config_checks, references, tasks, user_code
from earlyprune_jax.config_files import load_file, names, short_name
from earlyprune_jax.spec import RunSpec, Setting, Sweep
from earlyprune_jax.spec_sections import (
    DECIDES,
    KEYS,
    MEANINGS,
    REFERENCES,
    SECTIONS,
    SWEPT_BY,
    decides,
)
from earlyprune_jax.validate import InvalidInput, expected, nearest, shortened, unexpected

__all__ = ["load_file", "names", "parse", "resolve", "short_name"]

MOST_SETTINGS = 1000
SWEEP = "sweep."
ROWS = "rows"


class Text(str):
    """A value as the command line gives it; becomes one of its key's type by `_convert`."""


def resolve(
    config: ConfigDict,
    overrides: Sequence[tuple[str, str]] = (),
    *,
    folder: str | Path | None = None,
) -> RunSpec:
    """Turns a config into a frozen spec, or names everything that is wrong with it.

    Checks keys, types, ranges, references, and whatever the keys say together, in every setting of
    a sweep: data that exist, a model that fits, forks inside the trunk. Nothing is compiled,
    trained or written.

    Args:
        config: sections of keys, as in configs/digits.py, and `sweep`; left unchanged.
        overrides: (`section.key`, text) pairs, as from `--config.section.key=text`;
            `sweep.section.key` with a list of values, `sweep.rows` with a Python list of dicts.
        folder: where the user's code is looked for beside the Python path; None = that of the
            config file that `load_file` has read last.

    Returns:
        The spec, with the digests of the user's code that its keys name.

    Raises:
        InvalidInput: with every problem found.

    Example:
        >>> from configs import digits
        >>> resolve(digits.get_config(), [("optim.learning_rate", "0.05")]).optim.learning_rate
        0.05
    """
    if folder is not None:
        user_code.use_folder(folder)
    user_code.refresh()
    tasks.forget()
    given = dict(_flat(config)) | {name: Text(text) for name, text in overrides}
    values = {name: value for name, value in given.items() if not name.startswith(SWEEP)}
    swept = {name.removeprefix(SWEEP): value for name, value in given.items() if name not in values}
    problems: list[str] = []
    sweep = _read_sweep(swept, problems)
    problems += _given_twice([name for name, _ in overrides], values, sweep)
    problems += [_unknown_key(name) for name in values if name not in KEYS]
    first, *others = sweep.settings()
    partial, of_first = _resolve_one(values, first)
    problems += of_first
    if "custom" not in (partial.fork.retraining or ()):
        remedy = "Only custom reads it: add custom to fork.retraining."
        problems += [
            expected("sweep", name, "to be read by one of fork.retraining", remedy)
            for name in sweep.keys
            if name in ("fork.length", "fork.rates")
        ]
    for setting in others:
        _, wrong = _resolve_one(values, setting)
        words = f" (with {setting.words()})"
        problems += [f"{problem}{words}" for problem in wrong if problem not in of_first]
    if problems:
        raise InvalidInput(shortened(list(dict.fromkeys(problems)), 60))
    spec = dataclasses.replace(partial, sweep=sweep, folder=user_code.current_folder())
    _require_same_metrics(spec)
    return dataclasses.replace(spec, code=_digests(spec))


def _flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields `section.key` and value, whether sections are nested or not."""
    for name, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _given_twice(names: list[str], values: Mapping[str, Any], sweep: Sweep) -> list[str]:
    """Lists keys that the command line sweeps twice, or gives a value that their sweep does not
    hold."""
    twice = sorted({name for name in names if name.startswith(SWEEP) and names.count(name) > 1})
    problems = [expected(name, "twice", "to be given once, with all its values") for name in twice]
    for name, listed in sweep.lists:
        if not {name, f"{SWEEP}{name}"} <= set(names):
            continue
        if _convert(name, values[name]) not in (None, *listed):
            allowed = f"to be among the values of {SWEEP}{name}"
            remedy = "Add it to the sweep, or leave it out."
            problems.append(expected(name, values[name], allowed, remedy))
    return problems


def _require_same_metrics(spec: RunSpec) -> None:
    """Raises InvalidInput for settings whose tasks report other metrics: tables are by one."""
    made = [tasks.abstract(spec.at(setting)) for setting in spec.settings()]
    if len({(task.primary, task.all_metrics) for task in made}) > 1:
        allowed = "to have the same metrics, and the same primary, in all settings"
        raise unexpected("task.name", spec.task.name, allowed, "Take a workdir for each.")


def _digests(spec: RunSpec) -> tuple[tuple[str, str], ...]:
    """Lists (import path, digest) of the user's code that the keys name in any setting."""
    values = [spec.at(setting).value(name) for setting in spec.settings() for name in REFERENCES]
    texts = [text for value in values for text in (value if isinstance(value, tuple) else (value,))]
    paths = {path for text in texts for path in references.import_paths(text)}
    return tuple((path, user_code.digest(path)) for path in sorted(paths))


def _resolve_one(values: Mapping[str, Any], setting: Setting) -> tuple[RunSpec, list[str]]:
    """Makes the spec of one setting, and lists its problems.

    What is missing or of a wrong type is None in it: a check sees only the keys it needs, which are
    there.
    """
    values = {**values, **dict(setting.values)}
    accepted: dict[str, Any] = dict.fromkeys(KEYS)
    problems: dict[str, str] = {}
    for name, field in KEYS.items():
        if name not in values:
            problems[name] = f"Missing config key {name!r}: {MEANINGS.get(name, 'see --help')}."
        elif (value := _convert(name, values[name])) is None:
            problems[name] = expected(name, values[name], f"to be {_type_name(field.type)}")
        else:
            accepted[name] = value
            if allowed := field.metadata["check"](value):
                problems[name] = expected(name, value, allowed)
    sections = {}
    for section, declared in SECTIONS.items():
        leaves = [field.name for field in dataclasses.fields(declared)]
        sections[section] = declared(**{leaf: accepted[f"{section}.{leaf}"] for leaf in leaves})
    spec = RunSpec(**sections)
    absent = [name for name, value in accepted.items() if value is None]
    return spec, [*problems.values(), *config_checks.problems(spec, absent, problems)]


def _unknown_key(name: str) -> str:
    section, _, leaf = name.rpartition(".")
    same_leaf = [known for known in KEYS if known.split(".")[1] == leaf]
    if same_leaf and section not in SECTIONS:
        hint = f"Did you mean {same_leaf[0]!r}?"
    else:
        same_section = [known for known in KEYS if known.split(".")[0] == section]
        hint = nearest(name, same_section or KEYS)
    return f"Unknown config key {name!r}. {hint or 'Run with --help for all keys.'}"


# Sweeps


def _read_sweep(given: Mapping[str, Any], problems: list[str]) -> Sweep:
    """Reads key -> its values, and rows; an empty sweep where there are problems.

    Args:
        given: keys without the prefix `sweep.`, and `rows`.
        problems: takes what is wrong.
    """
    wrong: list[str] = []
    rows = _read_rows(given[ROWS], wrong) if ROWS in given else ()
    lists = {name: _read_list(name, given[name], wrong) for name in sorted(given) if name != ROWS}
    remedy = "Take it out of one of them."
    wrong += [
        expected("sweep", name, "to be swept once, by a list or by rows", remedy)
        for name in sorted(lists.keys() & {name for row in rows for name, _ in row})
    ]
    count = len(rows or ((),)) * math.prod(len(values) for values in lists.values())
    if count > MOST_SETTINGS:
        allowed = f"to be at most {MOST_SETTINGS}"
        wrong.append(expected("combinations of sweep", count, allowed))
    problems += dict.fromkeys(wrong)
    return Sweep() if wrong else Sweep(tuple(lists.items()), rows)


def _read_list(name: str, given: Any, problems: list[str]) -> tuple[Any, ...]:
    listed = _parts(given) if isinstance(given, Text) else given
    if not isinstance(listed, tuple | list) or not listed:
        allowed = "to be a list of values, one at least"
        problems.append(expected(f"sweep.{name}", given, allowed))
        return ()
    values = tuple(_swept_value(f"sweep.{name}", name, value, problems) for value in listed)
    if None not in values and len(set(values)) < len(values):
        problems.append(expected(f"sweep.{name}", values, "to have no value twice"))
    return values


def _read_rows(given: Any, problems: list[str]) -> tuple[tuple[tuple[str, Any], ...], ...]:
    rows = given
    if isinstance(given, Text):
        try:
            rows = ast.literal_eval(given)
        except (ValueError, SyntaxError):
            rows = None
    is_list = isinstance(rows, tuple | list)
    if not is_list or not all(isinstance(row, Mapping | ConfigDict) for row in rows):
        remedy = "E.g. [{'data.name': 'cifar10', 'data.num_classes': 10}, ...]"
        problems.append(expected("sweep.rows", given, "to be a Python list of dicts", remedy))
        return ()
    read = tuple(
        tuple(
            (name, _swept_value(f"sweep.rows[{number}] {name}", name, value, problems))
            for name, value in sorted(_flat(row))
        )
        for number, row in enumerate(rows)
    )
    if len({tuple(name for name, _ in row) for row in read}) > 1:
        named = sorted({name for row in read for name, _ in row})
        problems.append(expected("sweep.rows", named, "to be given in every row"))
    elif len(set(read)) < len(read):
        problems.append(expected("sweep.rows", rows, "to have no row twice"))
    return read


def _swept_value(thing: str, name: str, value: Any, problems: list[str]) -> Any:
    """Gives a swept value as its key's type; None, and a problem more, where that cannot be.

    Args:
        thing: what it is, for messages.
        name: of the key.
        value: as it is given.
        problems: takes what is wrong.
    """
    if name not in KEYS:
        problems.append(f"sweep: {_unknown_key(name)}")
        return None
    if reason := SWEPT_BY.get(decides(name)):
        allowed = f"to decide data, trunks or forks; it decides {DECIDES[decides(name)]}"
        problems.append(expected("sweep", name, allowed, reason))
        return None
    if (converted := _convert(name, value)) is None:
        problems.append(expected(thing, value, f"to be {_type_name(KEYS[name].type)}"))
    return converted


# Values


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
        bare = text.strip()
        bare = bare[1:-1] if bare[:1] in ("(", "[") and bare[-1:] in (")", "]") else bare
        return tuple(parse(part, typing.get_args(kind)[0]) for part in _parts(bare))
    if kind is bool:
        words = {"true": True, "1": True, "false": False, "0": False}
        if text.strip().lower() not in words:
            raise ValueError(text)
        return words[text.strip().lower()]
    if kind is int:
        return int(text, 0)
    return float(text) if kind is float else str(text)


def _parts(text: str) -> list[Text]:
    """Splits a text at its commas, without the quotes of those that have them."""
    parts = references.split_list(text)
    is_quoted = [len(part) > 1 and part[0] == part[-1] and part[0] in "\"'" for part in parts]
    return [
        Text(part[1:-1] if quoted else part) for part, quoted in zip(parts, is_quoted, strict=True)
    ]


def _convert(name: str, value: Any) -> Any:
    """Gives a value as its key's type, references in one spelling: `Net( depth = 1 )` is
    `Net(depth=1)`; None if it is of another type."""
    kind = KEYS[name].type
    try:
        value = parse(value, kind) if isinstance(value, Text) else _typed(value, kind)
    except ValueError:
        return None
    if name not in REFERENCES or name == "fork.trigger":
        return value
    return tuple(map(_canonical, value)) if isinstance(value, tuple) else _canonical(value)


def _typed(value: Any, kind: Any) -> Any:
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        if not isinstance(value, tuple | list):
            return None
        typed = tuple(_typed(item, element) for item in value)
        return None if None in typed else typed
    if kind is float and type(value) is int:
        return float(value) if abs(value) < 2**1000 else math.inf
    return value if type(value) is kind else None


def _canonical(reference: str | None) -> str | None:
    if not reference or reference.partition(":")[0] in references.RESERVED:
        return reference
    try:
        return str(references.parse(reference))
    except InvalidInput:
        return reference  # The key's own check names the problem.


def _type_name(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        plural = {int: "whole numbers", float: "numbers", str: "names"}
        return f"{plural[typing.get_args(kind)[0]]} separated by commas"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]
