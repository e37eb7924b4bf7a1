"""Seeded draws from a source: its splits, and the batches of an epoch.

Splits have exact totals, and every class is within one example of its share.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from earlyprune_jax.array_types import Array, PRNGKey
from earlyprune_jax.data.source import Source, num_examples, take
from earlyprune_jax.spec_sections import DataSpec
from earlyprune_jax.validate import unexpected

_VALIDATION, _SUBSET, _TEST = 0, 1, 2
"""What is drawn: each has its own random numbers."""


def class_shares(class_counts: ArrayLike, fraction: float) -> np.ndarray:
    """Counts how many of each class make up `fraction` of all, by largest remainder.

    With N = sum(class_counts) and m = round(fraction * N), class c's quota is
    m * class_counts[c] / N. Every class gets its quota rounded down; the examples still
    missing from m go one each to the classes with the largest remainders, ties to the
    lower class. Integer arithmetic throughout. `round` is Python's: halves go to the
    even number.

    Args:
        class_counts: examples of each class, [C].
        fraction: in [0, 1].

    Returns:
        int64 [C], summing to round(fraction * N), each within 1 of its quota.

    Example:
        >>> class_shares([10, 10, 5], 0.3).tolist()
        [3, 3, 2]
    """
    counts = np.asarray(class_counts, np.int64)
    num_all = int(counts.sum())
    if num_all == 0:
        return np.zeros_like(counts)
    num_chosen = round(fraction * num_all)
    shares, remainders = np.divmod(num_chosen * counts, num_all)
    order = np.argsort(-remainders, kind="stable")
    shares[order[: num_chosen - shares.sum()]] += 1
    return shares


def stratified_split(
    labels: np.ndarray, fraction: float, seed: int | Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draws round(fraction * N) of N examples, each class by its share; the rest stay behind.

    Every example draws a 64-bit number from PCG64(seed); class c gives the examples with
    its `class_shares(...)[c]` smallest. NumPy promises the raw stream of a bit generator
    for good (not so the methods of `Generator`), so a split outlives NumPy's versions.

    A function of (labels, fraction, seed) only. The two parts are disjoint and cover
    everything.

    Args:
        labels: int [N], >= 0.
        fraction: of the examples to draw, in [0, 1].
        seed: one number >= 0, or several.

    Returns:
        (drawn, rest): ascending int64 index arrays of lengths round(fraction * N) and
        N - round(fraction * N).

    Example:
        >>> drawn, rest = stratified_split(np.array([0, 0, 1, 1, 0, 0, 1, 1]), 0.5, seed=0)
        >>> len(drawn), len(rest), np.intersect1d(drawn, rest).size
        (4, 4, 0)
    """
    labels = np.asarray(labels)
    shares = class_shares(np.bincount(labels), fraction)
    numbers = np.random.PCG64(seed).random_raw(len(labels))
    # Sorted by class, then by number: a class's rows are consecutive, best first.
    order = np.lexsort((numbers, labels))
    starts = np.searchsorted(labels[order], np.arange(len(shares)))
    rank_in_class = np.arange(len(labels)) - starts[labels[order]]
    is_drawn = np.zeros(len(labels), bool)
    is_drawn[order] = rank_in_class < shares[labels[order]]
    return np.flatnonzero(is_drawn), np.flatnonzero(~is_drawn)


def training_shares(source: Source, spec: DataSpec) -> tuple[np.ndarray, np.ndarray]:
    """Counts the examples of each stratum in the validation split and in the training subset.

    Args:
        source: a source or its outline.
        spec: the data section.

    Returns:
        (validation, train): int64 [number of strata] each.
    """
    counts = np.bincount(source.strata_of("train"))
    validation = class_shares(counts, spec.validation_fraction)
    return validation, class_shares(counts - validation, spec.train_fraction)


def drawn_from(source: Source, spec: DataSpec) -> dict[str, tuple[Any, int]]:
    """Tells what a run sees of a source, without drawing it.

    Args:
        source: a source or its outline.
        spec: the data section.

    Returns:
        Split -> (the rows that its examples are taken from, how many): train, test, and validation
        if it is not empty.
    """
    held, used = (int(shares.sum()) for shares in training_shares(source, spec))
    own, num_test = source.validation, num_examples(source.test)
    validation = (source.train, held) if own is None else (own, num_examples(own))
    test = (source.test, round(spec.test_fraction * num_test))
    parts = {"train": (source.train, used), "validation": validation, "test": test}
    return {name: part for name, part in parts.items() if part[1]}


def usage(source: Source, spec: DataSpec) -> str:
    """Says how many examples of a source a run sees, what leaves out the others, which labels
    occur in training where they are fewer than the declared classes, and the source's remarks.

    Args:
        source: a source or its outline.
        spec: the data section.

    Returns:
        A sentence.

    Example:
        >>> rows = {"images": np.zeros((10, 8, 8, 1)), "labels": np.repeat([0, 1], 5)}
        >>> spec = DataSpec("npz:a", "", 2, 0.5, 0.2, 1.0, 0, 0, 0, False, (), ())
        >>> print(*usage(Source(rows, rows), spec).split(", "), sep="\\n")
        Data npz:a: 4 of 10 training images (2 for validation
        data.train_fraction=0.5 of the others)
        all 10 test images.
        >>> spec = DataSpec("npz:a", "", 10, 1.0, 0.0, 1.0, 0, 0, 0, False, (), ())
        >>> usage(Source(rows, rows), spec).partition("; ")[2]
        '2 classes occur, labels 0 to 1, of data.num_classes=10.'
    """
    noun = "images" if source.holds_images else "examples"
    drawn = {name: num for name, (_, num) in drawn_from(source, spec).items()}
    held = 0 if source.validation is not None else drawn.get("validation", 0)
    reasons = [f"{held:,} for validation"] if held else []
    if spec.train_fraction < 1:
        others = " of the others" if held else ""
        reasons.append(f"data.train_fraction={spec.train_fraction:g}{others}")
    parts = [_part(drawn["train"], num_examples(source.train), f"training {noun}", reasons)]
    if source.validation is not None:
        parts.append(_part(drawn["validation"], drawn["validation"], f"validation {noun}", ()))
    reasons = [f"data.test_fraction={spec.test_fraction:g}"]
    parts.append(_part(drawn["test"], num_examples(source.test), f"test {noun}", reasons))
    remarks = [*_missing_classes(source, spec), *source.remarks]
    return f"Data {spec.name}: {'; '.join([', '.join(parts), *remarks])}."


def _missing_classes(source: Source, spec: DataSpec) -> list[str]:
    found = np.unique(source.train["labels"]) if source.holds_images else np.arange(0)
    if not 0 < len(found) < spec.num_classes:
        return []
    labels = f"labels {found[0]} to {found[-1]}"
    return [f"{len(found)} classes occur, {labels}, of data.num_classes={spec.num_classes}"]


def _part(number: int, of_all: int, noun: str, reasons: Sequence[str]) -> str:
    if number == of_all:
        return f"all {number:,} {noun}"
    return f"{number:,} of {of_all:,} {noun} ({', '.join(reasons)})"


def split(source: Source, spec: DataSpec) -> dict[str, Any]:
    """Draws what a run sees of a source.

    The validation split is drawn first, from all training examples, so it is the same for
    every data fraction; the subset is drawn from what remains. Both are stratified, where the
    source has strata, and seeded by `split_seed` alone. A validation split that the source brings
    is used whole. Of the test set, `test_fraction` is kept; it gives nothing to the other splits.
    Examples keep the order of their source.

    Args:
        source: of `read`.
        spec: the data section.

    Returns:
        Split -> pytree of read-only arrays: train, test, and validation if it is not empty.
    """

    def draw(strata: np.ndarray, fraction: float, purpose: int) -> tuple[np.ndarray, np.ndarray]:
        return stratified_split(strata, fraction, (spec.split_seed, purpose))

    strata = source.strata_of("train")
    validation, rest = draw(strata, spec.validation_fraction, _VALIDATION)
    used, _ = draw(strata[rest], spec.train_fraction, _SUBSET)
    reported, _ = draw(source.strata_of("test"), spec.test_fraction, _TEST)
    if source.validation is not None:
        validation = np.arange(num_examples(source.validation))
    numbers = {"train": rest[used], "validation": validation, "test": reported}
    parts = drawn_from(source, spec)
    return {name: take(rows, numbers[name]) for name, (rows, _) in parts.items()}


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Returns num_examples // batch_size: only full batches are trained on.

    Raises:
        InvalidInput: there is no full batch, or `batch_size` is below 1.

    Example:
        >>> steps_per_epoch(50_000, 128)
        390
    """
    if not 1 <= batch_size <= num_examples:
        raise unexpected(
            "train.batch_size",
            batch_size,
            f"in [1, {num_examples}]",
            f"There are {num_examples} training examples and a step takes a full batch.",
        )
    return num_examples // batch_size


def epoch_order(key: PRNGKey, epoch: Array | int, num_examples: int, batch_size: int) -> Array:
    """Draws the row indices of an epoch's batches: a fresh permutation, cut into full batches.

    A function of (key, epoch) alone, so a run that starts again in epoch e needs no
    earlier epoch. No index occurs twice in an epoch. The num_examples % batch_size
    indices at the end of the permutation sit the epoch out, others each time (PyTorch's
    `drop_last=True`): one batch shape means one compilation.

    Args:
        key: of the run's data order.
        epoch: 0-based; may be traced.
        num_examples: static.
        batch_size: static, at most `num_examples`.

    Returns:
        int32 [steps_per_epoch, batch_size], in [0, num_examples).

    Raises:
        InvalidInput: there is no full batch.

    Example:
        >>> epoch_order(jax.random.PRNGKey(0), 3, num_examples=10, batch_size=4).shape
        (2, 4)
    """
    num_steps = steps_per_epoch(num_examples, batch_size)
    permutation = jax.random.permutation(jax.random.fold_in(key, epoch), num_examples)
    return permutation[: num_steps * batch_size].reshape(num_steps, batch_size).astype(jnp.int32)
