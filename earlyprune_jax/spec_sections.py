"""The sections of a config: every key, its type, range, meaning, and what it decides."""

import dataclasses
import inspect
import re
import typing
from typing import Any

from earlyprune_jax.validate import Check, anything, each, fraction, one_of, within

WIDTHS = within(0.001, 100)
"""What a width multiplier may be."""

FLOAT32_LEAST, FLOAT32_MAX = 1.2e-38, 3.4e38
"""About the smallest and the largest number above 0 that float32 holds at full precision."""
NAMES = each(anything, at_least=1)
"""A check for names that `config_checks` looks up where they are registered."""

SCALES = ("full", "short", "smoke")
"""How large a figure's runs are: as published, what two cores can pay, seconds for tests."""

SWEPT_BY = {
    "grid": "It is a list already, or chooses the kind of grid: give all its values there.",
    "replay": "It decides no run: replay other rules with earlyprune rules DIR --rule TEXT.",
    "execution": "It only decides how work is carried out: every value gives the same runs.",
}
"""What a key decides -> why it cannot be swept.

A key decides which examples there are ("data"), how a dense run trains or what is measured along it
("trunk"), how a pruned run is made and trained ("fork"), which runs there are ("grid"), what is
replayed over finished runs ("replay"), or how work is carried out ("execution"). Only data, trunk
and fork enter a run's identity, and only they can be swept.
"""


def key(check: Check = anything, *, decides: str, names_code: bool = False) -> Any:
    """Declares a config key; its meaning stands in the docstring of its section.

    Args:
        check: what its value must pass.
        decides: data, trunk, fork, grid, replay or execution; see `SWEPT_BY`.
        names_code: whether it may name the user's code.

    Returns:
        The field of a dataclass.
    """

    def checked(value: Any) -> str | None:
        return check(value) or _float32(value)

    metadata = {"check": checked, "decides": decides, "names_code": names_code}
    return dataclasses.field(metadata=metadata)


def _float32(value: Any) -> str | None:
    """Allows numbers, single or in a tuple, that JAX takes neither for 0 nor for infinite."""
    values = value if isinstance(value, tuple) else (value,)
    sizes = [abs(number) for number in values if isinstance(number, float) and number]
    if all(FLOAT32_LEAST <= size <= FLOAT32_MAX for size in sizes):
        return None
    return f"to be what float32 holds: 0, or {FLOAT32_LEAST} to {FLOAT32_MAX} in size"


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """Which examples, how they are split, how images are shown to the network.

    Attributes:
        name: digits, cifar10, cifar100, npz:PATH (x_train, y_train, x_test, y_test), folder:PATH
            (train/CLASS/, test/CLASS/), text(path='DIR'), numerals, wmt14, or module:function
            returning arrays
        data_dir: prepared TFDS directory of cifar10 / cifar100 / wmt14; '' = TFDS's default, where
            CIFAR is filled from the archive
        num_classes: number of classes C, labels lie in [0, C); 0 = data without classes
        train_fraction: fraction of the training examples used, stratified
        validation_fraction: fraction of the training examples held out to choose on, stratified; 0
            = none
        test_fraction: fraction of the test examples reported on, stratified; 1 in any result to be
            compared
        split_seed: seed of the subsets and of the validation split
        image_size: pixels of a side that images are averaged down to; 0 = as they are
        crop_padding: random crop after zero padding by this many pixels; 0 = off
        horizontal_flip: random horizontal flip
        mean: per channel, of images scaled to [0, 1]; empty = computed from the training images
        std: per channel, of images scaled to [0, 1]; empty = computed from the training images
    """

    name: str = key(decides="data", names_code=True)
    data_dir: str = key(decides="execution")  # where the data lie is not what they are
    num_classes: int = key(within(0, 10**6), decides="data")
    train_fraction: float = key(fraction(open_low=True), decides="data")
    validation_fraction: float = key(fraction(open_high=True), decides="data")
    test_fraction: float = key(fraction(open_low=True), decides="data")
    split_seed: int = key(within(0, 2**63), decides="data")
    image_size: int = key(within(0), decides="data")
    crop_padding: int = key(within(0), decides="data")
    horizontal_flip: bool = key(decides="data")
    mean: tuple[float, ...] = key(each(within(0, 1), unique=False), decides="data")
    std: tuple[float, ...] = key(each(within(1e-6, 1e6), unique=False), decides="data")


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Which network.

    Attributes:
        name: resnet8 ... resnet110, resnet18, preresnet8 ... preresnet110 and their variants;
            transformer (with arguments if wanted: transformer(num_layers=2, norm='post')); or
            module:Class of a Linen module
        width_multiplier: scales every layer's channels
    """

    name: str = key(decides="trunk", names_code=True)
    width_multiplier: float = key(WIDTHS, decides="trunk")


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """What is learnt.

    Attributes:
        name: classification, translation (of data.name=text(...) and the like), or
            module:function that makes a Task
    """

    name: str = key(decides="trunk", names_code=True)


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """The dense runs (trunks).

    Attributes:
        seeds: one trunk per seed; none: nothing is trained
        num_epochs: length T of a trunk in epochs
        batch_size: examples per training step
        eval_batch_size: examples per evaluation step
        precision: compute type of the layers; parameters stay float32
        keep_checkpoints: which trunk checkpoints stay on disk: all, or those at fork epochs and the
            newest
    """

    seeds: tuple[int, ...] = key(each(within(0, 2**32 - 1)), decides="grid")
    num_epochs: int = key(within(1, 10**6), decides="trunk")
    batch_size: int = key(within(1, 10**6), decides="trunk")
    eval_batch_size: int = key(within(1, 10**6), decides="execution")
    precision: str = key(one_of("float32", "bfloat16"), decides="trunk")
    keep_checkpoints: str = key(one_of("all", "fork_epochs"), decides="execution")


@dataclasses.dataclass(frozen=True)
class OptimSpec:
    """The optimizer; its learning rate is the schedule's.

    Attributes:
        name: sgd, adam, adamw (with arguments if wanted: adam(b2=0.98)), or module:factory of an
            Optax transformation; '' = the task's
        learning_rate: the trunk's maximum learning rate
        momentum: sgd: momentum coefficient; 0 = none
        nesterov: sgd: Nesterov momentum
        weight_decay: sgd, adam: L2 coefficient added to the gradient; adamw: decoupled
        weight_decay_on: all parameters, or kernels only
    """

    name: str = key(decides="trunk", names_code=True)
    learning_rate: float = key(within(0, FLOAT32_MAX, open_low=True), decides="trunk")
    momentum: float = key(within(0, 1, open_high=True), decides="trunk")
    nesterov: bool = key(decides="trunk")
    weight_decay: float = key(within(0, FLOAT32_MAX), decides="trunk")
    weight_decay_on: str = key(one_of("all", "kernels"), decides="trunk")


@dataclasses.dataclass(frozen=True)
class ScheduleSpec:
    """How the learning rate falls from its maximum.

    Attributes:
        name: exponential, cosine, linear, step, constant, inverse_sqrt, or module:function
        per: the rate changes once an epoch, or every step
        exponential_decay_rate: exponential: factor per epoch
        end_learning_rate: cosine, linear: value reached at the end
        step_boundaries_epochs: step: 0-based epochs at whose start the rate is multiplied
        step_factor: step: the factor at each boundary
        warmup_steps: inverse_sqrt: training steps up to the maximum
    """

    name: str = key(decides="trunk", names_code=True)
    per: str = key(one_of("epoch", "step"), decides="trunk")
    exponential_decay_rate: float = key(within(0, 1, open_low=True), decides="trunk")
    end_learning_rate: float = key(within(0), decides="trunk")
    step_boundaries_epochs: tuple[int, ...] = key(each(within(1)), decides="trunk")
    step_factor: float = key(within(0, 1, open_low=True), decides="trunk")
    warmup_steps: int = key(within(1, 10**9), decides="trunk")


@dataclasses.dataclass(frozen=True)
class PruningSpec:
    """What a fork removes. Tuples are axes of the grid.

    Attributes:
        criteria: scores that decide which weights stay: magnitude, random, fisher, obd, taylor,
            grasp (with arguments if wanted: fisher(estimator='exact')), or module:function
        scopes: global: one ranking over all prunable weights; local: the same ratio in each layer;
            uniform: local, with the total exact; erk, lamp: docs/pruning.md; or module:function
        sparsities: fractions of the prunable weights removed
        layers: prunable weights: conv_kernels, dense_kernels, all_kernels, or regex:PATTERN on the
            path; '' = the task's
        num_examples: training examples that data-driven criteria look at; 0 = all
        batch_size: examples per batch of data-driven criteria
    """

    criteria: tuple[str, ...] = key(NAMES, decides="grid", names_code=True)
    scopes: tuple[str, ...] = key(NAMES, decides="grid", names_code=True)
    sparsities: tuple[float, ...] = key(each(fraction(open_high=True), at_least=1), decides="grid")
    layers: str = key(decides="fork")
    num_examples: int = key(within(0), decides="fork")
    batch_size: int = key(within(1, 10**6), decides="fork")


@dataclasses.dataclass(frozen=True)
class ForkSpec:
    """When forks leave the trunk, and how they train on. Tuples are axes of the grid.

    Attributes:
        when: epochs: a grid of forks at fork.epochs; trigger: every run watches its own signals and
            prunes itself once fork.trigger fires, within train.num_epochs
        epochs: trunk epochs t after which forks are pruned (when=epochs)
        trigger: a rule such as peak(fisher_trace, smoothing=5) or module:Rule(...); obeyed with
            when=trigger, and always among the rules that are replayed over a finished grid
        prune_at: when=trigger, once it fires: prune now, or rewind to the checkpoint of the epoch
            that the rule marks (a peak is known only epochs later)
        fallback_epoch: when=trigger: prune after this epoch if nothing has fired by then; 0 = stay
            dense
        retraining: how forks are retrained: paper_a, matched_anneal, continue, constant,
            matched_budget; custom = by fork.length and fork.rates; or module:function
        length: retraining custom: epochs a fork trains; 0 = what remains of the trunk's
        rates: retraining custom: the fork's learning rates: eq6, matched_anneal, continue,
            restart, constant
        num_replicates: forks of every cell, each with its own data order
        constant_learning_rate: retraining constant and matched_budget, and rates constant: the rate
        constant_num_epochs: retraining constant and matched_budget: epochs trained at that rate
        comparisons: between the replicates of every cell, on all training examples:
            model_similarity, disagreement
        baselines: forks beside the grid at every sparsity, trained train.num_epochs +
            fork.constant_num_epochs in all: prune_at_init, prune_at_end, random_at_init,
            random_at_end
        search: all: every cell; coarse_to_fine: few epochs and sparsities first, then those around
            the best
        max_cells: search=coarse_to_fine: cells (epoch, sparsity) tried of every curve and setting;
            0 = no limit
    """

    when: str = key(one_of("epochs", "trigger"), decides="grid")
    epochs: tuple[int, ...] = key(each(within(0)), decides="grid")
    trigger: str = key(decides="replay", names_code=True)
    prune_at: str = key(one_of("now", "rewind"), decides="replay")
    fallback_epoch: int = key(within(0), decides="replay")
    retraining: tuple[str, ...] = key(NAMES, decides="grid", names_code=True)
    length: int = key(within(0, 10**6), decides="fork")
    rates: str = key(decides="fork")
    num_replicates: int = key(within(1, 10**6), decides="grid")
    constant_learning_rate: float = key(within(0, FLOAT32_MAX, open_low=True), decides="fork")
    constant_num_epochs: int = key(within(1, 10**6), decides="fork")
    comparisons: tuple[str, ...] = key(each(anything), decides="grid")
    baselines: tuple[str, ...] = key(each(anything), decides="grid")
    search: str = key(one_of("all", "coarse_to_fine"), decides="execution")
    max_cells: int = key(within(0), decides="execution")


@dataclasses.dataclass(frozen=True)
class SignalSpec:
    """What is measured along the trunk after every epoch.

    Attributes:
        names: fisher_trace, kl_uniform, random_distance, mask_distance, weight_change,
            gradient_norm, performance, or module:function
        num_examples: training examples the signals look at; 0 = all
        batch_size: examples per signal step
        augment: measure on augmented examples, as paper A's config says
        max_overhead_fraction: signals may take this part of the training time; dearer ones look at
            fewer examples, or at fewer epochs; 0 = no limit
        fisher_estimator: labels of tr(F): sampled from the model (Eq. 3), exact (sum over classes),
            argmax (Eq. 4 read literally), empirical (the data's)
        fisher_method: per-example gradients by layerwise (fast) or vmap (reference), or batch: B
            |batch mean|^2 (paper A's code; sampled labels only)
        fisher_layers: layers summed into fisher_trace; like pruning.layers
        mask_criterion: mask_distance: criterion of the masks compared; like pruning.criteria
        mask_scope: mask_distance: scope of the masks compared; like pruning.scopes
        mask_sparsity: mask_distance: sparsity of the masks compared
        weight_layers: weights that mask_distance and weight_change follow; like pruning.layers
        num_permutations: random_distance: random matrices compared with, a layer
        min_eigenvalues: random_distance: layers with fewer eigenvalues are skipped
    """

    names: tuple[str, ...] = key(each(anything), decides="trunk", names_code=True)
    num_examples: int = key(within(0), decides="trunk")
    batch_size: int = key(within(1, 10**6), decides="trunk")
    augment: bool = key(decides="trunk")
    max_overhead_fraction: float = key(fraction(), decides="trunk")
    fisher_estimator: str = key(decides="trunk")
    fisher_method: str = key(decides="trunk")
    fisher_layers: str = key(decides="trunk")
    mask_criterion: str = key(decides="trunk", names_code=True)
    mask_scope: str = key(decides="trunk", names_code=True)
    mask_sparsity: float = key(fraction(open_high=True), decides="trunk")
    weight_layers: str = key(decides="trunk")
    num_permutations: int = key(within(1, 1000), decides="trunk")
    min_eigenvalues: int = key(within(0), decides="trunk")


@dataclasses.dataclass(frozen=True)
class FigureSpec:
    """Which published figure a study is of. Decides no run.

    Attributes:
        name: its paper and number, such as A 6b: its runs have tables and figures of their own,
            in figures/; '' = of none
        scale: full: as published; short, smoke: shrunken by --scale, which sets this and the next
        changed: keys that --scale has changed, with both values
        varied: keys in which figures of one workdir may differ; all others are the same there
    """

    name: str = key(decides="execution")
    scale: str = key(one_of(*SCALES), decides="execution")
    changed: tuple[str, ...] = key(each(anything), decides="execution")
    varied: tuple[str, ...] = key(each(anything), decides="execution")


@dataclasses.dataclass(frozen=True)
class Sections:
    """All sections of a config."""

    data: DataSpec
    model: ModelSpec
    task: TaskSpec
    train: TrainSpec
    optim: OptimSpec
    schedule: ScheduleSpec
    pruning: PruningSpec
    fork: ForkSpec
    signals: SignalSpec
    figure: FigureSpec


SECTIONS: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Sections)}
"""Section -> its dataclass."""

KEYS: dict[str, Any] = {
    f"{name}.{field.name}": field
    for name, section in SECTIONS.items()
    for field in dataclasses.fields(section)
}
"""Every config key, `section.key` -> its declaration; `.metadata` holds what `key` was given."""

REFERENCES = tuple(name for name, field in KEYS.items() if field.metadata["names_code"])
"""Keys that may name the user's code."""

MEANINGS: dict[str, str] = {
    f"{section}.{name}": " ".join(meaning.split())
    for section, declared in SECTIONS.items()
    for name, meaning in re.findall(
        # Python 3.13 keeps docstrings without the indentation they have in the source.
        r"^ {4}(\w+): (.+(?:\n {8}.+)*)",
        inspect.cleandoc(declared.__doc__ or ""),
        re.MULTILINE,
    )
}
"""Every config key, `section.key` -> what the docstring of its section says of it."""


def decides(name: str) -> str:
    """Tells what a key decides; see `SWEPT_BY`.

    Example:
        >>> decides("optim.weight_decay"), decides("fork.length"), decides("train.eval_batch_size")
        ('trunk', 'fork', 'execution')
    """
    return KEYS[name].metadata["decides"]


def type_name(kind: Any) -> str:
    """Says what a key's value must be.

    Example:
        >>> type_name(bool), type_name(tuple[int, ...])
        ('true or false', 'whole numbers separated by commas')
    """
    if typing.get_origin(kind) is tuple:
        plural = {int: "whole numbers", float: "numbers", str: "names"}
        return f"{plural[typing.get_args(kind)[0]]} separated by commas"
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]
