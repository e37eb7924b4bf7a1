"""The task of translation: its sums by hand, what its engine sees, and a whole small study."""

import csv
import json
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from earlyprune_jax import data, models, pruning, tasks
from earlyprune_jax.data.vocabulary import END, PAD, Vocabulary
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


def test_the_linear_matrices_are_prunable_and_nothing_else(made):
    task, _, variables = made
    chosen = pruning.select(task.shapes()["params"], task.layers, task.known_layouts)
    # Encoder 4 + 2, decoder 8 + 2, and the output layer.
    assert sum(jax.tree.leaves(chosen)) == 6 + 10 + 1
    weights = zip(jax.tree.leaves(variables["params"]), jax.tree.leaves(chosen), strict=True)
    assert all(leaf.ndim == 2 for leaf, is_chosen in weights if is_chosen)


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
