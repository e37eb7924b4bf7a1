import pytest

from configs import digits
from earlyprune_jax import config, workspace
from earlyprune_jax.grid.options import Options
from earlyprune_jax.validate import InvalidInput


@pytest.mark.parametrize(
    "name", ["regimes.csv", "regime_cells.csv", "regime_alignment.csv", "regime_baselines.csv"]
)
def test_tables_of_regimes_without_a_config_are_foreign(tmp_path, name):
    (tmp_path / name).write_text("precious")
    (problem,) = workspace.check(tmp_path, config.resolve(digits.get_config()))
    assert f"{name} without a config.json" in problem


def test_a_config_of_another_program_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"foo": 1}')
    (problem,) = workspace.check(tmp_path, config.resolve(digits.get_config()))
    assert "no config.json of another program" in problem


def test_of_two_studies_that_begin_in_a_directory_at_once_the_second_is_refused(tmp_path):
    first, second = (
        config.resolve(digits.get_config(), [("optim.momentum", value)]) for value in ("0.9", "0.5")
    )
    about = {"form": "loop", "data_digest": "0", "how": Options()}
    assert workspace.check(tmp_path, first) == workspace.check(tmp_path, second) == []
    workspace.describe(tmp_path, first, **about)
    with pytest.raises(InvalidInput, match="optim.momentum: 0.9 there, 0.5 now"):
        workspace.describe(tmp_path, second, **about)
