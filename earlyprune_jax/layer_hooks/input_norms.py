"""What flows into the layers of a Linen module, taken while it runs, without changing the module.

Calls of `nn.Conv`, `nn.Dense` and `nn.DenseGeneral`, and of modules that subclass them, are
intercepted; each adds its sums to a variable collection beside its parameters, so that layers used
twice add up and rematerialised layers work.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from earlyprune_jax.array_types import Array, Variables
from earlyprune_jax.layer_hooks.layers import as_tuple, conv_views
from earlyprune_jax.models.forward import evaluated, is_linen, variables_problems
from earlyprune_jax.pruning.scores.gradients import Batches, checked
from earlyprune_jax.pruning.scores.weights import nonfinite_problems
from earlyprune_jax.pruning.selection import Layers, select
from earlyprune_jax.pruning.trees import named_leaves, refuse
from earlyprune_jax.validate import expected, unexpected

COLLECTION = "input_square_sums"
"""The variable collection in which the sums travel."""

SUPPORTED = nn.Conv, nn.Dense, nn.DenseGeneral


def input_norms(
    module: nn.Module,
    variables: Variables,
    batches: Batches,
    *,
    inputs: Callable[[Any], tuple[Any, ...]] = lambda batch: (batch,),
    layers: Layers = "all_kernels",
    **apply_options: Any,
) -> dict[str, np.ndarray]:
    """Measures the l2 norm of what every kernel entry multiplies, over all examples and positions.

    sqrt(sum x^2), x all values that meet the entry, in float32 (summed over batches in float64):
    a sum over examples, not a mean. Shapes broadcast to the kernel:

    - Dense: [in, 1]; every position of [..., in] counts.
    - DenseGeneral: the contracted (and batch) axes, then 1 for every feature axis.
    - Conv: [*kernel_size, in, 1], each kernel position over the pixels it really sees, given
      stride, padding, dilation; zero padding adds 0. With feature groups every output sees its own
      group: [*kernel_size, in / groups, out].

    A module applied twice adds both. A subclass counts what it hands to its parent's `__call__`,
    or, if it never calls that, what it is called with. Inside `nn.scan` and `nn.vmap` nothing is
    recorded unless they carry the collection `input_square_sums`.

    Args:
        module: a Linen module.
        variables: {"params": ..., "batch_stats": ...}.
        batches: pytrees of arrays with a leading example axis; consumed to the end, one at a time.
        inputs: batch -> the positional arguments of the module, e.g.
            `lambda batch: (batch["images"],)`.
        layers: which leaves of the params are asked for, as in `select`.
        apply_options: for `module.apply`: what asks the module for evaluation mode
            (`train=False` for the models here), `method`, `rngs`.

    Returns:
        Slash path of each selected leaf (`stem_conv/kernel`) -> float32 array; what `scores.wanda`
        takes.

    Raises:
        InvalidInput: a selected leaf that no supported call has fed, a module in training mode, a
            norm that is not finite (with path and batch), bad batches.

    Example:
        >>> module = nn.Dense(2)
        >>> variables = module.init(jax.random.key(0), jnp.ones((1, 2)))
        >>> batches = [jnp.array([[3.0, 1.0], [4.0, 0.0]]), jnp.array([[0.0, 0.0]])]
        >>> input_norms(module, variables, batches)["kernel"].tolist()
        [[5.0], [1.0]]
    """
    if not is_linen(module):
        remedy = "Only its layers can be hooked. For others measure the norms in your own function."
        raise unexpected("module", type(module).__name__, "to be a Linen module", remedy)
    refuse(variables_problems(variables))
    if "mutable" in apply_options:
        given, remedy = apply_options["mutable"], "Nothing may change: leave it out."
        raise unexpected("apply option mutable", given, "to be absent", remedy)
    selected = select(variables["params"], layers)
    wanted = [name for name, take in named_leaves(selected) if take]
    # Typed as Any: Linen's annotation of apply covers every combination of its options.
    apply: Any = module.apply

    @jax.jit
    def square_sums(variables, batch):
        with nn.intercept_methods(_hook):
            _, updated = apply(variables, *inputs(batch), mutable=[COLLECTION], **apply_options)
        return updated.get(COLLECTION, {})

    totals: dict[str, np.ndarray] = {}
    for number, batch, _ in checked(batches):
        sums = dict(named_leaves(evaluated(square_sums, variables, batch)))
        remedy = "No nn.Conv, nn.Dense or nn.DenseGeneral fed it: leave it out by `layers`."
        absent = [name for name in wanted if name not in sums]
        problems = [expected("input norms at", name, "to be hooked", remedy) for name in absent]
        measured = {name: sums[name] for name in wanted if name in sums}
        remedy = f"At batch {number} (from 0). Look at it and the layers before."
        refuse(problems + nonfinite_problems("input norm", measured.items(), remedy))
        for name, total in measured.items():
            totals[name] = totals.get(name, 0.0) + np.asarray(total, np.float64)
    return {name: np.sqrt(total).astype(np.float32) for name, total in totals.items()}


def _hook(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Lets a layer run, and sows the sums of its squared inputs beside its kernel."""
    layer = context.module
    if not isinstance(layer, SUPPORTED) or context.method_name != "__call__":
        return next_call(*args, **kwargs)
    before = layer.get_variable(COLLECTION, "kernel")
    outputs = next_call(*args, **kwargs)
    # super().__call__ is intercepted too: the innermost call is the one that multiplies.
    if layer.get_variable(COLLECTION, "kernel") is before:
        squares = jnp.square(jnp.asarray(args[0] if args else kwargs["inputs"], jnp.float32))
        is_conv = isinstance(layer, nn.Conv)
        sums = _conv_sums(layer, squares, outputs) if is_conv else _dense_sums(layer, squares)
        layer.sow(COLLECTION, "kernel", sums, reduce_fn=jnp.add, init_fn=lambda: jnp.zeros(()))
    return outputs


def _dense_sums(layer: Any, squares: Array) -> Array:
    """Sums over every axis but the contracted and batch ones, which come in the kernel's order."""
    options = getattr(layer, "axis", -1), getattr(layer, "batch_dims", ())
    axes = {axis % squares.ndim for option in options for axis in as_tuple(option)}
    sums = jnp.sum(squares, axis=tuple(axis for axis in range(squares.ndim) if axis not in axes))
    return sums.reshape(sums.shape + (1,) * len(as_tuple(layer.features)))


def _conv_sums(layer: Any, squares: Array, outputs: Array) -> Array:
    """[..., *spatial, in] -> [*kernel_size, in / groups, 1 or out]."""
    groups, size = layer.feature_group_count, as_tuple(layer.kernel_size)
    views = conv_views(layer, squares, outputs.shape[-len(size) - 1 : -1])
    sums = jnp.stack([jnp.sum(view, axis=tuple(range(view.ndim - 1))) for view in views])
    by_group = sums.reshape(*size, groups, -1).swapaxes(-1, -2)
    return by_group if groups == 1 else jnp.repeat(by_group, layer.features // groups, axis=-1)
