"""What a program tells XLA before JAX starts, so that it compiles rightly.

jaxlib 0.10.2 on CPU: a product with a small matrix, summed at once over its leading axis, as
`jit(vmap(lambda row: sum(matrix @ row)))`, has wrong rows at the end for 32,769 or 40,001 rows of
three float32. No formula of this package that was tried compiles to it (docs/scaling.md), but an
own network or loss may.

Source: https://github.com/jax-ml/jax/issues/39103; 0.10.1, 0.11.0 and 0.12.0 are right.
"""

import os
from importlib.metadata import version
from importlib.util import find_spec

MISCOMPILES = ("0.10.2",)
"""Versions of jaxlib that do, all of which know the flag."""
FLAG = "--xla_cpu_experimental_ynn_fusion_type"
"""Which operations XLA on CPU hands together to YNNPACK; empty = none."""


def avoid_miscompilation() -> bool:
    """Sets `XLA_FLAGS` for this process, and for those that it starts, where jaxlib needs it.

    XLA aborts at flags that it does not know, so other versions are left alone; so are machines
    with a TPU, whose library has a version of its own, a value of this flag that the user has
    given, and the name of a file, which XLA reads in place of flags. Call it before JAX looks at
    its devices. It changes the environment, so programs call it and libraries do not.

    Returns:
        Whether something was set.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if version("jaxlib") not in MISCOMPILES or find_spec("libtpu") or FLAG in flags:
        return False
    if flags.strip() and not flags.lstrip().startswith("-"):
        return False
    os.environ["XLA_FLAGS"] = f"{flags} {FLAG}=".lstrip()
    return True
