"""One worker process of a pool: bound to its cores, asked on stdin, telling on stdout.

python -m earlyprune_jax.grid.worker < request.json
"""

import ctypes
import json
import os
import platform
import signal
import sys
from typing import Any

INTERRUPTED = 130

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, numbered as in glibc's malloc.h."""

NEVER = 2**31 - 1
MMAP_FROM_BYTES = (2**30, 2**25)
"""Larger blocks are mapped one by one; older versions of glibc accept the second at most."""


def main() -> int:
    """Works on a study until nothing is left. Returns 0, 2 for bad input, 130 if interrupted."""
    request = json.loads(sys.stdin.readline())
    # Before JAX is imported: its threads are as many as there are cores then.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request["cores"])
    keep_freed_memory()
    signal.signal(signal.SIGTERM, _interrupt)
    # Slurm announces a job's limit with this to every process of it, and the default is to die.
    signal.signal(signal.SIGUSR2, _interrupt)
    from earlyprune_jax.validate import InvalidInput

    try:
        _work(request)
    except InvalidInput as error:
        _tell("problems", list(error.problems))
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _work(request: dict[str, Any]) -> None:
    from pathlib import Path

    from earlyprune_jax import spec as specs
    from earlyprune_jax.grid import options, scheduler
    from earlyprune_jax.grid.study import Study
    from earlyprune_jax.grid.trainer import Callbacks, Trainer

    spec = specs.from_message(request["spec"])
    specs.use_code(spec)
    callbacks = Callbacks(
        report=lambda name, entry: _tell("epoch", [name, entry]),
        say=lambda sentence: _tell("say", sentence),
        stop=options.stop_at(request["deadline"]),
        ended=lambda: _tell("ended", None),
    )
    trainer = Trainer(Study(spec, Path(request["workdir"])), callbacks)
    _tell("ready", None)
    scope = scheduler.Scope(*request["scope"])
    scheduler.work(trainer, asked_width=request["fork_width"], scope=scope)


def _tell(kind: str, what: Any) -> None:
    try:
        print(json.dumps([kind, what]), flush=True)
    except BrokenPipeError:
        # Nobody listens any more: whoever started this worker is gone.
        raise KeyboardInterrupt from None


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def keep_freed_memory() -> bool:
    """Has a process that trains keep memory that is free again, instead of giving it back.

    XLA on CPU allocates the temporary buffers of a step anew each time. By default glibc maps large
    blocks and unmaps them again, and the kernel fills every page with zeros: 9,500 page faults a
    step for ResNet-20 at batch 16, a fifth of its processor time. Kept, they cost none, and the
    process stays as large as it has ever been. Blocks above 64 MiB gain nothing (145 MB at batch
    64): they are taken in threads of XLA's, whose heaps glibc does not let grow so far.

    It affects the whole process, so programs call it and libraries do not.

    Returns:
        Whether it took effect: on other C libraries (musl, macOS, Windows) nothing is done.

    Source: mallopt(3); measured on 2 cores of an Intel Xeon with jaxlib 0.10.2, glibc 2.36.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # In this order: a threshold of trimming alone would have every block above 128 KiB mapped.
    if not any(mallopt(M_MMAP_THRESHOLD, size) for size in MMAP_FROM_BYTES):
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, NEVER))


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Threads of a checkpoint that was being written would hold a normal exit for minutes.
    os._exit(code)
