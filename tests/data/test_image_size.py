"""Images averaged down to fewer pixels, against an average over whole numbers of small squares."""

import numpy as np
import pytest

from earlyprune_jax import data
from earlyprune_jax.data.images import shrunk
from earlyprune_jax.data.source import Source
from tests.data.synthetic import make_spec, only_problem


def by_squares(images: np.ndarray, size: int) -> np.ndarray:
    """The same in whole numbers: every pixel as size x size equal ones, then means of squares."""
    num, height, _, channels = images.shape
    fine = images.astype(np.int64).repeat(size, axis=1).repeat(size, axis=2)
    squares = fine.reshape(num, size, height, size, height, channels).sum(axis=(2, 4))
    return ((2 * squares + height**2) // (2 * height**2)).astype(np.uint8)


@pytest.mark.parametrize("side, size", [(8, 4), (8, 3), (8, 5), (7, 2), (32, 16), (9, 1)])
def test_a_new_pixel_is_the_mean_of_what_it_covers(side, size):
    images = np.random.default_rng(side).integers(0, 256, (40, side, side, 3)).astype(np.uint8)
    images[0], images[1] = 255, np.arange(side).reshape(-1, 1, 1)
    rows = {"images": images, "labels": np.arange(40)}
    small = shrunk(Source(rows, rows), size).train["images"]
    assert small.dtype == np.uint8
    np.testing.assert_array_equal(small, by_squares(images, size))


def test_what_is_read_has_the_shape_that_was_promised_and_the_same_labels():
    whole, spec = data.load(make_spec()), make_spec(image_size=4, train_fraction=0.5)
    reader = data.Reader()
    assert reader(make_spec()).train["images"].shape[1:] == (8, 8, 1)
    assert reader(spec).train["images"].shape[1:] == (4, 4, 1)
    loaded = data.load(spec)
    for split, rows in data.shapes(spec).items():
        assert rows["images"].shape == loaded[split]["images"].shape
    np.testing.assert_array_equal(loaded["test"]["labels"], whole["test"]["labels"])
    np.testing.assert_array_equal(loaded["test"]["images"], by_squares(whole["test"]["images"], 4))
    (mean,), _ = data.normalisation(data.read(spec), make_spec(image_size=4, mean=(), std=()))
    (before,), _ = data.normalisation(data.read(make_spec()), make_spec(mean=(), std=()))
    assert mean == pytest.approx(before, abs=2e-3)  # rounding alone moves it


def test_sizes_that_no_image_has_are_refused_and_paddings_go_by_the_new_size():
    allowed = "to be 0 (as they are) or at most 8, and images square. Images of digits are 8x8."
    assert only_problem(make_spec(image_size=9)) == f"Expected data.image_size=9 {allowed}"
    problem = only_problem(make_spec(image_size=4, crop_padding=5))
    assert "data.crop_padding=5 in [0, 4)" in problem


def test_images_that_are_not_square_stay_as_they_are(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (12, 6, 4, 1)).astype(np.uint8)
    labels = np.arange(12) % 2
    file = tmp_path / "tall.npz"
    np.savez(file, x_train=rows, y_train=labels, x_test=rows, y_test=labels)
    spec = make_spec(f"npz:{file}", num_classes=2, image_size=4)
    assert "data.image_size=4 to be 0 (as they are) or at most 4" in only_problem(spec)
