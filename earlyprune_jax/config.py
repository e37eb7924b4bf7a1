"""The only reader of configs: file and overrides -> ConfigDict -> RunSpec, all problems at once."""

import ast
import contextlib
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from earlyprune_jax import config_checks, references, tasks
from earlyprune_jax.config_files import find_file, load_file, names, short_name, split_form
from earlyprune_jax.config_values import REFERENCES, canonical, convert, parse, type_name, unquoted
from earlyprune_jax.spec import RunSpec, Setting, Sweep
from earlyprune_jax.spec_sections import DECIDES, KEYS, SECTIONS, SWEPT_BY, decides
from earlyprune_jax.validate import InvalidInput, expected, nearest, shortened

__all__ = ["find_file", "load_file", "names", "parse", "resolve", "short_name", "split_form"]

MOST_SETTINGS = 1000
ROWS = "rows"


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

    Raises:
        InvalidInput: with every problem found.

    Example:
        >>> from configs import digits
        >>> resolve(digits.get_config(), [("optim.learning_rate", "0.05")]).optim.learning_rate
        0.05
    """
    if folder is not None:
        references.use_folder(folder)
    references.refresh()
    tasks.forget()
    values = config.to_dict()
    swept = values.pop("sweep", None) or {}
    problems: list[str] = []
    named = [name for name, _ in overrides]
    twice = sorted({name for name in named if name.startswith("sweep.") and named.count(name) > 1})
    problems += [expected(name, "twice", "to be given once, with all its values") for name in twice]
    for name, text in overrides:
        if name.startswith("sweep."):
            problems += _override_sweep(swept, name.removeprefix("sweep."), text)
        else:
            problems += _override(values, name, text)
    problems += _lost_overrides(overrides, swept)
    problems += _unknown_keys(values)
    sweep, wrong = _read_sweep(swept)
    problems += wrong
    settings = sweep.settings()
    partial, found = _resolve_one(values, settings[0])
    problems += found
    problems += _unread_keys(sweep, partial)
    for setting in settings[1:]:
        _, more = _resolve_one(values, setting)
        problems += [
            f"{problem} (with {setting.words()})" for problem in more if problem not in found
        ]
    if problems:
        raise InvalidInput(shortened(list(dict.fromkeys(problems)), 60))
    first = partial.replace(dict(settings[0].values))
    spec = dataclasses.replace(first, sweep=sweep, folder=references.current_folder())
    if problems := _differing_metrics(spec):
        raise InvalidInput(problems)
    return _with_code(spec)


def _lost_overrides(overrides: Sequence[tuple[str, str]], swept: Mapping[str, Any]) -> list[str]:
    """Values given for keys whose sweep, given too, does not hold them."""
    listed = dict(_flat(swept)) if isinstance(swept, Mapping) else {}
    problems = []
    for name, text in overrides:
        if f"sweep.{name}" in dict(overrides) and name in KEYS:
            with contextlib.suppress(ValueError, KeyError, SyntaxError):
                if parse(text, KEYS[name].type) not in listed.get(name, ()):
                    remedy = "Add it to the sweep, or leave it out."
                    problems.append(
                        expected(name, text, f"to be among the values of sweep.{name}", remedy)
                    )
    return problems


def _unread_keys(sweep: Sweep, spec: RunSpec) -> list[str]:
    """Swept keys that no rule of the forks looks at: every value would give the same runs."""
    is_read = "custom" in (spec.fork.rules or ())
    unread = set() if is_read else {"fork.length", "fork.rates"} & set(sweep.keys)
    remedy = "Rule custom reads it: add custom to fork.rules."
    return [
        expected("sweep", name, "to be read by a rule of fork.rules", remedy)
        for name in sorted(unread)
    ]


def _differing_metrics(spec: RunSpec) -> list[str]:
    """Settings whose tasks report other metrics: tables, figures and choices are by one."""
    made = [tasks.abstract(spec.at(setting)) for setting in spec.settings()]
    told = {(task.primary, task.all_metrics) for task in made}
    if len(told) == 1:
        return []
    found = sorted(
        {f"{primary} of {', '.join(one.name for one in metrics)}" for primary, metrics in told}
    )
    allowed = f"to have the same metrics in all settings; primary {'; '.join(found)}"
    return [expected("task.name", spec.task.name, allowed, "Take a workdir for each.")]


def _with_code(spec: RunSpec) -> RunSpec:
    """The spec with the digests of the user's code that it names, in any setting."""
    paths: set[str] = set()
    for setting in spec.settings():
        own = spec.at(setting)
        for name in REFERENCES:
            value = own.value(name)
            for text in value if isinstance(value, tuple) else (value,):
                paths.update(references.import_paths(text))
    code = tuple((path, str(references.digest(path))) for path in sorted(paths))
    return dataclasses.replace(spec, code=code)


def _resolve_one(values: dict[str, Any], setting: Setting) -> tuple[RunSpec, list[str]]:
    """The spec of one setting, in all but name, and its problems."""
    own = {
        name: dict(section) if isinstance(section, dict) else section
        for name, section in values.items()
    }
    for name, value in setting.values:
        section, leaf = name.split(".")
        if isinstance(own.setdefault(section, {}), dict):
            own[section][leaf] = value
    accepted, found = _read_keys(own)
    problems = [problem for key_problems in found.values() for problem in key_problems]
    # What is missing or of a wrong type is None here: a check sees only the keys it needs, which
    # are there.
    partial = RunSpec(**{name: _partial(name, accepted[name]) for name in SECTIONS})
    absent = {name for name in KEYS if name.split(".")[1] not in accepted[name.split(".")[0]]}
    unsound = set(found)
    for needs, check in config_checks.KEY_CHECKS:
        keys = _expand(needs)
        if not keys & absent and (wrong := check(partial)):
            problems += wrong
            unsound |= keys
    for needs, check in config_checks.CROSS_CHECKS:
        keys = _expand(needs)
        if not keys & unsound and (wrong := check(partial)):
            problems += wrong
            unsound |= keys if check in config_checks.FOUNDATIONS else set()
    return partial, problems


def _expand(needs: set[str]) -> set[str]:
    """A section's name stands for all of its keys."""
    return {name for name in KEYS if name in needs or name.split(".")[0] in needs}


def _partial(name: str, accepted: dict[str, Any]) -> Any:
    leaves = (field.name for field in dataclasses.fields(SECTIONS[name]))
    return SECTIONS[name](**{leaf: accepted.get(leaf) for leaf in leaves})


def _override(values: dict[str, Any], name: str, text: str) -> list[str]:
    field = KEYS.get(name)
    if field is None:
        return [_unknown_key(name)]
    try:
        section, leaf = name.split(".")
        values.setdefault(section, {})[leaf] = parse(text, field.type)
    except (ValueError, KeyError, SyntaxError):
        return [expected(name, text, f"to be {type_name(field.type)}")]
    return []


def _override_sweep(swept: dict[str, Any], name: str, text: str) -> list[str]:
    """A swept key from the command line: values separated by commas, tuples in parentheses."""
    if name == ROWS:
        try:
            swept[ROWS] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            remedy = "E.g. [{'data.name': 'cifar10', 'data.num_classes': 10}, ...]"
            return [expected("sweep.rows", text, "to be a Python list of dicts", remedy)]
        return []
    field = KEYS.get(name)
    if field is None:
        return [f"sweep: {_unknown_key(name)}"]
    try:
        parsed = [parse(unquoted(part), field.type) for part in references.split_list(text)]
    except (ValueError, KeyError, SyntaxError):
        return [
            expected(
                f"sweep.{name}",
                text,
                f"to be values, each {type_name(field.type)}, separated by commas",
            )
        ]
    section, leaf = name.split(".")
    swept.setdefault(section, {})[leaf] = tuple(parsed)
    return []


def _read_sweep(swept: Any) -> tuple[Sweep, list[str]]:
    """The sweep of a config, or nothing to sweep and its problems."""
    if not isinstance(swept, Mapping):
        return Sweep(), [
            expected("sweep", swept, "to map keys to lists of values", "See docs/extending.md.")
        ]
    flat = dict(_flat(swept))
    rows_given = flat.pop(ROWS, ())
    lists, problems = {}, []
    for name, values in flat.items():
        read, wrong = _read_values(name, values)
        problems += wrong
        lists[name] = read
    rows, wrong = _read_rows(rows_given)
    problems += wrong
    twice = sorted(lists.keys() & {name for row in rows for name, _ in row})
    problems += [
        expected(
            "sweep", name, "to be swept once, by a list or by rows", "Take it out of one of them."
        )
        for name in twice
    ]
    if problems:
        return Sweep(), problems
    sweep = Sweep(tuple(sorted(lists.items())), rows)
    count = len(rows or ((),)) * math.prod(len(values) for values in lists.values())
    if count > MOST_SETTINGS:
        return Sweep(), [expected("combinations of sweep", count, f"to be at most {MOST_SETTINGS}")]
    return sweep, []


def _flat(swept: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """`section.key` -> values, whether sections are nested or not."""
    for name, value in swept.items():
        if isinstance(value, Mapping) and (prefix or name != ROWS):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _swept_key_problems(name: str) -> list[str]:
    if name not in KEYS:
        return [f"sweep: {_unknown_key(name)}"]
    reason = SWEPT_BY.get(decides(name))
    if reason is None:
        return []
    allowed = f"to decide data, trunks or forks; it decides {DECIDES[decides(name)]}"
    return [expected("sweep", name, allowed, reason)]


def _read_values(name: str, values: Any) -> tuple[tuple[Any, ...], list[str]]:
    if problems := _swept_key_problems(name):
        return (), problems
    if not isinstance(values, tuple | list) or not values:
        return (), [expected(f"sweep.{name}", values, "to be a list of values, one at least")]
    converted = [canonical(name, convert(value, KEYS[name].type)) for value in values]
    wrong = [value for value, read in zip(values, converted, strict=True) if read is None]
    if wrong:
        return (), [
            expected(f"sweep.{name}", one, f"to be {type_name(KEYS[name].type)}") for one in wrong
        ]
    if len(set(converted)) < len(converted):
        return (), [expected(f"sweep.{name}", values, "to have no value twice")]
    return tuple(converted), []


def _read_rows(rows: Any) -> tuple[tuple[tuple[tuple[str, Any], ...], ...], list[str]]:
    if not isinstance(rows, tuple | list) or not all(
        isinstance(row, Mapping | ConfigDict) for row in rows
    ):
        return (), [expected("sweep.rows", rows, "to be a list of dicts, key -> value")]
    found, problems = [], []
    for number, row in enumerate(rows):
        flat = dict(_flat(row.to_dict() if isinstance(row, ConfigDict) else row))
        for name, value in flat.items():
            key_problems = _swept_key_problems(name)
            problems += key_problems
            flat[name] = None if key_problems else canonical(name, convert(value, KEYS[name].type))
            if not key_problems and flat[name] is None:
                allowed = f"to be {type_name(KEYS[name].type)}"
                problems.append(expected(f"sweep.rows[{number}] {name}", value, allowed))
        found.append(tuple(sorted(flat.items())))
    if len({tuple(name for name, _ in row) for row in found}) > 1:
        named = sorted({name for row in found for name, _ in row})
        problems.append(expected("sweep.rows", named, "to be given in every row"))
    if not problems and len(set(found)) < len(found):
        problems.append(expected("sweep.rows", rows, "to have no row twice"))
    return tuple(found), list(dict.fromkeys(problems))


def _unknown_keys(values: dict[str, Any]) -> list[str]:
    problems = []
    for name, section in values.items():
        if name not in SECTIONS or not isinstance(section, dict):
            problems.append(_unknown_key(name))
            continue
        problems += [
            _unknown_key(f"{name}.{leaf}") for leaf in section if f"{name}.{leaf}" not in KEYS
        ]
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
        value = convert(given[name], field.type)
        if value is None:
            problems[full_name] = [
                expected(full_name, given[name], f"to be {type_name(field.type)}")
            ]
            continue
        value = canonical(full_name, value)
        accepted[section][name] = value
        allowed = field.metadata["check"](value)
        if allowed:
            problems[full_name] = [expected(full_name, value, allowed)]
    return accepted, problems
