"""What a config's values must satisfy beyond each key's own range, in one setting."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

from earlyprune_jax import data, models, pruning, references, tasks, triggers
from earlyprune_jax.grid import plan
from earlyprune_jax.pruning import UNSTRUCTURED
from earlyprune_jax.pruning.allocation.allocate import check_allocation, prunable_shapes
from earlyprune_jax.pruning.scores.fisher import check_options
from earlyprune_jax.pruning.scores.named import check_criterion
from earlyprune_jax.pruning.selection import check_layers
from earlyprune_jax.signals import fisher, spectral
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.training import criteria, measurement, optim, retraining, schedules
from earlyprune_jax.validate import InvalidInput, expected, unknown_choice

REGISTERED: dict[str, tuple[str, ...]] = {
    "fork.rates": tuple(retraining.RATES),
    "fork.baselines": tuple(plan.BASELINES),
    "fork.comparisons": tuple(measurement.COMPARISONS),
    "signals.fisher_estimator": fisher.ESTIMATORS,
    "signals.fisher_method": fisher.METHODS,
}
"""Keys whose names are registered where they are implemented, and that take nothing else."""

LAYER_KEYS = ("pruning.layers", "signals.fisher_layers", "signals.weight_layers")


def _gathered(function: Callable[[], Any], prefix: str = "") -> list[str]:
    """The problems that a function raises."""
    try:
        function()
    except InvalidInput as error:
        return [f"{prefix}{problem}" for problem in error.problems]
    return []


def _check_registered(spec: RunSpec, key: str) -> list[str]:
    section, name = key.split(".")
    value = getattr(getattr(spec, section), name)
    given = value if isinstance(value, tuple) else (value,)
    return [
        unknown_choice(key, one, REGISTERED[key]) for one in given if one not in REGISTERED[key]
    ]


def _check_layer_name(spec: RunSpec, key: str) -> list[str]:
    section, name = key.split(".")
    value = getattr(getattr(spec, section), name)
    return check_layers(value, key) if value else []


def _check_model(spec: RunSpec) -> list[str]:
    return references.check(
        "model.name", spec.model.name, dict.fromkeys(models.names(), models.build)
    )


def _check_task_name(spec: RunSpec) -> list[str]:
    return references.check("task.name", spec.task.name, tasks.TASKS)


def _check_optimizer_name(spec: RunSpec) -> list[str]:
    return (
        references.check("optim.name", spec.optim.name, optim.OPTIMIZERS) if spec.optim.name else []
    )


def _check_criteria(spec: RunSpec) -> list[str]:
    return [
        problem
        for one in spec.pruning.criteria
        for problem in check_criterion("pruning.criteria", one)
    ]


def _check_scopes(spec: RunSpec) -> list[str]:
    return [problem for one in spec.pruning.scopes for problem in criteria.check_scope(one)]


def _check_mask(spec: RunSpec) -> list[str]:
    found = check_criterion("signals.mask_criterion", spec.signals.mask_criterion)
    return found + [
        f"signals.mask_scope: {one}" for one in criteria.check_scope(spec.signals.mask_scope)
    ]


def _check_rules(spec: RunSpec) -> list[str]:
    known = dict.fromkeys(retraining.RULES, retraining.training)
    return [
        problem
        for rule in spec.fork.rules
        for problem in references.check("fork.rules", rule, known, ("fork_epoch", "trunk"))
    ]


def _check_trigger_text(spec: RunSpec) -> list[str]:
    """Whether the trigger can be read at all; an empty one is none."""
    return _gathered(lambda: triggers.parse(spec.fork.trigger or "epoch(1)"), "fork.trigger: ")


def _check_task(spec: RunSpec) -> list[str]:
    """Whether the task can be made, as far as shapes go: model, data and task belong together."""
    return _gathered(lambda: tasks.abstract(spec))


def _check_optimizer(spec: RunSpec) -> list[str]:
    task = tasks.abstract(spec)
    try:
        return optim.check(spec.optim, task.optimizer, task.shapes()["params"])
    except InvalidInput as error:
        return list(error.problems)


def _check_fisher(spec: RunSpec) -> list[str]:
    options = spec.signals.fisher_estimator, spec.signals.fisher_method
    problems = check_options(*options, fisher.METHODS)
    return [f"signals.fisher_*: {problem}" for problem in problems]


def _check_signals(spec: RunSpec) -> list[str]:
    return measurement.check(spec, tasks.abstract(spec))


def _check_log_probs(spec: RunSpec) -> list[str]:
    """Criteria and comparisons that need log-probabilities, for a task that has none."""
    task = tasks.abstract(spec)
    problems = criteria.log_probs_problems(task, "pruning.criteria", spec.pruning.criteria)
    if "mask_distance" in spec.signals.names:
        problems += criteria.log_probs_problems(
            task, "signals.mask_criterion", [spec.signals.mask_criterion]
        )
    if task.network is None:
        remedy = f"{spec.task.name} has none: leave it out, or give Task(network=...)."
        problems += [
            expected("fork.comparisons", name, "to need no log-probabilities", remedy)
            for name in spec.fork.comparisons
        ]
    return problems


def _check_own_criteria(spec: RunSpec) -> list[str]:
    masks = [spec.signals.mask_criterion] * ("mask_distance" in spec.signals.names)
    return criteria.check_own(tasks.abstract(spec), [*spec.pruning.criteria, *masks])


def _check_trigger(spec: RunSpec) -> list[str]:
    """A trigger that decides must find its columns; one that is only replayed may miss them."""
    if not spec.fork.trigger:
        remedy = "Give a rule, such as peak(fisher_trace)."
        needed = expected("fork.trigger", "", "to name a rule with fork.when=trigger", remedy)
        return [needed] if spec.fork.when == "trigger" else []
    rule = triggers.parse(spec.fork.trigger)
    names = spec.signals.names
    if spec.fork.when == "epochs":
        # A rule that is replayed may look at what other workdirs have.
        names = tuple(dict.fromkeys((*names, *_measurable(spec))))
    problems = triggers.check(spec.fork.trigger, decidable_columns(spec, names))
    if spec.fork.when == "trigger":
        problems += _check_reachable(rule, spec.train.num_epochs)
    return [f"fork.trigger: {problem}" for problem in problems]


def _measurable(spec: RunSpec) -> list[str]:
    """The built-in signals that the task has what they need for."""
    has_log_probs = tasks.abstract(spec).network is not None
    return [
        name
        for name in measurement.NAMES
        if has_log_probs or name not in ("fisher_trace", "kl_uniform")
    ]


def _check_reachable(trigger: triggers.Trigger, num_epochs: int) -> list[str]:
    if not isinstance(trigger, triggers.AtEpoch) or trigger.n < num_epochs:
        return []
    remedy = f"The run has train.num_epochs={num_epochs}, and needs one after pruning."
    return [expected("epoch", trigger.n, f"to be below {num_epochs}", remedy)]


def decidable_columns(spec: RunSpec, names: tuple[str, ...]) -> tuple[str, ...]:
    """What a trigger may look at with these signals: never the test set.

    Args:
        spec: of one setting.
        names: of signals.
    """
    task = tasks.abstract(spec)
    return (*task.decidable_columns(), "learning_rate", *measurement.columns(spec, task, names))


def _check_examples(spec: RunSpec, key: str) -> list[str]:
    num_train = tasks.abstract(spec).batching.num_examples["train"]
    remedy = f"{spec.data.name} gives that many training examples with these splits."
    value = spec.value(key)
    return [expected(key, value, f"to be at most {num_train}", remedy)] if value > num_train else []


def _check_fork_epochs(spec: RunSpec) -> list[str]:
    return _gathered_list(lambda: retraining.check_epochs(spec))


def _gathered_list(function: Callable[[], list[str]]) -> list[str]:
    try:
        return function()
    except InvalidInput as error:
        return list(error.problems)


def _check_schedule(spec: RunSpec) -> list[str]:
    return schedules.check(spec.schedule, spec.train.num_epochs)


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
    return [
        expected("schedule.end_learning_rate", end, f"to be at most optim.learning_rate={maximum}")
    ]


def _check_fork_rates(spec: RunSpec) -> list[str]:
    if _check_boundaries(spec) or _check_end(spec) or _check_fork_epochs(spec):
        return []  # rates mean nothing yet
    steps = tasks.abstract(spec).batching.steps_per_epoch
    return _gathered_list(lambda: retraining.check_rates(spec, steps))


def _check_grid(spec: RunSpec) -> list[str]:
    """Axes that contradict one another."""
    fork, problems = spec.fork, []
    if fork.comparisons and fork.num_replicates < 2:
        remedy = (
            "Replicates are what is compared: paper B takes 3; or leave fork.comparisons empty."
        )
        allowed = "to be at least 2 with fork.comparisons"
        problems.append(expected("fork.num_replicates", fork.num_replicates, allowed, remedy))
    if fork.max_cells and fork.search == "all":
        remedy = "Set fork.search=coarse_to_fine, or list fewer epochs and sparsities."
        problems.append(
            expected("fork.max_cells", fork.max_cells, "to be 0 with fork.search=all", remedy)
        )
    if fork.search != "all" and not spec.data.validation_fraction:
        remedy = (
            "A search chooses by validation, and never on the test set: hold some examples out."
        )
        allowed = f"to be above 0 with fork.search={fork.search}"
        problems.append(expected("data.validation_fraction", 0.0, allowed, remedy))
    if fork.when == "trigger":
        for key, nothing in (("comparisons", ()), ("baselines", ()), ("search", "all")):
            if getattr(fork, key) != nothing:
                allowed = f"to be {nothing or 'empty'} with fork.when=trigger"
                remedy = "It belongs to a grid of forks, fork.when=epochs."
                problems.append(expected(f"fork.{key}", getattr(fork, key), allowed, remedy))
    return problems


def _check_custom(spec: RunSpec) -> list[str]:
    """A length that no rule looks at."""
    if spec.fork.length and "custom" not in spec.fork.rules:
        remedy = "Add custom to fork.rules, or set fork.length=0."
        return [expected("fork.length", spec.fork.length, "to be 0 without rule custom", remedy)]
    return []


def _check_selection(spec: RunSpec, key: str) -> list[str]:
    task = tasks.abstract(spec)
    layers = spec.value(key) or task.layers
    return _gathered(lambda: pruning.select(task.shapes()["params"], layers), f"{key}: ")


def _check_sparsities(spec: RunSpec) -> list[str]:
    if _check_selection(spec, "pruning.layers"):
        return []
    task = tasks.abstract(spec)
    params = task.shapes()["params"]
    shapes = prunable_shapes(params, pruning.select(params, spec.pruning.layers or task.layers))
    scopes = [scope for scope in spec.pruning.scopes if scope in pruning.SCOPES]
    return [
        f"pruning.sparsities: {problem}"
        for scope, sparsity in itertools.product(scopes, spec.pruning.sparsities)
        for problem in check_allocation(shapes, sparsity, scope, UNSTRUCTURED, 0)
    ]


def _check_spectra(spec: RunSpec) -> list[str]:
    if "random_distance" not in spec.signals.names:
        return []
    given = f"signals.min_eigenvalues={spec.signals.min_eigenvalues}"
    params = tasks.abstract(spec).shapes()["params"]
    found = spectral.check(params, min_eigenvalues=spec.signals.min_eigenvalues)
    return [f"{given}: {problem}" for problem in found]


Checks = tuple[tuple[set[str], Callable[[RunSpec], list[str]]], ...]
"""What a check needs, keys or whole sections, and the check."""

KEY_CHECKS: Checks = (
    ({"data"}, lambda spec: data.check(spec.data)),
    ({"model.name"}, _check_model),
    ({"task.name"}, _check_task_name),
    ({"optim.name"}, _check_optimizer_name),
    ({"pruning.criteria"}, _check_criteria),
    ({"pruning.scopes"}, _check_scopes),
    ({"signals.mask_criterion", "signals.mask_scope"}, _check_mask),
    ({"fork.rules"}, _check_rules),
    ({"fork.trigger"}, _check_trigger_text),
    ({"schedule", "train.num_epochs"}, _check_schedule),
    *(({key}, functools.partial(_check_registered, key=key)) for key in REGISTERED),
    *(({key}, functools.partial(_check_layer_name, key=key)) for key in LAYER_KEYS),
)
"""What other modules know of single keys; run on values of the right type."""

NETWORK = {"data", "model", "task", "train.precision", "train.batch_size"}
"""What a task is made of."""

FOUNDATIONS = (_check_task,)
"""Checks without which those that need the same keys mean nothing."""

CROSS_CHECKS: Checks = (
    ({"signals.fisher_estimator", "signals.fisher_method"}, _check_fisher),
    (NETWORK, _check_task),
    ({*NETWORK, "optim"}, _check_optimizer),
    ({*NETWORK, "signals"}, _check_signals),
    ({*NETWORK, "pruning.criteria", "signals", "fork.comparisons"}, _check_log_probs),
    ({*NETWORK, "pruning.criteria", "signals"}, _check_own_criteria),
    ({*NETWORK, "fork.when", "fork.trigger", "train.num_epochs", "signals"}, _check_trigger),
    (
        {*NETWORK, "signals.num_examples"},
        functools.partial(_check_examples, key="signals.num_examples"),
    ),
    (
        {*NETWORK, "pruning.num_examples"},
        functools.partial(_check_examples, key="pruning.num_examples"),
    ),
    ({"train.num_epochs", "optim.learning_rate", "schedule", "fork"}, _check_fork_epochs),
    ({"train.num_epochs", "schedule.name", "schedule.step_boundaries_epochs"}, _check_boundaries),
    ({"optim.learning_rate", "schedule.name", "schedule.end_learning_rate"}, _check_end),
    ({*NETWORK, "train", "optim", "schedule", "fork"}, _check_fork_rates),
    ({"fork", "data.validation_fraction"}, _check_grid),
    ({"fork.rules", "fork.length"}, _check_custom),
    *(({*NETWORK, key}, functools.partial(_check_selection, key=key)) for key in LAYER_KEYS),
    ({*NETWORK, "pruning"}, _check_sparsities),
    ({*NETWORK, "signals.names", "signals.min_eigenvalues"}, _check_spectra),
)
"""Facts that several keys make together; run where the keys they need are sound."""
