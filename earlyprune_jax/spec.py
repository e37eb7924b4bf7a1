"""An experiment as plain data: every config key, its type, range, meaning, and what it decides.

A `RunSpec` is made by `config.resolve` and handed downwards; nothing below reads a
ConfigDict. It has no defaults: a config file shows every key. The same declarations
serve validation, command-line overrides, sweeps, `--help` and the names of runs.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any

from earlyprune_jax import references
from earlyprune_jax.validate import Check, InvalidInput, anything, each, expected, one_of, within

FLOAT32_MAX = 3.4e38
NAMES = each(anything, at_least=1)
"""A check for names that `config_checks` looks up where they are registered."""

DECIDES = {
    "data": "which examples there are",
    "trunk": "how a dense run trains, or what is measured along it",
    "fork": "how a pruned run is made and trained",
    "grid": "which runs there are",
    "replay": "what is replayed over finished runs",
    "execution": "how work is carried out",
}
"""What a key may decide. Only data, trunk and fork enter a run's identity, and only they can be swept."""

SWEPT_BY = {
    "grid": "It is a list already, or chooses the kind of grid: give all its values there.",
    "replay": "It decides no run: replay other rules with python -m earlyprune_jax.analysis.rules.",
    "execution": "It only decides how work is carried out: every value gives the same runs.",
}
"""Why keys that decide something else cannot be swept."""


def key(doc: str, check: Check = anything, *, decides: str) -> Any:
    """Declares a config key.

    Args:
        doc: its meaning.
        check: what its value must pass.
        decides: one of `DECIDES`.
    """
    return dataclasses.field(metadata={"doc": doc, "check": check, "decides": decides})


@dataclasses.dataclass(frozen=True, order=True)
class Setting:
    """One combination of the swept keys' values; empty where nothing is swept.

    Attributes:
        values: (key, value) pairs, sorted by key.

    Example:
        >>> Setting((("fork.length", 5), ("optim.weight_decay", 0.1))).trunk
        Setting(values=(('optim.weight_decay', 0.1),))
    """

    values: tuple[tuple[str, Any], ...] = ()

    @property
    def trunk(self) -> "Setting":
        """What of it decides a trunk: trunks of two settings that differ elsewhere are one."""
        return Setting(tuple((name, value) for name, value in self.values if decides_trunk(name)))

    def words(self) -> str:
        """The setting in words.

        Example:
            >>> Setting((("optim.weight_decay", 0.1),)).words()
            'optim.weight_decay=0.1'
        """
        return ", ".join(f"{name}={value}" for name, value in self.values)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Which values keys take beside their base value.

    Attributes:
        lists: (key, its values) pairs, sorted by key: all combinations are trained.
        rows: values that belong together: each row a tuple of (key, value) pairs, of the same keys.

    Example:
        >>> len(Sweep((("optim.weight_decay", (0.1, 0.2)),)).settings())
        2
    """

    lists: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    rows: tuple[tuple[tuple[str, Any], ...], ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The swept keys, sorted."""
        return tuple(
            sorted({name for name, _ in self.lists} | {name for row in self.rows for name, _ in row})
        )

    def settings(self) -> tuple[Setting, ...]:
        """Every combination of the lists' values and the rows; one empty setting where nothing is swept."""
        choices = [[((name, value),) for value in values] for name, values in self.lists]
        choices += [list(self.rows)] if self.rows else []
        combined = (itertools.chain.from_iterable(parts) for parts in itertools.product(*choices))
        return tuple(Setting(tuple(sorted(values, key=lambda pair: pair[0]))) for values in combined)

    def to_dict(self) -> dict[str, Any]:
        """Flat keys -> lists of values, and `rows`; what is empty is left out."""
        found: dict[str, Any] = {name: list(values) for name, values in self.lists}
        return found | ({"rows": [dict(row) for row in self.rows]} if self.rows else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Sweep":
        """The inverse of `to_dict`."""
        lists = {name: tuple(map(_frozen, one)) for name, one in values.items() if name != "rows"}
        rows = (
            tuple((name, _frozen(value)) for name, value in row.items()) for row in values.get("rows", ())
        )
        return cls(tuple(sorted(lists.items())), tuple(tuple(sorted(row)) for row in rows))


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """Which examples, how they are split, how images are shown to the network."""

    name: str = key(
        "digits, cifar10, cifar100, npz:PATH (x_train, y_train, x_test, y_test), folder:PATH (train/CLASS/, "
        "test/CLASS/), or module:function returning arrays",
        decides="data",
    )
    data_dir: str = key(
        "prepared TFDS directory of cifar10 / cifar100; '' = TFDS's default, filled from the archive",
        decides="execution",  # where the data lie is not what they are
    )
    num_classes: int = key(
        "number of classes C, labels lie in [0, C); 0 = data without classes", within(0), decides="data"
    )
    train_fraction: float = key(
        "fraction of the training examples used, stratified", within(0, 1, open_low=True), decides="data"
    )
    validation_fraction: float = key(
        "fraction of the training examples held out to choose on, stratified; 0 = none",
        within(0, 1, open_high=True),
        decides="data",
    )
    test_fraction: float = key(
        "fraction of the test examples reported on, stratified; 1 in any result to be compared",
        within(0, 1, open_low=True),
        decides="data",
    )
    split_seed: int = key("seed of the subsets and of the validation split", within(0, 2**63), decides="data")
    crop_padding: int = key(
        "random crop after zero padding by this many pixels; 0 = off", within(0), decides="data"
    )
    horizontal_flip: bool = key("random horizontal flip", decides="data")
    mean: tuple[float, ...] = key(
        "per channel, of images scaled to [0, 1]; empty = computed from the training images",
        each(within(0, 1), unique=False),
        decides="data",
    )
    std: tuple[float, ...] = key(
        "per channel, of images scaled to [0, 1]; empty = computed from the training images",
        each(within(0, open_low=True), unique=False),
        decides="data",
    )


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Which network."""

    name: str = key(
        "resnet8 ... resnet110, resnet18, preresnet8 ... preresnet110 and their variants, or module:Class of "
        "a Linen module",
        decides="trunk",
    )
    width_multiplier: float = key(
        "scales every layer's channels", within(0, 100, open_low=True), decides="trunk"
    )


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """What is learnt."""

    name: str = key("classification, or module:function that makes a Task", decides="trunk")


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """The dense runs (trunks)."""

    seeds: tuple[int, ...] = key("one trunk per seed", each(within(0, 2**32 - 1), at_least=1), decides="grid")
    num_epochs: int = key("length T of a trunk in epochs", within(1, 10**6), decides="trunk")
    batch_size: int = key("examples per training step", within(1, 10**6), decides="trunk")
    eval_batch_size: int = key("examples per evaluation step", within(1, 10**6), decides="execution")
    precision: str = key(
        "compute type of the layers; parameters stay float32",
        one_of("float32", "bfloat16"),
        decides="trunk",
    )
    keep_checkpoints: str = key(
        "which trunk checkpoints stay on disk: all, or those at fork epochs and the newest",
        one_of("all", "fork_epochs"),
        decides="execution",
    )


@dataclasses.dataclass(frozen=True)
class OptimSpec:
    """The optimizer; its learning rate is the schedule's."""

    name: str = key(
        "sgd, adam, adamw (with arguments if wanted: adam(b2=0.98)), or module:factory of an Optax "
        "transformation; '' = the task's",
        decides="trunk",
    )
    learning_rate: float = key(
        "the trunk's maximum learning rate", within(0, FLOAT32_MAX, open_low=True), decides="trunk"
    )
    momentum: float = key(
        "sgd: momentum coefficient; 0 = none", within(0, 1, open_high=True), decides="trunk"
    )
    nesterov: bool = key("sgd: Nesterov momentum", decides="trunk")
    weight_decay: float = key(
        "sgd, adam: L2 coefficient added to the gradient; adamw: decoupled",
        within(0, FLOAT32_MAX),
        decides="trunk",
    )
    weight_decay_on: str = key("all parameters, or kernels only", one_of("all", "kernels"), decides="trunk")


@dataclasses.dataclass(frozen=True)
class ScheduleSpec:
    """How the learning rate falls from its maximum."""

    name: str = key("exponential, cosine, linear, step, constant, or module:function", decides="trunk")
    per: str = key("the rate changes once an epoch, or every step", one_of("epoch", "step"), decides="trunk")
    exponential_decay_rate: float = key(
        "exponential: factor per epoch", within(0, 1, open_low=True), decides="trunk"
    )
    end_learning_rate: float = key("cosine, linear: value reached at the end", within(0), decides="trunk")
    step_boundaries_epochs: tuple[int, ...] = key(
        "step: 0-based epochs at whose start the rate is multiplied", each(within(1)), decides="trunk"
    )
    step_factor: float = key(
        "step: the factor at each boundary", within(0, 1, open_low=True), decides="trunk"
    )


@dataclasses.dataclass(frozen=True)
class PruningSpec:
    """What a fork removes. Tuples are axes of the grid."""

    criteria: tuple[str, ...] = key(
        "scores that decide which weights stay: magnitude, random, fisher, obd, taylor, grasp (with "
        "arguments if wanted: fisher(estimator='exact')), or module:function",
        NAMES,
        decides="grid",
    )
    scopes: tuple[str, ...] = key(
        "global: one ranking over all prunable weights; local: the same ratio in each layer; "
        "uniform: local, with the total exact; erk, lamp: docs/pruning.md; or module:function",
        NAMES,
        decides="grid",
    )
    sparsities: tuple[float, ...] = key(
        "fractions of the prunable weights removed",
        each(within(0, 1, open_high=True), at_least=1),
        decides="grid",
    )
    layers: str = key(
        "prunable weights: conv_kernels, dense_kernels, all_kernels, or regex:PATTERN on the path; "
        "'' = the task's",
        decides="fork",
    )
    num_examples: int = key(
        "training examples that data-driven criteria look at; 0 = all", within(0), decides="fork"
    )
    batch_size: int = key("examples per batch of data-driven criteria", within(1, 10**6), decides="fork")


@dataclasses.dataclass(frozen=True)
class ForkSpec:
    """When forks leave the trunk, and how they train on. Tuples are axes of the grid."""

    when: str = key(
        "epochs: a grid of forks at fork.epochs; trigger: every run watches its own signals and prunes "
        "itself once fork.trigger fires, within train.num_epochs",
        one_of("epochs", "trigger"),
        decides="grid",
    )
    epochs: tuple[int, ...] = key(
        "trunk epochs t after which forks are pruned (when=epochs)", each(within(0)), decides="grid"
    )
    trigger: str = key(
        "a rule such as peak(fisher_trace, patience=3) or module:Rule(...); obeyed with when=trigger, and "
        "always among the rules that are replayed over a finished grid",
        decides="replay",
    )
    prune_at: str = key(
        "when=trigger, once it fires: prune now, or rewind to the checkpoint of the epoch that the rule "
        "marks (a peak is known only epochs later)",
        one_of("now", "rewind"),
        decides="replay",
    )
    fallback_epoch: int = key(
        "when=trigger: prune after this epoch if nothing has fired by then; 0 = stay dense",
        within(0),
        decides="replay",
    )
    rules: tuple[str, ...] = key(
        "how forks are retrained: paper_a, matched_anneal, continue, constant, matched_budget; custom = by "
        "fork.length and fork.rates; or module:function",
        NAMES,
        decides="grid",
    )
    length: int = key(
        "rule custom: epochs a fork trains; 0 = what remains of the trunk's", within(0, 10**6), decides="fork"
    )
    rates: str = key(
        "rule custom: the fork's learning rates: eq6, matched_anneal, continue, restart, constant",
        decides="fork",
    )
    num_replicates: int = key(
        "forks of every cell, each with its own data order", within(1, 10**6), decides="grid"
    )
    constant_learning_rate: float = key(
        "rules constant and matched_budget, and rates constant: the rate",
        within(0, FLOAT32_MAX, open_low=True),
        decides="fork",
    )
    constant_num_epochs: int = key(
        "rules constant and matched_budget: epochs trained at that rate", within(1, 10**6), decides="fork"
    )
    comparisons: tuple[str, ...] = key(
        "between the replicates of every cell, on all training examples: model_similarity, disagreement",
        each(anything),
        decides="grid",
    )
    baselines: tuple[str, ...] = key(
        "forks beside the grid at every sparsity, trained train.num_epochs + fork.constant_num_epochs in "
        "all: prune_at_init, prune_at_end, random_at_init, random_at_end",
        each(anything),
        decides="grid",
    )
    search: str = key(
        "all: every cell; coarse_to_fine: few epochs and sparsities first, then those around the best",
        one_of("all", "coarse_to_fine"),
        decides="execution",
    )
    max_cells: int = key(
        "search=coarse_to_fine: cells (epoch, sparsity) tried of every curve and setting; 0 = no limit",
        within(0),
        decides="execution",
    )


@dataclasses.dataclass(frozen=True)
class SignalSpec:
    """What is measured along the trunk after every epoch."""

    names: tuple[str, ...] = key(
        "fisher_trace, kl_uniform, random_distance, mask_distance, weight_change, gradient_norm, "
        "performance, or module:function",
        each(anything),
        decides="trunk",
    )
    num_examples: int = key("training examples the signals look at; 0 = all", within(0), decides="trunk")
    batch_size: int = key("examples per signal step", within(1, 10**6), decides="trunk")
    augment: bool = key("measure on augmented examples, as paper A's config says", decides="trunk")
    max_overhead_fraction: float = key(
        "signals may take this part of the training time; dearer ones look at fewer examples, or at fewer "
        "epochs; 0 = no limit",
        within(0, 1),
        decides="trunk",
    )
    fisher_estimator: str = key(
        "labels of tr(F): sampled from the model (Eq. 3), exact (sum over classes), "
        "argmax (Eq. 4 read literally), empirical (the data's)",
        decides="trunk",
    )
    fisher_method: str = key(
        "per-example gradients by layerwise (fast) or vmap (reference), or batch: B |batch mean|^2 "
        "(paper A's code; sampled labels only)",
        decides="trunk",
    )
    fisher_layers: str = key("layers summed into fisher_trace; like pruning.layers", decides="trunk")
    mask_criterion: str = key(
        "mask_distance: criterion of the masks compared; like pruning.criteria", decides="trunk"
    )
    mask_scope: str = key("mask_distance: scope of the masks compared; like pruning.scopes", decides="trunk")
    mask_sparsity: float = key(
        "mask_distance: sparsity of the masks compared", within(0, 1, open_high=True), decides="trunk"
    )
    weight_layers: str = key(
        "weights that mask_distance and weight_change follow; like pruning.layers", decides="trunk"
    )
    num_permutations: int = key(
        "random_distance: random matrices compared with, a layer", within(1, 1000), decides="trunk"
    )
    min_eigenvalues: int = key(
        "random_distance: layers with fewer eigenvalues are skipped", within(0), decides="trunk"
    )


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """A whole experiment: one trunk a setting and seed, and every fork of the grid.

    Attributes:
        sweep: which keys take several values; a swept key's own value is its first.
        code: (import path, digest) of the user's code that the keys name; see `references.digest`.
        folder: where that code is looked for beside the Python path; decides nothing.

    Example:
        >>> from configs import digits
        >>> from earlyprune_jax import config
        >>> config.resolve(digits.get_config()).train.num_epochs
        40
    """

    data: DataSpec
    model: ModelSpec
    task: TaskSpec
    train: TrainSpec
    optim: OptimSpec
    schedule: ScheduleSpec
    pruning: PruningSpec
    fork: ForkSpec
    signals: SignalSpec
    sweep: Sweep = Sweep()
    code: tuple[tuple[str, str], ...] = ()
    folder: str = ""

    def value(self, name: str) -> Any:
        """The value of a key, `section.key`."""
        section, leaf = name.split(".")
        return getattr(getattr(self, section), leaf)

    def replace(self, values: Mapping[str, Any]) -> "RunSpec":
        """The spec with some keys changed: `section.key` -> value."""
        sections: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            section, leaf = name.split(".")
            sections.setdefault(section, {})[leaf] = value
        changed = {
            name: dataclasses.replace(getattr(self, name), **leaves) for name, leaves in sections.items()
        }
        return dataclasses.replace(self, **changed)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data: section -> key -> value, tuples as lists; `sweep` where keys are swept."""
        sections = {name: dataclasses.asdict(getattr(self, name)) for name in SECTIONS}
        swept = {"sweep": self.sweep.to_dict()} if self.sweep.keys else {}
        return json.loads(json.dumps(sections | swept))

    def to_message(self) -> dict[str, Any]:
        """Plain JSON data for another process: the config, and the user's code that it names."""
        return {"config": self.to_dict(), "code": dict(self.code), "folder": self.folder}

    def study_id(self) -> str:
        """Eight hex digits of all that decides runs but the grid: grids of one study may share a workdir.

        A swept key counts with its first value, so that a sweep may grow, and the user's code does not count.
        """
        return content_hash(fixed_keys(self.to_dict()))[:8]

    def settings(self) -> tuple[Setting, ...]:
        """Every combination of the swept keys' values, in the order of the config."""
        return self.sweep.settings()

    @functools.cached_property
    def _at(self) -> dict[Setting, "RunSpec"]:
        return {}

    def at(self, setting: Setting) -> "RunSpec":
        """The spec of one setting, in which nothing is swept."""
        if setting not in self._at:
            self._at[setting] = dataclasses.replace(self.replace(dict(setting.values)), sweep=Sweep())
        return self._at[setting]


SECTIONS: dict[str, Any] = {
    field.name: field.type for field in dataclasses.fields(RunSpec) if dataclasses.is_dataclass(field.type)
}
del SECTIONS["sweep"]

KEYS: dict[str, Any] = {
    f"{name}.{field.name}": field
    for name, section in SECTIONS.items()
    for field in dataclasses.fields(section)
}
"""Every config key, `section.key` -> its declaration; `.metadata` holds doc, check and decides."""


def describe_keys() -> str:
    """Every key with its meaning, for --help."""
    width = max(map(len, KEYS)) + 2
    lines = [f"  {name:<{width}}{field.metadata['doc']}" for name, field in KEYS.items()]
    sweep = (
        "several values of a key that decides data, trunks or forks: all combinations, e.g. "
        "--config.sweep.optim.weight_decay=5e-3,5e-4; sweep.rows=[{...}, ...]: values that belong together"
    )
    return "\n".join([*lines, f"  {'sweep.SECTION.KEY':<{width}}{sweep}"])


ONLINE_KEYS = ("fork.trigger", "fork.prune_at", "fork.fallback_epoch")
"""Keys that decide runs with fork.when=trigger, and otherwise only what is replayed over a grid."""


def decides(name: str) -> str:
    """What a key decides: one of `DECIDES`.

    Example:
        >>> decides("optim.weight_decay"), decides("fork.length"), decides("train.eval_batch_size")
        ('trunk', 'fork', 'execution')
    """
    return KEYS[name].metadata["decides"]


def decides_trunk(name: str) -> bool:
    """Whether a key, where it is swept, tells trunks apart."""
    return decides(name) in ("data", "trunk")


def deciding(values: Mapping[str, Any], *kinds: str) -> dict[str, Any]:
    """The keys of a config that decide one of the kinds: `section.key` -> value.

    With fork.when=trigger what a run obeys decides its trunk, and how it is pruned the fork.

    Args:
        values: section -> key -> value, as of `RunSpec.to_dict`.
        kinds: of `DECIDES`.
    """
    is_online = values.get("fork", {}).get("when") == "trigger"
    found = {}
    for name in KEYS:
        kind = decides(name)
        if is_online and name in ONLINE_KEYS:
            kind = "fork" if name == "fork.prune_at" else "trunk"
        section, leaf = name.split(".")
        if kind in kinds and leaf in values.get(section, {}):
            found[name] = values[section][leaf]
    return found


def fixed_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """What all runs of a workdir have in common unless it is swept: `section.key` -> value.

    Args:
        values: as of `RunSpec.to_dict`.
    """
    fixed = deciding(values, "data", "trunk", "fork")
    return fixed | {"fork.when": values.get("fork", {}).get("when")}


def content_hash(value: Any) -> str:
    """The SHA-256 of plain data as canonical JSON, hexadecimal.

    Example:
        >>> content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def from_dict(values: Mapping[str, Any]) -> RunSpec:
    """The inverse of `to_dict`, for values that were valid once: another process's config."""
    sections = {
        name: section(**{leaf: _frozen(value) for leaf, value in values[name].items()})
        for name, section in SECTIONS.items()
    }
    return RunSpec(**sections, sweep=Sweep.from_dict(values.get("sweep", {})))


def from_message(message: Mapping[str, Any]) -> RunSpec:
    """The inverse of `RunSpec.to_message`."""
    code = tuple(sorted(message["code"].items()))
    return dataclasses.replace(from_dict(message["config"]), code=code, folder=message["folder"])


def use_code(spec: RunSpec) -> None:
    """Makes the user's code that a spec names importable, and sees that it is what the spec was made with.

    Raises:
        InvalidInput: the code here is another.
    """
    references.use_folder(spec.folder)
    references.refresh()
    problems = []
    for path, wanted in spec.code:
        found = references.digest(path)
        if found != wanted:
            digests = f"(digest {wanted[:12]}, here {found!s:.12})"
            allowed = f"to be the code that the experiment was started with {digests}"
            problems.append(
                expected("code", path, allowed, "It has changed meanwhile: start the command again.")
            )
    if problems:
        raise InvalidInput(problems)
