"""What signals are: sums over probe batches, or functions of the weights, then numbers."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax.array_types import Array, Params, PRNGKey
from earlyprune_jax.models import forward
from earlyprune_jax.pruning.trees import named_leaves
from earlyprune_jax.validate import expected


@dataclasses.dataclass(frozen=True)
class Network:
    """A network in evaluation mode, with everything but its parameters fixed.

    Attributes:
        apply: (variables, batch, **linen_options) -> logits [B, C]. `variables` is
            {"params": params, **fixed}. Where `is_linen`, the options of a Linen module's `apply`
            (`mutable`, ...) are passed on, so that its layers can be hooked.
        fixed: the other variables, e.g. {"batch_stats": ...}.
        is_linen: whether `apply` runs a Linen module.
        sums: (params, batch) -> the sums of a task over the batch, `loss` and `count` among them,
            in evaluation mode; None where only log-probabilities are looked at.
        has_log_probs: False where the outputs of `apply` are no logits.
    """

    apply: Callable[..., Any]
    fixed: Mapping[str, Any]
    is_linen: bool
    sums: Callable[[Params, Any], Mapping[str, Array]] | None = None
    has_log_probs: bool = True

    def log_probs(self, params: Params, batch: Any) -> Array:
        """Computes log p(y|x), shape [B, C], natural log, float32.

        Raises:
            ValueError: the outputs are no logits.
        """
        if not self.has_log_probs:
            raise ValueError("This network has no log-probabilities.")
        logits = self.apply({"params": params, **self.fixed}, batch)
        return jax.nn.log_softmax(logits.astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class ProbeSignal:
    """A measurement of a network on probe examples, accumulated batch by batch.

    Attributes:
        name: the signal's name in configs.
        columns: what `numbers` returns that is one number (not a mapping), in order.
        num_passes: how often the probe examples are visited; `pass_index` counts from 0.
        zero_sums: params -> the pytree of float32 zeros that `batch_sums` adds to.
        batch_sums: (network, params, batch, key, pass_index) -> a pytree of sums over the batch;
            runs inside jit. `batch` is the task's, with `numbers` [B] (each example's place among
            the probe examples) and `weights` [B], with weight 0 for padding.
        numbers: (sums over everything, number of examples) -> column name -> number (None where
            it is not defined), or a mapping parameter path -> number.
        needs_log_probs: whether the network must be a classifier; otherwise its sums suffice.
    """

    name: str
    columns: tuple[str, ...]
    num_passes: int
    zero_sums: Callable[[Params], Any]
    batch_sums: Callable[[Network, Params, Any, PRNGKey, Array], Any]
    numbers: Callable[[Any, int], dict[str, Any]]
    needs_log_probs: bool = True


@dataclasses.dataclass(frozen=True)
class WeightSignal:
    """A measurement of the weights alone.

    Attributes:
        name: the signal's name in configs.
        columns: what `measure` returns.
        measure: (params, key) -> column name -> number; called outside jit, compiles what it
            needs once for a tree of given shapes.
    """

    name: str
    columns: tuple[str, ...]
    measure: Callable[[Params, PRNGKey], dict[str, float | None]]


def kept_for_modules(make: Callable[..., Any]) -> Callable[..., Any]:
    """Keeps what a function compiles for a Linen module and equal options.

    Nothing is kept for other models: what they close over, batch statistics say, may be others at
    the next call. Neither is it for options that cannot be looked up, such as arrays.
    """
    kept = functools.lru_cache(maxsize=32, typed=True)(make)

    def get(model: Any, *options: Any) -> Any:
        try:
            hash((model, options))
        except TypeError:
            return make(model, *options)
        return (kept if forward.is_linen(model) else make)(model, *options)

    return get


def image_problems(images: Any) -> list[str]:
    """Says why these are no images: arrays of numbers with the examples along the first axis.

    Example:
        >>> image_problems(np.ones(3))[0].split(". ")[0]
        "Expected images={'': 'float64[3]'} to be arrays of floats or integers [N, ...]"
    """

    def fits(leaf: Any) -> bool:
        dtype = getattr(leaf, "dtype", np.dtype(object))
        is_number = jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
        return is_number and leaf.ndim > 1 and len(leaf) > 0

    leaves = named_leaves(images)
    sizes = {len(leaf) if fits(leaf) else None for _, leaf in leaves}
    if len(sizes) == 1 and None not in sizes:
        return []
    kinds = [(n, getattr(leaf, "dtype", type(leaf).__name__), leaf) for n, leaf in leaves]
    given = {name: f"{kind}{[*np.shape(leaf)]}" for name, kind, leaf in kinds}
    remedy = "Every array holds the same N >= 1 examples along axis 0: add it if it is missing."
    return [expected("images", given, "to be arrays of floats or integers [N, ...]", remedy)]


def label_problems(labels: Any, count: int, num_classes: float = math.inf) -> list[str]:
    """Says why these are no labels of so many examples, in [0, num_classes).

    Example:
        >>> label_problems(np.array([0, 3]), 2, num_classes=3)
        ['Expected labels[1]=3 in [0, 3), as the logits have.']
    """
    array = np.asarray(labels)
    if array.shape != (count,) or not np.issubdtype(array.dtype, np.integer):
        given = labels if labels is None else f"{array.dtype}{[*array.shape]}"
        return [expected("labels", given, f"to be [{count}] integers, one for each image")]
    outside = np.flatnonzero((array < 0) | (array >= num_classes))
    if not len(outside):
        return []
    more = f" and {len(outside) - 1} more" if len(outside) > 1 else ""
    allowed = f"in [0, {num_classes}), as the logits have"
    return [expected(f"labels[{outside[0]}]{more}", int(array[outside[0]]), allowed)]
