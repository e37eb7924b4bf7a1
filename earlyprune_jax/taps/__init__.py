"""What flows through the layers of a Linen network, taken while it runs, without changing it.

    input_norms         l2 norm of what every kernel entry multiplies (for scores.wanda)
    coverage            which parameters the layerwise gradients cover, and why not the others
    tapped_pass         per-example gradients' squares of the covered ones, in one backward pass
    is_linen, evaluation_options, training_options, option_problems, interceptor_problems,
    evaluated, first_nonfinite     a Linen module in evaluation mode (or in training mode)

With models/, the only place that imports Flax.
"""

from earlyprune_jax.taps.coverage import Coverage, coverage
from earlyprune_jax.taps.evaluation import (
    evaluated,
    evaluation_options,
    first_nonfinite,
    interceptor_problems,
    is_linen,
    option_problems,
    training_options,
)
from earlyprune_jax.taps.input_norms import input_norms
from earlyprune_jax.taps.layerwise import TappedPass, tapped_pass

__all__ = [
    "Coverage",
    "TappedPass",
    "coverage",
    "evaluated",
    "evaluation_options",
    "first_nonfinite",
    "input_norms",
    "interceptor_problems",
    "is_linen",
    "option_problems",
    "tapped_pass",
    "training_options",
]
