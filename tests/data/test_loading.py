import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from earlyprune_jax import data
from earlyprune_jax.validate import InvalidInput


def rows(split):
    return set(map(bytes, split.images.reshape(len(split), -1)))


@pytest.mark.parametrize("train_fraction", [0.05, 0.37, 1.0])
@pytest.mark.parametrize("validation_fraction", [0.0, 0.1, 0.25])
def test_sizes_are_those_of_what_is_loaded(make_spec, train_fraction, validation_fraction):
    spec = make_spec(train_fractions=(train_fraction,), validation_fraction=validation_fraction)
    loaded, sizes = data.load(spec), data.sizes(spec)
    num_validation = len(loaded.validation) if loaded.validation else 0
    assert sizes == data.Sizes(
        len(loaded.train), num_validation, len(loaded.test), loaded.train.images.shape[1:]
    )
    assert num_validation == round(1200 * validation_fraction)
    assert len(loaded.train) == round((1200 - num_validation) * train_fraction)


def test_sizes_of_a_small_cifar_are_those_of_what_is_loaded(make_spec, cifar100_prepared):
    spec = make_spec(
        "cifar100",
        data_dir=str(cifar100_prepared.data_dir),
        validation_fraction=0.0,
        train_fractions=(0.9,),
    )
    loaded = data.load(spec)
    assert data.sizes(spec) == data.Sizes(len(loaded.train), 0, len(loaded.test), (32, 32, 3))
    assert len(loaded.train) == 108


def test_the_validation_split_is_the_same_for_every_train_fraction(make_spec):
    few = data.load(make_spec(validation_fraction=0.2, train_fractions=(0.1,)))
    all_of_them = data.load(make_spec(validation_fraction=0.2))
    assert few.validation is not None and all_of_them.validation is not None
    assert np.array_equal(few.validation.images, all_of_them.validation.images)
    assert rows(few.train) <= rows(all_of_them.train)


def test_validation_and_training_images_partition_the_training_set(make_spec):
    whole = data.load(make_spec())
    parts = data.load(make_spec(validation_fraction=0.2))
    assert parts.validation is not None and whole.validation is None
    assert rows(parts.train) | rows(parts.validation) == rows(whole.train)
    assert len(parts.train) + len(parts.validation) == len(whole.train)
    assert np.array_equal(parts.test.images, whole.test.images)


def test_labels_travel_with_their_images(make_spec):
    whole = data.load(make_spec())
    label_of = {
        bytes(image): label for image, label in zip(whole.train.images, whole.train.labels, strict=True)
    }
    parts = data.load(make_spec(validation_fraction=0.2, train_fractions=(0.5,)))
    assert parts.validation is not None
    for split in (parts.train, parts.validation):
        assert [label_of[bytes(image)] for image in split.images] == split.labels.tolist()


def test_equal_specs_have_equal_digests_and_other_splits_other_ones(make_spec):
    spec = make_spec(validation_fraction=0.1)
    digest = data.load(spec).digest()
    assert digest == data.load(spec).digest()
    assert digest != data.load(dataclasses.replace(spec, split_seed=1)).digest()
    assert digest != data.load(dataclasses.replace(spec, validation_fraction=0.0)).digest()


def test_digest_changes_with_a_single_pixel_and_a_single_label(make_spec):
    loaded = data.load(make_spec())
    images, labels = loaded.test.images.copy(), loaded.test.labels.copy()
    images[-1, -1, -1, 0] ^= 1
    labels[0] ^= 1
    digests = {
        loaded.digest(),
        dataclasses.replace(loaded, test=data.Split(images, loaded.test.labels)).digest(),
        dataclasses.replace(loaded, test=data.Split(loaded.test.images, labels)).digest(),
    }
    assert len(digests) == 3


def test_arrays_are_read_only(make_spec):
    loaded = data.load(make_spec())
    with pytest.raises(ValueError, match="read-only"):
        loaded.train.images[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        loaded.test.labels[0] = 0


def test_an_unknown_name_lists_the_choices_and_the_nearest(make_spec):
    (problem,) = data.check(make_spec("cifar11"))
    assert "data.name='cifar11' to be one of digits, cifar10, cifar100, npz:PATH" in problem
    assert "Did you mean 'cifar1" in problem
    for refused in (data.sizes, data.load):
        with pytest.raises(InvalidInput, match="one of digits"):
            refused(make_spec("cifar11"))


def test_shape_keys_are_checked_against_the_images(make_spec):
    problems = data.check(make_spec(mean=(0.5,) * 3, std=(0.5,) * 2, crop_padding=8))
    assert len(problems) == 3
    assert (
        "data.mean=(0.5, 0.5, 0.5) to have 1 number. One per channel: images of digits are 8x8x1"
        in problems[0]
    )
    assert "data.std=(0.5, 0.5) to have 1 number" in problems[1]
    assert "data.crop_padding=8 in [0, 8)" in problems[2]


def _single(value):
    return value[0] if isinstance(value, tuple) else value


@pytest.mark.parametrize(
    ("keys", "problem_keys"),
    [
        ({"train_fractions": (0.0001,)}, ["train_fractions"]),
        ({"train_fractions": (0.005,)}, ["train_fractions"]),
        ({"validation_fraction": 0.0001}, ["validation_fraction"]),
        ({"validation_fraction": 0.9999}, ["train_fractions"]),
        (
            {"validation_fraction": 0.001, "train_fractions": (0.001,)},
            ["validation_fraction", "train_fractions"],
        ),
    ],
)
def test_fractions_that_leave_a_class_without_images_are_refused(make_spec, keys, problem_keys):
    problems = data.check(make_spec(**keys))
    assert len(problems) == len(problem_keys)
    for problem, key in zip(problems, problem_keys, strict=True):
        assert f"data.{key}={_single(keys.get(key, 1.0))} to give every class an image" in problem


@pytest.mark.parametrize("value", [float("nan"), -1.0, 2.0])
def test_fractions_out_of_range_are_left_to_the_range_check(make_spec, value):
    assert data.check(make_spec(train_fractions=(value,))) == []
    assert data.check(make_spec(validation_fraction=value)) == []


def test_importing_the_package_loads_neither_tfds_nor_scikit_learn():
    code = (
        "import sys, earlyprune_jax.data; "
        "print([m for m in ('tensorflow_datasets', 'sklearn', 'PIL', 'tensorflow') if m in sys.modules])"
    )
    path = f"import sys; sys.path[:0] = {sys.path!r}; "
    done = subprocess.run([sys.executable, "-c", path + code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_test_fraction_keeps_a_stratified_part_and_changes_nothing_else(make_spec):
    whole, part = data.load(make_spec()), data.load(make_spec(test_fraction=0.25))
    assert len(part.test) == round(0.25 * 597) == data.sizes(make_spec(test_fraction=0.25)).num_test
    assert rows(part.test) <= rows(whole.test)
    assert np.array_equal(part.train.images, whole.train.images)
    counts = np.bincount(part.test.labels, minlength=10)
    assert np.all(np.abs(counts - 0.25 * np.bincount(whole.test.labels)) <= 1)


def test_a_test_fraction_that_leaves_no_image_is_reported(make_spec):
    assert "data.test_fraction" in "".join(data.check(make_spec(test_fraction=1e-6)))
