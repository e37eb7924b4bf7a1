"""What flows through the layers of a Linen network, taken while it runs, without changing it.

    input_norms         l2 norm of what every kernel entry multiplies (for scores.wanda)
    coverage            which parameters the layerwise gradients cover, and why not the others
    hooked_pass         per-example gradients' squares of the covered ones, in one backward pass
    is_linen, evaluation_options, training_options, linen_problems, evaluated,
    first_nonfinite     a Linen module in evaluation mode (or in training mode)

With models/, the only place that imports Flax.
"""

from earlyprune_jax.layer_hooks.coverage import Coverage, HookedPass, coverage, hooked_pass
from earlyprune_jax.layer_hooks.evaluation import (
    evaluated,
    evaluation_options,
    first_nonfinite,
    is_linen,
    linen_problems,
    training_options,
)
from earlyprune_jax.layer_hooks.input_norms import input_norms

__all__ = [
    "Coverage",
    "HookedPass",
    "coverage",
    "evaluated",
    "evaluation_options",
    "first_nonfinite",
    "input_norms",
    "is_linen",
    "linen_problems",
    "hooked_pass",
    "training_options",
]
