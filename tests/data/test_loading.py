import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from synthetic import sizes

from earlyprune_jax import data
from earlyprune_jax.validate import InvalidInput


def rows(split):
    return set(map(bytes, split["images"].reshape(len(split["images"]), -1)))


def shapes_of(loaded):
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), loaded)


@pytest.mark.parametrize("train_fraction", [0.05, 0.37, 1.0])
@pytest.mark.parametrize("validation_fraction", [0.0, 0.1, 0.25])
def test_shapes_are_those_of_what_is_loaded(make_spec, train_fraction, validation_fraction):
    spec = make_spec(train_fraction=train_fraction, validation_fraction=validation_fraction)
    assert data.shapes(spec) == shapes_of(data.load(spec))
    found = sizes(spec)
    num_validation = found.get("validation", 0)
    assert num_validation == round(1200 * validation_fraction)
    assert found["train"] == round((1200 - num_validation) * train_fraction)


def test_shapes_of_a_small_cifar_are_those_of_what_is_loaded(make_spec, cifar100_prepared):
    spec = make_spec("cifar100", data_dir=str(cifar100_prepared.data_dir), train_fraction=0.9)
    assert data.shapes(spec) == shapes_of(data.load(spec))
    assert sizes(spec)["train"] == 108


def test_the_validation_split_is_the_same_for_every_train_fraction(make_spec):
    few = data.load(make_spec(validation_fraction=0.2, train_fraction=0.1))
    all_of_them = data.load(make_spec(validation_fraction=0.2))
    assert np.array_equal(few["validation"]["images"], all_of_them["validation"]["images"])
    assert rows(few["train"]) <= rows(all_of_them["train"])


def test_validation_and_training_images_partition_the_training_set(make_spec):
    whole = data.load(make_spec())
    parts = data.load(make_spec(validation_fraction=0.2))
    assert rows(parts["train"]) | rows(parts["validation"]) == rows(whole["train"])
    lengths = [
        len(split["labels"]) for split in (parts["train"], parts["validation"], whole["train"])
    ]
    assert lengths[0] + lengths[1] == lengths[2] and "validation" not in whole
    assert np.array_equal(parts["test"]["images"], whole["test"]["images"])


def test_labels_travel_with_their_images(make_spec):
    whole = data.load(make_spec())["train"]
    label_of = {
        bytes(image): label for image, label in zip(whole["images"], whole["labels"], strict=True)
    }
    parts = data.load(make_spec(validation_fraction=0.2, train_fraction=0.5))
    for split in (parts["train"], parts["validation"]):
        assert [label_of[bytes(image)] for image in split["images"]] == split["labels"].tolist()


def test_equal_specs_have_equal_splits_and_other_seeds_other_ones(make_spec):
    spec = make_spec(validation_fraction=0.1)
    first, second = data.load(spec), data.load(spec)
    other = data.load(dataclasses.replace(spec, split_seed=1))
    assert np.array_equal(first["validation"]["images"], second["validation"]["images"])
    assert rows(first["validation"]) != rows(other["validation"])


def test_digest_changes_with_a_single_pixel_and_a_single_label(make_spec):
    source = data.read(make_spec())
    images, labels = source.test["images"].copy(), source.test["labels"].copy()
    images[-1, -1, -1, 0] ^= 1
    labels[0] ^= 1
    digests = {
        source.digest(),
        dataclasses.replace(source, test=source.test | {"images": images}).digest(),
        dataclasses.replace(source, test=source.test | {"labels": labels}).digest(),
    }
    assert len(digests) == 3


def test_digest_of_other_data_depends_on_paths_shapes_types_and_values_not_on_the_order_of_names():
    a, b = np.arange(4, dtype=np.float32), np.arange(8, dtype=np.int32).reshape(4, 2)

    def digest(train):
        return data.Source(train, train).digest()

    first = digest({"a": a, "b": {"c": b}})
    assert digest({"b": {"c": b}, "a": a}) == first
    assert digest({"a": a, "b": {"c": np.asfortranarray(b)}}) == first
    others = (
        {"a": a, "b": {"d": b}},
        {"a": a, "b": b},
        {"a": a, "b": {"c": b.reshape(4, 1, 2)}},
        {"a": a.view(np.int32), "b": {"c": b}},
        {"a": a + 1, "b": {"c": b}},
        {"a": a, "b": {"c": b}, "d": a},
    )
    assert len({first, *map(digest, others)}) == 7
    assert digest(a.astype(jnp.bfloat16)) != digest(a.astype(np.float16))


def test_arrays_are_read_only(make_spec):
    for loaded in (
        data.load(make_spec()),
        data.load(make_spec(train_fraction=0.5, test_fraction=0.5)),
    ):
        with pytest.raises(ValueError, match="read-only"):
            loaded["train"]["images"][0] = 0
        with pytest.raises(ValueError, match="read-only"):
            loaded["test"]["labels"][0] = 0


def test_without_strata_examples_are_drawn_at_random_by_the_recorded_numbers(make_spec):
    x = np.arange(30)
    source = data.Source({"x": x}, {"x": x[:10]})
    spec = make_spec(validation_fraction=0.2, train_fraction=0.5, test_fraction=0.4, split_seed=5)
    parts = {name: rows["x"] for name, rows in data.split(source, spec).items()}
    assert {name: len(rows) for name, rows in parts.items()} == {
        "train": 12,
        "validation": 6,
        "test": 4,
    }
    numbers = np.random.PCG64((5, 0)).random_raw(30)
    assert parts["validation"].tolist() == sorted(np.argsort(numbers)[:6].tolist())
    assert not set(parts["train"]) & set(parts["validation"])


def test_an_unknown_name_lists_the_choices_and_the_nearest(make_spec):
    (problem,) = data.check(make_spec("cifar11"))
    choices = (
        "digits, cifar10, cifar100, npz:PATH, folder:PATH, text, numerals, wmt14, module:function"
    )
    assert f"data.name='cifar11' to be one of {choices}" in problem
    assert "Did you mean 'cifar1" in problem
    for refused in (data.shapes, data.load):
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


@pytest.mark.parametrize("name", ["", ":", "digits(1)", "/tmp/images:x", "mine:", "npz", "folder"])
def test_a_name_that_is_neither_built_in_nor_an_import_path_is_refused(make_spec, name):
    (problem,) = data.check(make_spec(name))
    assert f"data.name={name!r} to be one of digits" in problem


@pytest.mark.parametrize(
    ("keys", "problem_keys"),
    [
        ({"train_fraction": 0.0001}, ["train_fraction"]),
        ({"train_fraction": 1e-20}, ["train_fraction"]),
        ({"train_fraction": 0.005}, ["train_fraction"]),
        ({"validation_fraction": 0.0001}, ["validation_fraction"]),
        ({"validation_fraction": 0.9999}, ["train_fraction"]),
        (
            {"validation_fraction": 0.001, "train_fraction": 0.001},
            ["validation_fraction", "train_fraction"],
        ),
    ],
)
def test_fractions_that_leave_a_class_without_images_are_refused(make_spec, keys, problem_keys):
    problems = data.check(make_spec(**keys))
    assert len(problems) == len(problem_keys)
    for problem, key in zip(problems, problem_keys, strict=True):
        assert f"data.{key}={keys.get(key, 1.0)} to give every class an example" in problem


@pytest.mark.parametrize("value", [float("nan"), -1.0, 2.0])
def test_fractions_out_of_range_are_left_to_the_range_check(make_spec, value):
    assert data.check(make_spec(train_fraction=value)) == []
    assert data.check(make_spec(validation_fraction=value)) == []


def test_importing_the_package_loads_neither_tfds_nor_scikit_learn():
    code = (
        "import sys, earlyprune_jax.data; "
        "heavy = ('tensorflow_datasets', 'sklearn', 'PIL', 'tensorflow'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    path = f"import sys; sys.path[:0] = {sys.path!r}; "
    done = subprocess.run(
        [sys.executable, "-c", path + code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_test_fraction_keeps_a_stratified_part_and_changes_nothing_else(make_spec):
    whole, part = data.load(make_spec()), data.load(make_spec(test_fraction=0.25))
    labels = part["test"]["labels"]
    assert len(labels) == round(0.25 * 597) == sizes(make_spec(test_fraction=0.25))["test"]
    assert rows(part["test"]) <= rows(whole["test"])
    assert np.array_equal(part["train"]["images"], whole["train"]["images"])
    counts = np.bincount(labels, minlength=10)
    assert np.all(np.abs(counts - 0.25 * np.bincount(whole["test"]["labels"])) <= 1)


def test_a_test_fraction_that_leaves_no_image_is_reported(make_spec):
    assert "data.test_fraction" in "".join(data.check(make_spec(test_fraction=1e-6)))
