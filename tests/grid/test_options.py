"""What ends a process's work."""

import subprocess
import sys

DROPPED = """
import math, signal, weakref
from earlyprune_jax.grid import options

class Target:
    pass

options.leave_on(signal.SIGTERM)
target = Target()
reference = weakref.ref(target, lambda _: signal.raise_signal(signal.SIGTERM))
del target
print("went on")
try:
    options.stop_at(math.inf)()
except KeyboardInterrupt:
    print("left")
"""


def test_a_signal_whose_exception_python_drops_is_heeded_at_the_next_epoch():
    done = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True)
    assert "Exception ignored" in done.stderr
    assert done.stdout.split("\n") == ["went on", "left", ""]
