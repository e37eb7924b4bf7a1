"""Where XLA's temporary buffers on CPU come from, for programs that train: from memory that stays mapped."""

import ctypes
import os
import platform
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, numbered as in glibc's malloc.h."""

NEVER = 2**31 - 1
MMAP_FROM_BYTES = (2**30, 2**25)
"""Larger blocks are mapped one by one; older versions of glibc accept the second at most."""


def keep_freed() -> bool:
    """Has this process keep memory that is free again, instead of giving it back to the kernel.

    XLA on CPU allocates the temporary buffers of a step anew each time: 145 MB for ResNet-20 at batch 64. By
    default glibc maps such blocks and unmaps them again, and the kernel fills every page with zeros: 37,000
    page faults, 15 % of the processor time of a step. Blocks of the main thread's heap, which grows as it
    must and is not trimmed here, cost none; so steps are dispatched in that thread
    (`jax_cpu_enable_async_dispatch` off, unless the environment says otherwise). In return the process stays
    as large as it has ever been.

    It affects the whole process, so programs call it and libraries do not; before JAX computes anything.

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
    if os.environ.setdefault("JAX_CPU_ENABLE_ASYNC_DISPATCH", "0") == "0" and "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_cpu_enable_async_dispatch", False)
    return bool(mallopt(M_TRIM_THRESHOLD, NEVER))
