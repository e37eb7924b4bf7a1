"""Forks can be pruned by every criterion, each computed on the engine's own examples, and by the
user's."""

import csv
import io
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import engine_of
from tiny import linear_experiment

from earlyprune_jax import config, experiment
from earlyprune_jax.training import criteria
from earlyprune_jax.training import engine as engines
from earlyprune_jax.validate import InvalidInput

pytestmark = pytest.mark.usefixtures("empty_figures")


def built(tiny_config, *overrides):
    spec = config.resolve(tiny_config, list(overrides))
    engine = engine_of(spec)
    return engine, engine.new_state(0)


def examples_of(engine):
    """What forks' criteria look at, as a study would have it."""
    spec = engine.spec
    numbers = engines.probe_indices(
        engine.num_train, spec.pruning.num_examples, spec.data.split_seed
    )
    return numbers, criteria.Examples(engine, numbers, spec.pruning.batch_size)


def scored(engine, state, criterion):
    return criteria.scores(engine, state, criterion, examples_of(engine)[1])


def explicit_gradients(engine, state, labels_of):
    """One gradient of log p(label|x) for every image looked at, by a plain loop."""
    split, gradients = engine.splits["train"], []

    def log_prob(params, images, label):
        batch = {"images": images, "labels": label}
        return engine.task.probe(state.model_state).log_probs(params, batch)[0, label[0]]

    gradient = jax.jit(jax.grad(log_prob))
    for index in examples_of(engine)[0]:
        batch = engine.task.batching.take("", split, jnp.asarray([index]), None, None)
        row = engine.task.probe(state.model_state).log_probs(state.params, batch)[0]
        for label, weight in labels_of(row, int(batch["labels"][0])):
            gradients.append(
                (weight, gradient(state.params, batch["images"], jnp.asarray([label])))
            )
    return gradients


def test_fisher_uses_its_own_labels_and_all_examples_it_may_look_at(tiny_config):
    engine, state = built(tiny_config, ("pruning.num_examples", "7"), ("pruning.batch_size", "3"))
    found = scored(engine, state, "fisher(estimator='exact')")
    every = explicit_gradients(
        engine, state, lambda row, _: list(enumerate(np.exp(np.asarray(row))))
    )
    kernel = sum(weight * np.asarray(g["stem_conv"]["kernel"]) ** 2 for weight, g in every) / 7
    np.testing.assert_allclose(found["stem_conv"]["kernel"], kernel, rtol=2e-4, atol=1e-9)
    saliency = scored(engine, state, "obd(estimator='exact')")["stem_conv"]["kernel"]
    weights = np.asarray(state.params["stem_conv"]["kernel"])
    np.testing.assert_allclose(saliency, weights**2 * kernel / 2, rtol=2e-4, atol=1e-9)


def test_true_labels_give_the_empirical_fisher_and_taylor_the_mean_gradient(tiny_config):
    engine, state = built(tiny_config, ("pruning.num_examples", "5"), ("pruning.batch_size", "2"))
    every = explicit_gradients(engine, state, lambda _, label: [(label, 1.0)])
    gradients = np.stack([np.asarray(g["classifier"]["kernel"]) for _, g in every])
    fisher = scored(engine, state, "fisher(estimator='empirical')")["classifier"]["kernel"]
    np.testing.assert_allclose(fisher, (gradients**2).mean(0), rtol=2e-4, atol=1e-9)
    taylor = scored(engine, state, "taylor")["classifier"]["kernel"]
    weights = np.asarray(state.params["classifier"]["kernel"])
    np.testing.assert_allclose(taylor, abs(weights * gradients.mean(0)), rtol=2e-4, atol=1e-8)


def test_random_scores_depend_on_the_trunks_key_and_step_only(tiny_config):
    engine, state = built(tiny_config)
    first, again = (scored(engine, state, "random")["stem_conv"]["kernel"] for _ in range(2))
    other = scored(engine, engine.new_state(1), "random")["stem_conv"]["kernel"]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.filterwarnings("ignore::earlyprune_jax.pruning.PruningWarning")
def test_a_grid_runs_over_criteria_that_need_data(tiny_config, tmp_path):
    names, scopes = ["random", "fisher", "grasp"], ["erk"]
    spec = config.resolve(
        tiny_config,
        [
            ("pruning.criteria", ",".join(names)),
            ("pruning.scopes", ",".join(scopes)),
            ("fork.epochs", "1"),
            ("fork.retraining", "paper_a"),
            ("train.num_epochs", "2"),
        ],
    )
    experiment.run(spec, tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    forks = [row for row in rows if row["kind"] == "fork"]
    assert {(row["criterion"], row["scope"]) for row in forks} == set(
        itertools.product(names, scopes)
    )
    assert {row["status"] for row in forks} == {"finished"}
    assert {row["achieved_sparsity"] for row in forks} == {forks[0]["achieved_sparsity"]}


@pytest.fixture(scope="module")
def linear(tiny_npz):
    """Softmax regression whose kernel is no longer symmetric about 0, and its kernel."""
    spec = config.resolve(
        linear_experiment(tiny_npz), [("pruning.num_examples", "12"), ("pruning.batch_size", "4")]
    )
    engine = engine_of(spec)
    state, _ = engine.train_epoch(
        engine.new_state(0), np.full(engine.steps_per_epoch, 0.1, np.float32)
    )
    return engine, state, np.asarray(state.params["classifier"]["kernel"])


def mask_of(engine, state, criterion, scope, sparsity=0.5):
    return criteria.make_mask(
        engine,
        state,
        criterion=criterion,
        scope=scope,
        sparsity=sparsity,
        prunable=engine.prunable("dense_kernels"),
        examples=examples_of(engine)[1],
    )


def test_an_own_criterion_decides_which_weights_stay(linear):
    engine, state, kernel = linear
    mask = mask_of(engine, state, "own_code:signed", "global", 0.25)
    expected = np.ones(kernel.size, bool)
    expected[np.argsort(kernel.ravel(), kind="stable")[: kernel.size // 4]] = False
    np.testing.assert_array_equal(np.asarray(mask["classifier"]["kernel"]).ravel(), expected)
    assert np.all(mask["classifier"]["bias"])


def test_an_own_criterion_sees_the_examples_in_batches_and_the_tasks_loss(linear):
    engine, state, kernel = linear
    numbers, examples = examples_of(engine)
    assert [len(batch["labels"]) for batch in examples] == [4, 4, 4]
    split = engine.splits["train"]
    pixels = (np.asarray(split["images"])[numbers] / 255 - 0.3) / 0.38
    rows, labels = pixels.reshape(len(numbers), -1), np.asarray(split["labels"])[numbers]
    logits = rows @ kernel + np.asarray(state.params["classifier"]["bias"])
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    wanted = np.abs(rows.T @ (probabilities - np.eye(2)[labels])) / len(numbers)
    found = criteria.scores(engine, state, "own_code:gradient", examples)["classifier"]["kernel"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_an_own_scope_decides_how_many_go_where(linear):
    engine, state, kernel = linear
    mask = mask_of(engine, state, "magnitude", "own_code:first")
    expected = np.arange(kernel.size) >= round(0.5 * kernel.size)
    np.testing.assert_array_equal(np.asarray(mask["classifier"]["kernel"]).ravel(), expected)


@pytest.mark.parametrize(
    ("criterion", "scope", "words"),
    [
        ("own_code:kernel_only", "global", "to give scores of the structure and the shapes"),
        ("own_code:flattened", "global", "to give scores of the structure and the shapes"),
        ("magnitude", "own_code:first(extra=1)", "to remove 64 prunable weights"),
        ("magnitude", "own_code:biases_too", "and 1 that are not prunable"),
        ("magnitude", "own_code:numbers", "pruning.scopes: own_code:numbers"),
    ],
)
def test_what_is_no_score_or_no_mask_of_that_count_is_refused_by_name(
    linear, criterion, scope, words
):
    engine, state, _ = linear
    with pytest.raises(InvalidInput) as caught:
        mask_of(engine, state, criterion, scope)
    assert words in str(caught.value)
    assert "own_code" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("pruning.criteria", "own_code:signd", "Did you mean 'signed'?"),
        ("pruning.criteria", "fisher(estimator='exct')", "Did you mean 'exact'?"),
        ("pruning.criteria", "fisher(labels='exact')", "unexpected keyword argument"),
        ("pruning.scopes", "own_code:first(more=1)", "unexpected keyword argument"),
        ("pruning.scopes", "globl", "Did you mean 'global'?"),
        ("signals.mask_criterion", "magnitud", "signals.mask_criterion"),
        ("signals.mask_scope", "no_such_module:f", "to name a module that exists"),
    ],
)
def test_a_criterion_or_scope_that_there_is_not_is_refused_with_the_config(
    tiny_npz, key, text, words
):
    with pytest.raises(InvalidInput) as caught:
        config.resolve(linear_experiment(tiny_npz), [(key, text)])
    assert words in str(caught.value)
