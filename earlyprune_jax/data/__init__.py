"""Images as uint8 arrays in memory: sources, splits, order, augmentation."""

from earlyprune_jax.data.augmentation import augment, normalize
from earlyprune_jax.data.dataset import Dataset, Sizes, Source, Split
from earlyprune_jax.data.loading import check, load, read, sizes, split
from earlyprune_jax.data.order import epoch_order, steps_per_epoch
from earlyprune_jax.data.splits import stratified_split

__all__ = [
    "Dataset",
    "Sizes",
    "Source",
    "Split",
    "augment",
    "check",
    "epoch_order",
    "load",
    "normalize",
    "read",
    "sizes",
    "split",
    "steps_per_epoch",
    "stratified_split",
]
