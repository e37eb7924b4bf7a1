import functools
import http.server
import threading
from typing import Any

import numpy as np
import pytest
from synthetic import write_official

from earlyprune_jax.data import load
from earlyprune_jax.data import prepare as preparing
from earlyprune_jax.data.cifar import find
from earlyprune_jax.data.prepare import main, parse_records, prepare
from earlyprune_jax.data.prepare import official as published
from earlyprune_jax.validate import InvalidInput


@pytest.fixture
def official(tmp_path):
    return write_official(tmp_path, "cifar10", 2)


@pytest.fixture
def served(official, monkeypatch):
    """The archive's facts with the URL of a real server on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(official.file.parent)
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{official.file.name}"
    yield official.archive._replace(url=url)
    server.shutdown()
    server.server_close()


def test_urls_and_checksums_are_the_published_ones():
    assert published("cifar10") == (
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    )
    assert published("cifar100") == (
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    )


def test_records_are_parsed_plane_by_plane():
    red, green, blue = (np.full((32, 32), value, np.uint8) for value in (1, 2, 3))
    red[4, 9] = 77
    record = bytes([5, 6]) + red.tobytes() + green.tobytes() + blue.tobytes()
    labels, images = parse_records(record * 2, 2)
    assert labels.tolist() == [[5, 6], [5, 6]]
    assert images[1, 4, 9].tolist() == [77, 2, 3] and images[1, 9, 4].tolist() == [1, 2, 3]


def test_prepared_directory_is_read_by_plain_tfds_with_the_official_class_names(cifar100_prepared):
    import tensorflow_datasets as tfds

    source: Any = tfds.data_source(
        "cifar100",
        data_dir=cifar100_prepared.data_dir,
        split="test",
        download=False,
        decoders={"image": tfds.decode.SkipDecoding()},
    )
    labels = cifar100_prepared.official.labels["test"]
    by_id = {record["id"].decode(): (record["coarse_label"], record["label"]) for record in source}
    assert by_id == {
        f"test_{i:05d}": pair
        for i, pair in enumerate(zip(labels["coarse_label"], labels["label"], strict=True))
    }
    assert source.dataset_info.features["label"].names[:2] == ["label_0", "label_1"]


def test_preparing_again_leaves_the_files_alone(cifar10_prepared):
    before = {file: file.stat().st_mtime_ns for file in cifar10_prepared.path.iterdir()}
    assert prepare("cifar10", cifar10_prepared.data_dir) == cifar10_prepared.path
    assert {file: file.stat().st_mtime_ns for file in cifar10_prepared.path.iterdir()} == before


def test_nothing_but_the_data_set_is_left_in_the_directory(cifar10_prepared):
    assert [file.name for file in cifar10_prepared.data_dir.iterdir()] == ["cifar10"]
    assert [file.name for file in (cifar10_prepared.data_dir / "cifar10").iterdir()] == ["3.0.2"]


def test_an_interrupted_preparation_leaves_nothing_behind(official, tmp_path, monkeypatch):
    from PIL import Image

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare("cifar10", tmp_path / "tfds", archive_file=official.file, archive=official.archive)
    assert not any(path.is_file() for path in (tmp_path / "tfds").rglob("*"))
    assert find("cifar10", tmp_path / "tfds") is None


def test_a_changed_archive_is_refused_before_anything_is_written(official, tmp_path, capsys):
    code = main(["cifar10", str(tmp_path / "tfds"), "--archive", str(official.file)])
    message = capsys.readouterr().err
    assert code == 2 and not (tmp_path / "tfds").exists()
    assert (
        f"to have SHA-256 {published('cifar10').sha256}" in message
        and published("cifar10").url in message
    )


def test_a_missing_archive_is_refused(tmp_path, capsys):
    assert main(["cifar100", str(tmp_path / "tfds"), "--archive", str(tmp_path / "none")]) == 2
    assert "to be a readable file (No such file or directory)" in capsys.readouterr().err


def test_an_unknown_name_is_refused_with_the_choices(tmp_path):
    with pytest.raises(InvalidInput, match="one of cifar10, cifar100. Did you mean 'cifar10'"):
        prepare("cifar1O", tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["mnist", str(tmp_path)])
    assert caught.value.code == 2


def test_a_directory_that_is_a_file_is_refused(official, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InvalidInput, match="to be a directory that can be written"):
        prepare("cifar10", tmp_path / "taken", archive_file=official.file, archive=official.archive)


def test_the_archive_is_downloaded_verified_and_prepared(served, official, tmp_path, capsys):
    path = prepare("cifar10", tmp_path / "tfds", archive=served)
    assert find("cifar10", tmp_path / "tfds") is not None
    assert [file.name for file in (tmp_path / "tfds").iterdir()] == ["cifar10"]
    assert path.parent.name == "cifar10"
    assert f"Downloading {served.url}" in capsys.readouterr().err


def test_loading_from_an_empty_default_directory_fetches_and_prepares_it(
    served, official, make_spec, tmp_path, monkeypatch
):
    monkeypatch.setattr(preparing, "official", lambda name: served)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))
    loaded = load(make_spec("cifar10"))
    assert np.array_equal(loaded["train"]["images"], official.images["train"])
    assert np.array_equal(loaded["test"]["labels"], official.labels["test"]["label"])


def test_a_download_that_differs_leaves_nothing(served, tmp_path):
    wrong = served._replace(sha256="0" * 64)
    with pytest.raises(InvalidInput, match=f"to have SHA-256 {'0' * 64}"):
        prepare("cifar10", tmp_path / "tfds", archive=wrong)
    assert not (tmp_path / "tfds").exists()


@pytest.mark.parametrize("case", ["refused", "absent"])
def test_an_unreachable_archive_says_how_to_bring_it(served, tmp_path, case):
    url = "http://127.0.0.1:9/a.tar.gz" if case == "refused" else f"{served.url}.none"
    with pytest.raises(
        InvalidInput, match=r"prepare cifar10 DIR --archive FILE`, then set data.data_dir=DIR"
    ):
        prepare("cifar10", tmp_path / "tfds", archive=served._replace(url=url))
    assert not (tmp_path / "tfds").exists()
