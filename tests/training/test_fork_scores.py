"""Forks can be pruned by every criterion, each computed on the engine's own probe examples."""

import csv
import io
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from earlyprune_jax import config, data, experiment
from earlyprune_jax.training import engine as engines
from earlyprune_jax.training import fork_scores


def built(tiny_config, *overrides):
    spec = config.resolve(tiny_config, list(overrides))
    engine = engines.build(spec, data.load(spec.data))
    return engine, engine.new_state(0)


def explicit_gradients(engine, state, labels_of):
    """One gradient of log p(label|x) for every probe image, by a plain loop."""
    split, gradients = engine.splits["train"], []

    def log_prob(params, images, label):
        batch = {"images": images, "labels": label}
        return engine.task.network(state.batch_stats).log_probs(params, batch)[0, label[0]]

    gradient = jax.jit(jax.grad(log_prob))
    for index in engine.probe:
        batch = engine.task.batch(split, jnp.asarray([index]), None)
        row = engine.task.network(state.batch_stats).log_probs(state.params, batch)[0]
        for label, weight in labels_of(row, int(batch["labels"][0])):
            gradients.append((weight, gradient(state.params, batch["images"], jnp.asarray([label]))))
    return gradients


def test_fisher_uses_the_signals_labels_and_all_probe_examples(tiny_config):
    engine, state = built(
        tiny_config,
        ("signals.fisher_estimator", "exact"),
        ("signals.num_examples", "7"),
        ("signals.batch_size", "3"),
    )
    found = fork_scores.CRITERIA["fisher"](engine, state)
    every = explicit_gradients(engine, state, lambda row, _: list(enumerate(np.exp(np.asarray(row)))))
    kernel = sum(weight * np.asarray(g["stem_conv"]["kernel"]) ** 2 for weight, g in every) / 7
    np.testing.assert_allclose(found["stem_conv"]["kernel"], kernel, rtol=2e-4, atol=1e-9)
    saliency = fork_scores.CRITERIA["obd"](engine, state)["stem_conv"]["kernel"]
    weights = np.asarray(state.params["stem_conv"]["kernel"])
    np.testing.assert_allclose(saliency, weights**2 * kernel / 2, rtol=2e-4, atol=1e-9)


def test_true_labels_give_the_empirical_fisher_and_taylor_the_mean_gradient(tiny_config):
    engine, state = built(
        tiny_config,
        ("signals.fisher_estimator", "empirical"),
        ("signals.num_examples", "5"),
        ("signals.batch_size", "2"),
    )
    every = explicit_gradients(engine, state, lambda _, label: [(label, 1.0)])
    gradients = np.stack([np.asarray(g["classifier"]["kernel"]) for _, g in every])
    fisher = fork_scores.CRITERIA["fisher"](engine, state)["classifier"]["kernel"]
    np.testing.assert_allclose(fisher, (gradients**2).mean(0), rtol=2e-4, atol=1e-9)
    taylor = fork_scores.CRITERIA["taylor"](engine, state)["classifier"]["kernel"]
    weights = np.asarray(state.params["classifier"]["kernel"])
    np.testing.assert_allclose(taylor, abs(weights * gradients.mean(0)), rtol=2e-4, atol=1e-8)


def test_random_scores_depend_on_the_trunks_key_and_step_only(tiny_config):
    engine, state = built(tiny_config)
    first, again = (fork_scores.CRITERIA["random"](engine, state)["stem_conv"]["kernel"] for _ in range(2))
    other = fork_scores.CRITERIA["random"](engine, engine.new_state(1))["stem_conv"]["kernel"]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.filterwarnings("ignore::earlyprune_jax.pruning.PruningWarning")
def test_a_grid_runs_over_criteria_that_need_data(tiny_config, tmp_path):
    criteria, scopes = ["random", "fisher", "grasp"], ["erk"]
    spec = config.resolve(
        tiny_config,
        [
            ("pruning.criteria", ",".join(criteria)),
            ("pruning.scopes", ",".join(scopes)),
            ("fork.epochs", "1"),
            ("fork.rules", "paper_a"),
            ("train.num_epochs", "2"),
        ],
    )
    experiment.run(spec, tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    forks = [row for row in rows if row["kind"] == "fork"]
    assert {(row["criterion"], row["scope"]) for row in forks} == set(itertools.product(criteria, scopes))
    assert {row["status"] for row in forks} == {"finished"}
    assert {row["achieved_sparsity"] for row in forks} == {forks[0]["achieved_sparsity"]}
