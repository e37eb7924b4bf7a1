"""How a study is carried out, as opposed to what it is: none of this changes what a run is
called."""

import ctypes
import dataclasses
import math
import os
import platform
import time
from collections.abc import Callable

from earlyprune_jax.validate import expected

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, numbered as in glibc's malloc.h."""

NEVER = 2**31 - 1
MMAP_FROM_BYTES = (2**30, 2**25)
"""Larger blocks are mapped one by one; older versions of glibc accept the second at most."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Workers, batches and time.

    Attributes:
        num_workers: processes on this machine, each bound to its share of the cores; 1 = this
            process alone.
        fork_width: forks trained as one batch; 0 = one on CPU, as many as there are, up to 32 a
            device, on accelerators.
        max_minutes: no epoch begins later than that; what runs is then saved, and the same command
            goes on.
        verbose: a line is printed for every epoch.
        require_exact: refuses to go on with runs that were made with other versions, devices,
            cores or flags; see `signature`.
    """

    num_workers: int = 1
    fork_width: int = 0
    max_minutes: float = math.inf
    verbose: bool = False
    require_exact: bool = False

    def check(self, num_cores: int | None = None) -> list[str]:
        """Lists values that make no sense on so many cores; None = those of this process."""
        problems, num_cores = [], num_cores or len(usable_cores())
        if not 1 <= self.num_workers <= num_cores:
            remedy = "Each worker needs a core of its own."
            problems.append(expected("--workers", self.num_workers, f"in [1, {num_cores}]", remedy))
        if self.fork_width < 0:
            problems.append(expected("--fork_width", self.fork_width, "to be at least 0"))
        if not self.max_minutes > 0:
            problems.append(expected("--max_minutes", self.max_minutes, "to be above 0"))
        return problems

    def check_backend(self, backend: Callable[[], str] | None = None) -> list[str]:
        """Refuses several workers on an accelerator, which one process drives."""
        if self.num_workers == 1 or (name := (backend or _backend)()) == "cpu":
            return []
        remedy = "One process uses all accelerators: leave it out, or run with JAX_PLATFORMS=cpu."
        return [expected("--workers", self.num_workers, f"to be 1 on {name}", remedy)]

    def check_multihost(self) -> list[str]:
        """Lists what several processes that train as one (`--coordinator`) cannot have."""
        allowed = "to be 1 or left out where several hosts train as one"
        remedy = "They train one run at a time, on all their devices."
        values = {"--workers": self.num_workers, "--fork_width": self.fork_width}
        return [
            expected(name, value, allowed, remedy) for name, value in values.items() if value > 1
        ]


def _backend() -> str:
    import jax  # Late: the program wants its signal handlers before it waits for JAX.

    return jax.default_backend()


def usable_cores() -> list[int]:
    """Lists the cores this process may run on, ascending."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def num_useful_workers() -> int:
    """Counts the workers that make sense here: one per core, or this process on an accelerator."""
    return len(usable_cores()) if _backend() == "cpu" else 1


def shares(cores: list[int], num_workers: int) -> list[list[int]]:
    """Cuts cores into equal parts, neighbours together; those left over go to the first.

    Example:
        >>> shares([0, 1, 2, 3, 4], 2)
        [[0, 1, 2], [3, 4]]
    """
    each, more = divmod(len(cores), num_workers)
    bounds = [index * each + min(index, more) for index in range(num_workers + 1)]
    return [cores[low:high] for low, high in zip(bounds, bounds[1:], strict=False)]


def deadline(max_minutes: float) -> float:
    """Returns the wall-clock time so many minutes from now, in seconds since the epoch."""
    return time.time() + 60 * max_minutes


def stop_at(moment: float) -> Callable[[], bool]:
    """Returns a function that says yes from that wall-clock time on."""
    return lambda: time.time() >= moment


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
