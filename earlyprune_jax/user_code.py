"""The user's modules: found beside the config or on the Python path, imported, and known by a
digest.

Code is known by the SHA-256 of every user's file that a module loads, wherever the files lie. While
an experiment runs its code stays what it was: files are looked at again by `refresh` only.
"""

import ast
import builtins
import contextlib
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from earlyprune_jax.validate import InvalidInput, expected, nearest, unexpected

VERSION = "CODE_VERSION"
"""A module that defines this text is known by it instead of by its source."""
PACKAGE = Path(__file__).parent
MOST_NAMED = 12


@dataclasses.dataclass
class _Session:
    """What this process has imported for references: from which folder, and which source each file
    had."""

    folder: str = ""
    sources: dict[str, tuple[str, bytes]] = dataclasses.field(default_factory=dict)
    """Module -> its file, and the source that was loaded."""
    imports: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    """Module -> what it has imported while it was loaded, however that was written."""


_SESSION = _Session()


def use_folder(folder: str | Path | None) -> None:
    """Makes a folder, that of a config file, one in which modules are found; it comes after the
    Python path.

    Another folder's modules are forgotten: two experiments in one process may each have their own
    `nets`.
    """
    wanted = str(Path(folder).resolve()) if folder else ""
    if wanted == _SESSION.folder:
        return
    if _SESSION.folder:
        with contextlib.suppress(ValueError):
            sys.path.remove(_SESSION.folder)
        _forget(
            name
            for name, (file, _) in list(_SESSION.sources.items())
            if _inside(file, _SESSION.folder)
        )
    _SESSION.folder = wanted
    if wanted and wanted not in sys.path:
        sys.path.append(wanted)
    importlib.invalidate_caches()


def current_folder() -> str:
    """The folder of `use_folder`; empty without one."""
    return _SESSION.folder


def _inside(file: str, folder: str) -> bool:
    return Path(file).resolve().is_relative_to(folder)


def _forget(names: Any) -> None:
    for name in list(names):
        sys.modules.pop(name, None)
        _SESSION.sources.pop(name, None)
        _SESSION.imports.pop(name, None)


def attribute(key: str, path: str) -> Any:
    """Imports what an import path names.

    Args:
        key: the config key, for messages.
        path: `module:attribute`.

    Raises:
        InvalidInput: there is no such module or attribute, or the import raises.
    """
    module_name, _, names = path.partition(":")
    found: Any = _module(key, path, module_name)
    for part in names.split("."):
        if not hasattr(found, part):
            raise InvalidInput([_unknown_attribute(key, path, found, part)])
        found = getattr(found, part)
    return found


def _unknown_attribute(key: str, path: str, holder: Any, part: str) -> str:
    """What else there is: what was written there, not what it imports."""
    own = [
        name
        for name, value in vars(holder).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == getattr(holder, "__name__", "")
    ]
    names = own or [name for name in dir(holder) if not name.startswith("_")]
    shown = ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
    return expected(key, path, f"to name something that is there: {shown}", nearest(part, names))


def _module(key: str, path: str, name: str) -> ModuleType:
    try:
        with _no_bytecode(), _recorded():
            module = importlib.import_module(name)
            # What is imported inside functions too: while an experiment runs, its code stays what
            # it was.
            for other in sorted(_reachable(name)):
                with contextlib.suppress(Exception):
                    importlib.import_module(other)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            places = " or ".join(filter(None, ("the Python path", _SESSION.folder)))
            remedy = f"Looked for {error.name} on {places}."
            raise unexpected(key, path, "to name a module that exists", remedy) from None
        raise InvalidInput([_import_problem(key, path, error)]) from error
    except (
        Exception,
        SystemExit,
    ) as error:  # it is the user's code: whatever it raises is the problem
        raise InvalidInput([_import_problem(key, path, error)]) from error
    for other in _reachable(name):
        _note(other)
    return module


def _import_problem(key: str, path: str, error: BaseException) -> str:
    return expected(key, path, f"to be importable. It raised {type(error).__name__}: {error}")


def _note(name: str) -> None:
    file = _file(sys.modules.get(name)) or _found(name)
    if file and name not in _SESSION.sources:
        _SESSION.sources[name] = (file, Path(file).read_bytes())


@contextlib.contextmanager
def _recorded() -> Iterator[None]:
    """Notes who imports what by a call; import statements are read off the source."""
    importing, importing_module = builtins.__import__, importlib.import_module

    def note(importer: Any, name: str) -> None:
        if isinstance(importer, str):
            _SESSION.imports.setdefault(importer, set()).add(name)

    def by_import(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ):
        if not level:
            note((globals or sys._getframe(1).f_globals).get("__name__"), name)
        return importing(name, globals, locals, fromlist, level)

    def by_module(name: str, package: str | None = None) -> ModuleType:
        module = importing_module(name, package)
        note(sys._getframe(1).f_globals.get("__name__"), module.__name__)
        return module

    builtins.__import__, importlib.import_module = by_import, by_module
    try:
        yield
    finally:
        builtins.__import__, importlib.import_module = importing, importing_module


def refresh() -> None:
    """Has all of the user's modules loaded anew where a file has changed since it was loaded.

    For the start of an experiment: while one runs, its code stays what it was.
    """
    for file, source in list(_SESSION.sources.values()):
        if not Path(file).is_file() or Path(file).read_bytes() != source:
            _forget(_SESSION.sources)
            importlib.invalidate_caches()
            return


@contextlib.contextmanager
def _no_bytecode() -> Iterator[None]:
    # A .pyc is told from its source by second and size: an edit within a second would not be seen.
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = kept


def _file(module: ModuleType | None) -> str | None:
    file = getattr(module, "__file__", None)
    return file if isinstance(file, str) and file.endswith(".py") else None


@functools.cache
def _installed_folders() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({Path(sysconfig.get_path(name)).resolve() for name in names})


def _is_users(module: ModuleType | None) -> bool:
    """Whether a module is a file of the user's: neither Python's, nor of an installed package, nor
    ours."""
    file = _file(module)
    if file is None:
        return False
    path = Path(file).resolve()
    is_installed = any(path.is_relative_to(folder) for folder in _installed_folders())
    return not (is_installed or "site-packages" in path.parts or path.is_relative_to(PACKAGE))


def _reachable(name: str) -> set[str]:
    """The user's modules that a module imports, itself included: at its top or anywhere inside."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        module = sys.modules.get(current) or _found(current)
        file = module if isinstance(module, str) else _file(module) if _is_users(module) else None
        if file is None:
            continue
        found.add(current)
        waiting += _imported_names(file, current)
        waiting += _SESSION.imports.get(current, ())
        if "." in current:
            waiting.append(current.rpartition(".")[0])
    return found


def _found(name: str) -> str | None:
    """The file of a module that has not been imported yet, if it is a user's."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    probe = ModuleType(name)
    probe.__file__ = spec.origin
    return spec.origin if _is_users(probe) else None


def _imported_names(file: str, name: str) -> list[str]:
    is_package = Path(file).name == "__init__.py"
    package = name if is_package else name.rpartition(".")[0]
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join(filter(None, (*parts, base)))
            # A name may be a module of its own.
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [one for one in names if one]


def digest(path: str) -> str:
    """Tells what the code behind an import path is known by.

    Of a user's module the SHA-256 over the names and sources of all user's files that it loads,
    helpers included; where a file lies does not matter. A module that defines `CODE_VERSION` is
    known by that text alone. An installed package is known by its version.

    Raises:
        InvalidInput: as `attribute`.
    """
    name = path.partition(":")[0]
    module = _module("code", path, name)
    declared = getattr(module, VERSION, None)
    if declared is not None:
        return _sha256(f"{name} {declared}".encode())
    names = _reachable(name)
    if not names:
        top = sys.modules.get(name.partition(".")[0])
        return _sha256(f"{name} {getattr(top, '__version__', '')}".encode())
    running = hashlib.sha256()
    for each in sorted(names):
        source = _source(each).replace(b"\r\n", b"\n")
        running.update(f"{each} {len(source)}\n".encode())
        running.update(source)
    return running.hexdigest()


def _source(name: str) -> bytes:
    """The source of a module: as it was loaded, or as it would be."""
    if name in _SESSION.sources:
        return _SESSION.sources[name][1]
    file = _file(sys.modules.get(name)) or _found(name)
    return Path(file).read_bytes() if file else b""


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
