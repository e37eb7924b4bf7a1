import dataclasses
import functools
import http.server
import io
import tarfile
import threading
from typing import Any

import numpy as np
import pytest
from synthetic import write_official

from earlyprune_jax.data import load
from earlyprune_jax.data.cifar import find
from earlyprune_jax.data.prepare import ARCHIVES, main, parse_records, prepare, read_archive
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
    yield dataclasses.replace(official.facts, url=url)
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_urls_and_checksums_are_those_that_tfds_carries(name):
    import tensorflow_datasets as tfds

    stock: Any = tfds.builder_cls(name)
    ((url, info),) = stock.url_infos.items()
    assert (ARCHIVES[name].url, ARCHIVES[name].sha256) == (url, info.checksum)


def test_records_are_parsed_plane_by_plane():
    red, green, blue = (np.full((32, 32), value, np.uint8) for value in (1, 2, 3))
    red[4, 9] = 77
    record = bytes([5, 6]) + red.tobytes() + green.tobytes() + blue.tobytes()
    labels, images = parse_records(record * 2, 2)
    assert labels.tolist() == [[5, 6], [5, 6]]
    assert images[1, 4, 9].tolist() == [77, 2, 3] and images[1, 9, 4].tolist() == [1, 2, 3]


def test_half_a_record_is_refused(official, tmp_path):
    broken = tmp_path / "broken.tar.gz"
    with tarfile.open(broken, "w:gz") as tar:
        info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        info.size = 100
        tar.addfile(info, io.BytesIO(bytes(100)))
    with pytest.raises(InvalidInput, match="to hold the binary version of cifar10"):
        read_archive(official.facts, broken)


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
        prepare("cifar10", tmp_path / "tfds", archive_file=official.file, archive=official.facts)
    assert not (tmp_path / "tfds").exists()


def test_a_changed_archive_is_refused_before_anything_is_written(official, tmp_path, capsys):
    code = main(["cifar10", str(tmp_path / "tfds"), "--archive", str(official.file)])
    message = capsys.readouterr().err
    assert code == 2 and not (tmp_path / "tfds").exists()
    assert (
        f"to have SHA-256 {ARCHIVES['cifar10'].sha256}" in message
        and ARCHIVES["cifar10"].url in message
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
        prepare("cifar10", tmp_path / "taken", archive_file=official.file, archive=official.facts)


def test_the_archive_is_downloaded_verified_and_prepared(served, official, tmp_path, capsys):
    path = prepare("cifar10", tmp_path / "tfds", archive=served)
    assert find("cifar10", tmp_path / "tfds") is not None
    assert [file.name for file in (tmp_path / "tfds").iterdir()] == ["cifar10"]
    assert path.parent.name == "cifar10"
    assert f"Downloading {served.url}" in capsys.readouterr().err


def test_loading_from_an_empty_default_directory_fetches_and_prepares_it(
    served, official, make_spec, tmp_path, monkeypatch
):
    monkeypatch.setitem(ARCHIVES, "cifar10", served)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))
    loaded = load(make_spec("cifar10"))
    assert np.array_equal(loaded["train"]["images"], official.images["train"])
    assert np.array_equal(loaded["test"]["labels"], official.labels["test"]["label"])


def test_a_download_that_differs_leaves_nothing(served, tmp_path):
    wrong = dataclasses.replace(served, sha256="0" * 64)
    with pytest.raises(InvalidInput, match=f"to have SHA-256 {'0' * 64}"):
        prepare("cifar10", tmp_path / "tfds", archive=wrong)
    assert not (tmp_path / "tfds").exists()


@pytest.mark.parametrize("case", ["refused", "absent"])
def test_an_unreachable_archive_says_how_to_bring_it(served, tmp_path, case):
    url = "http://127.0.0.1:9/a.tar.gz" if case == "refused" else f"{served.url}.none"
    with pytest.raises(
        InvalidInput, match=r"prepare cifar10 DIR --archive FILE`, then set data.data_dir=DIR"
    ):
        prepare("cifar10", tmp_path / "tfds", archive=dataclasses.replace(served, url=url))
    assert not (tmp_path / "tfds").exists()
