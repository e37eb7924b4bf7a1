"""`digits`: the 1,797 real 8x8 handwritten digits that come with scikit-learn.

Pixels are whole numbers 0..16 there; value v becomes round(255 * v / 16), an injection
into uint8, so nothing is lost. scikit-learn has one set only: 1,200 images are the
training set and 597 the test set, by a stratified split whose seed never changes.
`data.split_seed` moves the validation split and the subset, not the test set, so
accuracies stay comparable.
"""

import numpy as np

from earlyprune_jax.data.dataset import Facts, Source, Split
from earlyprune_jax.data.splits import stratified_split
from earlyprune_jax.spec import DataSpec
from earlyprune_jax.validate import expected

NUM_CLASSES = 10
NUM_TRAIN = 1200
_SPLIT_SEED = 0
_MAX_VALUE = 16


def inspect(spec: DataSpec) -> tuple[list[str], Facts]:
    """What is wrong with the keys that concern this source, and what it holds."""
    problems = []
    if spec.data_dir:
        problems.append(
            expected(
                "data.data_dir",
                spec.data_dir,
                "to be '' for digits, which come with scikit-learn",
                "It belongs to data.name=cifar10 or cifar100.",
            )
        )
    if spec.num_classes != NUM_CLASSES:
        problems.append(
            expected("data.num_classes", spec.num_classes, f"to be {NUM_CLASSES}", "digits has that many.")
        )
    source = load(spec)
    counts = np.bincount(source.train.labels, minlength=NUM_CLASSES)
    height, width, channels = source.train.images.shape[1:]
    return problems, Facts(tuple(counts.tolist()), len(source.test), (height, width, channels))


def load(spec: DataSpec) -> Source:
    """The training and the test set, each in scikit-learn's order; `spec` changes neither."""
    del spec
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    images = np.round(values * (255 / _MAX_VALUE)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = labels.astype(np.int32)
    train, test = stratified_split(labels, NUM_TRAIN / len(labels), _SPLIT_SEED)
    whole = Split(images, labels)
    return Source(whole.take(train), whole.take(test), tuple("0123456789"))
