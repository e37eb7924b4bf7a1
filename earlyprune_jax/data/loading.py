"""From a DataSpec to a Dataset: check it, count it, load it."""

from types import ModuleType

import numpy as np

from earlyprune_jax.data import cifar, digits, npz
from earlyprune_jax.data.dataset import Dataset, Facts, Sizes, Source, Split
from earlyprune_jax.data.splits import class_shares, stratified_split
from earlyprune_jax.spec import DataSpec
from earlyprune_jax.validate import InvalidInput, expected, unknown_choice

CHOICES = ("digits", "cifar10", "cifar100", "npz:PATH")
_MODULES: dict[str, ModuleType] = {"digits": digits, "cifar10": cifar, "cifar100": cifar}
_VALIDATION, _SUBSET, _TEST = 0, 1, 2


def check(spec: DataSpec) -> list[str]:
    """Every problem of the data section that can be found without reading an image.

    Looks at directories, headers and labels; writes nothing and downloads nothing. Each
    text names the key, its value, what is allowed and the remedy.

    Args:
        spec: the data section, with one data fraction or several; its keys may be out of range.

    Returns:
        The problems; empty if `load` can be expected to work.

    Example:
        >>> from earlyprune_jax.data import check
        >>> spec = DataSpec("digit", "", 10, (1.0,), 0.0, 1.0, 0, 0, False, (0.3,), (0.4,))
        >>> print(*check(spec))
        Expected data.name='digit' to be one of digits, cifar10, cifar100, npz:PATH. Did you mean 'digits'?
    """
    return _examine(spec)[0]


def sizes(spec: DataSpec) -> Sizes:
    """The sizes of what `load(spec)` gives, without reading an image.

    With N training images, round(validation_fraction * N) are held out, and
    round(train_fraction * rest) of the others are used; of the test images
    round(test_fraction * num_test).

    Raises:
        InvalidInput: what `check` finds.

    Example:
        >>> spec = DataSpec("digits", "", 10, (0.5,), 0.1, 1.0, 0, 0, False, (0.3,), (0.4,))
        >>> sizes(spec)
        Sizes(num_train=540, num_validation=120, num_test=597, image_shape=(8, 8, 1))
    """
    facts = _facts(spec)
    validation, train = _shares(spec, facts.class_counts, spec.train_fraction)
    num_test = round(spec.test_fraction * facts.num_test)
    return Sizes(int(train.sum()), int(validation.sum()), num_test, facts.image_shape)


def load(spec: DataSpec) -> Dataset:
    """Reads a data set into memory and splits it.

    Args:
        spec: the data section of one setting.

    Returns:
        The data set; equal specs give equal digests.

    Raises:
        InvalidInput: what `check` finds, files that turn out damaged, or no network for
            a CIFAR that still has to be fetched.

    Example:
        >>> spec = DataSpec("digits", "", 10, (0.5,), 0.1, 1.0, 0, 0, False, (0.3,), (0.4,))
        >>> data = load(spec)
        >>> len(data.train), len(data.validation), len(data.test)
        (540, 120, 597)
    """
    return split(read(spec), spec)


def read(spec: DataSpec) -> Source:
    """Reads a data set into memory as its makers split it: the same for every data fraction.

    Raises:
        InvalidInput: as `load`.
    """
    problems, _ = _examine(spec)
    module = _module(spec.name)
    if problems or module is None:
        raise InvalidInput(problems)
    source = module.load(spec)
    counts = np.bincount(source.train.labels, minlength=spec.num_classes)
    facts = Facts(tuple(counts.tolist()), len(source.test), source.train.images.shape[1:])
    # Once more, on what was read: a directory prepared meanwhile may hold other classes.
    if problems := _fraction_problems(spec, facts):
        raise InvalidInput(problems)
    return source


def split(source: Source, spec: DataSpec) -> Dataset:
    """What a run sees of a source.

    The validation split is drawn first, from all training images, so it is the same for
    every data fraction; the subset is drawn from what remains. Both are stratified
    and seeded by `split_seed` alone. Of the test set, `test_fraction` is kept; it gives
    nothing to the other splits. Images keep the order of their source.

    Args:
        source: of `read`.
        spec: the data section of one setting.
    """
    train, validation = _split(spec, source.train)
    reported, _ = stratified_split(source.test.labels, spec.test_fraction, (spec.split_seed, _TEST))
    test = source.test if len(reported) == len(source.test) else source.test.take(reported)
    return Dataset(spec.name, spec.num_classes, train, validation, test, source.class_names)


def _module(name: str) -> ModuleType | None:
    return npz if name.startswith(npz.PREFIX) else _MODULES.get(name)


def _examine(spec: DataSpec) -> tuple[list[str], Facts | None]:
    module = _module(spec.name)
    if module is None:
        return [unknown_choice("data.name", spec.name, CHOICES)], None
    problems, facts = module.inspect(spec)
    if facts is not None:
        problems = [*problems, *_shape_problems(spec, facts), *_fraction_problems(spec, facts)]
    return problems, facts


def _facts(spec: DataSpec) -> Facts:
    problems, facts = _examine(spec)
    if problems or facts is None:
        raise InvalidInput(problems)
    return facts


def _shares(
    spec: DataSpec, class_counts: tuple[int, ...], train_fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Images of each class in the validation split and in the training subset."""
    validation = class_shares(class_counts, spec.validation_fraction)
    return validation, class_shares(np.asarray(class_counts) - validation, train_fraction)


def _split(spec: DataSpec, train: Split) -> tuple[Split, Split | None]:
    held, rest = stratified_split(train.labels, spec.validation_fraction, (spec.split_seed, _VALIDATION))
    used, _ = stratified_split(train.labels[rest], spec.train_fraction, (spec.split_seed, _SUBSET))
    return train.take(rest[used]), train.take(held) if len(held) else None


def _shape_problems(spec: DataSpec, facts: Facts) -> list[str]:
    problems = []
    side, _, channels = facts.image_shape
    for key, values in (("mean", spec.mean), ("std", spec.std)):
        if len(values) != channels:
            allowed = f"to have {channels} number{'s' if channels > 1 else ''}"
            remedy = f"One per channel: images of {spec.name} are {side}x{side}x{channels}."
            problems.append(expected(f"data.{key}", values, allowed, remedy))
    if spec.crop_padding >= side:
        remedy = f"Images of {spec.name} are {side}x{side}; a larger padding can push one out of sight."
        problems.append(expected("data.crop_padding", spec.crop_padding, f"in [0, {side})", remedy))
    return problems


def _fraction_problems(spec: DataSpec, facts: Facts) -> list[str]:
    """Fractions that leave a class without images, though the source has some of it."""
    in_range = 0 <= spec.validation_fraction < 1 and 0 < spec.test_fraction <= 1
    if not in_range or not all(0 < fraction <= 1 for fraction in spec.train_fractions):
        return []  # the key's own range check says so
    problems = []
    if round(spec.test_fraction * facts.num_test) < 1:
        remedy = f"The source has {facts.num_test} test images. Raise it."
        problems.append(expected("data.test_fraction", spec.test_fraction, "to leave a test image", remedy))
    validation, _ = _shares(spec, facts.class_counts, 1.0)
    if spec.validation_fraction > 0:
        problems += _empty_classes("validation_fraction", spec.validation_fraction, validation, facts)
    also = f" or lower data.validation_fraction={spec.validation_fraction:g}" * (spec.validation_fraction > 0)
    for fraction in spec.train_fractions:
        _, train = _shares(spec, facts.class_counts, fraction)
        problems += _empty_classes("train_fractions", fraction, train, facts, also)
    return problems


def _empty_classes(key: str, fraction: float, shares: np.ndarray, facts: Facts, also: str = "") -> list[str]:
    empty = np.flatnonzero((np.asarray(facts.class_counts) > 0) & (shares == 0))
    if not empty.size:
        return []
    remedy = (
        f"It gives {int(shares.sum())} of {sum(facts.class_counts)} images, none of them of "
        f"{empty.size} classes (first: {empty[0]}). Raise it{also}."
    )
    return [expected(f"data.{key}", fraction, "to give every class an image", remedy)]
