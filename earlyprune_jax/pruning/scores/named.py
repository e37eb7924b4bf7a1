"""Criteria by name, as one kind of function: (params, probe) -> scores."""

import dataclasses
from collections.abc import Callable
from typing import Any

from earlyprune_jax import references
from earlyprune_jax.array_types import Array, Params, PRNGKey, Scores
from earlyprune_jax.pruning.scores.fisher import (
    check_options,
    empirical_fisher_diagonal,
    fisher_diagonal,
)
from earlyprune_jax.pruning.scores.gradients import grasp, taylor
from earlyprune_jax.pruning.scores.weights import magnitude, obd, random

CRITERIA_KEY = "pruning.criteria"


@dataclasses.dataclass(frozen=True)
class Probe:
    """What a criterion may look at beside the weights.

    Attributes:
        batches: the examples, as often as one iterates; each a batch of the task, a dict of arrays.
        loss: (params, batch) -> the task's mean loss over the batch, evaluation mode.
        log_probs: (params, batch) -> log-probabilities [B, C], natural log; None where the task has
            none.
        key: for what is drawn: a function of the trunk's seed and step.
    """

    batches: Any
    loss: Callable[[Params, Any], Array]
    log_probs: Callable[[Params, Any], Array] | None
    key: PRNGKey


Criterion = Callable[[Params, Probe], Scores]
"""(params, probe) -> scores: the structure of the params, higher = keep."""


def _fisher(
    params: Params, probe: Probe, *, estimator: str = "sampled", method: str = "vmap"
) -> Scores:
    """Estimates the Fisher diagonal.

    Args:
        params: of the network.
        probe: what is looked at.
        estimator: one of `fisher.ESTIMATORS`: whose labels.
        method: one of `fisher.METHODS`: `vmap`, or paper A's `batch`.
    """
    if estimator == "empirical":
        return empirical_fisher_diagonal(probe.loss, params, probe.batches)
    assert probe.log_probs is not None, "checked before: see needs_log_probs"
    options = {"key": probe.key, "estimator": estimator, "method": method}
    return fisher_diagonal(probe.log_probs, params, probe.batches, **options)


def _obd(
    params: Params, probe: Probe, *, estimator: str = "sampled", method: str = "vmap"
) -> Scores:
    return obd(params, _fisher(params, probe, estimator=estimator, method=method))


FISHER: dict[str, Criterion] = {"fisher": _fisher, "obd": _obd}
"""Criteria that look at log-probabilities, unless their estimator is `empirical`."""

CRITERIA: dict[str, Criterion] = {
    "magnitude": lambda params, probe: magnitude(params),
    "random": lambda params, probe: random(params, probe.key),
    **FISHER,
    "taylor": lambda params, probe: taylor(probe.loss, params, probe.batches),
    "grasp": lambda params, probe: grasp(probe.loss, params, probe.batches),
}
"""Criteria by name; those of `FISHER` take `estimator` and `method`."""


def needs_log_probs(criterion: str) -> bool:
    """Says whether a criterion needs log-probabilities.

    The user's own has an attribute of that name.

    Example:
        >>> names = "fisher", "fisher(estimator='empirical')", "magnitude"
        >>> [needs_log_probs(name) for name in names]
        [True, False, False]
    """
    reference = references.parse(criterion)
    if reference.module:
        own = references.load(CRITERIA_KEY, reference.path, CRITERIA)
        return bool(getattr(own, "needs_log_probs", False))
    is_empirical = dict(reference.options).get("estimator") == "empirical"
    return reference.path in FISHER and not is_empirical


def check_criterion(key: str, criterion: str) -> list[str]:
    """Finds the problems of a criterion's text.

    Example:
        >>> check_criterion("pruning.criteria", "fisher(estimator='exct')")[0].split(". ")[1]
        "Did you mean 'exact'?"
    """
    if problems := references.check(key, criterion, CRITERIA, ("params", "probe")):
        return problems
    reference = references.parse(criterion)
    options = {"estimator": "sampled", "method": "vmap"} | dict(reference.options)
    where = f" of {key}"
    return check_options(**options, where=where) if reference.path in FISHER else []
