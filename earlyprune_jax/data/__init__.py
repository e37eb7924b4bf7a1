"""Data as arrays in memory: sources, splits, order; augmentation of images."""

from earlyprune_jax.data.augmentation import augment, normalize
from earlyprune_jax.data.images import normalisation
from earlyprune_jax.data.loading import Reader, check, load, read, shapes, split
from earlyprune_jax.data.order import epoch_order, steps_per_epoch
from earlyprune_jax.data.source import Source
from earlyprune_jax.data.splits import stratified_split

__all__ = [
    "Reader",
    "Source",
    "augment",
    "check",
    "epoch_order",
    "load",
    "normalisation",
    "normalize",
    "read",
    "shapes",
    "split",
    "steps_per_epoch",
    "stratified_split",
]
