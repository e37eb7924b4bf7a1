import pytest

from configs import digits
from earlyprune_jax import config, workspace


@pytest.mark.parametrize(
    "name", ["regimes.csv", "regime_cells.csv", "regime_alignment.csv", "regime_baselines.csv"]
)
def test_tables_of_regimes_without_a_config_are_foreign(tmp_path, name):
    (tmp_path / name).write_text("precious")
    (problem,) = workspace.check(tmp_path, config.resolve(digits.get_config()))
    assert f"{name} without a config.json" in problem
