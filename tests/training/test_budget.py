"""A budget is kept, cheap signals come first, and what was decided stays."""

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from members import engine_of
from tiny import tiny_experiment

from earlyprune_jax import config
from earlyprune_jax.training import budget, measurement
from earlyprune_jax.training import engine as engines

COSTS = st.lists(st.tuples(st.floats(1e-4, 1e3), st.integers(1, 500)), min_size=1, max_size=7)


def spent(cost: tuple[float, int], chosen: tuple[int, int]) -> float:
    """Seconds an epoch."""
    num_batches, every = chosen
    return cost[0] * num_batches / cost[1] / every


@given(COSTS, st.floats(1e-3, 1e3))
@example([(1.0, 1), (1.0, 1), (1.0, 1), (1.0, 1), (201.0, 1)], 1e-3)
def test_the_parts_measured_never_cost_more_than_is_allowed(drawn, allowed):
    costs = {str(place): pair for place, pair in enumerate(drawn)}
    chosen = budget.divide(costs, allowed)
    # What is measured once in a run has been measured as seldom as can be.
    repeated = [name for name in costs if chosen[name][1] < budget.ONCE]
    assert sum(spent(costs[name], chosen[name]) for name in repeated) <= allowed * (1 + 1e-6)
    for name, (num_batches, every) in chosen.items():
        assert 1 <= num_batches <= costs[name][1]
        assert every >= 1
        assert every == 1 or num_batches == 1


@given(COSTS, st.floats(1e-3, 1e3))
def test_what_fits_an_equal_share_is_measured_whole(drawn, allowed):
    costs = {str(place): pair for place, pair in enumerate(drawn)}
    chosen = budget.divide(costs, allowed)
    for name, cost in costs.items():
        if cost[0] <= allowed / len(costs):
            assert chosen[name] == (cost[1], 1)


def test_a_dear_signal_gets_what_cheap_ones_leave():
    costs = {"a": (1.0, 1), "b": (2.0, 4), "c": (100.0, 50)}
    # c's share is 13 - 1 - 2 = 10 seconds: 5 batches of 2.
    assert budget.divide(costs, 13.0) == {"a": (1, 1), "b": (4, 1), "c": (5, 1)}


def test_nothing_allowed_means_once_a_run():
    assert budget.divide({"a": (1.0, 1)}, 0.0)["a"][1] >= 10**6


@pytest.fixture(scope="module")
def limited(tiny_npz):
    changes = [
        ("signals.max_overhead_fraction", "1e-4"),
        ("signals.names", "kl_uniform,weight_change"),
    ]
    spec = config.resolve(tiny_experiment(tiny_npz), changes)
    return engine_of(spec)


def test_what_is_decided_is_within_the_budget_and_what_a_file_says_is_obeyed(limited):
    tools = measurement.instruments(limited)
    decision = json.loads(json.dumps(budget.decide(limited, tools)))
    kl_uniform, weight_change = budget.limited(limited, tools, decision)
    # Four orders of magnitude below an epoch of training: one batch, seldom.
    assert kl_uniform.probe is not None
    assert set(kl_uniform.probe) < set(limited.probe)
    assert len(kl_uniform.probe) == 8
    assert kl_uniform.every_epochs > 1
    assert weight_change.probe is None
    assert decision["num_examples"] == 12
    assert decision["signals"]["kl_uniform"]["seconds_in_full"] > 0
    decision["signals"]["kl_uniform"]["every_epochs"] = 7
    again, _ = budget.limited(limited, tools, decision)
    np.testing.assert_array_equal(again.probe, kl_uniform.probe)
    assert again.every_epochs == 7


def test_a_smaller_probe_is_a_subset_of_a_larger_one():
    large, small = (set(engines.probe_indices(100, count, 5)) for count in (40, 10))
    assert small < large
    assert np.all(np.diff(engines.probe_indices(100, 10, 5)) > 0)
