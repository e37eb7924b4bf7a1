"""A budget is kept, cheap signals come first, and what was decided stays."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from members import engine_of
from tiny import tiny_experiment

from earlyprune_jax import config
from earlyprune_jax.training import budget, measurement
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training.budget import Cost
from earlyprune_jax.validate import InvalidInput

COSTS = st.lists(st.tuples(st.floats(1e-4, 1e3), st.integers(1, 500)), min_size=1, max_size=7)


def spent(cost: Cost, chosen: tuple[int, int]) -> float:
    """Seconds an epoch."""
    num_batches, every = chosen
    return cost.seconds * num_batches / cost.num_batches / every


@given(COSTS, st.floats(1e-3, 1e3))
def test_the_parts_measured_never_cost_more_than_is_allowed(drawn, allowed):
    costs = {str(place): Cost(*pair) for place, pair in enumerate(drawn)}
    chosen = budget.divide(costs, allowed)
    assert sum(spent(costs[name], chosen[name]) for name in costs) <= allowed * (1 + 1e-6)
    for name, (num_batches, every) in chosen.items():
        assert 1 <= num_batches <= costs[name].num_batches
        assert every >= 1
        assert every == 1 or num_batches == 1


@given(COSTS, st.floats(1e-3, 1e3))
def test_what_fits_an_equal_share_is_measured_whole(drawn, allowed):
    costs = {str(place): Cost(*pair) for place, pair in enumerate(drawn)}
    chosen = budget.divide(costs, allowed)
    for name, cost in costs.items():
        if cost.seconds <= allowed / len(costs):
            assert chosen[name] == (cost.num_batches, 1)


def test_a_dear_signal_gets_what_cheap_ones_leave():
    costs = {"a": Cost(1.0, 1), "b": Cost(2.0, 4), "c": Cost(100.0, 50)}
    # c's share is 13 - 1 - 2 = 10 seconds: 5 batches of 2.
    assert budget.divide(costs, 13.0) == {"a": (1, 1), "b": (4, 1), "c": (5, 1)}


def test_nothing_allowed_means_once_a_run():
    assert budget.divide({"a": Cost(1.0, 1)}, 0.0)["a"][1] >= 10**6


@pytest.fixture(scope="module")
def limited(tiny_npz):
    changes = [
        ("signals.max_overhead_fraction", "1e-4"),
        ("signals.names", "kl_uniform,weight_change"),
    ]
    spec = config.resolve(tiny_experiment(tiny_npz), changes)
    return engine_of(spec)


def test_the_decision_is_written_down_and_obeyed_afterwards(limited, tmp_path):
    tools = measurement.instruments(limited)
    kl_uniform, weight_change = budget.limited(limited, tools, tmp_path / "budget.json")
    # Four orders of magnitude below an epoch of training: one batch, seldom.
    assert kl_uniform.probe is not None
    assert set(kl_uniform.probe) < set(limited.probe)
    assert len(kl_uniform.probe) == 8
    assert kl_uniform.every_epochs > 1
    assert weight_change.probe is None
    written = json.loads((tmp_path / "budget.json").read_text())
    assert written["num_examples"] == 12
    assert written["signals"]["kl_uniform"]["seconds_in_full"] > 0
    written["signals"]["kl_uniform"]["every_epochs"] = 7
    (tmp_path / "budget.json").write_text(json.dumps(written))
    again, _ = budget.limited(limited, tools, tmp_path / "budget.json")
    np.testing.assert_array_equal(again.probe, kl_uniform.probe)
    assert again.every_epochs == 7


def test_without_a_limit_everything_is_measured_and_nothing_is_written(tiny_npz, tmp_path):
    spec = config.resolve(tiny_experiment(tiny_npz), [("signals.names", "kl_uniform")])
    engine = engine_of(spec)
    assert spec.signals.max_overhead_fraction == 0
    tools = measurement.instruments(engine)
    (kl_uniform,) = budget.limited(engine, tools, tmp_path / "budget.json")
    assert kl_uniform.probe is engine.probe
    assert kl_uniform.every_epochs == 1
    assert budget.sentences(engine, tools) == []
    assert list(tmp_path.iterdir()) == []


def test_a_smaller_probe_is_a_subset_of_a_larger_one():
    large, small = (set(engines.probe_indices(100, count, 5)) for count in (40, 10))
    assert small < large
    assert np.all(np.diff(engines.probe_indices(100, 10, 5)) > 0)


KL = {"num_examples": 8, "every_epochs": 1}


@pytest.mark.parametrize(
    "damage",
    [
        "{}",
        '{"signals": {"kl_uniform": {"num_examples": 8, "every_epochs": 1}}}',
        json.dumps(
            {
                "signals": {
                    "kl_uniform": {**KL, "num_examples": 99},
                    "weight_change": {"every_epochs": 1},
                }
            }
        ),
        json.dumps({"signals": {"kl_uniform": KL, "weight_change": {"every_epochs": 0}}}),
        "{",
    ],
)
def test_a_damaged_decision_is_named_and_asks_for_no_more_than_itself(limited, tmp_path, damage):
    (tmp_path / "budget.json").write_text(damage)
    with pytest.raises(InvalidInput, match=r"budget.json.*Delete this file alone"):
        budget.limited(limited, measurement.instruments(limited), tmp_path / "budget.json")


def test_what_is_left_out_is_said_with_the_runs_in_which_it_is_too_much(limited):
    kl_uniform, weight_change = measurement.instruments(limited)
    fewer = dataclasses.replace(kl_uniform, probe=limited.probe[:8])
    seldom = dataclasses.replace(weight_change, every_epochs=4)
    assert budget.sentences(limited, (fewer, weight_change, seldom)) == [
        "signals.max_overhead_fraction=0.0001: kl_uniform looks at 8 examples after every epoch.",
        "signals.max_overhead_fraction=0.0001: weight_change is measured after one epoch in 4. In "
        "runs of fewer than 17 epochs that is too seldom for a peak or a trigger: raise the "
        "fraction, or measure fewer signals.",
    ]
