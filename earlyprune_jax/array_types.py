"""Names for the pytrees and arrays that travel between modules."""

from collections.abc import Mapping
from typing import Any

import chex
import jax

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
