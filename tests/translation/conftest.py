"""The small study, trained once."""

import pytest

from earlyprune_jax import experiment
from tests.translation.studies import resolved


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The workdir of `resolved()`: a trunk of two epochs, two forks, a comparison."""
    workdir = tmp_path_factory.mktemp("translation") / "run"
    experiment.run(resolved(), workdir)
    return workdir
