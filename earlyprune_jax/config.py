"""The only reader of configs: file and overrides -> ConfigDict -> RunSpec, all problems at once."""

import ast
import contextlib
import dataclasses
import importlib.util
import inspect
import itertools
import math
import re
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from earlyprune_jax import config_checks, references, tasks
from earlyprune_jax.spec import (
    DECIDES,
    KEYS,
    SECTIONS,
    SWEPT_BY,
    RunSpec,
    Setting,
    Sweep,
    decides,
)
from earlyprune_jax.validate import InvalidInput, expected, nearest, shortened

PACKAGE = Path(__file__).parent
CONFIGS = (PACKAGE / "configs", PACKAGE.parent / "configs")
"""Where configs are found by name: in an installed package, else beside it in a checkout."""

MOST_SETTINGS = 1000
ROWS = "rows"


def find_file(path: str) -> str:
    """The file of a config: a path, or the name of one that comes with the package.

    Example:
        >>> Path(find_file("digits")).name, find_file("my/own.py")
        ('digits.py', 'my/own.py')
    """
    given = Path(path)
    if given.is_file() or given.suffix not in ("", ".py") or str(given.parent) not in (".", "configs"):
        return path
    known = [file for file in _files() if file.stem == given.stem]
    return str(known[0]) if known else path


def names() -> list[str]:
    """The configs that come with the package, and their forms, as `--config` takes them.

    Example:
        >>> [name for name in names() if name.startswith("cifar10:")]
        ['cifar10:cifar100', 'cifar10:signals', 'cifar10:small']
    """
    found = []
    for file in _files():
        forms = ()
        with contextlib.suppress(Exception), _running(file) as module:  # a broken one has its name still
            forms = tuple(getattr(module, "FORMS", ()))
        found += [file.stem, *(f"{file.stem}:{form}" for form in forms if form)]
    return sorted(found)


def _files() -> list[Path]:
    folder = next((folder for folder in CONFIGS if folder.is_dir()), None)
    return sorted(folder.glob("[a-z]*.py")) if folder else []


def load_file(path: str) -> ConfigDict:
    """Runs a config file's `get_config()`; of `FILE.py:FORM` its `get_config("FORM")`.

    The file may import its neighbours, `from . import base`, and may load other configs by `load_file`.

    Args:
        path: a file, or the name of a config of the package: `digits`, `two_regime:small`.

    Raises:
        InvalidInput: no such file, not Python, no such form, or no ConfigDict from `get_config`.
    """
    given, form = split_form(path)
    file = Path(find_file(given)).resolve()
    remedy = (
        "Configs are .py files that define get_config(), or get_config(form) for FILE.py:FORM; "
        "see configs/digits.py."
    )
    if not file.is_file():
        hint = nearest(short_name(path), names())
        hint = f"{hint} By name there are {', '.join(names())}.".lstrip()
        raise InvalidInput([expected("--config", path, "to be a file", f"{hint} {remedy}")])
    if file.suffix != ".py":
        raise InvalidInput([expected("--config", path, "to be a Python file", remedy)])
    references.use_folder(file.parent)
    try:
        with _running(file) as module:
            if form and not inspect.signature(module.get_config).parameters:
                raise ValueError(f"this config has no forms, so none called {form!r}")
            config = module.get_config(*([form] if form else []))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a config is the user's code: whatever it raises is the problem
        problem = expected("--config", path, "to define get_config() and run", remedy)
        raised = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise InvalidInput([f"{problem} It raised {raised}"]) from error
    if not isinstance(config, ConfigDict):
        raise InvalidInput(
            [expected("get_config()", type(config).__name__, "to return a ConfigDict", remedy)]
        )
    references.use_folder(file.parent)  # a config may have loaded another one, of another folder
    return config


@contextlib.contextmanager
def _running(file: Path) -> Iterator[ModuleType]:
    """A config file as a module, run in a package of its own whose other modules are the file's neighbours.

    Both are forgotten afterwards, and so is every other module of the folder that the file has imported:
    another folder may have neighbours of the same name, and a neighbour may change.
    """
    package = ModuleType(f"earlyprune_jax_config_{next(_NUMBERS)}")
    package.__path__ = [str(file.parent)]
    name = f"{package.__name__}.{file.stem.replace('.', '_')}"
    module_spec = importlib.util.spec_from_file_location(name, file)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    before = set(sys.modules)
    # A .pyc is told from its source by second and size: an edit within a second would not be seen.
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.modules[package.__name__] = package
    sys.modules[name] = module
    importlib.invalidate_caches()
    try:
        module_spec.loader.exec_module(module)
        yield module
    finally:
        sys.dont_write_bytecode = kept
        new = set(sys.modules) - before
        own = {top for top in new if "." not in top and _is_neighbour(top, file.parent)}
        for one in new:
            if one.partition(".")[0] in own | {package.__name__}:
                sys.modules.pop(one, None)


_NUMBERS = itertools.count()


def _is_neighbour(name: str, folder: Path) -> bool:
    """Whether an imported module was found in the folder: a file of it, or a package."""
    found = Path(getattr(sys.modules[name], "__file__", None) or "").resolve()
    place = found.parent if found.name == "__init__.py" else found
    return place.parent == folder


def split_form(path: str) -> tuple[str, str]:
    """The file of `FILE.py:FORM` and its form, which is empty where none is given.

    Example:
        >>> split_form("configs/two_regime.py:small"), split_form("cifar10:x"), split_form("digits")
        (('configs/two_regime.py', 'small'), ('cifar10', 'x'), ('digits', ''))
    """
    stem, separator, form = path.rpartition(".py:")
    if separator and form:
        return f"{stem}.py", form
    name, _, form = path.partition(":")
    is_name = Path(name).name.isidentifier() and form and not set(form) & set("/\\")
    return (name, form) if is_name else (path, "")


def short_name(path: str) -> str:
    """A config's name for directories.

    Example:
        >>> short_name("configs/two_regime.py:small"), short_name("own.py:a/b")
        ('two_regime_small', 'own_a-b')
    """
    file, form = split_form(path)
    return "_".join(part for part in (Path(file).stem, re.sub(r"[^\w.=,+-]", "-", form)) if part)


def resolve(
    config: ConfigDict, overrides: Sequence[tuple[str, str]] = (), *, folder: str | Path | None = None
) -> RunSpec:
    """Turns a config into a frozen spec, or names everything that is wrong with it.

    Checks keys, types, ranges, references, and whatever the keys say together, in every setting of a
    sweep: data that exist, a model that fits, forks inside the trunk. Nothing is compiled, trained or
    written.

    Args:
        config: sections of keys, as in configs/digits.py, and `sweep`; left unchanged.
        overrides: (`section.key`, text) pairs, as from `--config.section.key=text`; `sweep.section.key` with
            a list of values, `sweep.rows` with a Python list of dicts.
        folder: where the user's code is looked for beside the Python path; None = that of the config file
            that `load_file` has read last.

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
        problems += [f"{problem} (with {setting.words()})" for problem in more if problem not in found]
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
                    problems.append(expected(name, text, f"to be among the values of sweep.{name}", remedy))
    return problems


def _unread_keys(sweep: Sweep, spec: RunSpec) -> list[str]:
    """Swept keys that no rule of the forks looks at: every value would give the same runs."""
    is_read = "custom" in (spec.fork.rules or ())
    unread = set() if is_read else {"fork.length", "fork.rates"} & set(sweep.keys)
    remedy = "Rule custom reads it: add custom to fork.rules."
    return [expected("sweep", name, "to be read by a rule of fork.rules", remedy) for name in sorted(unread)]


def _differing_metrics(spec: RunSpec) -> list[str]:
    """Settings whose tasks report other metrics: tables, figures and choices are by one."""
    made = [tasks.abstract(spec.at(setting)) for setting in spec.settings()]
    told = {(task.primary, task.all_metrics) for task in made}
    if len(told) == 1:
        return []
    found = sorted({f"{primary} of {', '.join(one.name for one in metrics)}" for primary, metrics in told})
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


def _resolve_one(values: dict[str, Any], setting: Setting) -> tuple[RunSpec, list[str]]:
    """The spec of one setting, in all but name, and its problems."""
    own = {name: dict(section) if isinstance(section, dict) else section for name, section in values.items()}
    for name, value in setting.values:
        section, leaf = name.split(".")
        if isinstance(own.setdefault(section, {}), dict):
            own[section][leaf] = value
    accepted, found = _read_keys(own)
    problems = [problem for key_problems in found.values() for problem in key_problems]
    # What is missing or of a wrong type is None here: a check sees only the keys it needs, which are there.
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
        return tuple(parse(_unquoted(part), element) for part in references.split_list(bare))
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()]
    if kind is str:
        return text
    value = ast.literal_eval(text) if kind is int else float(text)
    if kind is int and type(value) is not int:
        raise ValueError(text)
    return value


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if quoted else text


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
        parsed = [parse(_unquoted(part), field.type) for part in references.split_list(text)]
    except (ValueError, KeyError, SyntaxError):
        return [
            expected(
                f"sweep.{name}", text, f"to be values, each {_type_name(field.type)}, separated by commas"
            )
        ]
    section, leaf = name.split(".")
    swept.setdefault(section, {})[leaf] = tuple(parsed)
    return []


def _read_sweep(swept: Any) -> tuple[Sweep, list[str]]:
    """The sweep of a config, or nothing to sweep and its problems."""
    if not isinstance(swept, Mapping):
        return Sweep(), [expected("sweep", swept, "to map keys to lists of values", "See docs/extending.md.")]
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
        expected("sweep", name, "to be swept once, by a list or by rows", "Take it out of one of them.")
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
    converted = [_canonical(name, _convert(value, KEYS[name].type)) for value in values]
    wrong = [value for value, read in zip(values, converted, strict=True) if read is None]
    if wrong:
        return (), [expected(f"sweep.{name}", one, f"to be {_type_name(KEYS[name].type)}") for one in wrong]
    if len(set(converted)) < len(converted):
        return (), [expected(f"sweep.{name}", values, "to have no value twice")]
    return tuple(converted), []


def _read_rows(rows: Any) -> tuple[tuple[tuple[tuple[str, Any], ...], ...], list[str]]:
    if not isinstance(rows, tuple | list) or not all(isinstance(row, Mapping | ConfigDict) for row in rows):
        return (), [expected("sweep.rows", rows, "to be a list of dicts, key -> value")]
    found, problems = [], []
    for number, row in enumerate(rows):
        flat = dict(_flat(row.to_dict() if isinstance(row, ConfigDict) else row))
        for name, value in flat.items():
            key_problems = _swept_key_problems(name)
            problems += key_problems
            flat[name] = None if key_problems else _canonical(name, _convert(value, KEYS[name].type))
            if not key_problems and flat[name] is None:
                allowed = f"to be {_type_name(KEYS[name].type)}"
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
        value = _canonical(full_name, value)
        accepted[section][name] = value
        allowed = field.metadata["check"](value)
        if allowed:
            problems[full_name] = [expected(full_name, value, allowed)]
    return accepted, problems


def _canonical(name: str, value: Any) -> Any:
    """References in one spelling: `Net( depth = 1 )` is `Net(depth=1)`."""
    if name not in REFERENCES or name == "fork.trigger":
        return value
    if isinstance(value, tuple):
        return tuple(_canonical(name, one) for one in value)
    try:
        is_reference = isinstance(value, str) and value.partition(":")[0] not in references.RESERVED
        return str(references.parse(value)) if is_reference and value else value
    except InvalidInput:
        return value  # The key's own check names the problem.


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
