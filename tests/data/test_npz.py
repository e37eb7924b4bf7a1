import dataclasses
import io
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from synthetic import only_problem

from earlyprune_jax import data
from earlyprune_jax.validate import InvalidInput


@pytest.fixture
def spec_of(make_spec, tmp_path):
    """Saves arrays and gives the spec that names the file."""

    def save(arrays, **changes):
        path = tmp_path / "images.npz"
        np.savez(path, **arrays)
        keys = {"num_classes": 3, "mean": (0.5,) * 2, "std": (0.25,) * 2} | changes
        return make_spec(f"npz:{path}", **keys)

    return save


def test_arrays_come_back_unchanged_with_int32_labels(spec_of, npz_arrays):
    loaded = data.load(spec_of(npz_arrays))
    assert set(loaded) == {"train", "test"}
    for name, split in loaded.items():
        assert np.array_equal(split["images"], npz_arrays[f"x_{name}"])
        assert np.array_equal(split["labels"], npz_arrays[f"y_{name}"])
        assert split["labels"].dtype == np.int32


def test_images_need_not_be_square(spec_of, npz_arrays):
    tall = {"x_train": npz_arrays["x_train"][:, :, :4], "x_test": npz_arrays["x_test"][:, :, :4]}
    spec = spec_of(npz_arrays | tall, crop_padding=3)
    assert data.check(spec) == []
    assert data.shapes(spec)["test"]["images"].shape == (9, 6, 4, 2)
    assert np.array_equal(data.load(spec)["train"]["images"], tall["x_train"])
    (problem,) = data.check(dataclasses.replace(spec, crop_padding=4))
    assert "data.crop_padding=4 in [0, 4)" in problem and "are 6x4;" in problem


def test_computed_normalisation_is_that_of_all_training_images_of_the_source(spec_of, npz_arrays):
    npz_arrays["x_train"][..., 1] //= 3
    spec = spec_of(npz_arrays, mean=(), std=(), train_fraction=0.5, validation_fraction=0.2)
    assert data.check(spec) == []
    mean, std = data.normalisation(data.read(spec), spec)
    scaled = npz_arrays["x_train"] / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std((0, 1, 2)), rtol=1e-12)
    given = dataclasses.replace(spec, std=(0.1, 0.2))
    assert data.normalisation(data.read(spec), given) == (mean, (0.1, 0.2))


def test_a_channel_of_one_value_is_not_divided_by_zero(spec_of, npz_arrays):
    npz_arrays["x_train"][..., 0] = 51
    spec = spec_of(npz_arrays, mean=(), std=())
    mean, std = data.normalisation(data.read(spec), spec)
    assert (mean[0], std[0]) == (0.2, 1.0) and std[1] < 1


def test_compressed_and_fortran_ordered_archives_are_read(make_spec, npz_arrays, tmp_path):
    arrays = npz_arrays | {"x_train": np.asfortranarray(npz_arrays["x_train"])}
    np.savez_compressed(tmp_path / "small.npz", **arrays)
    spec = make_spec(f"npz:{tmp_path}/small.npz", num_classes=3, mean=(0.5,) * 2, std=(0.25,) * 2)
    images = data.load(spec)["train"]["images"]
    assert images.flags.c_contiguous and np.array_equal(images, npz_arrays["x_train"])


def test_a_missing_file_says_where_it_was_looked_for(make_spec, tmp_path):
    problem = only_problem(make_spec(f"npz:{tmp_path}/none.npz"))
    assert "to name a file that exists. Check the path: there is no /" in problem


@pytest.mark.parametrize("prefix", ["npz", "folder"])
@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", "a\0b", "x" * 5000])
def test_paths_that_cannot_be_looked_at_are_problems(make_spec, prefix, path):
    assert f"data.name='{prefix}:" in only_problem(make_spec(f"{prefix}:{path}"))


def test_no_path_is_refused(make_spec):
    assert "to be npz:PATH" in only_problem(make_spec("npz:"))


@pytest.mark.parametrize("damage", ["text", "npy", "cut"])
def test_a_file_that_is_no_archive_is_refused(make_spec, npz_arrays, tmp_path, damage):
    path = tmp_path / "broken.npz"
    if damage == "text":
        path.write_text("x_train = 1, 2, 3")
    elif damage == "npy":
        with path.open("wb") as file:
            np.save(file, npz_arrays["x_train"])
    else:
        np.savez(path, **npz_arrays)
        path.write_bytes(path.read_bytes()[:-100])
    assert "to be a NumPy .npz archive (" in only_problem(make_spec(f"npz:{path}"))


def test_flipped_image_bytes_are_found_when_they_are_read(spec_of, npz_arrays, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 2), np.uint8)
    spec = spec_of(npz_arrays | {"x_train": images, "x_test": images[:9]})
    path = tmp_path / "images.npz"
    content = bytearray(path.read_bytes())
    content[content.find(images[-1].tobytes()) + 5] ^= 1
    path.write_bytes(bytes(content))
    assert data.check(spec) == []
    with pytest.raises(InvalidInput, match="undamaged archive .*CRC"):
        data.load(spec)


def test_an_array_shorter_than_its_header_says_is_refused(make_spec, npz_arrays, tmp_path):
    path = tmp_path / "short.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for key, array in npz_arrays.items():
            member = io.BytesIO()
            np.save(member, array)
            content = member.getvalue()
            archive.writestr(f"{key}.npy", content[:-1] if key == "x_test" else content)
    assert "x_test is cut off: 647 bytes" in only_problem(make_spec(f"npz:{path}"))


def test_all_missing_keys_are_named_at_once(spec_of, npz_arrays):
    del npz_arrays["x_test"], npz_arrays["y_train"]
    assert "to hold y_train, x_test too" in only_problem(spec_of(npz_arrays))


@pytest.mark.parametrize(
    ("key", "array", "message"),
    [
        (
            "x_train",
            np.zeros((30, 6, 6, 2), np.float32),
            "'float32' to be uint8. Store pixels as 0 .. 255",
        ),
        (
            "x_train",
            np.zeros((30, 6, 6), np.uint8),
            "no axis empty. Grey images",
        ),
        ("x_test", np.zeros((9, 6, 5, 2), np.uint8), "uint8[6, 5, 2]"),
        ("x_train", np.zeros((0, 6, 6, 2), np.uint8), "to be [N, H, W, C], no axis empty"),
        ("y_train", np.arange(30) % 3 / 1.0, "'float64' to be an integer type"),
        ("y_train", np.zeros((30, 3), np.int32), "(30, 3) to be [N]"),
        ("y_train", np.arange(29) % 3, "lengths of"),
        ("y_train", np.arange(30) % 5, "=[3, 4] in [0, 3). Set data.num_classes"),
        ("y_test", np.arange(9) - 1, "=[-1, 3, '...', 7] in [0, 3)"),
        ("y_test", np.full(9, 2**63, np.uint64), "in [0, 3)"),
        ("x_test", np.zeros((9, 4, 4, 2), np.uint8), "uint8[4, 4, 2]"),
        ("y_train", np.array([{"class": 1}] * 30), "'object' to be an integer type"),
    ],
)
def test_a_wrong_array_is_refused_by_name(spec_of, npz_arrays, key, array, message):
    problem = only_problem(spec_of(npz_arrays | {key: array}))
    named = "'images'" if "to be as one of train" in problem else key
    assert message in problem and named in problem


def test_every_problem_of_an_archive_is_reported(spec_of, npz_arrays):
    wrong = {"x_train": np.zeros((30, 6, 0)), "y_train": np.arange(30), "y_test": np.zeros(9)}
    problems = data.check(spec_of(npz_arrays | wrong, data_dir="somewhere"))
    wanted = ("data.data_dir", "uint8", "[N, H, W, C]", "in [0, 3)", "integer")
    for problem, text in zip(problems, wanted, strict=True):
        assert text in problem


@pytest.mark.parametrize("num_classes", [0, 1, -2])
def test_images_without_classes_are_refused(spec_of, npz_arrays, num_classes):
    spec = spec_of(npz_arrays, num_classes=num_classes)
    assert f"data.num_classes={num_classes} to be at least 2 for images" in only_problem(spec)


def test_a_class_without_images_is_legal(spec_of, npz_arrays):
    spec = spec_of(npz_arrays, num_classes=4, validation_fraction=0.2)
    assert data.check(spec) == []
    assert len(data.load(spec)["train"]["labels"]) == 24


def test_a_class_that_is_tested_but_not_trained_on_is_refused_and_the_reverse_is_not(
    spec_of, npz_arrays
):
    absent = npz_arrays | {"y_train": np.arange(30) % 2}
    problem = only_problem(spec_of(absent))
    assert "classes of test without training examples of npz:" in problem
    assert "=[2] to be none. What is tested is also trained on" in problem
    untested = npz_arrays | {"y_test": np.arange(9) % 2}
    assert data.check(spec_of(untested)) == []


def test_a_class_of_one_image_is_named_where_validation_leaves_it_none_and_else_taken(
    spec_of, npz_arrays
):
    alone = npz_arrays | {"y_train": np.append(np.arange(29) % 2, 2)}
    problem = only_problem(spec_of(alone, validation_fraction=0.2))
    assert "data.validation_fraction=0.2 to give every class an example" in problem
    assert "It gives 6 of 30 examples, none of [2]." in problem
    assert "none with data.validation_fraction=0" in problem
    assert data.check(spec_of(alone)) == []


def test_a_single_class_is_refused(spec_of, npz_arrays):
    alone = {"y_train": np.zeros(30, int), "y_test": np.zeros(9, int)}
    assert "=[0] to be at least two" in only_problem(spec_of(npz_arrays | alone))


def test_images_that_are_all_the_same_are_refused_when_they_are_read(spec_of, npz_arrays):
    spec = spec_of(npz_arrays | {"x_train": np.full((30, 6, 6, 2), 7, np.uint8)})
    with pytest.raises(InvalidInput, match="='30 equal ones' to differ"):
        data.read(spec)
    one = np.full((30, 6, 6, 2), 7, np.uint8)
    one[3, 0, 0, 0] = 8
    assert data.read(spec_of(npz_arrays | {"x_train": one})).train["images"].max() == 8


@pytest.mark.parametrize("std", [1e-6, 1e6])
def test_normalised_images_and_their_squares_are_finite_at_both_ends_of_std(std):
    images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
    normal = data.normalize(jnp.asarray(images), (0.5,), (std,))
    assert np.isfinite(normal**2).all() and (normal[1] > normal[0]).all()


def test_a_header_is_read_as_a_literal_or_refused(make_spec, npz_arrays, tmp_path):
    path, mark = tmp_path / "data.npz", tmp_path / "mark"
    for text in (f"open({str(mark)!r}, 'w')", "(" * 5000, "[]"):
        np.savez(path, **{name: npz_arrays[name] for name in npz_arrays if name != "y_train"})
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("y_train.npy", content)
        (problem,) = data.check(make_spec(f"npz:{path}", num_classes=3))
        assert "to be a NumPy .npz archive" in problem
        assert not mark.exists()
