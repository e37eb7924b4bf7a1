"""The resolved experiment as frozen data: every config key, its type, range and meaning.

A `RunSpec` is made by `config.resolve` and handed downwards; nothing below reads a
ConfigDict. It has no defaults: a config file shows every key. The same declarations
serve validation, command-line overrides, `--help` and the run id.
"""

import dataclasses
import hashlib
import itertools
import json
from typing import Any

from earlyprune_jax.validate import Check, anything, each, one_of, within

FLOAT32_MAX = 3.4e38
NAMES = each(anything, at_least=1)
"""A check for names that `config_checks` looks up where they are registered."""


def key(doc: str, check: Check = anything, *, axis: bool = False) -> Any:
    """Declares a config key: its meaning and the check its value must pass.

    An axis says which runs there are (or where things lie), not how one of them is trained: it may differ
    from one call to the next in the same workdir, and what has been trained there is not trained again.
    """
    return dataclasses.field(metadata={"doc": doc, "check": check, "axis": axis})


def _only(values: tuple[Any, ...], name: str) -> Any:
    """The value of an axis that has a single one, as in the spec of one setting."""
    if len(values) != 1:
        raise ValueError(f"{name}={values!r} has {len(values)} values; take the spec of one setting first.")
    return values[0]


@dataclasses.dataclass(frozen=True, order=True)
class Setting:
    """What dense runs differ in beside their seed: each model, data fraction and schedule is one."""

    model: str
    train_fraction: float
    schedule: str

    @property
    def slug(self) -> str:
        """The setting as part of a file's name.

        Example:
            >>> Setting("preresnet20", 0.05, "step").slug
            'preresnet20_0.05_step'
        """
        return f"{self.network_slug}_{self.schedule}"

    @property
    def network_slug(self) -> str:
        """Likewise what settings share that differ in their schedule only: network and data.

        Example:
            >>> Setting("preresnet20", 1.0, "step").network_slug
            'preresnet20_1'
        """
        return f"{self.model}_{self.train_fraction:.10g}"


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """Which images, how they are split, how they are shown to the network."""

    name: str = key("digits, cifar10, cifar100, or npz:PATH (x_train, y_train, x_test, y_test)")
    data_dir: str = key(
        "prepared TFDS directory of cifar10 / cifar100; '' = TFDS's default, filled from the archive",
        axis=True,  # where the data lie is not what they are
    )
    num_classes: int = key("number of classes C; labels lie in [0, C)", within(2))
    train_fractions: tuple[float, ...] = key(
        "fractions of the training images used, stratified: trunks of each",
        each(within(0, 1, open_low=True), at_least=1),
        axis=True,
    )
    validation_fraction: float = key(
        "fraction of the training images held out to choose on, stratified; 0 = none",
        within(0, 1, open_high=True),
    )
    test_fraction: float = key(
        "fraction of the test images reported on, stratified; 1 in any result to be compared",
        within(0, 1, open_low=True),
    )
    split_seed: int = key("seed of the subsets and of the validation split", within(0, 2**63))
    crop_padding: int = key("random crop after zero padding by this many pixels; 0 = off", within(0))
    horizontal_flip: bool = key("random horizontal flip")
    mean: tuple[float, ...] = key(
        "per channel, of images scaled to [0, 1]", each(within(0, 1), at_least=1, unique=False)
    )
    std: tuple[float, ...] = key(
        "per channel, of images scaled to [0, 1]", each(within(0, open_low=True), at_least=1, unique=False)
    )

    @property
    def train_fraction(self) -> float:
        """The fraction, in the spec of one setting."""
        return _only(self.train_fractions, "data.train_fractions")


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Which network."""

    names: tuple[str, ...] = key(
        "resnet8 ... resnet110, resnet18, preresnet8 ... preresnet110 and their variants: trunks of each",
        NAMES,
        axis=True,
    )
    width_multiplier: float = key("scales every layer's channels", within(0, 100, open_low=True))

    @property
    def name(self) -> str:
        """The network, in the spec of one setting."""
        return _only(self.names, "model.names")


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """The dense runs (trunks)."""

    seeds: tuple[int, ...] = key("one trunk per seed", each(within(0, 2**32 - 1), at_least=1), axis=True)
    num_epochs: int = key("length T of a trunk in epochs", within(1, 10**6))
    batch_size: int = key("examples per training step", within(1, 10**6))
    eval_batch_size: int = key("examples per evaluation step", within(1, 10**6))
    precision: str = key("compute type of the layers; parameters stay float32", one_of("float32", "bfloat16"))
    keep_checkpoints: str = key(
        "which trunk checkpoints stay on disk: all, or those at fork epochs and the newest",
        one_of("all", "fork_epochs"),
        axis=True,
    )


@dataclasses.dataclass(frozen=True)
class OptimSpec:
    """Stochastic gradient descent with momentum."""

    learning_rate: float = key("the trunk's maximum learning rate", within(0, FLOAT32_MAX, open_low=True))
    momentum: float = key("momentum coefficient; 0 = none", within(0, 1, open_high=True))
    nesterov: bool = key("Nesterov momentum")
    weight_decay: float = key("L2 coefficient added to the gradient", within(0, FLOAT32_MAX))
    weight_decay_on: str = key("all parameters, or kernels only", one_of("all", "kernels"))


@dataclasses.dataclass(frozen=True)
class ScheduleSpec:
    """How the learning rate falls from its maximum."""

    names: tuple[str, ...] = key(
        "exponential, cosine, linear, step or constant: trunks of each", NAMES, axis=True
    )
    per: str = key("the rate changes once an epoch, or every step", one_of("epoch", "step"))
    exponential_decay_rate: float = key("exponential: factor per epoch", within(0, 1, open_low=True))
    end_learning_rate: float = key("cosine, linear: value reached at the end", within(0))
    step_boundaries_epochs: tuple[int, ...] = key(
        "step: 0-based epochs at whose start the rate is multiplied", each(within(1))
    )
    step_factor: float = key("step: the factor at each boundary", within(0, 1, open_low=True))

    @property
    def name(self) -> str:
        """The schedule, in the spec of one setting."""
        return _only(self.names, "schedule.names")


@dataclasses.dataclass(frozen=True)
class PruningSpec:
    """What a fork removes. Tuples are axes of the grid."""

    criteria: tuple[str, ...] = key(
        "scores that decide which weights stay: magnitude, random, fisher, obd, taylor, grasp",
        NAMES,
        axis=True,
    )
    scopes: tuple[str, ...] = key(
        "global: one ranking over all prunable weights; local: the same ratio in each layer; "
        "uniform: local, with the total exact; erk, lamp: docs/pruning.md",
        NAMES,
        axis=True,
    )
    sparsities: tuple[float, ...] = key(
        "fractions of the prunable weights removed",
        each(within(0, 1, open_high=True), at_least=1),
        axis=True,
    )
    layers: str = key(
        "prunable kernels: conv_kernels, dense_kernels, all_kernels, or regex:PATTERN on the path"
    )


@dataclasses.dataclass(frozen=True)
class ForkSpec:
    """When forks leave the trunk, and how they train on. Tuples are axes of the grid."""

    when: str = key(
        "epochs: a grid of forks at fork.epochs; trigger: every run watches its own signals and prunes "
        "itself once fork.trigger fires, within train.num_epochs",
        one_of("epochs", "trigger"),
    )
    epochs: tuple[int, ...] = key(
        "trunk epochs t after which forks are pruned (when=epochs)", each(within(0)), axis=True
    )
    trigger: str = key(
        "a rule such as peak(fisher_trace, patience=3); obeyed with when=trigger, and always among the rules "
        "that are replayed over a finished grid"
    )
    prune_at: str = key(
        "when=trigger, once it fires: prune now, or rewind to the checkpoint of the epoch that the rule "
        "marks (a peak is known only epochs later)",
        one_of("now", "rewind"),
    )
    fallback_epoch: int = key(
        "when=trigger: prune after this epoch if nothing has fired by then; 0 = stay dense", within(0)
    )
    rules: tuple[str, ...] = key(
        "learning-rate rules of the forks: paper_a, matched_anneal, continue, constant, matched_budget",
        NAMES,
        axis=True,
    )
    num_replicates: int = key(
        "forks of every cell, each with its own data order", within(1, 10**6), axis=True
    )
    constant_learning_rate: float = key(
        "rules constant and matched_budget: the rate", within(0, FLOAT32_MAX, open_low=True)
    )
    constant_num_epochs: int = key(
        "rules constant and matched_budget: epochs trained at that rate", within(1, 10**6)
    )
    comparisons: tuple[str, ...] = key(
        "between the replicates of every cell, on all training images: model_similarity, disagreement",
        each(anything),
        axis=True,
    )
    baselines: tuple[str, ...] = key(
        "forks beside the grid at every sparsity, trained train.num_epochs + fork.constant_num_epochs in "
        "all: prune_at_init, prune_at_end, random_at_init, random_at_end",
        each(anything),
        axis=True,
    )
    search: str = key(
        "all: every cell; coarse_to_fine: few epochs and sparsities first, then those around the best",
        one_of("all", "coarse_to_fine"),
        axis=True,
    )
    max_cells: int = key(
        "search=coarse_to_fine: cells (epoch, sparsity) tried of every curve and setting; 0 = no limit",
        within(0),
        axis=True,
    )


@dataclasses.dataclass(frozen=True)
class SignalSpec:
    """What is measured along the trunk after every epoch."""

    names: tuple[str, ...] = key(
        "fisher_trace, kl_uniform, random_distance, mask_distance, weight_change, gradient_norm, performance",
        each(anything),
    )
    num_examples: int = key("training images the signals are measured on; 0 = all", within(0))
    batch_size: int = key("examples per signal step", within(1, 10**6))
    augment: bool = key("measure on augmented images, as paper A's config says")
    max_overhead_fraction: float = key(
        "signals may take this part of the training time; dearer ones look at fewer images, or at fewer "
        "epochs; 0 = no limit",
        within(0, 1),
    )
    fisher_estimator: str = key(
        "labels of tr(F): sampled from the model (Eq. 3), exact (sum over classes), "
        "argmax (Eq. 4 read literally), empirical (the data's)",
    )
    fisher_method: str = key(
        "per-example gradients by layerwise (fast) or vmap (reference), or batch: B |batch mean|^2 "
        "(paper A's code; sampled labels only)",
    )
    fisher_layers: str = key("layers summed into fisher_trace; like pruning.layers")
    num_permutations: int = key("random_distance: random matrices compared with, a layer", within(1, 1000))
    min_eigenvalues: int = key("random_distance: layers with fewer eigenvalues are skipped", within(0))


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """A whole experiment: one trunk a setting and seed, and every fork of the grid.

    Example:
        >>> from configs import digits
        >>> from earlyprune_jax import config
        >>> config.resolve(digits.get_config()).train.num_epochs
        40
    """

    data: DataSpec
    model: ModelSpec
    train: TrainSpec
    optim: OptimSpec
    schedule: ScheduleSpec
    pruning: PruningSpec
    fork: ForkSpec
    signals: SignalSpec

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data: section -> key -> value, tuples as lists."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def fixed(self) -> dict[str, Any]:
        """`to_dict` without what is no part of a study's identity: see `fixed_keys`."""
        return fixed_keys(self.to_dict())

    def study_id(self) -> str:
        """Eight hex digits for `fixed`: two grids that differ in their axes only belong to one study."""
        return content_hash(self.fixed())[:8]

    def settings(self) -> tuple["Setting", ...]:
        """Every model, data fraction and schedule, as they are listed in the config."""
        axes = (self.model.names, self.data.train_fractions, self.schedule.names)
        return tuple(Setting(*values) for values in itertools.product(*axes))

    def at(self, setting: "Setting") -> "RunSpec":
        """The spec of one setting: its model, data fraction and schedule are the only ones."""
        return dataclasses.replace(
            self,
            model=dataclasses.replace(self.model, names=(setting.model,)),
            data=dataclasses.replace(self.data, train_fractions=(setting.train_fraction,)),
            schedule=dataclasses.replace(self.schedule, names=(setting.schedule,)),
        )


SECTIONS: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(RunSpec)}
"""Section -> its dataclass."""


ONLINE_KEYS = ("trigger", "prune_at", "fallback_epoch")
"""Keys of section fork that decide no number of a grid of forks: only what is replayed over it."""


def fixed_keys(config: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What all runs of a workdir have in common: a config's plain data without its axes.

    Where forks are planned (fork.when=epochs), what a run that prunes itself would obey is left out too.
    """
    is_grid = config.get("fork", {}).get("when") == "epochs"
    left_out = {name: _axis_keys(section) for name, section in SECTIONS.items()}
    left_out["fork"] |= set(ONLINE_KEYS if is_grid else ())
    return {
        name: {leaf: value for leaf, value in keys.items() if leaf not in left_out.get(name, ())}
        for name, keys in config.items()
    }


def _axis_keys(section: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(section) if field.metadata["axis"]}


def content_hash(value: Any) -> str:
    """The SHA-256 of plain data as canonical JSON, hexadecimal.

    Example:
        >>> content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def from_dict(values: dict[str, dict[str, Any]]) -> RunSpec:
    """The inverse of `to_dict`, for values that were valid once: another process's config."""
    return RunSpec(
        **{
            name: section(
                **{
                    leaf: tuple(value) if isinstance(value, list) else value
                    for leaf, value in values[name].items()
                }
            )
            for name, section in SECTIONS.items()
        }
    )
