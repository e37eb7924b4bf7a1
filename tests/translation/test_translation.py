"""The task of translation: its sums by hand, what its engine sees, and a whole small study."""

import csv
import dataclasses
import functools
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from earlyprune_jax import data, layer_hooks, models, pruning, signals, tasks
from earlyprune_jax.data.vocabulary import END, PAD, Vocabulary
from earlyprune_jax.grid.study import Study
from earlyprune_jax.grid.trainer import SILENT, Trainer
from earlyprune_jax.models import forward
from earlyprune_jax.pruning.trees import named_leaves
from earlyprune_jax.signals import fisher_squares
from earlyprune_jax.translation import scores
from earlyprune_jax.translation.task import translation
from earlyprune_jax.validate import InvalidInput
from tests.translation.studies import NETWORK, resolved


@pytest.fixture(scope="module")
def made():
    """The task, its source, and variables of a new network."""
    spec = resolved()
    source = data.read(spec.data)
    task = tasks.build(spec, source)
    return task, source, task.init(jax.random.key(0))


def batch_of(task, split="train"):
    batches = max(task.batching.subset(split, np.arange(20), 20, 1), key=lambda b: len(b.indices))
    args = batches.kind, task.splits[split], batches.indices[0], batches.weights[0], None
    return jax.tree.map(jnp.asarray, task.batching.take(*args))


def test_the_loss_is_the_smoothed_cross_entropy_over_the_words_that_count(made):
    task, _, variables = made
    batch = batch_of(task)
    sums = task.eval_sums(variables["params"], {}, batch)
    module = models.factory(NETWORK)(source_size=90, target_size=90, dtype=jnp.float32)
    logits = np.asarray(module.apply(variables, batch, train=False), np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    loss = nll = count = 0.0
    for row, ids in enumerate(np.asarray(batch["target"])):
        for place, token in enumerate(ids):
            if token != PAD and batch["weights"][row]:
                nll -= log_probs[row, place, token]
                # Smoothed by .1: that much of the target is spread over all 90 tokens.
                target = np.full(90, 0.1 / 90)
                target[token] += 0.9
                loss -= target @ log_probs[row, place]
                count += 1
    found = {name: float(value) for name, value in sums.items()}
    assert found == pytest.approx({"loss": loss, "nll": nll, "count": count}, rel=1e-5)
    assert task.measured(found)["perplexity"] == pytest.approx(np.exp(nll / count), rel=1e-5)
    # No warning, but a number that is not finite: so a run is called diverged.
    assert task.measured({"loss": 800.0, "nll": 800.0, "count": 1.0})["perplexity"] == np.inf


def test_its_module_may_be_the_first_that_is_imported():
    subprocess.run([sys.executable, "-c", f"import {translation.__module__}"], check=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("label_smoothing=2", "label_smoothing of task.name=2 in [0, 1)."),
        ("label_smoothing='a'", "label_smoothing of task.name='a' to be a number."),
        ("beam=0", "beam of task.name=0 in [1, 1000]."),
        ("beam=2.0", "beam of task.name=2.0 to be a whole number."),
        ("beam=True", "beam of task.name=True to be a whole number."),
        ("length_penalty=-1", "length_penalty of task.name=-1 in [0, inf)."),
        ("extra_length=-1", "extra_length of task.name=-1 in [0, 10000]."),
        ("primary='blue'", "primary of task.name='blue' to be one of loss, perplexity, bleu, chrf"),
    ],
)
def test_options_are_refused_before_anything_is_trained(options, words):
    with pytest.raises(InvalidInput) as caught:
        resolved(**{"task.name": f"translation({options})"})
    assert words in str(caught.value)


def test_padding_of_batches_and_sentences_changes_nothing(made):
    task, _, variables = made
    batch = batch_of(task)
    whole = task.eval_sums(variables["params"], {}, batch)
    wider = {
        name: jnp.pad(rows, ((0, 0), (0, 3))) if rows.ndim == 2 else rows
        for name, rows in batch.items()
    }
    padded = jax.tree.map(lambda rows: jnp.concatenate([rows, rows[:2]]), wider)
    padded["weights"] = padded["weights"].at[-2:].set(0.0)
    again = task.eval_sums(variables["params"], {}, padded)
    assert all(float(again[name]) == pytest.approx(float(whole[name]), rel=1e-5) for name in whole)


def test_every_pair_is_in_one_bucket_and_no_token_is_lost(made):
    task, source, _ = made
    rows = data.split(source, resolved().data)
    for name, parts in task.splits.items():
        for side in ("source", "target"):
            held = Counter(
                (int(line), *ids[ids != PAD].tolist())
                for part in parts.values()
                for line, ids in zip(part["line"], part[side], strict=True)
            )
            given = Counter(
                (int(line), *ids[ids != PAD].tolist())
                for line, ids in zip(rows[name]["line"], rows[name][side], strict=True)
            )
            assert held == given
    assert {part["source"].dtype for part in task.splits["train"].values()} == {np.dtype(np.int32)}


def test_the_padding_of_batches_is_counted_and_said_once_data_are_read(made, tmp_path):
    task, _, _ = made
    tokens = padded = 0
    for part in task.splits["train"].values():
        sides = [part[side] != PAD for side in ("source", "target")]
        tokens += np.maximum(*(side.sum(axis=1) for side in sides)).sum()
        padded += len(part["line"]) * max(side.shape[1] for side in sides)
    (remark,) = task.remarks
    assert f"{100 * (1 - tokens / padded):.1f} % of the tokens are padding" in remark
    said: list[str] = []
    callbacks = dataclasses.replace(SILENT, say=said.append)
    Trainer(Study(resolved(), tmp_path / "run"), callbacks).read_data()
    assert said[-1] == remark


def test_the_linear_matrices_are_prunable_and_nothing_else(made):
    task, _, variables = made
    chosen = pruning.select(task.shapes()["params"], task.layers, task.known_layouts)
    # Encoder 4 + 2, decoder 8 + 2, and the output layer.
    assert sum(jax.tree.leaves(chosen)) == 6 + 10 + 1
    weights = zip(jax.tree.leaves(variables["params"]), jax.tree.leaves(chosen), strict=True)
    assert all(leaf.ndim == 2 for leaf, is_chosen in weights if is_chosen)


def traces(task, variables, batch, key, *, estimator, method):
    """tr(F) of the batch by parameter, and its standard error, as the engine measures them."""
    counted = jax.tree.map(lambda leaf: True, variables["params"])
    signal = fisher_squares.signal(estimator, method, counted, task.num_outputs, 20)
    network, params = task.network({}), variables["params"]
    add = jax.jit(
        lambda batch: signal.batch_sums(network, params, batch, key, jnp.int32(0)),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    measured = signal.numbers(jax.device_get(add(batch)), int(batch["weights"].sum()))
    return measured["fisher_trace_by_parameter"], measured["fisher_trace_standard_error"]


def gradients_squared(variables, batch, tokens):
    """Of the sum over a sentence's tokens of log p(token | source, those before), sentence by
    sentence, each without any padding; [sentences] by parameter."""
    module: Any = models.factory(NETWORK)(source_size=90, target_size=90, dtype=jnp.float32)

    def log_prob(params, source, target, tokens):
        logits = module.apply({"params": params}, {"source": source, "target": target}, train=False)
        return jnp.sum(jax.nn.log_softmax(logits)[0, jnp.arange(len(tokens)), tokens])

    gradient, found = jax.jit(jax.grad(log_prob)), []
    for source, target, drawn in zip(batch["source"], batch["target"], tokens, strict=True):
        source, drawn, target = source[source != PAD], drawn[target != PAD], target[target != PAD]
        squared = jax.tree.map(
            lambda leaf: float(jnp.sum(leaf**2)),
            gradient(variables["params"], source[None], target[None], drawn),
        )
        found.append(dict(named_leaves(squared)))
    return {name: np.array([of_one[name] for of_one in found]) for name in found[0]}


@pytest.mark.parametrize("estimator", ["sampled", "empirical"])
def test_the_trace_is_the_mean_over_sentences_of_explicit_squared_gradients(made, estimator):
    task, _, variables = made
    # Two sentences of different lengths, and a third one that fills the batch up.
    batch = jax.tree.map(lambda rows: rows[:3], batch_of(task))
    lengths = np.count_nonzero(batch["target"], axis=1).tolist()
    batch |= {"weights": jnp.array([1.0, 1.0, 0.0]), "numbers": jnp.array([4, 9, 0])}
    assert lengths[0] != lengths[1] and min(lengths[:2]) < batch["target"].shape[1]
    key = jax.random.PRNGKey(3)
    real = jax.tree.map(lambda rows: rows[:2], batch)
    tokens = real["target"]
    if estimator == "sampled":
        # A token at each place, given the reference before it, from the place of the sentence.
        logits = jax.jit(task.network({}).apply)(variables, real)
        keys = [jax.random.fold_in(key, number) for number in real["numbers"]]
        drawn = [jax.random.categorical(*pair) for pair in zip(keys, logits, strict=True)]
        tokens = jnp.stack(drawn)
        assert (tokens != real["target"]).any()
    squared = gradients_squared(variables, real, tokens)
    for method in ("vmap", "layerwise"):
        options = {"estimator": estimator, "method": method}
        found, error = traces(task, variables, batch, key, **options)
        assert found == pytest.approx({n: v.mean() for n, v in squared.items()}, rel=1e-5, abs=1e-9)
        # The deviation of two values is their distance / sqrt(2), the error that / sqrt(2).
        first, second = np.sum(list(squared.values()), axis=0)
        assert error == pytest.approx(abs(first - second) / 2, rel=1e-4)


@pytest.mark.parametrize("tied", ["none", "output", "all"])
def test_the_traces_of_all_layers_are_made_layerwise(tied):
    name = NETWORK.replace(")", f", tied={tied!r})")
    module = models.factory(name)(source_size=90, target_size=90, dtype=jnp.float32)
    batch = {side: jnp.full((2, 5), END) for side in ("source", "target")}
    variables = jax.eval_shape(lambda key: forward.init(module, key, batch), jax.random.key(0))
    apply = functools.partial(forward.evaluate, module)
    covered = layer_hooks.coverage(apply, variables, batch)
    assert not covered.notes
    assert covered.places == set(range(len(jax.tree.leaves(variables["params"]))))


def test_random_distance_is_of_the_linear_matrices_and_of_embeddings_only_where_asked(made):
    task, _, variables = made
    options = {"key": jax.random.key(0), "num_permutations": 1}
    measured = signals.random_distance(variables["params"], **options, layouts=task.known_layouts)
    assert len(measured.per_layer) == 6 + 10 + 1 and not measured.skipped
    assert all(name.endswith("/kernel") for name in measured.per_layer)
    more = signals.random_distance(
        variables["params"], **options, layers="regex:(kernel|embedding)$"
    )
    added = {"source_embedding/embedding", "target_embedding/embedding"}
    assert set(more.per_layer) - set(measured.per_layer) == added
    # The program's signal is that of the linear matrices: the same key, the same number.
    signal = signals.spectral.signal(1, 0, task.known_layouts)
    of_program = signal.measure(variables["params"], jax.random.key(0))
    assert of_program["random_distance"] == measured.value != more.value


def test_scores_of_the_references_themselves_are_perfect_and_of_others_not():
    lines = ["a small house stands there .", "two dogs run"]
    tokens = [[4, 5, 6, 7], [8, 9, 4, 5, 6]]
    assert scores.score(lines, lines, tokens, tokens) == pytest.approx(
        {"bleu": 100, "chrf": 100, "token_bleu": 100, "exact_match": 1}
    )
    # By hand: 4 of 5 words, 3 of 4 pairs, 2 of 3 triples, 1 of 2 fours, equally long.
    worse = scores.score(["x"], ["x"], [[4, 5, 6, 7, 8]], [[4, 5, 6, 7, 9]])
    assert worse["token_bleu"] == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_what_is_measured_is_the_score_of_the_decoded_lines(made):
    task, source, variables = made
    (host,) = task.host
    found = host.of(variables, "test")
    assert set(found) == {"bleu", "chrf", "token_bleu", "exact_match"}
    assert 0 <= found["bleu"] < 20 and found["exact_match"] == 0.0
    # Where the network is right about everything, so are the scores.
    lines = source.assets["test.target"].decode().split("\n")
    vocabulary = Vocabulary(source.assets["target.model"])
    ids = [
        row[(row != PAD) & (row != END)].tolist()
        for part in task.splits["test"].values()
        for row in part["target"]
    ]
    order = [line for part in task.splits["test"].values() for line in part["line"]]
    right = [lines[line] for line in order]
    assert scores.score(vocabulary.decode(ids), right, ids, ids)["exact_match"] == 1.0


def test_only_the_task_and_its_data_know_the_words_of_translation():
    package = Path(tasks.__file__).parents[1]
    words = re.compile("bleu|chrf|perplexity|beam|sentencepiece", re.IGNORECASE)
    found = [path for path in package.rglob("*.py") if words.search(path.read_text())]
    assert found
    assert {path.relative_to(package).parts[0] for path in found} <= {
        "translation",
        "translate.py",
        "data",
    }


def test_data_that_are_no_pairs_are_refused():
    with pytest.raises(InvalidInput, match="pairs of sentences"):
        translation(
            {"train": {"images": np.zeros((2, 2))}},
            lambda **sizes: None,
            batch_size=4,
            precision="float32",
            assets={},
        )


def test_a_study_trains_prunes_measures_and_compares_translations(finished):
    with (finished / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["status"]) for row in rows] == [
        ("trunk", "finished"),
        ("fork", "finished"),
        ("fork", "finished"),
    ]
    assert all(0 <= float(row["test_bleu"]) <= 100 for row in rows)
    assert [float(row["achieved_sparsity"]) for row in rows] == pytest.approx([0, 0.5, 0.5])
    (metrics,) = finished.glob("trunks/*/metrics.jsonl")
    last = json.loads(metrics.read_text().splitlines()[-1])
    assert last["signals"].keys() >= {"fisher_trace", "kl_uniform_bits", "random_distance"}
    with (finished / "comparisons.csv").open() as file:
        (compared,) = csv.DictReader(file)
    words = sum(np.count_nonzero(part["target"]) for part in _splits(resolved())["train"].values())
    assert int(compared["num_examples"]) == words
    assert 0 < float(compared["model_similarity"]) < np.log(2)


def _splits(spec):
    return tasks.build(spec, data.read(spec.data)).splits
