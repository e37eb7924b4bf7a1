"""How wide batches of forks are: asked for, measured once, narrowed; and no engine built in
vain."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from members import fork

from configs import digits
from earlyprune_jax import config
from earlyprune_jax.grid.scheduler import ForksPerBatch
from earlyprune_jax.grid.study import Study
from earlyprune_jax.spec import Setting
from earlyprune_jax.training import execution

SPEC = config.resolve(digits.get_config())


def no_engine(setting):
    raise RuntimeError("no memory for this network")


def on_devices(num_devices) -> Any:
    mesh = SimpleNamespace(size=num_devices)
    return lambda setting: SimpleNamespace(spec=SPEC, fork_mesh=mesh, step_seconds=None)


def widths(workdir, engine, asked) -> ForksPerBatch:
    trainer: Any = SimpleNamespace(study=Study(SPEC, workdir), engine=engine)
    return ForksPerBatch(trainer, asked)


@pytest.fixture
def batches(monkeypatch):
    monkeypatch.setattr(execution, "batches_forks", lambda backend: True)


def test_no_engine_is_built_where_the_width_is_known(tmp_path):
    assert widths(tmp_path, no_engine, asked=0).of(fork(2)) == 1
    assert widths(tmp_path, no_engine, asked=4).of(fork(2)) == 4


def test_forks_whose_engine_cannot_be_built_are_left_to_train_alone_and_say_so(tmp_path, batches):
    assert widths(tmp_path, no_engine, asked=0).of(fork(2)) == 1


def test_a_batch_that_did_not_fit_is_halved_for_its_network_only(tmp_path):
    batches = widths(tmp_path, on_devices(1), asked=8)
    assert batches.narrow(fork(2)) == 4
    assert batches.of(fork(3)) == 4
    other, same = Setting((("model.name", "resnet14"),)), Setting((("fork.length", 3),))
    assert batches.of(dataclasses.replace(fork(2), setting=other)) == 8
    assert batches.of(dataclasses.replace(fork(2), setting=same)) == 4
    assert [batches.narrow(fork(2)) for _ in range(3)] == [2, 1, 1]


def test_a_narrowed_batch_has_equally_many_forks_on_every_device_or_is_one(tmp_path):
    batches = widths(tmp_path, on_devices(4), asked=24)
    assert [batches.narrow(fork(2)) for _ in range(3)] == [12, 4, 1]


def test_a_width_as_wide_as_the_grid_was_is_measured_again_when_the_grid_has_grown(
    tmp_path, monkeypatch, batches
):
    asked = []

    def measured_width(seconds_of, most, multiple_of):
        asked.append(most)
        return min(most, 64)

    monkeypatch.setattr(execution, "measured_width", measured_width)
    found = []
    for most in (2, 2, 100, 50, 1000):
        batches = widths(tmp_path, on_devices(1), asked=0)
        batches._most = most
        found.append(batches.of(fork(2)))
    assert found == [2, 2, 64, 50, 64]
    assert asked == [2, 100]
