"""Greedy and beam search against plain Python over tables of log-probabilities."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from earlyprune_jax.data.vocabulary import BEGIN, END, PAD
from earlyprune_jax.models.transformer import Transformer
from earlyprune_jax.translation.decoding import search, translate
from earlyprune_jax.validate import InvalidInput

NUM_IDS = 6
GOING_ON = (1, 4, 5)
"""Tokens that are neither PAD, BEGIN nor END."""
STATES = 499
LIMITS = np.array([4, 3, 1, 4, 4, 4, 4, 4])


def table(seed=0):
    """[sentences, states, ids]: log-probabilities for each state that tokens lead to."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (len(LIMITS), STATES, NUM_IDS))
    logits[3] = 0.7 * logits[3] + 3 * np.eye(NUM_IDS)[END]  # one that likes to end
    return np.asarray(jax.nn.log_softmax(logits), np.float32)


def after(state, token):
    """A state tells all beginnings of up to four tokens apart."""
    return (state * NUM_IDS + token) % STATES


def searched(log_probs, limits, width, alpha, length=4, on_step=None):
    """Runs `search`; its cache is each row's state, so that it is wrong if rows are mixed up."""

    @jax.jit
    def run(log_probs):
        def step(ids, position, cache):
            if on_step is not None:
                jax.debug.callback(on_step, position)
            sentence, state = cache
            state = after(state, ids)
            return log_probs[sentence, state], (sentence, state)

        sentence = jnp.repeat(jnp.arange(len(limits)), width)
        cache = sentence, jnp.zeros_like(sentence)
        limit = jnp.asarray(limits)
        return search(step, cache, limit, length=length, width=width, alpha=alpha)

    ids, scores = run(log_probs)
    return np.asarray(ids).tolist(), np.asarray(scores)


def penalty(num_tokens, alpha):
    return ((5 + num_tokens) / 6) ** alpha


def padded(tokens, length=4):
    return [*tokens, *[PAD] * (length - len(tokens))]


def log_prob_of(tokens, log_probs):
    """The sum over a whole output; log_probs: [states, ids]."""
    total, state = 0.0, after(0, BEGIN)
    for token in tokens:
        total += log_probs[state, token]
        state = after(state, token)
    return total


def exhaustive(log_probs, limit, alpha):
    """The best of all outputs of at most `limit` tokens."""
    outputs = [
        (*beginning, END)
        for length in range(limit)
        for beginning in itertools.product(GOING_ON, repeat=length)
    ]
    scores = [log_prob_of(o, log_probs) / penalty(len(o), alpha) for o in outputs]
    best = int(np.argmax(scores))
    return padded(outputs[best]), scores[best]


def beam(log_probs, limit, width, alpha):
    """A beam of lists that never stops early."""
    live, ended = [(0.0, ())], []
    for length in range(1, limit + 1):
        tokens = (END,) if length == limit else (END, *GOING_ON)
        longer = [(*output, token) for _, output in live for token in tokens]
        ranked = sorted(((log_prob_of(o, log_probs), o) for o in longer), reverse=True)[:width]
        ended += [(p / penalty(length, alpha), o) for p, o in ranked if o[-1] == END]
        live = [(p, o) for p, o in ranked if o[-1] != END]
    score, output = max(ended)
    return padded(output), score


def greedy(log_probs, limit):
    tokens, state = [], after(0, BEGIN)
    while not tokens or tokens[-1] != END:
        choices = (END,) if len(tokens) + 1 == limit else (END, *GOING_ON)
        tokens.append(max(choices, key=lambda token: log_probs[state, token]))
        state = after(state, tokens[-1])
    return padded(tokens)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_beam_as_wide_as_all_beginnings_finds_the_best_of_all_outputs(alpha):
    log_probs = table()
    ids, scores = searched(log_probs, LIMITS, len(GOING_ON) ** 3, alpha)
    wanted = [exhaustive(*pair, alpha) for pair in zip(log_probs, LIMITS, strict=True)]
    assert ids == [output for output, _ in wanted]
    np.testing.assert_allclose(scores, [score for _, score in wanted], rtol=1e-5)
    assert len({output.index(END) for output in ids}) > 1


@pytest.mark.parametrize("alpha", [0.0, 2.0])
@pytest.mark.parametrize("width", [2, 3])
def test_a_narrow_beam_equals_one_of_lists_that_never_stops_early(width, alpha):
    log_probs = table(1)
    ids, scores = searched(log_probs, LIMITS, width, alpha)
    wanted = [beam(*pair, width, alpha) for pair in zip(log_probs, LIMITS, strict=True)]
    assert ids == [output for output, _ in wanted]
    np.testing.assert_allclose(scores, [score for _, score in wanted], rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_a_beam_of_one_is_greedy_whatever_the_length_penalty(alpha):
    log_probs = table(2)
    wanted = [greedy(*pair) for pair in zip(log_probs, LIMITS, strict=True)]
    assert searched(log_probs, LIMITS, 1, alpha)[0] == wanted
    assert len({output.index(END) for output in wanted}) > 1


def test_an_output_that_has_ended_wins_only_until_a_longer_one_has_a_better_score():
    # END .4 at once; or token 4 .6, then END for sure.
    log_probs = np.full((1, STATES, NUM_IDS), -np.inf, np.float32)
    first = after(0, BEGIN)
    log_probs[0, first, [END, 4]] = np.log([0.4, 0.6])
    log_probs[0, after(first, 4), END] = 0.0
    assert searched(log_probs, [4], 2, 0.0)[0] == [[4, END, PAD, PAD]]
    log_probs[0, first, [END, 4]] = np.log([0.55, 0.45])
    assert searched(log_probs, [4], 2, 0.0)[0] == [[END, PAD, PAD, PAD]]
    # The scores are log(.55) and log(.45) / (7 / 6)^alpha: from alpha = 1.88 on the longer wins.
    assert searched(log_probs, [4], 2, 1.8)[0] == [[END, PAD, PAD, PAD]]
    assert searched(log_probs, [4], 2, 2.0)[0] == [[4, END, PAD, PAD]]


def test_the_loop_ends_as_soon_as_no_live_hypothesis_can_win():
    calls: list[int] = []
    log_probs = np.where(np.arange(NUM_IDS) == END, np.log(0.99), np.log(0.001))
    log_probs = np.tile(log_probs, (len(LIMITS), STATES, 1)).astype(np.float32)
    searched(log_probs, LIMITS, 3, 0.6, on_step=lambda position: calls.append(int(position)))
    jax.effects_barrier()
    assert calls == [0]


def test_a_sentence_that_is_done_does_not_change_while_others_go_on():
    log_probs = table(3)
    together, scores = searched(log_probs, LIMITS, 3, 0.6)
    for sentence in (0, 2, 3):
        alone = log_probs[sentence : sentence + 1], LIMITS[sentence : sentence + 1]
        ids, score = searched(*alone, 3, 0.6)
        assert ids == together[sentence : sentence + 1]
        assert score[0] == scores[sentence]


def test_arrays_longer_than_the_limits_only_add_padding():
    log_probs = table(3)
    ids, scores = searched(log_probs, LIMITS, 2, 0.6)
    longer, same = searched(log_probs, LIMITS, 2, 0.6, length=6)
    assert longer == [[*output, PAD, PAD] for output in ids]
    np.testing.assert_array_equal(same, scores)


def test_log_probabilities_that_are_nan_give_no_output():
    ids, scores = searched(np.full_like(table(), np.nan), LIMITS, 2, 0.6)
    assert ids == [[PAD] * 4] * len(LIMITS)
    assert np.all(scores == -np.inf)


def test_unusable_arguments_are_refused_together():
    with pytest.raises(InvalidInput) as error:
        search(lambda *_: None, (), jnp.ones(2, int), length=0, width=0, alpha=-0.5)  # pyright: ignore
    assert [problem.split("=")[0] for problem in error.value.problems] == [
        "Expected width",
        "Expected length",
        "Expected alpha",
    ]


SOURCE = np.array([[4, 5, 1, END, PAD], [5, END, PAD, PAD, PAD], [4, 4, 5, 1, END]])


@functools.cache
def network():
    """A Transformer whose tokens depend on the source and on one another, and its variables."""
    module = Transformer(6, 6, num_layers=1, width=16, num_heads=2, feed_forward_width=16)
    batch = {"source": SOURCE, "target": SOURCE}
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), batch, train=False))
    rng = np.random.default_rng(5)
    return module, jax.tree.map(lambda a: rng.normal(0, 0.8, a.shape).astype(np.float32), shapes)


@functools.cache
def translated(width):
    module, _ = network()
    return jax.jit(functools.partial(translate, module, width=width, alpha=0.6, extra_length=1))


def test_translations_are_the_best_of_all_outputs_by_full_decoding():
    module, variables = network()
    source = SOURCE[:2, :4]
    outputs = [(*o, END) for n in range(5) for o in itertools.product(GOING_ON, repeat=n)]
    rows = np.array([[BEGIN, *padded(output, 5)] for output in outputs])

    @jax.jit
    def totals(variables, sentence):
        encoded = module.apply(variables, jnp.tile(sentence[None], (len(rows), 1)), method="encode")
        logits: Any = module.apply(variables, rows[:, :-1], encoded, method="decode")
        steps = jax.nn.log_softmax(logits)
        taken = jnp.take_along_axis(steps, rows[:, 1:, None], axis=2)[:, :, 0]
        return jnp.sum(jnp.where(rows[:, 1:] == PAD, 0, taken), axis=1)

    lengths = np.array([len(output) for output in outputs])
    found, scores = translated(27 * 3)(variables, source)
    for row, sentence in enumerate(source):
        all_scores = np.asarray(totals(variables, sentence)) / penalty(lengths, 0.6)
        all_scores[lengths > np.sum(sentence != PAD) + 1] = -np.inf
        best = int(np.argmax(all_scores))
        assert found[row].tolist() == padded(outputs[best], 5)
        np.testing.assert_allclose(scores[row], all_scores[best], rtol=1e-4)


@pytest.mark.parametrize("width", [1, 3])
def test_a_translation_depends_on_neither_padding_nor_other_sentences(width):
    _, variables = network()
    wide, _ = translated(width)(variables, SOURCE)
    narrow, _ = translated(width)(variables, SOURCE[:2, :4])
    assert narrow.tolist() == wide[:2, :5].tolist()
    assert not np.any(wide[:2, 5:])
    assert len(set(map(tuple, wide.tolist()))) == 3
