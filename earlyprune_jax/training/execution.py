"""How a sequence of identical steps is run on each backend: the one place that decides.

XLA's CPU backend runs convolutions inside `lax.scan` some 50 times slower than the same
step called from Python; on GPU and TPU a whole chunk under scan keeps the device fed.
Results of the two forms differ in the last bits, so a run records which one made it.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import jax

Carry = TypeVar("Carry")
Step = Callable[[Carry, Any, Any], Carry]
"""(carry, this step's inputs, constants) -> carry."""

Runner = Callable[[Carry, Any, Any], Carry]
"""(carry, inputs with a leading axis of steps, constants) -> carry."""


def execution_form(backend: str) -> str:
    """`loop` (a jitted step called from Python) or `scan` (a jitted chunk of steps).

    Example:
        >>> execution_form("cpu"), execution_form("gpu")
        ('loop', 'scan')
    """
    return "loop" if backend == "cpu" else "scan"


def once_options(backend: str) -> dict[str, int]:
    """Compiler options of a function that runs once a trunk: on CPU, optimising takes longer than running."""
    return {"xla_backend_optimization_level": 0} if backend == "cpu" else {}


def runner(
    step: Step, *, form: str, name: str, compiler_options: Mapping[str, Any] = MappingProxyType({})
) -> Runner:
    """Compiles a step into a function that runs many; the carry's buffers are donated.

    Args:
        step: a pure function.
        form: `loop` or `scan`.
        name: shown in profiles and compilation logs.
        compiler_options: for XLA.

    Example:
        >>> import jax.numpy as jnp
        >>> total = runner(lambda carry, x, k: carry + k * x, form="scan", name="total")
        >>> total(jnp.zeros(()), jnp.arange(4.0), jnp.float32(2.0)).item()
        12.0
    """
    if form == "scan":

        def chunk(carry, inputs, constants):
            return jax.lax.scan(lambda c, x: (step(c, x, constants), None), carry, inputs)[0]

        chunk.__name__ = name
        return jax.jit(chunk, donate_argnums=0, compiler_options=dict(compiler_options))

    def single(carry, inputs, constants):
        return step(carry, inputs, constants)

    single.__name__ = name
    jitted = jax.jit(single, donate_argnums=0, compiler_options=dict(compiler_options))

    def loop(carry, inputs, constants):
        # Rows are cut on the host: slicing a device array would dispatch one computation a step.
        on_host = jax.device_get(inputs)
        num_steps = len(jax.tree.leaves(on_host)[0])
        for index in range(num_steps):
            carry = jitted(carry, jax.tree.map(lambda leaf, i=index: leaf[i], on_host), constants)
        return carry

    return loop
