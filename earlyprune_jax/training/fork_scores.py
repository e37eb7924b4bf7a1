"""What forks are pruned by: criteria as functions of the engine and a trunk's state.

Those that need data look at the examples the signals are measured on (`signals.num_examples`), without
augmentation, in evaluation mode and float32.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from earlyprune_jax.array_types import Scores
from earlyprune_jax.pruning import scores
from earlyprune_jax.training.engine import Engine
from earlyprune_jax.training.state import Stream, TrainState, stream_key


class _Probe:
    """The probe examples in batches, as often as one asks; one batch is on the device at a time."""

    def __init__(self, engine: Engine):
        self._engine = engine

    def __iter__(self) -> Iterator[Any]:
        engine, size = self._engine, self._engine.spec.signals.batch_size
        for start in range(0, len(engine.probe), size):
            indices = jnp.asarray(engine.probe[start : start + size])
            yield engine.task.batch(engine.splits["train"], indices, None)


def _log_probs(engine: Engine, state: TrainState) -> Callable[[Any, Any], jax.Array]:
    return engine.task.network(state.batch_stats).log_probs


def _loss(engine: Engine, state: TrainState) -> Callable[[Any, Any], jax.Array]:
    log_probs = _log_probs(engine, state)

    def loss(params: Any, batch: Any) -> jax.Array:
        chosen = jnp.take_along_axis(log_probs(params, batch), batch["labels"][:, None], axis=1)
        return -jnp.mean(chosen)

    return loss


def _key(state: TrainState) -> jax.Array:
    return stream_key(state.key, Stream.PRUNE, state.step)


def _fisher(engine: Engine, state: TrainState) -> Scores:
    """The Fisher diagonal, by the estimator that the signal tr(F) is configured with."""
    labels = engine.spec.signals.fisher_estimator
    if labels == "empirical":
        return scores.empirical_fisher_diagonal(_loss(engine, state), state.params, _Probe(engine))
    log_probs = _log_probs(engine, state)
    estimator = "batch" if engine.spec.signals.fisher_method == "batch" else "per_example"
    return scores.fisher_diagonal(
        log_probs, state.params, _Probe(engine), key=_key(state), labels=labels, estimator=estimator
    )


CRITERIA: dict[str, Callable[[Engine, TrainState], Scores]] = {
    "magnitude": lambda engine, state: scores.magnitude(state.params),
    "random": lambda engine, state: scores.random(state.params, _key(state)),
    "fisher": _fisher,
    "obd": lambda engine, state: scores.obd(state.params, _fisher(engine, state)),
    "taylor": lambda engine, state: scores.taylor(_loss(engine, state), state.params, _Probe(engine)),
    "grasp": lambda engine, state: scores.grasp(_loss(engine, state), state.params, _Probe(engine)),
}
