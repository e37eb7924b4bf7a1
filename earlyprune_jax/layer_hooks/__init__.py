"""What flows through the layers of a Linen network, taken while it runs, without changing it.

    input_norms         l2 norm of what every kernel entry multiplies (for scores.wanda)
    coverage            which parameters the layerwise gradients cover, and why not the others
    hooked_pass         per-example gradients' squares of the covered ones, in one backward pass

With models/, the only place that imports Flax.
"""

from earlyprune_jax.layer_hooks.coverage import Coverage, coverage, hooked_pass
from earlyprune_jax.layer_hooks.input_norms import input_norms

__all__ = ["Coverage", "coverage", "hooked_pass", "input_norms"]
