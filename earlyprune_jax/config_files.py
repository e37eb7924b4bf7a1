"""Config files: found by path or name, and run."""

import contextlib
import difflib
import importlib
import inspect
import re
import runpy
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from earlyprune_jax import config_json, records, references, user_code
from earlyprune_jax.spec_sections import SCALES
from earlyprune_jax.validate import InvalidInput, expected, nearest, unexpected

PACKAGE = Path(__file__).parent
CONFIGS = (PACKAGE / "configs", PACKAGE.parent / "configs")
"""Where configs are found by name: in an installed package, else beside it in a checkout."""


MOST_HINTS = 3


def find_file(path: str) -> str:
    """Finds the file of a config: a path, or the name of one that comes with the package.

    Example:
        >>> Path(find_file("digits")).name, find_file("my/own.py")
        ('digits.py', 'my/own.py')
    """
    given = Path(path)
    is_name = given.suffix in ("", ".py") and str(given.parent) in (".", "configs")
    known = [str(file) for file in _files() if file.stem == given.stem]
    return known[0] if known and is_name and not given.is_file() else path


def names() -> list[str]:
    """Lists the configs that come with the package, and their forms, as `--config` takes them.

    Example:
        >>> [name for name in names() if name.startswith("cifar10:")]
        ['cifar10:signals', 'cifar10:small']
    """
    listed = []
    for file in _files():
        listed.append(file.stem)
        with contextlib.suppress(Exception), _running(file) as module:  # a broken one has no forms
            listed += [f"{file.stem}:{form}" for form in module.get("FORMS", ()) if form]
    return sorted(listed)


def _files() -> list[Path]:
    folder = next((folder for folder in CONFIGS if folder.is_dir()), None)
    return sorted(folder.glob("[a-z]*.py")) if folder else []


def load_file(path: str, scale: str = "") -> ConfigDict:
    """Runs a config file's `get_config()`; of `FILE.py:FORM` its `get_config("FORM")`; with a scale
    also `scale=`.

    The file may import its neighbours, `from . import base`, and may load other configs by
    `load_file`. A .json file, such as a workdir's config.json, is read, and nothing is run; the
    user's modules are looked for where the workdir's were, which study.json beside it says.

    Args:
        path: a file, or the name of a config of the package: `digits`, `two_regime:small`.
        scale: one of `SCALES`, for configs that have scales; the keys that it changes are listed in
            `figure.changed`. Empty = as the config is.

    Raises:
        InvalidInput: no such file, not Python, no such form or scale, or no ConfigDict from
            `get_config`.
    """
    if scale and scale not in SCALES:
        raise unexpected("--scale", scale, f"to be one of {', '.join(SCALES)}")
    given, form = split_form(path)
    try:
        file = Path(find_file(given)).resolve()
        is_file = file.is_file()
    except (OSError, ValueError) as error:  # A name that is too long, or holds a NUL.
        raise unexpected("--config", path, f"to be the path of a file ({error})") from error
    remedy = (
        "Configs are .py files that define get_config(), or get_config(form) for FILE.py:FORM, "
        "see configs/digits.py; or the config.json of a workdir."
    )
    if not is_file:
        raise unexpected("--config", path, "to be a file", f"{_nearest(path)} {remedy}")
    if file.suffix not in (".py", ".json"):
        raise unexpected("--config", path, "to be a .py or .json file", remedy)
    if scale and file.suffix == ".json":
        raise unexpected("--scale", scale, f"to be left out: {path} is resolved")
    if file.suffix == ".json":
        if workdir := workdir_of(str(file)):
            records.read_of_study(workdir, records.CONFIG)
        user_code.use_folder(_folder_of(file))
        with references.guarded("--config", path, config_json.TOP_LEVEL):
            return ConfigDict(config_json.read(file))
    user_code.use_folder(file.parent)
    try:
        with _running(file) as module:
            parameters = inspect.signature(module["get_config"]).parameters
            if form and not parameters:
                raise ValueError(f"this config has no forms, so none called {form!r}")
            forms, has_scales = [form] if form else [], "scale" in parameters
            config = module["get_config"](*forms)
            if scale and has_scales:
                config = _marked(config, module["get_config"](*forms, scale=scale), scale)
    except BaseException as error:  # a config is the user's code: whatever it raises is the problem
        user_code.let_interrupts_through(error)
        forms = [name for name in names() if form and name.startswith(f"{file.stem}:")]
        hint = f"{nearest(path, forms)} {remedy}".lstrip()
        problem = expected("--config", path, "to define get_config() and run", hint)
        raise InvalidInput([f"{problem} {user_code.raised(error)}"]) from error
    if not isinstance(config, ConfigDict):
        raise unexpected("get_config()", type(config).__name__, "to return a ConfigDict", remedy)
    if scale and not has_scales:
        allowed = f"to be left out: {path} has one size only"
        raise unexpected("--scale", scale, allowed, "Figures of paper_a and paper_b have scales.")
    user_code.use_folder(file.parent)  # a config may have loaded another one, of another folder
    return config


def _marked(full: ConfigDict, scaled: ConfigDict, scale: str) -> ConfigDict:
    """Lists in a scaled config what its scale has changed, as `key: before -> now`."""
    before, now = (dict(flat(config)) for config in (full, scaled))
    changed = tuple(
        f"{key}: {_shown(before.get(key))} -> {_shown(now.get(key))}"
        for key in {**now, **before}
        if before.get(key) != now.get(key) and not key.startswith("figure.")
    )
    scaled.update_from_flattened_dict({"figure.scale": scale, "figure.changed": changed})
    return scaled


def _shown(value: Any) -> str:
    """Writes a value of a config as flags do, numbers with four digits."""
    if isinstance(value, tuple | list):
        return ",".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def flat(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields `section.key` and value, whether sections are nested or not.

    Args:
        config: a ConfigDict, or sections in it.
        prefix: of their names.
    """
    for name in config:
        with references.guarded("config key", f"{prefix}{name}", "to have a value"):
            value = config[name]
        if isinstance(value, Mapping | ConfigDict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def workdir_of(path: str) -> Path | None:
    """Returns the workdir in which a config lies, if it is the config.json of one."""
    file = Path(path)
    is_resolved = file.name == records.CONFIG and records.holds_study(file.parent)
    return file.parent if is_resolved else None


def _folder_of(file: Path) -> str | Path:
    """Returns where the user's modules are looked for: as study.json says, else beside the file."""
    workdir = workdir_of(str(file))
    study = records.read_of_study(workdir, records.STUDY) if workdir else None
    return (study or {}).get("folder") or file.parent


def _nearest(path: str) -> str:
    """Names the configs that a wrong path is closest to, of the package and of its folder, and all
    files of the package."""
    neighbours = map(str, Path(split_form(path)[0]).parent.glob("*.py"))
    known = {short_name(name): name for name in (*neighbours, *names())}
    close = difflib.get_close_matches(short_name(path), known, n=MOST_HINTS)
    hint = f"Did you mean {' or '.join(repr(known[name]) for name in close)}? " if close else ""
    files = ", ".join(file.stem for file in _files())
    return f"{hint}By name there are {files}; each says at its top which forms it has."


@contextlib.contextmanager
def _running(file: Path) -> Iterator[dict[str, Any]]:
    """Runs a config file as a module, in a package of its own whose other modules are the file's
    neighbours.

    Both are forgotten afterwards, and so is every other module of the folder that the file has
    imported: another folder may have neighbours of the same name, and a neighbour may change.

    Yields:
        What the file defines, by name.
    """
    before = set(sys.modules)
    package = ModuleType(f"earlyprune_jax_config_{len(before)}")
    package.__path__ = [str(file.parent)]
    sys.modules[package.__name__] = package
    importlib.invalidate_caches()
    try:
        with user_code.no_bytecode():
            name = f"{package.__name__}.{file.stem.replace('.', '_')}"
            yield runpy.run_path(str(file), run_name=name)
    finally:
        for name in set(sys.modules) - before:
            user_file = user_code.user_file(name) or ""
            is_neighbour = Path(user_file).resolve().is_relative_to(file.parent)
            if name.partition(".")[0] == package.__name__ or (user_file and is_neighbour):
                sys.modules.pop(name, None)


def split_form(path: str) -> tuple[str, str]:
    """Splits off the form of `FILE.py:FORM` and its form, which is empty where none is given.

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
    """Names a config as directories do.

    Example:
        >>> short_name("configs/two_regime.py:small"), short_name("own.py:a/b")
        ('two_regime_small', 'own_a-b')
    """
    file, form = split_form(path)
    return "_".join(part for part in (Path(file).stem, re.sub(r"[^\w.=,+-]", "-", form)) if part)
