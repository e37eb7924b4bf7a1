"""The only reader of configs: file and overrides -> ConfigDict -> RunSpec, all problems at once."""

import ast
import contextlib
import dataclasses
import math
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from earlyprune_jax import config_checks, references, tasks, triggers, user_code
from earlyprune_jax.config_files import flat, load_file, names, short_name, split_form, workdir_of
from earlyprune_jax.spec import Axis, RunSpec, Setting, combined
from earlyprune_jax.spec_sections import (
    KEYS,
    MEANINGS,
    REFERENCES,
    SECTIONS,
    SWEPT_BY,
    decides,
    type_name,
)
from earlyprune_jax.validate import (
    InvalidInput,
    expected,
    nearest,
    refuse,
    shortened,
    shown,
    unexpected,
)

__all__ = [
    "load_file",
    "named_code",
    "names",
    "parse",
    "planned",
    "resolve",
    "short_name",
    "split_form",
    "workdir_of",
]

MOST_SETTINGS = 1000
SWEEP = "sweep."
ROWS = "rows"


Read = tuple[dict[str, Any], dict[str, Any], tuple[Axis, ...]]
"""All keys that are given, those that are not swept, and the sweep."""


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
    problems: list[str] = []
    given, values, sweep = _read(config, overrides, problems)
    swept = [name.removeprefix(SWEEP) for name in given if name not in values]
    settings = combined(sweep)
    names = [name for name, _ in overrides]
    problems += _set_by_scale(given, names)
    for name in swept:
        if names.count(f"{SWEEP}{name}") > 1:
            problems.append(expected(name, "twice", "to be swept once, with all its values"))
        listed = [value for setting in settings for key, value in setting.values if key == name]
        if listed and name in names and _convert(name, values[name]) not in (None, *listed):
            allowed = f"to be among the values of {SWEEP}{name}"
            problems.append(expected(name, values[name], allowed, "Add it there."))
    problems += [_unknown_key(name) for name in values if name not in KEYS]
    first, *others = settings
    partial, of_first = _resolve_one(values, first)
    problems += of_first
    if "custom" not in (partial.fork.retraining or ()):
        remedy = "Only custom reads it: add custom to fork.retraining."
        problems += [
            expected("sweep", name, "to be read by one of fork.retraining", remedy)
            for name, _ in first.values
            if name in ("fork.length", "fork.rates")
        ]
    for setting in others:
        _, wrong = _resolve_one(values, setting)
        words = f" (with {setting.words()})"
        problems += [f"{problem}{words}" for problem in wrong if problem not in of_first]
    refuse(shortened(list(dict.fromkeys(problems)), 60))
    spec = dataclasses.replace(partial, sweep=sweep, folder=user_code.current_folder())
    specs = [spec.at(setting) for setting in settings]
    if len({(task.primary, task.all_metrics) for task in map(tasks.abstract, specs)}) > 1:
        allowed = "to have the same metrics, and the same primary, in all settings"
        raise unexpected("task.name", spec.task.name, allowed, "Take a workdir for each.")
    values = [spec.value(name) for spec in specs for name in REFERENCES]
    texts = [text for value in values for text in (value if isinstance(value, tuple) else (value,))]
    paths = {path for text in texts for path in references.import_paths(text)}
    code = tuple((path, user_code.digest(path)) for path in sorted(paths))
    return dataclasses.replace(spec, code=code)


def _set_by_scale(given: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Names keys of the command line that --scale has set."""
    changed = given.get("figure.changed") or ()
    texts = {text.partition(":")[0]: text for text in changed if isinstance(text, str)}
    remedy = "Leave one of them out, or change a copy of the config."
    return [
        expected(f"--config.{name}", given[name], f"to be left to --scale ({texts[key]})", remedy)
        for name in dict.fromkeys(names)
        if (key := name if name in texts else f"{SWEEP}{name}") in texts
    ]


def _reading() -> Any:
    """Guards what reads a config: its values may be of the user's making."""
    return references.guarded("config", "get_config()", "to give sections of keys with values")


def _given(config: ConfigDict, overrides: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return dict(flat(config)) | {name: Text(text) for name, text in overrides}


def named_code(config: ConfigDict, overrides: Sequence[tuple[str, str]] = ()) -> set[str]:
    """Lists all that reads like an import path in a config, before any of it is imported.

    Args:
        config: as of `resolve`.
        overrides: likewise.

    Returns:
        Import paths, and other texts with a colon.

    Raises:
        InvalidInput: the config cannot be read.

    Example:
        >>> sorted(named_code(ConfigDict({"model": {"name": "nets:Net(depth=3)"}})))
        ['nets:Net']
    """
    with _reading():
        texts = list(_texts(_given(config, overrides)))
    return {path[0] for text in texts for path in references.IMPORT_PATH.finditer(text)}


def _texts(value: Any) -> Iterator[str]:
    """Yields every text in sections, rows and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | ConfigDict):
        yield from _texts([part for _, part in flat(value)])
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _texts(part)


def planned(config: ConfigDict) -> RunSpec:
    """Turns a config into a spec without a check, to count what it plans: no data are read.

    Args:
        config: as of `resolve`, with nothing wrong in it.

    Example:
        >>> from configs import paper_a
        >>> planned(paper_a.get_config()).fork.epochs[:3]
        (20, 40, 60)
    """
    _, values, sweep = _read(config, (), [])
    spec, _ = _made(values, combined(sweep)[0])
    return dataclasses.replace(spec, sweep=sweep)


def _read(config: ConfigDict, overrides: Sequence[tuple[str, str]], problems: list[str]) -> Read:
    """Reads a config's keys and its sweep; `problems` takes what is wrong with the sweep."""
    with _reading():
        given = _given(config, overrides)
    values = {name: value for name, value in given.items() if not name.startswith(SWEEP)}
    swept = {name.removeprefix(SWEEP): given[name] for name in given if name not in values}
    return given, values, _read_sweep(swept, problems)


def _resolve_one(values: Mapping[str, Any], setting: Setting) -> tuple[RunSpec, list[str]]:
    """Makes the spec of one setting, and lists its problems."""
    spec, problems = _made(values, setting)
    absent = [name for name in KEYS if spec.value(name) is None]
    return spec, [*problems.values(), *config_checks.problems(spec, absent, problems)]


def _made(values: Mapping[str, Any], setting: Setting) -> tuple[RunSpec, dict[str, str]]:
    """Makes the spec of one setting; key -> what is wrong with its value by itself.

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
            problems[name] = expected(name, values[name], f"to be {type_name(field.type)}")
        else:
            accepted[name] = value
            if allowed := field.metadata["check"](value):
                problems[name] = expected(name, value, allowed)
    sections = {}
    for section, declared in SECTIONS.items():
        leaves = [field.name for field in dataclasses.fields(declared)]
        sections[section] = declared(**{leaf: accepted[f"{section}.{leaf}"] for leaf in leaves})
    return RunSpec(**sections), problems


def _unknown_key(name: str) -> str:
    hint = nearest(name, KEYS) or "Run with --help for all keys."
    return f"Unknown config key {name!r}. {hint}"


# Sweeps


def _read_sweep(given: Mapping[str, Any], problems: list[str]) -> tuple[Axis, ...]:
    """Reads keys with their values, and rows; no axes where there are problems.

    Args:
        given: keys without the prefix `sweep.`, and `rows`.
        problems: takes what is wrong.
    """
    wrong: list[str] = []
    axes: list[Axis] = []
    for name in sorted(given, key=lambda name: (name == ROWS, name)):
        listed, thing = given[name], f"sweep.{name}"
        allowed, remedy = "to be a list of values, one at least", ""
        if name == ROWS:
            allowed = "to be a Python list of dicts"
            remedy = "E.g. [{'data.name': 'cifar10', 'data.num_classes': 10}, ...]"
        if isinstance(listed, Text):
            with contextlib.suppress(ValueError, SyntaxError):
                listed = ast.literal_eval(listed) if name == ROWS else _parts(listed)
        rows = listed if isinstance(listed, tuple | list) else ()
        if name != ROWS:
            rows = [{name: value} for value in rows]
        if not rows or not all(isinstance(row, Mapping | ConfigDict) and row for row in rows):
            wrong.append(expected(thing, given[name], allowed, remedy))
            continue
        axis = tuple(
            tuple((key, _swept_value(key, value, wrong)) for key, value in sorted(flat(row)))
            for row in rows
        )
        if len({tuple(key for key, _ in row) for row in axis}) > 1:
            keys = sorted({key for row in axis for key, _ in row})
            wrong.append(expected(thing, keys, "to be given in every row"))
        elif len(set(axis)) < len(axis):
            values = tuple(value for row in axis for _, value in row)
            wrong.append(expected(thing, values, "to have no value twice"))
        axes.append(axis)
    names = [name for axis in axes for name, _ in axis[0]]
    remedy = "Take it out of one of them."
    wrong += [
        expected("sweep", name, "to be swept once, by a list or by rows", remedy)
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    count = math.prod(map(len, axes))
    if count > MOST_SETTINGS:
        allowed = f"to be at most {MOST_SETTINGS}"
        wrong.append(expected("combinations of sweep", count, allowed))
    problems += wrong
    return () if wrong else tuple(axes)


def _swept_value(name: str, value: Any, problems: list[str]) -> Any:
    """Gives a swept value as its key's type; a problem more where that cannot be.

    Args:
        name: of the key.
        value: as it is given.
        problems: takes what is wrong.
    """
    if name not in KEYS:
        problems.append(f"sweep: {_unknown_key(name)}")
    elif reason := SWEPT_BY.get(decides(name)):
        problems.append(expected("sweep", name, "to decide data, trunks or forks", reason))
    elif (converted := _convert(name, value)) is None:
        problems.append(expected(f"sweep.{name}", value, f"to be {type_name(KEYS[name].type)}"))
    else:
        return converted
    return shown(value)


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
    return _typed(Text(text), kind)


def _typed(value: Any, kind: Any) -> Any:
    """Gives a value as a type; only a `Text` is read.

    Raises:
        ValueError: it is of another type.
    """
    is_text = isinstance(value, Text)
    if typing.get_origin(kind) is tuple:
        if is_text:
            bare = value.strip()
            is_bracketed = bare[:1] in ("(", "[") and bare[-1:] in (")", "]")
            value = _parts(bare[1:-1] if is_bracketed else bare)
        if not isinstance(value, tuple | list):
            raise ValueError(value)
        return tuple(_typed(part, typing.get_args(kind)[0]) for part in value)
    if is_text and kind is bool:
        value = {"true": True, "1": True, "false": False, "0": False}.get(value.strip().lower())
    elif is_text and kind is int:
        value = int(value, 0)
    elif is_text or (kind is float and type(value) is int):
        value = kind(value)
    if type(value) is not kind:
        raise ValueError(value)
    return value


def _parts(text: str) -> list[Text]:
    """Splits a text at its commas, without the quotes of those that have them."""
    return [Text(re.sub(r"^(['\"])(.*)\1$", r"\2", part)) for part in references.split_list(text)]


def _convert(name: str, value: Any) -> Any:
    """Gives a value as its key's type, references in one spelling: `Net( depth = 1 )` is
    `Net(depth=1)`, a rule with every option written out; None if it is of another type."""
    try:
        value = _typed(value, KEYS[name].type)
    except (ValueError, OverflowError):
        return None
    if name not in REFERENCES:
        return value
    if isinstance(value, tuple):
        return tuple(_canonical(name, reference) for reference in value)
    return _canonical(name, value)


def _canonical(name: str, reference: str) -> str:
    with contextlib.suppress(InvalidInput):  # The key's own check names the problem.
        if name == "fork.trigger":
            return str(triggers.parse(reference))
        if reference.partition(":")[0] not in references.RESERVED:
            return str(references.parse(reference))
    return reference
