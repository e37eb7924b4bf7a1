"""Several processes as one run: how they find each other, and what only the first of them does.

With `jax.distributed` every process runs the same program on its own devices. Process 0, the
primary, alone reads and writes files and takes the decisions that depend on the clock; the others
get what came of it over the network, so that they need no file system in common. Every function
here is called by all processes, in the same order; with one process each is the identity.
"""

import contextlib
import contextvars
import hashlib
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from earlyprune_jax.validate import InvalidInput, expected, unexpected

T = TypeVar("T")

PRIMARY = 0

_ALONE = contextvars.ContextVar("alone", default=False)
"""Whether this is process 0 inside a call of `on_primary`: no other process is listening then."""

SECONDS_TO_AGREE = 60
"""A process that has met an error waits so long for the others to meet it too."""

SMALLEST_MESSAGE = 1024
"""Bytes; messages are padded to powers of two, because every length compiles a broadcast of its
own."""


def problems(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> list[str]:
    """What is wrong with the three flags that say where a process belongs; nothing is started.

    Args:
        coordinator: HOST:PORT of process 0, the same in all processes; None = JAX finds all three.
        num_processes: how many there are.
        process_id: this one's number, from 0.

    Example:
        >>> problems("10.0.0.1:1234", 2, 1), problems(None, None, None)
        ([], [])
        >>> problems("10.0.0.1:1234", 2, 2)
        ['Expected --process_id=2 in [0, 2). Processes are numbered from 0.']
    """
    values = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [name for name, value in values.items() if value is None]
    if len(missing) == len(values):
        return []
    if missing:
        given = ", ".join(name for name in values if name not in missing)
        return [
            f"Expected {' and '.join(missing)} beside {given}: the three go together, or none of them."
        ]
    found = []
    host, _, port = str(coordinator).rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        remedy = "Give an address of process 0's machine that the others reach, and a free port."
        found.append(expected("--coordinator", coordinator, "to be HOST:PORT", remedy))
    if num_processes is not None and num_processes < 1:
        found.append(expected("--num_processes", num_processes, "to be at least 1"))
    elif num_processes and process_id is not None and not 0 <= process_id < num_processes:
        remedy = "Processes are numbered from 0."
        found.append(expected("--process_id", process_id, f"in [0, {num_processes})", remedy))
    return found


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins this process to the others; in the main thread, before anything else asks JAX for a
    device.

    Args:
        coordinator: HOST:PORT of process 0, or None for all three under Slurm, Open MPI or on a TPU
            pod.
        num_processes: how many there are.
        process_id: this one's number.

    JAX itself ends a process (exit code 134) that has waited five minutes for the others.

    Raises:
        InvalidInput: the arguments are wrong, the port is taken, or nothing can be found out.
    """
    found = problems(coordinator, num_processes, process_id)
    if found:
        raise InvalidInput(found)
    # JAX's preemption service takes SIGTERM from the program, which then could not be stopped.
    on_sigterm = signal.getsignal(signal.SIGTERM)
    remedy = (
        "Give --coordinator=HOST:PORT --num_processes=N --process_id=I, and start all N processes."
    )
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
        signal.signal(signal.SIGTERM, on_sigterm)
        # Gloo waits 30 seconds for its peers at the first exchange and as long as it takes at later
        # ones.
        multihost_utils.process_allgather(np.zeros(1, np.uint8))
    except (ValueError, RuntimeError) as error:
        allowed = f"to bring all processes together ({error})"
        raise unexpected("--coordinator", coordinator, allowed, remedy) from error


def is_primary() -> bool:
    """Whether this is the process that reads and writes files."""
    return jax.process_index() == PRIMARY


def from_primary(tree: Any) -> Any:
    """Process 0's arrays in every process, bit for bit; the others give a tree of the same shapes
    and types.

    One process gets its own tree back. Otherwise the leaves are NumPy arrays: on no device yet.

    Args:
        tree: arrays each process holds whole.
    """
    if jax.process_count() == 1 or _ALONE.get():
        return tree
    leaves, structure = jax.tree.flatten(jax.device_get(tree))
    host = [np.ascontiguousarray(leaf) for leaf in leaves]
    # As bytes: a broadcast is a sum, which loses the sign of zero and halves what float64 holds.
    packed = np.concatenate([leaf.reshape(-1).view(np.uint8) for leaf in host])
    received = _broadcast(packed)
    ends = np.cumsum([leaf.nbytes for leaf in host])[:-1]
    parts = zip(np.split(received, ends), host, leaves, strict=True)
    return structure.unflatten(
        [part.view(leaf.dtype).reshape(np.shape(shaped)) for part, leaf, shaped in parts]
    )


def on_primary(function: Callable[[], T]) -> T:
    """Calls a function in process 0 alone; all processes return its value, or raise its exception.

    For what reads a file or the clock. Further calls of this module inside it stay in process 0;
    the function must not compute with arrays that lie on other processes' devices.

    Args:
        function: returns something that can be pickled.

    Example:
        >>> on_primary(lambda: {"epoch": 3})
        {'epoch': 3}
    """
    if jax.process_count() == 1 or _ALONE.get():
        return function()
    message, failed = b"", None
    if is_primary():
        token = _ALONE.set(True)
        try:
            message = pickle.dumps((True, function()))
        except Exception as error:  # whatever it is, the others must not wait for a value
            message, failed = pickle.dumps((False, _portable(error))), error
        finally:
            _ALONE.reset(token)
    succeeded, outcome = pickle.loads(_broadcast_bytes(message))
    if succeeded:
        return outcome
    raise failed or outcome


@contextlib.contextmanager
def held_by_primary(make: Callable[[], contextlib.AbstractContextManager[Any]]) -> Iterator[None]:
    """A context that process 0 enters and leaves for all, such as a lock; all raise what entering
    raises.

    Example:
        >>> with held_by_primary(contextlib.nullcontext):
        ...     on_primary(lambda: "held")
        'held'
    """
    with contextlib.ExitStack() as stack:

        def enter() -> None:
            stack.enter_context(make())

        on_primary(enter)
        yield


def require_same(name: str, value: str) -> None:
    """Raises InvalidInput, in all processes, unless all give the same text.

    Processes that run different configs or hold different data would train nonsense or wait for
    ever.

    Args:
        name: of what is compared, for the message.
        value: this process's.
    """
    if jax.process_count() == 1 or _ALONE.get():
        return
    digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8)
    gathered = np.asarray(multihost_utils.process_allgather(digest))
    differing = [
        index for index, row in enumerate(gathered) if not np.array_equal(row, gathered[PRIMARY])
    ]
    if differing:
        allowed = f"to be the same in all processes, but it differs from process 0's in {differing}"
        raise unexpected(name, value, allowed, "Start all with the same command and data.")


def require_same_error(error: Exception) -> None:
    """Returns if every process has met an error of this type; where this one alone has, it ends,
    with code 1.

    Nothing else can be done then: the others wait for it in a computation, and notice that it is
    gone.

    Args:
        error: what has just been caught.
    """
    if jax.process_count() == 1 or _ALONE.get():
        return

    def leave() -> None:
        traceback.print_exception(error)
        print(
            f"Process {jax.process_index()} alone has met this error, and ends.",
            file=sys.stderr,
            flush=True,
        )
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
    """The error if it survives the journey, else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an exception with arguments of its own
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _broadcast(array: np.ndarray) -> np.ndarray:
    return np.asarray(
        multihost_utils.broadcast_one_to_all(array, is_source=is_primary()), array.dtype
    )


def _broadcast_bytes(message: bytes) -> bytes:
    length = int(_broadcast(np.array(len(message), np.int32)))
    padded = np.zeros(max(SMALLEST_MESSAGE, 1 << (length - 1).bit_length()), np.uint8)
    padded[: len(message)] = np.frombuffer(message, np.uint8)
    return _broadcast(padded)[:length].tobytes()
