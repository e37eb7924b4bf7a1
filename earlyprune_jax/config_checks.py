"""What a config's values must satisfy beyond each key's own range."""

import itertools
from collections.abc import Callable
from typing import Any

from earlyprune_jax import data, models, pruning
from earlyprune_jax.pruning import allocation
from earlyprune_jax.pruning.selection import check_layers
from earlyprune_jax.spec import PruningSpec, RunSpec, SignalSpec
from earlyprune_jax.training import fork_rules, tasks
from earlyprune_jax.validate import InvalidInput, expected


def check_section(name: str, section: Any) -> list[str]:
    """What other modules know of one section's values."""
    if name == "data":
        return data.check(section)
    if name == "model":
        return models.check(section.name)
    if name == "pruning":
        return check_layers(section.layers, "pruning.layers")
    if name == "signals":
        return check_layers(section.fisher_layers, "signals.fisher_layers") + _check_fisher(section)
    return []


def _check_fisher(signals: SignalSpec) -> list[str]:
    if signals.fisher_estimator == "batch" and signals.fisher_labels != "sampled":
        allowed = "to be sampled with fisher_estimator batch"
        remedy = "Only sampled labels make a batch's cross terms vanish: use fisher_estimator per_example."
        return [expected("signals.fisher_labels", signals.fisher_labels, allowed, remedy)]
    return []


def _check_examples(spec: RunSpec) -> list[str]:
    num_train = data.sizes(spec.data).num_train
    remedy = f"{spec.data.name} gives that many training images with these splits."
    wanted = {"train.batch_size": spec.train.batch_size, "signals.num_examples": spec.signals.num_examples}
    return [
        expected(thing, value, f"to be at most {num_train}", remedy)
        for thing, value in wanted.items()
        if value > num_train
    ]


def _check_fork_epochs(spec: RunSpec) -> list[str]:
    return fork_rules.check_epochs(spec.fork, spec.train.num_epochs)


def _check_schedule(spec: RunSpec) -> list[str]:
    schedule, problems = spec.schedule, []
    if schedule.name == "step" and max(schedule.step_boundaries_epochs, default=0) >= spec.train.num_epochs:
        allowed = f"to lie before train.num_epochs={spec.train.num_epochs}"
        problems.append(expected("schedule.step_boundaries_epochs", schedule.step_boundaries_epochs, allowed))
    if schedule.name in ("cosine", "linear") and schedule.end_learning_rate > spec.optim.learning_rate:
        allowed = f"to be at most optim.learning_rate={spec.optim.learning_rate}"
        problems.append(expected("schedule.end_learning_rate", schedule.end_learning_rate, allowed))
    return problems


def _check_fork_rates(spec: RunSpec) -> list[str]:
    num_train = data.sizes(spec.data).num_train
    if _check_schedule(spec) or _check_fork_epochs(spec) or spec.train.batch_size > num_train:
        return []  # rates mean nothing yet
    return fork_rules.check_rates(spec, data.steps_per_epoch(num_train, spec.train.batch_size))


def _check_layers_of_model(spec: RunSpec) -> list[str]:
    shape = data.sizes(spec.data).image_shape
    task = tasks.classification(spec.data, spec.model, precision=spec.train.precision, image_shape=shape)
    params = task.shapes()["params"]
    problems = []
    for thing in ("pruning.layers", "signals.fisher_layers"):
        section, key = thing.split(".")
        try:
            selected = pruning.select(params, getattr(getattr(spec, section), key))
        except InvalidInput as error:
            problems += [f"{thing}: {problem}" for problem in error.problems]
            continue
        if section == "pruning":
            problems += _check_sparsities(spec.pruning, allocation.prunable_sizes(params, selected))
    return problems


def _check_sparsities(spec: PruningSpec, sizes: dict[str, int]) -> list[str]:
    return [
        f"pruning.sparsities: {problem}"
        for scope, sparsity in itertools.product(spec.scopes, spec.sparsities)
        for problem in allocation.check_sparsity(sizes, sparsity, scope)
    ]


CROSS_CHECKS: tuple[tuple[set[str], Callable[[RunSpec], list[str]]], ...] = (
    ({"data", "train", "signals"}, _check_examples),
    ({"train", "fork"}, _check_fork_epochs),
    ({"train", "optim", "schedule"}, _check_schedule),
    ({"data", "train", "optim", "schedule", "fork"}, _check_fork_rates),
    ({"data", "model", "train", "pruning", "signals"}, _check_layers_of_model),
)
"""Facts that several sections make together, each with the sections it needs to be sound."""
