"""Memory that is freed stays with the process: page faults counted by the kernel, in a process of
its own."""

import platform
import subprocess
import sys

import pytest

BLOCK_MIB, ROUNDS = 64, 5

FAULTS = f"""
import resource, sys
from earlyprune_jax.grid import options

def use():
    for _ in range({ROUNDS}):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = b"x" * ({BLOCK_MIB} << 20)
        del block
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

if sys.argv[1] == "keep":
    assert options.keep_freed_memory()
faults = []
use()
print(*faults[1:])
"""


def faults(mode: str) -> list[int]:
    """Page faults of each use of a block, without the first."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_a_block_used_again_costs_no_page_faults():
    # Pages may be 4 KiB or huge ones of 2 MiB: at the least, 32 faults for 64 MiB.
    assert min(faults("default")) >= BLOCK_MIB // 2
    assert max(faults("keep")) < 8


def test_elsewhere_nothing_is_done(monkeypatch):
    from earlyprune_jax.grid import options

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert options.keep_freed_memory() is False
