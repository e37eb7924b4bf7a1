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
from earlyprune_jax.config_files import find_file, load_file, names, short_name, split_form
from earlyprune_jax.spec import RunSpec, Setting, Sweep
from earlyprune_jax.spec_sections import DECIDES, KEYS, MEANINGS, SECTIONS, SWEPT_BY, decides
from earlyprune_jax.validate import InvalidInput, expected, nearest, shortened, unexpected

__all__ = ["find_file", "load_file", "names", "parse", "resolve", "short_name", "split_form"]

MOST_SETTINGS = 1000
SWEEP = "sweep."
ROWS = "rows"

REFERENCES = (
    "data.name",
    "model.name",
    "task.name",
    "optim.name",
    "schedule.name",
    "pruning.criteria",
    "pruning.scopes",
    "fork.trigger",
    "fork.retraining",
    "signals.names",
    "signals.mask_criterion",
    "signals.mask_scope",
)
"""Keys that may name the user's code."""


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
    sweep, problems = _read_sweep(swept)
    problems += _given_twice([name for name, _ in overrides], values, sweep)
    problems += [_unknown_key(name) for name in values if name not in KEYS]
    settings = sweep.settings()
    partial, of_first = _resolve_one(values, settings[0])
    problems += of_first
    if "custom" not in (partial.fork.retraining or ()):
        remedy = "Only custom reads it: add custom to fork.retraining."
        problems += [
            expected("sweep", name, "to be read by one of fork.retraining", remedy)
            for name in sweep.keys
            if name in ("fork.length", "fork.rates")
        ]
    for setting in settings[1:]:
        _, wrong = _resolve_one(values, setting)
        problems += [f"{one} (with {setting.words()})" for one in wrong if one not in of_first]
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
    reported = {(task.primary, task.all_metrics) for task in made}
    if len(reported) > 1:
        found = sorted(
            f"{primary} of {', '.join(metric.name for metric in metrics)}"
            for primary, metrics in reported
        )
        allowed = f"to have the same metrics in all settings; primary {'; '.join(found)}"
        raise unexpected("task.name", spec.task.name, allowed, "Take a workdir for each.")


def _digests(spec: RunSpec) -> tuple[tuple[str, str], ...]:
    """Lists (import path, digest) of the user's code that the keys name in any setting."""
    paths: set[str] = set()
    for setting in spec.settings():
        for name in REFERENCES:
            value = spec.at(setting).value(name)
            for text in value if isinstance(value, tuple) else (value,):
                paths.update(references.import_paths(text))
    return tuple((path, user_code.digest(path)) for path in sorted(paths))


def _resolve_one(values: Mapping[str, Any], setting: Setting) -> tuple[RunSpec, list[str]]:
    """Makes the spec of one setting, and lists its problems.

    What is missing or of a wrong type is None in it: a check sees only the keys it needs, which are
    there.
    """
    values = {**values, **dict(setting.values)}
    accepted: dict[str, Any] = {}
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
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name in KEYS:
        section, leaf = name.split(".")
        sections[section][leaf] = accepted.get(name)
    spec = RunSpec(**{section: SECTIONS[section](**sections[section]) for section in SECTIONS})
    checked = config_checks.problems(spec, KEYS.keys() - accepted.keys(), problems)
    return spec, [*problems.values(), *checked]


def _unknown_key(name: str) -> str:
    section, _, leaf = name.rpartition(".")
    same_leaf = [known for known in KEYS if known.split(".")[1] == leaf]
    same_section = [known for known in KEYS if known.split(".")[0] == section]
    hint = f"Did you mean {same_leaf[0]!r}?" if same_leaf and not same_section else ""
    hint = hint or nearest(name, same_section or KEYS)
    return f"Unknown config key {name!r}. {hint or 'Run with --help for all keys.'}"


# Sweeps


def _read_sweep(given: Mapping[str, Any]) -> tuple[Sweep, list[str]]:
    """Reads key -> its values, and rows; an empty sweep where there are problems."""
    problems: list[str] = []
    lists: dict[str, tuple[Any, ...]] = {}
    rows: tuple[tuple[tuple[str, Any], ...], ...] = ()
    for name, values in given.items():
        if name == ROWS:
            rows, wrong = _read_rows(values)
        else:
            lists[name], wrong = _read_values(name, values)
        problems += wrong
    remedy = "Take it out of one of them."
    problems += [
        expected("sweep", name, "to be swept once, by a list or by rows", remedy)
        for name in sorted(lists.keys() & {name for row in rows for name, _ in row})
    ]
    count = len(rows or ((),)) * math.prod(len(values) for values in lists.values())
    if count > MOST_SETTINGS:
        allowed = f"to be at most {MOST_SETTINGS}"
        problems.append(expected("combinations of sweep", count, allowed))
    return Sweep() if problems else Sweep(tuple(sorted(lists.items())), rows), problems


def _unsweepable(name: str) -> list[str]:
    if name not in KEYS:
        return [f"sweep: {_unknown_key(name)}"]
    reason = SWEPT_BY.get(decides(name))
    allowed = f"to decide data, trunks or forks; it decides {DECIDES[decides(name)]}"
    return [expected("sweep", name, allowed, reason)] if reason else []


def _read_values(name: str, given: Any) -> tuple[tuple[Any, ...], list[str]]:
    if problems := _unsweepable(name):
        return (), problems
    listed = _parts(given) if isinstance(given, Text) else given
    if not isinstance(listed, tuple | list) or not listed:
        return (), [expected(f"sweep.{name}", given, "to be a list of values, one at least")]
    values = tuple(_convert(name, value) for value in listed)
    if None in values:
        allowed = f"to be values, each {_type_name(KEYS[name].type)}, separated by commas"
        return (), [expected(f"sweep.{name}", given, allowed)]
    if len(set(values)) < len(values):
        return (), [expected(f"sweep.{name}", values, "to have no value twice")]
    return values, []


def _read_rows(given: Any) -> tuple[tuple[tuple[tuple[str, Any], ...], ...], list[str]]:
    rows = given
    if isinstance(given, Text):
        try:
            rows = ast.literal_eval(given)
        except (ValueError, SyntaxError):
            rows = None
    is_list = isinstance(rows, tuple | list)
    if not is_list or not all(isinstance(row, Mapping | ConfigDict) for row in rows):
        remedy = "E.g. [{'data.name': 'cifar10', 'data.num_classes': 10}, ...]"
        return (), [expected("sweep.rows", given, "to be a Python list of dicts", remedy)]
    read, problems = [], []
    for number, row in enumerate(rows):
        values = {}
        for name, value in _flat(row):
            wrong = _unsweepable(name)
            values[name] = None if wrong else _convert(name, value)
            if values[name] is None and not wrong:
                allowed = f"to be {_type_name(KEYS[name].type)}"
                wrong = [expected(f"sweep.rows[{number}] {name}", value, allowed)]
            problems += wrong
        read.append(tuple(sorted(values.items())))
    if len({tuple(name for name, _ in row) for row in read}) > 1:
        named = sorted({name for row in read for name, _ in row})
        problems.append(expected("sweep.rows", named, "to be given in every row"))
    elif not problems and len(set(read)) < len(read):
        problems.append(expected("sweep.rows", rows, "to have no row twice"))
    return tuple(read), list(dict.fromkeys(problems))


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
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    if typing.get_origin(kind) is tuple:
        plural = {int: "whole numbers", float: "numbers", str: "names"}
        return f"{plural[typing.get_args(kind)[0]]} separated by commas"
    return names[kind]
