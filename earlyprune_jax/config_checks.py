"""What a config's values must satisfy beyond each key's own range."""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

from earlyprune_jax import data, models, pruning, triggers
from earlyprune_jax.pruning import UNSTRUCTURED
from earlyprune_jax.pruning.allocation.allocate import check_allocation, prunable_shapes
from earlyprune_jax.pruning.selection import check_layers
from earlyprune_jax.signals import fisher, spectral
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.training import fork_rules, fork_scores, measurement, schedules, tasks
from earlyprune_jax.validate import InvalidInput, expected, unknown_choice

REGISTERED: dict[str, Iterable[str]] = {
    "pruning.criteria": fork_scores.CRITERIA,
    "pruning.scopes": pruning.SCOPES,
    "fork.rules": fork_rules.RULES,
    "schedule.name": schedules.CURVES,
    "signals.names": measurement.NAMES,
    "signals.fisher_estimator": fisher.ESTIMATORS,
    "signals.fisher_method": fisher.METHODS,
}
"""Keys whose names are registered where they are implemented."""

LAYER_KEYS = ("pruning.layers", "signals.fisher_layers")


def _value(spec: RunSpec, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(spec, section), name)


def _check_registered(spec: RunSpec, key: str) -> list[str]:
    value, choices = _value(spec, key), tuple(REGISTERED[key])
    given = value if isinstance(value, tuple) else (value,)
    return [unknown_choice(key, name, choices) for name in given if name not in choices]


def _check_layer_name(spec: RunSpec, key: str) -> list[str]:
    return check_layers(_value(spec, key), key)


def _check_fisher(spec: RunSpec) -> list[str]:
    problems = fisher.check_options(spec.signals.fisher_estimator, spec.signals.fisher_method)
    return [f"signals.fisher_*: {problem}" for problem in problems]


def _check_trigger(spec: RunSpec) -> list[str]:
    """A trigger that decides must find its columns; one that is only replayed may miss them."""
    if not spec.fork.trigger:
        remedy = "Give a rule, such as peak(fisher_trace)."
        needed = expected("fork.trigger", "", "to name a rule with fork.when=trigger", remedy)
        return [needed] if spec.fork.when == "trigger" else []
    rule = triggers.parse(spec.fork.trigger)
    names = spec.signals.names if spec.fork.when == "trigger" else measurement.NAMES
    problems = triggers.check(spec.fork.trigger, decidable_columns(spec, names))
    if spec.fork.when == "trigger":
        problems += _check_reachable(rule, spec.train.num_epochs)
    return [f"fork.trigger: {problem}" for problem in problems]


def _check_rule(spec: RunSpec) -> list[str]:
    """Whether the trigger can be read at all; an empty one is none."""
    try:
        triggers.parse(spec.fork.trigger or "epoch(1)")
    except InvalidInput as error:
        return [f"fork.trigger: {problem}" for problem in error.problems]
    return []


def _check_reachable(trigger: triggers.Trigger, num_epochs: int) -> list[str]:
    if not isinstance(trigger, triggers.AtEpoch) or trigger.n < num_epochs:
        return []
    remedy = f"The run has train.num_epochs={num_epochs}, and needs one after pruning."
    return [expected("epoch", trigger.n, f"to be below {num_epochs}", remedy)]


def decidable_columns(spec: RunSpec, names: tuple[str, ...]) -> tuple[str, ...]:
    """What a trigger may look at with these signals: never the test set."""
    splits = ("train", "validation") if spec.data.validation_fraction else ("train",)
    metrics = (f"{split}_{name}" for split in splits for name in ("loss", "accuracy"))
    return (*metrics, "learning_rate", *measurement.columns(spec, names))


def _check_examples(spec: RunSpec, key: str) -> list[str]:
    num_train = data.sizes(spec.data).num_train
    remedy = f"{spec.data.name} gives that many training images with these splits."
    value = _value(spec, key)
    return [expected(key, value, f"to be at most {num_train}", remedy)] if value > num_train else []


def _check_fork_epochs(spec: RunSpec) -> list[str]:
    return fork_rules.check_epochs(spec.fork, spec.train.num_epochs)


def _check_boundaries(spec: RunSpec) -> list[str]:
    boundaries = spec.schedule.step_boundaries_epochs
    if spec.schedule.name != "step" or max(boundaries, default=0) < spec.train.num_epochs:
        return []
    allowed = f"to lie before train.num_epochs={spec.train.num_epochs}"
    return [expected("schedule.step_boundaries_epochs", boundaries, allowed)]


def _check_end(spec: RunSpec) -> list[str]:
    end, maximum = spec.schedule.end_learning_rate, spec.optim.learning_rate
    if spec.schedule.name not in ("cosine", "linear") or end <= maximum:
        return []
    return [expected("schedule.end_learning_rate", end, f"to be at most optim.learning_rate={maximum}")]


def _check_fork_rates(spec: RunSpec) -> list[str]:
    num_train = data.sizes(spec.data).num_train
    if _check_boundaries(spec) or _check_end(spec) or spec.train.batch_size > num_train:
        return []  # rates mean nothing yet
    return fork_rules.check_rates(spec, data.steps_per_epoch(num_train, spec.train.batch_size))


def _check_selection(spec: RunSpec, key: str) -> list[str]:
    try:
        pruning.select(_params(spec), _value(spec, key))
    except InvalidInput as error:
        return [f"{key}: {problem}" for problem in error.problems]
    return []


def _check_sparsities(spec: RunSpec) -> list[str]:
    if _check_selection(spec, "pruning.layers"):
        return []
    params = _params(spec)
    shapes = prunable_shapes(params, pruning.select(params, spec.pruning.layers))
    return [
        f"pruning.sparsities: {problem}"
        for scope, sparsity in itertools.product(spec.pruning.scopes, spec.pruning.sparsities)
        for problem in check_allocation(shapes, sparsity, scope, UNSTRUCTURED, 0)
    ]


def _check_spectra(spec: RunSpec) -> list[str]:
    if "random_distance" not in spec.signals.names:
        return []
    problems = spectral.check(_params(spec), min_eigenvalues=spec.signals.min_eigenvalues)
    return [f"signals.min_eigenvalues={spec.signals.min_eigenvalues}: {problem}" for problem in problems]


def _params(spec: RunSpec) -> Any:
    """The shapes of the network's parameters; nothing is computed."""
    shape = data.sizes(spec.data).image_shape
    task = tasks.classification(spec.data, spec.model, precision=spec.train.precision, image_shape=shape)
    return task.shapes()["params"]


Checks = tuple[tuple[set[str], Callable[[RunSpec], list[str]]], ...]
"""What a check needs, keys or whole sections, and the check."""

KEY_CHECKS: Checks = (
    ({"data"}, lambda spec: data.check(spec.data)),
    ({"model.name"}, lambda spec: models.check(spec.model.name)),
    ({"fork.trigger"}, _check_rule),
    *(({key}, functools.partial(_check_registered, key=key)) for key in REGISTERED),
    *(({key}, functools.partial(_check_layer_name, key=key)) for key in LAYER_KEYS),
)
"""What other modules know of single keys; run on values of the right type."""

NETWORK = {"data", "model", "train.precision"}
"""What decides the shapes of a network's parameters."""

CROSS_CHECKS: Checks = (
    ({"signals.fisher_estimator", "signals.fisher_method"}, _check_fisher),
    (
        {"fork.when", "fork.trigger", "train.num_epochs", "data", "signals"},
        _check_trigger,
    ),
    ({"data", "train.batch_size"}, functools.partial(_check_examples, key="train.batch_size")),
    ({"data", "signals.num_examples"}, functools.partial(_check_examples, key="signals.num_examples")),
    ({"train.num_epochs", "fork.epochs", "fork.rules"}, _check_fork_epochs),
    ({"train.num_epochs", "schedule.name", "schedule.step_boundaries_epochs"}, _check_boundaries),
    ({"optim.learning_rate", "schedule.name", "schedule.end_learning_rate"}, _check_end),
    ({"data", "train", "optim", "schedule", "fork"}, _check_fork_rates),
    *(({*NETWORK, key}, functools.partial(_check_selection, key=key)) for key in LAYER_KEYS),
    ({*NETWORK, "pruning"}, _check_sparsities),
    ({*NETWORK, "signals.names", "signals.min_eigenvalues"}, _check_spectra),
)
"""Facts that several keys make together; run where the keys they need are sound."""
