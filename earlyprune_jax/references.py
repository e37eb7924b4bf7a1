"""What a config names: a built-in, or the user's own code by import path, both with literal arguments.

    resnet20                        a built-in
    fisher(estimator="exact")          a built-in, with arguments
    nets:Net                        attribute Net of module nets
    lab.nets:Net(depth=3)           the same of a module in a package, with arguments

Arguments are Python literals: they are parsed, never evaluated. Modules are found on the Python path or in
the folder that `use_folder` names, which is that of the config file. Code is known by its digest: the SHA-256
of every user's file that the module loads, wherever the files lie.
"""

import ast
import builtins
import contextlib
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from earlyprune_jax.validate import InvalidInput, expected, nearest, unknown_choice

RESERVED = ("npz", "folder", "regex")
"""Prefixes that are no modules: `npz:PATH`, `folder:PATH`, `regex:PATTERN`."""

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
VERSION = "CODE_VERSION"
"""A module that defines this text is known by it instead of by its source."""
PACKAGE = Path(__file__).parent
MOST_NAMED = 12


@dataclasses.dataclass(frozen=True)
class Reference:
    """A parsed reference.

    Attributes:
        path: a built-in's name, or `module:attribute`.
        arguments: positional.
        options: by name, sorted.
    """

    path: str
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def module(self) -> str:
        """The module of an import path; empty for a built-in."""
        return self.path.partition(":")[0] if ":" in self.path else ""

    def __str__(self) -> str:
        given = [*map(repr, self.arguments), *(f"{name}={value!r}" for name, value in self.options)]
        return f"{self.path}({', '.join(given)})" if given else self.path


def parse(text: str) -> Reference:
    """Reads a reference.

    Raises:
        InvalidInput: it is neither a name nor an import path, or its arguments are no literals.

    Example:
        >>> str(parse("nets:Net(4, depth = 3)")), parse("resnet20").path
        ('nets:Net(4, depth=3)', 'resnet20')
    """
    path, opened, rest = text.strip().partition("(")
    path = path.strip()
    remedy = "E.g. nets:Net, or nets:Net(depth=3): module, colon, attribute, and literals as arguments."
    if not (path.isidentifier() or IMPORT_PATH.fullmatch(path)):
        raise InvalidInput([expected("reference", text, "to be a name or module:attribute", remedy)])
    if not opened:
        return Reference(path)
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != "f":
            raise ValueError("what follows the arguments is not understood")
        if any(word.arg is None for word in call.keywords):
            raise ValueError("** is not understood")
        names = [word.arg for word in call.keywords]
        if len(set(names)) < len(names):
            raise ValueError("one of them is given twice")
        arguments = tuple(ast.literal_eval(node) for node in call.args)
        options = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        allowed = f"to have literals as arguments, not ({rest.removesuffix(')')})"
        raise InvalidInput([expected("reference", text, allowed, remedy)]) from None
    return Reference(path, arguments, tuple(sorted(options.items())))


def is_import_path(text: str) -> bool:
    """Whether a text names an object of the user's, not a built-in or a reserved prefix.

    Example:
        >>> [is_import_path(text) for text in ("nets:Net(depth=3)", "resnet20", "npz:images.npz")]
        [True, False, False]
    """
    path = text.partition("(")[0].strip()
    return bool(IMPORT_PATH.fullmatch(path)) and path.partition(":")[0] not in RESERVED


def import_paths(text: str) -> list[str]:
    """The import paths in a text that may hold several, as a trigger may.

    Example:
        >>> import_paths("first(mine:Rule(column='a:b'), epoch(20))"), import_paths("npz:images.npz")
        (['mine:Rule'], [])
    """
    if text.partition(":")[0] in RESERVED:
        return []
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", "''", text)
    return [one.group(0) for one in IMPORT_PATH.finditer(bare)]


def split_list(text: str) -> list[str]:
    """The parts of a text at commas outside of brackets and quotes.

    Example:
        >>> split_list("magnitude, mine:score(a=1, b=(2, 3))")
        ['magnitude', 'mine:score(a=1, b=(2, 3))']
    """
    parts, depth, quote, start = [], 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def load(
    key: str, text: str, known: Mapping[str, Any], takes: tuple[str, ...] | None = None
) -> Callable[..., Any]:
    """Finds the object a reference names, and binds the reference's arguments.

    Args:
        key: the config key, for messages.
        text: the reference.
        known: name -> object, of the built-ins.
        takes: names of the positional arguments that the user's own object will be called with; None = not
            checked here.

    Returns:
        The class or function, with the arguments bound.

    Raises:
        InvalidInput: no such built-in, module or attribute, an import that raises, arguments that do
            not fit: with the path, what was found and what is wanted.
    """
    try:
        reference = parse(text)
    except InvalidInput as error:
        raise InvalidInput([f"{key}: {problem}" for problem in error.problems]) from None
    if not reference.module:
        if reference.path not in known:
            problem = unknown_choice(key, reference.path, tuple(known))
            raise InvalidInput([f"{problem} Your own: module:attribute."])
        found = known[reference.path]
    else:
        found = _import(key, reference)
    if not callable(found):
        allowed = f"to name a class or function, but it is {_described(found)}"
        raise InvalidInput([expected(key, text, allowed)])
    _check_arguments(key, text, found, reference, takes if reference.module else None)
    if reference.arguments and takes:
        # What the engine gives comes first, whatever the reference names.
        signature = signature_of(found)
        names = list(signature.parameters)[len(takes) :] if signature else []
        named = dict(zip(names, reference.arguments, strict=False))
        return functools.partial(found, **named, **dict(reference.options))
    if reference.arguments or reference.options:
        return functools.partial(found, *reference.arguments, **dict(reference.options))
    return found


def _check_arguments(
    key: str, text: str, found: Any, reference: Reference, takes: tuple[str, ...] | None
) -> None:
    signature = signature_of(found)
    if signature is None:
        return
    given, options = reference.arguments, dict(reference.options)
    try:
        if takes is None:
            signature.bind_partial(*given, **options)
        else:
            signature.bind(*takes, *given, **options)
    except TypeError as error:
        names = ", ".join(name for name in signature.parameters if name not in ("parent", "name"))
        called = f" when called with {', '.join(takes)}" if takes else ""
        allowed = f"to have the arguments of {reference.path}({names}){called} ({error})"
        raise InvalidInput([expected(key, text, allowed)]) from None


def signature_of(function: Any) -> inspect.Signature | None:
    """The signature of a class or function; None where Python cannot tell."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def accepted(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Of the named arguments those that a function takes by name.

    Example:
        >>> accepted(lambda num_classes: num_classes, {"num_classes": 10, "dtype": "float32"})
        {'num_classes': 10}
    """
    signature = signature_of(function)
    if signature is None:
        return dict(given)
    parameters = signature.parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return dict(given)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    bound = function.keywords if isinstance(function, functools.partial) else {}
    return {
        name: value
        for name, value in given.items()
        if name in parameters and parameters[name].kind in kinds and name not in bound
    }


def bound(key: str, text: str, known: Mapping[str, Any]) -> set[str]:
    """The names of the arguments that a reference gives, by position or by name.

    Args:
        key: the config key, for messages.
        text: the reference.
        known: name -> object, of the built-ins.
    """
    reference = parse(text)
    signature = signature_of(load(key, reference.path, known))
    names = list(signature.parameters)[: len(reference.arguments)] if signature else []
    return {*names, *(name for name, _ in reference.options)}


def check(key: str, text: str, known: Mapping[str, Any], takes: tuple[str, ...] | None = None) -> list[str]:
    """Lists the problems of a reference; none where `load` gives an object. Arguments as of `load`."""
    try:
        load(key, text, known, takes)
    except InvalidInput as error:
        return list(error.problems)
    return []


def _described(value: Any) -> str:
    return "a module" if isinstance(value, ModuleType) else f"a {type(value).__name__}, {value!r:.60}"


# --- modules of the user's ---------------------------------------------------------------------------------


@dataclasses.dataclass
class _Session:
    """What this process has imported for references: from which folder, and which source each file had."""

    folder: str = ""
    sources: dict[str, tuple[str, bytes]] = dataclasses.field(default_factory=dict)
    """Module -> its file, and the source that was loaded."""
    imports: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    """Module -> what it has imported while it was loaded, however that was written."""


_SESSION = _Session()


def use_folder(folder: str | Path | None) -> None:
    """Makes a folder, that of a config file, one in which modules are found; it comes after the Python path.

    Another folder's modules are forgotten: two experiments in one process may each have their own `nets`.
    """
    wanted = str(Path(folder).resolve()) if folder else ""
    if wanted == _SESSION.folder:
        return
    if _SESSION.folder:
        with contextlib.suppress(ValueError):
            sys.path.remove(_SESSION.folder)
        _forget(name for name, (file, _) in list(_SESSION.sources.items()) if _inside(file, _SESSION.folder))
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


def _import(key: str, reference: Reference) -> Any:
    module_name, _, attribute = reference.path.partition(":")
    if module_name in RESERVED:
        raise InvalidInput([expected(key, reference.path, f"to be no {module_name}: here")])
    module = _module(key, reference.path, module_name)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InvalidInput([_unknown_attribute(key, reference.path, found, part)])
        found = getattr(found, part)
    return found


def _unknown_attribute(key: str, path: str, holder: Any, part: str) -> str:
    """What else there is: what was written there, not what it imports."""
    own = [
        name
        for name, value in vars(holder).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == getattr(holder, "__name__", "")
    ]
    names = own or [name for name in dir(holder) if not name.startswith("_")]
    shown = ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
    return expected(key, path, f"to name something that is there: {shown}", nearest(part, names))


def _module(key: str, path: str, name: str) -> ModuleType:
    try:
        with _no_bytecode(), _recorded():
            module = importlib.import_module(name)
            # What is imported inside functions too: while an experiment runs, its code stays what it was.
            for other in sorted(_reachable(name)):
                with contextlib.suppress(Exception):
                    importlib.import_module(other)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            places = " or ".join(filter(None, ("the Python path", _SESSION.folder)))
            remedy = f"Looked for {error.name} on {places}."
            raise InvalidInput([expected(key, path, "to name a module that exists", remedy)]) from None
        raise InvalidInput([_import_problem(key, path, error)]) from error
    except (Exception, SystemExit) as error:  # it is the user's code: whatever it raises is the problem
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

    def by_import(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0):
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
    """Whether a module is a file of the user's: neither Python's, nor of an installed package, nor ours."""
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


def digest(text: str) -> str | None:
    """What the code behind a reference is known by; None for a built-in.

    Of a user's module the SHA-256 over the names and sources of all user's files that it loads, helpers
    included; where a file lies does not matter. A module that defines `CODE_VERSION` is known by that text
    alone. An installed package is known by its version.

    Raises:
        InvalidInput: as `load`.
    """
    reference = parse(text)
    if not reference.module:
        return None
    module = _module("code", reference.path, reference.module)
    declared = getattr(module, VERSION, None)
    if declared is not None:
        return _sha256(f"{reference.module} {declared}".encode())
    names = _reachable(reference.module)
    if not names:
        top = sys.modules.get(reference.module.partition(".")[0])
        return _sha256(f"{reference.module} {getattr(top, '__version__', '')}".encode())
    running = hashlib.sha256()
    for name in sorted(names):
        source = _source(name).replace(b"\r\n", b"\n")
        running.update(f"{name} {len(source)}\n".encode())
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
