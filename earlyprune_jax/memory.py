"""Where XLA's temporary buffers on CPU come from, for programs that train: from memory that stays mapped."""

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, numbered as in glibc's malloc.h."""

NEVER = 2**31 - 1
MMAP_FROM_BYTES = 2**30


def keep_freed() -> bool:
    """Has this process keep memory that is free again, instead of giving it back to the kernel.

    XLA on CPU allocates the temporary buffers of a step anew each time: 145 MB for ResNet-20 at batch 64. By
    default glibc maps such blocks and unmaps them again, and the kernel fills every page with zeros: 37,000
    page faults, 15 % of the processor time of a step. Blocks of the main thread's heap, which grows as it
    must and is not trimmed here, cost none; so steps are dispatched in that thread
    (`jax_cpu_enable_async_dispatch` off, unless the environment says otherwise). In return the process stays
    as large as it has ever been.

    It affects the whole process, so programs call it and libraries do not; before JAX is imported.

    Returns:
        Whether it took effect: on other C libraries (musl, macOS, Windows) nothing is done.

    Source: mallopt(3); measured on 2 cores of an Intel Xeon with jaxlib 0.10.2, glibc 2.36.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    os.environ.setdefault("JAX_CPU_ENABLE_ASYNC_DISPATCH", "0")
    mallopt = ctypes.CDLL(None).mallopt
    settings = {M_MMAP_THRESHOLD: MMAP_FROM_BYTES, M_TRIM_THRESHOLD: NEVER}
    accepted = [mallopt(parameter, value) for parameter, value in settings.items()]
    return all(accepted)
