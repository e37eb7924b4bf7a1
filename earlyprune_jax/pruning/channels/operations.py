"""How an operation changes when channels are gone: sizes in its parameters, nothing else."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from earlyprune_jax.array_types import Array
from earlyprune_jax.pruning.channels.graph import Step, Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """Which ids are left: [num_ids] bool."""

    ids: np.ndarray

    def along(self, tensor: Tensor, place: int) -> np.ndarray:
        """[n] bool: the indices of one axis that are left."""
        axis = tensor.axes[place]
        return np.ones(tensor.shape[place], bool) if isinstance(axis, str) else self.ids[axis]

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """What is left of a tensor's shape."""
        return tuple(
            int(np.count_nonzero(self.along(tensor, place))) for place in range(len(tensor.shape))
        )

    def of(self, tensor: Tensor, value: Any) -> Any:
        """What is left of a value that has all channels."""
        for place in range(len(tensor.shape)):
            value = taken_along(value, np.flatnonzero(self.along(tensor, place)), place)
        return value


def taken_along(value: Any, index: np.ndarray, place: int) -> Any:
    """The entries at rising indices along one axis; the value itself if that is all of them."""
    if index.size == value.shape[place]:
        return value
    if isinstance(value, np.ndarray):
        return value.take(index, axis=place)
    return jnp.take(value, index, axis=place, mode="clip")


def bind(eqn: Any, values: Sequence[Any], changes: dict[str, Any]) -> list[Any]:
    """The operation of an equation, with some of its parameters changed."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    # Older releases of JAX return the functions inside a call beside the parameters.
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    results = eqn.primitive.bind(*functions, *values, **params | changes)
    return list(results) if eqn.primitive.multiple_results else [results]


Change = Callable[[Step, Kept], dict[str, Any]]


def _new_shape(parameter: str) -> Change:
    return lambda step, kept: {parameter: kept.shape(step.outputs[0])}


def _padding(step: Step, kept: Kept) -> dict[str, Any]:
    config = list(step.eqn.params["padding_config"])
    for place, (low, high, interior) in enumerate(config):
        stays = kept.along(step.outputs[0], place)
        if not stays.all():
            low, high = np.count_nonzero(stays[:low]), np.count_nonzero(stays[stays.size - high :])
            config[place] = (int(low), int(high), interior)
    return {"padding_config": tuple(config)}


def _depthwise(step: Step, kept: Kept) -> dict[str, Any]:
    channels = step.eqn.params["dimension_numbers"].lhs_spec[1]
    depthwise = step.eqn.params["feature_group_count"] > 1
    return {"feature_group_count": kept.shape(step.inputs[0])[channels] if depthwise else 1}


def _split_sizes(step: Step, kept: Kept) -> dict[str, Any]:
    return {"sizes": tuple(kept.shape(tensor)[step.eqn.params["axis"]] for tensor in step.outputs)}


def _slice_sizes(step: Step, kept: Kept) -> dict[str, Any]:
    tensor, sizes = step.inputs[0], step.eqn.params["slice_sizes"]
    # An axis that is not taken whole stays whole.
    left = kept.shape(tensor)
    return {
        "slice_sizes": tuple(
            left[place] if size == tensor.shape[place] else size for place, size in enumerate(sizes)
        )
    }


CHANGES: dict[str, Change] = {
    "broadcast_in_dim": _new_shape("shape"),
    "reshape": _new_shape("new_sizes"),
    "pad": _padding,
    "conv_general_dilated": _depthwise,
    "split": _split_sizes,
    "gather": _slice_sizes,
    "dynamic_slice": _slice_sizes,
}
"""The parameters that hold sizes; operations that are not listed have none."""


def _slice(step: Step, values: Sequence[Any], kept: Kept) -> Array:
    (tensor,), (value,), params = step.inputs, values, step.eqn.params
    strides = params["strides"] or (1,) * len(tensor.shape)
    for place, cut in enumerate(
        zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    ):
        stays = kept.along(tensor, place)
        chosen = np.zeros(stays.size, bool)
        chosen[slice(*cut)] = True
        if stays.all():
            value = lax.slice_in_dim(value, *cut, axis=place)
        else:
            value = taken_along(value, np.flatnonzero(chosen[stays]), place)
    return value


def _iota(step: Step, _: Sequence[Any], kept: Kept) -> Array:
    (value,) = bind(step.eqn, [], {})
    return kept.of(step.outputs[0], value)


SPECIAL: dict[str, Callable[[Step, Sequence[Any], Kept], Array]] = {"slice": _slice, "iota": _iota}
"""Operations that other parameters cannot express."""
