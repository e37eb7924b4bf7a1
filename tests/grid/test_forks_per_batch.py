"""How wide batches of forks are: as asked, or as the device likes it, and narrowed by network."""

import dataclasses

import jax
import pytest
from members import fork

from configs import digits
from earlyprune_jax import config
from earlyprune_jax.grid.scheduler import FORKS_PER_DEVICE, Widths
from earlyprune_jax.grid.study import Study
from earlyprune_jax.spec import Setting

SPEC = config.resolve(digits.get_config())


@pytest.mark.parametrize(
    ("backend", "num_replicates", "asked", "width"),
    [
        ("cpu", 1, 0, 1),
        ("cpu", 1, 4, 4),
        ("gpu", 1, 0, 27),
        ("gpu", 2, 0, FORKS_PER_DEVICE),
        ("gpu", 2, 40, 40),
        ("gpu", 2, 1, 1),
    ],
)
def test_a_batch_is_as_wide_as_asked_or_as_there_are_forks(
    tmp_path, monkeypatch, backend, num_replicates, asked, width
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    spec = SPEC.replace({"fork.num_replicates": num_replicates})
    assert Widths(Study(spec, tmp_path), asked).of(fork(2)) == width


def test_a_batch_is_narrowed_for_its_network_only(tmp_path):
    widths = Widths(Study(SPEC, tmp_path), 8)
    widths.narrow(fork(2), 4)
    assert widths.of(fork(3)) == 4
    other, same = Setting((("model.name", "resnet14"),)), Setting((("fork.length", 3),))
    assert widths.of(dataclasses.replace(fork(2), setting=other)) == 8
    assert widths.of(dataclasses.replace(fork(2), setting=same)) == 4
