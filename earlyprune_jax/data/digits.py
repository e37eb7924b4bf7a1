"""`digits`: the 1,797 real 8x8 handwritten digits that come with scikit-learn.

Pixels are whole numbers 0..16 there; value v becomes round(255 * v / 16), an injection
into uint8, so nothing is lost. scikit-learn has one set only: 1,200 images are the
training set and 597 the test set, by a stratified split whose seed never changes.
`data.split_seed` moves the validation split and the subset, not the test set, so
accuracies stay comparable.
"""

import numpy as np

from earlyprune_jax.data.source import Source, take
from earlyprune_jax.data.splits import stratified_split
from earlyprune_jax.spec import DataSpec

NUM_TRAIN = 1200
_SPLIT_SEED = 0
_MAX_VALUE = 16


def inspect(spec: DataSpec) -> tuple[list[str], Source]:
    """Gives the source itself as its outline: nothing can be wrong with it."""
    return [], load(spec)


def load(spec: DataSpec) -> Source:
    """Reads both sets, each in scikit-learn's order; `spec` changes neither."""
    del spec
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    images = np.round(values * (255 / _MAX_VALUE)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = np.asarray(labels)
    train, test = stratified_split(labels, NUM_TRAIN / len(labels), _SPLIT_SEED)
    whole = {"images": images, "labels": labels}
    return Source(take(whole, train), take(whole, test), tuple("0123456789"))
