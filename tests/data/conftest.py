"""Fixtures of the tests of `earlyprune_jax.data`."""

from collections.abc import Callable

import numpy as np
import pytest
import synthetic

from earlyprune_jax.spec_sections import DataSpec


@pytest.fixture(name="make_spec")
def make_spec_fixture() -> Callable[..., DataSpec]:
    return synthetic.make_spec


@pytest.fixture(scope="session")
def cifar10_prepared(tmp_path_factory) -> synthetic.Prepared:
    return synthetic.write_prepared(tmp_path_factory.mktemp("cifar10"), "cifar10", 12)


@pytest.fixture(scope="session")
def cifar100_prepared(tmp_path_factory) -> synthetic.Prepared:
    return synthetic.write_prepared(tmp_path_factory.mktemp("cifar100"), "cifar100", 120)


@pytest.fixture
def npz_arrays() -> dict[str, np.ndarray]:
    """Valid arrays of a three-class, two-channel data set."""
    rng = np.random.default_rng(1)
    return {
        "x_train": rng.integers(0, 256, (30, 6, 6, 2), np.uint8),
        "y_train": np.arange(30) % 3,
        "x_test": rng.integers(0, 256, (9, 6, 6, 2), np.uint8),
        "y_test": np.arange(9, dtype=np.uint8) % 3,
    }
