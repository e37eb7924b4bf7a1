"""How steps are run on each backend, and over several devices: the one place that decides.

XLA's CPU backend runs convolutions inside `lax.scan` some 50 times slower than the same
step called from Python; on GPU and TPU a whole chunk under scan keeps the device fed. Results of
these forms differ in the last bits, so a run records which one made it.

Devices share the work in one of two ways. Along a *data mesh* each holds the whole state and data
set, and computes a part of every batch; arrays keep their global meaning, so batch norm and the
loss see the whole batch. Along a *fork mesh* each trains its share of the runs of a stack, and
nothing is exchanged.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from earlyprune_jax.array_types import Array
from earlyprune_jax.validate import unexpected

Carry = TypeVar("Carry")
Step = Callable[[Carry, Any, Any], Carry]
"""(carry, this step's inputs, constants) -> carry."""

Runner = Callable[[Carry, Any, Any], Carry]
"""(carry, inputs with a leading axis of steps, constants) -> carry."""

DATA_AXIS, FORK_AXIS = "data", "fork"
"""The axes of the two meshes."""

KEYS = "threefry2x32"
"""The kind of random keys that `array_types.PRNGKey` describes."""


def execution_form(backend: str) -> str:
    """Chooses `loop` (a jitted step called from Python) or `scan` (a jitted chunk of steps).

    Example:
        >>> execution_form("cpu"), execution_form("gpu")
        ('loop', 'scan')
    """
    return "loop" if backend == "cpu" else "scan"


def once_options(backend: str) -> dict[str, int]:
    """Returns compiler options of a function that runs once a trunk: on CPU, optimising takes
    longer than running."""
    return {"xla_backend_optimization_level": 0} if backend == "cpu" else {}


def runner(
    step: Step,
    *,
    form: str,
    name: str,
    mesh: Mesh | None = None,
    axes: tuple[Any, Any, Any] | None = None,
    compiler_options: Mapping[str, Any] = MappingProxyType({}),
) -> Runner:
    """Compiles a step into a function that runs many; the carry's buffers are donated.

    Args:
        step: a pure function, made for this runner, which names it.
        form: `loop` or `scan`.
        name: shown in profiles and compilation logs.
        mesh: without `axes` a data mesh, with them a fork mesh; None = one device.
        axes: as `jax.vmap`'s in_axes, of carry, one step's inputs, and constants: the step is run
            for a stack of runs, along a leading axis of the carry. None = for one run.
        compiler_options: for XLA.

    Returns:
        The runner.

    Example:
        >>> import jax.numpy as jnp
        >>> total = runner(lambda carry, x, k: carry + k * x, form="scan", name="total")
        >>> total(jnp.zeros(()), jnp.arange(4.0), jnp.float32(2.0)).item()
        12.0
    """
    run = single = jax.vmap(step, axes) if axes else data_parallel(step, mesh)

    def scan(carry, inputs, constants):
        return jax.lax.scan(lambda c, x: (single(c, x, constants), None), carry, inputs)[0]

    if form == "scan":
        run = scan
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

    def spec(axis: int | None, *before: None) -> PartitionSpec:
        return PartitionSpec() if axis is None else PartitionSpec(*before, FORK_AXIS)

    # Under scan the steps are the inputs' first axis, and the runs the second.
    inputs = spec(axes[1], None) if form == "scan" else spec(axes[1])
    constants = jax.tree.map(spec, axes[2], is_leaf=lambda axis: axis is None)
    specs = (spec(0), inputs, constants)
    # Not checked: carries of a scan begin as zeros that look the same on all devices.
    return jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=spec(0), check_vma=False)


def require_jax() -> None:
    """Starts JAX's devices, and checks that keys of its default kind are those of this package.

    Raises:
        InvalidInput: there are no such devices, or keys are of another kind.
    """
    options: Any = jax.config
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # of a known platform JAX says nothing
        remedy = f"Unset it, or give cpu. {str(error).partition(chr(10))[0]}"
        allowed = "to name devices that JAX can use here"
        raise unexpected("JAX_PLATFORMS", options.jax_platforms, allowed, remedy) from error
    if (kind := options.jax_default_prng_impl) != KEYS:
        raise unexpected("JAX_DEFAULT_PRNG_IMPL", kind, f"to be {KEYS}", "Leave it out.")


def data_mesh() -> Mesh:
    """Returns all devices of all processes along one axis, `data`.

    Example:
        >>> data_mesh().axis_names
        ('data',)
    """
    return Mesh(np.array(jax.devices()), (DATA_AXIS,))


def data_parallel(step: Step, mesh: Mesh | None) -> Step:
    """Makes a step whose devices share its inputs' examples and all hold the outcome.

    Args:
        step: (carry, inputs, constants) -> carry, or another outcome, as it would be written for
            one device.
        mesh: a data mesh; None = one device.

    Returns:
        A step of the same values, up to the order of sums; without a mesh, the step itself.

    Example:
        >>> import jax.numpy as jnp
        >>> total = data_parallel(lambda carry, x, k: carry + k * jnp.sum(x), data_mesh())
        >>> jax.jit(total)(jnp.zeros(()), jnp.arange(4.0), 2.0).item()
        12.0
    """
    if mesh is None:
        return step
    whole = NamedSharding(mesh, PartitionSpec())

    def parallel(carry: Any, inputs: Any, constants: Any) -> Any:
        spread = jax.tree.map(lambda leaf: shard_batch(leaf, mesh), inputs)
        # Said, not left to the compiler: the next step takes the carry's buffers as they are.
        return jax.lax.with_sharding_constraint(step(carry, spread, constants), whole)

    return parallel


def shard_batch(leaf: Array, mesh: Mesh) -> Array:
    """Spreads the first axis over a data mesh, inside jit; leaves what cannot be divided whole.

    Numbers, and a batch whose size is no multiple of the devices, are computed by every device: the
    result is the same.
    """
    divides = np.ndim(leaf) > 0 and leaf.shape[0] % mesh.size == 0
    spec = PartitionSpec(DATA_AXIS) if divides else PartitionSpec()
    return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))


def replicated(tree: Any, mesh: Mesh | None) -> Any:
    """Commits arrays to every device of a data mesh, whole; without one, to the default device.

    What lies there already is not copied.

    Args:
        tree: NumPy arrays or arrays of this process, the same in all processes.
        mesh: None = the first device.
    """
    if mesh is None:
        return jax.device_put(tree, jax.local_devices()[0])
    whole = NamedSharding(mesh, PartitionSpec())

    def put(leaf: Any) -> Array:
        if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(whole, leaf.ndim):
            return leaf
        host = np.asarray(leaf)
        # device_put would have all processes compare every leaf.
        return jax.make_array_from_callback(host.shape, whole, lambda index: host[index])

    return jax.tree.map(put, tree)
