"""Published trained networks score their published accuracy on the real CIFAR-10 test set."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from earlyprune_jax import models

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
# The ImageNet constants, with which these networks were trained.
MEAN, STD = np.array((0.485, 0.456, 0.406), np.float32), np.array((0.229, 0.224, 0.225), np.float32)


def cifar10_test_images():
    """uint8 [10000, 32, 32, 3] from mosaics of 25 rows of 40 images."""
    image = pytest.importorskip("PIL.Image")
    files = sorted((SHARED / "data" / "cifar10").glob("test-*.webp"))
    mosaics = [np.asarray(image.open(file).convert("RGB")) for file in files]
    grids = np.stack(mosaics).reshape(-1, 25, 32, 40, 32, 3)
    return grids.swapaxes(2, 3).reshape(-1, 32, 32, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_correct"), [("resnet20", 9173), ("resnet32", 9263)])
def test_published_weights_score_the_published_accuracy(name, num_correct):
    weights, labels_file = (
        SHARED / "weights" / f"{name}.npz",
        SHARED / "data" / "cifar10" / "labels.npz",
    )
    if not (weights.exists() and labels_file.exists()):
        pytest.skip("needs shared/weights and shared/data/cifar10 beside the repository")
    with np.load(weights) as arrays:
        variables = models.from_torch(name, arrays)
    with np.load(labels_file) as arrays:
        labels = arrays["y_test"]
    images = (cifar10_test_images().astype(np.float32) / 255 - MEAN) / STD
    assert images.shape == (10_000, 32, 32, 3)
    module = models.build(name, num_classes=10)
    network: Any = jax.jit(functools.partial(module.apply, train=False))
    logits = np.concatenate([network(variables, batch) for batch in np.split(images, 10)])
    assert (logits.argmax(-1) == labels).sum() == num_correct
