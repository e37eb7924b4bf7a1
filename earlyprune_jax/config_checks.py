"""What a config's values must satisfy beyond each key's own range, in one setting."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from earlyprune_jax import data, models, pruning, references, tasks, triggers
from earlyprune_jax.grid import plan
from earlyprune_jax.pruning import UNSTRUCTURED
from earlyprune_jax.pruning.allocation.allocate import check_allocation, prunable_shapes
from earlyprune_jax.pruning.scores.fisher import check_options
from earlyprune_jax.pruning.scores.named import check_criterion
from earlyprune_jax.pruning.selection import NAMED_SETS, check_layers
from earlyprune_jax.signals import fisher, spectral
from earlyprune_jax.spec import RunSpec
from earlyprune_jax.spec_sections import KEYS
from earlyprune_jax.training import criteria, execution, measurement, optim, retraining, schedules
from earlyprune_jax.validate import expected, problems_of, unknown_choice

LAYER_KEYS = ("pruning.layers", "signals.fisher_layers", "signals.weight_layers")
NETWORK = ("data", "model", "task", "train.precision", "train.batch_size")
"""What a task is made of."""


@dataclasses.dataclass(frozen=True)
class Check:
    """A fact about the values of some keys.

    Attributes:
        needs: the keys it looks at.
        find: spec of one setting -> problems; may raise InvalidInput instead.
        spoils: keys that later checks cannot look at where it finds a problem.
        in_any_range: whether it can look at values that are out of their own key's range.
    """

    needs: frozenset[str]
    find: Callable[[RunSpec], list[str]]
    spoils: frozenset[str]
    in_any_range: bool


CHECKS: list[Check] = []
"""All checks, in the order in which they are made."""


def problems(spec: RunSpec, absent: Collection[str], unsound: Collection[str]) -> list[str]:
    """Makes all checks that can be made.

    Args:
        spec: of one setting; None at the keys that are absent.
        absent: keys without a value of the right type.
        unsound: those, and keys whose value is out of range.

    Returns:
        The problems, a sentence each.
    """
    problems, unsound = [], set(unsound)
    for check in CHECKS:
        if check.needs.isdisjoint(absent if check.in_any_range else unsound):
            wrong = problems_of(functools.partial(check.find, spec))
            problems += wrong
            unsound |= check.spoils if wrong else set()
    return problems


def _keys(names: Iterable[str]) -> frozenset[str]:
    """Expands names of sections to all of their keys."""
    names = set(names)
    return frozenset(name for name in KEYS if name in names or name.split(".")[0] in names)


def _needs(*names: str, spoils: Iterable[str] = (), in_any_range: bool = False) -> Any:
    """Registers a check. Arguments as of `Check`; sections may be named for all of their keys."""

    def register(find: Callable[[RunSpec], list[str]]) -> Callable[[RunSpec], list[str]]:
        CHECKS.append(Check(_keys(names), find, _keys(spoils), in_any_range))
        return find

    return register


# Names, one by one


def _named(known: Mapping[str, Any], takes: tuple[str, ...] | None = None) -> Any:
    return lambda key, name: references.check(key, name, known, takes)


def _one_of(choices: Iterable[str]) -> Any:
    choices = tuple(choices)
    return lambda key, name: [] if name in choices else [unknown_choice(key, name, choices)]


NAMED: dict[str, Callable[[str, str], list[str]]] = {
    "model.name": _named(models.BUILTINS),
    "task.name": _named(tasks.TASKS),
    "optim.name": _named(optim.OPTIMIZERS),
    "pruning.criteria": check_criterion,
    "pruning.scopes": criteria.check_scope,
    "fork.retraining": _named(
        dict.fromkeys(retraining.RETRAININGS, retraining.training), ("fork_epoch", "trunk")
    ),
    "fork.rates": _one_of(retraining.RATES),
    "fork.baselines": _one_of(plan.BASELINES),
    "fork.comparisons": _one_of(measurement.COMPARISONS),
    "signals.fisher_estimator": _one_of(fisher.ESTIMATORS),
    "signals.fisher_method": _one_of(fisher.METHODS),
    "signals.mask_criterion": check_criterion,
    "signals.mask_scope": criteria.check_scope,
    **dict.fromkeys(LAYER_KEYS, lambda key, name: check_layers(name, key)),
}
"""Key -> (key, name) -> problems, for names that are registered where they are implemented."""


def _check_names(spec: RunSpec, key: str) -> list[str]:
    """Looks names up; an empty one of a key whose value the task gives by default is none."""
    value = spec.value(key)
    may_be_empty = key in ("optim.name", *LAYER_KEYS)
    names = value if isinstance(value, tuple) else (value,)
    checked = [name for name in names if name or not may_be_empty]
    return [problem for name in checked for problem in NAMED[key](key, name)]


for _key in NAMED:
    _needs(_key, spoils=(_key,), in_any_range=True)(functools.partial(_check_names, key=_key))


@_needs("data", spoils=("data",), in_any_range=True)
def _check_data(spec: RunSpec) -> list[str]:
    return data.check(spec.data)


@_needs("fork.trigger", spoils=("fork.trigger",), in_any_range=True)
def _check_trigger_text(spec: RunSpec) -> list[str]:
    """Sees whether the trigger can be read at all; an empty one is none."""
    return problems_of(lambda: triggers.parse(spec.fork.trigger or "epoch(1)"), "fork.trigger: ")


@_needs("schedule", "train.num_epochs", spoils=("schedule",), in_any_range=True)
def _check_schedule(spec: RunSpec) -> list[str]:
    return schedules.check(spec.schedule, spec.train.num_epochs)


# Facts that several keys make together


@_needs("signals.fisher_estimator", "signals.fisher_method", spoils=("signals.fisher_method",))
def _check_fisher(spec: RunSpec) -> list[str]:
    signals = spec.signals
    problems = check_options(signals.fisher_estimator, signals.fisher_method, fisher.METHODS)
    return [f"signals.fisher_*: {problem}" for problem in problems]


@_needs(*NETWORK, spoils=NETWORK)
def _check_task(spec: RunSpec) -> list[str]:
    """Makes the task as far as shapes go: model, data and task belong together."""
    execution.require_jax()
    tasks.abstract(spec)
    return []


@_needs(*NETWORK, *LAYER_KEYS, spoils=LAYER_KEYS)
def _check_selections(spec: RunSpec) -> list[str]:
    """Finds sets of layers of which the network has none; each once, with all keys that ask for
    it."""
    task, problems, keys_of = tasks.abstract(spec), [], collections.defaultdict(list)
    params = task.shapes()["params"]
    for key in LAYER_KEYS:
        keys_of[spec.value(key) or task.layers].append(key)

    def wrong(layers: str, prefix: str = "") -> list[str]:
        return problems_of(functools.partial(pruning.select, params, layers), prefix)

    for layers, keys in keys_of.items():
        for problem in wrong(layers, f"{', '.join(keys)}: "):
            fitting = next((name for name in NAMED_SETS if not wrong(name)), None)
            remedy = f" Set {'it' if len(keys) == 1 else 'them'} to {fitting}." if fitting else ""
            problems.append(f"{problem}{remedy}")
    return problems


@_needs(*NETWORK, "optim")
def _check_optimizer(spec: RunSpec) -> list[str]:
    task = tasks.abstract(spec)
    return optim.check(spec.optim, task.optimizer, task.shapes()["params"])


@_needs(*NETWORK, "pruning.criteria", "signals", "fork.comparisons")
def _check_criteria(spec: RunSpec) -> list[str]:
    """Finds what needs log-probabilities, for a task that has none, and criteria that give no
    scores."""
    task = tasks.abstract(spec)
    masks = [spec.signals.mask_criterion] * ("mask_distance" in spec.signals.names)
    problems = criteria.log_probs_problems(task, "pruning.criteria", spec.pruning.criteria)
    problems += criteria.log_probs_problems(task, "signals.mask_criterion", masks)
    if task.network is None:
        remedy = f"{spec.task.name} has none: leave it out, or give Task(network=...)."
        problems += [
            expected("fork.comparisons", name, "to need no log-probabilities", remedy)
            for name in spec.fork.comparisons
        ]
    check = functools.partial(criteria.check_own, task, [*spec.pruning.criteria, *masks])
    return problems + problems_of(check)


@_needs(*NETWORK, "signals", spoils=("signals.names",))
def _check_signals(spec: RunSpec) -> list[str]:
    return measurement.check(spec, tasks.abstract(spec))


@_needs(*NETWORK, "fork.when", "fork.trigger", "train.num_epochs", "signals")
def _check_trigger(spec: RunSpec) -> list[str]:
    """Requires the columns of a trigger that decides; one that is only replayed may miss them."""
    text, decides = spec.fork.trigger, spec.fork.when == "trigger"
    if not text:
        remedy = "Give a rule, such as peak(fisher_trace)."
        needed = expected("fork.trigger", "", "to name a rule with fork.when=trigger", remedy)
        return [needed] if decides else []
    task = tasks.abstract(spec)
    names = list(spec.signals.names)
    if not decides:
        # A rule that is replayed may look at what other workdirs have measured.
        names += [name for name in measurement.NAMES if name not in names]
    measured = measurement.columns(spec, task, tuple(names))
    problems = triggers.check(text, (*task.decidable_columns(), "learning_rate", *measured))
    rule, num_epochs = triggers.parse(text), spec.train.num_epochs
    if decides and isinstance(rule, triggers.AtEpoch) and rule.n >= num_epochs:
        remedy = f"The run has train.num_epochs={num_epochs}, and needs one after pruning."
        problems.append(expected("epoch", rule.n, f"to be below {num_epochs}", remedy))
    return [f"fork.trigger: {problem}" for problem in problems]


@_needs(*NETWORK, "signals.num_examples", "pruning.num_examples")
def _check_num_examples(spec: RunSpec) -> list[str]:
    num_train = tasks.abstract(spec).batching.num_examples["train"]
    remedy = f"{spec.data.name} gives that many training examples with these splits."
    return [
        expected(key, spec.value(key), f"to be at most {num_train}", remedy)
        for key in ("signals.num_examples", "pruning.num_examples")
        if spec.value(key) > num_train
    ]


@_needs("fork.search", "data")
def _check_search(spec: RunSpec) -> list[str]:
    """Requires a validation split, the makers' own or one held out, for a search."""
    if spec.fork.search == "all" or "validation" in data.shapes(spec.data):
        return []
    held = spec.data.validation_fraction
    allowed = f"to be above 0 with fork.search={spec.fork.search}"
    remedy = "A search chooses by validation, never on the test set: hold some examples out."
    return [expected("data.validation_fraction", held, allowed, remedy)]


@_needs("fork")
def _check_grid(spec: RunSpec) -> list[str]:
    """Finds axes that contradict one another."""
    fork, problems = spec.fork, []
    if fork.comparisons and fork.num_replicates < 2:
        remedy = "Replicates are what is compared: paper B takes 3; or empty fork.comparisons."
        allowed = "to be at least 2 with fork.comparisons"
        problems.append(expected("fork.num_replicates", fork.num_replicates, allowed, remedy))
    if fork.search == "all" and fork.max_cells:
        remedy = "Set fork.search=coarse_to_fine, or list fewer epochs and sparsities."
        allowed = "to be 0 with fork.search=all"
        problems.append(expected("fork.max_cells", fork.max_cells, allowed, remedy))
    if "custom" not in fork.retraining and fork.length:
        remedy = "Add custom to fork.retraining, or set fork.length=0."
        problems.append(expected("fork.length", fork.length, "to be 0 without custom", remedy))
    for name, nothing in (("comparisons", ()), ("baselines", ()), ("search", "all")):
        if fork.when == "trigger" and (value := getattr(fork, name)) != nothing:
            remedy = "It belongs to a grid of forks, fork.when=epochs."
            allowed = f"to be {nothing or 'empty'} with fork.when=trigger"
            problems.append(expected(f"fork.{name}", value, allowed, remedy))
    return problems


@_needs("train.num_epochs", "optim.learning_rate", "schedule", "fork", spoils=("fork.epochs",))
def _check_fork_epochs(spec: RunSpec) -> list[str]:
    return retraining.check_epochs(spec)


@_needs(
    *("train.num_epochs", "optim.learning_rate", "schedule"),
    spoils=("schedule.step_boundaries_epochs", "schedule.end_learning_rate"),
)
def _check_schedule_ends(spec: RunSpec) -> list[str]:
    """Finds an end of the schedule that does not fit the trunk's length or its maximum rate."""
    schedule, num_epochs, maximum = spec.schedule, spec.train.num_epochs, spec.optim.learning_rate
    boundaries, end = schedule.step_boundaries_epochs, schedule.end_learning_rate
    if schedule.name == "step" and max(boundaries, default=0) >= num_epochs:
        allowed = f"to lie before train.num_epochs={num_epochs}"
        return [expected("schedule.step_boundaries_epochs", boundaries, allowed)]
    if schedule.name in ("cosine", "linear") and end > maximum:
        allowed = f"to be at most optim.learning_rate={maximum}"
        return [expected("schedule.end_learning_rate", end, allowed)]
    return []


@_needs(*NETWORK, "train", "optim", "schedule", "fork")
def _check_fork_rates(spec: RunSpec) -> list[str]:
    return retraining.check_rates(spec, tasks.abstract(spec).batching.steps_per_epoch)


@_needs(*NETWORK, "pruning")
def _check_sparsities(spec: RunSpec) -> list[str]:
    task = tasks.abstract(spec)
    params = task.shapes()["params"]
    prunable = pruning.select(params, spec.pruning.layers or task.layers, task.known_layouts)
    shapes = prunable_shapes(params, prunable, task.known_layouts)
    scopes = [scope for scope in spec.pruning.scopes if scope in pruning.SCOPES]
    return [
        f"pruning.sparsities: {problem}"
        for scope, sparsity in itertools.product(scopes, spec.pruning.sparsities)
        for problem in check_allocation(shapes, sparsity, scope, UNSTRUCTURED, 0)
    ]


@_needs(*NETWORK, "signals.names", "signals.min_eigenvalues")
def _check_spectra(spec: RunSpec) -> list[str]:
    if "random_distance" not in spec.signals.names:
        return []
    least, task = spec.signals.min_eigenvalues, tasks.abstract(spec)
    options = {"min_eigenvalues": least, "layouts": task.known_layouts}
    check = functools.partial(spectral.check, task.shapes()["params"], **options)
    return problems_of(check, f"signals.min_eigenvalues={least}: ")
