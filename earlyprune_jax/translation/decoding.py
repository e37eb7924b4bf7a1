"""Greedy and beam search for the likeliest output, inside jit.

Every hypothesis is a row of tokens that ends with END. Its score is the sum of its tokens'
log-probabilities over the length penalty of Wu et al. (2016), "Google's Neural Machine Translation
System", Eq. (14) without coverage: ((5 + n) / 6)^alpha, n tokens with END.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from earlyprune_jax.array_types import Array, Variables
from earlyprune_jax.data.vocabulary import BEGIN, END, PAD
from earlyprune_jax.pruning.scores.weights import count_problems
from earlyprune_jax.validate import expected, refuse, within

Step = Callable[[Array, Array, Any], tuple[Array, Any]]
"""(tokens [N], their position, cache) -> (log-probabilities of the next tokens [N, V], cache)."""


class _State(NamedTuple):
    """A search under way: W live hypotheses a sentence, and the best that has ended.

    Attributes:
        position: of the last token.
        ids: [B, W, 1 + length], BEGIN first, PAD where nothing is yet.
        log_probs: [B, W] sums; -inf where there is no hypothesis.
        best_ids: [B, 1 + length].
        best_scores: [B]; -inf where none has ended.
        cache: the step's.
    """

    position: Array
    ids: Array
    log_probs: Array
    best_ids: Array
    best_scores: Array
    cache: Any


def translate(
    module: Any,
    variables: Variables,
    source: Array,
    *,
    width: int = 1,
    alpha: float = 0.6,
    extra_length: int = 50,
) -> tuple[Array, Array]:
    """Translates a batch of sentences by a Transformer; for use inside jit.

    A translation has at most `extra_length` tokens more than its source, END counted in both, so
    that it does not depend on the padding of the batch.

    Args:
        module: a `models.transformer.Transformer`.
        variables: its parameters.
        source: ids [B, S], padded on the right.
        width: as of `search`.
        alpha: likewise.
        extra_length: at least 0.

    Returns:
        As `search`; ids [B, S + extra_length].

    Example:
        >>> from earlyprune_jax.models import transformer
        >>> module = transformer.Transformer(9, 9, num_layers=1, width=8, num_heads=2)
        >>> source = jnp.array([[4, 5, END], [4, END, PAD]])
        >>> batch = {"source": source, "target": source}
        >>> variables = module.init(jax.random.key(0), batch, train=False)
        >>> decode = jax.jit(functools.partial(translate, module, width=4, extra_length=2))
        >>> decode(variables, source)[0].shape
        (2, 5)
    """
    refuse(count_problems(0, extra_length=extra_length))
    apply = functools.partial(module.apply, variables)
    encoded = apply(source, method="encode")

    def step(ids: Array, position: Array, cache: Any) -> tuple[Array, Any]:
        logits, cache = apply(ids, position, cache, encoded, method="step")
        return jax.nn.log_softmax(logits), cache

    length = source.shape[1] + extra_length
    cache = module.empty_cache(source.shape[0] * width, length)
    limits = jnp.sum(source != PAD, axis=1) + extra_length
    return search(step, cache, limits, length=length, width=width, alpha=alpha)


def search(
    step: Step, cache: Any, limits: Array, *, length: int, width: int = 1, alpha: float = 0.6
) -> tuple[Array, Array]:
    """Searches for each sentence's output of the best score; for use inside jit.

    At each position the `width` likeliest continuations of a sentence's live hypotheses are taken.
    Those that end compete for the best score, the others live on: a width of 1 is greedy search. A
    sentence is done when no live hypothesis can still beat its best one, whatever follows; the
    loop ends when all are. PAD and BEGIN are never taken, and a sentence's last position takes END.

    Args:
        step: called with positions 0, 1, ..., first with BEGIN. Row r of its arrays belongs to
            sentence r // width.
        cache: arrays [B * width, ...] that it begins with; rows are taken along as hypotheses are.
        limits: int [B], the most tokens of each sentence, END included; at most `length`.
        length: of the outputs.
        width: hypotheses a sentence, at least 1.
        alpha: exponent of the length penalty, at least 0.

    Returns:
        ids [B, length], END last and PAD after it; and their scores [B]. Where nothing has a
        finite score, such as after a division by 0 in the network: PAD alone, and -inf.

    Raises:
        InvalidInput: with every problem of the arguments.

    Example:
        >>> table = jnp.log(jnp.array([0.0, 0.0, 0.0, 0.4, 0.6]))  # END .4, token 4 .6, always
        >>> def step(ids, position, cache):
        ...     return jnp.tile(table[None], (len(ids), 1)), cache
        >>> greedy, beam = (
        ...     search(step, (), jnp.array([3]), length=3, width=width, alpha=0.0)
        ...     for width in (1, 2)
        ... )
        >>> greedy[0].tolist(), beam[0].tolist()
        ([[4, 4, 3]], [[3, 0, 0]])
    """
    problems = count_problems(1, width=width, length=length)
    if allowed := within(0)(alpha):
        problems.append(expected("alpha", alpha, allowed))
    refuse(problems)
    size, limits = limits.shape[0], jnp.clip(limits, 1, length)

    def goes_on(state: _State) -> Array:
        # Log-probabilities are at most 0: no score exceeds this sum over the largest penalty.
        possible = jnp.max(state.log_probs, axis=1) / _penalty(limits, alpha)
        return (state.position < length) & jnp.any(possible > state.best_scores)

    def advance(state: _State) -> _State:
        tokens = jax.lax.dynamic_index_in_dim(state.ids, state.position, axis=2)
        steps, cache = step(tokens.reshape(-1), state.position, state.cache)
        num_tokens = state.position + 1
        allowed = _allowed(steps.shape[-1], num_tokens >= limits)
        steps = jnp.where(allowed, steps.reshape(size, width, -1), -jnp.inf)
        return _continued(state, steps, cache, _penalty(num_tokens, alpha))

    ids = jnp.full((size, width, 1 + length), PAD, jnp.int32).at[:, :, 0].set(BEGIN)
    # All begin alike: one is enough.
    log_probs = jnp.full((size, width), -jnp.inf).at[:, 0].set(0.0)
    none = jnp.full(size, -jnp.inf)
    start = _State(jnp.int32(0), ids, log_probs, jnp.zeros_like(ids[:, 0]), none, cache)
    found = jax.lax.while_loop(goes_on, advance, start)
    return found.best_ids[:, 1:], found.best_scores


def _continued(state: _State, steps: Array, cache: Any, penalty: Array) -> _State:
    """Takes the likeliest continuations, given the log-probabilities of each: [B, W, V]."""
    size, width, num_ids = steps.shape
    num_tokens = state.position + 1
    totals = (state.log_probs[:, :, None] + steps).reshape(size, -1)
    log_probs, taken = jax.lax.top_k(totals, width)
    parents, tokens = taken // num_ids, taken % num_ids
    ids = jnp.take_along_axis(state.ids, parents[:, :, None], axis=1)
    ids = jax.lax.dynamic_update_index_in_dim(ids, tokens, num_tokens, axis=2)
    if width > 1:
        rows = (jnp.arange(size)[:, None] * width + parents).reshape(-1)
        cache = jax.tree.map(lambda leaf: leaf[rows], cache)
    # Continuations have one length, so the likeliest of those that end has the best score.
    has_ended = tokens == END
    ended = jnp.where(has_ended, log_probs, -jnp.inf)
    likeliest = jnp.argmax(ended, axis=1)[:, None, None]
    score = jnp.max(ended, axis=1) / penalty
    is_better = score > state.best_scores
    output = jnp.take_along_axis(ids, likeliest, axis=1)[:, 0]
    return _State(
        position=num_tokens,
        ids=ids,
        log_probs=jnp.where(has_ended, -jnp.inf, log_probs),
        best_ids=jnp.where(is_better[:, None], output, state.best_ids),
        best_scores=jnp.where(is_better, score, state.best_scores),
        cache=cache,
    )


def _penalty(num_tokens: Any, alpha: float) -> Any:
    return ((5 + num_tokens) / 6) ** alpha


def _allowed(num_ids: int, is_last: Array) -> Array:
    """Tells which tokens may follow: bool [B, 1, V]; END alone where it is the last [B]."""
    ids = jnp.arange(num_ids)[None, None]
    return jnp.where(is_last[:, None, None], ids == END, (ids != PAD) & (ids != BEGIN))
