import jax
import jax.numpy as jnp
import numpy as np
import pytest

from earlyprune_jax.data.images import augment, normalize

KEY = jax.random.PRNGKey(11)
jitted_augment = jax.jit(augment, static_argnames=("crop_padding", "horizontal_flip"))


def random_images(num_images, side=8, channels=3):
    return np.random.default_rng(0).integers(1, 256, (num_images, side, side, channels), np.uint8)


def all_windows(image, padding):
    """Every crop of the zero-padded image and its mirror image, by plain slicing."""
    side = image.shape[0]
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            window = padded[top : top + side, left : left + side]
            yield (top, left, False), window
            yield (top, left, True), window[:, ::-1]


def drawn_windows(images, padding, *, flip, key=KEY):
    """Which (top, left, flipped) made each augmented image; fails if none did."""
    out = np.asarray(
        jitted_augment(key, jnp.asarray(images), crop_padding=padding, horizontal_flip=flip)
    )
    found = []
    for image, result in zip(images, out, strict=True):
        matches = [
            name for name, window in all_windows(image, padding) if np.array_equal(window, result)
        ]
        assert len(matches) == 1
        found += matches
    return found


def test_every_result_is_one_window_of_the_padded_image_or_its_mirror_image():
    drawn = drawn_windows(random_images(300), 2, flip=True)
    assert {name[0] for name in drawn} == {name[1] for name in drawn} == set(range(5))
    assert 100 < sum(flipped for *_, flipped in drawn) < 200


def test_offsets_and_flips_are_uniform_and_independent():
    images = np.repeat(random_images(1, side=4), 3600, axis=0)
    drawn = drawn_windows(images, 1, flip=True)
    counts = np.bincount(
        [6 * top + 2 * left + flipped for top, left, flipped in drawn], minlength=18
    )
    # 18 equally likely outcomes: mean 200, standard deviation 13.7.
    assert np.all(np.abs(counts - 200) < 5 * 13.7)


def test_one_transformation_keeps_its_draws_when_the_other_is_off():
    images = random_images(300)
    both = drawn_windows(images, 2, flip=True)
    crop_only = drawn_windows(images, 2, flip=False)
    flip_only = drawn_windows(images, 0, flip=True)
    assert [name[:2] for name in both] == [name[:2] for name in crop_only]
    assert [name[2] for name in both] == [name[2] for name in flip_only]


def test_augmentation_is_a_function_of_key_and_images_in_and_out_of_jit():
    images = jnp.asarray(random_images(300))
    static = {"crop_padding": 2, "horizontal_flip": True}
    plain = augment(KEY, images, **static)
    assert plain.dtype == jnp.uint8
    assert np.array_equal(plain, jitted_augment(KEY, images, **static))
    assert not np.array_equal(plain, jitted_augment(jax.random.PRNGKey(12), images, **static))


def test_with_both_off_the_images_come_back_unchanged():
    images = jnp.asarray(random_images(4))
    assert augment(KEY, images, crop_padding=0, horizontal_flip=False) is images


def test_normalize_equals_the_formula_in_double_precision():
    images = random_images(5)
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
    expected = (images / 255 - np.array(mean)[None, None, None]) / np.array(std)[None, None, None]
    result = normalize(jnp.asarray(images), mean, std)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_normalize_rounds_once_into_a_shorter_type(dtype):
    images = jnp.asarray(random_images(5, channels=1))
    full = normalize(images, (0.3,), (0.37,))
    assert np.array_equal(normalize(images, (0.3,), (0.37,), dtype), full.astype(dtype))
