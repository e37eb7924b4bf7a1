import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image
from synthetic import sizes
from tensorflow_datasets.proto import tf_example_pb2

from earlyprune_jax import data
from earlyprune_jax.data import prepared
from earlyprune_jax.validate import InvalidInput

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def copied(cifar10_prepared, tmp_path):
    """A prepared directory that a test may damage: (data_dir, directory of the data set)."""
    shutil.copytree(cifar10_prepared.data_dir, tmp_path / "tfds")
    return tmp_path / "tfds", tmp_path / "tfds" / "cifar10" / "3.0.2"


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def change(path: Path, key: str, value: object) -> None:
    """Writes the training records anew, with all sums right, and one value of two of them
    changed."""
    shard = next(path.glob("*train*"))
    reader = ArrayRecordReader(str(shard))
    example_class = vars(tf_example_pb2)["Example"]  # protobuf makes it where no checker sees it
    examples = [example_class.FromString(record) for record in reader.read_all()]
    reader.close()
    for example in examples[:2]:
        feature = example.features.feature[key]
        values = feature.int64_list.value if isinstance(value, int) else feature.bytes_list.value
        values[:] = [value]
    writer = ArrayRecordWriter(str(shard), "group_size:1")
    for example in examples:
        writer.write(example.SerializeToString())
    writer.close()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_images_and_fine_labels_come_back_bit_exact_in_the_official_order(name, request, make_spec):
    prepared = request.getfixturevalue(f"{name}_prepared")
    loaded = data.read(make_spec(name, data_dir=str(prepared.data_dir)))
    for split, found in (("train", loaded.train), ("test", loaded.test)):
        assert np.array_equal(found["images"], prepared.official.images[split])
        assert np.array_equal(found["labels"], prepared.official.labels[split]["label"])
    assert loaded.class_names is not None
    assert loaded.class_names[:2] == ("label_0", "label_1")


def test_the_default_directory_is_that_of_tfds(cifar10_prepared, make_spec, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(cifar10_prepared.data_dir))
    assert data.check(make_spec("cifar10")) == []
    assert sizes(make_spec("cifar10"))["train"] == 60
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert prepared.data_dir_of(make_spec("cifar10")) == Path.home() / "tensorflow_datasets"


def test_an_empty_default_directory_counts_as_the_official_set_and_is_not_created(
    make_spec, monkeypatch, tmp_path
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "new"))
    spec = make_spec("cifar100", validation_fraction=0.1, train_fraction=0.05)
    assert data.check(spec) == []
    assert sizes(spec) == {"train": 2250, "validation": 5000, "test": 10_000}
    assert data.shapes(spec)["train"]["images"].shape == (2250, 32, 32, 3)
    assert not (tmp_path / "new").exists()


def test_no_network_to_fill_the_default_directory_says_what_to_do(make_spec, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "new"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(InvalidInput, match="prepare cifar10 DIR --archive FILE"):
        data.load(make_spec("cifar10"))


def test_a_missing_directory_says_how_to_get_it(make_spec, tmp_path):
    missing = str(tmp_path / "none")
    (problem,) = data.check(make_spec("cifar10", data_dir=missing))
    assert f"data.data_dir='{missing}' to hold cifar10 in" in problem
    assert f"python -m earlyprune_jax.data.prepare cifar10 {missing} [--archive FILE]" in problem


def test_a_directory_with_another_data_set_says_how_to_add_this_one(make_spec, cifar10_prepared):
    (problem,) = data.check(make_spec("cifar100", data_dir=str(cifar10_prepared.data_dir)))
    assert "to hold cifar100 in" in problem and "prepare cifar100" in problem


def test_a_directory_in_another_format_is_refused(make_spec, copied):
    data_dir, path = copied
    info = json.loads((path / "dataset_info.json").read_text())
    (path / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    (problem,) = data.check(make_spec("cifar10", data_dir=str(data_dir)))
    assert "to hold cifar10 as array_record, not tfrecord" in problem
    assert "python -m earlyprune_jax.data.prepare cifar10 DIR" in problem


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "dataset_info.json").write_text("{"), "readable dataset_info.json"),
        (lambda path: (path / "dataset_info.json").unlink(), "a finished cifar10"),
        (lambda path: os.mkfifo(path / "features.json.pipe"), "features.json.pipe is a pipe"),
        (
            lambda path: next(path.glob("*train*")).unlink(),
            "cifar10-train.array_record-00000-of-00001 is missing",
        ),
        (
            lambda path: rewrite(path / "dataset_info.json", '"60"', '"54"'),
            "train.array_record-00000-of-00001, of 54 records by dataset_info.json, holds 60",
        ),
        (
            lambda path: change(path, "id", b"test_00001"),
            "id 'test_00001', of another split or twice",
        ),
        (lambda path: change(path, "label", 57), "label 57 of train_000"),
        (
            lambda path: change(path, "id", b"train_00001"),
            "id 'train_00001', of another split or twice",
        ),
    ],
)
def test_an_incomplete_directory_is_refused(make_spec, copied, damage, message):
    data_dir, path = copied
    damage(path)
    (problem,) = data.check(make_spec("cifar10", data_dir=str(data_dir)))
    assert message in problem


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.new("RGB", (1, 1)), r"uint8\[1, 1, 3\]"),
        (Image.new("L", (32, 32)), r"uint8\[32, 32\]"),
        (None, "UnidentifiedImageError"),
    ],
)
def test_an_image_that_is_none_of_these_is_found(make_spec, copied, image, words):
    data_dir, path = copied
    file = io.BytesIO(b"no image")
    if image:
        image.save(file, "PNG")
    change(path, "image", file.getvalue())
    with pytest.raises(InvalidInput, match=f"cifar10-train.array_record-.*{words}"):
        data.load(make_spec("cifar10", data_dir=str(data_dir)))


def test_a_single_flipped_bit_is_found_and_the_remedy_named(make_spec, copied):
    data_dir, path = copied
    shard = next(path.glob("*train*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(bytes(content))
    with pytest.raises(
        InvalidInput, match=r"to hold readable train records of cifar10 .* and prepare it again"
    ):
        data.load(make_spec("cifar10", data_dir=str(data_dir)))


def test_all_problems_of_a_spec_are_reported_at_once(make_spec, tmp_path):
    spec = make_spec(
        "cifar10",
        data_dir=str(tmp_path / "none"),
        num_classes=100,
        mean=(0.5,),
        std=(1.0,) * 4,
        crop_padding=32,
    )
    problems = data.check(spec)
    keys = [problem.split("=")[0].removeprefix("Expected ") for problem in problems]
    assert keys == [
        "data.data_dir",
        "data.num_classes",
        "data.mean",
        "data.std",
        "data.crop_padding",
    ]


def test_fractions_are_checked_against_the_labels_of_a_small_directory(make_spec, cifar10_prepared):
    spec = make_spec("cifar10", data_dir=str(cifar10_prepared.data_dir), train_fraction=0.1)
    (problem,) = data.check(spec)
    assert (
        "data.train_fraction=0.1 to give every class an example. It gives 6 of 60 examples"
        in problem
    )


def test_reading_is_silent(cifar10_prepared):
    code = (
        "from synthetic import make_spec; from earlyprune_jax import data; "
        f"data.load(make_spec('cifar10', data_dir={str(cifar10_prepared.data_dir)!r}))"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}; {code}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.slow
def test_the_real_cifar10_comes_back_with_the_published_digests(make_spec, tmp_path):
    if not (SHARED / "prepare_data.py").is_file():
        pytest.skip("there is no shared/data/prepare_data.py beside the repository")
    command = [
        sys.executable,
        str(SHARED / "prepare_data.py"),
        "tfds",
        str(tmp_path),
        "--set",
        "cifar10",
    ]
    subprocess.run(command, check=True, capture_output=True)
    loaded = data.read(make_spec("cifar10", data_dir=str(tmp_path)))
    arrays = {
        "x_train": loaded.train["images"],
        "x_test": loaded.test["images"],
        "y_train": loaded.train["labels"].astype(np.uint8),
        "y_test": loaded.test["labels"].astype(np.uint8),
    }
    assert {
        name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()
    } == {
        "x_train": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "x_test": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        "y_train": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        "y_test": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    }
