"""What every signal is: sums over probe batches, then numbers."""

import dataclasses
from collections.abc import Callable
from typing import Any

from earlyprune_jax.array_types import Array, Params, PRNGKey

LogProbs = Callable[[Params, Any], Array]
"""(params, batch) -> log p(y|x), shape [B, C], natural log, BN in evaluation mode."""


@dataclasses.dataclass(frozen=True)
class Signal:
    """A measurement of a network on probe images, accumulated batch by batch.

    Attributes:
        name: the signal's name in configs.
        num_passes: how often the probe images are visited; `pass_index` counts from 0.
        zero_sums: params -> the pytree of float32 zeros that `batch_sums` adds to.
        batch_sums: (log_probs, params, batch, key, pass_index) -> a pytree of sums over the
            batch; runs inside jit. `batch` holds `images`, `labels` and `weights` [B], with
            weight 0 for padding.
        numbers: (sums over everything, number of examples) -> column name -> number, or a
            mapping parameter path -> number.
    """

    name: str
    num_passes: int
    zero_sums: Callable[[Params], Any]
    batch_sums: Callable[[LogProbs, Params, Any, PRNGKey, Array], Any]
    numbers: Callable[[Any, int], dict[str, Any]]
