"""What a config names: a built-in, or the user's own code by import path, both with literal
arguments.

    resnet20                        a built-in
    fisher(estimator="exact")          a built-in, with arguments
    nets:Net                        attribute Net of module nets
    lab.nets:Net(depth=3)           the same of a module in a package, with arguments

Arguments are Python literals: they are parsed, never evaluated. Modules are found on the Python
path or in the folder that `use_folder` names, which is that of the config file. Code is known by
its digest: the SHA-256 of every user's file that the module loads, wherever the files lie.
"""

import ast
import contextlib
import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from earlyprune_jax import user_code
from earlyprune_jax.user_code import VERSION, current_folder, refresh, use_folder
from earlyprune_jax.validate import InvalidInput, unexpected, unknown_choice

__all__ = [
    "IMPORT_PATH",
    "RESERVED",
    "VERSION",
    "Reference",
    "accepted",
    "bound",
    "check",
    "current_folder",
    "digest",
    "guarded",
    "import_paths",
    "is_import_path",
    "load",
    "parse",
    "refresh",
    "signature_of",
    "split_list",
    "use_folder",
]

RESERVED = ("npz", "folder", "regex")
"""Prefixes that are no modules: `npz:PATH`, `folder:PATH`, `regex:PATTERN`."""

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


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
    remedy = (
        "E.g. nets:Net, or nets:Net(depth=3): module, colon, attribute, and literals as arguments."
    )
    if not (path.isidentifier() or IMPORT_PATH.fullmatch(path)):
        raise unexpected("reference", text, "to be a name or module:attribute", remedy)
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
        raise unexpected("reference", text, allowed, remedy) from None
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
        takes: names of the positional arguments that the user's own object will be called with;
            None = not checked here.

    Returns:
        The class or function, with the arguments bound.

    Raises:
        InvalidInput: no such built-in, module or attribute, an import that raises, arguments that
            do not fit: with the path, what was found and what is wanted.
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
        if reference.module in RESERVED:
            raise unexpected(key, reference.path, f"to be no {reference.module}: here")
        found = user_code.attribute(key, reference.path)
    if not callable(found):
        allowed = f"to name a class or function, but it is {_described(found)}"
        raise unexpected(key, text, allowed)
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
        raise unexpected(key, text, allowed) from None


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


def check(
    key: str, text: str, known: Mapping[str, Any], takes: tuple[str, ...] | None = None
) -> list[str]:
    """Lists the problems of a reference; none where `load` gives an object. Arguments as of
    `load`."""
    try:
        load(key, text, known, takes)
    except InvalidInput as error:
        return list(error.problems)
    return []


def _described(value: Any) -> str:
    return (
        "a module" if isinstance(value, ModuleType) else f"a {type(value).__name__}, {value!r:.60}"
    )


def digest(text: str) -> str | None:
    """Tells what the code behind a reference is known by; None for a built-in. See
    `user_code.digest`."""
    reference = parse(text)
    return user_code.digest(reference.path) if reference.module else None


@contextlib.contextmanager
def guarded(key: str, text: str, allowed: str) -> Iterator[None]:
    """Makes whatever the user's code raises the problem of the key that names it.

    Args:
        key: the config key.
        text: its value.
        allowed: what was expected of the code: `to give a schedule`.

    Raises:
        InvalidInput: what is raised inside, in words; an InvalidInput as it is.

    Example:
        >>> with guarded("schedule.name", "mine:f", "to give a schedule"):  # doctest: +ELLIPSIS
        ...     1 / 0
        Traceback (most recent call last):
        earlyprune_jax.validate.InvalidInput: Expected ... It raised ZeroDivisionError: ...
    """
    try:
        yield
    except InvalidInput:
        raise
    except Exception as error:  # it is the user's code: whatever it raises is the problem
        said = f"{allowed}. It raised {type(error).__name__}: {error}"
        raise unexpected(key, text, said) from error
