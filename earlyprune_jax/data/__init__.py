"""Data as arrays in memory: sources, splits, order; augmentation of images.

    loading   from a config's data section to a checked source; the names of all sources; what is
              demanded of the arrays of any source, and of the keys beside them
    source    the contract: splits of named arrays, one row per example, with a digest
    draws     seeded draws: validation, subset, and the order of an epoch
    images    mean and deviation of images, augmentation and normalisation of a batch
    arrays, cifar    sources of images and of anything; `prepare` fetches CIFAR
    text      sources of parallel text: its `corpora`, and its `vocabulary`
    prepared  TFDS directories

A further source is two functions, of which one reads as little as it can, and a line in
`loading._SOURCES`; a further corpus of text a class in `corpora.CORPORA`; what is done to all
images when they are read belongs into `images`.
"""

# As in JAX: `x as x` says that x is for others.
from earlyprune_jax.data.draws import epoch_order as epoch_order
from earlyprune_jax.data.draws import split as split
from earlyprune_jax.data.draws import steps_per_epoch as steps_per_epoch
from earlyprune_jax.data.draws import stratified_split as stratified_split
from earlyprune_jax.data.draws import usage as usage
from earlyprune_jax.data.images import augment as augment
from earlyprune_jax.data.images import normalisation as normalisation
from earlyprune_jax.data.images import normalize as normalize
from earlyprune_jax.data.loading import Reader as Reader
from earlyprune_jax.data.loading import check as check
from earlyprune_jax.data.loading import load as load
from earlyprune_jax.data.loading import read as read
from earlyprune_jax.data.loading import shapes as shapes
from earlyprune_jax.data.loading import source_key as source_key
from earlyprune_jax.data.source import Source as Source
