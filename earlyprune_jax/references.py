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
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from earlyprune_jax import user_code
from earlyprune_jax.validate import InvalidInput, problems_of, unexpected, unknown_choice

RESERVED = ("npz", "folder", "regex")
"""Prefixes that are no modules: `npz:PATH`, `folder:PATH`, `regex:PATTERN`."""

# It begins where a name begins: else a long text would be searched from each of its letters on.
IMPORT_PATH = re.compile(r"(?<![\w.])[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
COLON = ".import_path_colon."
"""What stands for the colon of an import path, which is no part of a Python expression."""
QUOTED = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""

EXAMPLE = (
    "E.g. nets:Net, or nets:Net(depth=3): module, colon, attribute, and literals as arguments."
)


@dataclasses.dataclass(frozen=True)
class Written:
    """A part of a text that is neither a call nor a literal, such as a bare name."""

    text: str

    def __repr__(self) -> str:
        return self.text


@dataclasses.dataclass(frozen=True, repr=False)
class Reference:
    """A parsed reference.

    Attributes:
        path: a built-in's name, or `module:attribute`.
        arguments: positional.
        options: (name, value) pairs.
    """

    path: str
    arguments: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def module(self) -> str:
        """Returns the module of an import path; empty for a built-in."""
        return self.path.partition(":")[0] if ":" in self.path else ""

    def __repr__(self) -> str:
        given = [*map(repr, self.arguments), *(f"{name}={value!r}" for name, value in self.options)]
        return f"{self.path}({', '.join(given)})" if given else self.path


def parse(text: str, key: str = "reference") -> Reference:
    """Reads a reference to one object, with literals as arguments.

    Args:
        text: the reference.
        key: the config key, for messages.

    Raises:
        InvalidInput: it is neither a name nor an import path, or its arguments are no literals.

    Example:
        >>> str(parse("nets:Net(4, depth = 3)")), parse("resnet20").path
        ('nets:Net(4, depth=3)', 'resnet20')
    """
    name = text.strip()
    # Names may be Python's keywords: global.
    if name.isidentifier() or IMPORT_PATH.fullmatch(name):
        return Reference(name)
    reference = read(text, key, EXAMPLE)
    if not isinstance(reference, Reference):
        raise unexpected(key, text, "to be a name or module:attribute", EXAMPLE)
    names = [name for name, _ in reference.options]
    values = [*reference.arguments, *(value for _, value in reference.options)]
    is_literal = not any(isinstance(value, Reference | Written) for value in values)
    if not is_literal or "**" in names or len(set(names)) < len(names):
        allowed = f"to have literals as arguments, each once; it is read as {reference}"
        raise unexpected(key, text, allowed, EXAMPLE)
    return dataclasses.replace(reference, options=tuple(sorted(reference.options)))


def read(text: str, thing: str, remedy: str) -> Any:
    """Reads calls, which may be nested, of names and import paths. Nothing is evaluated.

    Args:
        text: such as `first(peak(loss, patience=2), mine:Rule())`.
        thing: what it is, for messages.
        remedy: for messages.

    Returns:
        A `Reference` for a call, whose arguments are again what this returns; the value of a
        literal; `Written` for anything else.

    Raises:
        InvalidInput: the text is no expression.

    Example:
        >>> read("first(peak(loss, patience=2), mine:Rule())", "rule", "").arguments
        (peak(loss, patience=2), mine:Rule)
    """
    expression = re.sub(
        f"{QUOTED}|{IMPORT_PATH.pattern}",
        lambda part: part[0] if part[0][0] in "'\"" else part[0].replace(":", COLON),
        text.strip(),
    )
    try:
        return _value(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        opened, closed = text.count("("), text.count(")")
        if opened != closed:
            remedy = f"It has {opened} '(' and {closed} ')'. {remedy}"
        reason = error.msg if isinstance(error, SyntaxError) else type(error).__name__
        raise unexpected(thing, text, f"to be readable ({reason})", remedy) from None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        path = _written(node.func)
        if path.isidentifier() or IMPORT_PATH.fullmatch(path):
            options = tuple((word.arg or "**", _value(word.value)) for word in node.keywords)
            return Reference(path, tuple(map(_value, node.args)), options)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        return Written(_written(node))


def _written(node: ast.expr) -> str:
    return ast.unparse(node).replace(COLON, ":")


def frozen(value: Any) -> Any:
    """Returns a literal with its lists as tuples, which can be hashed."""
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def is_import_path(text: str) -> bool:
    """Tells whether a text names an object of the user's, not a built-in or a reserved prefix.

    Example:
        >>> [is_import_path(text) for text in ("nets:Net(depth=3)", "resnet20", "npz:images.npz")]
        [True, False, False]
    """
    path = text.partition("(")[0].strip()
    return bool(IMPORT_PATH.fullmatch(path)) and path.partition(":")[0] not in RESERVED


def import_paths(text: str) -> list[str]:
    """Lists the import paths in a text that may hold several, as a trigger may.

    Example:
        >>> import_paths("first(mine:Rule(column='a:b'), epoch(20))")
        ['mine:Rule']
        >>> import_paths("npz:images.npz")
        []
    """
    if text.partition(":")[0] in RESERVED:
        return []
    bare = re.sub(QUOTED, "''", text)
    return [path[0] for path in IMPORT_PATH.finditer(bare)]


def split_list(text: str) -> list[str]:
    """Splits a text at commas outside of brackets and quotes.

    Example:
        >>> split_list("magnitude, mine:score(a=1, b=(2, ','))")
        ['magnitude', "mine:score(a=1, b=(2, ','))"]
    """
    # Quoted parts of the same length: the places of the commas are those of the text.
    bare = re.sub(QUOTED, lambda quoted: "_" * len(quoted[0]), text)
    depths = itertools.accumulate((letter in "([{") - (letter in ")]}") for letter in bare)
    commas = [index for index, depth in enumerate(depths) if bare[index] == "," and depth == 0]
    bounds = itertools.pairwise([-1, *commas, len(text)])
    parts = [text[start + 1 : end].strip() for start, end in bounds]
    return [part for part in parts if part]


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
    reference = parse(text, key)
    if reference.module in RESERVED:
        raise unexpected(key, reference.path, f"to be no {reference.module}: here")
    if reference.module:
        target = user_code.attribute(key, reference.path)
    elif reference.path in known:
        target = known[reference.path]
    else:
        problem = unknown_choice(key, reference.path, tuple(known))
        raise InvalidInput([f"{problem} Your own: module:attribute."])
    if not callable(target):
        described = f"a {type(target).__name__}, {target!r:.60}"
        raise unexpected(key, text, f"to name a class or function, but it is {described}")
    given, options = reference.arguments, dict(reference.options)
    parameters = parameters_of(target)
    if parameters is not None:
        signature = inspect.Signature(list(parameters.values()))
        try:
            if takes is None or not reference.module:
                signature.bind_partial(*given, **options)
            else:
                signature.bind(*takes, *given, **options)
        except TypeError as error:
            names = ", ".join(name for name in parameters if name not in ("parent", "name"))
            called = f" when called with {', '.join(takes)}" if takes else ""
            allowed = f"to have the arguments of {reference.path}({names}){called} ({error})"
            raise unexpected(key, text, allowed) from None
    if given and takes:
        # What the engine gives comes first, whatever the reference names.
        names = list(parameters or ())[len(takes) :]
        given, options = (), dict(zip(names, given, strict=False)) | options
    return functools.partial(target, *given, **options) if given or options else target


def parameters_of(function: Any) -> Mapping[str, inspect.Parameter] | None:
    """Returns the parameters of a class or function; None where Python cannot tell."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None


def accepted(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Selects those of the named arguments that a function takes by name.

    Example:
        >>> accepted(lambda num_classes: num_classes, {"num_classes": 10, "dtype": "float32"})
        {'num_classes': 10}
    """
    parameters = parameters_of(function)
    kinds = {name: parameter.kind for name, parameter in (parameters or {}).items()}
    if parameters is None or inspect.Parameter.VAR_KEYWORD in kinds.values():
        return dict(given)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    bound = function.keywords if isinstance(function, functools.partial) else {}
    return {
        name: value
        for name, value in given.items()
        if kinds.get(name) in by_name and name not in bound
    }


def takes(function: Callable[..., Any], num: int) -> bool:
    """Tells whether a function can be called with so many arguments by position, and others by
    name.

    Example:
        >>> takes(lambda splits, model, **options: None, 2), takes(lambda command: None, 2)
        (True, False)
    """
    try:
        inspect.signature(function).bind_partial(*[None] * num)
    except TypeError:
        return False
    except ValueError:  # Of some built-ins nothing is known.
        return True
    return True


def bound(key: str, text: str, known: Mapping[str, Any]) -> set[str]:
    """Names the arguments that a reference gives, by position or by name.

    Args:
        key: the config key, for messages.
        text: the reference.
        known: name -> object, of the built-ins.

    Returns:
        Names of arguments.
    """
    reference = parse(text)
    parameters = parameters_of(load(key, reference.path, known))
    positional = list(parameters or ())[: len(reference.arguments)]
    return {*positional, *(name for name, _ in reference.options)}


def check(
    key: str, text: str, known: Mapping[str, Any], takes: tuple[str, ...] | None = None
) -> list[str]:
    """Lists the problems of a reference; none where `load` gives an object.

    Args:
        key: the config key, for messages.
        text: the reference.
        known: name -> object, of the built-ins.
        takes: the arguments that the object is called with; None = it is not called.

    Returns:
        The problems, a sentence each.
    """
    return problems_of(lambda: load(key, text, known, takes))


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

    Yields:
        Nothing.

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
    except BaseException as error:  # the user's code: whatever it raises is the problem
        user_code.let_interrupts_through(error)
        raise unexpected(key, text, f"{allowed}. {user_code.raised(error)}") from error
