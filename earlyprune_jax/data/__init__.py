"""Data as arrays in memory: sources, splits, order; augmentation of images.

    loading   from a config's data section to a checked source, and the names of all sources
    source    the contract: splits of named arrays, one row per example, with a digest; and
              seeded draws: validation, subset, and the order of an epoch
    checks    what is demanded of the arrays of any source, and of the keys beside them
    images    mean and deviation of images, augmentation and normalisation of a batch
    arrays, cifar, folder    sources; `prepare` fetches CIFAR

A further source, be it of text, is two functions, of which one reads as little as it can, and a
line in `loading._SOURCES`; what is done to all images when they are read belongs into `images`.
"""

from earlyprune_jax.data.images import augment, normalisation, normalize
from earlyprune_jax.data.loading import Reader, check, load, read, shapes, source_key
from earlyprune_jax.data.source import Source, epoch_order, split, steps_per_epoch, stratified_split

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
    "source_key",
    "split",
    "steps_per_epoch",
    "stratified_split",
]
