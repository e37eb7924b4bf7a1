"""earlyprune_jax: when may a network be pruned during training, how hard, by which criterion?

Subpackages are imported on demand (`from earlyprune_jax import pruning`), so that
importing the package costs nothing beyond Python's own start.
"""

__version__ = "0.1.0"
