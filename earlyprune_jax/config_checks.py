"""What a config's values must satisfy beyond each key's own range."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

from earlyprune_jax import data, models, pruning, triggers
from earlyprune_jax.grid import plan
from earlyprune_jax.pruning import UNSTRUCTURED
from earlyprune_jax.pruning.allocation.allocate import check_allocation, prunable_shapes
from earlyprune_jax.pruning.selection import check_layers
from earlyprune_jax.signals import fisher, spectral
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.training import comparisons, fork_rules, fork_scores, measurement, schedules, tasks
from earlyprune_jax.validate import InvalidInput, expected, unknown_choice

REGISTERED: dict[str, Iterable[str]] = {
    "pruning.criteria": fork_scores.CRITERIA,
    "pruning.scopes": pruning.SCOPES,
    "fork.rules": fork_rules.RULES,
    "fork.baselines": plan.BASELINES,
    "fork.comparisons": comparisons.NAMES,
    "schedule.names": schedules.CURVES,
    "signals.names": measurement.NAMES,
    "signals.fisher_estimator": fisher.ESTIMATORS,
    "signals.fisher_method": fisher.METHODS,
}
"""Keys whose names are registered where they are implemented."""

LAYER_KEYS = ("pruning.layers", "signals.fisher_layers")


def _value(spec: RunSpec, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(spec, section), name)


def _with(spec: RunSpec, section: str, **keys: Any) -> RunSpec:
    """The spec, or the part of one that a check sees, with some keys of a section changed."""
    changed = dataclasses.replace(getattr(spec, section), **keys)
    return type(spec)(**{**vars(spec), section: changed})


def _each_fraction(spec: RunSpec) -> list[RunSpec]:
    return [_with(spec, "data", train_fractions=(fraction,)) for fraction in spec.data.train_fractions]


def _each_schedule(spec: RunSpec) -> list[RunSpec]:
    return [_with(spec, "schedule", names=(name,)) for name in spec.schedule.names]


def _each_model(spec: RunSpec) -> list[RunSpec]:
    # Images have one shape, whatever part of them is used.
    first = _each_fraction(spec)[0]
    return [_with(first, "model", names=(name,)) for name in spec.model.names]


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
    num_train = min(data.sizes(each.data).num_train for each in _each_fraction(spec))
    remedy = f"{spec.data.name} gives that many training images with these splits."
    value = _value(spec, key)
    return [expected(key, value, f"to be at most {num_train}", remedy)] if value > num_train else []


def _check_fork_epochs(spec: RunSpec) -> list[str]:
    return fork_rules.check_epochs(spec.fork, spec.train.num_epochs)


def _check_boundaries(spec: RunSpec) -> list[str]:
    boundaries = spec.schedule.step_boundaries_epochs
    if "step" not in spec.schedule.names or max(boundaries, default=0) < spec.train.num_epochs:
        return []
    allowed = f"to lie before train.num_epochs={spec.train.num_epochs}"
    return [expected("schedule.step_boundaries_epochs", boundaries, allowed)]


def _check_end(spec: RunSpec) -> list[str]:
    end, maximum = spec.schedule.end_learning_rate, spec.optim.learning_rate
    if not {"cosine", "linear"} & set(spec.schedule.names) or end <= maximum:
        return []
    return [expected("schedule.end_learning_rate", end, f"to be at most optim.learning_rate={maximum}")]


def _check_fork_rates(spec: RunSpec) -> list[str]:
    if _check_boundaries(spec) or _check_end(spec) or _check_examples(spec, "train.batch_size"):
        return []  # rates mean nothing yet
    problems = []
    for each in itertools.chain.from_iterable(map(_each_schedule, _each_fraction(spec))):
        num_train = data.sizes(each.data).num_train
        problems += fork_rules.check_rates(each, data.steps_per_epoch(num_train, spec.train.batch_size))
    return list(dict.fromkeys(problems))


def _check_grid(spec: RunSpec) -> list[str]:
    """Axes that contradict one another."""
    fork, problems = spec.fork, []
    if fork.comparisons and fork.num_replicates < 2:
        remedy = "Replicates are what is compared: paper B takes 3; or leave fork.comparisons empty."
        allowed = "to be at least 2 with fork.comparisons"
        problems.append(expected("fork.num_replicates", fork.num_replicates, allowed, remedy))
    if fork.max_cells and fork.search == "all":
        remedy = "Set fork.search=coarse_to_fine, or list fewer epochs and sparsities."
        problems.append(expected("fork.max_cells", fork.max_cells, "to be 0 with fork.search=all", remedy))
    if fork.search != "all" and not spec.data.validation_fraction:
        remedy = "A search chooses by accuracy, and never on the test set: hold some images out."
        allowed = f"to be above 0 with fork.search={fork.search}"
        problems.append(expected("data.validation_fraction", 0.0, allowed, remedy))
    if fork.when == "trigger":
        for key, nothing in (("comparisons", ()), ("baselines", ()), ("search", "all")):
            if getattr(fork, key) != nothing:
                allowed = f"to be {nothing or 'empty'} with fork.when=trigger"
                remedy = "It belongs to a grid of forks, fork.when=epochs."
                problems.append(expected(f"fork.{key}", getattr(fork, key), allowed, remedy))
    return problems


def _check_selection(spec: RunSpec, key: str) -> list[str]:
    problems = []
    for each in _each_model(spec):
        try:
            pruning.select(_params(each), _value(spec, key))
        except InvalidInput as error:
            problems += [f"{key}: {problem}{_of(each, spec)}" for problem in error.problems]
    return problems


def _of(each: RunSpec, spec: RunSpec) -> str:
    """Which network a problem is about, where there are several."""
    return f" (in {each.model.name})" if len(spec.model.names) > 1 else ""


def _check_sparsities(spec: RunSpec) -> list[str]:
    if _check_selection(spec, "pruning.layers"):
        return []
    problems = []
    for each in _each_model(spec):
        params = _params(each)
        shapes = prunable_shapes(params, pruning.select(params, spec.pruning.layers))
        problems += [
            f"pruning.sparsities: {problem}{_of(each, spec)}"
            for scope, sparsity in itertools.product(spec.pruning.scopes, spec.pruning.sparsities)
            for problem in check_allocation(shapes, sparsity, scope, UNSTRUCTURED, 0)
        ]
    return problems


def _check_spectra(spec: RunSpec) -> list[str]:
    if "random_distance" not in spec.signals.names:
        return []
    given = f"signals.min_eigenvalues={spec.signals.min_eigenvalues}"
    return [
        f"{given}: {problem}{_of(each, spec)}"
        for each in _each_model(spec)
        for problem in spectral.check(_params(each), min_eigenvalues=spec.signals.min_eigenvalues)
    ]


def _params(spec: RunSpec) -> Any:
    """The shapes of the network's parameters; nothing is computed."""
    shape = data.sizes(spec.data).image_shape
    task = tasks.classification(spec.data, spec.model, precision=spec.train.precision, image_shape=shape)
    return task.shapes()["params"]


Checks = tuple[tuple[set[str], Callable[[RunSpec], list[str]]], ...]
"""What a check needs, keys or whole sections, and the check."""

KEY_CHECKS: Checks = (
    ({"data"}, lambda spec: data.check(spec.data)),
    ({"model.names"}, lambda spec: [problem for name in spec.model.names for problem in models.check(name)]),
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
    ({"train.num_epochs", "schedule.names", "schedule.step_boundaries_epochs"}, _check_boundaries),
    ({"optim.learning_rate", "schedule.names", "schedule.end_learning_rate"}, _check_end),
    ({"data", "train", "optim", "schedule", "fork"}, _check_fork_rates),
    ({"fork", "data.validation_fraction"}, _check_grid),
    *(({*NETWORK, key}, functools.partial(_check_selection, key=key)) for key in LAYER_KEYS),
    ({*NETWORK, "pruning"}, _check_sparsities),
    ({*NETWORK, "signals.names", "signals.min_eigenvalues"}, _check_spectra),
)
"""Facts that several keys make together; run where the keys they need are sound."""
