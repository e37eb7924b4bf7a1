"""earlyprune_jax: when may a network be pruned during training, how hard, by which criterion?

Subpackages are imported on demand (`from earlyprune_jax import pruning`), so that
importing the package costs nothing beyond Python's own start.
"""

import sys

__version__ = "0.1.0"


def _is_program() -> bool:
    """Tells whether Python was started for this: `earlyprune`, `python -m earlyprune_jax...`."""
    name = (getattr(sys, "argv", None) or [""])[0]
    # While Python looks for the module of -m, that stands in the name's place.
    is_module = name == "-m" and any(__name__ in argument for argument in sys.orig_argv)
    return is_module or name.rpartition("/")[2] == "earlyprune"


if _is_program():
    # With what Python itself has loaded, for Ctrl-C must work before anything else is imported.
    import _signal  # pyright: ignore[reportMissingImports]
    import os

    for _number in (_signal.SIGINT, _signal.SIGTERM):
        _signal.signal(_number, lambda number, frame: os._exit(128 + number))
    from earlyprune_jax import leaving

    leaving.begin()
