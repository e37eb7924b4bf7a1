import numpy as np
import pytest
import regime_workdirs as workdirs

from earlyprune_jax.analysis import results
from earlyprune_jax.analysis.regimes import transition
from earlyprune_jax.run_records import RunRecords


def trunks(tmp_path, *curves):
    for seed, records in enumerate(curves):
        workdirs.write_trunks(tmp_path, [seed], records)
    return results.read_runs(tmp_path)


def curve(losses, accuracies=None):
    accuracies = accuracies if accuracies is not None else [1 - loss / 10 for loss in losses]
    return [
        {"epoch": epoch, "train_loss": loss, "train_accuracy": accuracy}
        for epoch, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True), 1)
    ]


def test_a_step_schedule_has_converged_a_few_epochs_after_its_drop(tmp_path):
    found = transition.convergence_of(trunks(tmp_path, workdirs.step_trunk()))
    # The drop is at 80; .16 * .85^(e - 80) reaches 5 % of the total change, 1.67, at 80 + 4.
    assert found is not None and found.epoch == 85 and found.settled


def test_exponential_decay_has_converged_where_a_twentieth_is_left():
    epochs = np.arange(1, 101)
    # .9^(e - 1) <= .05 first at e - 1 = 29.
    assert transition.converged_at(epochs.tolist(), (0.9 ** (epochs - 1.0)).tolist()) == 30


def test_a_single_spike_does_not_move_convergence_nor_does_noise():
    losses = [2.0, 1.5] + [0.5] * 18 + [0.1] * 20
    assert transition.converged_at(range(1, 41), losses) == 21
    assert transition.converged_at(range(1, 41), [*losses[:30], 9.0, *losses[31:]]) == 21
    noise = np.random.default_rng(0).normal(0, 0.01, 40)
    assert transition.converged_at(range(1, 41), (np.array(losses) + noise).tolist()) == 21


def test_a_lasting_rise_puts_convergence_off():
    losses = [2.0] + [0.1] * 20 + [0.5] * 10 + [0.1] * 9
    assert transition.converged_at(range(1, 41), losses) == 32


def test_values_that_are_not_finite_are_passed_over():
    assert transition.converged_at(range(1, 11), [10.0, None, np.nan, 3.0] + [0.0] * 6) == 5
    assert transition.converged_at([1, 2], [None, np.nan]) is None


def test_an_explosion_of_the_first_loss_does_not_hide_that_accuracy_still_rises(tmp_path):
    losses = [1000.0] + [1.0] * 9 + [0.1] * 10
    found = transition.convergence_of(
        trunks(tmp_path, curve(losses, [0.1] + [0.5] * 9 + [0.9] * 10))
    )
    assert transition.converged_at(range(1, 21), losses) == 2
    assert found is not None and found.epoch == 11


@pytest.mark.parametrize(("drops", "epoch"), [((5,), 6), ((5, 7), 8), ((5, 9, 7), 8)])
def test_the_setting_converges_at_the_median_seed(tmp_path, drops, epoch):
    made = [curve([1.0] * drop + [0.1] * (20 - drop)) for drop in drops]
    found = transition.convergence_of(trunks(tmp_path, *made))
    assert found is not None and found.epoch == epoch
    assert found.by_seed == {seed: drop + 1 for seed, drop in enumerate(drops)}


def test_training_that_never_comes_to_rest_is_said_not_to_have_settled(tmp_path):
    found = transition.convergence_of(trunks(tmp_path, curve(np.linspace(2, 0, 40).tolist())))
    assert found is not None and found.epoch >= 37 and not found.settled


def test_a_trunk_that_has_not_reached_its_end_says_nothing(tmp_path):
    workdirs.write_trunks(tmp_path, [0], workdirs.step_trunk())
    run = RunRecords(next(tmp_path.glob("trunks/*")))
    run.forget_result()
    run.truncate(100)
    run.finish({"status": "finished"})
    assert transition.convergence_of(results.read_runs(tmp_path)) is None
