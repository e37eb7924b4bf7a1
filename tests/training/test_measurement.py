"""Which epochs are measured, what they are compared with, and what an interruption changes:
nothing."""

import jax
import numpy as np
import pytest
from members import engine_of
from tiny import linear_experiment, tiny_experiment

from earlyprune_jax import config, tasks
from earlyprune_jax.pruning import allocate, scores
from earlyprune_jax.training import measurement
from earlyprune_jax.training.measurement import Instrument, Watcher


def remembering(lookback, every: int) -> Instrument:
    """Concludes which epochs it was shown beside the current one; states are their own epochs."""
    return Instrument(
        "memory",
        ("now", "past"),
        observe=lambda state, epoch, probe: (state, epoch),
        lookback=lookback,
        conclude=lambda current, earlier: {"now": current, "past": dict(earlier)},
        every_epochs=every,
    )


def watch(tool: Instrument, asked: list[int]) -> Watcher:
    def state_after(epoch):
        asked.append(epoch)
        return epoch

    return Watcher((tool,), state_after)


def test_what_a_trace_by_layers_leaves_to_vmap_is_said(tiny_npz):
    scaled, found = [("model.name", "own_code:Scaled")], []
    for changes in ([], scaled, [*scaled, ("signals.fisher_method", "vmap")]):
        changes = [("signals.names", "fisher_trace"), *changes]
        spec = config.resolve(linear_experiment(tiny_npz), changes)
        found.append(measurement.left_to_vmap(spec, tasks.abstract(spec)))
    (note,) = found[1]
    assert note.startswith("the root (scale) by vmap: no call of a supported layer")
    assert found == [(), (note,), ()]


def two_before(epoch, every):
    return tuple(past for past in (epoch - every, epoch - 2 * every) if past >= 1)


@pytest.mark.parametrize("every", [1, 3])
def test_a_watcher_compares_with_the_epochs_asked_for_without_reading_what_it_has_seen(every):
    asked: list[int] = []
    watcher = watch(remembering(two_before, every), asked)
    for epoch in range(1, 11):
        numbers, seconds = watcher.measure(epoch, epoch)  # type: ignore[arg-type]
        if (epoch - 1) % every:
            assert numbers == {"now": None, "past": None}
            assert seconds == {}
        else:
            assert numbers["now"] == (epoch, epoch)
            assert numbers["past"] == {past: (past, past) for past in two_before(epoch, every)}
            assert seconds["memory"] >= 0
    assert asked == []


@pytest.mark.parametrize("every", [1, 2])
def test_a_watcher_that_starts_late_reads_the_states_it_has_missed_and_concludes_the_same(every):
    asked: list[int] = []
    through, late = (
        watch(remembering(two_before, every), []),
        watch(remembering(two_before, every), asked),
    )
    entries = {epoch: through.measure(epoch, epoch)[0] for epoch in range(1, 8)}  # type: ignore[arg-type]
    for epoch in (5, 6, 7):
        assert late.measure(epoch, epoch)[0] == entries[epoch]  # type: ignore[arg-type]
    assert asked == [5 - every, 5 - 2 * every]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_checkpoints_stay_as_long_as_a_later_measurement_compares_with_them(every):
    tool = remembering(two_before, every)
    for epoch in range(1, 15):
        later = [e for e in range(epoch + 1, 40) if (e - 1) % every == 0]
        needed = {past for e in later for past in two_before(e, every) if past <= epoch}
        next_one = {past for past in two_before(later[0], every) if past <= epoch}
        kept = measurement.epochs_needed_after(epoch, (tool,))
        assert next_one <= kept <= needed


@pytest.fixture(scope="module")
def run_of_six_epochs(tiny_npz):
    """The engine, and the state after each of 6 epochs, on the host."""
    names = ("mask_distance", "weight_change", "performance")
    spec = config.resolve(
        tiny_experiment(tiny_npz), [("signals.names", ",".join(names)), ("train.num_epochs", "6")]
    )
    engine = engine_of(spec)
    current, states = engine.new_state(0), {}
    for epoch in range(1, 7):
        current, _ = engine.train_epoch(current, np.full(engine.steps_per_epoch, 0.05, np.float32))
        states[epoch] = jax.device_get(current)
    return engine, states


@pytest.fixture(scope="module")
def measured(run_of_six_epochs):
    engine, states = run_of_six_epochs
    watcher = Watcher(measurement.instruments(engine), states.__getitem__)
    return [watcher.measure(states[epoch], epoch)[0] for epoch in states]


def test_mask_distance_is_the_largest_hamming_distance_to_the_four_masks_before(
    run_of_six_epochs, measured
):
    engine, states = run_of_six_epochs
    masks = {
        epoch: allocate(
            scores.magnitude(state.params), engine.prunable(""), sparsity=0.5, scope="global"
        )
        for epoch, state in states.items()
    }
    num_prunable = sum(
        leaf.size
        for leaf, take in zip(
            jax.tree.leaves(masks[1]), jax.tree.leaves(engine.prunable("")), strict=True
        )
        if take
    )

    def differing(first, second):
        pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
        return sum(int(np.sum(np.asarray(a) != np.asarray(b))) for a, b in pairs) / num_prunable

    assert [entry["mask_distance"] for entry in measured[:4]] == [None] * 4
    for epoch in (5, 6):
        expected = max(differing(masks[epoch], masks[past]) for past in range(epoch - 4, epoch))
        assert measured[epoch - 1]["mask_distance"] == pytest.approx(expected)
        assert 0 < expected < 1


def test_weight_change_is_the_relative_distance_of_the_prunable_weights_from_epoch_1(
    run_of_six_epochs, measured
):
    engine, states = run_of_six_epochs

    def kernels(state):
        leaves = zip(
            jax.tree.leaves(state.params), jax.tree.leaves(engine.prunable("")), strict=True
        )
        return np.concatenate([np.ravel(leaf) for leaf, take in leaves if take])

    reference = kernels(states[1])
    for epoch, entry in enumerate(measured, 1):
        expected = np.linalg.norm(kernels(states[epoch]) - reference) / np.linalg.norm(reference)
        assert entry["weight_change"] == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert measured[0]["weight_change"] == 0


def test_the_declared_columns_are_the_measured_ones(run_of_six_epochs, measured):
    engine, _ = run_of_six_epochs
    singles = [name for name, value in measured[-1].items() if not isinstance(value, dict)]
    assert tuple(singles) == measurement.columns(
        engine.spec, engine.task, engine.spec.signals.names
    )
