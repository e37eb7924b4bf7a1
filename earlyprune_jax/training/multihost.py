"""Several processes as one run: process 0 leads, the others join the calls it makes.

With `jax.distributed` every process runs the same program on its own devices. Process 0 alone reads
and writes files, looks at the clock and decides what is trained next; the others get what came of
it over the network, so that they need no file system in common. With one process every function
here does nothing, or calls what it is given.
"""

import contextlib
import contextvars
import functools
import hashlib
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

from earlyprune_jax import user_code
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.validate import expected, refuse, unexpected

T = TypeVar("T")

PRIMARY = 0

SECONDS_TO_AGREE = 60
"""A process that has met an error waits this long for the others to meet it too."""

SECONDS_IN_SILENCE = 10.0
"""A process that has waited so long for others says so, once."""

OTHERS = "the other processes"
_told: set[str] = set()
"""For whom this process has said that it waits."""

_ALONE = contextvars.ContextVar("alone", default=False)
"""Whether this is process 0 while no other process is listening."""


def problems(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> list[str]:
    """Checks the three flags that say where a process belongs; starts nothing.

    Args:
        coordinator: HOST:PORT of process 0, the same in all processes; None = JAX finds all three.
        num_processes: how many there are.
        process_id: this one's number, from 0.

    Returns:
        One message, or none.

    Example:
        >>> problems("10.0.0.1:1234", 2, 1), problems(None, None, None)
        ([], [])
        >>> len(problems("10.0.0.1:1234", 2, 2))
        1
    """
    given = coordinator, num_processes, process_id
    host, _, port = (coordinator or "").rpartition(":")
    is_address = host and port.isdecimal() and 1 <= int(port) <= 65535
    is_numbered = process_id is not None and 0 <= process_id < (num_processes or 0)
    if given == (None, None, None) or is_address and is_numbered:
        return []
    allowed = "to be HOST:PORT of process 0, the number of processes, and one of them, from 0"
    remedy = "Give all three, with an address that the others reach and a free port; or none."
    return [expected("--coordinator, --num_processes, --process_id", given, allowed, remedy)]


def indivisible(spec: RunSpec, num_devices: int) -> list[str]:
    """Lists a problem for every batch size of an experiment that so many devices cannot share
    equally."""
    # Evaluation rounds its batches up; the others' sizes decide what is drawn and learnt.
    sizes = {"train.batch_size": spec.train.batch_size}
    if spec.signals.names:
        sizes["signals.batch_size"] = spec.signals.batch_size
    problems = []
    for name, size in sizes.items():
        lower = size // num_devices * num_devices
        if size != lower:
            near = " or ".join(str(each) for each in (lower, lower + num_devices) if each)
            allowed = f"to be a multiple of the {num_devices} devices"
            problems.append(expected(name, size, allowed, f"Nearest: {near}."))
    return problems


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins this process to the others; in the main thread, before anything asks JAX for a device.

    JAX itself ends a process (exit code 134) that has waited five minutes for the others.

    Args:
        coordinator: HOST:PORT of process 0, or None for all three under Slurm, Open MPI or on a TPU
            pod.
        num_processes: how many there are.
        process_id: this one's number.

    Raises:
        InvalidInput: the arguments are wrong, the port is taken, or nothing can be found out.
    """
    refuse(problems(coordinator, num_processes, process_id))
    # JAX's preemption service takes SIGTERM from the program, which then could not be stopped.
    on_sigterm = signal.getsignal(signal.SIGTERM)
    remedy = "Give --coordinator=HOST:PORT --num_processes=N --process_id=I, and start all N."
    where = f"{num_processes or 'all'} processes to meet"
    where += f" at {coordinator}; this is process {process_id}" if coordinator else ""
    try:
        with _telling(where):
            jax.distributed.initialize(coordinator, num_processes, process_id)
            signal.signal(signal.SIGTERM, on_sigterm)
            # Gloo waits 30 seconds for its peers at the first exchange, and without limit later.
            multihost_utils.process_allgather(np.zeros(1, np.uint8))
    except (ValueError, RuntimeError) as error:
        allowed = f"to bring all processes together ({error})"
        raise unexpected("--coordinator", coordinator, allowed, remedy) from error


@contextlib.contextmanager
def _telling(whom: str) -> Iterator[None]:
    """Says on standard error whom this process waits for, where that lasts; once for each."""
    if whom in _told:
        yield
        return

    def tell() -> None:
        _told.add(whom)
        said = f"earlyprune_jax: waiting for {whom}. Ctrl-C or SIGTERM ends this process."
        print(said, file=sys.stderr, flush=True)

    timer = threading.Timer(SECONDS_IN_SILENCE, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def is_primary() -> bool:
    """Tells whether this is the process that reads and writes files."""
    return jax.process_index() == PRIMARY


def _is_single() -> bool:
    return jax.process_count() == 1 or _ALONE.get()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Lets this process go on alone: nothing inside waits for the others, which do not listen."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def on_primary(function: Callable[[], T]) -> T:
    """Calls a function in process 0 alone; all processes return its value or raise its exception.

    Args:
        function: returns something that can be pickled. Calls of this module inside it stay in
            process 0. It must not compute with arrays on other processes' devices.

    Example:
        >>> on_primary(lambda: {"epoch": 3})
        {'epoch': 3}
    """
    if _is_single():
        return function()
    message, failure = b"", None
    if is_primary():
        try:
            with alone():
                message = pickle.dumps((True, function()))
        except Exception as error:  # whatever it is, the others must not wait for a value
            message, failure = pickle.dumps((False, _portable(error))), error
    succeeded, outcome = _broadcast_message(message)
    if succeeded:
        return outcome
    raise failure or outcome


def primary_only(target: T) -> T:
    """Wraps an object that reads or writes files: its methods run by `on_primary`.

    Example:
        >>> primary_only([1, 2]).count(2)
        1
    """
    if jax.process_count() == 1:
        return target

    def call(method: Callable[..., Any], name: str, *arguments: Any, **options: Any) -> Any:
        return on_primary(lambda: method(*arguments, **options))

    return cast(T, _Proxy(target, call))


class _Proxy:
    """Passes the calls of a target's methods on to `call(method, name, *arguments)`."""

    def __init__(self, target: Any, call: Callable[..., Any]):
        self._target, self._call = target, call

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._target, name)
        if not callable(attribute):
            return attribute
        return functools.partial(self._call, attribute, name)


@contextlib.contextmanager
def leading(target: T) -> Iterator[T]:
    """Makes process 0 the leader: inside, no other process listens but to calls of the target.

    The others are in `follow` meanwhile.

    Args:
        target: every process has one of its own.

    Yields:
        The target; a call of one of its methods is made by all processes.
    """
    if jax.process_count() == 1:
        yield target
        return
    token = _ALONE.set(True)
    try:
        yield cast(T, _Proxy(target, _call_in_all))
    except Exception as error:  # whatever it is, the others must not wait for a call
        _ALONE.reset(token)
        _broadcast_message(pickle.dumps((None, _portable(error))))
        raise
    # Not in a finally clause: an interrupted process has nobody to talk to.
    _ALONE.reset(token)
    _broadcast_message(pickle.dumps((None, None)))


def follow(target: Any) -> None:
    """Makes the calls that process 0 makes of its target, until it has ended.

    Args:
        target: this process's own.

    Raises:
        Exception: what has ended process 0.
    """
    while True:
        name, content = _broadcast_message(b"")
        if name is None:
            if content:
                raise content
            return
        try:
            getattr(target, name)(*content)
        except Exception as error:  # whatever it is, process 0 has met it too, or this process ends
            require_same_error(error)


def _call_in_all(method: Callable[..., Any], name: str, *arguments: Any) -> Any:
    """Has the processes in `follow` make the call that process 0 makes here."""
    token = _ALONE.set(False)
    try:
        _broadcast_message(pickle.dumps((name, arguments)))
        return method(*arguments)
    except Exception as error:  # all have met it, or this process ends
        require_same_error(error)
        raise
    finally:
        _ALONE.reset(token)


def require_same(name: str, value: str) -> None:
    """Checks that all processes give the same text.

    Processes that run different configs or hold different data would train nonsense, or wait for
    ever.

    Args:
        name: of what is compared, for the message.
        value: this process's.

    Raises:
        InvalidInput: in all processes, where one differs.
    """
    if _is_single():
        return
    digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8)
    with _telling(OTHERS):
        gathered = np.asarray(multihost_utils.process_allgather(digest))
    if differing := np.flatnonzero((gathered != gathered[PRIMARY]).any(axis=1)).tolist():
        allowed = f"to be the same in all processes, but it differs from process 0's in {differing}"
        raise unexpected(name, value, allowed, "Start all with the same command and data.")


def require_same_error(error: Exception) -> None:
    """Returns if every process has met an error of this type; ends this process, with code 1, if
    not.

    Nothing else can be done then: the others wait for it in a computation, and notice that it is
    gone.

    Args:
        error: what has just been caught.
    """
    if _is_single():
        return

    def leave() -> None:
        traceback.print_exception(error)
        alone = f"Process {jax.process_index()} alone has met this error, and ends."
        print(alone, file=sys.stderr, flush=True)
        os._exit(1)

    impatience = threading.Timer(SECONDS_TO_AGREE, leave)
    impatience.daemon = True
    impatience.start()
    try:
        require_same("error", type(error).__name__)
    except Exception:  # others have met another error, or exchange something else, or are gone
        leave()
    impatience.cancel()


def _portable(error: Exception) -> Exception:
    """Returns the error if it survives pickling, else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception with arguments of its own
        return RuntimeError(user_code.words(error))
    return error


def _broadcast_message(message: bytes) -> Any:
    """Sends process 0's pickled message to all, and returns what it holds."""

    def broadcast(sent: np.ndarray) -> bytes:
        received = multihost_utils.broadcast_one_to_all(sent, is_source=is_primary())
        return np.asarray(received, np.uint8).tobytes()

    # As bytes: a broadcast is a sum of 32-bit numbers.
    length = np.frombuffer(len(message).to_bytes(8, "little"), np.uint8)
    with _telling(OTHERS if is_primary() else f"process {PRIMARY}"):
        size = int.from_bytes(broadcast(length), "little")
    # Every size compiles a broadcast of its own: they are powers of two, from 1024.
    padded = np.zeros(1 << max(10, size.bit_length()), np.uint8)
    padded[: len(message)] = np.frombuffer(message, np.uint8)
    return pickle.loads(broadcast(padded)[:size])
