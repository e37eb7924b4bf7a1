"""What forks are pruned by: criteria and scopes, built-in or the user's, as functions of a trunk's
state.

Data-driven criteria look at training examples (`pruning.num_examples`), without augmentation, in
evaluation mode and float32.
"""

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from earlyprune_jax import pruning, references
from earlyprune_jax.array_types import Array, Mask, Params, Scores
from earlyprune_jax.pruning.masks import count_removed
from earlyprune_jax.pruning.scores.named import CRITERIA, CRITERIA_KEY, Probe, needs_log_probs
from earlyprune_jax.tasks import Task, split_variables
from earlyprune_jax.tasks.batching import shapes_of
from earlyprune_jax.training.engine import Engine
from earlyprune_jax.training.state import Stream, TrainState, stream_key
from earlyprune_jax.validate import expected, gathering, problems_of, refuse, unexpected

SCOPES_KEY = "pruning.scopes"


class Examples:
    """Batches of examples as a task gives them, as often as one asks; one is on the device at a
    time.

    Args:
        engine: whose data are looked at.
        numbers: of the training examples.
        batch_size: of a batch; the last may be smaller.
    """

    def __init__(self, engine: Engine, numbers: np.ndarray, batch_size: int):
        self._engine, self._numbers, self._batch_size = engine, numbers, batch_size

    def __iter__(self) -> Iterator[Any]:
        take, split = self._engine.task.batching.take, self._engine.splits["train"]
        for batches in self._engine.batches("train", self._batch_size, self._numbers):
            for indices, weights in zip(batches.indices, batches.weights, strict=True):
                rows = jnp.asarray(indices[weights > 0])
                yield take(batches.kind, split, rows, jnp.ones(len(rows)), None)


def check_scope(key: str, scope: str) -> list[str]:
    """Lists the problems of a scope's text."""
    known = dict.fromkeys(pruning.SCOPES, pruning.allocate)
    return references.check(key, scope, known, ("scores", "prunable", "sparsity"))


def make_mask(
    engine: Engine,
    state: TrainState,
    *,
    criterion: str,
    scope: str,
    sparsity: float,
    prunable: Any,
    examples: Examples,
) -> Mask:
    """Scores a trunk's weights and removes the lowest-scored.

    Args:
        engine: of the trunk.
        state: the trunk's.
        criterion: one of `CRITERIA`, or module:function with the signature `Criterion`.
        scope: one of `pruning.SCOPES`, or module:function (scores, prunable, sparsity) -> mask.
        sparsity: fraction of the prunable weights removed.
        prunable: the structure of the params with Python bools.
        examples: what data-driven criteria look at.

    Returns:
        A mask that removes exactly round(sparsity * n) of the n prunable weights, or for `local` so
        many of each layer.

    Raises:
        InvalidInput: the user's criterion or scope gives something else.
    """
    made = scores(engine, state, criterion, examples)
    if scope in pruning.SCOPES:
        layouts = engine.task.known_layouts
        return pruning.allocate(made, prunable, sparsity=sparsity, scope=scope, layouts=layouts)
    allocate = references.load(SCOPES_KEY, scope, {}, ("scores", "prunable", "sparsity"))
    mask = allocate(made, prunable, sparsity)
    refuse(problems_of(lambda: pruning.check(mask, state.params), f"{SCOPES_KEY}: {scope}: "))
    leaves = zip(jax.tree.leaves(mask), jax.tree.leaves(prunable), strict=True)
    inside = [keep for keep, is_prunable in leaves if is_prunable]
    wanted = round(sparsity * sum(np.size(keep) for keep in inside))
    removed, others = count_removed(inside), count_removed(mask) - count_removed(inside)
    if removed != wanted or others:
        allowed = f"to remove {wanted} prunable weights, round(sparsity * their number)"
        remedy = f"It removes {removed} of these, and {others} that are not prunable."
        raise unexpected(SCOPES_KEY, scope, allowed, remedy)
    return jax.device_put(jax.tree.map(lambda leaf: np.asarray(leaf, bool), mask))


def scores(engine: Engine, state: TrainState, criterion: str, examples: Examples) -> Scores:
    """Scores a trunk's weights, higher = keep.

    Args:
        engine: of the trunk.
        state: the trunk's.
        criterion: as of `make_mask`.
        examples: likewise.

    Returns:
        The structure of the params, each leaf of its shape.

    Raises:
        InvalidInput: the user's criterion gives something else than scores.
    """
    key = stream_key(state.key, Stream.PRUNE, state.step)
    return _scored(engine.task, state.params, state.model_state, criterion, examples, key)


def _scored(
    task: Task, params: Params, model_state: Any, criterion: str, batches: Iterable[Any], key: Array
) -> Scores:
    network = task.probe(model_state)

    def loss(params: Params, batch: Any) -> Array:
        sums = network.sums(params, batch) if network.sums else {}
        return sums["loss"] / sums["count"]

    log_probs = network.log_probs if network.has_log_probs else None
    function = references.load(CRITERIA_KEY, criterion, CRITERIA, ("params", "probe"))
    made = function(params, Probe(batches, loss, log_probs, key))
    shapes, wanted = (jax.tree.map(np.shape, tree) for tree in (made, params))
    if shapes != wanted:
        allowed = "to give scores of the structure and the shapes of the params"
        raise unexpected(CRITERIA_KEY, criterion, allowed, f"It gave {shapes!s:.200}.")
    return made


def check_own(task: Task, names: Sequence[str]) -> list[str]:
    """Traces criteria of the user's on one batch: what they give, as far as can be seen without
    computing.

    Args:
        task: of `tasks.abstract`.
        names: criteria.
    """
    shapes = (*split_variables(task.shapes()), shapes_of(task.splits["train"]))
    key = jax.ShapeDtypeStruct((2,), np.uint32)

    def run(name: str, params: Params, model_state: Any, split: Any, key: Array) -> Scores:
        return _scored(task, params, model_state, name, [task.one_batch(split)], key)

    problems: list[str] = []
    for name in filter(references.is_import_path, dict.fromkeys(names)):
        # What computes on the host tracing cannot follow: then nothing can be said.
        untraceable = contextlib.suppress(jax.errors.JAXTypeError)
        guarded = references.guarded(CRITERIA_KEY, name, "to give scores")
        with gathering(problems), guarded, untraceable:
            jax.eval_shape(functools.partial(run, name), *shapes, key)
    return problems


def log_probs_problems(task: Task, key: str, names: Sequence[str]) -> list[str]:
    """Lists criteria that need log-probabilities, for a task that has none.

    Args:
        task: of `tasks.abstract`.
        key: the config key that names the criteria, for messages.
        names: of the criteria.

    Returns:
        One message per criterion.
    """
    remedy = "Its task has none: take another, such as magnitude, or give Task(network=...)."
    refused = filter(needs_log_probs, names) if task.network is None else ()
    return [expected(key, name, "to need no log-probabilities", remedy) for name in refused]
