import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_digits

from earlyprune_jax import data


def test_pixels_are_scikit_learns_values_and_come_back_from_uint8_without_loss(make_spec):
    digits = data.load(make_spec())
    pixels = np.concatenate([digits["train"]["images"], digits["test"]["images"]]).reshape(-1, 64)
    values = np.round(pixels / 255 * 16)
    originals, _ = load_digits(return_X_y=True)
    assert pixels.dtype == np.uint8 and pixels.max() == 255
    assert sorted(map(bytes, values.astype(np.uint8))) == sorted(
        map(bytes, originals.astype(np.uint8))
    )


def test_labels_belong_to_their_images(make_spec):
    digits = data.load(make_spec())
    originals, labels = load_digits(return_X_y=True)
    label_of = {
        bytes(image.astype(np.uint8)): label for image, label in zip(originals, labels, strict=True)
    }
    for split in (digits["train"], digits["test"]):
        values = np.round(split["images"].reshape(-1, 64) / 255 * 16).astype(np.uint8)
        assert [label_of[bytes(value)] for value in values] == split["labels"].tolist()


def test_train_and_test_are_stratified_1200_and_597_whatever_the_split_seed(make_spec):
    first, second = data.read(make_spec(split_seed=0)), data.read(make_spec(split_seed=9))
    train, test = first.train["labels"], first.test["labels"]
    assert (len(train), len(test)) == (1200, 597)
    assert first.digest() == second.digest()
    share = np.bincount(train) / np.bincount(np.append(train, test))
    assert np.all(np.abs(share - 1200 / 1797) < 1 / 170)


def test_digits_are_the_recorded_ones_so_old_runs_can_be_repeated(make_spec):
    digest = "f71264eca5121912b628612c1e7a82b64231d80e6c33ead89987c475fde1ffa9"
    assert data.read(make_spec()).digest() == digest


@pytest.mark.parametrize(
    ("fractions", "recorded"),
    [
        (
            (0.37, 0.1, 0.25, 3),
            {"train": "d0fd81c96e", "validation": "31f804fb35", "test": "d00249d7d7"},
        ),
        ((1.0, 0.0, 1.0, 0), {"train": "3d5983fa24", "test": "a5332ef293"}),
        (
            (0.05, 0.25, 0.5, 7),
            {"train": "a43c82c3a1", "validation": "bd3e26f612", "test": "8ff59e8f5c"},
        ),
    ],
)
def test_splits_are_the_recorded_ones_so_old_runs_can_be_repeated(make_spec, fractions, recorded):
    keys = dict(
        zip(("train_fraction", "validation_fraction", "test_fraction"), fractions[:3], strict=True)
    )
    loaded = data.load(make_spec(split_seed=fractions[3], **keys))

    def digest(rows):
        return hashlib.sha256(rows["images"].tobytes() + rows["labels"].tobytes()).hexdigest()

    assert {name: digest(rows)[:10] for name, rows in loaded.items()} == recorded


def test_a_wrong_class_count_and_a_directory_are_refused_together(make_spec):
    problems = data.check(make_spec(num_classes=11, data_dir="somewhere"))
    assert len(problems) == 2
    assert "data.data_dir='somewhere' to be ''" in problems[0]
    assert "data.num_classes=11 to be 10" in problems[1]
