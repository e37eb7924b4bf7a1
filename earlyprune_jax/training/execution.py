"""How steps, and forks of one shape, are run on each backend: the one place that decides.

XLA's CPU backend runs convolutions inside `lax.scan` some 50 times slower than the same
step called from Python, and several forks as one batch 4 to 11 times slower than one after another;
on GPU and TPU a whole chunk under scan keeps the device fed, and a batch of small forks fills it.
Results of these forms differ in the last bits, so a run records which one made it.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh, PartitionSpec

Carry = TypeVar("Carry")
Step = Callable[[Carry, Any, Any], Carry]
"""(carry, this step's inputs, constants) -> carry."""

Runner = Callable[[Carry, Any, Any], Carry]
"""(carry, inputs with a leading axis of steps, constants) -> carry."""

FORK_AXIS = "fork"
"""The axis of a mesh over which the runs of a stack are spread."""


def execution_form(backend: str) -> str:
    """Chooses `loop` (a jitted step called from Python) or `scan` (a jitted chunk of steps).

    Example:
        >>> execution_form("cpu"), execution_form("gpu")
        ('loop', 'scan')
    """
    return "loop" if backend == "cpu" else "scan"


WORTH_DOUBLING = 1.1
"""A batch is made twice as wide if its runs then train at least this many times faster, each."""


def batches_forks(backend: str) -> bool:
    """Tells whether forks may train as one batch: on CPU they train one after another, in several
    processes.

    Example:
        >>> batches_forks("cpu"), batches_forks("gpu")
        (False, True)
    """
    return backend != "cpu"


def measured_width(
    seconds_of: Callable[[int], float],
    most: int,
    memory_error: type[Exception],
    multiple_of: int = 1,
) -> int:
    """Finds how many forks to train as one batch: doubled while that pays and fits in memory.

    Args:
        seconds_of: width -> the seconds of one epoch of so many forks; raises `memory_error` if
            they do not fit.
        most: as many forks as there are.
        memory_error: what the backend raises.
        multiple_of: the first width tried, and its multiples: the number of devices.

    Example:
        >>> measured_width(lambda width: 1.0 + 0.1 * width, most=64, memory_error=MemoryError)
        64
        >>> measured_width(lambda width: 1.0 * width, most=64, memory_error=MemoryError)
        1
    """
    best, fastest, width = multiple_of, math.inf, multiple_of
    while width < 2 * most:
        try:
            each = seconds_of(width) / width
        except memory_error:
            break
        if each * WORTH_DOUBLING > fastest:
            break
        best, fastest, width = width, each, 2 * width
    return min(best, max(most, multiple_of))


def once_options(backend: str) -> dict[str, int]:
    """Returns compiler options of a function that runs once a trunk: on CPU, optimising takes
    longer than running."""
    return {"xla_backend_optimization_level": 0} if backend == "cpu" else {}


def runner(
    step: Step,
    *,
    form: str,
    name: str,
    compiler_options: Mapping[str, Any] = MappingProxyType({}),
    axes: tuple[Any, Any, Any] | None = None,
    mesh: Mesh | None = None,
) -> Runner:
    """Compiles a step into a function that runs many; the carry's buffers are donated.

    Args:
        step: a pure function.
        form: `loop` or `scan`.
        name: shown in profiles and compilation logs.
        compiler_options: for XLA.
        axes: as `jax.vmap`'s in_axes, of carry, one step's inputs, and constants: the step is run
            for a stack of runs, along a leading axis of the carry. None = for one run.
        mesh: the devices over which the runs of a stack are spread; nothing is exchanged.

    Example:
        >>> import jax.numpy as jnp
        >>> total = runner(lambda carry, x, k: carry + k * x, form="scan", name="total")
        >>> total(jnp.zeros(()), jnp.arange(4.0), jnp.float32(2.0)).item()
        12.0
    """
    single = step if axes is None else jax.vmap(step, axes)

    def several(carry, inputs, constants):
        return jax.lax.scan(lambda c, x: (single(c, x, constants), None), carry, inputs)[0]

    def once(carry, inputs, constants):
        return single(carry, inputs, constants)

    run = several if form == "scan" else once
    if axes and mesh and mesh.size > 1:
        run = _spread(run, axes, form, mesh)
    run.__name__ = name
    jitted = jax.jit(run, donate_argnums=0, compiler_options=dict(compiler_options))
    if form == "scan":
        return jitted

    def loop(carry, inputs, constants):
        # Rows are cut on the host: slicing a device array would dispatch one computation a step.
        on_host = jax.device_get(inputs)
        num_steps = len(jax.tree.leaves(on_host)[0])
        for index in range(num_steps):
            carry = jitted(carry, jax.tree.map(lambda leaf, i=index: leaf[i], on_host), constants)
        return carry

    return loop


def _spread(run: Runner, axes: tuple[Any, Any, Any], form: str, mesh: Mesh) -> Runner:
    """Has every device run its own share of a stack; arguments are those of `runner`."""
    # Under scan the steps are the inputs' first axis, and the runs the second.
    before = (None,) if form == "scan" else ()
    by_run, everywhere = PartitionSpec(FORK_AXIS), PartitionSpec()
    inputs = everywhere if axes[1] is None else PartitionSpec(*before, FORK_AXIS)
    constants = jax.tree.map(
        lambda axis: everywhere if axis is None else by_run,
        axes[2],
        is_leaf=lambda axis: axis is None,
    )
    # Not checked: carries of a scan begin as zeros that look the same on all devices.
    return jax.shard_map(
        run, mesh=mesh, in_specs=(by_run, inputs, constants), out_specs=by_run, check_vma=False
    )
