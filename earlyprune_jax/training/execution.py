"""How steps, and forks of one shape, are run on each backend: the one place that decides.

XLA's CPU backend runs convolutions inside `lax.scan` some 50 times slower than the same
step called from Python, and several forks as one batch 4 to 11 times slower than one after another;
on GPU and TPU a whole chunk under scan keeps the device fed, and a batch of small forks fills it.
Results of these forms differ in the last bits, so a run records which one made it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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


WORTH_DOUBLING = 1.1
"""A batch is made twice as wide if its runs then train at least this many times faster, each."""


def batches_forks(backend: str) -> bool:
    """Whether forks may train as one batch: on CPU they train one after another, in several
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
    """How many forks to train as one batch: doubled while that pays, and while it fits in memory.

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
    best, fastest = multiple_of, None
    width = multiple_of
    while width < 2 * most:
        try:
            each = seconds_of(width) / width
        except memory_error:
            break
        if fastest is not None and each * WORTH_DOUBLING > fastest:
            break
        best, fastest, width = width, each, 2 * width
    return min(best, max(most, multiple_of))


@dataclasses.dataclass(frozen=True)
class ForkMesh:
    """The devices over which the forks of a batch are spread, along a mesh axis `fork`."""

    devices: tuple[Any, ...]

    @property
    def num_devices(self) -> int:
        """How many there are; a batch's width is a multiple of it."""
        return len(self.devices)

    def split(self, tree: Any) -> Any:
        """Puts each device's share of the leading axis on it."""
        return self._put(tree, PartitionSpec("fork"))

    def everywhere(self, tree: Any) -> Any:
        """Puts a copy on every device."""
        return self._put(tree, PartitionSpec())

    def spread(self, function: Callable[..., Any], in_specs: Any) -> Callable[..., Any]:
        """A function of batches as one that every device runs on its own share; nothing is
        exchanged."""
        if self.num_devices == 1:
            return function
        return jax.shard_map(
            function,
            mesh=self._mesh,
            in_specs=in_specs,
            out_specs=PartitionSpec("fork"),
            # Carries of a scan begin as zeros that look the same on all devices.
            check_vma=False,
        )

    @property
    def _mesh(self) -> Mesh:
        return Mesh(np.asarray(self.devices), ("fork",))

    def _put(self, tree: Any, spec: PartitionSpec) -> Any:
        place = self.devices[0] if self.num_devices == 1 else NamedSharding(self._mesh, spec)
        return jax.device_put(tree, place)


def batched_runner(
    step: Step, *, axes: tuple[Any, Any, Any], form: str, name: str, mesh: ForkMesh
) -> Runner:
    """As `runner`, for a batch of runs: the carry has a leading axis of them.

    Args:
        step: of a single run.
        axes: as `jax.vmap`'s in_axes, of carry, one step's inputs, and constants.
        form: `loop` or `scan`.
        name: shown in profiles and compilation logs.
        mesh: where the runs are.
    """

    def spec_of(axis: int | None, *before: None) -> PartitionSpec:
        return PartitionSpec() if axis is None else PartitionSpec(*before, "fork")

    # Under scan the steps are the inputs' first axis, and the runs the second.
    steps_axis = (None,) if form == "scan" else ()
    inputs = spec_of(axes[1], *steps_axis)
    constants = jax.tree.map(spec_of, axes[2], is_leaf=lambda axis: axis is None)
    in_specs = (PartitionSpec("fork"), inputs, constants)
    batched = jax.vmap(step, in_axes=axes)
    return runner(batched, form=form, name=name, spread=lambda run: mesh.spread(run, in_specs))


def once_options(backend: str) -> dict[str, int]:
    """Compiler options of a function that runs once a trunk: on CPU, optimising takes longer than
    running."""
    return {"xla_backend_optimization_level": 0} if backend == "cpu" else {}


def runner(
    step: Step,
    *,
    form: str,
    name: str,
    compiler_options: Mapping[str, Any] = MappingProxyType({}),
    spread: Callable[[Runner], Runner] = lambda run: run,
) -> Runner:
    """Compiles a step into a function that runs many; the carry's buffers are donated.

    Args:
        step: a pure function.
        form: `loop` or `scan`.
        name: shown in profiles and compilation logs.
        compiler_options: for XLA.
        spread: what is done to the function before it is compiled.

    Example:
        >>> import jax.numpy as jnp
        >>> total = runner(lambda carry, x, k: carry + k * x, form="scan", name="total")
        >>> total(jnp.zeros(()), jnp.arange(4.0), jnp.float32(2.0)).item()
        12.0
    """

    def chunk(carry, inputs, constants):
        return jax.lax.scan(lambda c, x: (step(c, x, constants), None), carry, inputs)[0]

    def single(carry, inputs, constants):
        return step(carry, inputs, constants)

    compiled = spread(chunk if form == "scan" else single)
    compiled.__name__ = name
    jitted = jax.jit(compiled, donate_argnums=0, compiler_options=dict(compiler_options))
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
