import dataclasses
import os

import numpy as np
import pytest
from PIL import Image
from synthetic import only_problem

from earlyprune_jax import data
from earlyprune_jax.data import arrays
from earlyprune_jax.validate import InvalidInput

RNG = np.random.default_rng(0)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def pixels_of(*shape):
    return RNG.integers(0, 256, shape, np.uint8)


@pytest.fixture
def root(tmp_path):
    """Two classes of 6x4 colour images, four and two of each, without losses."""
    for split, num in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            for i in range(num):
                save(tmp_path / split / name / f"{i}.png", pixels_of(6, 4, 3))
    return tmp_path


@pytest.fixture
def spec(make_spec, root):
    return make_spec(f"folder:{root}", num_classes=2, mean=(), std=())


def test_images_come_back_exactly_by_class_and_file_name(root, spec):
    wanted = save(root / "train" / "dog" / "10.BMP", pixels_of(6, 4, 3))
    save(root / "train" / "dog" / "11.webp", wanted, lossless=True)
    assert data.check(spec) == []
    source = data.read(spec)
    assert source.class_names == ("cat", "dog")
    assert source.train["labels"].tolist() == [0] * 4 + [1] * 6 and source.test[
        "labels"
    ].tolist() == [
        0,
        0,
        1,
        1,
    ]
    # By name: dog's are 0.png, 1.png, 10.BMP, 11.webp, 2.png, 3.png.
    assert np.array_equal(source.train["images"][6], wanted) and np.array_equal(
        source.train["images"][7], wanted
    )
    with Image.open(root / "test" / "dog" / "1.png") as image:
        assert np.array_equal(source.test["images"][3], np.asarray(image))
    assert data.shapes(spec)["train"]["images"].shape == (10, 6, 4, 3)
    assert source.train["images"].dtype == np.uint8 and source.train["labels"].dtype == np.int32


def test_only_headers_are_read_to_check(spec, monkeypatch):
    def refuse(*_):
        raise AssertionError("decoded")

    arrays._shape.cache_clear()
    monkeypatch.setattr(Image.Image, "convert", refuse)
    assert data.check(spec) == []
    monkeypatch.setattr(Image, "open", refuse)
    assert data.shapes(spec)["test"]["labels"].shape == (4,), "headers are remembered"


def test_a_changed_file_is_looked_at_again(root, spec):
    assert data.check(spec) == []
    save(root / "train" / "cat" / "0.png", pixels_of(7, 4, 3))
    assert "cat/0.png=(7, 4, 3) to be (6, 4, 3)" in only_problem(spec)


FRAME = Image.effect_noise((4, 6), 99).convert("RGB")


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_images_have_one_channel(make_spec, tmp_path, mode):
    grey = pixels_of(5, 5) // 128 * 255
    for split in ("train", "test"):
        for name, pixels in (("a", 255 - grey), ("b", grey)):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(pixels).convert(mode).save(tmp_path / split / name / "0.png")
    spec = make_spec(f"folder:{tmp_path}", num_classes=2)
    assert data.check(spec) == []
    assert np.array_equal(data.read(spec).train["images"][1], grey[..., np.newaxis])


def test_palettes_transparency_and_other_modes_are_read_as_rgb(root, spec):
    colours = np.repeat(RNG.integers(0, 256, (6, 1, 3), np.uint8), 4, axis=1)
    opaque = np.concatenate([colours, np.full((6, 4, 1), 255, np.uint8)], axis=-1)
    save(root / "train" / "cat" / "0.png", opaque)
    indexed = Image.fromarray(colours).quantize(16)
    indexed.save(root / "train" / "cat" / "1.png", transparency=bytes([0, 100, 255]))
    source = data.read(spec)
    assert np.array_equal(source.train["images"][0], colours)
    assert np.array_equal(source.train["images"][1], np.asarray(indexed.convert("RGB")))


def test_hidden_names_and_loose_files_are_ignored(root, spec):
    before = data.read(spec).digest()
    (root / "train" / ".cache").mkdir()
    (root / "train" / "cat" / ".DS_Store").write_text("")
    (root / "train" / "README.txt").write_text("")
    (root / "validation").mkdir()
    assert data.read(spec).digest() == before


def test_splits_are_stratified(spec):
    loaded = data.load(dataclasses.replace(spec, validation_fraction=0.25, train_fraction=0.67))
    assert {name: np.bincount(rows["labels"]).tolist() for name, rows in loaded.items()} == {
        "train": [2, 2],
        "validation": [1, 1],
        "test": [2, 2],
    }


def test_a_home_directory_is_expanded(root, spec, monkeypatch):
    monkeypatch.setenv("HOME", str(root.parent))
    home = dataclasses.replace(spec, name=f"folder:~/{root.name}")
    assert data.read(home).digest() == data.read(spec).digest()
    monkeypatch.chdir(root)
    assert data.check(dataclasses.replace(spec, name="folder:.")) == []


def remove(path):
    for file in sorted(path.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    path.rmdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: remove(root / "test"), "to hold a folder test. Wanted: PATH/train/CLASS"),
        (lambda root: remove(root / "train"), "to hold a folder train. Wanted"),
        (lambda root: remove(root), "to name a folder that exists"),
        (
            lambda root: save(root / "train" / "emu" / "0.png", pixels_of(6, 4, 3)),
            "train=['emu'] to have folders",
        ),
        (
            lambda root: save(root / "test" / "emu" / "0.png", pixels_of(6, 4, 3)),
            "test=['emu'] to have folders",
        ),
        (
            lambda root: [(root / s / "emu").mkdir() for s in ("train",)],
            "train=['emu'] to have folders",
        ),
        (
            lambda root: save(root / "test" / "dog" / "9.png", pixels_of(6, 5, 3)),
            "dog/9.png=(6, 5, 3) to be (6, 4, 3)",
        ),
        (
            lambda root: save(root / "test" / "dog" / "9.png", pixels_of(6, 4)),
            "dog/9.png=(6, 4, 1) to be (6, 4, 3)",
        ),
        (
            lambda root: (root / "train" / "cat" / "9.png").write_text("no"),
            "cat/9.png' to be a readable image",
        ),
        (
            lambda root: (root / "train" / "cat" / "9.png").write_bytes(b""),
            "cat/9.png' to be a readable image",
        ),
        (
            lambda root: (root / "train" / "cat" / "9.png").mkdir(),
            "cat/9.png' to be a readable image",
        ),
        (
            lambda root: (root / "train" / "cat" / "9.tif").write_text(""),
            "cat/9.tif' to be a readable image",
        ),
        (
            lambda root: (root / "train" / "cat" / "more").mkdir(),
            "cat/more' to be a readable image",
        ),
        (
            lambda root: Image.fromarray(pixels_of(6, 4).astype(np.uint16)).save(
                root / "train" / "cat" / "9.png"
            ),
            "mode I;16, more than 8 bits a channel",
        ),
        (lambda root: os.mkfifo(root / "train" / "cat" / "9.png"), "(ValueError: no file)"),
        (
            lambda root: Image.new("RGB", (4, 6)).save(
                root / "train" / "cat" / "9.gif", save_all=True, append_images=[FRAME]
            ),
            "(ValueError: 2 frames)",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(root, spec, damage, message):
    damage(root)
    problems = data.check(spec)
    assert message in problems[0]
    with pytest.raises(InvalidInput):
        data.read(spec)


def test_every_problem_of_a_folder_is_reported(root, spec):
    for split in ("train", "test"):
        (root / split / "emu").mkdir()
    (root / "train" / "fox").mkdir()
    (root / "train" / "cat" / "list.csv").write_text("")
    (root / "test" / "cat" / "0.png").write_text("")
    problems = data.check(dataclasses.replace(spec, data_dir="somewhere"))
    wanted = (
        "data.data_dir='somewhere' to be ''",
        "train=['fox'] to have folders in",
        "number of images in",
        "number of images in",
        "number of images in",
        "list.csv",
        "test/cat/0.png",
    )
    assert len(problems) == len(wanted)
    for problem, text in zip(problems, wanted, strict=True):
        assert text in problem


def test_one_class_is_refused(root, spec):
    for split in ("train", "test"):
        remove(root / split / "dog")
    assert all("to be at least two" in problem for problem in data.check(spec))


def test_a_wrong_number_of_classes_and_wrong_shape_keys_are_refused(spec):
    wrong = dataclasses.replace(spec, num_classes=3, mean=(0.5,), std=(0.1, 0.2), crop_padding=4)
    problems = data.check(wrong)
    wanted = (
        "data.num_classes=3 to be 2",
        "data.mean",
        "data.std",
        "data.crop_padding=4 in [0, 4)",
    )
    for problem, text in zip(problems, wanted, strict=True):
        assert text in problem


def test_many_problems_of_a_kind_are_shortened(root, spec):
    for i in range(30):
        (root / "train" / "cat" / f"x{i}.png").write_text("")
    problems = data.check(spec)
    assert len(problems) == 13 and "18 more" in problems[-1]


def test_a_cut_off_file_is_found_when_it_is_decoded_and_named(root, spec):
    path = root / "train" / "dog" / "2.png"
    save(path, pixels_of(6, 4, 3))
    path.write_bytes(path.read_bytes()[:-40])
    assert data.check(spec) == []
    with pytest.raises(InvalidInput, match=r"dog/2\.png' to be a readable image \(OSError"):
        data.read(spec)


def test_no_path_is_refused(make_spec):
    assert "to be folder:PATH" in only_problem(make_spec("folder:"))
