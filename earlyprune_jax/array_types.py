"""Names for the pytrees and arrays that travel between modules, and the type to compute in."""

from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

Array = jax.Array
PRNGKey = chex.PRNGKey
"""A raw uint32 key of shape [2], so that a training state holds plain arrays only."""

Params = Any
"""A pytree of parameters: Linen's nested dicts, an NNX state, an Equinox module, lists, one
array."""

Variables = Mapping[str, Any]
"""What a Linen module applies: {"params": Params, "batch_stats": ...}."""

Mask = Any
"""The structure of the params, bool: True = kept; all True where a leaf is not prunable."""

Scores = Any
"""The structure of the params, float: higher = keep."""


def accurate(dtype: Any) -> Any:
    """Returns the type in which to compute with numbers of a type: float32, or its own if wider.

    Example:
        >>> [str(jnp.dtype(accurate(name))) for name in ("float8_e5m2", "bfloat16", "float64")]
        ['float32', 'float32', 'float64']
    """
    # JAX promotes no type of 8 bits or less to another floating-point type by itself.
    is_narrow = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 16
    return jnp.dtype(jnp.float32) if is_narrow else jnp.promote_types(dtype, jnp.float32)
