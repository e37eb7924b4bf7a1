"""One run over many devices: each holds the whole state and data set, and computes a part of every
batch.

Arrays keep their global meaning: under jit, batch norm and the loss see the whole batch, and XLA
adds the sums over the devices. Without a mesh nothing here changes anything, not even a jaxpr.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from earlyprune_jax.array_types import Array
from earlyprune_jax.validate import expected

AXIS = "data"


def data_mesh() -> Mesh:
    """All devices of all processes along one axis, `data`.

    Example:
        >>> data_mesh().axis_names
        ('data',)
    """
    return Mesh(np.array(jax.devices()), (AXIS,))


def indivisible(batch_sizes: Mapping[str, int], num_devices: int) -> list[str]:
    """A problem for every batch size that the devices cannot share equally.

    Args:
        batch_sizes: config key -> examples.
        num_devices: of the mesh.

    Example:
        >>> indivisible({"train.batch_size": 128, "signals.batch_size": 100}, 8)
        ['Expected signals.batch_size=100 to be a multiple of the 8 devices. Nearest: 96 or 104.']
    """
    found = []
    for name, size in batch_sizes.items():
        lower = size // num_devices * num_devices
        if size != lower:
            near = [value for value in (lower, lower + num_devices) if value > 0]
            remedy = f"Nearest: {' or '.join(map(str, near))}."
            found.append(
                expected(name, size, f"to be a multiple of the {num_devices} devices", remedy)
            )
    return found


def replicated(tree: Any, mesh: Mesh | None) -> Any:
    """Commits arrays to every device of the mesh, whole; without one, to the default device.

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


def shard_batch(leaf: Array, mesh: Mesh) -> Array:
    """Spreads the first axis over the mesh, inside jit; leaves what cannot be divided whole.

    Numbers, and a batch whose size is no multiple of the devices, are computed by every device: the
    result is the same.
    """
    divides = np.ndim(leaf) > 0 and leaf.shape[0] % mesh.size == 0
    spec = PartitionSpec(AXIS) if divides else PartitionSpec()
    return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))


def data_parallel(
    step: Callable[[Any, Any, Any], Any], mesh: Mesh | None
) -> Callable[[Any, Any, Any], Any]:
    """A step whose devices share its inputs' examples and all hold the outcome; without a mesh, the
    step.

    Args:
        step: (carry, inputs, constants) -> carry, or another outcome, as it would be written for
            one device.
        mesh: None = one device.

    Returns:
        A step of the same values, up to the order of sums.

    Example:
        >>> import jax.numpy as jnp
        >>> total = data_parallel(lambda carry, x, k: carry + k * jnp.sum(x), data_mesh())
        >>> jax.jit(total)(jnp.zeros(()), jnp.arange(4.0), 2.0).item()
        12.0
    """
    if mesh is None:
        return step

    def parallel(carry: Any, inputs: Any, constants: Any) -> Any:
        spread = jax.tree.map(lambda leaf: shard_batch(leaf, mesh), inputs)
        # Said, not left to the compiler: the next step takes the carry's buffers as they are.
        return jax.lax.with_sharding_constraint(
            step(carry, spread, constants), NamedSharding(mesh, PartitionSpec())
        )

    return parallel
