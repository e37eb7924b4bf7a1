"""How wide batches of forks are: asked for, measured once, narrowed; and no engine built in
vain."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from members import SETTING, fork

from configs import digits
from earlyprune_jax import config
from earlyprune_jax.grid import forks_per_batch
from earlyprune_jax.grid.forks_per_batch import ForksPerBatch
from earlyprune_jax.spec import Setting
from earlyprune_jax.training import execution

SPEC = config.resolve(digits.get_config())


@pytest.fixture
def spec():
    return SPEC


def no_engine(setting):
    raise RuntimeError("no memory for this network")


def on_devices(num_devices) -> Any:
    mesh = SimpleNamespace(size=num_devices)
    return lambda setting: SimpleNamespace(spec=SPEC, fork_mesh=mesh)


@pytest.fixture
def batches(monkeypatch):
    monkeypatch.setattr(execution, "batches_forks", lambda backend: True)


def test_no_engine_is_built_where_the_width_is_known(spec, tmp_path):
    assert ForksPerBatch(spec, no_engine, asked=0, most=9, folder=tmp_path).of(fork(2)) == 1
    assert ForksPerBatch(spec, no_engine, asked=4, most=9, folder=tmp_path).of(fork(2)) == 4


def test_forks_whose_engine_cannot_be_built_are_left_to_train_alone_and_say_so(
    spec, tmp_path, batches
):
    assert ForksPerBatch(spec, no_engine, asked=0, most=9, folder=tmp_path).of(fork(2)) == 1


def test_a_batch_that_did_not_fit_is_halved_for_its_network_only(spec, tmp_path):
    widths = ForksPerBatch(spec, on_devices(1), asked=8, most=9, folder=tmp_path)
    assert widths.narrow(fork(2)) == 4
    assert widths.of(fork(3)) == 4
    other, same = Setting((("model.name", "resnet14"),)), Setting((("fork.length", 3),))
    assert widths.of(dataclasses.replace(fork(2), setting=other)) == 8
    assert widths.of(dataclasses.replace(fork(2), setting=same)) == 4
    assert [widths.narrow(fork(2)) for _ in range(3)] == [2, 1, 1]


def test_a_narrowed_batch_has_equally_many_forks_on_every_device_or_is_one(spec, tmp_path):
    widths = ForksPerBatch(spec, on_devices(4), asked=24, most=99, folder=tmp_path)
    assert [widths.narrow(fork(2)) for _ in range(3)] == [12, 4, 1]


def test_a_width_as_wide_as_the_grid_was_is_measured_again_when_the_grid_has_grown(
    tmp_path, monkeypatch, batches
):
    asked = []
    monkeypatch.setattr(
        forks_per_batch,
        "measure_width",
        lambda engine, most: (asked.append(most), min(most, 64))[1],
    )
    engine = on_devices(1)(SETTING)
    found = [
        forks_per_batch.measured_width(engine, most, tmp_path / "w")  # type: ignore[arg-type]
        for most in (2, 2, 100, 50, 1000)
    ]
    assert found == [2, 2, 64, 50, 64]
    assert asked == [2, 100]
