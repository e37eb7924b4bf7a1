"""Names for the pytrees and arrays that travel between modules."""

from collections.abc import Mapping
from typing import Any

import chex
import jax

Array = jax.Array
PRNGKey = jax.Array
"""A raw uint32 key of shape [2], so that a training state holds plain arrays only."""

Params = Mapping[str, Any]
"""A nested mapping of parameter arrays, as Linen makes it."""

Variables = Mapping[str, Any]
"""What a Linen module applies: {"params": Params, "batch_stats": ...}."""

Mask = chex.ArrayTree
"""The structure of the params, bool: True = kept; all True where a leaf is not prunable."""

Scores = chex.ArrayTree
"""The structure of the params, float: higher = keep."""
