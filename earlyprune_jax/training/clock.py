"""Time without compilation: JAX tells how long it traces, lowers and compiles every function.

The first epoch of a network would else look slower than all that follow, by a minute on a busy
core.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

COMPILING = "/jax/core/compile/"
"""What the names of JAX's events begin with that tell of tracing, lowering and compiling."""
XLA = "/jax/core/compile/backend_compile_duration"
"""The event of the longest part."""

_spans: list[tuple[float, float]] = []
"""When functions were compiled: begin and end, ascending."""
_listeners: list[Callable[[str, bool], None]] = []


def compile_seconds() -> float:
    """Returns how long this process has traced, lowered and compiled functions by now."""
    return sum(end - begin for begin, end in _spans)


def run_seconds() -> float:
    """Returns the seconds of a clock that stands still while JAX compiles.

    Example:
        >>> import jax.numpy as jnp
        >>> started, compiled = run_seconds(), compile_seconds()
        >>> _ = jax.jit(lambda x: 2 * x + 1)(jnp.ones(3))
        >>> compile_seconds() > compiled, run_seconds() - started < 1
        (True, True)
    """
    return time.monotonic() - compile_seconds()


@contextlib.contextmanager
def telling(listener: Callable[[str, bool], None]) -> Iterator[None]:
    """Tells of every function that XLA compiles inside: when it begins, and when it has.

    Args:
        listener: called with the function's name, and whether that is over.
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def _on_begin(event: str, value: float, **details: Any) -> None:
    _tell(event, details, False)


def _on_end(event: str, duration_secs: float, **details: Any) -> None:
    if not event.startswith(COMPILING):
        return
    end = time.monotonic()
    begin = end - duration_secs
    # A function that calls others is traced in a time that holds theirs. Their middles are
    # compared: JAX reads another clock.
    while _spans and sum(_spans[-1]) / 2 > begin:
        _spans.pop()
    _spans.append((begin, end))
    _tell(event, details, True)


def _tell(event: str, details: dict[str, Any], is_over: bool) -> None:
    if event == XLA:
        name = str(details.get("fun_name", "")).removeprefix("jit(").removesuffix(")")
        for listener in _listeners:
            listener(name, is_over)


jax.monitoring.register_scalar_listener(_on_begin)
jax.monitoring.register_event_duration_secs_listener(_on_end)
