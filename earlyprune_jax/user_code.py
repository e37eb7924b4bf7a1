"""The user's modules: found beside the config or on the Python path, imported, and known by a
digest.

Code is known by the SHA-256 of every user's file that a module imports, wherever the files lie.
While an experiment runs its code stays what it was: files are looked at again by `refresh` only.
"""

import ast
import contextlib
import dis
import functools
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from earlyprune_jax.validate import nearest, unexpected

VERSION = "CODE_VERSION"
"""A module that defines this text is known by it instead of by its source."""
INSTALLED = (
    Path(__file__).parent,
    *(Path(path).resolve() for name, path in sysconfig.get_paths().items() if name.endswith("lib")),
)
"""Folders of Python, of installed packages, and ours: what lies in them is not the user's."""
MOST_NAMED = 12

_folder = ""
"""That of `use_folder`."""
_SOURCES: dict[str, tuple[str, bytes]] = {}
"""Module -> its file and the source that was loaded, of all that this process has imported."""


def use_folder(folder: str | Path | None) -> None:
    """Makes a folder, that of a config file, one in which modules are found; it comes after the
    Python path.

    Another folder's modules are forgotten: two experiments in one process may each have their own
    `nets`.
    """
    global _folder
    wanted = str(Path(folder).resolve()) if folder else ""
    if wanted == _folder:
        return
    if _folder:
        with contextlib.suppress(ValueError):
            sys.path.remove(_folder)
        _forget(
            name
            for name, (file, _) in _SOURCES.items()
            if Path(file).resolve().is_relative_to(_folder)
        )
    _folder = wanted
    if wanted and wanted not in sys.path:
        sys.path.append(wanted)
    importlib.invalidate_caches()


def current_folder() -> str:
    """Returns the folder of `use_folder`; empty without one."""
    return _folder


def refresh() -> None:
    """Has all of the user's modules loaded anew where a file has changed since it was loaded.

    For the start of an experiment: while one runs, its code stays what it was.
    """
    for file, source in _SOURCES.values():
        if not Path(file).is_file() or Path(file).read_bytes() != source:
            _forget(_SOURCES)
            importlib.invalidate_caches()
            return


def _forget(names: Iterable[str]) -> None:
    for name in list(names):
        sys.modules.pop(name, None)
        _SOURCES.pop(name, None)


def attribute(key: str, path: str) -> Any:
    """Imports what an import path names.

    Args:
        key: the config key, for messages.
        path: `module:attribute`.

    Raises:
        InvalidInput: there is no such module or attribute, or the import raises.
    """
    module_name, _, names = path.partition(":")
    holder: Any = _module(key, path, module_name)
    for part in names.split("."):
        if not hasattr(holder, part):
            # What is defined there, not what it imports.
            names = [name for name in vars(holder) if not name.startswith("_")]
            home = getattr(holder, "__name__", "")
            own = [n for n in names if getattr(vars(holder)[n], "__module__", None) == home]
            names = own or sorted(names)
            shown = ", ".join(names[:MOST_NAMED]) + ", ..." * (len(names) > MOST_NAMED)
            allowed = f"to name something that is there: {shown}"
            raise unexpected(key, path, allowed, nearest(part, names))
        holder = getattr(holder, part)
    return holder


def _module(key: str, path: str, name: str) -> ModuleType:
    try:
        with no_bytecode():
            module = importlib.import_module(name)
            # What is imported inside functions too: while an experiment runs, its code stays what
            # it was.
            for other in sorted(_imported(name)):
                with contextlib.suppress(Exception):
                    importlib.import_module(other)
    except BaseException as error:  # the user's code: whatever it raises is the problem
        let_interrupts_through(error)
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and name.startswith(missing):
            remedy = f"Looked for {missing} on {' or '.join(_places())}."
            raise unexpected(key, path, "to name a module that exists", remedy) from None
        raise unexpected(key, path, f"to be importable. {raised(error)}") from error
    for other in _imported(name):
        file = user_file(other)
        if file and other not in _SOURCES:
            _SOURCES[other] = (file, Path(file).read_bytes())
    return module


def _places() -> list[str]:
    """Names where modules are looked for: in the current folder only as `python -m` has it."""
    here = str(Path.cwd())
    folders = [here] if {here, ""} & set(sys.path) else []
    return list(dict.fromkeys(filter(None, ("the Python path", *folders, current_folder()))))


@contextlib.contextmanager
def no_bytecode() -> Iterator[None]:
    """Has modules imported without a .pyc.

    One is told from its source by second and size: an edit within a second would not be seen.
    """
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = kept


def user_file(name: str) -> str | None:
    """Finds the file of a module, imported or not, if it is the user's.

    Returns:
        None for a module of Python, of an installed package or of ours, and where there is none.
    """
    try:
        spec = _find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    return spec.origin if _is_users(spec.origin) else None


def _find_spec(name: str) -> ModuleSpec | None:
    """Finds a module as importlib does, but without importing the packages it lies in."""
    parent = name.rpartition(".")[0]
    if name in sys.modules or not parent:
        return importlib.util.find_spec(name)
    above = _find_spec(parent)
    folders = above.submodule_search_locations if above else None
    return PathFinder.find_spec(name, list(folders)) if folders else None


def _is_users(file: str) -> bool:
    path = Path(file).resolve()
    is_installed = any(path.is_relative_to(folder) for folder in INSTALLED)
    return path.is_file() and not is_installed and "site-packages" not in path.parts


def raised(error: BaseException) -> str:
    """Says what was raised, and at which line of the user's: the last that is neither Python's, an
    installed package's nor ours.

    Example:
        >>> raised(KeyError("layer"))
        "It raised KeyError: 'layer'"
    """
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{frame.filename}:{frame.lineno}" for frame in frames if _is_users(frame.filename)]
    said = f"It raised {' '.join(words(error).split())}"
    return f"{said} ({lines[-1]})" if lines else said


def words(error: BaseException) -> str:
    """Writes an error's type and text; what a terminal would obey instead of showing as escapes.

    Example:
        >>> words(KeyError("layer")), words(StopIteration())
        ("KeyError: 'layer'", 'StopIteration')
    """
    try:
        text = str(error)
    except BaseException:  # the user's code: whatever it raises, there is no text
        text = ""
    shown = (each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)
    return f"{type(error).__name__}: {''.join(shown)}".removesuffix(": ")


def let_interrupts_through(error: BaseException) -> None:
    """Raises a KeyboardInterrupt again, unless the user's code has raised it by a statement of its
    own: then it is an error like any other.

    Call it first where the user's code has raised `error`.
    """
    last = error.__traceback__
    if not isinstance(error, KeyboardInterrupt) or last is None:
        return
    while last.tb_next:
        last = last.tb_next
    code = last.tb_frame.f_code
    is_raised = dis.opname[code.co_code[last.tb_lasti]] == "RAISE_VARARGS"
    if not (is_raised and _is_users(code.co_filename)):
        raise error


def _imported(name: str) -> set[str]:
    """Names the user's modules that a module imports, itself included: at its top or anywhere
    inside."""
    modules: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in modules or (file := user_file(current)) is None:
            continue
        modules.add(current)
        waiting += _written_imports(file, current) + _bound_modules(current)
        if "." in current:
            waiting.append(current.rpartition(".")[0])
    return modules


def _written_imports(file: str, name: str) -> list[str]:
    """Reads the names after import statements and in calls of import_module off a source."""
    is_package = Path(file).name == "__init__.py"
    package = name if is_package else name.rpartition(".")[0]
    try:
        nodes = _import_nodes(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    names: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            # A name may be a module of its own.
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node.args[0], ast.Constant):
            names.append(_absolute(str(node.args[0].value), package))
        elif package:
            # A name that is worked out, as where a package imports whatever lies in its folder.
            neighbours = pkgutil.iter_modules([str(Path(file).parent)])
            names += [f"{package}.{neighbour.name}" for neighbour in neighbours]
    return [name for name in names if name]


@functools.lru_cache(maxsize=256)
def _import_nodes(source: bytes) -> list[ast.Import | ast.ImportFrom | ast.Call]:
    """Parses a source, and keeps import statements and calls of import_module."""

    def imports(node: ast.AST) -> TypeGuard[ast.Import | ast.ImportFrom | ast.Call]:
        if not isinstance(node, ast.Call):
            return isinstance(node, ast.Import | ast.ImportFrom)
        function = ast.unparse(node.func).rpartition(".")[2]
        return bool(node.args) and function in ("import_module", "__import__")

    return [node for node in ast.walk(ast.parse(source)) if imports(node)]


def _absolute(name: str, package: str) -> str:
    with contextlib.suppress(ImportError):  # beyond the topmost package
        return importlib.util.resolve_name(name, package)
    return ""


def _bound_modules(name: str) -> list[str]:
    """Names the modules from which an imported module holds something: so what it has imported by a
    name that was worked out is found too."""
    names = []
    for value in list(vars(sys.modules[name]).values()) if name in sys.modules else ():
        is_module = isinstance(value, ModuleType)
        origin = value.__name__ if is_module else getattr(value, "__module__", None)
        # Importing a module makes it an attribute of its package, which may not know of it.
        if isinstance(origin, str) and not origin.startswith(f"{name}."):
            names.append(origin)
    return names


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
    names = _imported(name)
    if declared is not None or not names:
        top = sys.modules.get(name.partition(".")[0])
        version = getattr(top, "__version__", "") if declared is None else declared
        return _hash_version(name, version)
    return _hash_sources({imported: _SOURCES[imported][1] for imported in names})


def _hash_version(name: str, version: Any) -> str:
    return hashlib.sha256(f"{name} {version}".encode()).hexdigest()


def _hash_sources(sources: Mapping[str, bytes]) -> str:
    running = hashlib.sha256()
    for name in sorted(sources):
        source = sources[name].replace(b"\r\n", b"\n")
        running.update(f"{name} {len(source)}\n".encode())
        running.update(source)
    return running.hexdigest()


def changed_sources(path: str, known: str, modules: Mapping[str, str]) -> list[str]:
    """Names the modules behind an import path that have changed; imports and executes nothing.

    What a module imports by a name that is worked out shows only when it runs: `digest` tells of
    these afterwards.

    Args:
        path: `module:attribute`.
        known: its earlier `digest`.
        modules: what `source_digests` told then.

    Returns:
        Names of modules whose files are others than they were; none where that cannot be told yet.
    """
    name = path.partition(":")[0]
    files = {each: user_file(each) for each in _imported(name)}
    sources = {each: Path(file).read_bytes() for each, file in files.items() if file}
    if VERSION.encode() in sources.get(name, b""):
        version = _declared_version(sources[name])
        return [name] if version is not None and _hash_version(name, version) != known else []
    if _hash_sources(sources) == known:
        return []
    return [
        each
        for each, source in sources.items()
        if modules.get(each, _sha256(source)) != _sha256(source)
    ]


def _declared_version(source: bytes) -> Any:
    """Reads `CODE_VERSION = "2"` off a source; None where it is worked out."""
    statements = (node for node in ast.parse(source).body if isinstance(node, ast.Assign))
    for node in statements:
        names = [name.id for name in node.targets if isinstance(name, ast.Name)]
        if VERSION in names and isinstance(node.value, ast.Constant):
            return node.value.value
    return None


def _sha256(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()


def source_digests() -> dict[str, str]:
    """Returns module -> the SHA-256 of its source, of every module of the user's loaded so far."""
    return {name: _sha256(source) for name, (_, source) in _SOURCES.items()}
